"""Checks of the tokens: of the requested number, counted by the server, and seen one by one.

Each check looks at one stage and yields its warnings.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.analysis.steady_state import OFFLINE
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import Message, message
from harness.results.request_table import ASSUMED, COMPLETED, FROM_EVENTS, MEASURED, MISSING, Requests

LENGTHS_WARNING = 0.01  # of requests
IMPOSSIBLE = 10  # times max_tokens: an extra_body that overrides it, or a hidden thought, stays below
WHOLE_WARNING = 0.1  # of answers: below, it is those that a busy network delivered late
AT_ONCE = 4  # tokens that one step of speculative decoding may bring together


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
    if evidence.endpoint != "completions":
        return message("analysis.next_endpoint")
    return message("analysis.next_bos") if added else message("analysis.next_tokenizer")


def assumed_tokens(evidence: Evidence) -> Iterator[Warning]:
    """Events whose number of tokens the server did not tell, or not in step with what it sent."""
    r = evidence.stage.requests
    done = _done(r)
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
