"""Who serves: an engine that is started, watched and stopped, or one that is already there?"""

from collections.abc import Mapping
from functools import partial

from harness.engines.attach import attach_to_server
from harness.engines.base import RunningEngine, StartEngine
from harness.engines.flag_resolution import ResolvedFlags
from harness.engines.simulator import start_simulator
from harness.engines.vllm import start_vllm
from harness.plugins import ENGINES, Plugin, plugin_of
from harness.scenario.models import Engine
from harness.telemetry.environment import has_package, npu_devices, this_host

REAL = ("vllm", "vllm-ascend")
STARTS: Mapping[str, Plugin] = {
    "attach": Plugin(Engine, attach_to_server),
    "simulator": Plugin(Engine, start_simulator),
    **{kind: Plugin(Engine, partial(start_vllm, kind=kind)) for kind in REAL},
}

__all__ = ["STARTS", "RunningEngine", "StartEngine", "resolve_kind", "start_of"]


def resolve_kind(engine: Engine) -> tuple[str, str]:
    """The kind that `auto` means on this machine, and why in a few words."""
    if engine.kind != "auto":
        return engine.kind, "as asked"
    if not npu_devices():
        return "simulator", "auto: no NPU on this machine"
    place = "this interpreter" if engine.python is None else engine.python
    if not _has_ascend(engine):
        return "simulator", f"auto: no vllm-ascend in {place}"
    return "vllm-ascend", f"an NPU is here, and vllm-ascend in {place}"


def _has_ascend(engine: Engine) -> bool:
    """Whether the interpreter in which the engine would run has vllm-ascend; asked without importing it."""
    if engine.python is None:
        return has_package("vllm-ascend")
    asks = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm_ascend') is None)"
    return this_host(engine.env).run([engine.python, "-c", asks]).succeeded


def start_of(kind: str, known: ResolvedFlags | None = None) -> StartEngine:
    """How engines of a kind are started; `kind` as `resolve_kind` gives it.

    `known` is what the engine's flags become, where vLLM was asked already and need not be once more.
    """
    if known is not None and kind in REAL:
        return partial(start_vllm, kind=kind, known=known)
    start: StartEngine = plugin_of(ENGINES, STARTS, kind).factory
    return start
