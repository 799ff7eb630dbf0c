"""Engine processes: started, watched and stopped; the device memory they hold, and whether their CANN is a stub.

An engine gets a process group of its own; only that group is ever signalled. Its standard input is a pipe that closes
when this process ends in any way, SIGKILL included, and what we start ourselves ends with it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.clock import monotonic_ns
from harness.engines.engine_log import is_error
from harness.errors import EngineError
from harness.messages import Message, message, plain
from harness.safety.redaction import redact_file
from harness.telemetry.npu_smi import parse_info
from harness.units import NS_PER_S

_STOP_S = 10.0
TOO_SLOW = frozenset({"engines.not_ready", "engines.not_ready_in_time"})
WITH_STATUS = frozenset({"engines.died_with_status", "engines.exit_status"})
KILLED, ENDED_BY = "engines.killed", "engines.ended_by"

OnMemoryLeft = Callable[[Sequence[str]], None]
"""Gets the names of the devices whose memory did not come back after an engine's end."""


@dataclass(frozen=True, slots=True)
class EngineEnding:
    """How an engine ended: its exit status (negative: by that signal; None: it lived), and whether it was too slow."""

    status: int | None = None
    timed_out: bool = False


def ending_of(messages: Iterable[Message]) -> EngineEnding:
    """How an engine ended, by the codes of an `EngineError`'s messages and of the reasons in them; in any language."""
    status, timed_out = None, False
    for each in _with_parts(messages):
        if each.code in WITH_STATUS:
            status = _as_int(each.parameters["status"])
        elif each.code == KILLED:
            status = -signal.SIGKILL
        elif each.code == ENDED_BY:
            status = -signal.Signals[str(each.parameters["signal"])]
        timed_out = timed_out or each.code in TOO_SLOW
    return EngineEnding(status, timed_out)


def _with_parts(messages: Iterable[Message]) -> Iterator[Message]:
    for each in messages:
        yield each
        yield from _with_parts(value for value in each.parameters.values() if isinstance(value, Message))


def exit_message(status: int | None) -> Message:
    """How a process ended: its exit status, or a signal by name (-n; 128 + n from a shell or the guardian)."""
    number = -status if status is not None and status < 0 else (status or 0) - 128
    with contextlib.suppress(ValueError):
        return message(ENDED_BY, signal=signal.Signals(number).name)
    return message("engines.exit_status", status=status)


def _as_int(status: object) -> int | None:
    return status if isinstance(status, int) else None


class EngineProcess:
    """One engine in a process group of its own, its output in a log file."""

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, stop_s: float = _STOP_S
    ) -> None:
        """`stop_s` is how long it may take to end when asked to, before it is killed."""
        self.command = tuple(command)
        self._stop_s = stop_s
        self._log = log
        self._env = {**os.environ, **(env or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def start(self) -> None:
        """Start it.

        Raises:
            EngineError: where its program cannot be run.
        """
        with self._log.open("ab") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineError(
                    message("engines.not_runnable", program=self.command[0], reason=error.strerror)
                ) from None

    @property
    def pid(self) -> int | None:
        """The process that was started, which leads its group."""
        return None if self._process is None else self._process.pid

    async def first_line(self, timeout_s: float) -> str:
        """The first line that it prints to standard output: its address.

        Raises:
            EngineError: where it ends or says nothing in time, with the last line of its log.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        except asyncio.TimeoutError:
            raise EngineError(message("engines.not_ready", limit_s=timeout_s, log=str(self._log))) from None
        if not line:
            await self._process.wait()
            raise EngineError(message("engines.ended_at_start", reason=self._last_log_line()))
        return line.decode("utf-8", "replace").strip()

    @property
    def exit_status(self) -> int | None:
        """Its exit status, or None while it lives or where it never began."""
        return None if self._process is None else self._process.returncode

    def ending(self) -> Message | None:
        """Why it ended by itself, or None while it lives."""
        if self._process is None or self._process.returncode is None or self._stopping:
            return None
        status, last = self._process.returncode, self._last_log_line()
        if status >= 0:
            return message("engines.died_with_status", status=status, reason=last)
        end = message(KILLED) if status == -signal.SIGKILL else exit_message(status)
        if is_error(str(last)):
            end = message("engines.failure_and_status", failure=last, status=end)
        return message("engines.died", reason=end, log=str(self._log))

    def _last_log_line(self) -> Message:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        last = next((line for line in reversed(lines) if line.strip()), "").removeprefix("harness: ")
        return plain(last) if last else message("engines.ended_silently", log=str(self._log))

    async def stop(self) -> None:
        """End its group: politely, then by force; it is gone when this returns."""
        process = self._process
        if process is None:
            return
        self._stopping = True
        self._signal(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._stop_s)
        except asyncio.TimeoutError:
            self._signal(process.pid, signal.SIGKILL)
            await process.wait()
        self._signal(process.pid, signal.SIGKILL)  # whatever of the group outlived its leader
        redact_file(self._log)

    def _signal(self, group: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


async def output_of(command: Sequence[str], env: Mapping[str, str], timeout_s: float, line: bytes = b"") -> str:
    """The output of a short program, "" where it takes too long.

    It reads `line`; its input stays open for as long as it is waited for.

    Raises:
        OSError: where it cannot be run.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **env},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    try:
        printed = await asyncio.wait_for(process.stdout.read(), timeout_s)
    except asyncio.TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # at its end of output it has nothing more to do
        await process.wait()
    return printed.decode("utf-8", "replace")


_SLACK_BYTES = 512 << 20  # drivers keep a little for a while, and other tenants breathe
_ANSWER_S = 20.0
_WAIT_S = 30.0
_POLL_S = 0.5


async def memory_in_use(program: str | None, devices: Sequence[int] | None) -> Mapping[str, int]:
    """Bytes in use by device, of those numbered `devices` (None: all), by `npu-smi info`; {} without npu-smi."""
    if program is None:
        return {}
    try:
        chips = parse_info(await output_of([program, "info"], {}, _ANSWER_S)).chips
    except OSError:
        return {}
    numbers = range(len(chips)) if devices is None else devices
    return {chips[number].source: chips[number].memory_bytes for number in numbers if number < len(chips)}


async def wait_for_memory(program: str | None, devices: Sequence[int] | None, before: Mapping[str, int]) -> list[str]:
    """Wait until the devices hold hardly more than `before`; those that still hold more after half a minute."""
    begin_ns, left = monotonic_ns(), list(before)
    while left:
        now = await memory_in_use(program, devices)
        left = [source for source in before if now.get(source, 0) > before[source] + _SLACK_BYTES]
        if not left or monotonic_ns() - begin_ns > _WAIT_S * NS_PER_S:
            break
        await asyncio.sleep(_POLL_S)
    return left


def log_memory_left(log: Path, left: Sequence[str]) -> None:
    """Write to the engine's log that memory was not released."""
    if left:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"harness: {message('engines.memory_not_released', devices=left, wait_s=_WAIT_S)}\n")


STUB_LIBRARY = "libcann_stub.so"


def uses_stub_device(group: int) -> bool:
    """Whether any process of a group has the stand-in's library mapped."""
    return any(map(maps_stub_library, _members(group)))


def maps_stub_library(pid: int) -> bool:
    """Whether a process has the stand-in's library mapped; of another user's process that is not known."""
    return STUB_LIBRARY in _maps(pid)


def _members(group: int) -> Iterator[int]:
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                yield pid


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
