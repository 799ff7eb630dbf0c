"""Readings of the NPUs and the CPU while a run goes on.

The NPUs speak through `npu-smi info watch`, a process that prints rows once a second; what it
leaves out (memory in bytes, clock, health, who else holds memory) is asked for now and then.
The CPU is read from the kernel. Each reading goes to `add` with its time, its source
(`device-0`, `host`, `engine/NAME`) and values whose names carry their units.
"""

import asyncio
import contextlib
import math
import os
import shutil
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path

import psutil

from harness.clock import monotonic_ns
from harness.telemetry.npu_smi import Values, field_values, parse_fields, parse_info, watch_columns, watch_reading
from harness.units import NS_PER_S

AddSample = Callable[[int, str, Values], None]
CpuTimes = tuple[float, float]
"""CPU time of a process, and how long it was ready to run and others had the cores (s)."""

HOST, ENGINE = "host", "engine"
BUSY_SHARE = 0.5  # of the AI cores; idle ones are clocked down on purpose, and that is no throttling
_READ_S = 1.0
_ASK_S = 10.0  # `npu-smi info` takes a second or two on eight cards
_MEMBERS_EVERY = 10  # readings between two looks at which processes the engine has
_ANSWER_S = 20.0
_STOP_S = 2.0


def npu_watches(add: AddSample, program: str) -> tuple[Coroutine[None, None, None], ...]:
    """What watches all NPUs through npu-smi until cancelled; what each started is gone when it returns."""
    heard: set[str] = set()
    return _follow(add, program, heard), _ask(add, program, heard)


async def _follow(add: AddSample, program: str, heard: set[str]) -> None:
    """Pass on the rows of `npu-smi info watch`; `heard` gets the devices that they speak of."""
    unbuffered = [stdbuf, "-oL"] if (stdbuf := shutil.which("stdbuf")) else []  # a pipe makes it print in blocks
    process = await _started([*unbuffered, program, "info", "watch", "-d", f"{_READ_S:g}"])
    if process is None:
        return
    assert process.stdout is not None
    columns: tuple[str, ...] | None = None
    try:
        async for line in process.stdout:
            text = line.decode("utf-8", "replace")
            columns = watch_columns(text) or columns
            reading = watch_reading(columns, text) if columns else None
            if reading is not None:
                heard.add(reading.source)
                add(monotonic_ns(), reading.source, reading.values)
    finally:
        await _ended(process)


async def _ask(add: AddSample, program: str, heard: set[str]) -> None:
    """Ask for what is not in those rows; for everything where this npu-smi cannot watch."""
    while True:
        table = parse_info(await _answer([program, "info"]))
        for chip in table.chips:
            place = ["-i", str(chip.npu), "-c", str(chip.chip)]
            outputs = [
                field_values(block) for block in parse_fields(await _answer([program, "info", "-t", "common", *place]))
            ]
            slow = {
                "memory_bytes": float(chip.memory_bytes),
                "memory_total_bytes": float(chip.memory_total_bytes),
                "healthy": float(chip.health == "OK"),
                "processes": float(len(table.processes_on(chip))),
                **busy_clock(outputs[0] if outputs else {}),
            }
            shown = {"watts": chip.watts, "celsius": chip.celsius, "core_share": chip.core_share}
            quick = {} if chip.source in heard else {name: value for name, value in shown.items() if value is not None}
            add(monotonic_ns(), chip.source, {**slow, **quick})
        await asyncio.sleep(_ASK_S)


def busy_clock(values: Values) -> Values:
    """The AI cores' clock as a share of its limit, where they are busy and both are known."""
    limit_hz, now_hz = values.get("core_limit_hz", 0.0), values.get("core_hz", 0.0)
    if values.get("core_share", 0.0) < BUSY_SHARE or limit_hz <= 0 or now_hz <= 0:
        return {}
    return {"busy_clock_share": now_hz / limit_hz}


async def _started(command: list[str]) -> asyncio.subprocess.Process | None:
    """A child in a group of its own, its output in a pipe; None where it cannot be run."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except OSError:
        return None
    except asyncio.CancelledError:  # in the middle of a start: what comes of it must not be left behind
        with contextlib.suppress(OSError):
            await _ended(await starting)
        raise


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a child's group: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
            return


async def _answer(command: list[str]) -> str:
    """What a command prints; empty where it cannot be run or takes too long."""
    process = await _started(command)
    if process is None:
        return ""
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _ANSWER_S)
    except asyncio.TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            await _ended(process)
    return out.decode("utf-8", "replace")


async def watch_host(add: AddSample, leaders: Sequence[int] = (), named: Mapping[str, int] = {}) -> None:
    """Read the CPU and memory of this machine, and of the processes `leaders` with their children, until cancelled.

    Leaders that are `named` are also read each by itself, as the source `engine/NAME`.

    `host_cpu_share` is of all cores, `host_steal_share` what the host of a virtual machine took of them,
    `host_softirq_share` what its network and timers took; `engine_cpu_cores` how many cores the engine keeps
    busy, `engine_wait_cores` how many more it would, had others not been on them (Linux: run_delay of
    /proc/PID/schedstat).
    """
    before: Mapping[int, CpuTimes] = {}
    members: list[psutil.Process] = []
    families: Mapping[str, frozenset[int]] = {}
    psutil.cpu_percent()
    psutil.cpu_times_percent()
    at_ns, turn = monotonic_ns(), 0
    while True:
        await asyncio.sleep(_READ_S)
        if turn % _MEMBERS_EVERY == 0:
            members = [member for leader in leaders for member in _members(leader)]
            families = {name: frozenset(member.pid for member in _members(pid)) for name, pid in named.items()}
        used, now_ns = _work(members), monotonic_ns()
        memory = psutil.virtual_memory()
        values = {
            "host_cpu_share": psutil.cpu_percent() / 100,
            "host_memory_bytes": float(memory.total - memory.available),
            **_taken(),
        }
        add(now_ns, HOST, values | _cores_used(used, before, now_ns - at_ns))
        for name, pids in families.items():
            own = {pid: times for pid, times in used.items() if pid in pids}
            add(now_ns, f"{ENGINE}/{name}", _cores_used(own, before, now_ns - at_ns))
        before, at_ns, turn = used, now_ns, turn + 1


def _cores_used(now: Mapping[int, CpuTimes], before: Mapping[int, CpuTimes], passed_ns: int) -> dict[str, float]:
    """How many cores processes kept busy, and how many more they waited for, where that is told."""
    values = {}
    for place, name in enumerate(("engine_cpu_cores", "engine_wait_cores")):
        grown = [now[pid][place] - before[pid][place] for pid in now if pid in before]
        if grown and all(map(math.isfinite, grown)):
            values[name] = sum(grown) * 1e9 / passed_ns
    return values


def _taken() -> dict[str, float]:
    """Shares of all cores that no process had, where the system tells them (Linux)."""
    times = psutil.cpu_times_percent()
    return {f"host_{name}_share": getattr(times, name) / 100 for name in ("steal", "softirq") if hasattr(times, name)}


def _members(leader: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(leader)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _work(members: list[psutil.Process]) -> dict[int, CpuTimes]:
    """What each process worked and waited so far; those that have ended are left out."""
    work: dict[int, CpuTimes] = {}
    for member in members:
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            work[member.pid] = (times.user + times.system, waited_s(member.pid))
    return work


def waited_s(pid: int) -> float:
    """How long the threads of a process that are still there have waited for a core; NaN where that is not told."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[1]) for thread in threads) / NS_PER_S
    except (OSError, IndexError, ValueError):
        return math.nan
