"""How a process of a deployment is started or reached: an engine, a command line, our proxy, or one elsewhere."""

import asyncio
import contextlib
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from harness.client.target import is_this_host
from harness.engines.api_client import HEALTHY, UNREACHABLE, ControlClient, pick_model
from harness.engines.base import RunningEngine, StartEngine
from harness.engines.engine_log import BootFacts
from harness.engines.flag_resolution import ResolvedFlags, started_configuration
from harness.engines.interpreter_probe import flag_words
from harness.engines.process import EngineProcess, uses_stub_device
from harness.engines.vllm import environment_of, guarded_process, url_of, within_ready_timeout
from harness.errors import EngineError
from harness.messages import Message, message
from harness.scenario.deployment import COMMAND, DECODE, PREFILL, PROXY, REPLICA, Process
from harness.scenario.deployment_checks import OF_ROLE, PLACEHOLDER
from harness.scenario.engine import Engine, Paths
from harness.scenario.processes import SIMULATOR, engine_of, is_loopback
from harness.simulator.balancing import LEAST_LOADED

_POLL_S = 0.2
_LOOK_S = 2.0
_MOST_MISSED = 3  # looks at a process elsewhere in which nothing answers, before it is taken for dead
_PROXY_READY_S = 60.0
_STOP_S = 5.0
StartProcess = Callable[[Path], AbstractAsyncContextManager[RunningEngine]]
"""Starts or reaches one process, given its log."""


class StartOf(Protocol):
    """What starts engines of a kind."""

    def __call__(self, kind: str) -> StartEngine:
        """The start of this kind."""


def starter_of(process: Process, processes: Sequence[Process], engine: Engine, start_of: StartOf) -> StartProcess:
    """What starts a process of this machine, or reaches one of another."""
    if not is_loopback(process.host) and not is_this_host(process.host):
        return lambda _log: _reached(process, engine)
    if process.kind == PROXY:
        return lambda log: _proxy(process, processes, log)
    if process.kind == COMMAND:
        return lambda log: _command(process, processes, engine, log)
    return lambda log: start_of(process.kind)(engine_of(process, engine), log)


def address_of(process: Process) -> str:
    """Where a process is reached, {port:NAME} for a port that is not chosen yet."""
    return url_of(process.host, _port(process))


def _port(process: Process) -> int | str:
    return f"{{port:{process.name}}}" if process.port is None else process.port


@asynccontextmanager
async def _reached(process: Process, engine: Engine) -> AsyncIterator[RunningEngine]:
    """A process that runs elsewhere: waited for, and left as it is.

    Raises:
        EngineError: where it does not answer in time.
    """
    url = address_of(process)
    async with ControlClient(*_route(process, engine)) as control:
        limit_s = process.ready_timeout or engine.ready_timeout
        try:
            await asyncio.wait_for(_until_well(control), limit_s)
        except asyncio.TimeoutError:
            raise EngineError(message("engines.not_reached", url=url, limit_s=limit_s)) from None
        watch = _Absence(url)
        looking = asyncio.get_running_loop().create_task(watch.look(control))
        try:
            yield await _described(process, control, ending=watch.ending)
        finally:
            looking.cancel()
            await asyncio.wait({looking})


async def _until_well(control: ControlClient) -> None:
    while await control.state() != HEALTHY:  # noqa: ASYNC110 - what is waited for is another machine's
        await asyncio.sleep(_POLL_S)


