"""How does load reach the engine: open loop by the clock, or closed loop by the answers?

Open loop: every session starts at its absolute due time, whether or not earlier answers have
come; behind `max_concurrency` it queues and keeps its due time. Closed loop: so many users, each
of whom sends when its last answer has come. All by callbacks, without a task per request. Never
is a due time moved: what is late is sent at once, and its lateness is recorded.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.client import sse
from harness.client.connection import Exchange
from harness.client.prepared import Draft, Drafts
from harness.clock import Clock
from harness.results.request_table import CANCELLED
from harness.workload import Reply
from harness.workload.plan import StagePlan

# A user whose request could not even be carried out waits before the next: a dead engine is not to be
# hammered with thousands of refused connections a second.
_FAILED_PAUSE_NS = 100_000_000


class Wire(Protocol):
    """What carries exchanges: sends at once, and calls `on_done` when it is over."""

    def send(self, exchange: Exchange) -> None:
        """Send now; `sent_ns` is stamped when the bytes are handed over."""

    def cancel_all(self) -> None:
        """Give up everything in flight."""


class Books(Protocol):
    """Where every request is written down, as it is sent and when it is over."""

    def sent(self, exchange: Exchange, draft: Draft) -> None:
        """A request was handed to the wire."""

    def over(self, exchange: Exchange) -> None:
        """A request has ended."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What a stage works with in one worker: `write` makes the draft of a later turn."""

    clock: Clock
    wire: Wire
    books: Books
    drafts: Drafts
    write: Callable[[Draft, tuple[Reply, ...]], Draft]
    seqs: "itertools.count[int]"


@dataclass(slots=True)
class _Job:
    draft: Draft
    replies: tuple[Reply, ...]
    user: int = -1


class StageLoad:
    """One stage of one repeat, as one worker runs it."""

    def __init__(self, plan: StagePlan, kit: Kit, users: int) -> None:
        """`users` is this worker's share of a closed loop's users; an open loop has none."""
        self._plan = plan
        self._kit = kit
        self._users = users
        self._cap = plan.stage.max_concurrency
        self._jobs: dict[int, _Job] = {}
        self._agenda: list[tuple[int, int, _Job]] = []  # follow-up turns and think pauses: (due, tie, job)
        self._queue: deque[tuple[int, _Job]] = deque()  # due, but no slot of max_concurrency free
        self._ties = itertools.count()
        self._arrivals: deque[int] = deque()
        self._begin_ns = 0
        self._stop_ns: int | None = None  # a closed loop by time takes no new request from here on
        self._stopping = False
        self._all_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = kit.clock.alarm(self._ring)
        self.sent = 0
        self.done = 0
        self.failed = 0

    async def run(self, begin_ns: int, arrivals: list[int]) -> None:
        """Run the stage from `begin_ns` (absolute ns) until its last answer.

        Args:
            begin_ns: when the stage begins, warm-up included.
            arrivals: this worker's due times from the begin, in the order of its drafts; empty in a closed loop.
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
            draft = self._kit.drafts.take()
            if draft is not None:
                self._put(self._begin_ns, _Job(draft, (), user))

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
        while (next_ns := self._next_ns()) is not None and next_ns <= self._kit.clock.now_ns():
            if self._agenda and self._agenda[0][0] == next_ns:
                self._offer(next_ns, heapq.heappop(self._agenda)[2])
            else:
                self._arrivals.popleft()
                draft = self._kit.drafts.take()
                if draft is not None:
                    self._offer(next_ns, _Job(draft, ()))
        self._set_alarm()
        self._end_if_over()

    def _offer(self, due_ns: int, job: _Job) -> None:
        if self._stop_ns is not None and due_ns >= self._stop_ns:
            return
        if self._cap is not None and len(self._jobs) >= self._cap:
            self._queue.append((due_ns, job))
        else:
            self._start(due_ns, due_ns, job)

    def _start(self, due_ns: int, ready_ns: int, job: _Job) -> None:
        exchange = Exchange(next(self._kit.seqs), job.draft.payload, due_ns, self._over)
        exchange.asked = job.draft.output_asked
        exchange.ready_ns = ready_ns
        self._jobs[exchange.seq] = job
        self.sent += 1
        self._kit.wire.send(exchange)
        self._kit.books.sent(exchange, job.draft)

    def _over(self, exchange: Exchange) -> None:
        job = self._jobs.pop(exchange.seq)
        self.done += 1
        self.failed += exchange.failure not in ("", CANCELLED)
        self._kit.books.over(exchange)
        if not self._stopping:
            self._go_on(exchange, job)
        self._end_if_over()

    def _go_on(self, exchange: Exchange, job: _Job) -> None:
        """What an answer sets free: the session's next turn, its user's next session, a queued request."""
        now_ns = exchange.done_ns
        follow = self._next_turn(exchange, job)
        if follow is None and job.user >= 0:
            draft = self._kit.drafts.take()
            pause_ns = _FAILED_PAUSE_NS if exchange.failure else 0
            follow = (now_ns + pause_ns, _Job(draft, (), job.user)) if draft is not None else None
        if follow is not None:
            due_ns, next_job = follow
            if due_ns <= now_ns and self._cap is None:
                self._offer(due_ns, next_job)
            else:
                self._put(due_ns, next_job)
                self._set_alarm()
        if self._queue and (self._cap is None or len(self._jobs) < self._cap):
            due_ns, queued = self._queue.popleft()
            self._start(due_ns, now_ns, queued)

    def _next_turn(self, exchange: Exchange, job: _Job) -> tuple[int, _Job] | None:
        """The session's next turn and when it is due; None where it is over, or its answer failed."""
        turns = job.draft.session.turns
        number = job.draft.turn + 1
        if number >= len(turns) or exchange.failure:
            return None
        answer = sse.decode(exchange.pieces, exchange.stamps)
        if answer.error:
            return None
        replies = (*job.replies, Reply(answer.token_ids, answer.text))
        draft = self._kit.write(job.draft, replies)
        return exchange.done_ns + turns[number].think_ns, _Job(draft, replies, job.user)

    def _end_if_over(self) -> None:
        waiting = bool(self._agenda or self._queue or self._arrivals)
        if not (waiting or self._jobs or self._all_over.done()):
            self._all_over.set_result(None)
