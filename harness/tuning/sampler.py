"""Optuna's TPE as a source of points, with failures as constraints; translations to Optuna's types.

A study in memory is made from the trials so far, and asked until it names a point that is new. What
is known already is answered from memory there and then; what is refused is told as a broken
constraint. So the lasting study holds only what was really tried.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection

from harness.seeds import entropy
from harness.tuning.space import Space, is_active, nearest_point
from harness.tuning.study_plan import StudyPlan
from harness.tuning.types import FAILED, MAXIMISE, ParameterValue, Point, StudyObjective, Trial, TunableParameter

STARTS = "starts"
"""The constraint that a failed trial breaks."""
_ASKED = 25
_CONSTRAINTS = "constraints"  # where Optuna 4 and 5 both read a trial's constraints
PointCheck = tuple[bool, Trial | None]
"""Whether a point may be tried; if not, the trial that answers it from memory (None: it is refused)."""

optuna.logging.set_verbosity(logging.ERROR)  # what is to be said is said by the harness


def optuna_distribution(parameter: TunableParameter) -> BaseDistribution:
    """A parameter's range as Optuna knows it."""
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.values)
    if parameter.kind == "int":
        step = 1 if parameter.log else int(parameter.step or 1)
        high = int(parameter.low) + (int(parameter.high) - int(parameter.low)) // step * step
        return IntDistribution(int(parameter.low), high, log=parameter.log, step=step)
    step_size = None if parameter.log or not parameter.step else parameter.step
    high_end = parameter.high
    if step_size is not None:  # Optuna cuts the range to whole steps, and warns where it must
        high_end = round(
            parameter.low + math.floor((parameter.high - parameter.low) / step_size + 1e-9) * step_size, 10
        )
    return FloatDistribution(parameter.low, high_end, log=parameter.log, step=step_size)


def optuna_directions(objectives: Sequence[StudyObjective]) -> list[StudyDirection]:
    """Optuna's words for which way is better."""
    return [
        StudyDirection.MAXIMIZE if objective.direction == MAXIMISE else StudyDirection.MINIMIZE
        for objective in objectives
    ]


def optuna_values(objectives: Sequence[StudyObjective], trial: Trial, trials: Sequence[Trial]) -> list[float]:
    """The values that Optuna is told: the trial's own; of one without, the worst so far, as plots stay readable."""
    return [_finite(objective, trial.values.get(objective.name, math.nan), trials) for objective in objectives]


def _finite(objective: StudyObjective, value: float, trials: Sequence[Trial]) -> float:
    if math.isfinite(value):
        return value
    finite = [
        trial.values[objective.name] for trial in trials if math.isfinite(trial.values.get(objective.name, math.nan))
    ]
    return max(finite, key=objective.cost, default=0.0)


def optuna_constraints(trial: Trial) -> dict[str, float]:
    """The constraints that Optuna is told: violations by limit, and whether it served at all."""
    broken = {name: min(value, 1e9) for name, value in trial.violations.items()}
    return {STARTS: 0.0 if trial.values else 1.0, **broken}


def suggest_with_tpe(
    plan: StudyPlan, space: Space, trials: Sequence[Trial], judge: Callable[[Point], PointCheck], number: int
) -> Point | None:
    """The first point that TPE asks for and `judge` lets pass; None where it names none in some tries."""
    study = optuna.create_study(directions=optuna_directions(plan.objectives), sampler=_tpe(plan.study.seed, number))
    for trial in trials:
        _teach(study, plan, space, trial, trials)
    for _ in range(_ASKED):
        trial_ = study.ask()
        point = suggest_point(trial_, space)
        passed, memory = judge(point)
        if passed:
            return point
        answer = memory or Trial(0, point, {}, FAILED)
        set_constraints(trial_, optuna_constraints(answer))
        study.tell(trial_, optuna_values(plan.objectives, answer, trials))
    return None


def _tpe(seed: int, number: int) -> optuna.samplers.BaseSampler:
    options: dict[str, Any] = {}
    if not hasattr(optuna.trial.Trial, "set_constraint"):  # Optuna 4 looks at constraints only through a function
        options["constraints_func"] = lambda trial: trial.system_attrs.get(_CONSTRAINTS, [0.0])
    with warnings.catch_warnings():  # "experimental" there, and settled since
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=entropy(seed, "tpe", number) % 2**32, n_startup_trials=5, **options)


def suggest_point(trial: optuna.trial.Trial, space: Space) -> dict[str, ParameterValue]:
    """A point as Optuna's trial names it; inactive parameters are not asked for."""
    point: dict[str, ParameterValue] = {}
    for parameter in space.parameters:
        if not is_active(parameter, {**space.fixed, **point}):
            continue
        if parameter.kind == "choice":
            chosen: Any = trial.suggest_categorical(parameter.name, parameter.values)
            point[parameter.name] = chosen
        elif parameter.kind == "int":
            whole = optuna_distribution(parameter)
            assert isinstance(whole, IntDistribution)
            point[parameter.name] = trial.suggest_int(
                parameter.name, whole.low, whole.high, step=whole.step, log=whole.log
            )
        else:
            real = optuna_distribution(parameter)
            assert isinstance(real, FloatDistribution)
            point[parameter.name] = round(
                trial.suggest_float(parameter.name, real.low, real.high, step=real.step, log=real.log), 10
            )
    return point


def _teach(study: optuna.Study, plan: StudyPlan, space: Space, trial: Trial, trials: Sequence[Trial]) -> None:
    """Put a trial into the study in memory."""
    parameters = {parameter.name: parameter for parameter in space.parameters}
    params = nearest_point(space, trial.point)
    frozen = optuna.trial.create_trial(
        params=params,
        distributions={name: optuna_distribution(parameters[name]) for name in params},
        values=optuna_values(plan.objectives, trial, trials),
        system_attrs={_CONSTRAINTS: list(optuna_constraints(trial).values())},
    )
    study.add_trial(frozen)


def set_constraints(trial: optuna.trial.Trial, constraints: Mapping[str, float]) -> None:
    """Tell a running trial's constraints: as a list, which Optuna 4, 5 and the dashboard read alike."""
    number = trial._trial_id  # noqa: SLF001 - Optuna 4 has no public way to do this outside of a sampler
    trial.storage.set_trial_system_attr(number, _CONSTRAINTS, list(constraints.values()))
