"""A distribution in short: mean, percentiles, and how far each of them may be off.

Measurements of a server come one after another and resemble their neighbours, so no interval here
takes them for independent: an error is that of as many independent values as they are worth
(`harness.statistics.time_series`), and where that is too few, there is none, but the length of run that would
do. A mean of what is nowhere negative lies in m (1 - e) to m / (1 - e), e being its relative
reach: near saturation a mean latency goes as one over the idle share, and it is that share which
is nearly normal, so that the upper end is as far away as the lower one in it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.statistics.intervals import (
    CONFIDENCE,
    PERCENTILES,
    Floats,
    order_ranks,
    percentile_name,
    percentile_of,
    student_t,
)
from harness.statistics.time_series import Autocorrelation, autocorrelation_of, variance_factor

MEAN = "mean"
LEAST_TOLD = 5  # values; fewer say nothing, not even how long a run would have to be
UNSEEN_MEAN, UNSEEN_RANKS = 1.5, 0.7  # by how much an error may be widened for what a series did not see
LONGER = 1.1  # factor by which a longer run is looked for
NARROW = 0.5  # relative reach that a run is told to aim for where its mean has no upper end
_NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Some values in short, in their own unit; None where there are none (std: fewer than two).

    `std` divides by n - 1. `ci95` holds a 95 % interval of "mean", "p50", …; one that the values are
    too few for, or too alike, is absent, and `needed` says of it how many times as long the run would
    have to be. `effective_n` independent values would bound the mean as well.
    """

    n: int = 0
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    ci95: Mapping[str, Interval] = field(default_factory=dict)
    needed: Mapping[str, float] = field(default_factory=dict)
    effective_n: float | None = None


def has_open_end(statistics: Mapping[str, Any], name: str) -> bool:
    """Whether an interval of values in short reaches the largest of them, so that nothing bounds it from above."""
    ends, largest = (statistics.get("ci95") or {}).get(name), statistics.get("max")
    return name != MEAN and ends is not None and largest is not None and bool(ends[1] >= largest)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Intervals by statistic; of those that are withheld, how many times as long a run they need."""

    ci95: Mapping[str, Interval] = field(default_factory=dict)
    needed: Mapping[str, float] = field(default_factory=dict)
    effective_n: float | None = None

    def at_ranks(self, value_of: Callable[[float], float]) -> "Bounds":
        """The same with values in place of ranks; the mean's ends are values already."""
        intervals = {
            name: ends if name == MEAN else (value_of(ends[0]), value_of(ends[1])) for name, ends in self.ci95.items()
        }
        return replace(self, ci95=intervals)


def distribution(values: Floats, starts: NDArray[np.int64] | None = None) -> Distribution:
    """The values in short; their order is the order in time, which the intervals rest on.

    `starts` are the first positions of what belongs together, such as all gaps of one answer.
    """
    n = len(values)
    if n == 0:
        return Distribution()
    ordered = np.sort(values)
    points = {percentile_name(percent): float(percentile_of(ordered, percent)) for percent in PERCENTILES}
    bounds = _bounds_of(values, ordered, points, starts)
    return Distribution(
        n=n,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if n > 1 else None,
        min=float(ordered[0]),
        max=float(ordered[-1]),
        ci95=bounds.ci95,
        needed=bounds.needed,
        effective_n=bounds.effective_n,
        **points,
    )


def _bounds_of(
    values: Floats, ordered: Floats, points: Mapping[str, float], starts: NDArray[np.int64] | None
) -> Bounds:
    """Bounds of single values, or of those that belong together from each of `starts` on."""
    if starts is None:
        sums, counts = values, np.ones(len(values))
    else:
        sums, counts = np.add.reduceat(values, starts), np.diff(np.append(starts, len(values))).astype(np.float64)
    below = {}
    for name, point in points.items():
        marks = (values <= point).astype(np.float64)
        below[name] = marks if starts is None else np.add.reduceat(marks, starts)
    ranked = bounds(sums, counts, below, negative=bool(ordered[0] < 0))
    return ranked.at_ranks(lambda rank: float(ordered[int(rank) - 1]))


