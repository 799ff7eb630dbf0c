"""Posteriors of cost and violations at untried points: a small Gaussian process, and what is made of it.

Matérn 5/2 with a length for each column, found by the likelihood; a mean that follows what a cheaper source (the
simulator) predicts of the points, by as much as the observations agree with it. Formulas: Rasmussen & Williams,
Gaussian Processes for Machine Learning, 2006, algorithm 2.1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.seeds import stream
from harness.tuning.space import Space, distances, encode
from harness.tuning.study_plan import StudyPlan, TrialScores
from harness.tuning.trial_series import run_to_run_noise
from harness.tuning.types import LOAD, MAXIMISE, STOPPED, Point, StudyObjective, Trial

Floats = NDArray[np.float64]
_LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.5)
_NOISES = (1e-4, 1e-3, 1e-2, 0.05, 0.2)
_SCALES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_ROUNDS = 2
_SLOPE_DEVIATION = 0.5  # how far the twin's slope may be from 1 before observations have to say so


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """A fitted process: `weights` over the observed rows, in the scale of the observations.

    `scale` is the variance of the process, in units of `spread` squared.
    """

    rows: Floats
    lengths: Floats
    scale: float
    lower: Floats
    weights: Floats
    beta: Floats
    spread: float

    def at(self, rows: Floats, cheap: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function (without noise) at some rows."""
        across = self.scale * matern(rows, self.rows, self.lengths)
        mean = trend_columns(len(rows), cheap) @ self.beta + across @ self.weights
        solved = np.linalg.solve(self.lower, across.T)
        variance = np.maximum(self.scale - (solved**2).sum(axis=0), 1e-12)
        return mean, self.spread * np.sqrt(variance)


def matern(one: Floats, other: Floats, lengths: Floats) -> Floats:
    """The Matérn 5/2 correlation of rows, a length for each column."""
    gap = (one[:, None, :] - other[None, :, :]) / lengths
    far = math.sqrt(5) * np.sqrt((gap**2).sum(axis=2))
    return np.asarray((1 + far + far**2 / 3) * np.exp(-far))


def trend_columns(count: int, cheap: Floats | None) -> Floats:
    """What the mean is made of: a constant, and what the cheap source says."""
    ones = np.ones((count, 1))
    return ones if cheap is None else np.column_stack([ones, cheap])


@dataclass(frozen=True, slots=True)
class _Data:
    """Observations in units of their own spread; `doubt` is the variance that each has beyond the common noise."""

    rows: Floats
    values: Floats
    cheap: Floats | None
    doubt: Floats


@dataclass(frozen=True, slots=True)
class _Hyperparameters:
    """What is searched for: a length for each column, the variance of the process, and that of the noise."""

    lengths: tuple[float, ...]
    scale: float
    noise: float

    def others(self, place: int) -> list["_Hyperparameters"]:
        """The same with other values of one of them."""
        columns = len(self.lengths)
        if place == columns:
            return [replace(self, scale=one) for one in _SCALES]
        if place > columns:
            return [replace(self, noise=one) for one in _NOISES]
        return [replace(self, lengths=(*self.lengths[:place], one, *self.lengths[place + 1 :])) for one in _LENGTHS]


def fit(rows: Floats, values: Floats, cheap: Floats | None = None, doubt: Floats | None = None) -> GaussianProcess:
    """The most likely process of some observations.

    `cheap` is what the twin says of the same rows, in their scale; `doubt` the standard deviation, in that scale, by
    which each observation is less sure than the rest (none by default).
    """
    spread = float(values.std()) if len(values) > 1 and values.std() > 0 else 1.0
    unsure = np.zeros(len(rows)) if doubt is None else (doubt / spread) ** 2
    shown = _Data(rows, values / spread, None if cheap is None else cheap / spread, unsure)
    guess = _Hyperparameters((0.6,) * rows.shape[1], 1.0, 1e-2)
    best = _negative_likelihood(shown, guess)[0]
    for place in _ROUNDS * list(range(rows.shape[1] + 2)):
        tries = [(_negative_likelihood(shown, one)[0], one) for one in guess.others(place)]
        found, other = min(tries, key=lambda pair: pair[0])
        if found < best - 1e-9:
            best, guess = found, other
    process = _negative_likelihood(shown, guess)[1]
    units = np.asarray([spread] if cheap is None else [spread, 1.0])  # the slope over the cheap source has no unit
    return replace(process, weights=process.weights * spread, beta=process.beta * units, spread=spread)


