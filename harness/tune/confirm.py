"""Is the winner really better than the default, by how much, and how sure is that?

The best few and the default are measured again in turns: every round all of them, each round under
arrivals of its own that nothing was chosen by, every other round in reverse, so that a
slow drift of the machine cancels. The gain is the mean of the rounds' log ratios with Student's
interval; that one of several candidates may win by luck widens it (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats import CONFIDENCE, student_t, trend
from harness.tune.words import Objective
from harness.units import significant

DEFAULT = 0
FEWEST_ROUNDS = 3  # of two rounds the interval would be thirteen standard errors wide


@dataclass(frozen=True, slots=True)
class Turn:
    """One measurement of the confirmation: which round, who (0: the default, 1…: a candidate), under which seed."""

    round: int
    who: int
    seed: int


def turns(order: Sequence[int], rounds: int, seed: int) -> tuple[Turn, ...]:
    """All measurements of those in `order`: each round goes through it the other way than the one before."""
    return tuple(
        Turn(number, who, seed + number)
        for number in range(rounds)
        for who in (order if number % 2 == 0 else reversed(order))
    )


@dataclass(frozen=True, slots=True)
class Gain:
    """How a candidate compares with the default: a ratio (1.18: 18 % better), its interval, its worst round.

    `low` and `high` are None where there were too few rounds, or where one gave no value. `best` and `worst` are the
    candidate's own values, in the objective's unit.
    """

    ratio: float | None
    low: float | None
    high: float | None
    rounds: int
    worst: float | None = None
    best: float | None = None
    failed: int = 0

    @property
    def shown(self) -> bool:
        """Whether it is shown to be better."""
        return self.low is not None and self.low > 1

    @property
    def words(self) -> str:
        """`+18 % (95 % CI 12-24)`, or that no difference was shown."""
        if self.ratio is None:
            why = f"{self.failed} of {self.rounds} rounds failed" if self.failed else "no round was measured"
            return f"no difference shown: {why}"
        if self.low is None or self.high is None:
            return f"no difference shown: {_percent(self.ratio)} in {self.rounds} rounds, too few for an interval"
        interval = f"95 % CI {_interval(self.low, self.high)}"
        if self.low > 1 or self.high < 1:
            return f"{_percent(self.ratio)} ({interval})"
        return f"no difference shown ({_percent(self.ratio)}, {interval})"


def _percent(ratio: float) -> str:
    change = 100 * (ratio - 1)
    return f"{'+' if change >= 0 else '-'}{significant(abs(change), 2)} %"


def _interval(low: float, high: float) -> str:
    ends = [100 * (end - 1) for end in (low, high)]
    if ends[0] >= 0:
        return f"{significant(ends[0], 2)}-{significant(ends[1], 2)}"
    return " to ".join(f"{'-' if end < 0 else '+'}{significant(abs(end), 2)}" for end in ends)


def gain(
    defaults: Sequence[float | None], candidates: Sequence[float | None], objective: Objective, compared: int = 1
) -> Gain:
    """The gain of one candidate over the default, value by value of the same round (None, or infinite: it failed).

    `compared` is how many candidates are held against the default: each interval is then so wide
    that all of them hold together with 95 %.
    """
    rounds = list(zip(defaults, candidates, strict=True))
    sign = 1 if objective.better(2.0, 1.0) else -1
    ratios = [sign * math.log(own / base) for base, own in rounds if _usable(base) and _usable(own)]  # type: ignore[operator]
    own = sorted((one for _, one in rounds if _usable(one)), key=objective.cost)  # type: ignore[arg-type]
    failed = len(rounds) - len(ratios)
    ends = (own[-1], own[0]) if own else (None, None)
    if not ratios or failed:
        return Gain(None, None, None, len(rounds), *ends, failed)
    low, high = _reach(ratios, compared)
    return Gain(math.exp(sum(ratios) / len(ratios)), low, high, len(rounds), *ends)


def _usable(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _reach(ratios: Sequence[float], compared: int) -> tuple[float | None, float | None]:
    n = len(ratios)
    if n < FEWEST_ROUNDS:
        return None, None
    mean, error = float(np.mean(ratios)), float(np.std(ratios, ddof=1)) / math.sqrt(n)
    reach = student_t(1 - (1 - CONFIDENCE) / 2 / compared, n - 1) * error
    return math.exp(mean - reach), math.exp(mean + reach)


def chosen(gains: Mapping[int, Gain]) -> int:
    """Who is taken: of the candidates that are shown to be better the one that gains most, else the default (0)."""
    shown = {who: one.ratio or 0.0 for who, one in gains.items() if one.shown}
    return max(shown, key=lambda who: (shown[who], -who), default=DEFAULT)


def confirmation(values: Mapping[int, Sequence[float | None]], objective: Objective) -> dict[int, Gain]:
    """The gain of each candidate (1…) over the default (0), from their values round by round."""
    candidates = [who for who in values if who != DEFAULT]
    return {who: gain(values[DEFAULT], values[who], objective, len(candidates)) for who in sorted(candidates)}


def drift(values: Sequence[float]) -> str | None:
    """What the default's own values say of the machine: a trend over the rounds, or None where there is none.

    The slope's t has to exceed that of a 99 % interval, since every confirmation is looked at.
    """
    if len(values) < 4:
        return None
    found = trend(np.asarray(values, dtype=np.float64))
    if abs(found.significance) <= student_t(0.995, len(values) - 2):
        return None
    change = _percent(found.last / found.first)
    return f"the default itself changed by {change} from the first round to the last: the machine was not at rest"
