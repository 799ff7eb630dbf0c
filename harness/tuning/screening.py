"""Which candidates does the twin hold for the best, and may it still be believed?

The twin answers in virtual time, in a fraction of a second, with coefficients that are not this
device's. Only its order counts: Kendall's τ between what it said and what was measured is followed as
the study goes. It is dropped where that order is no better than chance, and taken up again when it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from harness.statistics.intervals import CONFIDENCE
from harness.tuning.types import Limit, Objective
from harness.units import significant

FEWEST_PAIRS = 5  # below them the interval of τ spans nearly everything
LEAST_TAU = 0.1  # an order that is right in 55 of 100 pairs is worth nothing
RECOVERY = 0.25  # so far above it the twin has to come to be believed again


@dataclass(frozen=True, slots=True)
class Agreement:
    """Kendall's τ-b of `pairs` trials with its 95 % interval (None where there are too few), and whether to trust."""

    pairs: int
    tau: float | None = None
    low: float | None = None
    high: float | None = None
    trusted: bool = True

    @property
    def words(self) -> str:
        """The agreement in one line."""
        if self.tau is None or self.low is None or self.high is None:
            return f"{self.pairs} trials are too few to tell whether the twin orders them rightly"
        verdict = "it orders candidates" if self.trusted else "dropped: its order misleads"
        interval = f"95 % CI {significant(self.low, 2)} to {significant(self.high, 2)}"
        return f"Kendall's τ {significant(self.tau, 2)} ({interval}) over {self.pairs} trials; {verdict}"


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's τ-b of two orders, ties allowed; None where one of them is all ties."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(values[upper[0]] - values[upper[1]]) for values in (a, b))
    untied = float(np.abs(x).sum()) * float(np.abs(y).sum())
    return float(x @ y) / math.sqrt(untied) if untied else None


def agreement(pairs: Sequence[tuple[float, float]], least_tau: float = LEAST_TAU) -> Agreement:
    """How predicted and measured values of the trials so far agree, in the order in which they came.

    The interval is Fisher's z with variance 0.437 / (n - 4) (Fieller, Hartley and Pearson, Biometrika 44,
    1957). Whether the twin is trusted depends on the way there: dropped at `least_tau` or below, it has
    to come back to 0.25 more.
    """
    trusted = True
    found = Agreement(len(pairs))
    for count in range(FEWEST_PAIRS, len(pairs) + 1):
        found = _interval(pairs[:count])
        if found.tau is not None:
            trusted = found.tau > (least_tau if trusted else min(least_tau + RECOVERY, 0.9))
    return Agreement(found.pairs, found.tau, found.low, found.high, trusted)


def _interval(pairs: Sequence[tuple[float, float]]) -> Agreement:
    tau = kendall_tau([one for one, _ in pairs], [other for _, other in pairs])
    if tau is None or len(pairs) <= 4:
        return Agreement(len(pairs), tau)
    middle = math.atanh(max(-0.999, min(0.999, tau)))
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(0.437 / (len(pairs) - 4))
    return Agreement(len(pairs), tau, math.tanh(middle - reach), math.tanh(middle + reach))


@dataclass(frozen=True, slots=True)
class Screened:
    """What the twin said of one candidate: metrics by name; empty where it would not start."""

    metrics: Mapping[str, float]


def ordered(screened: Sequence[Screened], objective: Objective, limits: Sequence[Limit] = ()) -> list[int]:
    """The candidates' places, the most promising first.

    Those that keep every limit by value, then those that break one by how much, then those that would not start.
    """
    return sorted(range(len(screened)), key=lambda place: (*_rank(screened[place], objective, limits), place))


def _rank(one: Screened, objective: Objective, limits: Sequence[Limit]) -> tuple[int, float]:
    value = one.metrics.get(objective.name)
    if value is None or math.isnan(value):
        return 2, 0.0
    broken = sum(max(0.0, limit.violation(one.metrics.get(limit.name, math.inf))) for limit in limits)
    return (1, broken) if broken > 0 else (0, objective.cost(value))
