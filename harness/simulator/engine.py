"""The simulated engine in real time: steps that end at the times the cost model gives."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from harness.clock import MonotonicClock, monotonic_ns
from harness.simulator.engine_config import Settings
from harness.simulator.scheduler import Scheduler
from harness.simulator.scheduler_types import Request, SchedulerLimits, SchedulerStep
from harness.simulator.step_cost import StepTimes
from harness.simulator.vllm_formats import EngineState, Metrics
from harness.units import NS_PER_S

EARLY_NS = 50_000  # waking this little before the time is as good as at it


class TaskAlarm:
    """A clock's alarm for one task: `async with Alarm() as alarm: await alarm.until(end_ns)`."""

    def __init__(self) -> None:
        self._rung: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "TaskAlarm":
        self._alarm = MonotonicClock(asyncio.get_running_loop()).alarm(self._ring)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.close()

    async def until(self, due_ns: int) -> None:
        """Return at `due_ns` of the monotonic clock; give way to other tasks once even where that has passed."""
        if due_ns - monotonic_ns() <= EARLY_NS:
            await asyncio.sleep(0)
            return
        self._rung = asyncio.get_running_loop().create_future()
        self._alarm.set(due_ns)
        await self._rung

    def _ring(self) -> None:
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)


Feed = Callable[[], None]


class Sleeper(Protocol):
    """Sleeps to absolute times of the engine's clock."""

    async def until(self, due_ns: int) -> None:
        """Return at `due_ns`."""


@dataclass(slots=True)
class Sink:
    """Where a request's tokens go, and the times that its metrics need (ns)."""

    feed: Feed
    arrived_ns: int
    started_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0


def limits_of(settings: Settings, num_blocks: int, max_model_len: int) -> SchedulerLimits:
    """The scheduler's limits of an engine with `num_blocks` blocks."""
    limits = SchedulerLimits(
        block_size=settings.block_size,
        num_blocks=num_blocks,
        max_num_seqs=settings.max_num_seqs,
        token_budget=settings.max_num_scheduled_tokens or settings.max_num_batched_tokens,
        max_model_len=max_model_len,
        chunked_prefill=settings.enable_chunked_prefill,
        prefix_caching=settings.enable_prefix_caching,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        adaptive_threshold=settings.long_prefill_token_threshold_adaptive,
        max_num_active_seqs=settings.max_num_active_seqs,
        reserve_full_prompt=settings.scheduler_reserve_full_isl,
        watermark=settings.watermark,
        by_priority=settings.scheduling_policy == "priority",
        max_loras=settings.max_loras if settings.enable_lora else 0,
        prefill_interval=settings.prefill_schedule_interval,
        coordinated=settings.steps_together,
        engine_version=settings.engine_version,
    )
    return limits if settings.speculation is None else limits.drafting(settings.speculation)


