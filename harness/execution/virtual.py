"""Load on the simulator in virtual time: the same requests at the same times, as fast as they are computed.

Load, journal and records are those of a served run; the socket between them and the engine is left out, and the clock
of both is that of an event loop that jumps. It runs in a thread of its own, so that signals are heard meanwhile.
"""

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from harness.client.live_counters import virtual_counters
from harness.client.load import LoadContext, PreparedRequests, StageLoad
from harness.client.request_builder import RequestBuilder
from harness.client.worker import RequestLog
from harness.clock import LoopClock, monotonic_ns
from harness.engines.api_client import ServedModel, hold_names
from harness.engines.simulator import simulate_here
from harness.execution.client_job import build_workload, client_job, prompt_material
from harness.execution.prefix_reuse import cache_block_size
from harness.execution.progress import EVERY_S, ProgressTracker
from harness.execution.run_folder import (
    RunOutcome,
    RunSpec,
    interrupted,
    note_stage,
    note_stop,
    write_plan,
    write_samples,
)
from harness.execution.watching import SCRAPE_S, Watched
from harness.messages import Message, message
from harness.results import store
from harness.results.progress import Progress
from harness.safety.interrupts import Interrupts
from harness.scenario.models import Scenario
from harness.simulator.deployment import Deployment
from harness.simulator.request_parsing import Refusal
from harness.simulator.service import Service
from harness.simulator.virtual_loop import VirtualSleeper, virtual_loop
from harness.simulator.virtual_transport import VirtualTransport
from harness.units import NS_PER_S, seconds_to_ns
from harness.workload import plan

_ORIGIN = "http://simulator"  # stands in the requests' heads; nothing listens there
_SAMPLE_S = 0.25
Served = Service | Deployment


async def run_virtual(spec: RunSpec) -> RunOutcome:
    """Run the stages of a spec whose folder is open on the simulator in virtual time; raw files stay for `finish`.

    Raises:
        HarnessError: where the engine would not start with its flags.
    """
    loop = asyncio.get_running_loop()
    run = VirtualRun(_heard_on(loop, spec))
    with Interrupts() as interrupts:
        interrupts.on_first = run.stop
        loading = loop.run_in_executor(None, spec.preload)
        running = loop.run_in_executor(None, run.main)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            run.cut()
            await running
            if not interrupts.count:
                raise
        finally:
            interrupts.leave()
            await loading
    return interrupted(spec.folder) if interrupts.count else RunOutcome()


def _heard_on(loop: asyncio.AbstractEventLoop, spec: RunSpec) -> RunSpec:
    """The spec for another thread: its callbacks are called on this loop, in order, and in this context's language."""
    context = contextvars.copy_context()

    def on_progress(line: Message) -> None:
        loop.call_soon_threadsafe(spec.on_progress, line, context=context)

    def on_snapshot(progress: Progress) -> None:
        loop.call_soon_threadsafe(spec.on_snapshot, progress, context=context)

    return replace(spec, on_progress=on_progress, on_snapshot=on_snapshot)


