"""Evaluation of a candidate: one engine start, measured under its loads, as trials.

An evaluator (real engines, or the simulator in virtual time) keeps an engine up for the time of a `with`.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness.engines.engine_log import BootFacts
from harness.scenario.engine import Engine
from harness.scenario.stages import Stage
from harness.scenario.study import whole_of
from harness.seeds import entropy
from harness.tuning import capacity
from harness.tuning.candidates import Candidate
from harness.tuning.early_stopping import StopDecision, stopping_rule
from harness.tuning.study_plan import StudyPlan, Task, TrialScores, score, slo_constraints, stage_for
from harness.tuning.topology import TOPOLOGY, cards_of
from harness.tuning.trial_series import extrapolated, look_interval_s
from harness.tuning.types import (
    COMPLETE,
    FAILED,
    LOAD,
    STOPPED,
    Measurement,
    ParameterValue,
    Point,
    StudyObjective,
    Trial,
    TrialFailure,
    TrialMinutes,
    pareto_front,
)


@dataclass(frozen=True, slots=True)
class EarlyStopCheck:
    """Asked every `every_s` seconds of a load with what it has shown so far: whether to end it."""

    judge: Callable[[Measurement], StopDecision]
    every_s: float

    def __call__(self, part: Measurement) -> StopDecision:
        """What is ruled of a part of a load."""
        return self.judge(part)


class StartFailed(Exception):  # noqa: N818 - a result of a trial, not a fault of ours
    """An engine did not come up, or died: why, what its log told, and how many minutes that took."""

    def __init__(self, failure: TrialFailure, facts: BootFacts, minutes: float) -> None:
        super().__init__(failure.line)
        self.failure, self.facts, self.minutes = failure, facts, minutes


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """An engine that is up: how long it took, what its log tells, what is in force, and how it was started."""

    minutes: float
    facts: BootFacts
    effective: Mapping[str, Any]
    command: tuple[str, ...] = ()


class EngineSession(Protocol):
    """An engine that is up."""

    started: StartedEngine

    def measure(self, task: Task, stage: Stage, seed: int, watch: EarlyStopCheck | None = None) -> Measurement:
        """What a stage of a task shows.

        Raises:
            StartFailed: the engine died meanwhile.
        """


class Evaluator(Protocol):
    """Brings engines up."""

    simulated: bool

    def open(self, engine: Engine, folder: Path) -> AbstractContextManager[EngineSession]:
        """An engine for as long as the context lasts; what it writes goes to `folder`.

        Raises:
            StartFailed: it does not come up.
        """

    def left_busy(self) -> bool:
        """Whether a device had not come back to idle when the last engine was gone."""


_TOLD = ("available_kv_gib", "kv_cache_tokens", "total_gib", "weights_gib", "activation_gib", "graphs_gib", "serves")


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What a start is measured under: the trials so far, the seed of all loads, its folder and its configuration."""

    plan: StudyPlan
    evaluator: Evaluator
    trials: Sequence[Trial]
    seed: int
    folder: Path
    effective: Mapping[str, Any] = field(default_factory=dict)

    @property
    def topology(self) -> str | None:
        """The name of its layout; None of a study without topologies."""
        return self.effective.get(TOPOLOGY)

    @property
    def cards(self) -> int:
        """How many cards it takes."""
        return cards_of(self.effective, self.plan.study.cards)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one load on a started engine came to."""

    load: Mapping[str, ParameterValue]
    verdict: TrialScores
    measured: Measurement
    minutes: TrialMinutes
    effective: Mapping[str, Any]
    facts: Mapping[str, Any]
    stopped: bool


def measure_loads(
    evaluation: EvaluationContext, candidate: Candidate, loads: Sequence[Mapping[str, ParameterValue]]
) -> Generator[LoadResult, None, None]:
    """Start the candidate's engine once and measure it under every load; the start counts for the first.

    Raises:
        StartFailed: it did not come up, or died on the way.
    """
    with evaluation.evaluator.open(candidate.engine, evaluation.folder) as session:
        start = session.started.minutes
        for load in loads:
            result = measure_load(evaluation, session, load, _watch(evaluation, load))
            yield replace(
                result,
                minutes=replace(result.minutes, start=start),
                effective={**candidate.resolved.effective, **session.started.effective},
                facts=logged_facts(session.started.facts),
            )
            start = 0.0


def logged_facts(facts: Any) -> dict[str, Any]:
    """What a start's log told and a later one may learn from."""
    logged = asdict(facts)
    return {name: logged[name] for name in _TOLD if logged.get(name) is not None}


def measure_load(
    evaluation: EvaluationContext,
    session: EngineSession,
    load: Mapping[str, ParameterValue],
    watched: EarlyStopCheck | None = None,
) -> LoadResult:
    """What one load shows on an engine that is up, for every task.

    Raises:
        StartFailed: the engine died on the way.
    """
    plan, seed = evaluation.plan, load_seed(evaluation.seed, load)
    measure = _searched if plan.study.seeks_capacity else _run
    stages = [stage_for(plan, task, _keys(load), evaluation.cards) for task in plan.tasks]
    measured = [measure(session, *pair, seed, watched) for pair in zip(plan.tasks, stages, strict=True)]
    verdict = score(plan, measured, evaluation.cards)
    stopped = any(measurement.stopped for measurement in measured)
    if stopped:
        verdict = _as_far_as(evaluation, verdict, measured[0], incumbents(evaluation, load))
    minutes = TrialMinutes(load=sum(measurement.load_s for measurement in measured) / 60)
    return LoadResult(load, verdict, _merged(measured), minutes, {}, {}, stopped)