def _negative_likelihood(shown: _Data, guess: _Hyperparameters) -> tuple[float, GaussianProcess]:
    """The negative logarithm of the posterior of a guess, and the process that it makes."""
    rows, count, lengths = shown.rows, len(shown.rows), np.asarray(guess.lengths)
    columns = trend_columns(count, shown.cheap)
    base = guess.scale * matern(rows, rows, lengths) + np.diag(guess.noise + shown.doubt)
    lower: Floats = np.asarray(np.linalg.cholesky(base + 1e-9 * np.eye(count)), dtype=np.float64)
    scaled, target = np.linalg.solve(lower, columns), np.linalg.solve(lower, shown.values)
    # A weak belief that the twin's slope is 1, so that two observations cannot turn it round.
    belief = np.diag([1e-6, *([1 / _SLOPE_DEVIATION**2] * (columns.shape[1] - 1))])
    prior = np.asarray([0.0, *([1.0] * (columns.shape[1] - 1))])
    beta = np.linalg.solve(scaled.T @ scaled + belief, scaled.T @ target + belief @ prior)
    left = target - scaled @ beta
    likelihood = float(left @ left) / 2 + float(np.log(np.diag(lower)).sum())
    weights = np.linalg.solve(lower.T, left)
    return likelihood + _unlikely(guess), GaussianProcess(rows, lengths, guess.scale, lower, weights, beta, 1.0)


def _unlikely(guess: _Hyperparameters) -> float:
    """How far a guess is from what is believed without observations: log-normal, with factors of 3, 10 and 20."""
    lengths = sum((math.log(one / 0.6) / math.log(3)) ** 2 for one in guess.lengths)
    scale, noise = math.log(guess.scale) / math.log(10), math.log(guess.noise / 1e-2) / 3
    return (lengths + scale**2 + noise**2) / 2


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Expected improvement below `best`, of normal beliefs; less is better."""
    ratio = (best - mean) / deviation
    density = np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(deviation * (ratio * normal_cdf(ratio) + density))


def normal_cdf(values: Floats) -> Floats:
    """The standard normal distribution function."""
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.tolist()])


def with_finite_worst(values: Sequence[float]) -> Floats:
    """Values as floats, infinite ones as far beyond the worst finite one as that is from the best."""
    found = np.asarray(values, dtype=np.float64)
    finite = found[np.isfinite(found)]
    if len(finite) == 0:
        return np.zeros(len(found))
    worst = float(finite.max() + max(finite.max() - finite.min(), abs(finite.max()) * 0.1, 1e-9))
    return np.where(np.isfinite(found), found, worst)


_FLOOR = 0.02  # of the best value: below, rates count as equally bad
_ENOUGH = 3  # trials before a process is fitted
_LEAST_CHANCE = 0.02
_EARLY_DOUBT = 0.2  # of a value that was estimated from part of a load, on a scale of factors
_REACH = 0.3  # in the unit cube: so far from all that was tried, a model's deviation says too little


@dataclass(frozen=True, slots=True)
class Observation:
    """What one engine showed, at the load where it was best: `broken` sums what it violates."""

    point: Point
    effective: Mapping[str, Any]
    values: Mapping[str, float]
    violations: Mapping[str, float]
    twin: Mapping[str, float]
    predicted_violations: Mapping[str, float]
    broken: float
    cost: float
    stopped: bool = False
    run_deviation: float = 0.0
    """By which share of its value other runs of it would differ (standard deviation)."""
    step_signature: tuple[float, ...] | None = None
    """How the twin sees its load go: the same where every step is."""


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """All that a belief is made from: the engines seen, and what the twin says of the candidates (None: not asked)."""

    problem: StudyPlan
    space: Space
    seen: Sequence[Observation]
    cheap: Sequence[TrialScores | None] | None
    number: int


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is believed of candidates: mean and deviation of their cost, of which less is better.

    `best` is the least cost so far that keeps all limits (None: none does), `limits` are mean and
    deviation of each limit's violation.
    """

    mean: Floats
    deviation: Floats
    best: float | None
    limits: tuple[tuple[Floats, Floats], ...]


