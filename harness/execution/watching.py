"""What is watched beside a run: the counters of the server and of each of its processes, the NPUs, the host.

Each process is polled by a task of its own, so that one whose /metrics hangs or dies disturbs neither the others nor
the load; what all have together is noted once a second from what each showed last.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.analysis.warnings.client import PARENT, PAUSED, PAUSED_S
from harness.client.target import is_this_host
from harness.clock import monotonic_ns
from harness.engines import RunningEngine
from harness.engines.api_client import ControlClient
from harness.engines.base import ServedProcess
from harness.telemetry import server_metrics
from harness.telemetry.devices import npu_watches, watch_host
from harness.telemetry.environment import find_npu_smi, this_host
from harness.telemetry.log_counters import LogCounters
from harness.telemetry.npu_smi import Values
from harness.telemetry.server_metrics import SERVER, JoinedProcesses
from harness.units import NS_PER_S

SCRAPE_S = 1.0
_BEAT_NS = 100_000_000
_FIRST_S = 5.0  # how long the first joined reading waits for a process that has not answered yet
_SOON_S = 0.1
_LAST_S = 3.0  # how long the last reading waits for one that does not answer any more


@dataclass(slots=True)
class Watched:
    """What is sampled while the run goes on; times absolute ns."""

    rows: list[tuple[int, str, str, float]] = field(default_factory=list)
    latest: dict[str, Values] = field(default_factory=dict)
    """By source of /metrics, its last values."""
    joined: JoinedProcesses = field(default_factory=JoinedProcesses)
    """What the processes of a deployment have together."""

    def add(self, at_ns: int, source: str, values: Values) -> None:
        """Keep the values that a source had at a time."""
        self.rows += [(at_ns, source, name, float(value)) for name, value in values.items()]

    def add_metrics(self, at_ns: int, text: str, process: str = "") -> bool:
        """Keep the values of a text of /metrics, of the server and of each of its engines; whether there were any.

        Of one `process` of several they are those of its engines; `add_joined` then adds those of all together.
        """
        values_by_source = server_metrics.read_metrics(text, process)
        for source, values in values_by_source.items():
            self._keep(at_ns, source, values)
        if process and values_by_source:
            self.joined.add(at_ns, process, values_by_source.values())
        return bool(values_by_source)

    def add_joined(self, at_ns: int) -> None:
        """Keep what all processes have together at a time."""
        values = self.joined.values(at_ns)
        if values:
            self._keep(at_ns, SERVER, values)

    def add_processes(self, at_ns: int, texts: Mapping[str, str]) -> None:
        """Keep the values of the /metrics of several processes, by name, and of all together."""
        for process, text in texts.items():
            self.add_metrics(at_ns, text, process)
        self.add_joined(at_ns)

    def _keep(self, at_ns: int, source: str, values: Values) -> None:
        self.add(at_ns, source, values)
        self.latest[source] = values


@asynccontextmanager
async def watching(
    control: ControlClient | None, serving: RunningEngine, watched: Watched, folder: Path | None = None
) -> AsyncIterator[None]:
    """Fill `watched` until the context ends; whatever was started for it has ended then. No control, no counters.

    Where processes show their counters, they are polled; else the server that `control` calls. `folder` is where
    the engine's logs are, which tell what no counter does.
    """
    loop = asyncio.get_running_loop()
    named = {process.name: process.pid for process in serving.processes if process.pid is not None}
    jobs: list[Coroutine[Any, Any, None]] = [watch_host(watched.add, serving.pids, named)]
    async with AsyncExitStack() as stack:
        if control is not None:
            jobs += [_beat(watched)]
            controls = await _controls(stack, serving)
            jobs += [_scrape(own, watched, process.name) for process, own in controls]
            jobs += [_join(watched, frozenset(process.name for process, _ in controls))] if controls else []
            jobs += [] if controls else [_scrape(control, watched)]
            jobs += [_follow(log, watched, name) for name, log in _logs(serving, folder)]
        npu_smi = find_npu_smi(this_host())
        if npu_smi is not None and uses_npus_here(serving):
            jobs += npu_watches(watched.add, npu_smi)
        tasks = [loop.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome


def _logs(serving: RunningEngine, folder: Path | None) -> list[tuple[str, Path]]:
    """The logs of real engines that were started, by the process's name."""
    if folder is None:
        return []
    if not serving.processes:
        return [("", folder / "engine.log")] if serving.command and not serving.simulated else []
    return [(each.name, folder / each.log) for each in serving.processes if each.log and not each.simulated]


async def _controls(stack: AsyncExitStack, serving: RunningEngine) -> list[tuple[ServedProcess, ControlClient]]:
    """Control of each process that shows its counters, until the stack is closed."""
    shown = [(each, each.metrics_url.removesuffix("/metrics")) for each in serving.processes if each.metrics_url]
    return [(process, await stack.enter_async_context(ControlClient(url, serving.reach))) for process, url in shown]


async def read_once(control: ControlClient, serving: RunningEngine, watched: Watched) -> None:
    """One more reading of the server, or of each process that still answers: what they counted until the end."""
    async with AsyncExitStack() as stack:
        controls = await _controls(stack, serving)
        if not controls:
            watched.add_metrics(monotonic_ns(), await control.metrics())
            return
        readings = {asyncio.ensure_future(own.metrics()): process.name for process, own in controls}
        done, late = await asyncio.wait(readings, timeout=_LAST_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            watched.add_metrics(monotonic_ns(), task.result(), readings[task])
        watched.add_joined(monotonic_ns())


def uses_npus_here(serving: RunningEngine) -> bool:
    """Whether this machine's NPUs are the engine's: neither a simulated engine's nor those of a server elsewhere."""
    here = serving.kind != "attach" or is_this_host(urlsplit(serving.url).hostname or "")
    return here and not serving.simulated


async def _beat(watched: Watched) -> None:
    """Note where this process did not run: it was stopped, or its machine had no time for it."""
    while True:
        due_ns = monotonic_ns() + _BEAT_NS
        await asyncio.sleep(_BEAT_NS / NS_PER_S)
        late_s = (monotonic_ns() - due_ns) / NS_PER_S
        if late_s >= PAUSED_S:
            watched.add(monotonic_ns(), PARENT, {PAUSED: late_s})


async def _scrape(control: ControlClient, watched: Watched, process: str = "") -> None:
    while True:
        text = await control.metrics()
        read = watched.add_metrics(monotonic_ns(), text, process)
        # One of several is asked as often while it is silent: it may be busy, and the others' readings wait for none.
        await asyncio.sleep(SCRAPE_S if read or process else 10 * SCRAPE_S)


async def _join(watched: Watched, processes: frozenset[str]) -> None:
    """Note what all processes have together, from when each has answered or had its time to."""
    waited_s = 0.0
    while watched.joined.heard < processes and waited_s < _FIRST_S:
        await asyncio.sleep(_SOON_S)
        waited_s += _SOON_S
    while True:
        watched.add_joined(monotonic_ns())
        await asyncio.sleep(SCRAPE_S)


async def _follow(log: Path, watched: Watched, process: str) -> None:
    """Note what an engine only logs, of the process or of one of its data-parallel ranks."""
    counters = LogCounters(log)
    source = f"{SERVER}/{process}" if process else SERVER
    while True:
        await asyncio.sleep(SCRAPE_S)
        for rank, values in counters.read().items():
            engine = f"{source}/{rank}"  # a process with one rank of several has one engine, called by its name
            watched.add(monotonic_ns(), engine if engine in watched.latest else source, values)
