"""Posteriors of cost and violations at untried points: a small Gaussian process, and what is made of it.

Matérn 5/2 with a length for each column, found by the likelihood; a mean that follows what a cheaper source (the
simulator) predicts of the points, by as much as the observations agree with it. Formulas: Rasmussen & Williams,
Gaussian Processes for Machine Learning, 2006, algorithm 2.1.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.scenario.study import whole_of
from harness.seeds import stream
from harness.tuning.space import Space, distances, encode
from harness.tuning.study_plan import StudyPlan, TrialScores
from harness.tuning.topology import cards_of
from harness.tuning.trial_series import run_to_run_noise
from harness.tuning.types import LOAD, MAXIMISE, STOPPED, Point, StudyObjective, Trial, total_violation

Floats = NDArray[np.float64]
_LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.5)
_NOISES = (1e-4, 1e-3, 1e-2, 0.05, 0.2)
_SCALES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_ROUNDS = 2
_SLOPE_DEVIATION = 0.5  # how far the simulator's slope may be from 1 before observations have to show it


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

    def at(self, rows: Floats, simulated: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function (without noise) at some rows."""
        across = self.scale * matern(rows, self.rows, self.lengths)
        mean = trend_columns(len(rows), simulated) @ self.beta + across @ self.weights
        solved = np.linalg.solve(self.lower, across.T)
        variance = np.maximum(self.scale - (solved**2).sum(axis=0), 1e-12)
        return mean, self.spread * np.sqrt(variance)


def matern(rows: Floats, others: Floats, lengths: Floats) -> Floats:
    """The Matérn 5/2 correlation of rows, a length for each column."""
    gap = (rows[:, None, :] - others[None, :, :]) / lengths
    far = math.sqrt(5) * np.sqrt((gap**2).sum(axis=2))
    return np.asarray((1 + far + far**2 / 3) * np.exp(-far))


def trend_columns(count: int, simulated: Floats | None) -> Floats:
    """What the mean is made of: a constant, and what the cheap source says."""
    ones = np.ones((count, 1))
    return ones if simulated is None else np.column_stack([ones, simulated])


@dataclass(frozen=True, slots=True)
class _Data:
    """Observations in units of their own spread; `extra_noise` the variance of each beyond the common noise."""

    rows: Floats
    values: Floats
    simulated: Floats | None
    extra_noise: Floats


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
            return [replace(self, scale=scale) for scale in _SCALES]
        if place > columns:
            return [replace(self, noise=noise) for noise in _NOISES]
        return [
            replace(self, lengths=(*self.lengths[:place], length, *self.lengths[place + 1 :])) for length in _LENGTHS
        ]


def fit(
    rows: Floats, values: Floats, simulated: Floats | None = None, extra_noise: Floats | None = None
) -> GaussianProcess:
    """The most likely process of some observations.

    `simulated` is the simulator's prediction of the rows, in their scale; `extra_noise` the standard deviation, by
    which each observation is less sure than the rest (none by default).
    """
    spread = float(values.std()) if len(values) > 1 and values.std() > 0 else 1.0
    unsure = np.zeros(len(rows)) if extra_noise is None else (extra_noise / spread) ** 2
    data = _Data(rows, values / spread, None if simulated is None else simulated / spread, unsure)
    current = _Hyperparameters((0.6,) * rows.shape[1], 1.0, 1e-2)
    best = _negative_likelihood(data, current)[0]
    for place in _ROUNDS * list(range(rows.shape[1] + 2)):
        tries = [(_negative_likelihood(data, candidate)[0], candidate) for candidate in current.others(place)]
        likelihood, candidate = min(tries, key=lambda pair: pair[0])
        if likelihood < best - 1e-9:
            best, current = likelihood, candidate
    process = _negative_likelihood(data, current)[1]
    units = np.asarray([spread] if simulated is None else [spread, 1.0])  # the slope over the cheap source has no unit
    return replace(process, weights=process.weights * spread, beta=process.beta * units, spread=spread)


