"""The loop of a study: propose, claim, start, measure, learn, until the budget is spent."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.engines.engine_log import BootFacts
from harness.errors import EngineError
from harness.tuning import feasibility
from harness.tuning.candidates import CandidateResolver
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
from harness.tuning.feasibility import Feasibility, StartRecord
from harness.tuning.parameters import InertParameter
from harness.tuning.posterior import engine_point
from harness.tuning.proposing import Proposal, Proposer
from harness.tuning.space import load_sweep
from harness.tuning.study_plan import StudyPlan
from harness.tuning.trial_store import TrialHandle, TrialStore
from harness.tuning.types import FAILED, STOPPED, ParameterValue, Trial
from harness.units import significant

TRIALS = 20
"""Budget where the study gives none."""
SWEEP = 4
"""Places of a load's range that are measured in one start."""
_WAIT_S = 1.0
_MOMENT_S = 0.2
_BUSY = "its memory was not free again after a trial"
Say = Callable[[str], None]


@dataclass(slots=True)
class StudyContext:
    """Everything that one worker carries a study out with."""

    problem: StudyPlan
    evaluator: Evaluator
    store: TrialStore
    coordinator: Coordinator
    resolver: CandidateResolver
    proposer: Proposer
    folder: Path
    host: str = "localhost"
    on_progress: Say = lambda _line: None
    inert: tuple[InertParameter, ...] = ()
    devices: tuple[int, ...] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def feasibility(self) -> Feasibility:
        """What starts have taught."""
        return self.proposer.feasibility


def run_study(work: StudyContext) -> None:
    """Try points until the budget is spent or none is left; every trial is in the book when it ends."""
    _take_over(work)
    skipped: set[str] = set()
    while True:
        trials, running = work.store.trials(), work.store.running()
        _learn(work, trials)
        if budget_spent(work.problem, trials, len(running)):
            return
        number = len(trials) + len(running)
        if not work.coordinator.claim(claim_digest(f"trial {number}")):  # of two that saw the same budget one begins
            time.sleep(_MOMENT_S)
            _take_over(work)
            continue
        if len(work.store.trials()) + len(work.store.running()) != number:  # one ended since it was counted
            work.coordinator.release(claim_digest(f"trial {number}"))
            continue
        taken = {*work.store.engine_keys().values(), *(key for _, key in running.values()), *skipped}
        proposal = work.proposer.propose(trials, taken, number)
        if proposal is not None and work.coordinator.claim(claim_digest(proposal.candidate.engine_key)):
            with leased_devices(work) as devices:
                _tried(work, proposal, trials, devices)
            work.coordinator.release(claim_digest(f"trial {number}"))
            continue
        work.coordinator.release(claim_digest(f"trial {number}"))
        if proposal is None:
            work.notes.append("every configuration that differs was tried: the space is smaller than the budget")
            return
        skipped.add(proposal.candidate.engine_key)


def claim_digest(engine_key: str) -> str:
    """The name under which a configuration is claimed."""
    return hashlib.sha256(engine_key.encode()).hexdigest()


def _take_over(work: StudyContext) -> None:
    """Give up what dead workers were trying, and give back what they had claimed."""
    running = work.store.running()  # before who is alive: whoever began one of these had a heartbeat by then
    alive = work.coordinator.alive()
    alone = alive <= {work.coordinator.worker}
    for number, (worker, _) in running.items():
        if worker not in alive and (worker or alone):  # a trial that has no name yet may be another's, just begun
            work.store.abandon(number)
            work.on_progress(f"trial {number}: its worker is gone; the trial is given up")
    keys = [*work.store.engine_keys().values(), *(key for _, key in work.store.running().values())]
    work.coordinator.release_dead(alive, [claim_digest(key) for key in keys])


def _learn(work: StudyContext, trials: list[Trial]) -> None:
    """Starts that this worker has not heard of yet: those of others, or of before it was resumed."""
    known = {one.candidate.engine_key for one in work.feasibility.starts_seen}
    work.resolver.candidates([engine_point(trial.point) for trial in trials])
    for trial in trials:
        default = trial.origin == "default"
        found = work.proposer.default() if default else work.resolver.one(engine_point(trial.point))
        if found is None or found.engine_key in known or not (trial.values or trial.failure is not None):
            continue
        known.add(found.engine_key)
        work.feasibility.add(
            StartRecord(found, BootFacts(**trial.facts), trial.failure if trial.status == FAILED else None)
        )


