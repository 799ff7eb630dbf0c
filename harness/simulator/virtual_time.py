"""The simulated engine in virtual time: when each request would have got each of its tokens.

Steps follow each other as in real time: one starts where the last ended, or when a request comes to an
idle engine; a request that came during a step is seen by the next.

Where nobody sends by the clock (a closed loop, or all requests at once), a request comes when a step ends and an
answer with it. What is computed in which step is then the scheduler's doing alone, and time has no part in it: one
`StepTrace` that served a load can be timed again by other coefficients, without being served again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.messages import message
from harness.simulator.engine import limits_of
from harness.simulator.engine_config import Settings
from harness.simulator.memory import Memory, memory_of
from harness.simulator.request_parsing import acceptance, answer_tokens
from harness.simulator.scheduler import Scheduler
from harness.simulator.scheduler_types import Request
from harness.simulator.speculation import Speculation
from harness.simulator.step_cost import StepCost, StepTimes

_STEP_BYTES = 250
Work = tuple[int, int, Sequence[tuple[int, int]], int]
"""What a step computes: decodes, the tokens in their caches, prefill chunks (new tokens, tokens before them), and the
draft tokens that the decodes verify."""


@dataclass(frozen=True, slots=True, eq=False)
class StepTrace:
    """A load as steps, without their times.

    `trails[i]` are the numbers of the steps that gave request i a token, `sent_after[i]` is how many steps had ended
    when it was sent.
    """

    work: Sequence[Work]
    trails: tuple[NDArray[np.int32], ...]
    sent_after: NDArray[np.int64]

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return sum(trail.nbytes for trail in self.trails) + _STEP_BYTES * len(self.work)

    def times(self, pace: StepTimes) -> "TraceTimes":
        """Its times at some pace."""
        durations_ns = [pace.duration_ns(*work) for work in self.work]
        ends_ns = np.cumsum(np.asarray(durations_ns, dtype=np.int64))
        begins_ns = np.concatenate([np.zeros(1, dtype=np.int64), ends_ns])
        return TraceTimes(tuple(ends_ns[trail] for trail in self.trails), begins_ns[self.sent_after], ends_ns)


@dataclass(frozen=True, slots=True, eq=False)
class TraceTimes:
    """When each request got its tokens, when it was sent, and when each step ended: ns from the load's begin."""

    token_ns: tuple[NDArray[np.int64], ...]
    sent_ns: NDArray[np.int64]
    step_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the engine sees it: when it comes (ns), its token ids, how many it wants back, its priority."""

    at_ns: int
    prompt: Sequence[int]
    max_tokens: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """What became of every arrival, in their order, and of every step.

    `token_ns[i]` holds the times of request i's tokens (int64), empty for one that the engine
    refused or never got to; `sent_ns` is when each was sent: its arrival, or in a closed loop when there was
    a place for it. `cached_tokens` and `preemptions` count for each request.
    `step_ns` are the steps' ends, `running` and `waiting` the requests in each, `tokens` what it computed.
    `course` is the load without its times, None where requests came by the clock.
    """

    token_ns: tuple[NDArray[np.int64], ...]
    sent_ns: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    step_ns: NDArray[np.int64]
    running: NDArray[np.int64]
    waiting: NDArray[np.int64]
    tokens: NDArray[np.int64]
    course: StepTrace | None = None

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(len(times) for times in self.token_ns)

    def at_pace(self, pace: StepTimes) -> "SimulatedRun":
        """The same steps at another pace, which is what serving it at that pace would give; it has to have a course."""
        assert self.course is not None
        times = self.course.times(pace)
        return replace(self, token_ns=times.token_ns, sent_ns=times.sent_ns, step_ns=times.step_ns)


def simulate(
    settings: Settings,
    arrivals: Sequence[Arrival],
    *,
    concurrency: int | None = None,
    cost: StepTimes | None = None,
) -> SimulatedRun:
    """Serve the arrivals (in any order) in virtual time; `cost` replaces the settings' own step time.

    With `concurrency` so many requests are kept in flight (a closed loop): one comes when it is due
    and another has ended.

    Raises:
        EngineError: the engine would not start with these settings.
        InputError: a prompt is longer than the engine's context.
    """
    return _served(_device(settings, cost), arrivals, concurrency)


def simulate_in_turn(settings: Settings, batches: Iterable[Sequence[Arrival]]) -> Iterator[SimulatedRun]:
    """Serve batches with one engine, whose cache stays warm: each comes when the one before is done.

    An arrival's time counts from the begin of its batch, which is the end of the last step before;
    the times that come back count from the first batch's.

    Raises:
        EngineError, InputError: as `simulate` does.
    """
    device, begin_ns = _device(settings, None), 0
    for batch in batches:
        done = _served(device, [replace(arrival, at_ns=arrival.at_ns + begin_ns) for arrival in batch], None)
        begin_ns = int(done.step_ns.max(initial=begin_ns))
        yield done


@dataclass(frozen=True, slots=True)
class _Device:
    """What lasts from one request to the next: memory, the scheduler with its cache, the time of a step."""

    vocab: int
    speculation: Speculation | None
    memory: Memory
    scheduler: Scheduler
    cost: StepTimes


def _device(settings: Settings, cost: StepTimes | None) -> _Device:
    memory = memory_of(settings)
    scheduler = Scheduler(limits_of(settings, memory.num_blocks, memory.max_model_len))
    return _Device(settings.shape.vocab, settings.speculation, memory, scheduler, cost or StepCost(settings))


def _served(device: _Device, arrivals: Sequence[Arrival], concurrency: int | None) -> SimulatedRun:
    requests = [
        Request(
            str(place), arrival.prompt, arrival.max_tokens, answer_tokens(arrival.prompt, device.vocab),
            accept=acceptance(device.speculation, arrival.prompt),
            priority=arrival.priority,
        )
        for place, arrival in enumerate(arrivals)
    ]  # fmt: skip
    _check(device.memory, arrivals)
    steps = _Steps([[] for _ in requests], [], [], [], [], [])
    sent_ns = [arrival.at_ns for arrival in arrivals]
    users = _Users(_queue(arrivals, requests), concurrency or len(requests), sent_ns, [0] * len(requests))
    _run(device.scheduler, device.cost, users, steps)
    ends = np.asarray(steps.ends, dtype=np.int64)
    trails = tuple(np.asarray(trail, dtype=np.int32) for trail in steps.trails)
    by_clock = any(arrival.at_ns for arrival in arrivals)
    return SimulatedRun(
        token_ns=tuple(ends[trail] for trail in trails),
        sent_ns=np.asarray(sent_ns, dtype=np.int64),
        cached_tokens=np.asarray([request.first_hit for request in requests], dtype=np.int64),
        preemptions=np.asarray([request.preemptions for request in requests], dtype=np.int64),
        step_ns=ends,
        running=np.asarray(steps.running, dtype=np.int64),
        waiting=np.asarray(steps.waiting, dtype=np.int64),
        tokens=np.asarray(steps.tokens, dtype=np.int64),
        course=None if by_clock else StepTrace(steps.work, trails, np.asarray(users.sent_after, dtype=np.int64)),
    )


@dataclass(slots=True)
class _Steps:
    """What is noted while simulating: for each request the numbers of the steps that gave it a token."""

    trails: list[list[int]]
    ends: list[int]
    running: list[int]
    waiting: list[int]
    tokens: list[int]
    work: list[Work]


def _check(memory: Memory, arrivals: Sequence[Arrival]) -> None:
    for place, arrival in enumerate(arrivals):
        if not 0 < len(arrival.prompt) < memory.max_model_len:
            length, most = len(arrival.prompt), memory.max_model_len
            raise InputError(
                message("simulator.prompt_length", index=place, tokens=length, most=most, longest=most - 1)
            )


def _queue(arrivals: Sequence[Arrival], requests: Sequence[Request]) -> list[tuple[int, Request]]:
    """Arrivals with their requests, the last first, to be popped."""
    order = sorted(range(len(arrivals)), key=lambda place: arrivals[place].at_ns)
    return [(arrivals[place].at_ns, requests[place]) for place in reversed(order)]


@dataclass(slots=True)
class _Users:
    """Who sends when: requests not yet sent, the last first, and how many more may be in flight."""

    coming: list[tuple[int, Request]]
    free: int
    sent_ns: list[int]
    sent_after: list[int]  # so many steps
    freed_ns: int = 0  # when there was last a place after there had been none
    ended: int = 0  # steps

    def next_ns(self) -> int | None:
        """When the next request comes; None where none does before another ends."""
        return self.coming[-1][0] if self.coming and self.free > 0 else None

    def send(self) -> Request:
        """The next request, sent when it was due or when there was a place for it."""
        due_ns, request = self.coming.pop()
        self.free -= 1
        self.sent_ns[int(request.id)] = max(due_ns, self.freed_ns)
        self.sent_after[int(request.id)] = self.ended
        return request

    def end(self, count: int, now_ns: int) -> None:
        """A step has ended, and with it so many requests."""
        self.ended += 1
        if count and self.free == 0:
            self.freed_ns = now_ns
        self.free += count


def _run(scheduler: Scheduler, cost: StepTimes, users: _Users, steps: _Steps) -> None:
    now_ns = 0
    trails = {request: steps.trails[int(request.id)] for _, request in users.coming}
    while users.coming or scheduler.running or scheduler.waiting:
        now_ns = _arrive(scheduler, users, now_ns)
        step = scheduler.schedule()
        if not step.scheduled:
            due_ns = users.next_ns()
            if due_ns is None:
                return
            now_ns = max(now_ns, due_ns)
            continue
        work = (step.decodes, step.decode_context, step.prefills, step.draft_tokens)
        steps.work.append(work)
        now_ns += cost.duration_ns(*work)
        steps.running.append(len(scheduler.running))
        sampled, finished = scheduler.complete(step)
        users.end(len(finished), now_ns)
        number = len(steps.ends)
        for request in sampled:
            trails[request].append(number)
            if request.gained > 1:
                trails[request].extend([number] * (request.gained - 1))
        steps.ends.append(now_ns)
        steps.waiting.append(len(scheduler.waiting))
        steps.tokens.append(step.tokens)


def _arrive(scheduler: Scheduler, users: _Users, now_ns: int) -> int:
    """Queue what has come by now; an idle engine waits for the next, and the time of that is returned."""
    due_ns = users.next_ns()
    if due_ns is not None and not scheduler.running and not scheduler.waiting:
        now_ns = max(now_ns, due_ns)
    while due_ns is not None and due_ns <= now_ns:
        scheduler.add(users.send())
        due_ns = users.next_ns()
    return now_ns
