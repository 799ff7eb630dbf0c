"""Load on a server: engine up, workers ready, stages in turn, telemetry beside them, engine down.

Everything measured goes to files at once, so that a run that dies at any moment can still be reported.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from harness.client.worker_pool import WorkerPool
from harness.clock import monotonic_ns
from harness.engines import RunningEngine, start_of
from harness.engines.api_client import HEALTHY, SLOW, UNREACHABLE, ControlClient, hold_names
from harness.engines.attach import listeners_at
from harness.errors import EXIT_ENGINE, HarnessError
from harness.execution.client_job import build_workload, client_job, prompt_material
from harness.execution.prefix_reuse import cache_block_size
from harness.execution.progress import ProgressTracker
from harness.execution.run_folder import (
    RunOutcome,
    RunSpec,
    interrupted,
    note_death,
    note_engine,
    note_stage,
    note_stop,
    worker_count,
    write_plan,
    write_samples,
)
from harness.execution.watching import Watched, read_once, watching
from harness.messages import Message, message
from harness.results import store
from harness.safety.interrupts import Interrupts
from harness.workload import plan

_POLL_S = 0.2
_DYING_POLLS = 50


@dataclass(frozen=True, slots=True)
class _RunContext:
    """What a run works with: its workers, the user's interrupts, what is sampled, and what is shown of it."""

    pool: WorkerPool
    interrupts: Interrupts
    watched: Watched
    tracker: ProgressTracker


async def run_served(spec: RunSpec, kind: str) -> RunOutcome:
    """Run the stages of a spec whose folder is open against an engine of this kind; raw files stay for `finish`.

    Raises:
        HarnessError: where the engine does not come up or cannot do what the scenario asks.
    """
    engine = spec.loaded.scenario.engine
    start = start_of(kind)
    watched = Watched()
    tracker = ProgressTracker(spec.folder, spec.loaded.scenario.name, spec.on_snapshot, watched)
    tracker.engine(kind)
    pool = WorkerPool(lambda number, sample: _on_sample(watched, number, sample), tracker.on_counts)
    with Interrupts() as interrupts:
        try:
            await pool.start(spec.folder / store.RAW, worker_count(spec.loaded.scenario))
            loading = asyncio.get_running_loop().run_in_executor(None, spec.preload)
            async with tracker.publishing(), start(engine, spec.folder / "engine.log") as serving:
                await loading  # before the load, not during it: it takes a core for half a second
                outcome = await _serve(spec, serving, _RunContext(pool, interrupts, watched, tracker))
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
            outcome = RunOutcome()
        finally:
            interrupts.leave()
            await _end(pool, interrupts)
        return interrupted(spec.folder) if interrupts.count and not outcome.exit_code else outcome


async def _serve(spec: RunSpec, serving: RunningEngine, context: _RunContext) -> RunOutcome:
    scenario = spec.loaded.scenario
    async with ControlClient(serving.url, serving.reach) as control:
        counters = await control.metrics()
        material = await prompt_material(scenario, spec.loaded.path.parent, serving.model, control.tokenize, counters)
        workload = build_workload(spec, material, cache_block_size(serving))
        if workload.mix.is_named:
            hold_names(workload.mix.classes, await control.models(), serving.url)
        plans = plan.plan(scenario, workload)
        turns = write_plan(spec, serving, workload, plans)
        context.tracker.engine(serving.kind, model=serving.model, simulated=serving.simulated)
        context.tracker.plan(plans, turns)
        store.write_json(spec.folder / store.RAW, "job.json", client_job(spec, serving, material))
        watched, interrupts = context.watched, context.interrupts
        before = await control.state()
        try:
            async with watching(control, serving, watched, spec.folder):
                await context.pool.set_up()
                outcome = await _stages(spec, serving, context, plans, control)
            await _look_again(spec, serving)
            if outcome == RunOutcome() and (ending := await _dying(control, serving, before)) is not None:
                outcome = RunOutcome(EXIT_ENGINE, (ending,))
            if outcome.exit_code == EXIT_ENGINE:
                note_death(spec.folder, outcome)
        finally:
            interrupts.leave()
            await _end(context.pool, interrupts)
            if interrupts.count < 2:
                await read_once(control, serving, watched)
            write_samples(spec.folder, watched)
    return outcome


