"""Offline engines: a program that generates without a server, run under the guardian as a server would be.

It is vLLM's `LLM` in the interpreter that the scenario names, or the simulator in virtual time. What it reads and
notes is in harness/engines/offline_protocol.py.
"""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines import offline_child, offline_protocol
from harness.engines.base import RunningEngine
from harness.engines.flag_resolution import ResolvedFlags, resolve_by_simulator, started_configuration
from harness.engines.interpreter_probe import OFFLINE
from harness.engines.process import uses_stub_device
from harness.engines.simulator import refuse_flags
from harness.engines.vllm import EngineWatch, check_flags, environment_of, guarded_process, within_ready_timeout
from harness.errors import InputError, suggestion
from harness.messages import Message, message
from harness.results.store import BEGUN
from harness.scenario.models import Engine
from harness.telemetry import server_metrics
from harness.workload import Workload
from harness.workload.plan import StagePlan

_SIMULATOR = "simulator"
_FILES = {
    "prompts": offline_protocol.PROMPTS,
    "notes": offline_protocol.NOTES,
    "go": offline_protocol.GO,
    "begun": BEGUN,
}  # of the raw folder


@dataclass(frozen=True, slots=True)
class OfflineWork:
    """What to generate: the raw folder, the plans of offline stages, their workload, and sampling parameters."""

    raw: Path
    plans: Sequence[StagePlan]
    workload: Workload
    sampling: Mapping[str, Any]


@asynccontextmanager
async def start_offline(engine: Engine, kind: str, log: Path, work: OfflineWork) -> AsyncIterator[RunningEngine]:
    """Start a program that has the engine, yield when that is ready for `begin`, and end all of it.

    Raises:
        InputError: where a flag or a sampling parameter is not known.
        EngineError: where it does not come up; one line with what its log says of the reason.
    """
    program, resolved = await _program(engine, kind)
    place = [] if engine.model is None else ["--model", engine.model]
    offline_protocol.write_job(
        work.raw,
        work.plans,
        work.workload,
        words=[*place, *resolved.words],
        flags=_flags(engine.model, resolved.args),
        sampling=dict(work.sampling),
        watched=[*server_metrics.SERIES, server_metrics.CACHE_CONFIG],
        **{key: str((work.raw / name).resolve()) for key, name in _FILES.items()},
    )
    command = [*program, str((work.raw / offline_protocol.JOB).resolve())]
    async with guarded_process(engine, kind, command, log) as (watch, group):
        cache = server_metrics.cache_config(await within_ready_timeout(_answering(work.raw, watch), engine, watch))
        simulated = kind == _SIMULATOR
        yield RunningEngine(
            kind,
            "",
            engine.model or "",
            simulated=simulated,
            command=tuple(command),
            configuration=started_configuration(resolved.args, resolved, watch.facts, cache),
            stub_device=not simulated and uses_stub_device(group),
            ending=watch.ending,
            pid=group,
        )


async def _program(engine: Engine, kind: str) -> tuple[list[str], ResolvedFlags]:
    """The command that holds an engine of a kind, and what its flags become."""
    if kind == _SIMULATOR:
        resolved = resolve_by_simulator(engine.model, engine.args)
        refuse_flags(resolved)
        return [sys.executable, "-m", "harness.simulator.offline"], resolved
    python = engine.python or sys.executable
    resolved = await check_flags(engine, kind, python, environment_of(engine, kind), usage=OFFLINE)
    return [python, str(offline_child.__file__)], resolved


def _flags(model: str | None, args: Mapping[str, Any]) -> dict[str, Any]:
    return dict(args) if model is None else {"model": model, **args}


async def _answering(raw: Path, watch: EngineWatch) -> str:
    notes = offline_protocol.NotesReader(raw)
    while True:
        for line in notes.new():
            if "refused" in line:
                raise InputError(*(_unknown(name, line["known"]) for name in line["refused"]))
            if "ready_ns" in line:
                watch.read()
                return str(line["metrics"])
        await watch.rest()


def _unknown(name: str, known: Sequence[str]) -> Message:
    return message("engines.no_such_sampling", name=name, suggestion=suggestion(name, list(known)))


def begin_calls(raw: Path) -> None:
    """Let a program that is ready make its calls."""
    (raw / offline_protocol.GO).touch()
