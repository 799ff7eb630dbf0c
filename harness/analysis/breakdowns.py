"""Breakdowns of latency: by the length of a request's prompt, and by its turn in a conversation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import latencies
from harness.analysis.token_gaps import Mask
from harness.results.request_table import MISSING, Requests
from harness.statistics.intervals import Floats, order_ranks, percentile_of

PROMPT_TOKENS, TURN = "prompt_tokens", "turn"
MOST_BINS = 8
FEWEST_IN_BIN = 8
FEWEST = 16  # requests: fewer show no dependence
SPREAD = 1.2  # longest over shortest prompt: less is one length


def breakdowns(requests: Requests, counted: Mask, *, stream: bool, open_loop: bool) -> list[dict[str, Any]]:
    """For summary.json: of each stage, repeats together, the latency of bins of requests.

    TTFT (of responses that come whole E2E) and TPOT by prompt length where lengths differ, in bins of about equally
    many requests; TTFT by turn (from 1) where there are conversations. Each has `stage`, `by`, `metric` and `bins`,
    in the order of what they are by; see `bin_of`.

    Args:
        requests: all rows of the run.
        counted: the rows whose latencies count.
        stream: whether answers were streamed.
        open_loop: whether any stage was; then latencies are from the due time.
    """
    rows = requests.take(counted)
    times = latencies(rows, stream=stream)
    first = ("ttft" if stream else "e2e") + ("_user" if open_loop else "")
    lengths = np.where(rows.input_tokens != MISSING, rows.input_tokens, rows.input_asked)
    known = np.isfinite(times[first]) & (lengths > 0)
    blocks = []
    if known.sum() >= FEWEST and lengths[known].max() > SPREAD * lengths[known].min():
        for metric in (first, "tpot") if stream else (first,):
            blocks += list(_by_stage(rows.stage, PROMPT_TOKENS, metric, lengths, times[metric]))
    turns = rows.turn + 1
    if (np.isfinite(times[first]) & (turns > 1)).any():
        blocks += list(_by_stage(rows.stage, TURN, first, turns, times[first]))
    return blocks


def _by_stage(
    stages: NDArray[np.int64], by: str, metric: str, x: NDArray[np.int64], values: Floats
) -> Iterator[dict[str, Any]]:
    known = np.isfinite(values) & (x > 0)
    if by == PROMPT_TOKENS and known.sum() < FEWEST:
        return
    for stage in np.unique(stages[known]).tolist():
        own = known & (stages == stage)
        numbers = x[own] if by == TURN else _bin_numbers(x[own])
        bins = [
            bin_of(x[own][numbers == number], values[own][numbers == number])
            for number in np.unique(numbers)
            if number >= 0
        ]
        if bins:
            yield {"stage": stage, "by": by, "metric": metric, "bins": bins}


def _bin_numbers(x: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bin of each of a stage's requests; -1 where they are too few, or of one length."""
    count = min(MOST_BINS, len(x) // FEWEST_IN_BIN)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, count + 1))) if count else np.zeros(0)
    if len(edges) < 2:
        return np.full(len(x), -1)
    return np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)


def bin_of(x: NDArray[np.int64], values: Floats) -> dict[str, Any]:
    """A bin: range and median of `x`, requests, median latency (s) and its 95 % interval (null: too few requests)."""
    ordered = np.sort(values)
    ranks = order_ranks(len(ordered), 0.5)
    return {
        "low": int(x.min()),
        "high": int(x.max()),
        "middle": float(np.median(x)),
        "n": len(ordered),
        "p50": percentile_of(ordered, 50.0),
        "ci95": [float(ordered[rank - 1]) for rank in ranks] if ranks else None,
    }
