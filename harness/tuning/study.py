"""The loop of a study: propose, claim, start, measure, learn, until the budget is spent."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.engines.engine_log import BootFacts
from harness.errors import EngineError
from harness.messages import Message, message
from harness.tuning.candidates import CandidateResolver, Proposal
from harness.tuning.capacity import answer_from_metrics
from harness.tuning.coordination import Coordinator
from harness.tuning.evaluation import (
    EvaluationContext,
    Evaluator,
    LoadResult,
    StartFailed,
    TrialLabel,
    failed_trial,
    flat_prediction,
    measure_loads,
    measured_trial,
)
from harness.tuning.feasibility import Feasibility, StartRecord, failure_line
from harness.tuning.parameters import InertParameter
from harness.tuning.posterior import engine_point
from harness.tuning.progress import StudyTracker
from harness.tuning.proposing import Proposer
from harness.tuning.space import load_sweep
from harness.tuning.study_plan import StudyPlan
from harness.tuning.topology import leased
from harness.tuning.trial_store import TrialHandle, TrialStore
from harness.tuning.types import FAILED, STOPPED, ParameterValue, Trial

TRIALS = 20
"""Budget where the study gives none."""
SWEEP = 4
"""Places of a load's range that are measured in one start."""
_WAIT_S = 1.0
_MOMENT_S = 0.2
OnProgress = Callable[[str | Message], None]


@dataclass(slots=True)
class StudyContext:
    """Everything that one worker carries a study out with."""

    plan: StudyPlan
    evaluator: Evaluator
    store: TrialStore
    coordinator: Coordinator
    resolver: CandidateResolver
    proposer: Proposer
    folder: Path
    host: str = "localhost"
    on_progress: OnProgress = lambda _message: None
    tracker: StudyTracker | None = None
    inert: tuple[InertParameter, ...] = ()
    devices: tuple[int, ...] | None = None
    notes: list[Message] = field(default_factory=list)

    @property
    def feasibility(self) -> Feasibility:
        """The record of all starts, and what it predicts."""
        return self.proposer.feasibility


def run_study(context: StudyContext) -> None:
    """Try points until the budget is spent or none is left; every trial is stored when it ends."""
    _take_over(context)
    skipped: set[str] = set()
    while True:
        trials, running = context.store.trials(), context.store.running()
        _learn(context, trials)
        if budget_spent(context.plan, trials, len(running)):
            return
        number = len(trials) + len(running)
        if not context.coordinator.claim(claim_digest(f"trial {number}")):  # of two that saw the same budget one begins
            time.sleep(_MOMENT_S)
            _take_over(context)
            continue
        if len(context.store.trials()) + len(context.store.running()) != number:  # one ended since it was counted
            context.coordinator.release(claim_digest(f"trial {number}"))
            continue
        tried = {*context.store.engine_keys().values(), *(key for _, key in running.values()), *skipped}
        proposal = context.proposer.propose(trials, tried, number)
        if proposal is not None and context.coordinator.claim(claim_digest(proposal.candidate.engine_key)):
            with leased_devices(context) as devices:
                _try_proposal(context, proposal, trials, devices)
            context.coordinator.release(claim_digest(f"trial {number}"))
            continue
        context.coordinator.release(claim_digest(f"trial {number}"))
        if proposal is None:
            context.notes.append(message("tuning.space_exhausted"))
            return
        skipped.add(proposal.candidate.engine_key)


def claim_digest(text: str) -> str:
    """The name under which a configuration, or a turn of the study, is claimed."""
    return hashlib.sha256(text.encode()).hexdigest()


def _take_over(context: StudyContext) -> None:
    """Abandon the trials of dead workers, and release their claims."""
    running = context.store.running()  # before who is alive: whoever began one of these had a heartbeat by then
    alive = context.coordinator.alive()
    alone = alive <= {context.coordinator.worker}
    for number, (worker, _) in running.items():
        if worker not in alive and (worker or alone):  # a trial that has no name yet may be another's, just begun
            context.store.abandon(number)
            context.on_progress(message("tuning.trial_abandoned", number=number))
    keys = [*context.store.engine_keys().values(), *(key for _, key in context.store.running().values())]
    context.coordinator.release_dead(alive, [claim_digest(key) for key in keys])


def _learn(context: StudyContext, trials: list[Trial]) -> None:
    """Record starts that this worker does not know yet: those of others, or of before it was resumed."""
    learned = {record.candidate.engine_key for record in context.feasibility.starts}
    context.resolver.candidates([engine_point(trial.point) for trial in trials])
    for trial in trials:
        default = trial.origin == "default"
        candidate = context.proposer.default() if default else context.resolver.candidate(engine_point(trial.point))
        if candidate is None or candidate.engine_key in learned or not (trial.values or trial.failure is not None):
            continue
        learned.add(candidate.engine_key)
        context.feasibility.add(
            StartRecord(candidate, BootFacts(**trial.facts), trial.failure if trial.status == FAILED else None)
        )


def budget_spent(plan: StudyPlan, trials: list[Trial], running: int) -> bool:
    """Whether the budget allows no further start."""
    budget = plan.study.budget
    most = budget.trials
    if most is None and budget.minutes is None and budget.starts is None:
        most = TRIALS
    starts = len({trial.start for trial in trials}) + running
    return (
        (most is not None and len(trials) + running >= most)
        or (budget.minutes is not None and sum(trial.minutes.total for trial in trials) >= budget.minutes)
        or (budget.starts is not None and starts >= budget.starts)
    )


