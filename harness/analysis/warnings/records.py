"""Checks of the records: what must hold between the numbers of a stage, and its tokens.

Tokens are of the requested number, counted by the server, and seen one by one. Invariants hold whatever was measured:
each is computed a second way, from the rows that `metrics.rows_of_rates` lists, and held against
what the summary shows:

1. Numerators: request rate x length is the number of those rows, and so for tokens and events;
   goodput counts no more of them than there are.
2. Identity: output token rate = request rate x mean output tokens of those rows.
3. Little's law (Little 1961; "L = lambda W") over the part for rates, of length T: requests in
   flight on average = rate at which they leave x mean time in the system of those that left, less
   what these spent there before the part began, plus what those have spent that were still there
   at its end. Both edges are counted, so that it holds to rounding, steady or not. The stage's
   `little.ratio`, in flight / (left x time), lies (after - before) / (left x time) from one: at most
   about the mean time in the system over T in a steady window, where both edges are alike.
4. Events: the tokens of a completed answer's events are the tokens of the answer.

A broken one is a fault of the harness or of its records, never of the engine: nothing of the
stage can be trusted, and the run is invalid.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, StageSummary, request_masks
from harness.analysis.steady_state import OFFLINE, ended_ns
from harness.analysis.token_gaps import tokens_by_row
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import Message, message
from harness.results.request_table import ASSUMED, COMPLETED, FROM_EVENTS, MEASURED, MISSING, Requests
from harness.units import NS_PER_S

LENGTHS_WARNING = 0.01  # of requests
IMPOSSIBLE = 10  # times max_tokens: an extra_body that overrides it, or a hidden thought, stays below
WHOLE_WARNING = 0.1  # of answers: below, it is those that a busy network delivered late
AT_ONCE = 4  # tokens that one step of speculative decoding may bring together
ROUNDING = 1e-9  # of a value; sums of float64 over a million rows stay within


@dataclass(frozen=True, slots=True)
class LittlesLaw:
    """Both sides of Little's law over a stage's part for rates.

    `in_flight` is the mean over time; `left` (per second) and `time_s` the rate at which requests
    left and their mean time in the system; `before` and `after` what those that left spent there
    before the part, and those still there have spent within it, in requests in flight on average.
    """

    in_flight: float
    left: float
    time_s: float
    before: float
    after: float

    @property
    def expected(self) -> float:
        """What `in_flight` has to be."""
        return self.left * self.time_s - self.before + self.after

    @property
    def ratio(self) -> float | None:
        """In flight over rate x time: one in a steady state, but for the edges; None where nothing left."""
        product = self.left * self.time_s
        return self.in_flight / product if product > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it, under a stage's `little`."""
        return {
            "left_rate": self.left,
            "mean_time": self.time_s,
            "before": self.before,
            "after": self.after,
            "ratio": self.ratio,
        }


def littles_law(stage: StageInput, summary: StageSummary) -> LittlesLaw | None:
    """Little's law of a stage; None where its part for rates has no length."""
    window, r = summary.window, stage.requests
    if window.rates_s <= 0 or summary.concurrency_mean is None:
        return None
    over = request_masks(r, window, summary.span).over
    end_ns = ended_ns(r, summary.span.end_ns)
    there = (r.phase == MEASURED) & (r.sent_ns != MISSING) & (r.sent_ns <= window.end_ns) & (end_ns > window.end_ns)
    length_ns = window.rates_s * NS_PER_S
    inside_ns = np.maximum(r.sent_ns, window.rates_ns)
    return LittlesLaw(
        in_flight=summary.concurrency_mean,
        left=int(over.sum()) / window.rates_s,
        time_s=float((end_ns - r.sent_ns)[over].mean()) / NS_PER_S if over.any() else 0.0,
        before=float((inside_ns - r.sent_ns)[over].sum()) / length_ns,
        after=float((window.end_ns - inside_ns)[there].sum()) / length_ns,
    )


def invariants(evidence: Evidence) -> Iterator[Warning]:
    """What is broken of a stage's invariants."""
    for broken in (_numerators, _identity, _littles_law, _event_tokens):
        for text in broken(evidence.stage, evidence.summary):
            yield Warning("invariant", INVALID, text, message("analysis.next_report"))


def _listed(stage: StageInput, summary: StageSummary) -> Requests:
    """The rows behind the rates, by the rule that stands in the manual and not by the masks that were counted."""
    r, window = stage.requests, summary.window
    done_ns = np.where(r.done_ns != MISSING, r.done_ns, r.last_ns)
    chosen = (r.phase == MEASURED) & (r.status == COMPLETED) & (done_ns > window.rates_ns) & (done_ns <= window.end_ns)
    return r.take(chosen)


def _unlike(value: float, expected: float, scale: float = 0.0) -> bool:
    return not abs(value - expected) <= ROUNDING * max(abs(value), abs(expected), abs(scale))


def _numerators(stage: StageInput, summary: StageSummary) -> Iterator[Message]:
    rates, rows, length_s = summary.rates, _listed(stage, summary), summary.window.rates_s
    if rates.request is None:
        return
    known = np.where(rows.input_tokens != MISSING, rows.input_tokens, np.maximum(0, rows.input_asked))
    output = int(rows.output_tokens.sum())
    pairs = (
        (message("analysis.rate_of_requests"), rates.request, len(rows)),
        (message("analysis.rate_of_output_tokens"), rates.output_token, output),
        (message("analysis.rate_of_tokens"), rates.total_token, output + int(known.sum())),
        (message("analysis.rate_of_events"), rates.event, int(rows.events.sum())),
    )
    for what, rate, count in pairs:
        counted = (rate or 0.0) * length_s
        if _unlike(counted, count):
            yield message("analysis.invariant_rate", what=what, counted=counted, rows=len(rows), held=count)
    if rates.good is not None and rates.good > rates.request * (1 + ROUNDING):
        yield message("analysis.invariant_goodput", goodput=rates.good, rate=rates.request)