def observations_of(problem: StudyPlan, trials: Sequence[Trial]) -> list[Observation]:
    """The engines that gave values, in the order in which they were first tried."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.values:
            groups.setdefault(repr(sorted(engine_point(trial.point).items())), []).append(trial)
    return [_seen(problem, group) for group in groups.values()]


def engine_point(point: Point) -> dict[str, Any]:
    """A point without its load."""
    return {name: value for name, value in point.items() if not name.startswith(LOAD + ".")}


def _seen(problem: StudyPlan, group: Sequence[Trial]) -> Observation:
    first = problem.objectives[0]

    def worth(trial: Trial) -> tuple[float, float]:
        return _broken(trial.violations), first.cost(trial.values[first.name])

    trial = min(group, key=worth)
    steady = None if trial.measurement is None else run_to_run_noise(problem, trial.measurement, first.name)
    stopped = trial.status == STOPPED
    values = dict(trial.values) if steady is None or stopped else {**trial.values, first.name: steady.mean}
    twin = {name: value for name, value in trial.twin.items() if not name.startswith("limit ")}
    limits = {name.partition(" ")[2]: value for name, value in trial.twin.items() if name.startswith("limit ")}
    return Observation(
        engine_point(trial.point), trial.effective, values, trial.violations, twin, limits,
        _broken(trial.violations), first.cost(values[first.name]), stopped, 0.0 if steady is None else steady.deviation,
    )  # fmt: skip


def _broken(violations: Mapping[str, float]) -> float:
    return sum(max(0.0, value) for value in violations.values())


def _logarithm(objective: StudyObjective, values: Sequence[float]) -> Floats:
    """Values as costs on a scale of factors; what is far below the best counts as that bad and no worse."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    if objective.direction == MAXIMISE:
        floor = _FLOOR * max(known, default=1.0)
        return np.asarray([-math.log(max(value, floor)) for value in values])
    return with_finite_worst([math.log(value) if 0 < value < math.inf else math.inf for value in values])


def _violation(value: float) -> float:
    """A violation on a scale on which twice the limit is as far from it as half of it."""
    return math.log1p(max(value, -0.95)) if math.isfinite(value) else math.inf


def posterior_of(told: ModelInputs, rows: Floats) -> Posterior:
    """The belief about candidates, given as encoded rows."""
    seen, count = told.seen, len(rows)
    if len(seen) < _ENOUGH:
        return Posterior(np.zeros(count), np.ones(count), None, ())
    known = encode(told.space, [one.point for one in seen])
    costs, cheap = _costs(told)
    shift = float(costs.mean())
    unsure = np.asarray([math.hypot(_EARLY_DOUBT * one.stopped, one.run_deviation) for one in seen])
    process = fit(known, costs - shift, None if cheap is None else cheap[: len(seen)], unsure)
    mean, deviation = process.at(rows, None if cheap is None else cheap[len(seen) :])
    fitted, _ = process.at(known, None if cheap is None else cheap[: len(seen)])
    kept = [place for place, one in enumerate(seen) if one.broken <= 0 and not one.stopped]
    best = float(min(fitted[place] for place in kept)) if kept else None
    return Posterior(mean, deviation, best, tuple(_limits(told, known, rows)))


