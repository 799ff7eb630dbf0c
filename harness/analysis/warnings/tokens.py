"""Were the tokens of the answers those asked for, counted by the server, and seen one by one?

Each check looks at one stage and yields its doubts.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.analysis.steady_state import OFFLINE
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import plain
from harness.results.request_table import ASSUMED, COMPLETED, FROM_EVENTS, MEASURED, MISSING, Requests
from harness.units import format_count, format_share

LENGTHS_DOUBT = 0.01  # of requests
IMPOSSIBLE = 10  # times max_tokens: an extra_body that overrides it, or a hidden thought, stays below
WHOLE_DOUBT = 0.1  # of answers: below, it is those that a busy network delivered late
AT_ONCE = 4  # tokens that one step of speculative decoding may bring together
ENDPOINT = "Check the tokenizer, or use endpoint: completions."
TOKENIZER = "Check the tokenizer."
BOS = "The server's tokenizer adds one token to each prompt: set extra_body: {add_special_tokens: false}."


def _done(r: Requests) -> NDArray[np.bool_]:
    return np.asarray((r.phase == MEASURED) & (r.status == COMPLETED), dtype=bool)


def lengths(evidence: Evidence) -> Iterator[Warning]:
    """Prompts or answers that were not as long as asked for, by the server's own count."""
    r = evidence.stage.requests
    sides = (
        ("input_length", "prompts", r.input_asked, r.input_tokens),
        ("output_length", "answers", r.output_asked, r.output_tokens),
    )
    for name, what, asked, counted in sides:
        known = _done(r) & (asked != MISSING) & (counted != MISSING)
        known &= (r.counted_by != FROM_EVENTS) | (name == "input_length")  # a count of events is not the server's
        off = int((known & (asked != counted)).sum())
        if off:
            text = (
                f"{format_count(off)} of {format_count(int(known.sum()))} {what} were not as long as asked for: "
                f"{format_count(int(counted[known].sum()))} tokens instead of {format_count(int(asked[known].sum()))}."
            )
            added = bool((counted[known] - asked[known] == 1).all())
            mend = (
                "Set ignore_eos, if answers must be that long."
                if what == "answers"
                else _prompts(evidence, added=added)
            )
            yield Warning(name, WARNING if off > LENGTHS_DOUBT * known.sum() else NOTE, plain(text), plain(mend))


def impossible(evidence: Evidence) -> Iterator[Warning]:
    """Answers far longer than max_tokens allows, as the server counts: no rate by its counts is right."""
    r = evidence.stage.requests
    known = _done(r) & (r.output_asked != MISSING) & (r.counted_by != FROM_EVENTS)
    over = known & (r.output_tokens > IMPOSSIBLE * r.output_asked)
    if int(over.sum()) > LENGTHS_DOUBT * known.sum():
        text = (
            f"{format_count(int(over.sum()))} of {format_count(int(known.sum()))} answers hold, as the server counts, "
            f"more than {IMPOSSIBLE} times the tokens that they may have: token rates and times per token mean nothing."
        )
        yield Warning(
            "impossible_tokens",
            INVALID,
            plain(text),
            plain("See the server's usage; token_counts: assumed counts by events."),
        )


def _prompts(evidence: Evidence, *, added: bool) -> str:
    """How to get prompts of the length asked for; `added` says that each is longer by one."""
    if evidence.endpoint != "completions":
        return ENDPOINT
    return BOS if added else TOKENIZER


def assumed_tokens(evidence: Evidence) -> Iterator[Warning]:
    """Events whose number of tokens the server did not tell, or not in step with what it sent."""
    r = evidence.stage.requests
    done = _done(r)
    assumed, uncounted = (int((done & (r.counted_by == way)).sum()) for way in (ASSUMED, FROM_EVENTS))
    mend = "Set token_counts: usage or token_ids where the server knows them."
    if assumed:
        text = (
            f"For {format_share(assumed / done.sum())} of answers the server did not say how many tokens an event "
            "carries: they are spread evenly, and gaps between tokens (itl) are estimates."
        )
        yield Warning("tokens_assumed", NOTE, plain(text), plain(mend))
    if uncounted:
        text = (
            f"For {format_share(uncounted / done.sum())} of answers the server told no number of tokens that can be: "
            "each event with content counts as one token, so token rates, TPOT and lengths are estimates."
        )
        yield Warning("tokens_uncounted", WARNING, plain(text), plain(mend))


def came_whole(evidence: Evidence) -> Iterator[Warning]:
    """Answers that were to be streamed and came in one piece."""
    r = evidence.stage.requests
    if not evidence.stage.stream or evidence.stage.load["kind"] == OFFLINE:
        return
    tokens = np.where(r.counted_by == FROM_EVENTS, r.output_asked, r.output_tokens)
    long = _done(r) & (tokens > AT_ONCE) & (r.last_ns != MISSING)
    whole = int((long & ((r.first_ns == MISSING) | (r.first_ns == r.last_ns))).sum())
    if whole:
        text = (
            f"{format_count(whole)} of {format_count(int(long.sum()))} answers came whole though streaming was asked "
            "for: their TTFT is the time of the whole answer, and TPOT and gaps between tokens are not known."
        )
        mend = "Look for a proxy that buffers or compresses, or for a parser that holds the answer back."
        yield Warning("came_whole", WARNING if whole > WHOLE_DOUBT * long.sum() else NOTE, plain(text), plain(mend))


TOKEN_CHECKS = (impossible, lengths, assumed_tokens, came_whole)