class _Absence:
    """Whether a process elsewhere has gone: nothing answers there, several looks in a row."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._missed = 0

    async def look(self, control: ControlClient) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._missed = self._missed + 1 if await control.state() == UNREACHABLE else 0

    def ending(self) -> Message | None:
        """That it has gone, None while it answers."""
        return message("engines.died_unreachable", url=self._url) if self._missed >= _MOST_MISSED else None


def _route(process: Process, engine: Engine) -> tuple[str, Engine]:
    """Where control calls to a process go, and by which routes: `ready` is its health."""
    url, ready = address_of(process), process.ready
    if ready is not None and not ready.startswith("/"):
        parts = urlsplit(ready)
        url, ready = f"{parts.scheme}://{parts.netloc}", parts.path or "/"
    return url, Engine(kind="attach", url=url, api_key_env=engine.api_key_env, paths=Paths(health=ready))


async def _described(process: Process, control: ControlClient, ending: Callable[[], Message | None]) -> RunningEngine:
    """A process by what it shows of itself: its model, and its cache."""
    if process.role == PROXY:
        return RunningEngine(process.kind, address_of(process), "", simulated=False, ending=ending)
    with contextlib.suppress(EngineError):
        models = await control.models() or []
        model = process.model if process.model in [row.name for row in models] else pick_model(None, models, "")
        cache = await control.effective()
        await control.introduce()
        configuration = started_configuration({}, ResolvedFlags({}), BootFacts(), cache)
        return RunningEngine(
            process.kind,
            address_of(process),
            str(model),
            simulated=control.simulated,
            configuration=replace(configuration, resolution={}),
            ending=ending,
        )
    return RunningEngine(process.kind, address_of(process), process.model or "", simulated=False, ending=ending)


@asynccontextmanager
async def _command(
    process: Process, processes: Sequence[Process], engine: Engine, log: Path
) -> AsyncIterator[RunningEngine]:
    """A command line of the user's, under the guardian that ends all of it.

    Raises:
        EngineError: where it cannot be run, ends, or is not ready in time.
    """
    words = filled(process.command or (), process, processes)
    env = {name: filled([value], process, processes)[0] for name, value in process.env.items()}
    keys = Engine(env=env, ready_timeout=process.ready_timeout or engine.ready_timeout)
    async with guarded_process(keys, COMMAND, words, log) as (watch, group):
        async with ControlClient(*_route(process, engine)) as control:

            async def answering() -> str:
                while await control.state() != HEALTHY:
                    await watch.rest()
                watch.read()
                return ""

            await within_ready_timeout(answering(), keys, watch)
            serving = await _described(process, control, watch.ending)
        stub = uses_stub_device(group)
        yield replace(serving, command=tuple(words), pid=group, stub_device=stub)


def filled(words: Sequence[str], process: Process, processes: Sequence[Process]) -> list[str]:
    """Words of a command line with the values of their placeholders; {urls:ROLE} and its like become several words."""
    own = {**_values(process), "devices": ",".join(str(number) for number in process.devices or ())}
    by_name = {other.name: _values(other) for other in processes}

    def value(match: "re.Match[str]") -> str:
        return (own if match["name"] is None else by_name[match["name"]])[match["what"]]

    filled_words: list[str] = []
    for word in words:
        several = PLACEHOLDER.fullmatch(word)
        if several is not None and several["what"] in OF_ROLE:
            group = [_values(other) for other in processes if other.role == several["name"]]
            filled_words += [values[several["what"].removesuffix("s")] for values in group]
        else:
            filled_words.append(PLACEHOLDER.sub(value, word))
    return filled_words


def _values(process: Process) -> Mapping[str, str]:
    """What placeholders say of a process."""
    parts = urlsplit(address_of(process))
    return {"url": address_of(process), "host": parts.hostname or process.host, "port": str(_port(process))}


@asynccontextmanager
async def _proxy(process: Process, processes: Sequence[Process], log: Path) -> AsyncIterator[RunningEngine]:
    """The proxy of the harness, before all engines.

    Raises:
        EngineError: where it does not come up.
    """
    words = proxy_command(process, processes)
    proxy = EngineProcess(words, log, process.env, stop_s=_STOP_S)
    await proxy.start()
    try:
        url = await proxy.first_line(_PROXY_READY_S)
        yield RunningEngine(PROXY, url, "", simulated=False, command=tuple(words), ending=proxy.ending, pid=proxy.pid)
    finally:
        await proxy.stop()


def proxy_command(process: Process, processes: Sequence[Process]) -> list[str]:
    """The command line of the harness's own proxy before these processes."""
    words = [sys.executable, "-m", "harness", "serve-proxy", "--host", process.host, "--port", str(_port(process))]
    for role in (PREFILL, DECODE, REPLICA):
        urls = [address_of(other) for other in processes if other.role == role]
        words += [f"--{role}", ",".join(urls)] if urls else []
    return [*words, "--policy", process.policy or LEAST_LOADED, "--until-stdin-closes"]


def typed(process: Process, processes: Sequence[Process]) -> str:
    """A process as a shell would start it: its variables, and its command line."""
    env = dict(process.env)
    if process.kind == COMMAND:
        words = filled(process.command or (), process, processes)
        env = {name: filled([value], process, processes)[0] for name, value in env.items()}
    elif process.kind == PROXY:
        words = ["harness", *proxy_command(process, processes)[3:-1]]
    else:
        env = environment_of(engine_of(process, Engine()), process.kind) | env
        serve = ["harness", "serve-sim"] if process.kind == SIMULATOR else ["vllm", "serve"]
        address = ["--host", process.host, "--port", str(_port(process))]
        words = [*serve, *([process.model] if process.model else []), *address, *flag_words(dict(process.args))]
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), *map(shlex.quote, words)])