@contextmanager
def leased_devices(context: StudyContext) -> Iterator[tuple[int, ...] | None]:
    """Devices that nobody else has for as long as the context lasts; None where the study names none.

    Raises:
        EngineError: too few of them are left, as the others did not come back to idle.
    """
    numbers, count = context.plan.study.devices, context.plan.study.cards
    if numbers is None:
        yield None
        return
    names = {f"{context.host}:{number}": number for number in numbers}
    while (leased := context.coordinator.lease(list(names), count)) is None:
        quarantined = [f"{name}: {why}" for name, why in context.coordinator.quarantined().items() if name in names]
        if len(names) - len(quarantined) < count:
            raise EngineError(message("tuning.too_few_devices", devices=quarantined))
        time.sleep(_WAIT_S)
    try:
        yield tuple(names[name] for name in leased)
    finally:
        for name in leased if context.evaluator.left_busy() else ():
            context.coordinator.quarantine(name, str(message("tuning.memory_not_freed")))
            context.notes.append(message("tuning.device_quarantined", device=name))
            context.on_progress(context.notes[-1])
        context.coordinator.release_devices(leased)


def _try_proposal(
    context: StudyContext, proposal: Proposal, trials: list[Trial], devices: tuple[int, ...] | None
) -> None:
    """Start the proposal's engine and measure all loads in that start; once more where the moment may be to blame."""
    candidate = proposal.candidate
    if devices is not None:
        candidate = replace(candidate, engine=leased(candidate.engine, devices, all_of_them=not context.plan.layouts))
    loads = load_sweep(context.plan.space, SWEEP)
    first = _begin(context, proposal, loads[0], proposal.origin)
    entries = [first]
    folder = context.folder / f"trial-{first.number:04d}"
    for attempt in (1, 2):
        evaluation = EvaluationContext(
            context.plan, context.evaluator, trials, context.plan.study.seed, folder / f"start-{attempt}",
            candidate.resolved.effective,
        )  # fmt: skip
        try:
            with closing(measure_loads(evaluation, candidate, loads[len(entries) - 1 :])) as results:
                for result in results:
                    _store_result(context, proposal, entries[-1], first.number, result)
                    if len(entries) < len(loads):
                        entries.append(_begin(context, proposal, loads[len(entries)], "sweep"))
        except StartFailed as fault:
            failure = failure_line(fault.failure)
            if fault.failure.retryable and attempt == 1:
                context.on_progress(message("tuning.trial_retried", number=entries[-1].number, failure=failure))
                continue
            context.on_progress(message("tuning.trial_failed", number=entries[-1].number, failure=failure))
            _store_failure(context, proposal, entries[-1], first.number, fault)
        return


@dataclass(frozen=True, slots=True)
class _StoredTrial:
    """A trial that was begun in the store."""

    number: int
    handle: TrialHandle
    origin: str
    load: Mapping[str, ParameterValue]


def _begin(context: StudyContext, proposal: Proposal, load: Mapping[str, ParameterValue], origin: str) -> _StoredTrial:
    point = {**proposal.candidate.point, **load}
    number, handle = context.store.begin(point, proposal.candidate.engine_key, origin)
    if context.tracker is not None:
        context.tracker.begin(number, origin, point)
    return _StoredTrial(number, handle, origin, load)


def _store_result(
    context: StudyContext, proposal: Proposal, entry: _StoredTrial, start: int, result: LoadResult
) -> None:
    label = TrialLabel(entry.number, entry.origin, start, flat_prediction(proposal.predicted))
    trial = measured_trial(label, {**proposal.candidate.point, **entry.load}, result, context.plan.study.seed)
    _end(context, entry, trial)
    context.on_progress(trial_line(trial))


def _end(context: StudyContext, entry: _StoredTrial, trial: Trial) -> None:
    context.store.end(entry.handle, trial)
    if context.tracker is not None:
        context.tracker.end(trial)


def _store_failure(
    context: StudyContext, proposal: Proposal, entry: _StoredTrial, start: int, fault: StartFailed
) -> None:
    label = TrialLabel(entry.number, entry.origin, start, flat_prediction(proposal.predicted))
    candidate = proposal.candidate
    point = {**candidate.point, **entry.load}
    trial = failed_trial(label, point, candidate.resolved.effective, fault, context.plan.study.seed)
    _end(context, entry, trial)


def trial_line(trial: Trial) -> Message:
    """A trial in one line."""
    results: list[Message] = [_value_message(trial, name, value) for name, value in trial.values.items()]
    violated = [name for name, value in trial.violations.items() if value > 0]
    results += [message("tuning.misses", names=violated)] if violated else []
    results += [message("tuning.stopped_early")] if trial.status == STOPPED else []
    point = [message("tuning.setting", name=name, value=value) for name, value in trial.point.items()]
    return message(
        "tuning.trial",
        number=trial.number,
        origin=trial.origin,
        results=results,
        point=point or message("tuning.base_configuration"),
    )


def _value_message(trial: Trial, name: str, value: float) -> Message:
    """A value of a trial; of one that was stopped early that it is extrapolated, and what it had shown itself."""
    metrics: Mapping[str, float] = {} if trial.measurement is None else trial.measurement.metrics
    capacity = answer_from_metrics(metrics)
    if capacity is not None:  # then the only objective
        return message("tuning.capacity_value", name=name, capacity=capacity)
    if trial.status != STOPPED:
        return message("tuning.value", name=name, value=value)
    if name not in metrics:
        return message("tuning.value_extrapolated", name=name, value=value)
    return message("tuning.value_so_far", name=name, value=value, so_far=metrics[name])
