"""Has the device memory that an engine held come back, so that the next can have it?"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.clock import monotonic_ns
from harness.engines.process import output_of
from harness.telemetry.npu_smi import parse_info
from harness.units import NS_PER_S

_SLACK_BYTES = 512 << 20  # drivers keep a little for a while, and other tenants breathe
_ANSWER_S = 20.0
_WAIT_S = 30.0
_POLL_S = 0.5


async def held(program: str | None, devices: Sequence[int] | None) -> Mapping[str, int]:
    """Bytes in use by device, of those numbered `devices` (None: all), by `npu-smi info`; {} without npu-smi."""
    if program is None:
        return {}
    try:
        chips = parse_info(await output_of([program, "info"], {}, _ANSWER_S)).chips
    except OSError:
        return {}
    numbers = range(len(chips)) if devices is None else devices
    return {chips[number].source: chips[number].memory_bytes for number in numbers if number < len(chips)}


async def wait_until_back(program: str | None, devices: Sequence[int] | None, before: Mapping[str, int]) -> list[str]:
    """Wait until the devices hold hardly more than `before`; those that still do after half a minute."""
    begin_ns, left = monotonic_ns(), list(before)
    while left:
        now = await held(program, devices)
        left = [source for source in before if now.get(source, 0) > before[source] + _SLACK_BYTES]
        if not left or monotonic_ns() - begin_ns > _WAIT_S * NS_PER_S:
            break
        await asyncio.sleep(_POLL_S)
    return left


def note(log: Path, left: Sequence[str]) -> None:
    """Say in the engine's log that memory did not come back."""
    if left:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"harness: the memory of {', '.join(left)} was not free again {_WAIT_S:g} s after the end\n")
