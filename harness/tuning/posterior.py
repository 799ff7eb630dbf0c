"""How far would a value wander if the device ran a little faster or slower?

Runs of one configuration differ by a per cent or two in pace. A throughput differs by as much; the requests within an
SLO are many more or many fewer where most of them lie near a limit. Both are told from the run's own requests:
all its times are stretched by some factors, and what would have been good is counted again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.steady_state import is_open
from harness.seeds import stream
from harness.tuning.space import Space, encoded, gaps
from harness.tuning.study_plan import Problem, Task, Verdict
from harness.tuning.surrogate import fit, normalised
from harness.tuning.trial_series import LATENCIES
from harness.tuning.types import LOAD, MAXIMISE, STOPPED, Measurement, Objective, Point, Trial

PACE = 0.015
"""Relative standard deviation of the pace of runs of one configuration, as devices at rest show it."""
_PLACES = np.asarray((-1.5, -0.75, 0.0, 0.75, 1.5))
_WEIGHTS = np.exp(-(_PLACES**2) / 2) / np.exp(-(_PLACES**2) / 2).sum()


@dataclass(frozen=True, slots=True)
class Wander:
    """What runs at other paces come to: the mean value, and the relative standard deviation around it."""

    mean: float
    deviation: float


def wander(problem: Problem, measured: Measurement, name: str) -> Wander | None:
    """Of an objective, from one measurement; None where it has no such value."""
    own = measured.metrics.get(name, math.nan)
    if not math.isfinite(own):
        return None
    task = problem.tasks[0]
    limits = _wander_limits(task)
    told = limits.keys() <= {*LATENCIES} & measured.series.keys()
    if name != "goodput" or len(problem.tasks) > 1 or not limits or not told:
        return Wander(own, PACE)
    values = _rates(measured, limits, own, fixed_rate=is_open(task.stage.kind))
    mean = float(values @ _WEIGHTS)
    deviation = math.sqrt(float((values - mean) ** 2 @ _WEIGHTS))
    return Wander(mean, max(deviation / mean, PACE) if mean > 0 else 1.0)


def _wander_limits(task: Task) -> dict[str, float]:
    """Limits by the latencies that series have; in the user's view where a load is open, as the series are."""
    return {name.rpartition("_")[0].removesuffix("_user"): limit for name, limit in task.scenario.slo.items()}