async def _look_again(spec: RunSpec, serving: RunningEngine) -> None:
    """Note the marks of a server's processes that show only under load, and whether it was restarted."""
    if serving.listeners is None:
        return
    now = await asyncio.get_running_loop().run_in_executor(None, listeners_at, serving.url)
    shown = {"simulated": now.simulated, "hollow": now.stub_device}
    marks: dict[str, Any] = {name: True for name, value in shown.items() if value}
    if serving.listeners.is_another(now):
        reason = message("execution.another_process")
        marks |= {"restarted": str(reason), "restarted_message": reason.as_dict()}
    if marks:
        note_engine(spec.folder, **marks)


async def _end(pool: WorkerPool, interrupts: Interrupts) -> None:
    if interrupts.count > 1:
        pool.kill()
    await pool.close()


async def _stages(
    spec: RunSpec,
    serving: RunningEngine,
    context: _RunContext,
    plans: tuple[plan.StagePlan, ...],
    control: ControlClient,
) -> RunOutcome:
    """Run every stage in order, until the end, an interrupt, or the engine's death."""
    pool, interrupts = context.pool, context.interrupts

    def stop() -> None:
        spec.on_progress(message("execution.stopping"))
        context.tracker.stop()
        note_stop(spec.folder, monotonic_ns())
        pool.stop()

    interrupts.on_first = stop
    for stage in plans:
        await pool.prepare(stage.number)
        if interrupts.count:
            break
        spec.on_progress(plan.announced(stage, plans))
        await read_once(control, serving, context.watched)  # so that what the engine counts in the stage begins with it
        begin_ns = pool.begin(stage.number)
        note_stage(spec.folder, number=stage.number, begin_ns=begin_ns)
        context.tracker.begin(stage.number, begin_ns)
        ended = await _finished(spec, pool, stage.number, serving)
        if ended is None:
            await read_once(control, serving, context.watched)  # and ends with it
        context.tracker.end(stage.number)
        if ended is not None:
            note_stage(spec.folder, stopped_ns=monotonic_ns())
            if ended.exit_code:
                return ended
            break
    return interrupted(spec.folder) if interrupts.count else RunOutcome()


async def _finished(spec: RunSpec, pool: WorkerPool, number: int, serving: RunningEngine) -> RunOutcome | None:
    """Wait for a stage's last answer; how the run ends with it, None where it goes on.

    Where the engine dies meanwhile, nothing more is sent; where the stage has shown enough, it is cut.
    """
    waiting = asyncio.get_running_loop().create_task(pool.finished(number))
    ending: Message | None = None
    cut = False
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_POLL_S)
            if ending is None and (ending := serving.ending()) is not None:
                pool.stop()
            elif not cut and ending is None and (cut := await _enough(spec, waiting)):
                pool.cut()
    finally:
        waiting.cancel()  # nobody waits for it any more where the run itself was cancelled
    try:
        waiting.result()
    except HarnessError as fault:
        return RunOutcome(EXIT_ENGINE, tuple(fault.messages))
    ending = ending or serving.ending()
    return RunOutcome(EXIT_ENGINE, (ending,)) if ending is not None else RunOutcome() if cut else None


async def _enough(spec: RunSpec, waiting: asyncio.Task[None]) -> bool:
    """Whether the spec's stage under way has shown enough; looked at beside the loop, which has telemetry to stamp."""
    if spec.enough is None or waiting.done():
        return False
    return await asyncio.get_running_loop().run_in_executor(None, spec.enough)


async def _dying(control: ControlClient, serving: RunningEngine, before: str) -> Message | None:
    """Why an engine that was `before` in some state of health is not any more; None where it is as it was.

    The server of an engine that is ours outlives its core by a moment, and then logs the reason itself.
    """
    now = await control.state()
    if now in (HEALTHY, SLOW) or (now == before and now != UNREACHABLE):
        return None
    for _ in range(_DYING_POLLS if serving.command or serving.processes else 0):
        if (ending := serving.ending()) is not None:
            return ending
        await asyncio.sleep(_POLL_S)
    code = "engines.died_unreachable" if now == UNREACHABLE else "engines.died_unhealthy"
    return message(code, url=serving.url)


def _on_sample(watched: Watched, number: int, sample: dict[str, Any]) -> None:
    values = {name: value for name, value in sample.items() if name != "at_ns"}
    watched.add(sample["at_ns"], f"client-{number}", values)
