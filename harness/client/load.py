"""Load: open loops by the clock, closed loops by the answers, with every request prepared before it is due.

Requests are prepared ahead, in the order in which they will be taken, up to a budget of bytes; the
room that a taken one leaves is filled again in short idle moments.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from harness.client import answer_decoding
from harness.client.connection import InFlightRequest
from harness.clock import Clock
from harness.results.request_table import CANCELLED
from harness.workload import Reply, Session
from harness.workload.plan import StagePlan

BUDGET_BYTES = 32 << 20
BUDGET_COUNT = 8192
_SLICE_NS = 300_000  # one refill holds the event loop no longer than this, plus one request
_PAUSE_NS = 2_000_000


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready to be sent: whole HTTP bytes, what was asked for in tokens, and the number of its class."""

    session: Session
    turn: int
    payload: bytes
    input_asked: int
    output_asked: int
    measured: bool
    request_class: int = 0


class PreparedRequests:
    """The first turns of the sessions that one worker takes in a stage, in order."""

    def __init__(self, ordinals: Iterator[int], write: Callable[[int], PreparedRequest], clock: Clock) -> None:
        self._ordinals = ordinals
        self._write = write
        self._clock = clock
        self._ready: deque[PreparedRequest] = deque()
        self._bytes = 0
        self._exhausted = False
        self._refilling = False

    def fill(self) -> None:
        """Prepare requests until the budget is reached or there are no more; before the start, without haste."""
        while self._wanted():
            self._write_one()

    def take(self) -> PreparedRequest | None:
        """The next request; None where there are no more sessions."""
        if not self._ready and not self._exhausted:
            self._write_one()
        if not self._ready:
            return None
        prepared = self._ready.popleft()
        self._bytes -= len(prepared.payload)
        if not self._refilling and not self._exhausted:
            self._refilling = True
            self._clock.call_at(self._clock.now_ns() + _PAUSE_NS, self._refill)
        return prepared

    def _refill(self) -> None:
        until_ns = self._clock.now_ns() + _SLICE_NS
        while self._wanted():
            self._write_one()
            if self._clock.now_ns() >= until_ns:
                self._clock.call_at(self._clock.now_ns() + _PAUSE_NS, self._refill)
                return
        self._refilling = False

    def _wanted(self) -> bool:
        return not self._exhausted and self._bytes < BUDGET_BYTES and len(self._ready) < BUDGET_COUNT

    def _write_one(self) -> None:
        ordinal = next(self._ordinals, None)
        if ordinal is None:
            self._exhausted = True
            return
        prepared = self._write(ordinal)
        self._ready.append(prepared)
        self._bytes += len(prepared.payload)


# A user whose request could not even be carried out waits before the next: a dead engine is not to be
# hammered with thousands of refused connections a second.
_FAILED_PAUSE_NS = 100_000_000


class Transport(Protocol):
    """What carries requests: sends at once, and calls `on_done` when it is over."""

    def send(self, request: InFlightRequest) -> None:
        """Send now; `sent_ns` is stamped when the bytes are handed over."""

    def cancel_all(self) -> None:
        """Give up everything in flight."""