def _rates(
    measured: Measurement, limits: Mapping[str, float], own: float, *, fixed_rate: bool
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The goodput at each pace: good requests of all, beside how many are good at the run's own pace."""
    factors = np.exp(PACE * _PLACES)
    known = {name: np.asarray(measured.series[name], dtype=np.float64) for name in limits}
    late = [~(known[name] * factors[:, None] <= limit) & ~np.isnan(known[name]) for name, limit in limits.items()]
    ended = np.isfinite(np.asarray(measured.series["done"], dtype=np.float64))
    good = (ended & ~np.logical_or.reduce(late)).sum(axis=1)
    here = float(good[len(_PLACES) // 2])
    rates = own * good / here if here else np.zeros(len(_PLACES))
    return np.asarray(rates if fixed_rate else rates / factors)


Floats = NDArray[np.float64]
_FLOOR = 0.02  # of the best value: below, rates count as equally bad
_ENOUGH = 3  # trials before a process is fitted
_LEAST_CHANCE = 0.02
_EARLY_DOUBT = 0.2  # of a value that was estimated from part of a load, on a scale of factors
_REACH = 0.3  # in the unit cube: so far from all that was tried, a model's deviation says too little


@dataclass(frozen=True, slots=True)
class Seen:
    """What one engine showed, at the load where it was best: `broken` sums what it violates."""

    point: Point
    effective: Mapping[str, Any]
    values: Mapping[str, float]
    violations: Mapping[str, float]
    twin: Mapping[str, float]
    twin_violations: Mapping[str, float]
    broken: float
    cost: float
    stopped: bool = False
    wander: float = 0.0
    """By which share of its value other runs of it would differ (standard deviation)."""
    course: tuple[float, ...] | None = None
    """How the twin sees its load go: the same where every step is."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a belief is made from: the engines seen, and what the twin says of the candidates (None: not asked)."""

    problem: Problem
    space: Space
    seen: Sequence[Seen]
    cheap: Sequence[Verdict | None] | None
    number: int


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of candidates: mean and deviation of their cost, of which less is better.

    `best` is the least cost so far that keeps all limits (None: none does), `limits` are mean and
    deviation of each limit's violation.
    """

    mean: Floats
    deviation: Floats
    best: float | None
    limits: tuple[tuple[Floats, Floats], ...]


def observed(problem: Problem, trials: Sequence[Trial]) -> list[Seen]:
    """The engines that gave values, in the order in which they were first tried."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.values:
            groups.setdefault(repr(sorted(engine_part(trial.point).items())), []).append(trial)
    return [_seen(problem, group) for group in groups.values()]


def engine_part(point: Point) -> dict[str, Any]:
    """A point without its load."""
    return {name: value for name, value in point.items() if not name.startswith(LOAD + ".")}


def _seen(problem: Problem, group: Sequence[Trial]) -> Seen:
    first = problem.objectives[0]

    def worth(trial: Trial) -> tuple[float, float]:
        return _broken(trial.violations), first.cost(trial.values[first.name])

    trial = min(group, key=worth)
    steady = None if trial.measurement is None else wander(problem, trial.measurement, first.name)
    stopped = trial.status == STOPPED
    values = dict(trial.values) if steady is None or stopped else {**trial.values, first.name: steady.mean}
    twin = {name: value for name, value in trial.twin.items() if not name.startswith("limit ")}
    limits = {name.partition(" ")[2]: value for name, value in trial.twin.items() if name.startswith("limit ")}
    return Seen(
        engine_part(trial.point), trial.effective, values, trial.violations, twin, limits,
        _broken(trial.violations), first.cost(values[first.name]), stopped, 0.0 if steady is None else steady.deviation,
    )  # fmt: skip


def _broken(violations: Mapping[str, float]) -> float:
    return sum(max(0.0, value) for value in violations.values())


def _logarithm(objective: Objective, values: Sequence[float]) -> Floats:
    """Values as costs on a scale of factors; what is far below the best counts as that bad and no worse."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    if objective.direction == MAXIMISE:
        floor = _FLOOR * max(known, default=1.0)
        return np.asarray([-math.log(max(value, floor)) for value in values])
    return normalised([math.log(value) if 0 < value < math.inf else math.inf for value in values])


def _violation(value: float) -> float:
    """A violation on a scale on which twice the limit is as far from it as half of it."""
    return math.log1p(max(value, -0.95)) if math.isfinite(value) else math.inf


def belief_of(told: Observed, rows: Floats) -> Belief:
    """The belief about candidates, given as encoded rows."""
    seen, count = told.seen, len(rows)
    if len(seen) < _ENOUGH:
        return Belief(np.zeros(count), np.ones(count), None, ())
    known = encoded(told.space, [one.point for one in seen])
    costs, cheap = _costs(told)
    shift = float(costs.mean())
    unsure = np.asarray([math.hypot(_EARLY_DOUBT * one.stopped, one.wander) for one in seen])
    process = fit(known, costs - shift, None if cheap is None else cheap[: len(seen)], unsure)
    mean, deviation = process.at(rows, None if cheap is None else cheap[len(seen) :])
    fitted, _ = process.at(known, None if cheap is None else cheap[: len(seen)])
    kept = [place for place, one in enumerate(seen) if one.broken <= 0 and not one.stopped]
    best = float(min(fitted[place] for place in kept)) if kept else None
    return Belief(mean, deviation, best, tuple(_limits(told, known, rows)))


def believed(problem: Problem, space: Space, seen: Sequence[Seen]) -> Floats:
    """What is believed of the cost of each engine seen, after all of them, the twin's word included where it is told.

    The best of many runs was lucky, too: what neighbours showed, and what the twin expects, takes some of that back.
    """
    told = [Verdict(one.twin, one.twin_violations) for one in seen]
    cheap = told if all(one.values for one in told) else None
    rows = encoded(space, [one.point for one in seen])
    if len(seen) < _ENOUGH or len(problem.objectives) > 1:
        return np.asarray([one.cost for one in seen])
    return belief_of(Observed(problem, space, seen, cheap, 0), rows).mean


def widened(belief: Belief, rows: Floats, known: Floats) -> Belief:
    """The belief of one who explores: far from all that was tried, as unsure as candidates differ among each other.

    A process that was fitted to few points near each other holds itself for surer than it may be.
    """
    far = gaps(rows, known).min(axis=1)
    spread = max(float(belief.mean.std()), float(belief.deviation.max()))
    deviation = np.maximum(belief.deviation, spread * (1 - np.exp(-((far / _REACH) ** 2))))
    return Belief(belief.mean, deviation, belief.best, belief.limits)


def doubt_of(rows: Floats, known: Floats, failed: NDArray[np.bool_]) -> Floats:
    """How likely candidates are to fail for reasons that nothing explains, by engines that did and did not.

    Near one that failed it is high; and a process through failures (1) and successes (0) finds out along
    which parameters they lie together.
    """
    if not failed.any():
        return np.zeros(len(rows))
    near = 0.8 * np.exp(-((gaps(rows, known[failed]) / 0.15) ** 2)).max(axis=1)
    if failed.all():
        return np.asarray(near)
    share = float(failed.mean())
    mean, _ = fit(known, failed.astype(np.float64) - share).at(rows)
    return np.asarray(np.maximum(near, np.clip(mean + share, 0.0, 0.97)))


def _costs(told: Observed) -> tuple[Floats, Floats | None]:
    """One cost of every engine seen; and of those and the candidates what the twin says, in the same scale.

    Several objectives are weighed at random each time, so that the whole front is looked for
    (Knowles 2006: the augmented Tchebycheff function).
    """
    objectives = told.problem.objectives
    weights = stream(told.problem.study.seed, "weights", told.number).dirichlet(np.ones(len(objectives)))
    own, twin = [], []
    for one in objectives:
        costs = _logarithm(one, [seen.values[one.name] for seen in told.seen])
        scale = float(costs.std()) or 1.0
        own.append((costs - costs.min()) / scale if len(objectives) > 1 else costs)
        cheap = _twin_values(told, one)
        if cheap is not None:
            cheap_costs = _logarithm(one, cheap)
            twin.append(cheap_costs / scale if len(objectives) > 1 else cheap_costs)
    joined = _joined(np.asarray(own), weights)
    if not twin:
        return joined, None
    told_costs = _joined(np.asarray(twin), weights)
    return joined, told_costs - float(told_costs[: len(told.seen)].mean())


def _joined(costs: Floats, weights: Floats) -> Floats:
    weighed = weights[:, None] * costs
    return np.asarray(weighed.max(axis=0) + 0.05 * weighed.sum(axis=0)) if len(weights) > 1 else costs[0]


def _asked(told: Observed, of_seen: Callable[[Seen], Mapping[str, float]], name: str) -> list[float | None] | None:
    """What the twin said of the engines seen, by name; None where it was not asked of all of them."""
    found = [of_seen(one).get(name) for one in told.seen]
    return None if told.cheap is None or None in found else found


def _twin_values(told: Observed, objective: Objective) -> list[float] | None:
    """What the twin says of the engines seen and then of the candidates; one that would not start is the worst."""
    asked = _asked(told, lambda one: one.twin, objective.name)
    if asked is None or told.cheap is None:
        return None
    lost = 0.0 if objective.direction == MAXIMISE else math.inf
    return [*map(float, filter_none(asked)), *(lost if v is None else v.values[objective.name] for v in told.cheap)]


def _twin_violations(told: Observed, name: str) -> list[float] | None:
    """The same for a limit."""
    asked = _asked(told, lambda one: one.twin_violations, name)
    if asked is None or told.cheap is None:
        return None
    found = [*filter_none(asked), *(math.inf if v is None else v.violations.get(name, 0.0) for v in told.cheap)]
    return [_violation(value) for value in found]


def filter_none(values: Sequence[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def _limits(told: Observed, known: Floats, rows: Floats) -> list[tuple[Floats, Floats]]:
    """The belief about each limit that some engine has come near to."""
    found = []
    for name in dict.fromkeys(name for one in told.seen for name in one.violations):
        values = normalised([_violation(one.violations.get(name, 0.0)) for one in told.seen])
        if values.max() < -0.5:
            continue
        cheap = _twin_violations(told, name)
        column = None if cheap is None else normalised(cheap)
        shift = float(values.mean())
        process = fit(known, values - shift, None if column is None else column[: len(known)] - shift)
        mean, deviation = process.at(rows, None if column is None else column[len(known) :] - shift)
        found.append((mean + shift, np.maximum(deviation, _LEAST_CHANCE)))
    return found