def load_seed(seed: int, load: Mapping[str, ParameterValue]) -> int:
    """The seed of a load: loads of one sweep send different prompts, so that none is answered from the prefix cache."""
    return seed if not load else entropy(seed, f"load {sorted(load.items())}") % 2**53


def _keys(load: Mapping[str, ParameterValue]) -> dict[str, ParameterValue]:
    return {name.removeprefix(LOAD + "."): value for name, value in load.items()}


def _run(session: EngineSession, task: Task, stage: Stage, seed: int, watched: EarlyStopCheck | None) -> Measurement:
    return session.measure(task, stage, seed, watched)


def _searched(
    session: EngineSession, task: Task, stage: Stage, seed: int, _watched: EarlyStopCheck | None
) -> Measurement:
    """The capacity under the task's SLO, searched over rates on the engine that is up."""

    def measure(rate: float, number: int) -> Measurement:
        return session.measure(task, replace(stage, rate=rate), seed + number)

    return capacity.find_capacity(measure, capacity.search_around(stage.rate or 1.0), slo_constraints(task))


def incumbents(evaluation: EvaluationContext, load: Mapping[str, ParameterValue]) -> list[Trial]:
    """The trials that a new one has to beat under this load: the front of those measured with the same seed.

    Of topologies only those of its own: pairs begin more slowly than engines side by side, so a load so far tells
    nothing of which will have done better in the end.
    """
    comparable = [
        trial
        for trial in evaluation.trials
        if trial.measurement is not None
        and trial.measurement.seed == load_seed(evaluation.seed, load)
        and trial.measurement.series
        and trial.effective.get(TOPOLOGY) == evaluation.topology
        and {name: value for name, value in trial.point.items() if name.startswith(LOAD + ".")} == dict(load)
    ]
    return list(pareto_front(comparable, evaluation.plan.objectives))


def _watch(evaluation: EvaluationContext, load: Mapping[str, ParameterValue]) -> EarlyStopCheck | None:
    """What ends a load that cannot win; None where nothing may, or nothing is there to compare with."""
    plan = evaluation.plan
    rule = plan.study.stop_early
    if rule is None or len(plan.tasks) > 1 or plan.study.seeks_capacity:
        return None
    measurements = [trial.measurement for trial in incumbents(evaluation, load) if trial.measurement is not None]
    if not measurements:
        return None
    objectives = [replace(objective, name=whole_of(objective.name)) for objective in plan.objectives]
    ruling = stopping_rule(measurements, objectives, plan.all_limits, rule.error, rule.margin)
    return EarlyStopCheck(ruling, look_interval_s(measurements))


def _as_far_as(
    evaluation: EvaluationContext, verdict: TrialScores, part: Measurement, incumbent_trials: Sequence[Trial]
) -> TrialScores:
    """Values of a load that was ended early, by how it did beside the best one up to the same moment."""
    incumbent = next((trial.measurement for trial in incumbent_trials if trial.measurement is not None), None)
    if incumbent is None:
        return verdict
    values = {}
    for objective in evaluation.plan.objectives:
        whole = whole_of(objective.name)
        value = _no_better(objective, extrapolated(part, incumbent, whole), incumbent)
        values[objective.name] = value if whole == objective.name else value / evaluation.cards
    return TrialScores(values, verdict.violations)


def _no_better(objective: StudyObjective, value: float, incumbent: Measurement) -> float:
    """An estimate of what was stopped for being worse: at best as good as that by which it was judged."""
    incumbent_value = incumbent.metrics.get(whole_of(objective.name), math.nan)
    return incumbent_value if math.isfinite(incumbent_value) and objective.better(value, incumbent_value) else value


def _merged(measured: Sequence[Measurement]) -> Measurement:
    """The measurement of a single task as it is; of several, the metrics of each under the task's number."""
    if len(measured) == 1:
        return measured[0]
    metrics = {
        f"{name}@{place}": value
        for place, measurement in enumerate(measured)
        for name, value in measurement.metrics.items()
    }
    return replace(measured[0], metrics=metrics, series={}, load_s=sum(measurement.load_s for measurement in measured))


@dataclass(frozen=True, slots=True)
class TrialLabel:
    """What a trial is called: number, its origin, the number of its start, and the simulator's prediction."""

    number: int
    origin: str
    start: int
    predicted: Mapping[str, float]


def measured_trial(label: TrialLabel, point: Point, result: LoadResult, seed: int) -> Trial:
    """A load that was measured, as a trial."""
    return Trial(
        number=label.number,
        point=dict(point),
        effective=result.effective,
        status=STOPPED if result.stopped else COMPLETE,
        values=result.verdict.values,
        violations=result.verdict.violations,
        minutes=result.minutes,
        seed=seed,
        origin=label.origin,
        start=label.start,
        predicted=label.predicted,
        measurement=result.measured,
        facts=result.facts,
    )


def failed_trial(label: TrialLabel, point: Point, effective: Mapping[str, Any], fault: StartFailed, seed: int) -> Trial:
    """A start that gave nothing, as a trial."""
    return Trial(
        number=label.number,
        point=dict(point),
        effective=effective,
        status=FAILED,
        failure=fault.failure,
        minutes=TrialMinutes(start=fault.minutes),
        seed=seed,
        origin=label.origin,
        start=label.start,
        predicted=label.predicted,
        facts=logged_facts(fault.facts),
    )


def flat_prediction(prediction: TrialScores | None) -> dict[str, float]:
    """The simulator's prediction, flat: values by objective, violations under `limit NAME`."""
    if prediction is None:
        return {}
    return {**prediction.values, **{f"limit {name}": value for name, value in prediction.violations.items()}}
