"""One load-generating process: it prepares a stage, runs it on command and reports; it never prints.

Started by the worker pool (harness/client/worker_pool.py) as `python -m harness.client.worker RAW_FOLDER
NUMBER REPORTS`. Commands come as JSON lines on stdin, reports go as JSON lines to the file descriptor REPORTS, so that
what a plug-in prints is none of them; the end of stdin means that the parent is gone, and ends the process.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from harness.client import transport
from harness.client.connection import InFlightRequest
from harness.client.journal import PRIMING_ROW, AnswerJournal, SentJournal, journals_of
from harness.client.live_counters import LiveCounters
from harness.client.load import LoadContext, PreparedRequest, PreparedRequests, StageLoad
from harness.client.request_builder import RequestBuilder
from harness.clock import Clock, MonotonicClock
from harness.errors import HarnessError
from harness.scenario.models import Scenario
from harness.units import seconds_to_ns
from harness.workload.plan import StagePlan, load

RESERVE = 16  # connections an open loop keeps open and free, so that a burst need not wait for handshakes
_SAMPLE_NS = 250_000_000
_SAMPLING_NS = 20_000_000
_NICE = -10
_END_S = 5.0  # everything in flight was just given up; nothing may keep a worker whose parent is gone
_WRITE_PAUSE_NS = 2_000_000
_WRITES_AT_ONCE = 12  # about 0.2 ms: other streams are stamped no later than that


class RequestLog:
    """Writes every request to the journal as it goes, and its answer in idle moments."""

    def __init__(self, raw: Path, number: int, clock: Clock, live: LiveCounters) -> None:
        sent, answers = journals_of(raw, number)
        self._sent, self._answers = SentJournal(sent), AnswerJournal(answers)
        self._clock = clock
        self._finished: deque[InFlightRequest] = deque()
        self._place = (0, 0, 0)
        self._priming = False
        self.live = live
        self.last_sent_ns = 0

    def begin(self, plan: StagePlan, begin_ns: int) -> None:
        """What follows belongs to this stage; measured is what is due after a warm-up by time."""
        self._place, self._priming = (plan.stage_index, plan.repeat, begin_ns + plan.warm_ns), False
        self.live.begin(plan.number)

    def begin_priming(self, plan: StagePlan) -> None:
        """What follows primes a stage: it is written down, and not counted."""
        self._place, self._priming = (plan.stage_index, plan.repeat, 0), True

    def sent(self, request: InFlightRequest, prepared: PreparedRequest) -> None:
        """Write the row of a sent request."""
        stage, repeat, measured_ns = self._place
        measured = int(prepared.measured and request.due_ns >= measured_ns)
        self.last_sent_ns = request.sent_ns
        if self._priming:
            measured = PRIMING_ROW
        else:
            self.live.sent(request, measured=bool(measured))
        self._sent.write(
            request.seq,
            (stage, repeat, prepared.session.index, prepared.turn, measured, prepared.request_class),
            (prepared.input_asked, prepared.output_asked, len(prepared.payload)),
            (request.due_ns, request.ready_ns, request.sent_ns),
        )

    def over(self, request: InFlightRequest) -> None:
        """Keep a finished request for the journal."""
        if not self._priming:
            self.live.over(request)
        if not self._finished:
            self._clock.call_at(self._clock.now_ns() + _WRITE_PAUSE_NS, self._write_some)
        self._finished.append(request)

    def _write_some(self) -> None:
        for _ in range(min(_WRITES_AT_ONCE, len(self._finished))):
            self._answers.append(self._finished.popleft())
        if self._finished:
            self._clock.call_at(self._clock.now_ns() + _WRITE_PAUSE_NS, self._write_some)

    def flush(self) -> None:
        """Write all that is finished."""
        while self._finished:
            self._answers.append(self._finished.popleft())

    def close(self) -> None:
        """Write what is left and close."""
        self.flush()
        self._sent.close()
        self._answers.close()


class Worker:
    """One load-generating process: its connections, its log and the stage it is running."""

    def __init__(self, raw: Path, number: int, reports: "Reports") -> None:
        job = json.loads((raw / "job.json").read_text(encoding="utf-8"))
        self._scenario = Scenario.model_validate(job["scenario"])
        self._number, self._workers = number, job["workers"]
        self._plans, _ = load(raw / "plan.npz")
        self._clock = MonotonicClock(asyncio.get_running_loop())
        self._builder = RequestBuilder(job, self._scenario)
        timeout_ns = seconds_to_ns(self._scenario.timeout)
        self._client = transport.Client(self._builder.target, self._clock, timeout_ns, self._workers)
        live = LiveCounters(self._clock, lambda counts: reports.write(live=counts))
        self._log = RequestLog(raw, number, self._clock, live)
        self._seqs = itertools.count()
        self._stage: StageLoad | None = None
        self._job: asyncio.Task[None] | None = None  # what was commanded last: a stage being prepared or run
        self._stopping = False
        self._reports = reports
        self._monitor = SelfMonitor(self._clock, reports)

    async def serve(self, commands: asyncio.StreamReader) -> None:
        """Carry out commands until there are no more."""
        await self._client.resolve()
        if not self._client.shares_host:
            _raise_priority()
        self._reports.write(ready=-1)
        while line := await self._next_line(commands):
            command = json.loads(line)
            if command["do"] == "prepare":
                self._job = asyncio.get_running_loop().create_task(self._prepare(self._plans[command["number"]]))
            elif command["do"] == "begin":
                self._job = asyncio.get_running_loop().create_task(self._run(command["number"], command["begin_ns"]))
            elif command["do"] == "stop":
                self._stop()
            elif command["do"] == "cut":
                self._stop()
                self._client.cancel_all()
        self._stop()
        self._client.cancel_all()
        if self._job is not None:
            await asyncio.wait({self._job}, timeout=_END_S)
        await self._client.close()
        self._log.close()

    async def _next_line(self, commands: asyncio.StreamReader) -> bytes:
        """The next command, empty at the end; a fault of what is under way is raised meanwhile."""
        reading = asyncio.get_running_loop().create_task(commands.readline())
        while self._job is not None and not reading.done():
            await asyncio.wait({reading, self._job}, return_when=asyncio.FIRST_COMPLETED)
            if self._job.done():
                self._job.result()
                self._job = None
        return await reading

    def _stop(self) -> None:
        self._stopping = True
        if self._stage is not None:
            self._stage.stop()

    async def _prime(self, plan: StagePlan) -> None:
        """Fill the engine's prefix cache, where the workload asks for a share of hits; the first worker does it."""
        priming = self._builder.priming(plan) if self._number == 0 else None
        if priming is None or priming.sessions is None or self._stopping:
            return
        prepared = PreparedRequests(iter(range(priming.sessions)), self._builder.prime, self._clock)
        context = LoadContext(self._clock, self._client, self._log, prepared, self._builder.later, self._seqs)
        self._log.begin_priming(plan)
        self._stage = StageLoad(priming, context, priming.stage.concurrency or 1)
        await self._stage.run(self._clock.now_ns(), [])
        self._log.flush()

    async def _prepare(self, plan: StagePlan) -> None:
        """Prepare requests and open connections, so that nothing of it is left for the stage; nothing after a stop."""
        await self._prime(plan)
        if self._stopping:
            self._reports.write(ready=plan.number)
            return
        prepared = PreparedRequests(
            plan.ordinals(self._number, self._workers),
            lambda ordinal: self._builder.first(plan, ordinal),
            self._clock,
        )
        users = plan.users(self._number, self._workers)
        prepared.fill()
        await self._client.open(users or RESERVE)
        context = LoadContext(self._clock, self._client, self._log, prepared, self._builder.later, self._seqs)
        self._stage = StageLoad(plan, context, users)
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection in mid-run would be stamped onto the streams it holds up
        self._reports.write(ready=plan.number)

    async def _run(self, number: int, begin_ns: int) -> None:
        assert self._stage is not None
        plan, stage = self._plans[number], self._stage
        self._log.begin(plan, begin_ns)
        arrivals: list[int] = []
        if plan.due_ns is not None:
            arrivals = [int(plan.due_ns[ordinal]) for ordinal in plan.ordinals(self._number, self._workers)]
        self._monitor.start(stage, self._client, RESERVE if plan.stage.is_open else 0)
        if self._stopping:
            stage.stop()
        try:
            await stage.run(begin_ns, arrivals)
        finally:
            self._monitor.stop()
            gc.enable()
            gc.unfreeze()
        self._log.flush()
        self._log.live.end()
        self._reports.write(over=number, last_sent_ns=self._log.last_sent_ns)


