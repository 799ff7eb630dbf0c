"""Breakdowns of latency: by the length of a request's prompt, and by its turn in a conversation.

Where a run has one load and prompts of very different lengths, its objective of the time to first token is judged for
each doubling of the length: whether it holds is then a matter of the prompt, and not of the load.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, StageSummary, latencies, request_masks
from harness.analysis.slo import Objective
from harness.analysis.token_gaps import Mask
from harness.results.request_table import FAILED, MISSING, Requests
from harness.statistics.intervals import Floats, order_ranks, percentile_of, samples_needed

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


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Prompts of `low` to `high` tokens: how many, the objective's statistic (s), and its 95 % interval.

    A failed request counts as infinitely late. `ci95` is None where they are too few for both ends.
    """

    low: int
    high: int
    n: int
    value_s: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class LengthVerdict:
    """An objective of the time to first token, judged for prompts of each length, the shortest first."""

    objective: Objective
    bins: tuple[LengthBin, ...]

    @property
    def held(self) -> int:
        """For how many bins it holds, from the shortest on without a gap."""
        limit_s = self.objective.limit_s
        return next((place for place, row in enumerate(self.bins) if row.value_s > limit_s), len(self.bins))

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it; an infinite value is null."""
        rows = [
            asdict(row)
            | {
                "value_s": _finite(row.value_s),
                "ci95": None if row.ci95 is None else [_finite(end) for end in row.ci95],
                "met": row.value_s <= self.objective.limit_s,
            }
            for row in self.bins
        ]
        return {"objective": self.objective.key, "limit_s": self.objective.limit_s, "bins": rows}


def judge_by_length(stages: Sequence[tuple[StageInput, StageSummary]]) -> LengthVerdict | None:
    """The verdict by prompt length of a run's stages, repeats together.

    None where there are several loads, a queue grew, no limit is on a percentile of the time to first token, or the
    lengths make fewer than three bins: doublings, each with as many requests as bound the percentile.
    """
    labels = {str(summary.label) for _, summary in stages}
    limits = [limit for limit in stages[0][0].objectives if limit.metric in _FIRST] if stages else []
    limits = [limit for limit in limits if limit.statistic.startswith("p")]
    if len(labels) != 1 or not limits or any(summary.window.grew for _, summary in stages):
        return None
    objective = limits[0]
    parts = [_lengths_and_times(own, summary, objective.metric) for own, summary in stages]
    lengths, times = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    percent = float(objective.statistic[1:])
    bins = [_length_bin(lengths[own], times[own], percent) for own in _doublings(lengths, samples_needed(percent))]
    return LengthVerdict(objective, tuple(bins)) if len(bins) >= _FEWEST_BINS else None


_FIRST = ("ttft", "ttft_user")
_FEWEST_BINS = 3


def _lengths_and_times(stage: StageInput, summary: StageSummary, metric: str) -> tuple[NDArray[np.int64], Floats]:
    """The prompt's length of every request that the objective counts, and its time; infinite where it failed."""
    masks = request_masks(stage.requests, summary.window, summary.span)
    rows = stage.requests.take(masks.answered | masks.failed)
    times = np.where(rows.status == FAILED, np.inf, latencies(rows, stream=stage.stream)[metric])
    lengths = np.where(rows.input_tokens != MISSING, rows.input_tokens, rows.input_asked)
    known = ~np.isnan(times) & (lengths > 0)
    return lengths[known], times[known]


def _doublings(lengths: NDArray[np.int64], fewest: int) -> list[NDArray[np.bool_]]:
    """Masks of the requests of each doubling of the length; one with too few joins the shorter, the first the next."""
    numbers = np.floor(np.log2(lengths)).astype(np.int64)
    masks: list[NDArray[np.bool_]] = []
    for number in np.unique(numbers)[::-1]:  # a longest bin of its own is what is asked for
        own = numbers == number
        if masks and masks[-1].sum() < fewest:
            masks[-1] = masks[-1] | own
        else:
            masks.append(own)
    if len(masks) > 1 and masks[-1].sum() < fewest:
        masks[-2:] = [masks[-2] | masks[-1]]
    return masks[::-1] if masks and masks[0].sum() >= fewest else []


def _length_bin(lengths: NDArray[np.int64], times: Floats, percent: float) -> LengthBin:
    ordered = np.sort(times)
    ranks = order_ranks(len(ordered), percent / 100)
    ci95 = (float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])) if ranks else None
    return LengthBin(int(lengths.min()), int(lengths.max()), len(ordered), percentile_of(ordered, percent), ci95)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
