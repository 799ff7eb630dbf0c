"""Series of consecutive values: how many independent ones they are worth, where they settle, and their trend.

Latencies of a queue rise and fall together, so that n of them bound their mean no better than
n / times independent values would, `times` being one plus twice the sum of their correlations.
That sum is estimated by Geyer's initial monotone sequence (Statistical Science 7, 1992), of the
values and of their ranks, and from the means of sixteen batches; the largest counts, as every
one of them is too small where the run is short. A run that never saw a long busy period looks
calmer than the engine is. So values that resemble each other must be worth many independent ones
before they bound anything (`LEAST_EFFECTIVE`), and what they bound is widened until they are worth
many more. Both numbers are chosen by the coverage that `python -m benchmarks intervals` measures.
"""

import math
from dataclasses import dataclass

import numpy as np

from harness.statistics.intervals import Floats

MOST_POINTS = 16384  # longer series are looked at as means of consecutive values
LEAST_EFFECTIVE = 60.0  # independent values that a series must be worth, where neighbours resemble each other
SHORT = 150  # values: in so short a series twice as many, since its correlations are known less well
LEAST_INDEPENDENT = 30.0  # likewise where they do not
SURE_ALIKE = 2.6  # standard errors of a sum of correlations
LAGS = (1, 4, 16)  # correlations are added up to each of these
SURE_UNEVEN = 3.0  # variance of eight means over that of independent values (chi²(7) / 7: one in 250 is above)
FEW_BATCHES, MORE_BATCHES = 8, 16
FEWEST_VALUES = 2 * MORE_BATCHES
MSER_BATCH = 5


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """What a series of `n` values is worth: `times` as many as independent ones would do; `alike`: they are not so."""

    n: int
    times: float
    alike: bool

    @property
    def effective(self) -> float:
        """How many independent values bound the mean as well."""
        return self.n / self.times

    @property
    def least(self) -> float:
        """How many independent values such a series must be worth."""
        return LEAST_EFFECTIVE * (1 + SHORT / self.n) if self.alike else LEAST_INDEPENDENT

    @property
    def lacking(self) -> float:
        """How many times as long the series would have to be; at most 1: it is long enough."""
        return max(self.least / self.effective, FEWEST_VALUES / self.n)

    @property
    def dof(self) -> int:
        """Degrees of freedom of an error that is estimated from it."""
        return round(max(2.0, min(self.n - 1, self.effective / 4)))

    def widening(self, most: float) -> float:
        """By which factor an error is widened for what the series may not have seen: up to 1 + `most`."""
        if not self.alike:
            return 1.0
        return 1 + most * (1 - 1 / self.times) * min(1.0, LEAST_EFFECTIVE / self.effective)


def autocorrelation_of(series: Floats) -> Autocorrelation:
    """What a series is worth, its values in the order of time."""
    n = len(series)
    if n < 3 or float(np.ptp(series)) == 0:
        return Autocorrelation(n, 1.0, alike=False)
    points, growth = _thinned(series)
    views = [points, _ranks(points)]
    known = [correlations(view) for view in views]
    uneven = max(_growth_of_means(view, FEW_BATCHES) for view in views)
    alike = uneven > SURE_UNEVEN or any(_is_alike(factors) for factors in known)
    factors = [_summed(series_correlations) for series_correlations in known] + [
        _growth_of_means(view, MORE_BATCHES) for view in views
    ]
    times = max(1.0, growth * max(*factors, uneven if alike else 1.0))
    return Autocorrelation(n, times, alike)


def variance_factor(series: Floats) -> float:
    """One plus twice the sum of the correlations, at least 1."""
    if len(series) < 3 or float(np.ptp(series)) == 0:
        return 1.0
    points, growth = _thinned(series)
    return max(1.0, growth * _summed(correlations(points)))


def correlations(series: Floats) -> Floats:
    """Correlations of a series with itself, by lag from 0; all 0 but the first where it does not vary."""
    n = len(series)
    left = series - series.mean()
    size = 1 << (2 * n - 1).bit_length()
    waves = np.fft.rfft(left, size)
    products = np.fft.irfft(waves.real**2 + waves.imag**2, size)[:n]
    return np.asarray(products / products[0]) if products[0] > 0 else np.eye(1, n)[0]


def _thinned(series: Floats) -> tuple[Floats, float]:
    """At most `MOST_POINTS` means of consecutive values, and their variance over that of independent means."""
    size = -(-len(series) // MOST_POINTS)
    if size == 1:
        return series, 1.0
    means = series[: len(series) // size * size].reshape(-1, size).mean(axis=1)
    return means, size * float(means.var()) / float(series.var())


def _ranks(series: Floats) -> Floats:
    """Ranks, equal values sharing theirs: correlations of ranks do not depend on a few large values."""
    ordered = np.sort(series)
    below, upto = (np.searchsorted(ordered, series, side=side) for side in ("left", "right"))
    return np.asarray((below + upto) / 2, dtype=np.float64)


def _summed(known: Floats) -> float:
    """Geyer's initial monotone sequence: pairs of correlations are added while positive, none above the one before."""
    pairs = known[: len(known) // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    kept = pairs[: negative[0]] if len(negative) else pairs
    return 2 * float(np.minimum.accumulate(kept).sum()) - 1 if len(kept) else 1.0


def _is_alike(known: Floats) -> bool:
    """Whether correlations, added up to any of `LAGS`, exceed what independent values show (mean -lag / n)."""
    n = len(known)
    added = np.cumsum(known[1:])
    return any((added[lag - 1] + lag / n) / math.sqrt(lag / n) > SURE_ALIKE for lag in LAGS if lag < n // 4)


def _growth_of_means(series: Floats, batches: int) -> float:
    """Variance of the means of so many batches over that of independent values; 1 where the values are too few."""
    size = len(series) // batches
    if size < 2:
        return 1.0
    means = series[: size * batches].reshape(batches, size).mean(axis=1)
    square = float(series.var(ddof=1))
    return size * float(means.var(ddof=1)) / square if square else 1.0


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