class LoggedRequests(Protocol):
    """Where every request is written down, as it is sent and when it is over."""

    def sent(self, request: InFlightRequest, prepared: PreparedRequest) -> None:
        """A request was handed to the transport."""

    def over(self, request: InFlightRequest) -> None:
        """A request has ended."""


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a stage works with in one worker: `write` prepares the request of a later turn, by its number."""

    clock: Clock
    transport: Transport
    log: LoggedRequests
    prepared: PreparedRequests
    write: Callable[[PreparedRequest, int, tuple[Reply, ...]], PreparedRequest]
    seqs: "itertools.count[int]"


@dataclass(slots=True)
class _SessionProgress:
    """A session under way: its user (-1 in an open loop), its replies by turn, and its requests under way or due."""

    user: int = -1
    replies: dict[int, Reply] = field(default_factory=dict)
    open: int = 1

    def history(self) -> tuple[Reply, ...]:
        """The replies in the order of their turns."""
        return tuple(self.replies[turn] for turn in sorted(self.replies))


@dataclass(slots=True)
class _Job:
    prepared: PreparedRequest
    progress: _SessionProgress


class StageLoad:
    """One stage of one repeat, as one worker runs it."""

    def __init__(self, plan: StagePlan, context: LoadContext, users: int) -> None:
        """`users` is this worker's share of a closed loop's users; an open loop has none."""
        self._plan = plan
        self._context = context
        self._users = users
        self._cap = plan.stage.max_concurrency
        self._speed = plan.stage.speed or 1.0  # of a trace: its tools are as much faster as its arrivals
        self._jobs: dict[int, _Job] = {}
        self._agenda: list[tuple[int, int, _Job]] = []  # follow-up turns and think pauses: (due, tie, job)
        self._queue: deque[tuple[int, _Job]] = deque()  # due, but no slot of max_concurrency free
        self._ties = itertools.count()
        self._arrivals: deque[int] = deque()
        self._begin_ns = 0
        self._stop_ns: int | None = None  # a closed loop by time takes no new request from here on
        self._stopping = False
        self._all_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = context.clock.alarm(self._ring)
        self.sent = 0
        self.done = 0
        self.failed = 0

    async def run(self, begin_ns: int, arrivals: list[int]) -> None:
        """Run the stage from `begin_ns` (absolute ns) until its last answer.

        Args:
            begin_ns: when the stage begins, warm-up included.
            arrivals: this worker's due times from the begin, in the order of its prepared; empty in a closed loop.
        """
        self._begin_ns = begin_ns
        self._arrivals = deque(arrivals)
        if not self._plan.stage.is_open:
            self._begin_closed()
        self._set_alarm()
        self._end_if_over()
        try:
            await self._all_over
        finally:
            self._alarm.close()

    def stop(self) -> None:
        """Send nothing more; what is in flight goes on to its end."""
        self._stopping = True
        self._arrivals.clear()
        self._agenda.clear()
        self._queue.clear()
        self._end_if_over()

    @property
    def in_flight(self) -> int:
        """Requests sent and not over."""
        return len(self._jobs)

    def _begin_closed(self) -> None:
        duration_s = self._plan.stage.duration_s
        if duration_s is not None:
            self._stop_ns = self._begin_ns + self._plan.warm_ns + round(duration_s * 1e9)
        for user in range(self._users):
            prepared = self._context.prepared.take()
            if prepared is not None:
                self._put(self._begin_ns, _Job(prepared, _SessionProgress(user)))

    def _put(self, due_ns: int, job: _Job) -> None:
        heapq.heappush(self._agenda, (due_ns, next(self._ties), job))

    def _set_alarm(self) -> None:
        next_ns = self._next_ns()
        if next_ns is not None:
            self._alarm.set(next_ns)

    def _next_ns(self) -> int | None:
        arrival = self._begin_ns + self._arrivals[0] if self._arrivals else None
        follow = self._agenda[0][0] if self._agenda else None
        return min((at for at in (arrival, follow) if at is not None), default=None)

    def _ring(self) -> None:
        """Start everything that is due by now, in order of due times."""
        while (next_ns := self._next_ns()) is not None and next_ns <= self._context.clock.now_ns():
            if self._agenda and self._agenda[0][0] == next_ns:
                self._offer(next_ns, heapq.heappop(self._agenda)[2])
            else:
                self._arrivals.popleft()
                prepared = self._context.prepared.take()
                if prepared is not None:
                    self._offer(next_ns, _Job(prepared, _SessionProgress()))
        self._set_alarm()
        self._end_if_over()

    def _offer(self, due_ns: int, job: _Job) -> None:
        if self._stop_ns is not None and due_ns >= self._stop_ns:
            return
        if self._cap is not None and len(self._jobs) >= self._cap:
            self._queue.append((due_ns, job))
        else:
            self._start(due_ns, due_ns, job)
        if job.prepared.turn == 0:
            self._begin_roots(due_ns, job)

    def _begin_roots(self, due_ns: int, job: _Job) -> None:
        """Plan the requests of a session that wait for no answer, but for its begin."""
        roots = job.prepared.session.roots() if len(job.prepared.session.turns) > 1 else []
        for number in roots:
            self._put(*self._turn_after(due_ns, number, job))
        if roots:
            self._set_alarm()

    def _start(self, due_ns: int, ready_ns: int, job: _Job) -> None:
        request = InFlightRequest(next(self._context.seqs), job.prepared.payload, due_ns, self._over)
        request.asked = job.prepared.output_asked
        request.ready_ns = ready_ns
        self._jobs[request.seq] = job
        self.sent += 1
        self._context.transport.send(request)
        self._context.log.sent(request, job.prepared)

    def _over(self, request: InFlightRequest) -> None:
        job = self._jobs.pop(request.seq)
        self.done += 1
        self.failed += request.failure not in ("", CANCELLED)
        self._context.log.over(request)
        if not self._stopping:
            self._go_on(request, job)
        self._end_if_over()

    def _go_on(self, request: InFlightRequest, job: _Job) -> None:
        """What an answer sets free: later turns of its session, its user's next session, a queued request."""
        now_ns, progress = request.done_ns, job.progress
        progress.open -= 1
        for number in self._freed(request, job):
            self._follow(now_ns, self._turn_after(now_ns, number, job))
        if progress.open == 0 and progress.user >= 0:
            prepared = self._context.prepared.take()
            if prepared is not None:
                pause_ns = _FAILED_PAUSE_NS if request.failure else 0
                self._follow(now_ns, (now_ns + pause_ns, _Job(prepared, _SessionProgress(progress.user))))
        if self._queue and (self._cap is None or len(self._jobs) < self._cap):
            due_ns, queued = self._queue.popleft()
            self._start(due_ns, now_ns, queued)

    def _follow(self, now_ns: int, planned: tuple[int, _Job]) -> None:
        """Send what is due by now, at once where nothing caps it; plan the rest."""
        due_ns, job = planned
        if due_ns <= now_ns and self._cap is None:
            self._offer(due_ns, job)
        else:
            self._put(due_ns, job)
            self._set_alarm()

    def _freed(self, request: InFlightRequest, job: _Job) -> list[int]:
        """The later turns of a session that wait for no other answer than this one; none where it failed."""
        session, turn = job.prepared.session, job.prepared.turn
        if request.failure or turn + 1 >= len(session.turns):
            return []
        answer = answer_decoding.decode(request.pieces, request.stamps)
        if answer.error:
            return []
        job.progress.replies[turn] = Reply(answer.token_ids, answer.text)
        return session.freed_by(turn, job.progress.replies)

    def _turn_after(self, from_ns: int, number: int, job: _Job) -> tuple[int, _Job]:
        """A later turn of a session and when it is due, its pause after `from_ns`."""
        progress = job.progress
        prepared = self._context.write(job.prepared, number, progress.history())
        progress.open += 1
        return from_ns + round(prepared.session.turns[number].think_ns / self._speed), _Job(prepared, progress)

    def _end_if_over(self) -> None:
        waiting = bool(self._agenda or self._queue or self._arrivals)
        if not (waiting or self._jobs or self._all_over.done()):
            self._all_over.set_result(None)
