"""Who measures a point: an engine that is started for it, or the simulated one in virtual time?

An evaluator brings an engine up for the time of a `with` and measures as many loads on it as are asked.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.engines.boot_log import BootFacts, boot_facts
from harness.errors import HarnessError
from harness.scenario.models import Engine
from harness.scenario.stages import Stage
from harness.simulator.boot_lines import startup_lines
from harness.simulator.engine_config import Settings, effective, settings_from_flags
from harness.simulator.memory import memory_of
from harness.simulator.step_cost import Terms
from harness.tuning import failures
from harness.tuning.early_stopping import Ruling
from harness.tuning.restarts import START_MINUTES, restart_class
from harness.tuning.study_plan import Task
from harness.tuning.trial_series import partial_of, times_to_look
from harness.tuning.types import Failure, Measurement
from harness.tuning.virtual_evaluation import Noise, VirtualLoad


@dataclass(frozen=True, slots=True)
class Watch:
    """Asked every `every_s` seconds of a load with what it has shown so far: whether to end it."""

    judge: Callable[[Measurement], Ruling]
    every_s: float

    def __call__(self, part: Measurement) -> Ruling:
        """What is ruled of a part of a load."""
        return self.judge(part)


class StartFailed(Exception):  # noqa: N818 - a result of a trial, not a fault of ours
    """An engine did not come up, or died: why, what its log told, and how many minutes that took."""

    def __init__(self, failure: Failure, facts: BootFacts, minutes: float) -> None:
        super().__init__(failure.line)
        self.failure, self.facts, self.minutes = failure, facts, minutes


@dataclass(frozen=True, slots=True)
class Started:
    """An engine that is up: how long it took, what its log tells, what is in force, and how it was started."""

    minutes: float
    facts: BootFacts
    effective: Mapping[str, Any]
    command: tuple[str, ...] = ()


class Session(Protocol):
    """An engine that is up."""

    started: Started

    def measure(self, task: Task, stage: Stage, seed: int, watch: Watch | None = None) -> Measurement:
        """What a stage of a task shows.

        Raises:
            StartFailed: the engine died meanwhile.
        """


class Evaluator(Protocol):
    """Brings engines up."""

    simulated: bool

    def open(self, engine: Engine, folder: Path) -> AbstractContextManager[Session]:
        """An engine for as long as the context lasts; what it writes goes to `folder`.

        Raises:
            StartFailed: it does not come up.
        """

    def left_busy(self) -> bool:
        """Whether a device had not come back to idle when the last engine was gone."""


@dataclass(slots=True)
class _VirtualSession:
    """The simulated engine with one configuration."""

    started: Started
    settings: Settings
    owner: "Virtual"

    def measure(self, task: Task, stage: Stage, seed: int, watch: Watch | None = None) -> Measurement:
        """See Session."""
        whole = self.owner.load_of(task).measure(
            self.settings, stage, seed, terms=self.owner.terms, noise=self.owner.noise
        )
        if watch is None:
            return whole
        parts = (partial_of(whole, time_s) for time_s in times_to_look(whole, watch.every_s))
        return next((part for part in parts if watch(part).stop), whole)


@dataclass(slots=True)
class Virtual:
    """The simulated engine in virtual time: a trial takes a fraction of a second. Nothing from here is measured.

    `terms` replace the coefficients of its step time, `noise` makes runs differ, `device` stands for how the
    device differs from its specification: it changes the settings of memory and time. `most_requests` cuts loads.
    """

    terms: Terms | None = None
    noise: Noise | None = None
    device: Callable[[Settings], Settings] = field(default=lambda settings: settings)
    most_requests: int | None = None
    simulated: bool = True
    _loads: dict[Path, VirtualLoad] = field(default_factory=dict)
    _last: Mapping[str, Any] | None = None

    def load_of(self, task: Task) -> VirtualLoad:
        """The loads of a task, made once."""
        if task.path not in self._loads:
            self._loads[task.path] = VirtualLoad(task.scenario, task.path.parent, most_requests=self.most_requests)
        return self._loads[task.path]

    def left_busy(self) -> bool:
        """Nothing holds a device here."""
        return False

    @contextmanager
    def open(self, engine: Engine, folder: Path) -> Iterator[Session]:  # noqa: ARG002 - nothing is written
        """See Evaluator."""
        model = {} if engine.model is None else {"model": engine.model}
        try:
            settings = self.device(settings_from_flags({**engine.args, **model}))
            values = effective(settings)
            minutes = START_MINUTES[restart_class(self._last, values)]
            memory = memory_of(settings)
        except HarnessError as fault:
            failure = failures.classified(fault.lines)
            raise StartFailed(failure, BootFacts(), START_MINUTES["compile"] / 2) from None
        self._last = values
        facts = boot_facts(startup_lines(settings, memory))
        yield _VirtualSession(Started(minutes, facts, values), settings, self)
