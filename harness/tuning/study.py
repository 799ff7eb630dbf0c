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
from harness.tuning.candidates import Ground
from harness.tuning.capacity import answer_in
from harness.tuning.coordination import Desk
from harness.tuning.evaluation import (
    Evaluator,
    Given,
    Label,
    Shown,
    StartFailed,
    failed_trial,
    shown,
    trial_of,
    twin_words,
)
from harness.tuning.feasibility import Lesson, Lessons
from harness.tuning.parameters import Dead
from harness.tuning.posterior import engine_part
from harness.tuning.proposing import Proposal, Proposer
from harness.tuning.space import sweep
from harness.tuning.study_plan import Problem
from harness.tuning.trial_store import Book, Handle
from harness.tuning.types import FAILED, STOPPED, Trial, Value
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
class Work:
    """Everything that one worker carries a study out with."""

    problem: Problem
    evaluator: Evaluator
    book: Book
    desk: Desk
    ground: Ground
    proposer: Proposer
    folder: Path
    host: str = "localhost"
    say: Say = lambda _line: None
    dead: tuple[Dead, ...] = ()
    devices: tuple[int, ...] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def lessons(self) -> Lessons:
        """What starts have taught."""
        return self.proposer.lessons


def carry_out(work: Work) -> None:
    """Try points until the budget is spent or none is left; every trial is in the book when it ends."""
    _take_over(work)
    skipped: set[str] = set()
    while True:
        trials, running = work.book.trials(), work.book.running()
        _learn(work, trials)
        if spent(work.problem, trials, len(running)):
            return
        number = len(trials) + len(running)
        if not work.desk.claim(digest(f"trial {number}")):  # of two that saw the same budget one begins
            time.sleep(_MOMENT_S)
            _take_over(work)
            continue
        if len(work.book.trials()) + len(work.book.running()) != number:  # one ended since it was counted
            work.desk.release(digest(f"trial {number}"))
            continue
        taken = {*work.book.engine_keys().values(), *(key for _, key in running.values()), *skipped}
        proposal = work.proposer.propose(trials, taken, number)
        if proposal is not None and work.desk.claim(digest(proposal.candidate.engine_key)):
            with leased(work) as devices:
                _tried(work, proposal, trials, devices)
            work.desk.release(digest(f"trial {number}"))
            continue
        work.desk.release(digest(f"trial {number}"))
        if proposal is None:
            work.notes.append("every configuration that differs was tried: the space is smaller than the budget")
            return
        skipped.add(proposal.candidate.engine_key)


def digest(engine_key: str) -> str:
    """The name under which a configuration is claimed."""
    return hashlib.sha256(engine_key.encode()).hexdigest()


def _take_over(work: Work) -> None:
    """Give up what dead workers were trying, and give back what they had claimed."""
    running = work.book.running()  # before who is alive: whoever began one of these had a heartbeat by then
    alive = work.desk.alive()
    alone = alive <= {work.desk.worker}
    for number, (worker, _) in running.items():
        if worker not in alive and (worker or alone):  # a trial that has no name yet may be another's, just begun
            work.book.give_up(number)
            work.say(f"trial {number}: its worker is gone; the trial is given up")
    keys = [*work.book.engine_keys().values(), *(key for _, key in work.book.running().values())]
    work.desk.forget(alive, [digest(key) for key in keys])


def _learn(work: Work, trials: list[Trial]) -> None:
    """Starts that this worker has not heard of yet: those of others, or of before it was resumed."""
    known = {one.candidate.engine_key for one in work.lessons.taught}
    work.ground.candidates([engine_part(trial.point) for trial in trials])
    for trial in trials:
        default = trial.origin == "default"
        found = work.proposer.default() if default else work.ground.one(engine_part(trial.point))
        if found is None or found.engine_key in known or not (trial.values or trial.failure is not None):
            continue
        known.add(found.engine_key)
        work.lessons.add(Lesson(found, BootFacts(**trial.facts), trial.failure if trial.status == FAILED else None))