class SimulatedEngine:
    """Requests in, tokens out, at the pace of the simulated device."""

    def __init__(
        self,
        limits: SchedulerLimits,
        cost: StepTimes,
        now_ns: Callable[[], int] = monotonic_ns,
        *,
        rank: int = 0,
        slowdown: float = 1.0,
    ) -> None:
        """`rank` is its number among those of a server, and each of its steps takes `slowdown` times as long."""
        self.scheduler = Scheduler(limits)
        self.rank = rank
        self.on_change: Callable[[], None] = lambda: None  # called where what waits and runs may have changed
        self.on_fetch: Callable[[SimulatedEngine, Request], None] | None = None  # starts to fetch a prompt's KV cache
        self._now_ns = now_ns
        self.metrics = Metrics()
        self._cost, self._slowdown = cost, slowdown
        self._sinks: dict[Request, Sink] = {}
        self.idle = asyncio.Event()  # set while there is nothing to do
        self._wake = asyncio.Event()

    def submit(self, request: Request, feed: Feed) -> None:
        """Queue a request; `feed()` is called at the end of each step that gave it tokens."""
        self._sinks[request] = Sink(feed, self._now_ns())
        self.scheduler.add(request)
        self._wake.set()
        self.on_change()

    def __contains__(self, request: Request) -> bool:
        return request in self._sinks

    @property
    def unfinished(self) -> int:
        """How many requests wait or run."""
        return len(self._sinks)

    def fetched(self, request: Request, size: int, took_ns: int) -> None:
        """The KV cache of a prompt is here: `size` bytes, `took_ns` after it was asked for."""
        self.scheduler.fetched(request)
        self.metrics.transfer_s.observe(took_ns / NS_PER_S)
        self.metrics.transfer_bytes.observe(size)
        self._wake.set()

    def release(self, request: Request) -> None:
        """Free the blocks of a finished request that were kept for another engine."""
        self.scheduler.release(request)
        self._wake.set()
        self.on_change()

    def queued_ns(self, request: Request) -> tuple[int, int]:
        """When a request under way arrived, and when the step began that took it up first."""
        sink = self._sinks[request]
        return sink.arrived_ns, sink.started_ns

    def now_ns(self) -> int:
        """The time by the engine's clock."""
        return self._now_ns()

    def abort(self, request: Request) -> None:
        """Drop a request whose client went away."""
        if self._sinks.pop(request, None) is not None:
            self.scheduler.abort(request)
            self.metrics.finished["abort"] += 1
            self.on_change()

    def state(self) -> EngineState:
        """What /metrics shows of this moment."""
        scheduler, counters = self.scheduler, self.scheduler.counters
        return EngineState(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(scheduler.holding),
            kv_usage=scheduler.pool.usage,
            preemptions=counters.preemptions,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            drafts=counters.drafts,
            draft_tokens=counters.draft_tokens,
            accepted_by_position=tuple(counters.accepted_by_position),
            fetching=None if self.on_fetch is None else scheduler.fetch_stages,
        )

    async def run_by(self, alarm: Sleeper) -> None:
        """Run steps until cancelled, sleeping by `alarm`."""
        end_ns = self._now_ns()
        while True:
            step = self.begin()
            if step is None:
                await self.wait_for_work()
                end_ns = self._now_ns()
                continue
            start_ns = end_ns
            end_ns += self.duration_ns(step)
            await alarm.until(end_ns)
            self.finish(step, start_ns, end_ns)

    def begin(self, *, held: bool = False) -> SchedulerStep | None:
        """The next step, None where there is nothing to compute now; `held` asks to leave prefills to a later one."""
        if not self._sinks:
            return None
        step = self.scheduler.schedule(held=held)
        for request in step.fetching:
            assert self.on_fetch is not None
            self.on_fetch(self, request)
        return step if step.scheduled else None

    def duration_ns(self, step: SchedulerStep | None, exchanged: int = 0) -> int:
        """How long a step takes, of ranks that exchange so many tokens in all; None is a dummy batch of one token."""
        if step is None:
            return round(self._cost.duration_ns(1, 0, (), 0, exchanged) * self._slowdown)
        took_ns = self._cost.duration_ns(step.decodes, step.decode_context, step.prefills, step.draft_tokens, exchanged)
        if self.scheduler.limits.max_loras:
            took_ns += self._cost.adapters_ns(len({request.adapter for request in step.scheduled if request.adapter}))
        return took_ns if self._slowdown == 1.0 else max(1, round(took_ns * self._slowdown))

    def wake_with(self, other: "SimulatedEngine") -> None:
        """Let whatever comes to this engine wake the other, too."""
        self._wake = other._wake  # noqa: SLF001 - of the same class

    async def wait_for_work(self) -> None:
        """Wait until anything comes that may let a step begin."""
        self._wake.clear()
        self.idle.set()
        try:
            await self._wake.wait()
        finally:
            self.idle.clear()

    def finish(self, step: SchedulerStep, start_ns: int, end_ns: int) -> None:
        """End a step: hand out its tokens first, then count them."""
        self.metrics.late_s.observe((self._now_ns() - end_ns) / NS_PER_S)
        self._note_starts(step, start_ns)
        sampled, finished = self.scheduler.complete(step)
        sinks = [self._sinks[request] for request in sampled]
        for sink in sinks:
            sink.feed()
        self.metrics.written_s.observe((self._now_ns() - end_ns) / NS_PER_S)
        self._count(sampled)
        for request in finished:
            self._account(request)
        self.on_change()

    def _note_starts(self, step: SchedulerStep, start_ns: int) -> None:
        for request in step.admitted:
            if request.preemptions == 0 and request in self._sinks:
                sink = self._sinks[request]
                sink.started_ns = max(start_ns, sink.arrived_ns)
                self.metrics.queue_s.observe((sink.started_ns - sink.arrived_ns) / NS_PER_S)

    def _count(self, sampled: list[Request]) -> None:
        metrics, now_ns = self.metrics, self._now_ns()
        gaps: dict[int, int] = {}
        prompt_tokens = 0
        for request in sampled:
            sink = self._sinks[request]
            if sink.first_ns:
                gaps[sink.last_ns] = gaps.get(sink.last_ns, 0) + 1
            else:
                sink.first_ns = now_ns
                metrics.ttft_s.observe((now_ns - sink.arrived_ns) / NS_PER_S)
                prompt_tokens += len(request.prompt)
                metrics.cached_tokens += request.first_hit
            sink.last_ns = now_ns
        for last_ns, times in gaps.items():
            metrics.itl_s.observe((now_ns - last_ns) / NS_PER_S, times)
        metrics.prompt_tokens += prompt_tokens
        generated = sum(request.gained for request in sampled)
        metrics.generation_tokens += generated
        metrics.step_tokens.observe(prompt_tokens + generated)

    def _account(self, request: Request) -> None:
        sink = self._sinks.pop(request)
        metrics, output = self.metrics, request.num_tokens - len(request.prompt)
        metrics.finished["length"] += 1
        metrics.prefill_s.observe((sink.first_ns - sink.started_ns) / NS_PER_S)
        metrics.decode_s.observe((sink.last_ns - sink.first_ns) / NS_PER_S)
        metrics.e2e_s.observe((sink.last_ns - sink.arrived_ns) / NS_PER_S)
        metrics.prompt_lengths.observe(len(request.prompt))
        metrics.generation_lengths.observe(output)
        if output > 1:
            metrics.tpot_s.observe((sink.last_ns - sink.first_ns) / NS_PER_S / (output - 1))