def bounds(sums: Floats, counts: Floats, below: Mapping[str, Floats], *, negative: bool) -> Bounds:
    """Intervals of the mean sum(sums) / sum(counts), and of percentiles, these as ranks (1-based) of the sorted values.

    Args:
        sums: of what belongs together, in the order of time.
        counts: how many values each of these adds up.
        below: by name of a percentile, how many of them are at most it.
        negative: whether any value is below zero.
    """
    if len(sums) < LEAST_TOLD:
        return Bounds()
    mean = float(sums.sum() / counts.sum())
    left = sums - counts * mean
    alike = autocorrelation_of(left)
    if alike.lacking > 1:
        lacks = {name: _ranks_lack(alike, counts, part, name) for name, part in below.items()}
        return Bounds({}, {MEAN: alike.lacking, **lacks}, alike.effective)
    intervals: dict[str, Interval] = {}
    needed = {}
    reach = _t(alike) * alike.widening(UNSEEN_MEAN) * _error(left, counts, alike.times)
    if negative or reach == 0:
        intervals[MEAN] = (mean - reach, mean + reach)
    elif reach < mean:
        intervals[MEAN] = (mean - reach, mean / (1 - reach / mean))
    else:
        needed[MEAN] = (reach / mean / NARROW) ** 2
    for name, part in below.items():
        ranks = rank_interval(part, counts, _level(name), alike)
        if ranks is None:
            needed[name] = _ranks_lack(alike, counts, part, name)
        else:
            intervals[name] = ranks
    return Bounds(intervals, needed, alike.effective)


def _level(name: str) -> float:
    return float(name[1:]) / 100


def _t(alike: Autocorrelation) -> float:
    return student_t((1 + CONFIDENCE) / 2, alike.dof)


def _error(left: Floats, counts: Floats, times: float) -> float:
    """Standard error of a ratio of sums from its residuals (Cochran, Sampling Techniques, 1977, 6.4)."""
    n = len(left)
    return math.sqrt(n * times * float(left @ left) / (n - 1)) / float(counts.sum())


def _loss(alike: Autocorrelation) -> float:
    """By how much an error of ranks is widened, for what was not seen and for its own uncertainty."""
    return alike.widening(UNSEEN_RANKS) * _t(alike) / _NORMAL


def _worth(below: Floats, counts: Floats, level: float, alike: Autocorrelation) -> float:
    """How many independent values bound a percentile as well, the uncertainty of that number taken off."""
    n = float(counts.sum())
    left = below - counts * float(below.sum() / n)
    error = _error(left, counts, max(alike.times, variance_factor(left)))
    error *= _loss(alike)
    return n if error == 0 else min(n, level * (1 - level) / error**2)


def rank_interval(below: Floats, counts: Floats, level: float, alike: Autocorrelation) -> tuple[int, int] | None:
    """Ranks (1-based) of the sorted values that hold a percentile with 95 % confidence; None: too few.

    The distribution-free interval (`order_ranks`) of as many independent values as these are worth.
    """
    n, worth = int(counts.sum()), math.floor(_worth(below, counts, level, alike))
    ranks = order_ranks(worth, level)
    if ranks is None:
        return None
    return max(1, math.floor(ranks[0] * n / worth)), min(n, math.ceil(ranks[1] * n / worth))


def _ranks_lack(alike: Autocorrelation, counts: Floats, below: Floats, name: str) -> float:
    """How many times as long the run must be for a percentile: until it is worth enough with that length's widening."""
    level, times = _level(name), alike.lacking if alike.lacking > 1 else LONGER
    fewest = math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(level, 1 - level)))
    now = _worth(below, counts, level, alike) * _loss(alike) ** 2
    while now * times < fewest * _loss(replace(alike, n=math.ceil(alike.n * times))) ** 2:
        times *= LONGER
    return times
