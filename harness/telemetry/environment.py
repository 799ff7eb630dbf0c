"""On what machine, and with which versions, was this run made?"""

import importlib.metadata
import os
import platform
import socket
from pathlib import Path
from typing import Any

import psutil

from harness.telemetry.ascend import cann_version, driver_version, find_npu_smi, firmware_version
from harness.telemetry.host_view import Probe, this_machine
from harness.telemetry.npu_smi import parse_info

_PACKAGES = ("vllm", "vllm-ascend", "torch", "torch-npu", "aiohttp", "uvloop", "numpy", "pyarrow", "msgspec")


def environment() -> dict[str, Any]:
    """Host, processor, memory, system, Python and package versions of this process's machine."""
    return {
        "host": socket.gethostname(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "npu": npu_devices(),
        **versions_of(this_machine()),
    }


def versions_of(probe: Probe) -> dict[str, str | None]:
    """Versions of the NPU's driver and firmware, and of CANN; None where there is none."""
    npu_smi = find_npu_smi(probe)
    chips = parse_info(probe.run([npu_smi, "info"]).text).chips if npu_smi is not None else ()
    return {
        "driver": driver_version(probe),
        "firmware": firmware_version(probe, npu_smi, chips[0].npu if chips else None),
        "cann": cann_version(probe),
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def npu_devices() -> list[str]:
    """Ascend NPU device files, such as /dev/davinci0; empty where there are none."""
    return sorted(str(path) for path in Path("/dev").glob("davinci[0-9]*"))


def has_package(name: str) -> bool:
    """Whether a package is installed in this interpreter."""
    return _version(name) is not None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip().splitlines()[0]
    except (OSError, IndexError):
        return None