class VirtualRun:
    """A run in virtual time: `main` makes it, `stop` and `cut` may be called by other threads meanwhile."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._loop = virtual_loop()
        self._clock = LoopClock(self._loop)
        self._watched = Watched()
        name, now_ns = spec.loaded.scenario.name, self._clock.now_ns
        self._tracker = ProgressTracker(spec.folder, name, spec.on_snapshot, self._watched, now_ns)
        self._published_ns = 0
        self._stopping = False
        self._stage: StageLoad | None = None
        self._transport: VirtualTransport | None = None

    def main(self) -> None:
        """Run all stages, until their end or `stop`.

        Raises:
            HarnessError: where the engine would not start with its flags.
        """
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    def stop(self) -> None:
        """Send nothing more; what is in flight goes on to its end."""
        with contextlib.suppress(RuntimeError):  # closed: all is over
            self._loop.call_soon_threadsafe(self._stop)

    def cut(self) -> None:
        """Send nothing more, and give up what is in flight."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cut)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._spec.on_progress(message("execution.stopping"))
            self._tracker.stop()
            note_stop(self._spec.folder, self._clock.now_ns())
        if self._stage is not None:
            self._stage.stop()

    def _cut(self) -> None:
        self._stop()
        if self._transport is not None:
            self._transport.cancel_all()

    async def _run(self) -> None:
        spec, scenario = self._spec, self._spec.loaded.scenario
        serving, service = simulate_here(scenario.engine, spec.folder / "engine.log", self._clock.now_ns)
        folder, counters = spec.loaded.path.parent, service.metrics()
        tokenize = partial(_tokenized, service)
        material = await prompt_material(scenario, folder, serving.model, tokenize, counters)
        workload = build_workload(spec, material, cache_block_size(serving))
        served = [ServedModel(card["id"], card["root"], card["parent"]) for card in service.models()]
        hold_names(workload.mix.classes, served, serving.kind)
        plans = plan.plan(scenario, workload)
        turns = write_plan(spec, serving, workload, plans)
        self._tracker.engine(serving.kind, model=serving.model, simulated=True)
        self._tracker.plan(plans, turns)
        job = {**client_job(spec, serving, material), "url": _ORIGIN}
        store.write_json(spec.folder / store.RAW, "job.json", job)
        builder = RequestBuilder(job, Scenario.model_validate(job["scenario"]))
        transport = self._transport = VirtualTransport(service, self._clock, seconds_to_ns(scenario.timeout))
        live = virtual_counters(self._clock, lambda counts: self._tracker.on_counts(0, counts))
        log = RequestLog(spec.folder / store.RAW, 0, self._clock, live)
        engine = self._loop.create_task(service.run_by(VirtualSleeper))
        seqs = itertools.count()
        try:
            for stage in plans:
                prepared = PreparedRequests(stage.ordinals(0, 1), partial(builder.first, stage), self._clock)
                context = LoadContext(self._clock, transport, log, prepared, builder.later, seqs)
                await self._prime(stage, builder, context, log)
                if self._stopping:
                    break
                self._stage = StageLoad(stage, context, stage.users(0, 1))
                spec.on_progress(plan.announced(stage, plans))
                await self._play(stage, self._stage, log, service)
                if engine.done():
                    engine.result()  # raises its fault
        finally:
            engine.cancel()
            await asyncio.wait({engine})
            log.close()
            self._note_counters(service)
            write_samples(spec.folder, self._watched)

    async def _prime(self, stage: plan.StagePlan, builder: RequestBuilder, like: LoadContext, log: RequestLog) -> None:
        """Fill the engine's prefix cache before a stage, where the workload asks for a share of hits."""
        priming = builder.priming(stage)
        if priming is None or priming.sessions is None or self._stopping:
            return
        log.begin_priming(stage)
        prepared = PreparedRequests(iter(range(priming.sessions)), builder.prime, self._clock)
        self._stage = StageLoad(priming, replace(like, prepared=prepared), priming.stage.concurrency or 1)
        await self._stage.run(self._clock.now_ns(), [])
        log.flush()

    async def _play(self, stage: plan.StagePlan, load: StageLoad, log: RequestLog, service: Served) -> None:
        """One stage, from its begin to its last answer."""
        begin_ns = self._clock.now_ns()
        note_stage(self._spec.folder, number=stage.number, begin_ns=begin_ns)
        self._tracker.begin(stage.number, begin_ns)
        log.begin(stage, begin_ns)
        sampling = self._loop.create_task(self._sample(load, service))
        try:
            await load.run(begin_ns, [] if stage.due_ns is None else stage.due_ns.tolist())
        finally:
            sampling.cancel()
            self._note_counters(service)
            log.flush()
            log.live.end()
            self._count(load)
            self._tracker.end(stage.number)

    async def _sample(self, load: StageLoad, service: Served) -> None:
        """Note what a client and a scrape of /metrics would have seen, as often as they look."""
        looks = round(SCRAPE_S / _SAMPLE_S)
        for number in itertools.count():
            self._count(load)
            if monotonic_ns() - self._published_ns > EVERY_S * NS_PER_S:
                self._published_ns = monotonic_ns()
                self._tracker.publish()
            if number % looks == 0:
                self._note_counters(service)
                if self._spec.enough is not None and self._spec.enough():
                    self._cut()
            await asyncio.sleep(_SAMPLE_S)

    def _note_counters(self, service: Served) -> None:
        """Keep what a scrape of /metrics would show now, of the server or of each process of a deployment."""
        texts = service.metrics_by_process()
        if "" in texts:
            self._watched.add_metrics(self._clock.now_ns(), texts[""])
        else:
            self._watched.add_processes(self._clock.now_ns(), texts)

    def _count(self, load: StageLoad) -> None:
        counts = {"in_flight": load.in_flight, "sent": load.sent, "done": load.done, "failed": load.failed}
        self._watched.add(self._clock.now_ns(), "client-0", counts)


async def _tokenized(service: Served, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        return service.tokenize(body)
    except Refusal:
        return None
