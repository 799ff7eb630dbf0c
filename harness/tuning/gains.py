"""Gains: how one configuration compares with another, as values, a ratio and its interval.

The gain is the mean of the rounds' log ratios with Student's interval. That one of several candidates may win by luck
widens it (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.messages import Message, message
from harness.scenario.study import is_latency, unit_of
from harness.statistics.intervals import CONFIDENCE, student_t
from harness.statistics.time_series import trend
from harness.tuning.types import MINIMISE, StudyObjective
from harness.units import time_scale

DEFAULT = 0
FEWEST_ROUNDS = 3  # of two rounds the interval would be thirteen standard errors wide


@dataclass(frozen=True, slots=True)
class GainEstimate:
    """How one configuration compares with another: a ratio (1.18: 18 % better), its interval, its worst round.

    `before` and `after` are the geometric means of both over the rounds, `worst` and `best` the second one's own
    values, all in the unit of the objective `name`. Of a `minimised` one less is better: the ratio of its values is
    the inverse of `ratio`. `low` and `high` are None where there were too few rounds, or where one gave no value.
    """

    ratio: float | None
    low: float | None
    high: float | None
    rounds: int
    worst: float | None = None
    best: float | None = None
    failed: int = 0
    before: float | None = None
    after: float | None = None
    name: str = ""
    minimised: bool = False

    @property
    def shown(self) -> bool:
        """Whether it is shown to be better."""
        return self.low is not None and self.low > 1

    @property
    def change(self) -> tuple[float | None, float | None, float | None]:
        """The second one's value over the first one's, with its interval."""
        if not self.minimised:
            return self.ratio, self.low, self.high
        return _inverse(self.ratio), _inverse(self.high), _inverse(self.low)

    @property
    def message(self) -> Message:
        """`3.34 → 4.57 req/s (×1.37, 95 % CI 1.31-1.44)`, or that there is no significant difference."""
        if self.ratio is None and self.failed:
            return message("tuning.rounds_failed", failed=self.failed, rounds=self.rounds, count=self.rounds)
        if self.ratio is None:
            return message("tuning.no_rounds")
        ratio, low, high = self.change
        values = values_message(self.name, self.before, self.after)
        if self.low is None or self.high is None:
            return message("tuning.few_rounds", values=values, ratio=ratio, rounds=self.rounds, count=self.rounds)
        significant = self.low > 1 or self.high < 1
        code = "tuning.ratio" if significant else "tuning.ratio_not_significant"
        return message(code, values=values, ratio=ratio, low=low, high=high)

    def as_dict(self) -> dict[str, Any]:
        """As study.json keeps it: every number, the unit, and the line in English and as a message."""
        words = {"words": str(self.message), "message": self.message.as_dict(), "shown": self.shown}
        return asdict(self) | {"unit": unit_of(self.name)} | words


def worst_message(gain: GainEstimate) -> Message:
    """A gain in a line, with the worst of its runs."""
    return gain.message if gain.worst is None else message("tuning.gain_worst", gain=gain.message, worst=gain.worst)


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def values_message(name: str, before: float | None, after: float | None) -> Message:
    """`3.34 → 4.57 req/s`: two values of a metric in one unit."""
    size, unit = 1.0, unit_of(name)
    if is_latency(name):
        size, unit = time_scale(max(before or 0.0, after or 0.0))
    values = {"before": _scaled(before, size), "after": _scaled(after, size)}
    return message("tuning.values_in", unit=unit, **values) if unit else message("tuning.values", **values)


def _scaled(value: float | None, size: float) -> float | None:
    return None if value is None else value / size


def percent_of(ratio: float) -> float:
    """A ratio as a change in per cent."""
    return 100 * (ratio - 1)


def estimate_gain(
    defaults: Sequence[float | None], candidates: Sequence[float | None], objective: StudyObjective, compared: int = 1
) -> GainEstimate:
    """The gain of one candidate over the default, value by value of the same round (None, or infinite: it failed).

    `compared` is how many candidates are held against the default: each interval is then so wide
    that all of them hold together with 95 %.
    """
    rounds = list(zip(defaults, candidates, strict=True))
    sign = 1 if objective.better(2.0, 1.0) else -1
    ratios = [sign * math.log(own / base) for base, own in rounds if _usable(base) and _usable(own)]  # type: ignore[operator]
    values = sorted((value for _, value in rounds if _usable(value)), key=objective.cost)  # type: ignore[arg-type]
    failed = len(rounds) - len(ratios)
    ends = (values[-1], values[0]) if values else (None, None)
    if not ratios or failed:
        return GainEstimate(None, None, None, len(rounds), *ends, failed)
    low, high = _reach(ratios, compared)
    means = (_geometric_mean(defaults), _geometric_mean(candidates))
    minimised = objective.direction == MINIMISE
    ratio = math.exp(sum(ratios) / len(ratios))
    return GainEstimate(ratio, low, high, len(rounds), *ends, 0, *means, objective.name, minimised)


def _geometric_mean(values: Sequence[float | None]) -> float:
    return math.exp(sum(math.log(value) for value in values if value) / len(values))


def _usable(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _reach(ratios: Sequence[float], compared: int) -> tuple[float | None, float | None]:
    n = len(ratios)
    if n < FEWEST_ROUNDS:
        return None, None
    mean, error = float(np.mean(ratios)), float(np.std(ratios, ddof=1)) / math.sqrt(n)
    reach = student_t(1 - (1 - CONFIDENCE) / 2 / compared, n - 1) * error
    return math.exp(mean - reach), math.exp(mean + reach)


def choose_winner(gains: Mapping[int, GainEstimate]) -> int:
    """Who is taken: of the candidates that are shown to be better the one that gains most, else the default (0)."""
    significant_gains = {who: gain.ratio or 0.0 for who, gain in gains.items() if gain.shown}
    return max(significant_gains, key=lambda who: (significant_gains[who], -who), default=DEFAULT)


def gains_over_default(
    values: Mapping[int, Sequence[float | None]], objective: StudyObjective
) -> dict[int, GainEstimate]:
    """The gain of each candidate (1…) over the default (0), from their values round by round."""
    candidates = [who for who in values if who != DEFAULT]
    return {who: estimate_gain(values[DEFAULT], values[who], objective, len(candidates)) for who in sorted(candidates)}


def drift_warning(values: Sequence[float]) -> Message | None:
    """A trend of the default's own values over the rounds, or None where there is none.

    The slope's t has to exceed that of a 99 % interval, since every confirmation is looked at.
    """
    if len(values) < 4:
        return None
    fit = trend(np.asarray(values, dtype=np.float64))
    if abs(fit.significance) <= student_t(0.995, len(values) - 2):
        return None
    return message("tuning.default_drifted", change=percent_of(fit.last / fit.first))
