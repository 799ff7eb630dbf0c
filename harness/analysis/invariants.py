"""Invariants: what must hold between the numbers of a stage, whatever was measured.

Each is computed a second way, from the rows that `metrics.rows_of_rates` lists, and held against
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

from harness.analysis.members import request_masks
from harness.analysis.metrics import StageInput, StageSummary
from harness.analysis.steady_state import ended_ns
from harness.analysis.token_gaps import tokens_by_row
from harness.analysis.warnings import INVALID, Evidence, Warning
from harness.messages import Message, message
from harness.results.request_table import COMPLETED, MEASURED, MISSING, Requests
from harness.units import NS_PER_S

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
    timed = np.diff(events.offsets) > 0  # an offline call tells no events
    off = (r.phase == MEASURED) & (r.status == COMPLETED) & timed & (held != r.output_tokens)
    if off.any():
        first = int(np.flatnonzero(off)[0])
        at = {"index": int(r.index[first]), "tokens": int(r.output_tokens[first]), "held": int(held[first])}
        yield message("analysis.invariant_events", off=int(off.sum()), **at)