def posterior_costs(problem: StudyPlan, space: Space, seen: Sequence[Observation]) -> Floats:
    """What is believed of the cost of each engine seen, after all of them, the twin's word included where it is told.

    The best of many runs was lucky, too: what neighbours showed, and what the twin expects, takes some of that back.
    """
    told = [TrialScores(one.twin, one.predicted_violations) for one in seen]
    cheap = told if all(one.values for one in told) else None
    rows = encode(space, [one.point for one in seen])
    if len(seen) < _ENOUGH or len(problem.objectives) > 1:
        return np.asarray([one.cost for one in seen])
    return posterior_of(ModelInputs(problem, space, seen, cheap, 0), rows).mean


def inflate_uncertainty(belief: Posterior, rows: Floats, known: Floats) -> Posterior:
    """The belief of one who explores: far from all that was tried, as unsure as candidates differ among each other.

    A process that was fitted to few points near each other holds itself for surer than it may be.
    """
    far = distances(rows, known).min(axis=1)
    spread = max(float(belief.mean.std()), float(belief.deviation.max()))
    deviation = np.maximum(belief.deviation, spread * (1 - np.exp(-((far / _REACH) ** 2))))
    return Posterior(belief.mean, deviation, belief.best, belief.limits)


def failure_probability(rows: Floats, known: Floats, failed: NDArray[np.bool_]) -> Floats:
    """How likely candidates are to fail for reasons that nothing explains, by engines that did and did not.

    Near one that failed it is high; and a process through failures (1) and successes (0) finds out along
    which parameters they lie together.
    """
    if not failed.any():
        return np.zeros(len(rows))
    near = 0.8 * np.exp(-((distances(rows, known[failed]) / 0.15) ** 2)).max(axis=1)
    if failed.all():
        return np.asarray(near)
    share = float(failed.mean())
    mean, _ = fit(known, failed.astype(np.float64) - share).at(rows)
    return np.asarray(np.maximum(near, np.clip(mean + share, 0.0, 0.97)))


def _costs(told: ModelInputs) -> tuple[Floats, Floats | None]:
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


def _asked(
    told: ModelInputs, of_seen: Callable[[Observation], Mapping[str, float]], name: str
) -> list[float | None] | None:
    """What the twin said of the engines seen, by name; None where it was not asked of all of them."""
    found = [of_seen(one).get(name) for one in told.seen]
    return None if told.cheap is None or None in found else found


def _twin_values(told: ModelInputs, objective: StudyObjective) -> list[float] | None:
    """What the twin says of the engines seen and then of the candidates; one that would not start is the worst."""
    asked = _asked(told, lambda one: one.twin, objective.name)
    if asked is None or told.cheap is None:
        return None
    lost = 0.0 if objective.direction == MAXIMISE else math.inf
    return [*map(float, known_values(asked)), *(lost if v is None else v.values[objective.name] for v in told.cheap)]


def _twin_violations(told: ModelInputs, name: str) -> list[float] | None:
    """The same for a limit."""
    asked = _asked(told, lambda one: one.predicted_violations, name)
    if asked is None or told.cheap is None:
        return None
    found = [*known_values(asked), *(math.inf if v is None else v.violations.get(name, 0.0) for v in told.cheap)]
    return [_violation(value) for value in found]


def known_values(values: Sequence[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def _limits(told: ModelInputs, known: Floats, rows: Floats) -> list[tuple[Floats, Floats]]:
    """The belief about each limit that some engine has come near to."""
    found = []
    for name in dict.fromkeys(name for one in told.seen for name in one.violations):
        values = with_finite_worst([_violation(one.violations.get(name, 0.0)) for one in told.seen])
        if values.max() < -0.5:
            continue
        cheap = _twin_violations(told, name)
        column = None if cheap is None else with_finite_worst(cheap)
        shift = float(values.mean())
        process = fit(known, values - shift, None if column is None else column[: len(known)] - shift)
        mean, deviation = process.at(rows, None if column is None else column[len(known) :] - shift)
        found.append((mean + shift, np.maximum(deviation, _LEAST_CHANCE)))
    return found
