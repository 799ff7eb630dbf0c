"""The plan of a study: scenarios, engine, space, objectives and constraints; and how measurements are scored by it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.messages import Message, message
from harness.scenario.engine import Engine
from harness.scenario.models import Scenario
from harness.scenario.stages import OFFLINE, LoadItem, Stage
from harness.scenario.study import CAPACITIES, RATES, Study, whole_of
from harness.tuning.space import Space
from harness.tuning.topology import Layout, RefusedLayout, shared_stage
from harness.tuning.types import MAXIMISE, MINIMISE, Constraint, Measurement, StudyObjective

WITHIN_SLO = ("goodput", "goodput_per_card", *CAPACITIES)
"""Objectives that are made from the scenario's SLO."""


@dataclass(frozen=True, slots=True)
class Task:
    """One scenario that every point has to serve: the stage that is measured, and how much it counts."""

    scenario: Scenario
    path: Path
    stage: Stage
    weight: float
    limits: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study with all that its file points to.

    `engine` is the base: the first scenario's with what the study changes; `kind` is what `auto`
    means here. `limits` are the study's own constraints; a task's come beside them. `layouts` are the possible
    topologies, the default first; empty where the study searches none.
    """

    study: Study
    path: Path
    tasks: tuple[Task, ...]
    engine: Engine
    kind: str
    space: Space
    objectives: tuple[StudyObjective, ...]
    limits: tuple[Constraint, ...]
    layouts: tuple[Layout, ...] = ()
    refused_layouts: tuple[RefusedLayout, ...] = ()

    @property
    def all_limits(self) -> tuple[Constraint, ...]:
        """Constraints of the study and of its scenarios."""
        return tuple(dict.fromkeys([*self.limits, *(limit for task in self.tasks for limit in task.limits)]))


def slo_constraints(task: Task) -> tuple[Constraint, ...]:
    """The scenario's own SLO as limits, whether or not the study holds trials to it."""
    return tuple(Constraint(name, most=value) for name, value in task.scenario.slo.items())


def objective_of(name: str) -> StudyObjective:
    """An objective by its metric: more of a rate is better, less of all else."""
    return StudyObjective(name, MAXIMISE if name in (*RATES, *CAPACITIES) else MINIMISE)


def constraint_of(name: str, value: float) -> Constraint:
    """A constraint by its metric: a rate at least, all else at most."""
    return Constraint(name, least=value) if name in RATES else Constraint(name, most=value)


def held_slo(study: Study, scenario: Scenario) -> tuple[Constraint, ...]:
    """The scenario's SLO as constraints, where the study keeps it and no objective is made from it."""
    if not study.hold_slo or set(study.objective) <= set(WITHIN_SLO):
        return ()
    return tuple(Constraint(name, most=value) for name, value in scenario.slo.items())


@dataclass(frozen=True, slots=True)
class TrialScores:
    """What measurements of all tasks come to: values by objective, violations by limit."""

    values: Mapping[str, float]
    violations: Mapping[str, float]


def score(plan: StudyPlan, measured: Sequence[Measurement], cards: int) -> TrialScores:
    """One measurement a task, in their order: weighted geometric means, and the worst violation of each limit."""
    weights = [task.weight for task in plan.tasks]
    metrics = [
        {**with_card_metrics(measurement.metrics, cards), **_cost(plan, measurement, cards)} for measurement in measured
    ]
    values = {
        objective.name: weighted_mean([task_metrics.get(objective.name, math.nan) for task_metrics in metrics], weights)
        for objective in plan.objectives
    }
    violations: dict[str, float] = {}
    for task, task_metrics in zip(plan.tasks, metrics, strict=True):
        for limit in (*plan.limits, *task.limits):
            value = task_metrics.get(limit.name, math.inf if limit.most < math.inf else 0.0)
            violations[limit.name] = max(violations.get(limit.name, -math.inf), limit.violation(value))
    return TrialScores(values, violations)


def with_card_metrics(metrics: Mapping[str, float], cards: int) -> dict[str, float]:
    """Metrics with those of a card beside those of the whole."""
    names = {name: whole_of(name) for name in (*RATES, *CAPACITIES) if name != whole_of(name)}
    return {**metrics, **{name: metrics[whole] / cards for name, whole in names.items() if whole in metrics}}


def _cost(plan: StudyPlan, measured: Measurement, cards: int) -> dict[str, float]:
    """The price of a million output tokens, from devices, their price an hour and the tokens they gave."""
    rate = measured.metrics.get("throughput", 0.0)
    return {"cost": plan.study.price * cards / 3600 / rate * 1e6 if rate > 0 else math.inf}


def stage_for(plan: StudyPlan, task: Task, changes: Mapping[str, Any], cards: int) -> Stage:
    """A task's load as a candidate changes it; of one that takes fewer cards than there are, its share.

    Raises:
        ValueError: a value that a stage of this kind cannot have.
    """
    stage = with_changes(task.stage, changes)
    return shared_stage(stage, cards / plan.study.cards) if plan.layouts else stage


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted geometric mean of values that are 0 or more: no scale outweighs another. One value is itself."""
    if len(values) == 1:
        return values[0]
    if any(math.isinf(value) or math.isnan(value) for value in values):
        return math.inf
    if any(value <= 0 for value in values):
        return 0.0
    return math.exp(sum(w * math.log(v) for v, w in zip(values, weights, strict=True)) / sum(weights))


_ITEM: TypeAdapter[Any] = TypeAdapter(LoadItem)
_FILE_KEY = {"rate_to": "to", "duration_s": "duration"}
_WITH_RATE = ("poisson", "constant", "gamma")


def stage_body(stage: Stage) -> dict[str, Any]:
    """A stage as a scenario file writes its body."""
    body = {_FILE_KEY.get(name, name): value for name, value in stage.as_dict().items() if name != "kind"}
    if stage.kind == "ramp":
        body["from"] = body.pop("rate")
    return body


def stage_item(stage: Stage) -> dict[str, Any]:
    """A stage as an item of a scenario's `load`."""
    return {stage.kind: stage_body(stage)}


def with_stage(scenario: Scenario, stage: Stage, seed: int) -> Scenario:
    """The scenario with this stage as its only load, run once, under another seed."""
    item = _ITEM.validate_python(stage_item(stage))
    return scenario.model_copy(update={"load": (item,), "seed": seed, "repeats": 1})


def with_changes(stage: Stage, changes: Mapping[str, Any]) -> Stage:
    """A stage with some values of its body changed, by the names of a scenario file.

    Raises:
        ValueError: a value that a stage of this kind cannot have (pydantic's own error).
    """
    if not changes:
        return stage
    body = stage_body(stage) | dict(changes)
    item = _ITEM.validate_python({stage.kind: body})
    return Scenario.model_construct(load=(item,)).stages[0]


def unfit_reason(stage: Stage, *, for_capacity: bool, served: bool) -> Message | None:
    """Why a stage cannot show a capacity, or anything of an engine that is served; None where it can."""
    if for_capacity and stage.kind not in _WITH_RATE:
        return message("tuning.load_without_rate", kind=stage.kind, kinds=list(_WITH_RATE))
    if served and stage.kind == OFFLINE:
        return message("tuning.offline_load")
    return None
