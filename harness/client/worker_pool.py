"""The load-generating processes: started, commanded and listened to.

Their reports come through a pipe of their own and not through stdout, on which a plug-in may print.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.clock import monotonic_ns
from harness.errors import EXIT_ENGINE, EngineError, HarnessError, displayable
from harness.messages import Message, message
from harness.units import NS_PER_S

_LEAD_NS = 20_000_000  # from the word to the begin: time for every worker to hear it
_LINE_LIMIT = 1 << 20
_SHOWN_CHARS = 120  # of a line that is no report
_WORKER = ("-m", "harness.client.worker")
# A worker under load reports four times a second; one that is silent for so long is stuck, whatever it waits for.
STUCK_S = 60.0
PREPARING_STUCK_S = 1800.0  # writing a stage's first requests keeps the loop busy, and no worker reports meanwhile
_CHECK_S = 1.0
_STDERR = 2  # takes what a worker, or a plug-in in it, prints
OnReport = Callable[[int, dict[str, Any]], None]


@dataclass(slots=True)
class _Member:
    process: asyncio.subprocess.Process
    reports: asyncio.StreamReader
    pipe: asyncio.BaseTransport  # that `reports` come through
    failure: Exception | None = None  # of listening to it
    ready: set[int] = field(default_factory=set)
    over: set[int] = field(default_factory=set)
    error: list[str] = field(default_factory=list)
    gone: bool = False
    silent_s: float = 0.0
    stuck: bool = False


class WorkerPool:
    """The worker processes of one run, one command for all."""

    def __init__(self, on_sample: OnReport, on_counts: OnReport) -> None:
        """`on_sample(worker, sample)` gets every sample that a worker takes of itself, `on_counts` what it counts."""
        self._members: list[_Member] = []
        self._listeners: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._on_sample = on_sample
        self._on_counts = on_counts

    async def start(self, raw: Path, workers: int) -> None:
        """Start the workers of the run whose raw files are in `raw`; they load while the engine starts."""
        for number in range(workers):
            member = await _start(raw, number)
            self._members.append(member)
            self._listeners.append(asyncio.get_running_loop().create_task(self._listen(number, member)))

    async def set_up(self) -> None:
        """Have the workers read their job, and wait until each has.

        Raises:
            HarnessError: with the worker's own words, where one cannot do it.
        """
        self._tell(do="set_up")
        await self._all(lambda member: -1 in member.ready, PREPARING_STUCK_S)

    async def prepare(self, number: int) -> None:
        """Have a stage prepared: drafts written, connections open."""
        self._tell(do="prepare", number=number)
        await self._all(lambda member: number in member.ready, PREPARING_STUCK_S)

    def begin(self, number: int) -> int:
        """Begin a prepared stage a moment from now; the begin in absolute monotonic ns."""
        begin_ns = monotonic_ns() + _LEAD_NS
        self._tell(do="begin", number=number, begin_ns=begin_ns)
        return begin_ns

    async def finished(self, number: int) -> None:
        """Wait until every worker's last answer of a stage has come.

        A worker that is stuck is ended, nothing more is sent, and the others end what is in flight.

        Raises:
            HarnessError: where a worker died, or was stuck.
        """
        await self._all(lambda member: number in member.over, STUCK_S)

    def stop(self) -> None:
        """Nothing more is sent; what is in flight goes on to its end."""
        self._tell(do="stop")

    def cut(self) -> None:
        """Nothing more is sent, and what is in flight is given up, as cancelled."""
        self._tell(do="cut")

    async def close(self) -> None:
        """End every worker; what is in flight is given up."""
        for member in self._members:
            if member.process.stdin is not None:
                with contextlib.suppress(OSError):
                    member.process.stdin.close()
        if self._listeners:
            _, late = await asyncio.wait(self._listeners, timeout=5)
            if late:
                self.kill()
                await asyncio.wait(late, timeout=5)
        for member in self._members:
            await member.process.wait()

    def kill(self) -> None:
        """Kill every worker at once."""
        for member in self._members:
            _kill(member)

    def _tell(self, **words: Any) -> None:
        line = (json.dumps(words) + "\n").encode()
        for member in self._members:
            if member.process.stdin is not None and not member.gone:
                member.process.stdin.write(line)

    async def _listen(self, number: int, member: _Member) -> None:
        """Take in what a worker reports until it ends; one that cannot be understood is ended."""
        try:
            while line := await _next_line(number, member.reports):
                member.silent_s = 0.0
                self._take_in(number, member, _report_in(number, line))
                self._changed.set()
        except Exception as fault:  # noqa: BLE001 - whoever waits for the worker raises it
            member.failure = fault
            _kill(member)
        member.pipe.close()
        member.gone = True
        self._changed.set()

    def _take_in(self, number: int, member: _Member, report: dict[str, Any]) -> None:
        if "sample" in report:
            self._on_sample(number, report["sample"])
        elif "live" in report:
            self._on_counts(number, report["live"])
        elif "ready" in report:
            member.ready.add(report["ready"])
        elif "over" in report:
            member.over.add(report["over"])
        elif "error" in report:
            member.error = report["error"]

    async def _all(self, holds: Callable[[_Member], bool], stuck_s: float) -> None:
        """Wait until it holds of every worker; one that is silent for `stuck_s` meanwhile is ended."""
        for member in self._members:
            member.silent_s = 0.0
        last_ns = monotonic_ns()
        while True:
            self._changed.clear()
            for number, member in enumerate(self._members):
                if member.failure is not None:
                    raise member.failure
                if member.gone and not member.stuck and not holds(member):
                    raise await _death(number, member)
            waited_for = [member for member in self._members if not (holds(member) or member.stuck)]
            if not waited_for:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _CHECK_S)
            now_ns = monotonic_ns()
            passed_s = min((now_ns - last_ns) / NS_PER_S, 2 * _CHECK_S)  # this process may have been stopped itself
            last_ns = now_ns
            for member in waited_for:
                member.silent_s += passed_s
                if member.silent_s > stuck_s:
                    self._give_up(member)
        stuck = next((number for number, member in enumerate(self._members) if member.stuck), None)
        if stuck is not None:
            raise _fault(message("client.worker_stuck", worker=stuck, silent_s=stuck_s))

    def _give_up(self, member: _Member) -> None:
        """End a worker that is stuck; the others send nothing more, as their load would be less than was asked for."""
        member.stuck = True
        _kill(member)
        self.stop()


async def _start(raw: Path, number: int) -> _Member:
    """A worker that has been started."""
    read_fd, write_fd = os.pipe()
    reports = asyncio.StreamReader(limit=_LINE_LIMIT)
    try:
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reports), os.fdopen(read_fd, "rb")
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *_WORKER,
            *(str(raw), str(number), str(write_fd)),
            stdin=asyncio.subprocess.PIPE,
            stdout=_STDERR,
            pass_fds=(write_fd,),
            start_new_session=True,  # no terminal's signals reach it, however early they come
        )
    finally:
        os.close(write_fd)
    return _Member(process, reports, pipe)


async def _next_line(number: int, reports: asyncio.StreamReader) -> bytes:
    """The next line, empty at the end."""
    try:
        return await reports.readline()
    except ValueError as fault:  # longer than any report
        raise _fault(message("client.worker_unclear", worker=number, line=str(fault))) from None


def _report_in(number: int, line: bytes) -> dict[str, Any]:
    """The report of a line."""
    with contextlib.suppress(ValueError):
        report = json.loads(line)
        if isinstance(report, dict):
            return report
    shown = displayable(line.decode("utf-8", "replace").strip())[:_SHOWN_CHARS]
    raise _fault(message("client.worker_unclear", worker=number, line=shown))


def _kill(member: _Member) -> None:
    """Kill a worker with all that it started, by its own group of processes."""
    if member.process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(member.process.pid, signal.SIGKILL)


async def _death(number: int, member: _Member) -> HarnessError:
    if member.error:
        return EngineError(*member.error)
    code = await member.process.wait()
    return _fault(message("client.worker_died", worker=number, status=code))


def _fault(line: Message) -> HarnessError:
    fault = HarnessError(line)
    fault.exit_code = EXIT_ENGINE
    return fault
