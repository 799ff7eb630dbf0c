"""Differences of two values with their standard errors: Holm's procedure for many tests, and the bootstrap over blocks.

Pure arithmetic. An effect is ln(new / base), or new - base where the values are shares; its
standard error comes from repeats (`by_pairs`, `by_groups`), from blocks of consecutive
requests (`by_blocks`) or from the order of values (`by_ranks`). Several effects are
judged together by Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979): the
chance that any of them is called a difference where there is none stays at most `alpha`,
whatever they share.

Requests that follow each other share a queue and a batch, so they are drawn again in blocks of
consecutive ones (Künsch, Annals of Statistics 17, 1989), never one by one. Two runs that sent
the same requests are drawn together: a block of one with the same block of the other, so that
the load's effect on both cancels. A run begins with at most 30 blocks; they are made longer,
down to ten of them, while neighbours are still correlated, and the correlation that is left
widens the error.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.seeds import stream
from harness.statistics.distributions import distribution
from harness.statistics.intervals import FEWEST_BATCHES, MOST_BATCHES, Floats, order_ranks, student_t, student_t_above
from harness.statistics.time_series import FEWEST_VALUES, autocorrelation_factor

NORMAL_95 = 1.96  # standard errors on each side of a 95 % interval
MOST_DOF = 1e6


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimated difference, its standard error, and the degrees of freedom behind that error."""

    estimate: float
    error: float
    dof: float

    def interval(self, alpha: float) -> tuple[float, float]:
        """Where the true effect lies but for a chance of `alpha`."""
        reach = self.error * student_t(1 - alpha / 2, self.dof) if self.error else 0.0
        return self.estimate - reach, self.estimate + reach

    def p_value(self, smallest: float = 0.0) -> float:
        """How likely so large an effect would be, were the true one at most `smallest` either way (two-sided t)."""
        return min(1.0, 2 * Effect(abs(self.estimate), self.error, self.dof).p_above(smallest))

    def p_above(self, allowed: float) -> float:
        """How likely an effect so far above `allowed` would be, were it at most that (one-sided t test)."""
        above = self.estimate - allowed
        if not self.error:
            return 0.0 if above > 0 else 1.0
        return student_t_above(above / self.error, self.dof)

    @property
    def is_nothing(self) -> bool:
        """Whether both sides are the same to the last digit: there is nothing to test."""
        return self.estimate == 0 and self.error == 0

    def turned(self) -> "Effect":
        """The same effect seen from the other side."""
        return Effect(-self.estimate, self.error, self.dof)


def by_pairs(base: Floats, new: Floats) -> Effect:
    """The mean difference of values that were taken in pairs; at least two pairs.

    A pair shares its requests and stands close in time, so that what both have is no noise.
    """
    apart = new - base
    return Effect(float(apart.mean()), float(apart.std(ddof=1)) / math.sqrt(len(apart)), len(apart) - 1)


def by_groups(base: Floats, new: Floats) -> Effect:
    """The difference of two means of independent values, at least two each (Welch, Biometrika 34, 1947)."""
    parts = [float(values.var(ddof=1)) / len(values) for values in (base, new)]
    square = sum(parts)
    shares = [part / square if square else 0.5 for part in parts]
    dof = 1 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (base, new), strict=True))
    return Effect(float(new.mean() - base.mean()), math.sqrt(square), dof)


def by_ranks(base: Sequence[Floats], new: Sequence[Floats], between: float) -> Effect | None:
    """The difference of ln(median) of few runs a side, from the order of each run's own values; None: too few.

    Each run's error is that of the 95 % interval of its median, which its values' resemblance in time widens; on top
    comes `between`, by which share two runs of the same are taken to differ (standard deviation). Degrees of freedom
    are those of Satterthwaite (Biometrics Bulletin 2, 1946), `between` being no estimate.
    """
    sides = [[_log_median(values) for values in side] for side in (base, new)]
    known = [[median for median in side if median is not None] for side in sides]
    if any(len(known[place]) < len(side) for place, side in enumerate(sides)):
        return None
    parts = [(error**2 / len(side) ** 2, dof) for side in known for _, error, dof in side]
    square = sum(part for part, _ in parts) + between**2 * sum(1 / len(side) for side in known)
    loose = sum(part**2 / dof for part, dof in parts)
    means = [sum(middle for middle, _, _ in side) / len(side) for side in known]
    return Effect(means[1] - means[0], math.sqrt(square), square**2 / loose if loose else MOST_DOF)