def budget_spent(problem: StudyPlan, trials: list[Trial], running: int) -> bool:
    """Whether the budget allows no further start."""
    budget = problem.study.budget
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
def leased_devices(work: StudyContext) -> Iterator[tuple[int, ...] | None]:
    """Devices that nobody else has for as long as the context lasts; None where the study names none.

    Raises:
        EngineError: too few of them are left, as the others did not come back to idle.
    """
    numbers, count = work.problem.study.devices, work.problem.study.devices_per_trial
    if numbers is None:
        yield None
        return
    names = {f"{work.host}:{number}": number for number in numbers}
    while (taken := work.coordinator.lease(list(names), count)) is None:
        bad = {name: why for name, why in work.coordinator.quarantined().items() if name in names}
        if len(names) - len(bad) < count:
            told = "; ".join(f"{name}: {why}" for name, why in bad.items())
            raise EngineError(f"too few devices are left for a trial ({told}); expected devices that come back to idle")
        time.sleep(_WAIT_S)
    try:
        yield tuple(names[name] for name in taken)
    finally:
        for name in taken if work.evaluator.left_busy() else ():
            work.coordinator.quarantine(name, _BUSY)
            work.notes.append(f"device {name}: {_BUSY}; quarantined")
            work.on_progress(work.notes[-1])
        work.coordinator.release_devices(taken)


def _tried(work: StudyContext, proposal: Proposal, trials: list[Trial], devices: tuple[int, ...] | None) -> None:
    """Start the proposal's engine and measure all loads in that start; once more where the moment may be to blame."""
    candidate = proposal.candidate
    if devices is not None:
        candidate = replace(candidate, engine=candidate.engine.model_copy(update={"devices": devices}))
    loads = load_sweep(work.problem.space, SWEEP)
    first = _begun(work, proposal, loads[0], proposal.origin)
    entries = [first]
    folder = work.folder / f"trial-{first.number:04d}"
    for attempt in (1, 2):
        given = EvaluationContext(
            work.problem, work.evaluator, trials, work.problem.study.seed, folder / f"start-{attempt}"
        )
        try:
            with closing(measure_loads(given, candidate, loads[len(entries) - 1 :])) as found:
                for one in found:
                    _noted(work, proposal, entries[-1], first.number, one)
                    if len(entries) < len(loads):
                        entries.append(_begun(work, proposal, loads[len(entries)], "sweep"))
        except StartFailed as fault:
            again = fault.failure.retryable and attempt == 1
            work.on_progress(
                f"trial {entries[-1].number}: {feasibility.failure_line(fault.failure)}{'; once more' if again else ''}"
            )
            if not again:
                _failed(work, proposal, entries[-1], first.number, fault)
                return
        else:
            return


@dataclass(frozen=True, slots=True)
class _Entry:
    """A trial that was begun in the book."""

    number: int
    handle: TrialHandle
    origin: str
    load: Mapping[str, ParameterValue]


def _begun(work: StudyContext, proposal: Proposal, load: Mapping[str, ParameterValue], origin: str) -> _Entry:
    point = {**proposal.candidate.point, **load}
    number, handle = work.store.begin(point, proposal.candidate.engine_key, origin)
    return _Entry(number, handle, origin, load)


def _noted(work: StudyContext, proposal: Proposal, entry: _Entry, start: int, one: LoadResult) -> None:
    label = TrialLabel(entry.number, entry.origin, start, flat_prediction(proposal.twin))
    trial = measured_trial(label, {**proposal.candidate.point, **entry.load}, one, work.problem.study.seed)
    work.store.end(entry.handle, trial)
    work.on_progress(trial_line(trial))


def _failed(work: StudyContext, proposal: Proposal, entry: _Entry, start: int, fault: StartFailed) -> None:
    label = TrialLabel(entry.number, entry.origin, start, flat_prediction(proposal.twin))
    candidate = proposal.candidate
    point = {**candidate.point, **entry.load}
    work.store.end(
        entry.handle, failed_trial(label, point, candidate.resolved.effective, fault, work.problem.study.seed)
    )


def trial_line(trial: Trial) -> str:
    """A trial in one line."""
    point = ", ".join(f"{name} {value}" for name, value in trial.point.items()) or "base configuration"
    answer = (
        None if trial.measurement is None else answer_from_metrics(trial.measurement.metrics)
    )  # then the only objective
    told = ", ".join(
        f"{name} {answer or significant(value)}{_so_far(trial, name)}" for name, value in trial.values.items()
    )
    broken = ", ".join(name for name, value in trial.violations.items() if value > 0)
    early = ", stopped early" if trial.status == STOPPED else ""
    doubt = f", misses {broken}" if broken else ""
    return f"trial {trial.number} ({trial.origin}): {told}{doubt}{early}; {point}"


def _so_far(trial: Trial, name: str) -> str:
    """Of a trial that was stopped early: that its value is extrapolated, and what it had shown itself."""
    if trial.status != STOPPED:
        return ""
    measure_loads = None if trial.measurement is None else trial.measurement.metrics.get(name)
    return " (extrapolated)" if measure_loads is None else f" (extrapolated; {significant(measure_loads)} so far)"
