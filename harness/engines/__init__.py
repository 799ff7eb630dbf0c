"""Engines: each kind with its options and what starts it; `auto` is chosen by what this machine has."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from harness.engines.attach import attach_to_server
from harness.engines.base import RunningEngine, StartEngine
from harness.engines.deployment import start_deployment
from harness.engines.flag_resolution import ResolvedFlags
from harness.engines.process import OnMemoryLeft
from harness.engines.simulator import resolve_clock, start_simulator
from harness.engines.vllm import start_vllm
from harness.messages import Message, message
from harness.plugins import ENGINES, Plugin, plugin_of
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.telemetry.environment import has_package, npu_devices, this_host

__all__ = ["REAL", "STARTS", "RunningEngine", "StartEngine", "auto_kind", "resolve_clock", "resolve_kind", "start_of"]


REAL = ("vllm", "vllm-ascend")


def _start_deployment(engine: Engine, log: Path) -> AbstractAsyncContextManager[RunningEngine]:
    return start_deployment(engine, log, auto=auto_kind(engine), start_of=start_of)


STARTS: Mapping[str, Plugin] = {
    "attach": Plugin(Engine, attach_to_server),
    "simulator": Plugin(Engine, start_simulator),
    DEPLOYMENT: Plugin(Engine, _start_deployment),
    **{kind: Plugin(Engine, partial(start_vllm, kind=kind)) for kind in REAL},
}


def resolve_kind(engine: Engine) -> tuple[str, Message]:
    """The kind that `auto` means on this machine, and why in a few words."""
    if engine.kind != "auto":
        return engine.kind, message("engines.kind_requested")
    if not npu_devices():
        return "simulator", message("engines.auto_no_npu")
    python = message("engines.this_interpreter") if engine.python is None else engine.python
    if not _has_ascend(engine):
        return "simulator", message("engines.auto_no_ascend", python=python)
    return "vllm-ascend", message("engines.auto_ascend", python=python)


def auto_kind(engine: Engine) -> str:
    """The kind that `auto` means on this machine for the processes of a deployment."""
    return resolve_kind(engine.model_copy(update={"kind": "auto"}))[0]


def _has_ascend(engine: Engine) -> bool:
    """Whether the interpreter in which the engine would run has vllm-ascend; found out without importing it."""
    if engine.python is None:
        return has_package("vllm-ascend")
    program = "import importlib.util\nraise SystemExit(importlib.util.find_spec('vllm_ascend') is None)"
    return this_host(engine.env).run([engine.python, "-c", program]).succeeded


def start_of(kind: str, known: ResolvedFlags | None = None, on_memory_left: OnMemoryLeft | None = None) -> StartEngine:
    """What starts engines of a kind; `kind` as `resolve_kind` gives it.

    `known` is what the engine's flags become, where vLLM resolved them before and need not once more.
    `on_memory_left` is called where a real engine's devices did not come back to what they held before it.
    """
    if kind in REAL and (known is not None or on_memory_left is not None):
        return partial(start_vllm, kind=kind, known=known, on_memory_left=on_memory_left or (lambda _devices: None))
    start: StartEngine = plugin_of(ENGINES, STARTS, kind).factory
    return start