def _negative_likelihood(data: _Data, hyperparameters: _Hyperparameters) -> tuple[float, GaussianProcess]:
    """The negative logarithm of the posterior of a guess, and the process that it makes."""
    rows, count, lengths = data.rows, len(data.rows), np.asarray(hyperparameters.lengths)
    columns = trend_columns(count, data.simulated)
    base = hyperparameters.scale * matern(rows, rows, lengths) + np.diag(hyperparameters.noise + data.extra_noise)
    lower: Floats = np.asarray(np.linalg.cholesky(base + 1e-9 * np.eye(count)), dtype=np.float64)
    scaled, target = np.linalg.solve(lower, columns), np.linalg.solve(lower, data.values)
    # A weak prior that the simulator's slope is 1, so that two observations cannot turn it round.
    precision = np.diag([1e-6, *([1 / _SLOPE_DEVIATION**2] * (columns.shape[1] - 1))])
    prior = np.asarray([0.0, *([1.0] * (columns.shape[1] - 1))])
    beta = np.linalg.solve(scaled.T @ scaled + precision, scaled.T @ target + precision @ prior)
    residuals = target - scaled @ beta
    likelihood = float(residuals @ residuals) / 2 + float(np.log(np.diag(lower)).sum())
    weights = np.linalg.solve(lower.T, residuals)
    return likelihood + _unlikely(hyperparameters), GaussianProcess(
        rows, lengths, hyperparameters.scale, lower, weights, beta, 1.0
    )


def _unlikely(hyperparameters: _Hyperparameters) -> float:
    """How far a guess is from what is believed without observations: log-normal, with factors of 3, 10 and 20."""
    lengths = sum((math.log(length / 0.6) / math.log(3)) ** 2 for length in hyperparameters.lengths)
    scale, noise = math.log(hyperparameters.scale) / math.log(10), math.log(hyperparameters.noise / 1e-2) / 3
    return (lengths + scale**2 + noise**2) / 2


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Expected improvement below `best`, of normal posteriors; less is better."""
    ratio = (best - mean) / deviation
    density = np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(deviation * (ratio * normal_cdf(ratio) + density))


def normal_cdf(values: Floats) -> Floats:
    """The standard normal distribution function."""
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.tolist()])


def with_finite_worst(values: Sequence[float]) -> Floats:
    """Values as floats, infinite ones as far beyond the worst finite one as that is from the best."""
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    if len(finite) == 0:
        return np.zeros(len(array))
    worst = float(finite.max() + max(finite.max() - finite.min(), abs(finite.max()) * 0.1, 1e-9))
    return np.where(np.isfinite(array), array, worst)


_FLOOR = 0.02  # of the best value: below, rates count as equally bad
_ENOUGH = 3  # trials before a process is fitted
_LEAST_CHANCE = 0.02
_EXTRAPOLATION_ERROR = 0.2  # of a value that was estimated from part of a load, on a scale of factors
_REACH = 0.3  # in the unit cube: so far from all that was tried, a model's deviation says too little


@dataclass(frozen=True, slots=True)
class Observation:
    """What one engine showed, at the load where it was best.

    `predicted` and `predicted_violations` are the simulator's. `run_deviation` is by which share of its value other
    runs of it would differ (standard deviation). `step_signature` describes the simulator's course of its load: equal
    where every step is.
    """

    point: Point
    effective: Mapping[str, Any]
    values: Mapping[str, float]
    violations: Mapping[str, float]
    predicted: Mapping[str, float]
    predicted_violations: Mapping[str, float]
    total_violation: float
    cost: float
    stopped: bool = False
    run_deviation: float = 0.0
    step_signature: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """What a posterior is made from: observations, and the simulator's predictions of the candidates (None: none)."""

    plan: StudyPlan
    space: Space
    observations: Sequence[Observation]
    candidate_predictions: Sequence[TrialScores | None] | None
    number: int


@dataclass(frozen=True, slots=True)
class Posterior:
    """Mean and deviation of the cost of candidates, of which less is better.

    `best` is the least cost so far that keeps all limits (None: none does), `limits` are mean and
    deviation of each limit's violation.
    """

    mean: Floats
    deviation: Floats
    best: float | None
    limits: tuple[tuple[Floats, Floats], ...]