async def run_apart(engines: Sequence[SimulatedEngine], sleeper: Callable[[], Sleeper]) -> None:
    """Run data-parallel ranks that step each for itself, as those of a dense model, until cancelled or one fails."""
    if len(engines) == 1:
        await engines[0].run_by(sleeper())
        return
    tasks = [asyncio.ensure_future(engine.run_by(sleeper())) for engine in engines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def run_together(engines: Sequence[SimulatedEngine], sleeper: Sleeper) -> None:
    """Run data-parallel ranks that step together, until cancelled: a step of all is as long as that of the slowest.

    So do those of a model with experts, as every step exchanges tokens between all; one without work computes a dummy.
    vLLM asks only every 32 steps whether anything is left to do, and computes dummy batches until then; here they end
    with the last request.
    """
    now_ns = engines[0].now_ns
    for engine in engines:
        engine.wake_with(engines[0])
    end_ns, number, interval = now_ns(), 0, engines[0].scheduler.limits.prefill_interval
    while True:
        steps = [engine.begin(held=number % interval != 0) for engine in engines]
        if not any(steps):
            await engines[0].wait_for_work()
            end_ns, number = now_ns(), 0
            continue
        number += 1
        start_ns = end_ns
        exchanged = sum(1 if step is None else step.tokens for step in steps)
        end_ns += max(engine.duration_ns(step, exchanged) for engine, step in zip(engines, steps, strict=True))
        await sleeper.until(end_ns)
        for engine, step in zip(engines, steps, strict=True):
            if step is not None:
                engine.finish(step, start_ns, end_ns)
