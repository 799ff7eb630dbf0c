"""The simulated engine in real time: steps that end at the times the cost model gives."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from harness.clock import MonotonicClock, monotonic_ns
from harness.simulator.engine_config import Settings
from harness.simulator.scheduler import Scheduler
from harness.simulator.scheduler_types import Request, SchedulerLimits, SchedulerStep
from harness.simulator.step_cost import StepCost
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
        engine_version=settings.engine_version,
    )
    return limits if settings.speculation is None else limits.drafting(settings.speculation)


class SimulatedEngine:
    """Requests in, tokens out, at the pace of the simulated device."""

    def __init__(self, limits: SchedulerLimits, cost: StepCost, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self.scheduler = Scheduler(limits)
        self._now_ns = now_ns
        self.metrics = Metrics()
        self._cost = cost
        self._sinks: dict[Request, Sink] = {}
        self.stopped = asyncio.Event()
        self.idle = asyncio.Event()  # set while there is nothing to do
        self._wake = asyncio.Event()

    def submit(self, request: Request, feed: Feed) -> None:
        """Queue a request; `feed()` is called at the end of each step that gave it tokens."""
        self._sinks[request] = Sink(feed, self._now_ns())
        self.scheduler.add(request)
        self._wake.set()

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

    def state(self) -> EngineState:
        """What /metrics shows of this moment."""
        scheduler, counters = self.scheduler, self.scheduler.counters
        return EngineState(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_usage=scheduler.pool.usage,
            preemptions=counters.preemptions,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            drafts=counters.drafts,
            draft_tokens=counters.draft_tokens,
            accepted_by_position=tuple(counters.accepted_by_position),
        )

    async def run(self) -> None:
        """Run steps until cancelled; `stopped` is set when it ends, also by a fault."""
        try:
            async with TaskAlarm() as alarm:
                await self.run_by(alarm)
        finally:
            self.stopped.set()

    async def run_by(self, alarm: Sleeper) -> None:
        """Run steps until cancelled, sleeping by `alarm`."""
        end_ns = self._now_ns()
        while True:
            step = self.scheduler.schedule() if self._sinks else None
            if step is None or not step.scheduled:
                await self._idle()
                end_ns = self._now_ns()
                continue
            start_ns = end_ns
            end_ns += self._cost.duration_ns(step.decodes, step.decode_context, step.prefills, step.draft_tokens)
            await alarm.until(end_ns)
            self._finish(step, start_ns, end_ns)

    async def _idle(self) -> None:
        self._wake.clear()
        self.idle.set()
        await self._wake.wait()
        self.idle.clear()

    def _finish(self, step: SchedulerStep, start_ns: int, end_ns: int) -> None:
        """Hand out the step's tokens first, then count them."""
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
