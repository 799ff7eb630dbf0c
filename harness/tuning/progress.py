"""The progress of a study: which trial is tried, the best so far, and how long the rest may take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.clock import monotonic_ns
from harness.results.progress import (
    CONFIRMING,
    MEASURED_AGAIN,
    REPORTING,
    SEARCHING,
    Progress,
    StudyProgress,
    write_study_progress,
)
from harness.tuning.types import FAILED, STOPPED, ParameterValue, StudyObjective, Trial
from harness.units import NS_PER_S

FEWEST_TRIALS = 3  # their mean foretells the rest; the first alone also pays for what is built once
OnStudySnapshot = Callable[[StudyProgress], None]


def unwatched(_progress: StudyProgress) -> None:
    """Drop a snapshot."""


@dataclass(slots=True)
class StudyTracker:
    """Follows one study; each change is handed to the callback and written into its folder.

    `removal_turns` is about how many turns the removal of flags takes, until it says so itself.
    """

    folder: Path
    head: StudyProgress
    objective: StudyObjective
    on_snapshot: OnStudySnapshot = unwatched
    begin_ns: int = field(default_factory=monotonic_ns)
    trials_here: int = 0
    turns_here: int = 0
    turn_begin_ns: int = 0
    removal_turns: int = 0

    def know(self, trials: Sequence[Trial]) -> None:
        """Take in what was tried before: by other workers, or before an interruption."""
        for trial in trials:
            self._count(trial)

    def begin(self, number: int, origin: str, point: Mapping[str, ParameterValue]) -> None:
        """A trial begins."""
        shown = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in point.items()}
        self.head = replace(self.head, phase=SEARCHING, trial=number, origin=origin, point=shown, run=None)
        self.publish()

    def end(self, trial: Trial) -> None:
        """A trial has ended."""
        self.trials_here += 1
        self._count(trial)
        self.head = replace(self.head, trial=None, origin="", point={}, run=None)
        self.publish()

    def turn(self, number: int | None) -> None:
        """A configuration is measured again: that of a trial, or the default one (None)."""
        if self.head.phase != CONFIRMING:
            self.turn_begin_ns = monotonic_ns()
        else:
            self.turns_here += 1
        done = self.head.turns_done + (self.head.phase == CONFIRMING)
        self.head = replace(
            self.head, phase=CONFIRMING, trial=number, origin=MEASURED_AGAIN, point={}, turns_done=done, run=None
        )
        self.publish()

    def expect_turns(self, count: int) -> None:
        """So many turns follow those that were measured so far."""
        begun = self.head.turns_done + (self.head.phase == CONFIRMING)
        self.head = replace(self.head, turns=begun + count)
        self.removal_turns = 0

    def on_run(self, run: Progress) -> None:
        """What the engine of the trial under way is doing."""
        self.head = replace(self.head, run=run)
        self.publish()

    def close(self) -> None:
        """The result is written."""
        self.head = replace(self.head, phase=REPORTING, run=None)
        self.publish()

    def publish(self) -> None:
        """Hand the present state on."""
        now_ns = monotonic_ns()
        at_s = (now_ns - self.begin_ns) / NS_PER_S
        progress = replace(self.head, at_s=at_s, eta_s=self._eta_s(now_ns))
        write_study_progress(self.folder, progress)
        self.on_snapshot(progress)

    def _count(self, trial: Trial) -> None:
        head = self.head
        value = trial.values.get(self.objective.name)
        if trial.origin == "default" and value is not None:
            head = replace(head, default=value)
        full = trial.feasible and trial.status not in (FAILED, STOPPED) and value is not None
        if full and value is not None and (head.best is None or self.objective.better(value, head.best)):
            head = replace(head, best=value, best_trial=trial.number)
        self.head = replace(
            head,
            done=head.done + 1,
            stopped=head.stopped + (trial.status == STOPPED),
            failed=head.failed + (trial.status == FAILED),
        )

    def _eta_s(self, now_ns: int) -> float | None:
        """By the mean trial (and turn) of this worker so far, confirmation and removal of flags included.

        None before a few trials, or a turn, have ended.
        """
        head = self.head
        if head.phase == REPORTING or head.trials is None:
            return None
        turns = max(0, head.turns - head.turns_done) + self.removal_turns
        if head.phase == CONFIRMING and self.turns_here:
            return (now_ns - self.turn_begin_ns) / NS_PER_S / self.turns_here * turns
        if self.trials_here < FEWEST_TRIALS:
            return None
        each_s = (now_ns - self.begin_ns) / NS_PER_S / self.trials_here
        return each_s * (max(0, head.trials - head.done) + turns)
