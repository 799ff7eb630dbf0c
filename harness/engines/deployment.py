"""Several processes as one engine: started in order, watched, and all stopped at the end.

Engines start one after another without waiting, because the ranks of a group wait for each other; proxies start once
all engines answer. A process on another machine is not started here: it is waited for, and left as it is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from harness.client.target import is_this_host
from harness.engines.api_client import ControlClient, pick_model
from harness.engines.base import RunningEngine, ServedProcess
from harness.engines.process_starts import StartOf, StartProcess, starter_of, typed
from harness.engines.vllm import bound_socket
from harness.errors import EngineError, HarnessError, InputError
from harness.messages import Message, message
from harness.scenario.deployment import PROXY, Process
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.processes import is_loopback, load_process, processes_of

_POLL_S = 0.2


@asynccontextmanager
async def start_deployment(engine: Engine, log: Path, *, auto: str, start_of: StartOf) -> AsyncIterator[RunningEngine]:
    """Start all processes of a deployment, yield when all answer, and stop them all at the end.

    `auto` is what the kind auto means here; `start_of` gives what starts an engine of a kind. Each process logs to a
    file beside `log`, engine-NAME.log.

    Raises:
        InputError: where a flag of one is wrong.
        EngineError: where one does not start, is not reached or dies meanwhile; its name stands in the line.
    """
    processes = _with_ports(processes_of(engine, auto))
    members = [_Member(process, starter_of(process, processes, engine, start_of), log) for process in processes]
    try:
        for is_proxy in (False, True):
            await _all_ready([member for member in members if (member.process.role == PROXY) == is_proxy], members)
        yield await _together(engine, processes, members)
    finally:
        await _stop(members)


class _Member:
    """One process, held by a task of its own from its start to its stop."""

    def __init__(self, process: Process, start: StartProcess, log: Path) -> None:
        self.process = process
        self.log = log.with_name(f"{log.stem}-{process.name}{log.suffix}")
        self._start = start
        self._end = asyncio.Event()
        self._ready: asyncio.Future[RunningEngine] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start it, without waiting for it."""
        self._task = asyncio.get_running_loop().create_task(self._hold())

    async def _hold(self) -> None:
        try:
            async with self._start(self.log) as serving:
                self._ready.set_result(serving)
                await self._end.wait()
        except HarnessError as fault:
            if self._ready.done():
                raise
            self._ready.set_exception(self._named(fault))
            self._ready.exception()  # looked at, also where another process failed first
        except BaseException:
            self._ready.cancel()
            raise

    def _named(self, fault: HarnessError) -> HarnessError:
        """A fault of this process, with its name."""
        kind = InputError if isinstance(fault, InputError) else EngineError
        return kind(*(message("engines.of_process", name=self.process.name, reason=each) for each in fault.messages))

    @property
    def ready(self) -> "asyncio.Future[RunningEngine]":
        """What it serves, once it does."""
        return self._ready

    @property
    def serving(self) -> RunningEngine:
        """What it serves; only once it does."""
        return self._ready.result()

    def ending(self) -> Message | None:
        """Why it ended by itself, with its name; None while it lives, or starts."""
        if not self._ready.done() or self._ready.cancelled() or self._ready.exception() is not None:
            return None
        reason = self.serving.ending()
        return None if reason is None else message("engines.of_process", name=self.process.name, reason=reason)

    def stop(self) -> None:
        """Let it end; `stopped` waits for that."""
        self._end.set()
        if self._task is not None and not self._ready.done():
            self._task.cancel()

    async def stopped(self) -> None:
        """Wait until nothing of it is left."""
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.exception()

    def served(self) -> ServedProcess:
        """The process as the rest of the harness sees it."""
        serving, process = self.serving, self.process
        has_counters = PROXY not in (process.role, process.kind)
        return ServedProcess(
            process.name,
            process.role,
            serving.kind,
            url=serving.url,
            metrics_url=serving.url if has_counters else None,
            pid=serving.pid,
            devices=process.devices,
            command=serving.command,
            configuration=serving.configuration,
            simulated=serving.simulated,
            stub_device=serving.stub_device,
            log=self.log.name if serving.pid is not None else None,
            ending=self.ending,
        )


async def _all_ready(group: Sequence[_Member], members: Sequence[_Member]) -> None:
    """Start a group in its order, and wait until all of it answers.

    Raises:
        HarnessError: where one fails, or another that was ready dies meanwhile.
    """
    for member in group:
        member.begin()
    waiting = {member.ready for member in group}
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
        for member in group:
            if member.ready in done:
                member.ready.result()
        for member in members:
            if (ending := member.ending()) is not None:
                raise EngineError(ending)


async def _stop(members: Sequence[_Member]) -> None:
    """Stop everything, the last first: proxies, so that no more requests come, and then the engines."""
    for is_proxy in (True, False):
        group = [member for member in reversed(members) if (member.process.role == PROXY) == is_proxy]
        for member in group:
            member.stop()
        for member in group:
            await member.stopped()


async def _together(engine: Engine, processes: Sequence[Process], members: Sequence[_Member]) -> RunningEngine:
    """All members as one engine: requests go to its url, to the proxy, or to the only process."""
    first = load_process(processes)
    url = engine.url or next(member.serving.url for member in members if member.process is first)
    served = tuple(member.served() for member in members)
    engines = [process for process in served if process.role != PROXY]
    async with ControlClient(url, engine) as control:
        models = await control.models()
        simulated = control.simulated or any(process.simulated for process in engines)
    own = next(member.serving.model for member in members if member.process.role != PROXY)
    return RunningEngine(
        DEPLOYMENT,
        url,
        own if models is None else pick_model(engine.model or own, models, url),
        simulated=simulated,
        reach=engine,
        stub_device=any(process.stub_device for process in engines),
        ending=lambda: next(filter(None, (member.ending() for member in members)), None),
        processes=served,
    )


def _with_ports(processes: Sequence[Process]) -> tuple[Process, ...]:
    """The processes with a port each: those of this machine that name none get free ones.

    Raises:
        EngineError: where a port of this machine is taken: what answers there would be taken for the process.
    """
    chosen = []
    with contextlib.ExitStack() as held:
        for process in processes:
            port = process.port
            if _is_here(process):
                try:
                    port = held.enter_context(bound_socket(process.host, port)).getsockname()[1]
                except EngineError as fault:
                    reason = fault.messages[0]
                    raise EngineError(message("engines.of_process", name=process.name, reason=reason)) from None
            chosen.append(process.model_copy(update={"port": port}))
    return tuple(chosen)


def _is_here(process: Process) -> bool:
    return is_loopback(process.host) or is_this_host(process.host)


def command_lines(engine: Engine, auto: str) -> Iterator[tuple[Process, str, bool]]:
    """Each process of a deployment, how it would be typed in a shell, and whether that is on this machine.

    Ports that are chosen at the start stand as {port:NAME}.
    """
    processes = processes_of(engine, auto)
    for process in processes:
        yield process, typed(process, processes), _is_here(process)
