"""What do some numbers say together, and how far may that be off?

Pure arithmetic on numpy arrays. Measurements of a server come one after another and resemble
their neighbours, so that errors of batches (Schmeiser, "Batch size effects in the analysis of
simulation output", Operations Research 30, 1982: ten to thirty) are corrected for what the batches
still share with their neighbours. Intervals of statistics are made in `harness.statistics.distributions`.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
CONFIDENCE = 0.95
MOST_BATCHES = 30
FEWEST_BATCHES = 5  # below 25 values an interval would rest on fewer than five batches
MSER_BATCH = 5
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def percentile_name(percent: float) -> str:
    """`p99`, `p99.9`: the name of a percentile."""
    return f"p{percent:g}"


def percentile_of(ordered: Floats, percent: float) -> float:
    """A percentile of sorted values, linear between ranks: numpy's default, type 7 of Hyndman and Fan (1996)."""
    at = (len(ordered) - 1) * percent / 100
    low = math.floor(at)
    below, above = float(ordered[low]), float(ordered[min(low + 1, len(ordered) - 1)])
    # Infinite neighbours (failures) have no point between them.
    return below if at == low or below == above else below + (above - below) * (at - low)


def percentile_with_failures(values: Floats, failures: int, percent: float) -> float | None:
    """The percentile when each failure counts as an infinite value; None where there is nothing."""
    if len(values) + failures == 0:
        return None
    return percentile_of(np.concatenate([np.sort(values), np.full(failures, np.inf)]), percent)


def batch_starts(n: int) -> NDArray[np.int64]:
    """Where each of min(30, sqrt(n)) batches of consecutive values begins; sizes differ by at most one."""
    batches = max(1, min(MOST_BATCHES, math.isqrt(n)))
    return np.arange(batches, dtype=np.int64) * n // batches


def batch_error(sums: Floats, counts: Floats) -> float:
    """Standard error of sum(sums) / sum(counts), each pair being one batch of consecutive values.

    The ratio estimator's error (Cochran, Sampling Techniques, 1977, 6.4) over batches, widened by
    (1 + r) / (1 - r) where neighbouring batches still resemble each other (lag-one correlation
    r > 0): the correction of a first-order autoregression, as in ASAP3 (Steiger et al. 2005).
    """
    batches = len(sums)
    left = sums - counts * (sums.sum() / counts.sum())
    square = float(left @ left)
    if square == 0:
        return 0.0
    alike = min(max(0.0, float(left[:-1] @ left[1:]) / square), 0.9)
    variance = square / (batches * (batches - 1)) * (1 + alike) / (1 - alike)
    return math.sqrt(variance) / float(counts.mean())


def order_ranks(n: int, level: float) -> tuple[int, int] | None:
    """Ranks l, u such that the l-th and u-th of n independent values hold the quantile with 95 %.

    P(Bin(n, level) < l) <= 2.5 % and P(Bin(n, level) >= u) <= 2.5 % (David and Nagaraja, Order
    Statistics, 2003, 7.1). None where n is too small for either: a p99 needs 368 values.
    """
    tail = (1 - CONFIDENCE) / 2
    if n < 1 or level**n > tail or (1 - level) ** n > tail:
        return None
    first, cumulative = _binomial(n, level)
    low = first + int(np.searchsorted(cumulative, tail, side="right"))
    high = first + int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    return max(low, 1), min(high, n)


def _binomial(n: int, level: float) -> tuple[int, Floats]:
    """P(Bin(n, level) <= k) for k = first, first + 1, … around the mean, far enough for any tail of use."""
    reach = 9 * math.sqrt(n * level * (1 - level)) + 25
    first, last = max(0, math.floor(n * level - reach)), min(n, math.ceil(n * level + reach))
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + math.log(level / (1 - level))
    start = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    start += first * math.log(level) + (n - first) * math.log1p(-level)
    return first, np.cumsum(np.exp(start + np.concatenate([[0.0], np.cumsum(steps)])))


def samples_needed(percent: float) -> int:
    """How many independent values bound a percentile from above with 95 % confidence.

    The largest of n values is above the quantile unless all n fall below it, which happens
    with level^n; that is at most 5 % from n = ln 0.05 / ln level on: 59 for p95, 299 for p99.
    """
    return 1 if percent <= 0 else math.ceil(math.log(1 - CONFIDENCE) / math.log(percent / 100))