def _identity(stage: StageInput, summary: StageSummary) -> Iterator[Message]:
    rates, rows = summary.rates, _listed(stage, summary)
    if rates.request is None or rates.output_token is None:
        return
    mean = float(rows.output_tokens.mean()) if len(rows) else 0.0
    if _unlike(rates.output_token, rates.request * mean):
        output, rate, product = rates.output_token, rates.request, rates.request * mean
        yield message("analysis.invariant_identity", output=output, rate=rate, mean=mean, product=product)


def _littles_law(stage: StageInput, summary: StageSummary) -> Iterator[Message]:
    law = littles_law(stage, summary)
    if law is not None and _unlike(law.in_flight, law.expected, law.left * law.time_s):
        sides = {"in_flight": law.in_flight, "left": law.left, "time_s": law.time_s, "expected": law.expected}
        yield message("analysis.invariant_little", **sides)


def _event_tokens(stage: StageInput, _summary: StageSummary) -> Iterator[Message]:
    r, events = stage.requests, stage.events
    held = tokens_by_row(events)
    timed = np.diff(events.offsets) > 0  # an offline call has no events
    off = (r.phase == MEASURED) & (r.status == COMPLETED) & timed & (held != r.output_tokens)
    if off.any():
        first = int(np.flatnonzero(off)[0])
        at = {"index": int(r.index[first]), "tokens": int(r.output_tokens[first]), "held": int(held[first])}
        yield message("analysis.invariant_events", off=int(off.sum()), **at)


def _done(r: Requests) -> NDArray[np.bool_]:
    return np.asarray((r.phase == MEASURED) & (r.status == COMPLETED), dtype=bool)


def lengths(evidence: Evidence) -> Iterator[Warning]:
    """Prompts or responses that did not have the requested length, by the server's own count."""
    r = evidence.stage.requests
    sides = (
        ("input_length", "analysis.input_length", r.input_asked, r.input_tokens),
        ("output_length", "analysis.output_length", r.output_asked, r.output_tokens),
    )
    for name, code, requested, counted in sides:
        known = _done(r) & (requested != MISSING) & (counted != MISSING)
        known &= (name == "input_length") | ~np.isin(r.request_class, evidence.stage.formed)
        known &= (r.counted_by != FROM_EVENTS) | (name == "input_length")  # a count of events is not the server's
        off = int((known & (requested != counted)).sum())
        if off:
            totals = {"counted": int(counted[known].sum()), "requested": int(requested[known].sum())}
            text = message(code, off=off, known=int(known.sum()), **totals)
            added = bool((counted[known] - requested[known] == 1).all())
            ignore_eos = message("analysis.next_ignore_eos")
            step = ignore_eos if name == "output_length" else _prompts(evidence, added=added)
            yield Warning(name, WARNING if off > LENGTHS_WARNING * known.sum() else NOTE, text, step)


def impossible(evidence: Evidence) -> Iterator[Warning]:
    """Answers far longer than max_tokens allows, as the server counts: no rate by its counts is right."""
    r = evidence.stage.requests
    known = _done(r) & (r.output_asked != MISSING) & (r.counted_by != FROM_EVENTS)
    over = known & (r.output_tokens > IMPOSSIBLE * r.output_asked)
    if int(over.sum()) > LENGTHS_WARNING * known.sum():
        counts = {"over": int(over.sum()), "known": int(known.sum())}
        text = message("analysis.impossible_tokens", times=IMPOSSIBLE, **counts)
        yield Warning("impossible_tokens", INVALID, text, message("analysis.next_usage"))


def _prompts(evidence: Evidence, *, added: bool) -> Message:
    """How to get prompts of the requested length; `added` says that each is longer by one."""
    if evidence.endpoint not in ("completions", "embeddings"):
        return message("analysis.next_endpoint")
    return message("analysis.next_bos") if added else message("analysis.next_tokenizer")


def assumed_tokens(evidence: Evidence) -> Iterator[Warning]:
    """Events whose number of tokens the server did not say, or not in step with what it sent."""
    r = evidence.stage.requests
    done = _done(r) & (r.output_tokens > 0)  # those of embeddings and scores have none
    assumed, uncounted = (int((done & (r.counted_by == way)).sum()) for way in (ASSUMED, FROM_EVENTS))
    step = message("analysis.next_token_counts")
    if assumed:
        text = message("analysis.tokens_assumed", share=float(assumed / done.sum()))
        yield Warning("tokens_assumed", NOTE, text, step)
    if uncounted:
        text = message("analysis.tokens_uncounted", share=float(uncounted / done.sum()))
        yield Warning("tokens_uncounted", WARNING, text, step)


def came_whole(evidence: Evidence) -> Iterator[Warning]:
    """Answers that were to be streamed and came in one piece."""
    r = evidence.stage.requests
    if not evidence.stage.stream or evidence.stage.load["kind"] == OFFLINE:
        return
    tokens = np.where(r.counted_by == FROM_EVENTS, r.output_asked, r.output_tokens)
    long = _done(r) & (tokens > AT_ONCE) & (r.last_ns != MISSING)
    whole = int((long & ((r.first_ns == MISSING) | (r.first_ns == r.last_ns))).sum())
    if whole:
        text = message("analysis.came_whole", whole=whole, long=int(long.sum()))
        severity = WARNING if whole > WHOLE_WARNING * long.sum() else NOTE
        yield Warning("came_whole", severity, text, message("analysis.next_buffering"))


TOKEN_CHECKS = (impossible, lengths, assumed_tokens, came_whole)
