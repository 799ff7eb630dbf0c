"""Rates of a stage: the requests that they count, and how far each of them may be off.

A rate is that of a window. Its interval is that of the means of consecutive equal parts of the window (as many as the
root of its answers, 5 to 30), which resemble each other less than single answers do, widened where neighbours still do
(`harness.statistics.intervals.batch_error`). Where requests come by the clock, the parts are also those of when they
were due, and the larger error counts: an engine near its capacity answers evenly for longer than a window, however
unevenly requests come. The interval says within what another window of the same load would lie; there is
none where the load changes by itself, where the window holds the begin or the end of all load, or of under 25 answers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.steady_state import CHANGING, WHOLE_CALL, WHOLE_STAGE, Span, Window, is_open
from harness.results.request_table import COMPLETED, MEASURED, Requests
from harness.statistics.intervals import (
    CONFIDENCE,
    FEWEST_BATCHES,
    MOST_BATCHES,
    Floats,
    batch_error,
    student_t,
)
from harness.units import NS_PER_S

RATES_WINDOW = "rates_window"


@dataclass(frozen=True, slots=True)
class Rates:
    """What the answers that ended in the window's part for rates come to, per second; None where it has no length.

    `offered` is what was due there instead, None where requests do not come by the clock. `arrived`
    are the output tokens that came there, of whatever answer of the stage: in a steady state as many
    as `output_token`, and more where the engine is still filling.
    `ci95` has 95 % intervals of `request`, `output_token` and `good`, where one can be given.
    """

    request: float | None = None
    output_token: float | None = None
    total_token: float | None = None
    event: float | None = None
    good: float | None = None  # None also without objectives
    offered: float | None = None
    arrived: float | None = None
    ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counted:
    """Numerators of the rates: the answers that ended, and what they hold."""

    requests: int
    input_tokens: int
    output_tokens: int
    events: int
    documents: int = 0  # that were embedded or scored


def offered(requests: Requests, window: Window, span: Span) -> tuple[int, float]:
    """How many measured requests were due within the part for rates while requests were sent, and its length (s)."""
    end_ns = min(window.end_ns, span.stop_ns)
    start_ns = window.rates_ns if window.rates_ns < end_ns else span.start_ns
    due = (requests.phase == MEASURED) & (requests.due_ns > start_ns) & (requests.due_ns <= end_ns)
    return int(due.sum()), (end_ns - start_ns) / NS_PER_S


def rows_of_rates(requests: Requests, stage: Mapping[str, Any]) -> Requests:
    """The rows of requests.parquet that the rates of a stage of summary.json count.

    The rule, for any tool: `stage` and `repeat` are the stage's, `phase` is measured, `status` is
    completed, and start_ns < done_ns <= end_ns of the stage's `rates_window`.
    """
    window = stage[RATES_WINDOW]
    own = (requests.stage == stage["index"]) & (requests.repeat == stage["repeat"])
    counted = own & (requests.phase == MEASURED) & (requests.status == COMPLETED)
    done = (requests.done_ns > window["start_ns"]) & (requests.done_ns <= window["end_ns"])
    return requests.take(counted & done)


def rate_interval(
    due_ns: NDArray[np.int64], ended_ns: NDArray[np.int64], amounts: Floats, window: Window, kind: str
) -> tuple[float, float] | None:
    """The 95 % interval of a rate of what ended within the window's part for rates; None where there is none.

    `amounts` are what each answer counts, `due_ns` when it was due, and `ended_ns` when it ended.
    """
    parts = min(MOST_BATCHES, math.isqrt(len(ended_ns)))
    whole = window.method in (WHOLE_STAGE, WHOLE_CALL)
    if parts < FEWEST_BATCHES or kind in CHANGING or whole or window.filling:
        return None
    views = [(ended_ns, window.rates_ns, window.end_ns)]
    if is_open(kind):
        views.append((due_ns, int(due_ns.min()), int(due_ns.max())))
    error = max(_error(at_ns, amounts, span, parts) for at_ns, *span in views)
    reach = student_t((1 + CONFIDENCE) / 2, parts - 1) * error
    rate = float(amounts.sum()) / window.rates_s
    return max(0.0, rate - reach), rate + reach


def _error(at_ns: NDArray[np.int64], amounts: Floats, span_ns: Sequence[int], parts: int) -> float:
    """Standard error of a rate, from what fell into each of so many parts of a span."""
    start_ns, end_ns = span_ns
    length_ns = max(1, end_ns - start_ns)
    number = np.clip((at_ns - start_ns) * parts // length_ns, 0, parts - 1)
    sums = np.bincount(number, weights=amounts, minlength=parts).astype(np.float64)
    return batch_error(sums, np.full(parts, length_ns / parts / NS_PER_S))