def _log_median(values: Floats) -> tuple[float, float, float] | None:
    """ln(median), its standard error and how many degrees of freedom that has; None where no interval is known."""
    if not len(values) or values.min() <= 0:
        return None
    known = distribution(values)
    worth = known.effective_n if len(values) >= FEWEST_VALUES else None  # of fewer, resemblance cannot be told
    ends = known.ci95.get("p50") or _median_interval(values, worth)
    if ends is None:
        return None
    reach = math.log(ends[1] / ends[0]) / 2
    return math.log(float(np.median(values))), reach / NORMAL_95, len(values) - 1


def _median_interval(values: Floats, worth: float | None) -> tuple[float, float] | None:
    """A 95 % interval of the median of values that are worth so many independent ones; None for fewer than six."""
    n, ordered = len(values), np.sort(values)
    effective = n if worth is None else math.floor(min(n, worth))
    ranks = order_ranks(effective, 0.5)
    if ranks is None:
        return None
    low, high = math.floor(ranks[0] * n / effective), math.ceil(ranks[1] * n / effective)
    return float(ordered[max(1, low) - 1]), float(ordered[min(n, high) - 1])


@dataclass(frozen=True, slots=True)
class HolmTest:
    """What Holm's procedure made of one test: whether it rejects, and the level it held the test to."""

    shown: bool
    level: float