def spent(problem: Problem, trials: list[Trial], running: int) -> bool:
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
def leased(work: Work) -> Iterator[tuple[int, ...] | None]:
    """Devices that nobody else has for as long as the context lasts; None where the study names none.

    Raises:
        EngineError: too few of them are left, as the others did not come back to idle.
    """
    numbers, count = work.problem.study.devices, work.problem.study.devices_per_trial
    if numbers is None:
        yield None
        return
    names = {f"{work.host}:{number}": number for number in numbers}
    while (taken := work.desk.lease(list(names), count)) is None:
        bad = {name: why for name, why in work.desk.quarantined().items() if name in names}
        if len(names) - len(bad) < count:
            told = "; ".join(f"{name}: {why}" for name, why in bad.items())
            raise EngineError(f"too few devices are left for a trial ({told}); expected devices that come back to idle")
        time.sleep(_WAIT_S)
    try:
        yield tuple(names[name] for name in taken)
    finally:
        for name in taken if work.evaluator.left_busy() else ():
            work.desk.quarantine(name, _BUSY)
            work.notes.append(f"device {name}: {_BUSY}; quarantined")
            work.say(work.notes[-1])
        work.desk.give_back(taken)


def _tried(work: Work, proposal: Proposal, trials: list[Trial], devices: tuple[int, ...] | None) -> None:
    """Start the proposal's engine and measure all loads in that start; once more where the moment may be to blame."""
    candidate = proposal.candidate
    if devices is not None:
        candidate = replace(candidate, engine=candidate.engine.model_copy(update={"devices": devices}))
    loads = sweep(work.problem.space, SWEEP)
    first = _begun(work, proposal, loads[0], proposal.origin)
    entries = [first]
    folder = work.folder / f"trial-{first.number:04d}"
    for attempt in (1, 2):
        given = Given(work.problem, work.evaluator, trials, work.problem.study.seed, folder / f"start-{attempt}")
        try:
            with closing(shown(given, candidate, loads[len(entries) - 1 :])) as found:
                for one in found:
                    _noted(work, proposal, entries[-1], first.number, one)
                    if len(entries) < len(loads):
                        entries.append(_begun(work, proposal, loads[len(entries)], "sweep"))
        except StartFailed as fault:
            again = fault.failure.retryable and attempt == 1
            work.say(f"trial {entries[-1].number}: {feasibility.words(fault.failure)}{'; once more' if again else ''}")
            if not again:
                _failed(work, proposal, entries[-1], first.number, fault)
                return
        else:
            return


@dataclass(frozen=True, slots=True)
class _Entry:
    """A trial that was begun in the book."""

    number: int
    handle: Handle
    origin: str
    load: Mapping[str, Value]


def _begun(work: Work, proposal: Proposal, load: Mapping[str, Value], origin: str) -> _Entry:
    point = {**proposal.candidate.point, **load}
    number, handle = work.book.begin(point, proposal.candidate.engine_key, origin)
    return _Entry(number, handle, origin, load)


def _noted(work: Work, proposal: Proposal, entry: _Entry, start: int, one: Shown) -> None:
    label = Label(entry.number, entry.origin, start, twin_words(proposal.twin))
    trial = trial_of(label, {**proposal.candidate.point, **entry.load}, one, work.problem.study.seed)
    work.book.end(entry.handle, trial)
    work.say(words(trial))


def _failed(work: Work, proposal: Proposal, entry: _Entry, start: int, fault: StartFailed) -> None:
    label = Label(entry.number, entry.origin, start, twin_words(proposal.twin))
    candidate = proposal.candidate
    point = {**candidate.point, **entry.load}
    work.book.end(
        entry.handle, failed_trial(label, point, candidate.resolved.effective, fault, work.problem.study.seed)
    )


def words(trial: Trial) -> str:
    """A trial in one line."""
    point = ", ".join(f"{name} {value}" for name, value in trial.point.items()) or "base configuration"
    answer = None if trial.measurement is None else answer_in(trial.measurement.metrics)  # then the only objective
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
    shown = None if trial.measurement is None else trial.measurement.metrics.get(name)
    return " (extrapolated)" if shown is None else f" (extrapolated; {significant(shown)} so far)"
