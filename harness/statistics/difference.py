"""Differences of two values with their standard errors, and Holm's procedure for many tests at once.

Pure arithmetic. An effect is ln(new / base), or new - base where the values are shares; its
standard error comes from repeats (`by_pairs`, `by_groups`), from blocks of consecutive
requests (`harness.statistics.bootstrap`) or from the order of values (`by_ranks`). Several effects are
judged together by Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979): the
chance that any of them is called a difference where there is none stays at most `alpha`,
whatever they share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.distributions import distribution
from harness.statistics.intervals import Floats, order_ranks, student_t, student_t_above
from harness.statistics.time_series import FEWEST_VALUES

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