def holm(p_values: Sequence[float], alpha: float) -> list[HolmTest]:
    """Each test judged among all: the i-th smallest of m is held to alpha / (m - i + 1) until one fails.

    What comes after the first that fails is held to that one's level: an interval at a test's
    level leaves out no effect exactly where the test is not rejected.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    judged: list[HolmTest] = [HolmTest(shown=False, level=alpha)] * len(p_values)
    failed_at: float | None = None
    for rank, place in enumerate(order):
        level = alpha / (len(order) - rank) if failed_at is None else failed_at
        shown = failed_at is None and p_values[place] <= level
        if not shown:
            failed_at = level
        judged[place] = HolmTest(shown, level)
    return judged


REPLICATES = 500  # the error of an error of 500 draws is 3 %
FEWEST_BLOCKS = 10
ALIKE = 0.2  # correlation of neighbouring blocks above which they are made longer
_MOST_BINS = 4096
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RunValues:
    """Values of one run, and where in the run each belongs: a whole number that grows with time."""

    values: Floats
    place: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimand:
    """What samples are to show: a statistic (`mean`, `p99`, …), as a ratio or as a difference of shares."""

    statistic: str
    ratio: bool = True


def by_blocks(
    base: Sequence[RunValues],
    new: Sequence[RunValues],
    estimand: Estimand,
    *,
    paired: bool,
    between: float,
    seed: int = 0,
) -> Effect | None:
    """The effect of few runs a side, from blocks of their requests; None where they are too few.

    Args:
        base: a sample a run.
        new: likewise; where `paired`, its i-th run sent what the i-th of base sent.
        estimand: the statistic and its scale.
        paired: whether runs are to be drawn together.
        between: by which share two runs of one engine are taken to differ (standard deviation):
            one run cannot tell.
        seed: of the draws.
    """
    drawn = _paired(base, new, estimand, seed) if paired else _apart(base, new, estimand, seed)
    if drawn is None:
        return None
    draws, blocks, widening = drawn
    estimate = float(
        np.mean([_point(sample, estimand) for sample in new]) - np.mean([_point(sample, estimand) for sample in base])
    )
    known = draws[np.isfinite(draws)]
    if not math.isfinite(estimate) or len(known) < REPLICATES // 2:
        return None
    square = float(known.var(ddof=1)) * blocks / (blocks - 1) * widening
    square += between**2 * (1 / len(base) + 1 / len(new)) if estimand.ratio else 0.0
    return Effect(estimate, math.sqrt(square), blocks - 1)


_Drawn = tuple[Floats, int, float]  # replicates of the effect, blocks behind each, widening of their variance


def _paired(base: Sequence[RunValues], new: Sequence[RunValues], estimand: Estimand, seed: int) -> _Drawn | None:
    parts = [_together((a, b), estimand, seed + i) for i, (a, b) in enumerate(zip(base, new, strict=True))]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    draws = np.mean([replicates[1] - replicates[0] for replicates, _, _ in known], axis=0)
    return draws, min(blocks for _, blocks, _ in known), max(widening for _, _, widening in known)


def _apart(base: Sequence[RunValues], new: Sequence[RunValues], estimand: Estimand, seed: int) -> _Drawn | None:
    parts = [_together((sample,), estimand, seed) for sample in (*base, *new)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    sides = [[replicates[0] for replicates, _, _ in side] for side in (known[: len(base)], known[len(base) :])]
    draws = np.mean(sides[1], axis=0) - np.mean(sides[0], axis=0)
    return draws, min(blocks for _, blocks, _ in known), max(widening for _, _, widening in known)


def _together(samples: Sequence[RunValues], estimand: Estimand, seed: int) -> tuple[list[Floats], int, float] | None:
    """Replicates of the statistic of each sample, drawn with the same blocks; None where the values are too few."""
    fewest = min(len(sample.values) for sample in samples)
    blocks = min(MOST_BATCHES, math.isqrt(fewest))
    if blocks < FEWEST_BATCHES:
        return None
    while True:
        of = blocks_of(samples, blocks)
        series = _series(samples, of, blocks)
        alike = autocorrelation_factor(series)
        if blocks <= FEWEST_BLOCKS or alike <= (1 + ALIKE) / (1 - ALIKE):
            break
        blocks = max(FEWEST_BLOCKS, blocks * 3 // 4)
    rng = stream(seed, "blocks", blocks, *(_digest(sample) for sample in samples[:1] if len(samples) == 1))
    weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), REPLICATES)
    drawn = [replicates(sample.values, number, weights, estimand) for sample, number in zip(samples, of, strict=True)]
    return drawn, blocks, alike


def _digest(sample: RunValues) -> int:
    """A number of the values alone, so that a run is drawn alike on whichever side it stands."""
    return zlib.crc32(np.ascontiguousarray(sample.values).tobytes())


def blocks_of(samples: Sequence[RunValues], blocks: int) -> list[Counts]:
    """The block (0 to blocks - 1) of each value: equal numbers of all places that occur, in their order."""
    places = np.unique(np.concatenate([sample.place for sample in samples]))
    edges = places[np.arange(1, blocks) * len(places) // blocks]
    return [np.searchsorted(edges, sample.place, side="right").astype(np.int64) for sample in samples]


def _series(samples: Sequence[RunValues], of: Sequence[Counts], blocks: int) -> Floats:
    """What each block adds to the difference of the means, in shares of them."""
    total = np.zeros(blocks)
    for sign, sample, number in zip((-1.0, 1.0), samples, of, strict=False):
        mean = float(sample.values.mean()) or 1.0
        sums = np.bincount(number, weights=sample.values - mean, minlength=blocks)
        total += sign * sums / (mean * len(sample.values))
    return total


def replicates(values: Floats, number: Counts, weights: Counts, estimand: Estimand) -> Floats:
    """The statistic of each draw (a row of `weights`: how often each block was drawn), NaN where nothing was."""
    blocks = weights.shape[1]
    if estimand.statistic == "mean":
        sums = np.bincount(number, weights=values, minlength=blocks)
        counts = np.bincount(number, minlength=blocks).astype(np.float64)
        statistics = _shares(weights.astype(np.float64) @ sums, weights.astype(np.float64) @ counts)
    else:
        statistics = _percentiles(values, number, weights, float(estimand.statistic[1:]))
    return _scaled(statistics, estimand)


def _shares(sums: Floats, counts: Floats) -> Floats:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _percentiles(values: Floats, number: Counts, weights: Counts, percent: float) -> Floats:
    """From counts a block and bin; bins are single values, or 4096 of equal counts where there are more."""
    edges = np.unique(values)
    if len(edges) > _MOST_BINS:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, _MOST_BINS)))
    at = np.searchsorted(edges, values, side="left")
    blocks = weights.shape[1]
    counts = np.bincount(number * len(edges) + at, minlength=blocks * len(edges)).reshape(blocks, len(edges))
    reached = np.cumsum(weights.astype(np.float64) @ counts, axis=1)
    wanted = (reached[:, -1:] - 1) * percent / 100 + 1
    percentiles = edges[np.argmax(reached >= wanted - 1e-9, axis=1)]
    return np.where(reached[:, -1] > 0, percentiles, np.nan)


def _point(sample: RunValues, estimand: Estimand) -> float:
    """The statistic of a whole sample, on the scale of the effect."""
    if estimand.statistic == "mean":
        value = float(sample.values.mean())
    else:
        value = float(np.percentile(sample.values, float(estimand.statistic[1:])))
    return float(_scaled(np.asarray([value]), estimand)[0])


def _scaled(values: Floats, estimand: Estimand) -> Floats:
    if not estimand.ratio:
        return values
    return np.log(np.where(values > 0, values, np.nan))