def observations_of(plan: StudyPlan, trials: Sequence[Trial]) -> list[Observation]:
    """The engines that gave values, in the order in which they were first tried."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.values:
            groups.setdefault(repr(sorted(engine_point(trial.point).items())), []).append(trial)
    return [_observation(plan, group) for group in groups.values()]


def engine_point(point: Point) -> dict[str, Any]:
    """A point without its load."""
    return {name: value for name, value in point.items() if not name.startswith(LOAD + ".")}


def _observation(plan: StudyPlan, group: Sequence[Trial]) -> Observation:
    first = plan.objectives[0]

    def worth(trial: Trial) -> tuple[float, float]:
        return total_violation(trial.violations), first.cost(trial.values[first.name])

    trial = min(group, key=worth)
    noise = None if trial.measurement is None else run_to_run_noise(plan, trial.measurement, whole_of(first.name))
    stopped = trial.status == STOPPED
    parts = 1 if first.name == whole_of(first.name) else cards_of(trial.effective, plan.study.cards)
    values = dict(trial.values) if noise is None or stopped else {**trial.values, first.name: noise.mean / parts}
    prediction = {name: value for name, value in trial.predicted.items() if not name.startswith("limit ")}
    limits = {name.partition(" ")[2]: value for name, value in trial.predicted.items() if name.startswith("limit ")}
    total, cost = total_violation(trial.violations), first.cost(values[first.name])
    return Observation(
        engine_point(trial.point), trial.effective, values, trial.violations, prediction, limits,
        total, cost, stopped, 0.0 if noise is None else noise.deviation,
    )  # fmt: skip


def _logarithm(objective: StudyObjective, values: Sequence[float]) -> Floats:
    """Values as costs on a scale of factors; what is far below the best counts as that bad and no worse."""
    positive = [value for value in values if math.isfinite(value) and value > 0]
    if objective.direction == MAXIMISE:
        floor = _FLOOR * max(positive, default=1.0)
        return np.asarray([-math.log(max(value, floor)) for value in values])
    return with_finite_worst([math.log(value) if 0 < value < math.inf else math.inf for value in values])


def _violation(value: float) -> float:
    """A violation on a scale on which twice the limit is as far from it as half of it."""
    return math.log1p(max(value, -0.95)) if math.isfinite(value) else math.inf


def posterior_of(inputs: ModelInputs, rows: Floats) -> Posterior:
    """The posterior of candidates, given as encoded rows."""
    observations, count = inputs.observations, len(rows)
    if len(observations) < _ENOUGH:
        return Posterior(np.zeros(count), np.ones(count), None, ())
    observed = encode(inputs.space, [observation.point for observation in observations])
    costs, simulated = _costs(inputs)
    own, others = (
        (None, None) if simulated is None else (simulated[: len(observations)], simulated[len(observations) :])
    )
    shift = float(costs.mean())
    extra_noise = np.asarray([math.hypot(_EXTRAPOLATION_ERROR * o.stopped, o.run_deviation) for o in observations])
    process = fit(observed, costs - shift, own, extra_noise)
    mean, deviation = process.at(rows, others)
    fitted, _ = process.at(observed, own)
    feasible = [cost for cost, o in zip(fitted, observations, strict=True) if o.total_violation <= 0 and not o.stopped]
    best = float(min(feasible)) if feasible else None
    return Posterior(mean, deviation, best, tuple(_limits(inputs, observed, rows)))


def posterior_costs(plan: StudyPlan, space: Space, observations: Sequence[Observation]) -> Floats:
    """The posterior mean cost of each observed engine, given all of them, and the simulator's predictions if any.

    The best of many runs was lucky, too: what neighbours showed, and what the simulator expects, takes some of that
    back.
    """
    predictions = [TrialScores(observation.predicted, observation.predicted_violations) for observation in observations]
    simulated = predictions if all(prediction.values for prediction in predictions) else None
    rows = encode(space, [observation.point for observation in observations])
    if len(observations) < _ENOUGH or len(plan.objectives) > 1:
        return np.asarray([observation.cost for observation in observations])
    return posterior_of(ModelInputs(plan, space, observations, simulated, 0), rows).mean


def inflate_uncertainty(posterior: Posterior, rows: Floats, observed: Floats) -> Posterior:
    """The posterior for exploring: far from all that was tried, as uncertain as candidates differ among each other.

    A process that was fitted to few points near each other underestimates its uncertainty.
    """
    far = distances(rows, observed).min(axis=1)
    spread = max(float(posterior.mean.std()), float(posterior.deviation.max()))
    deviation = np.maximum(posterior.deviation, spread * (1 - np.exp(-((far / _REACH) ** 2))))
    return Posterior(posterior.mean, deviation, posterior.best, posterior.limits)


def failure_probability(rows: Floats, observed: Floats, failed: NDArray[np.bool_]) -> Floats:
    """How likely candidates are to fail for reasons that nothing explains, by engines that did and did not.

    Near one that failed it is high; and a process through failures (1) and successes (0) finds out along
    which parameters they lie together.
    """
    if not failed.any():
        return np.zeros(len(rows))
    near = 0.8 * np.exp(-((distances(rows, observed[failed]) / 0.15) ** 2)).max(axis=1)
    if failed.all():
        return np.asarray(near)
    share = float(failed.mean())
    mean, _ = fit(observed, failed.astype(np.float64) - share).at(rows)
    return np.asarray(np.maximum(near, np.clip(mean + share, 0.0, 0.97)))


def _costs(inputs: ModelInputs) -> tuple[Floats, Floats | None]:
    """One cost of every observed engine; and the simulator's of those and the candidates, in the same scale.

    Several objectives are weighed at random each time, so that the whole front is looked for
    (Knowles 2006: the augmented Tchebycheff function).
    """
    objectives = inputs.plan.objectives
    weights = stream(inputs.plan.study.seed, "weights", inputs.number).dirichlet(np.ones(len(objectives)))
    costs_by_objective, simulated_by_objective = [], []
    for objective in objectives:
        costs = _logarithm(objective, [observation.values[objective.name] for observation in inputs.observations])
        scale = float(costs.std()) or 1.0
        costs_by_objective.append((costs - costs.min()) / scale if len(objectives) > 1 else costs)
        simulated = _predicted_values(inputs, objective)
        if simulated is not None:
            simulated_costs = _logarithm(objective, simulated)
            simulated_by_objective.append(simulated_costs / scale if len(objectives) > 1 else simulated_costs)
    joint = _joined(np.asarray(costs_by_objective), weights)
    if not simulated_by_objective:
        return joint, None
    joint_simulated = _joined(np.asarray(simulated_by_objective), weights)
    return joint, joint_simulated - float(joint_simulated[: len(inputs.observations)].mean())


def _joined(costs: Floats, weights: Floats) -> Floats:
    weighed = weights[:, None] * costs
    return np.asarray(weighed.max(axis=0) + 0.05 * weighed.sum(axis=0)) if len(weights) > 1 else costs[0]


def _predicted_values(inputs: ModelInputs, objective: StudyObjective) -> list[float] | None:
    """The simulator's values of the observed engines, then of the candidates; None where it has not all of them.

    A candidate that would not start has the worst value.
    """
    candidates = inputs.candidate_predictions
    own = [observation.predicted.get(objective.name, math.nan) for observation in inputs.observations]
    if candidates is None or any(math.isnan(value) for value in own):
        return None
    worst = 0.0 if objective.direction == MAXIMISE else math.inf
    return [*own, *(worst if scores is None else scores.values[objective.name] for scores in candidates)]


def _predicted_violations(inputs: ModelInputs, name: str) -> Floats | None:
    """The same for a limit, on the scale of violations."""
    candidates = inputs.candidate_predictions
    if candidates is None or not all(name in observation.predicted_violations for observation in inputs.observations):
        return None
    own = [observation.predicted_violations[name] for observation in inputs.observations]
    others = (math.inf if scores is None else scores.violations.get(name, 0.0) for scores in candidates)
    return with_finite_worst([_violation(value) for value in (*own, *others)])


def _limits(inputs: ModelInputs, observed: Floats, rows: Floats) -> Iterator[tuple[Floats, Floats]]:
    """The posterior of each limit that some engine has come near to."""
    for name in dict.fromkeys(name for observation in inputs.observations for name in observation.violations):
        violations = [_violation(observation.violations.get(name, 0.0)) for observation in inputs.observations]
        values = with_finite_worst(violations)
        if values.max() < -0.5:
            continue
        simulated = _predicted_violations(inputs, name)
        shift = float(values.mean())
        process = fit(observed, values - shift, None if simulated is None else simulated[: len(observed)] - shift)
        mean, deviation = process.at(rows, None if simulated is None else simulated[len(observed) :] - shift)
        yield mean + shift, np.maximum(deviation, _LEAST_CHANCE)
