"""The load-generating processes: started, commanded and listened to."""

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
from harness.errors import EXIT_ENGINE, EngineError, HarnessError
from harness.messages import message

_LEAD_NS = 20_000_000  # from the word to the begin: time for every worker to hear it
_LINE_LIMIT = 1 << 20
OnReport = Callable[[int, dict[str, Any]], None]


@dataclass(slots=True)
class _Member:
    process: asyncio.subprocess.Process
    ready: set[int] = field(default_factory=set)
    over: set[int] = field(default_factory=set)
    error: list[str] = field(default_factory=list)
    gone: bool = False


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
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "harness.client.worker", str(raw), str(number)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT,
                start_new_session=True,  # no terminal's signals reach it, however early they come
            )
            member = _Member(process)
            self._members.append(member)
            self._listeners.append(asyncio.get_running_loop().create_task(self._listen(number, member)))

    async def set_up(self) -> None:
        """Have the workers read their job, and wait until each has.

        Raises:
            HarnessError: with the worker's own words, where one cannot do it.
        """
        self._tell(do="set_up")
        await self._all(lambda member: -1 in member.ready)

    async def prepare(self, number: int) -> None:
        """Have a stage prepared: drafts written, connections open."""
        self._tell(do="prepare", number=number)
        await self._all(lambda member: number in member.ready)

    def begin(self, number: int) -> int:
        """Begin a prepared stage a moment from now; the begin in absolute monotonic ns."""
        begin_ns = monotonic_ns() + _LEAD_NS
        self._tell(do="begin", number=number, begin_ns=begin_ns)
        return begin_ns

    async def finished(self, number: int) -> None:
        """Wait until every worker's last answer of a stage has come.

        Raises:
            HarnessError: where a worker died.
        """
        await self._all(lambda member: number in member.over)

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
            if member.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.process.pid, signal.SIGKILL)

    def _tell(self, **words: Any) -> None:
        line = (json.dumps(words) + "\n").encode()
        for member in self._members:
            if member.process.stdin is not None and not member.gone:
                member.process.stdin.write(line)

    async def _listen(self, number: int, member: _Member) -> None:
        assert member.process.stdout is not None
        while line := await member.process.stdout.readline():
            report = json.loads(line)
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
            self._changed.set()
        member.gone = True
        self._changed.set()

    async def _all(self, holds: Callable[[_Member], bool]) -> None:
        while True:
            self._changed.clear()
            for number, member in enumerate(self._members):
                if member.gone and not holds(member):
                    raise await _death(number, member)
            if all(holds(member) for member in self._members):
                return
            await self._changed.wait()


async def _death(number: int, member: _Member) -> HarnessError:
    if member.error:
        return EngineError(*member.error)
    code = await member.process.wait()
    died = HarnessError(message("client.worker_died", worker=number, status=code))
    died.exit_code = EXIT_ENGINE
    return died
