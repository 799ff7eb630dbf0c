"""Who serves: an engine that is started, watched and stopped, or one that is already there?"""

from collections.abc import Mapping
from functools import partial

from harness.engines.attach import attach
from harness.engines.base import Serving, Start
from harness.engines.simulator import simulate
from harness.engines.vllm import start_vllm
from harness.environment import has_package, npu_devices
from harness.scenario.models import Engine

STARTS: Mapping[str, Start] = {
    "attach": attach,
    "simulator": simulate,
    "vllm": partial(start_vllm, kind="vllm"),
    "vllm-ascend": partial(start_vllm, kind="vllm-ascend"),
}

__all__ = ["STARTS", "Serving", "Start", "resolve_kind", "start_of"]


def resolve_kind(engine: Engine) -> tuple[str, str]:
    """The kind that `auto` means on this machine, and why in a few words."""
    if engine.kind != "auto":
        return engine.kind, "as asked"
    if npu_devices() and has_package("vllm-ascend"):
        return "vllm-ascend", "an NPU and vllm-ascend are here"
    missing = "no NPU" if not npu_devices() else "no vllm-ascend"
    return "simulator", f"auto: {missing} on this machine"


def start_of(kind: str) -> Start:
    """How engines of a kind are started; `kind` as `resolve_kind` gives it."""
    return STARTS[kind]