@functools.cache
def student_t(probability: float, dof: float) -> float:
    """Quantile of Student's t with `dof` > 0 degrees of freedom, to about 1e-9, by bisection of `_t_mass`."""
    if probability < 0.5:
        return -student_t(1 - probability, dof)
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_mass(middle, dof) < probability - 0.5 else (low, middle)
    return math.sqrt(dof) * math.tan(low)


def student_t_above(t: float, dof: float) -> float:
    """Probability that Student's t with `dof` > 0 degrees of freedom exceeds t."""
    return max(0.0, min(1.0, 0.5 - math.copysign(_t_mass(math.atan(abs(t) / math.sqrt(dof)), dof), t)))


def _t_mass(angle: float, dof: float) -> float:
    """Probability that t lies in [0, sqrt(dof) tan(angle)].

    With t = sqrt(dof) tan(a) it is the integral of cos(a)^(dof - 1) from 0 to the angle, over twice
    that to pi / 2 (Abramowitz and Stegun 26.7.1); Gauss-Legendre gives it.
    """
    whole = 2 * math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    angles = angle * (_NODES + 1) / 2
    return float(angle / 2 * (_WEIGHTS @ np.cos(angles) ** (dof - 1)) * whole / 2)


@dataclass(frozen=True, slots=True)
class Truncation:
    """Where a series settles, by MSER-5: from value `at` on; `shift` in standard errors says how sure that is.

    `before` and `after` are the means of the two parts (equal where nothing is cut).
    """

    at: int
    shift: float
    before: float
    after: float


def mser5_truncate(series: Floats) -> Truncation:
    """The truncation that MSER-5 chooses for a series with a possible start-up.

    White, Cobb and Spratt, "A comparison of five steady-state truncation heuristics for
    simulation", WSC 2000: over means of five, the cut d with the least sum of squares about the
    remaining mean / (k - d)². Cuts beyond the middle are no candidates: one quiet end would win.
    """
    means = series[: len(series) // MSER_BATCH * MSER_BATCH].reshape(-1, MSER_BATCH).mean(axis=1)
    k = len(means)
    if k <= MSER_BATCH:
        return Truncation(0, 0.0, float(series.mean()), float(series.mean()))
    left = np.arange(k, 0, -1)
    sums, squares = np.cumsum(means[::-1])[::-1], np.cumsum(means[::-1] ** 2)[::-1]
    scores = (np.maximum(squares - sums**2 / left, 0) / left**2)[: k // 2 + 1]
    cut = int(np.argmin(scores))
    after = float(means[cut:].mean())
    before = float(means[:cut].mean()) if cut else after
    return Truncation(cut * MSER_BATCH, _shift(means, cut), before, after)


def _shift(means: Floats, cut: int) -> float:
    """How many standard errors the mean before the cut lies from the mean after it (0 without a cut)."""
    if cut == 0:
        return 0.0
    kept = means[cut:]
    error = math.sqrt(float(kept.var(ddof=1)) * autocorrelation_factor(kept) * (1 / cut + 1 / len(kept)))
    apart = abs(float(means[:cut].mean() - kept.mean()))
    return 0.0 if apart == 0 else math.inf if error == 0 else apart / error


def autocorrelation_factor(series: Floats) -> float:
    """How much resembling neighbours add to the variance of a mean: (1 + r) / (1 - r), r the lag-one correlation."""
    left = series - series.mean()
    square = float(left @ left)
    alike = 0.0 if square == 0 else min(max(0.0, float(left[:-1] @ left[1:]) / square), 0.95)
    return (1 + alike) / (1 - alike)


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through a series: its values at both ends, and its slope in standard errors."""

    first: float
    last: float
    significance: float


def trend(series: Floats) -> Trend:
    """The least-squares line of equally spaced values, its slope's t widened for resembling neighbours.

    Residuals of a first-order autoregression make the slope's variance (1 + r) / (1 - r) times
    what independent ones would (Santer et al. 2000, J. Geophys. Res. 105, adjusted t).
    """
    n = len(series)
    if n < 3:
        return Trend(float(series[0]), float(series[-1]), 0.0)
    x = np.arange(n) - (n - 1) / 2
    slope = float(x @ series / (x @ x))
    residuals = series - series.mean() - slope * x
    error = math.sqrt(float(residuals @ residuals) / (n - 2) / float(x @ x) * autocorrelation_factor(residuals))
    reach = slope * (n - 1) / 2
    middle = float(series.mean())
    steep = 0.0 if slope == 0 else math.copysign(math.inf, slope) if error == 0 else slope / error
    return Trend(middle - reach, middle + reach, steep)
