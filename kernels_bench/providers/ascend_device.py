"""What an Ascend NPU tells of itself: memory, cache, clock, temperature, and whether it is there at all."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from kernels_bench.providers.base import HOLLOW, Device, Number

DEFAULT_CACHE_BYTES = 192 << 20  # of a 910B3; older torch_npu do not tell
QUEUEING = ("TASK_QUEUE_ENABLE", "ASCEND_LAUNCH_BLOCKING")  # they change what a launch costs the host
STAND_IN = "libcann_stub.so"  # a CANN for tests: it computes nothing, and its times mean nothing
OF_TWO_CHIPS = "Ascend910_93"  # an A3 card carries two chips
_TOLD = {
    "clock_mhz": r"Aicore curFreq\(MHZ\)",
    "temperature_c": r"Temperature\s*\(C\)",
    "power_w": r"NPU Real-time Power\s*\(W\)",
}
_TELLS_WITHIN_S = 10


def is_hollow(maps: Path = Path("/proc/self/maps")) -> bool:
    """Whether a stand-in for CANN is loaded in this process, so that no number of it is a measurement."""
    try:
        return STAND_IN in maps.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def device(npu: Any, index: int, versions: Mapping[str, Number]) -> Device:
    """The NPU of that number; `npu` is `torch.npu`. `hollow` is among its facts where it is not real."""
    properties = npu.get_device_properties(index)
    free_bytes, _total = npu.mem_get_info(index)
    # What torch keeps for itself and no tensor holds is free, too: it is given out again, or back.
    kept_bytes = npu.memory_reserved(index) - npu.memory_allocated(index)
    cores = getattr(properties, "cube_core_num", None)
    facts: dict[str, Number] = {**versions, **{name: os.environ[name] for name in QUEUEING if name in os.environ}}
    facts |= {"cube_cores": cores} if cores else {}
    facts |= {HOLLOW: True} if is_hollow() else {}
    return Device("npu", properties.name, free_bytes + kept_bytes, _cache_bytes(properties), facts)


def _cache_bytes(properties: Any) -> int:
    return int(getattr(properties, "L2_cache_size", 0)) or DEFAULT_CACHE_BYTES


def card_of(name: str, index: int, visible: str) -> tuple[int, int]:
    """Card and chip, as npu-smi counts them, of the device that torch calls `index`.

    `visible` is ASCEND_RT_VISIBLE_DEVICES, which renumbers devices. An A3 card has two.
    """
    listed = [int(number) for number in re.findall(r"\d+", visible)]
    number = listed[index] if index < len(listed) else index
    return divmod(number, 2) if name.startswith(OF_TWO_CHIPS) else (number, 0)


def telemetry(name: str, index: int, work: Callable[[], None] | None) -> Mapping[str, Number]:
    """Clock, temperature and power now, from npu-smi; empty where that is not there.

    `work` keeps the device busy while npu-smi looks: an idle NPU lowers its clock, which says nothing of how fast it
    computes. Without it the clock is called `idle_clock_mhz`.
    """
    if not shutil.which("npu-smi"):
        return {}
    card, chip = card_of(name, index, os.environ.get("ASCEND_RT_VISIBLE_DEVICES", ""))
    try:
        readings = parse_common(_said(["npu-smi", "info", "-t", "common", "-i", str(card), "-c", str(chip)], work))
    except (OSError, subprocess.SubprocessError):
        return {}
    return (
        readings if work else {("idle_" + key if key == "clock_mhz" else key): value for key, value in readings.items()}
    )


def _said(command: list[str], work: Callable[[], None] | None) -> str:
    """What a command prints, with `work` done over and over until it ends."""
    until_s = perf_counter() + _TELLS_WITHIN_S
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            while work and process.poll() is None and perf_counter() < until_s:
                work()
            output, _errors = process.communicate(timeout=max(0.1, until_s - perf_counter()))
        except BaseException:
            process.kill()  # npu-smi hangs where the driver does
            raise
    return output


def parse_common(text: str) -> Mapping[str, Number]:
    """What the `key : value` lines of `npu-smi info -t common` say of clock, temperature and power."""
    matches = {name: re.search(rf"{key}\s*:\s*([0-9.]+)", text) for name, key in _TOLD.items()}
    return {name: float(match[1]) for name, match in matches.items() if match}
