"""What a CPU tells of itself: name, free memory, last-level cache, clock."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from kernels_bench.providers.base import Device, Number

DEFAULT_CACHE_BYTES = 64 << 20  # where the system does not tell: as large as most servers share among some cores
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def device() -> Device:
    """The CPU as torch uses it."""
    facts: dict[str, Number] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return Device("cpu", _model() or "CPU", _free_bytes(), cache_bytes(_CACHES), facts)


def telemetry() -> Mapping[str, Number]:
    """The mean clock of all cores now, where /proc tells it."""
    clocks = [float(clock) for clock in re.findall(r"^cpu MHz\s*:\s*([0-9.]+)", _text("/proc/cpuinfo"), re.MULTILINE)]
    return {"clock_mhz": round(sum(clocks) / len(clocks), 1)} if clocks else {}


def cache_bytes(folder: Path) -> int:
    """The largest cache of a core, from sysfs."""
    sizes = [_size(path.read_text(encoding="ascii")) for path in folder.glob("index*/size")]
    return max(sizes, default=0) or DEFAULT_CACHE_BYTES


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)\s*", text)
    return int(match[1]) * _UNITS.get(match[2], 1) if match else 0


def _model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return match[1].strip() if match else ""


def _free_bytes() -> int:
    match = re.search(r"^MemAvailable:\s*(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def use_threads(count: int) -> None:
    """Have torch compute with that many threads."""
    torch.set_num_threads(count)


def ask_for_tiles() -> bool:
    """Ask the system for leave to use AMX tiles in this process; whether it gave it.

    Linux ends a process that uses them unasked. An engine has asked by the time it attends, as has whoever multiplied
    bfloat16 matrices before; here a kernel may be the first to want them.
    """
    ask = getattr(torch.cpu, "_init_amx", None)
    return bool(ask and ask())
