"""Engines as the rest of the harness sees them: an address that serves a model, for as long as it is needed."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.clock import REAL_TIME
from harness.engines.effective_config import EngineConfiguration
from harness.messages import Message
from harness.scenario.deployment import REPLICA
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
class ServedProcess:
    """One process of several that serve together: its name, what it does, and where it shows its counters.

    `role` is one of `ROLES`. `url` is where it takes requests, `metrics_url` where it shows its counters (the whole
    address, or that of a server with /metrics), None where it has none. `pid` is None where it was already there;
    `devices` are the numbers of those it may use, None where that is not known. The rest is as in `RunningEngine`, of
    this process alone; `log` is the name of its log in the result folder.
    """

    name: str
    role: str = REPLICA
    kind: str = ""
    url: str | None = None
    metrics_url: str | None = None
    pid: int | None = None
    devices: tuple[int, ...] | None = None
    command: tuple[str, ...] = ()
    configuration: EngineConfiguration = field(default_factory=EngineConfiguration)
    simulated: bool = False
    stub_device: bool = False
    log: str | None = None
    ending: Callable[[], Message | None] = lambda: None

    def as_dict(self) -> dict[str, Any]:
        """Its entry in `engine.processes` of run.json."""
        return {
            "name": self.name,
            "role": self.role,
            "kind": self.kind,
            "url": self.url,
            "metrics_url": self.metrics_url,
            "devices": None if self.devices is None else list(self.devices),
            "command": list(self.command),
            "log": self.log,
            "simulated": self.simulated,
            "hollow": self.stub_device,
            **self.configuration.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An engine that answers.

    `simulated` is true where its times are computed and not measured. `command` is what started it (empty where it was
    already there), `configuration` what its flags really became. `stub_device` is true where its device is a stand-in
    that computes nothing. `ending` says why it ended by itself, None while it lives. `pid` is the process that was
    started, None where it was already there; then `listeners` are the processes at its address. `reach` is the
    scenario's engine where its keys say how the server is reached; `marks` are more facts for run.json: that its models
    are not listed, its certificate not checked. `clock` is whose time a simulated engine keeps.
    `processes` are those that serve together behind `url`, each with its own counters; empty where one process does.
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
    processes: tuple[ServedProcess, ...] = ()

    @property
    def pids(self) -> list[int]:
        """The engine's processes on this machine: those that were started, or those that listen at its address."""
        started = [process.pid for process in self.processes if process.pid is not None]
        if started:
            return started
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