class SelfMonitor:
    """Samples this process while it works: CPU, how late its event loop is, what is under way."""

    def __init__(self, clock: MonotonicClock, reports: "Reports") -> None:
        self._clock = clock
        self._reports = reports
        self._alarm = clock.alarm(self._on_tick)
        self._stage: StageLoad | None = None
        self._client: transport.Client | None = None
        self._reserve = 0
        self._due_ns = self._sampled_ns = 0
        self._lag_ns = 0
        self._cpu_s = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._first = True  # sample of a stage

    def start(self, stage: StageLoad, client: transport.Client, reserve: int) -> None:
        """Begin sampling a stage."""
        self._stage, self._client, self._reserve = stage, client, reserve
        self._sampled_ns, self._cpu_s, self._lag_ns = self._clock.now_ns(), time.process_time(), 0
        self._first = True
        self._next()

    def stop(self) -> None:
        """Take the last sample and rest."""
        if self._stage is not None:
            now_ns = self._clock.now_ns()
            self._lag_ns = max(self._lag_ns, now_ns - self._due_ns)  # a tick that is overdue as the stage ends
            self._sample(now_ns)
        self._stage = None

    def _next(self) -> None:
        self._due_ns = self._clock.now_ns() + _SAMPLING_NS
        self._alarm.set(self._due_ns)

    def _on_tick(self) -> None:
        if self._stage is None or self._client is None:
            return
        now_ns = self._clock.now_ns()
        self._client.stamps.refresh()
        self._lag_ns = max(self._lag_ns, now_ns - self._due_ns)
        if self._client.idle < self._reserve and (self._opening is None or self._opening.done()):
            self._opening = asyncio.get_running_loop().create_task(self._client.open(self._reserve))
        if now_ns - self._sampled_ns >= _SAMPLE_NS:
            self._sample(now_ns)
        self._next()

    def _sample(self, now_ns: int) -> None:
        assert self._stage is not None
        assert self._client is not None
        cpu_s, span_s = time.process_time(), max(1, now_ns - self._sampled_ns) / 1e9
        self._reports.write(
            sample={
                "at_ns": now_ns,
                "cpu_s": cpu_s,
                "cpu_share": (cpu_s - self._cpu_s) / span_s,
                "loop_lag_s": self._lag_ns / 1e9,
                "clock_bound_s": self._client.stamps.bound_ns / 1e9,
                "clock_step_s": self._client.stamps.stepped_ns / 1e9,
                "in_flight": self._stage.in_flight,
                "sent": self._stage.sent,
                "done": self._stage.done,
                "failed": self._stage.failed,
                **({"shares_host": 1.0} if self._first and self._client.shares_host else {}),
            }
        )
        self._first = False
        self._sampled_ns, self._cpu_s, self._lag_ns = now_ns, cpu_s, 0


