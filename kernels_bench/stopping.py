"""When there are enough samples: a rule on numbers alone, without clock or device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

SECTIONS = 5
T95 = 2.776  # Student's t of their four degrees of freedom, two-sided 95 %
LEAST_A_SECTION = 4
LOOKS = 20  # the noise is judged at every twentieth sample more: a rule that always looks stops at a lucky moment
Z95 = 1.96  # two-sided 95 % of the normal distribution
FEWEST_FOR_INTERVAL = 6  # 2 × (1/2)^6 = 3 % < 5 %: from six values on, least and largest hold the median


@dataclass(frozen=True, slots=True)
class Rule:
    """Bounds between which the noise decides.

    `noise` is the half width of the 95 % interval of the median, relative to the median, that is good enough.
    """

    noise: float = 0.01
    min_samples: int = 10
    max_samples: int = 300
    min_time_s: float = 0.2
    max_time_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Why sampling ended: `quiet` (the noise is low enough), `samples` or `time` (a bound was met first)."""

    reason: str
    noise: float
    """What was reached; infinite where the values are too few to tell."""


def decide(values: Sequence[float], spent_s: float, rule: Rule) -> Stop | None:
    """Whether to stop after these values, which took `spent_s` to collect; None: go on.

    At least one value is always taken. A bound on time beats the least number of samples, so that a kernel of a
    minute does not take ten.
    """
    if not values:
        return None
    if len(values) >= rule.max_samples:
        return Stop("samples", noise_of(values))
    if spent_s >= rule.max_time_s:
        return Stop("time", noise_of(values))
    if len(values) < rule.min_samples or spent_s < rule.min_time_s:
        return None
    if len(values) % max(1, len(values) // LOOKS):
        return None
    reached = noise_of(values)
    return Stop("quiet", reached) if reached <= rule.noise else None


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return float(ordered[middle]) if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval of the median of independent values, free of any distribution; None for fewer than six.

    Ranks l and n + 1 - l with l = floor((n - 1.96 sqrt(n)) / 2), at least 1: the normal approximation of the
    binomial, rounded outward (Conover, Practical Nonparametric Statistics, 1999, 3.2).
    """
    n = len(values)
    if n < FEWEST_FOR_INTERVAL:
        return None
    ordered = sorted(values)
    low = max(1, math.floor((n - Z95 * math.sqrt(n)) / 2))
    return float(ordered[low - 1]), float(ordered[n - low])


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """A 95 % interval of the median of values in the order they were taken; None for fewer than six.

    The wider of two: that of ranks, which takes values for independent, and Student's t of the medians of five sections
    (batch means; Law, Simulation Modeling and Analysis, 2015, 9.5.3). Times that follow each other are alike, for they
    share a clock and neighbours, and where both change during a series the ranks claim too much.
    """
    ranks = median_interval(values)
    if ranks is None or len(values) < SECTIONS * LEAST_A_SECTION:
        return ranks
    reach = T95 * _error_of_sections(values)
    return min(ranks[0], median(values) - reach), max(ranks[1], median(values) + reach)


def _error_of_sections(values: Sequence[float]) -> float:
    """The standard error of the mean of the sections' medians; what is left over at the end has no section."""
    length = len(values) // SECTIONS
    return stdev([median(values[at * length :][:length]) for at in range(SECTIONS)]) / math.sqrt(SECTIONS)


def noise_of(values: Sequence[float]) -> float:
    """Half the width of the median's 95 % interval, relative to the median; infinite where there is none."""
    interval = interval_of(values)
    middle = median(values)
    return math.inf if interval is None or middle <= 0 else (interval[1] - interval[0]) / 2 / middle
