"""Engines as the rest of the harness sees them: an address that serves a model, for as long as it is needed."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.clock import REAL_TIME
from harness.engines.effective_config import EngineConfiguration
from harness.messages import Message
from harness.scenario.engine import Engine


@dataclass(frozen=True, slots=True)
class Listeners:
    """The processes at an address of this machine: who they are, and what they show of the engine.

    `identity` has process number and start time (s) of each. `simulated` is true where one is the simulator,
    `stub_device` where one computes on a stand-in for CANN.
    """

    identity: frozenset[tuple[int, float]] = frozenset()
    simulated: bool = False
    stub_device: bool = False

    def is_another(self, later: "Listeners") -> bool:
        """Whether `later` none of these processes listened any more, but others did."""
        return bool(self.identity and later.identity) and not self.identity & later.identity


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An engine that answers.

    `simulated` is true where its times are computed and not measured. `command` is what started it (empty where it was
    already there), `configuration` what its flags really became. `stub_device` is true where its device is a stand-in
    that computes nothing. `ending` says why it ended by itself, None while it lives. `pid` is the process that was
    started, None where it was already there; then `listeners` are the processes at its address. `reach` is the
    scenario's engine where its keys say how the server is reached; `marks` are more facts for run.json: that its models
    are not listed, its certificate not checked. `clock` is whose time a simulated engine keeps.
    """

    kind: str
    url: str
    model: str
    simulated: bool
    reach: Engine = field(default_factory=Engine)
    command: tuple[str, ...] = ()
    configuration: EngineConfiguration = field(default_factory=EngineConfiguration)
    stub_device: bool = False
    listeners: Listeners | None = None
    ending: Callable[[], Message | None] = lambda: None
    pid: int | None = None
    marks: Mapping[str, bool] = field(default_factory=dict)
    clock: str = REAL_TIME

    @property
    def pids(self) -> list[int]:
        """The engine's processes on this machine: the one that was started, or those that listen at its address."""
        if self.pid is not None:
            return [self.pid]
        return [] if self.listeners is None else sorted(pid for pid, _ in self.listeners.identity)


class StartEngine(Protocol):
    """Brings one kind of engine up, and takes it down when its context ends."""

    def __call__(self, engine: Engine, log: Path) -> AbstractAsyncContextManager[RunningEngine]:
        """Serve `engine`, writing what it prints to `log`.

        Raises:
            EngineError: where it does not start or cannot be reached.
        """