class Reports:
    """Where the worker pool listens."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is an open file; programs that a plug-in starts do not get it."""
        os.set_inheritable(descriptor, False)
        self._file = os.fdopen(descriptor, "w", encoding="ascii")

    def write(self, **fields: Any) -> None:
        """One JSON line; a pool that is gone is noticed by the end of stdin."""
        with contextlib.suppress(BrokenPipeError):
            self._file.write(json.dumps(fields) + "\n")
            self._file.flush()


async def _main(raw: Path, number: int, reports: Reports) -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    try:
        if await commands.readline():  # the word that the job is written; until then the engine may still be starting
            await Worker(raw, number, reports).serve(commands)
    except HarnessError as fault:
        reports.write(error=list(fault.lines), exit_code=fault.exit_code)


def _raise_priority() -> None:
    """Ask for priority where that is allowed, on a host that is the client's own: requests leave when they are due.

    Never beside the server: a client that outranks it takes its cores, and measures a slower server.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        Path("/proc/self/autogroup").write_text(f"{_NICE}\n", encoding="ascii")


def main() -> None:
    """Entry of the process; signals to end, also those sent to a whole group of processes, are the pool's to handle."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    raw, number, reports = Path(sys.argv[1]), int(sys.argv[2]), Reports(int(sys.argv[3]))
    try:
        import uvloop  # noqa: PLC0415 - absent on some platforms; asyncio's own loop serves there
    except ImportError:
        asyncio.run(_main(raw, number, reports))
    else:
        uvloop.install()
        asyncio.run(_main(raw, number, reports))


if __name__ == "__main__":
    main()
