"""Attaching to a server that somebody else started: its model, the processes behind its address, and its answers.

Behind a proxy that drops headers a process still shows what it is: its command line, the libraries it has mapped,
those of its children, and the same of the servers on this machine that it is connected to.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from harness.client.journal import answer_journals, read_frames
from harness.client.target import is_this_host
from harness.engines.api_client import SIMULATOR_MARKS, ControlClient, pick_model
from harness.engines.base import Listeners, RunningEngine, ServedProcess
from harness.engines.effective_config import EngineConfiguration
from harness.engines.engine_log import BootFacts
from harness.engines.flag_resolution import ResolvedFlags, started_configuration
from harness.engines.process import maps_stub_library
from harness.errors import EngineError
from harness.messages import message
from harness.results import store
from harness.safety.redaction import redact
from harness.scenario.engine import Engine

RESPONSES_PER_WORKER = 64  # that are searched for marks; a load balancer has shown all its servers by then
_HOPS = 3  # from a proxy to the engine behind it
_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.){1,200})"')


@asynccontextmanager
async def attach_to_server(engine: Engine, log: Path) -> AsyncIterator[RunningEngine]:  # noqa: ARG001 - its log is its owner's
    """Use the server at `engine.url`; it is neither started nor stopped.

    Raises:
        EngineError: where it cannot be reached or does not have the model.
    """
    assert engine.url is not None
    async with ControlClient(engine.url, engine) as control:
        models = await control.models()
        if models is None and engine.model is None:
            raise EngineError(message("engines.no_model_list", url=engine.url))
        model = str(engine.model) if models is None else pick_model(engine.model, models, engine.url)
        cache = await control.effective()
        await control.introduce()
        listeners = await asyncio.get_running_loop().run_in_executor(None, listeners_at, engine.url)
        simulated = control.simulated or listeners.simulated
    processes = await _counted(engine)
    first = processes[0].configuration if processes else _reached({})
    marks = {"models_listed": False} if models is None else {}
    if engine.tls.insecure:
        marks["certificate_checked"] = False
    yield RunningEngine(
        "attach",
        engine.url,
        model,
        simulated,
        reach=engine,
        configuration=_reached(cache) if cache else first,
        marks=marks,
        stub_device=listeners.stub_device,
        listeners=listeners,
        processes=processes,
    )


async def _counted(engine: Engine) -> tuple[ServedProcess, ...]:
    """The engines of which only the counters are reached, named by where they are."""
    urls = [url.removesuffix("/metrics") for url in engine.metrics or ()]
    hosts = [urlsplit(url).netloc for url in urls]
    names = [
        host if hosts.count(host) == 1 else host + urlsplit(url).path for host, url in zip(hosts, urls, strict=True)
    ]
    caches = await asyncio.gather(*(_cache_of(url, engine) for url in urls))
    return tuple(
        ServedProcess(name, kind="attach", metrics_url=url, configuration=_reached(cache))
        for name, url, cache in zip(names, urls, caches, strict=True)
    )


async def _cache_of(url: str, engine: Engine) -> Mapping[str, Any]:
    async with ControlClient(url, engine) as control:
        return await control.effective()


def _reached(cache: Mapping[str, Any]) -> EngineConfiguration:
    """What is known of an engine that somebody else started, by its /metrics."""
    return replace(started_configuration({}, ResolvedFlags({}), BootFacts(), cache), resolution={})


def listeners_at(url: str) -> Listeners:
    """The processes that listen at an address; nothing is known of another machine, or of another user's."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not is_this_host(parts.hostname or ""):
        return Listeners()
    connections = _connections()
    behind = _behind(port, connections)
    first = frozenset(_identities(_listening(port, connections)))
    family = {pid for leader in behind for pid in (leader, *_children(leader))}
    return Listeners(first, any(map(_is_simulator, family)), any(map(maps_stub_library, family)))


def _connections() -> list[Any]:
    try:
        return [row for row in psutil.net_connections("tcp") if row.pid and row.pid != os.getpid()]
    except (psutil.Error, OSError):
        return []


def _listening(port: int, connections: list[Any]) -> set[int]:
    return {row.pid for row in connections if row.status == psutil.CONN_LISTEN and row.laddr.port == port}


def _behind(port: int, connections: list[Any]) -> set[int]:
    """The processes that listen at a port, and those on this machine that they are connected to in turn."""
    pids: set[int] = set()
    ports = {port}
    for _ in range(_HOPS):
        new = {pid for number in ports for pid in _listening(number, connections)} - pids
        pids |= new
        ports = {row.raddr.port for row in connections if row.pid in new and row.raddr and is_this_host(row.raddr.ip)}
    return pids


def _identities(pids: set[int]) -> Iterator[tuple[int, float]]:
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            yield pid, psutil.Process(pid).create_time()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def _is_simulator(pid: int) -> bool:
    """Whether a process is `harness serve-sim`, however it was called."""
    with contextlib.suppress(psutil.Error):
        words = psutil.Process(pid).cmdline()
        return "serve-sim" in words and any("harness" in word for word in words[: words.index("serve-sim")])
    return False


def record_server_marks(folder: Path) -> None:
    """Add to run.json what the first answers in a run's raw folder show of the engine: its model, and a simulator.

    A proxy may drop every header and keep the body: the simulator names itself in both.
    """
    simulated, models = False, []
    for raw in _first_answers(folder / store.RAW):
        simulated = simulated or SIMULATOR_MARKS.search(raw) is not None
        model = _MODEL.search(raw)
        models += [] if model is None else [redact(model.group(1).decode("utf-8", "replace"))]
    run = store.read_run(folder)
    engine = dict(run.get("engine") or {})
    marks: dict[str, Any] = {"answered_models": list(dict.fromkeys(models))} if models else {}
    marks |= {"simulated": True} if simulated else {}
    if any(engine.get(name) != value for name, value in marks.items()):
        store.write_json(folder, store.RUN, {**run, "engine": engine | marks})


def _first_answers(raw: Path) -> Iterator[bytes]:
    for answers in answer_journals(raw):
        for frame in islice(read_frames(answers), RESPONSES_PER_WORKER):
            yield b"".join(frame.pieces)
