"""Percentiles, standard errors of batch means, and the quantiles that confidence intervals rest on.

Pure arithmetic on numpy arrays. Measurements of a server come one after another and resemble
their neighbours, so that errors of batches (Schmeiser, "Batch size effects in the analysis of
simulation output", Operations Research 30, 1982: ten to thirty) are corrected for what the batches
still share with their neighbours. Intervals of statistics are made in `harness.statistics.distributions`.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit  # scipy.stats would take a second to import

Floats = NDArray[np.float64]

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
CONFIDENCE = 0.95
MOST_BATCHES = 30
FEWEST_BATCHES = 5  # below 25 values an interval would rest on fewer than five batches


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
    reach = 9 * math.sqrt(n * level * (1 - level)) + 25  # beyond lies less than any tail of use
    first, last = max(0, math.floor(n * level - reach)), min(n, math.ceil(n * level + reach))
    cumulative = bdtr(np.arange(first, last, dtype=np.float64), n, level)
    low = first + int(np.searchsorted(cumulative, tail, side="right"))
    high = first + int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    return max(low, 1), min(high, n)


def samples_needed(percent: float) -> int:
    """How many independent values bound a percentile from above with 95 % confidence.

    The largest of n values is above the quantile unless all n fall below it, which happens
    with level^n; that is at most 5 % from n = ln 0.05 / ln level on: 59 for p95, 299 for p99.
    """
    return 1 if percent <= 0 else math.ceil(math.log(1 - CONFIDENCE) / math.log(percent / 100))


@functools.cache
def student_t(probability: float, dof: float) -> float:
    """Quantile of Student's t with `dof` > 0 degrees of freedom."""
    return float(stdtrit(dof, probability))


def student_t_above(t: float, dof: float) -> float:
    """Probability that Student's t with `dof` > 0 degrees of freedom exceeds t."""
    return float(stdtr(dof, -t))
