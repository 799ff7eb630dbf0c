"""How does a scenario become a result folder: engine up, warm, load, account, engine down?

The only orchestrator. Everything it learns goes to files as it goes, so that a run that dies at
any moment can still be reported.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from harness.client.worker_pool import WorkerPool
from harness.clock import monotonic_ns
from harness.engines import RunningEngine, resolve_kind, start_of
from harness.engines.api_client import HEALTHY, SLOW, UNREACHABLE, ControlClient
from harness.engines.attach import listeners_at
from harness.errors import EXIT_ENGINE, HarnessError
from harness.execution import offline
from harness.execution.run_folder import (
    RunOutcome,
    RunSpec,
    build_workload,
    interrupted,
    note_engine,
    note_stage,
    open_folder,
    worker_count,
    write_plan,
    write_samples,
)
from harness.execution.sampler import Watched, watching
from harness.results import store
from harness.safety.interrupts import Interrupts
from harness.scenario.models import Scenario
from harness.workload import plan
from harness.workload.vocabulary import Lexicon, align

__all__ = ["RunOutcome", "RunSpec", "conduct", "open_folder"]

_POLL_S = 0.2
_DYING_POLLS = 50


@dataclass(frozen=True, slots=True)
class _Hands:
    """What a run works with: its workers, the user's interrupts, and what is sampled."""

    crew: WorkerPool
    interrupts: Interrupts
    watched: Watched


async def conduct(order: RunSpec) -> RunOutcome:
    """Run an order whose folder is open; raw files stay in the folder for `finish`.

    Raises:
        HarnessError: where the engine does not come up or cannot do what the scenario asks.
    """
    engine = order.loaded.scenario.engine
    kind, why = resolve_kind(engine)
    order.say(f"engine: {kind} ({why})")
    if order.loaded.scenario.is_offline:
        return await offline.conduct(order, kind)
    start = start_of(kind)
    watched = Watched()
    crew = WorkerPool(lambda number, sample: _on_sample(order, watched, number, sample))
    with Interrupts() as interrupts:
        try:
            await crew.start(order.folder / store.RAW, worker_count(order.loaded.scenario))
            loading = asyncio.get_running_loop().run_in_executor(None, order.preload)
            async with start(engine, order.folder / "engine.log") as serving:
                await loading  # before the load, not during it: it takes a core for half a second
                outcome = await _serve(order, serving, _Hands(crew, interrupts, watched))
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
            outcome = RunOutcome()
        finally:
            interrupts.leave()
            await _end(crew, interrupts)
        return interrupted(order.folder) if interrupts.count and not outcome.exit_code else outcome


async def _serve(order: RunSpec, serving: RunningEngine, hands: _Hands) -> RunOutcome:
    scenario = order.loaded.scenario
    async with ControlClient(serving.url, serving.reach) as control:
        lexicon = await _lexicon(scenario, serving, control)
        workload = build_workload(order, lexicon)
        plans = plan.plan(scenario, workload)
        write_plan(order, serving, workload, plans)
        _write_job(order, serving, lexicon)
        watched, interrupts = hands.watched, hands.interrupts
        before = await control.state()
        try:
            async with watching(control, serving, watched):
                await hands.crew.set_up()
                outcome = await _stages(order, serving, hands, plans)
            await _look_again(order, serving)
            if outcome == RunOutcome() and (ending := await _dying(control, serving, before)) is not None:
                outcome = RunOutcome(EXIT_ENGINE, (ending,))
            if outcome.exit_code == EXIT_ENGINE:
                note_engine(order.folder, died=outcome.lines[0])
        finally:
            interrupts.leave()
            await _end(hands.crew, interrupts)
            if interrupts.count < 2:
                text = await control.metrics()
                watched.add_metrics(monotonic_ns(), text)
            write_samples(order.folder, watched)
    return outcome


async def _look_again(order: RunSpec, serving: RunningEngine) -> None:
    """Note the marks of a server's processes that show only under load, and whether they are others than before."""
    if serving.listeners is None:
        return
    now = await asyncio.get_running_loop().run_in_executor(None, listeners_at, serving.url)
    marks: dict[str, Any] = {name: True for name in ("simulated", "hollow") if getattr(now, name)}
    if serving.listeners.is_another(now):
        marks["restarted"] = "another process listens at its address"
    if marks:
        note_engine(order.folder, **marks)


async def _end(crew: WorkerPool, interrupts: Interrupts) -> None:
    if interrupts.count > 1:
        crew.kill()
    await crew.close()


async def _stages(
    order: RunSpec, serving: RunningEngine, hands: _Hands, plans: tuple[plan.StagePlan, ...]
) -> RunOutcome:
    """Run every stage in order, until the end, an interrupt, or the engine's death."""
    crew, interrupts = hands.crew, hands.interrupts

    def stop() -> None:
        order.say("stopping: nothing more is sent; waiting for what is in flight (Ctrl-C again leaves at once)")
        note_stage(order.folder, stopped_ns=monotonic_ns())
        crew.stop()

    interrupts.on_first = stop
    for made in plans:
        await crew.prepare(made.number)
        if interrupts.count:
            break
        order.say(plan.announced(made, plans))
        note_stage(order.folder, number=made.number, begin_ns=crew.begin(made.number))
        ended = await _finished(order, crew, made.number, serving)
        if ended is not None:
            note_stage(order.folder, stopped_ns=monotonic_ns())
            if ended.exit_code:
                return ended
            break
    return interrupted(order.folder) if interrupts.count else RunOutcome()


async def _finished(order: RunSpec, crew: WorkerPool, number: int, serving: RunningEngine) -> RunOutcome | None:
    """Wait for a stage's last answer; how the run ends with it, None where it goes on.

    Where the engine dies meanwhile, nothing more is sent; where the stage has shown enough, it is cut.
    """
    waiting = asyncio.get_running_loop().create_task(crew.finished(number))
    ending: str | None = None
    cut = False
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=_POLL_S)
            if ending is None and (ending := serving.ending()) is not None:
                crew.stop()
            elif not cut and ending is None and (cut := await _enough(order, waiting)):
                crew.cut()
    finally:
        waiting.cancel()  # nobody waits for it any more where the run itself was cancelled
    try:
        waiting.result()
    except HarnessError as fault:
        return RunOutcome(EXIT_ENGINE, ("\n".join(fault.lines),))
    ending = ending or serving.ending()
    return RunOutcome(EXIT_ENGINE, (ending,)) if ending is not None else RunOutcome() if cut else None


async def _enough(order: RunSpec, waiting: asyncio.Task[None]) -> bool:
    """Whether the order's stage under way has shown enough; looked at beside the loop, which has telemetry to stamp."""
    if order.enough is None or waiting.done():
        return False
    return await asyncio.get_running_loop().run_in_executor(None, order.enough)


async def _dying(control: ControlClient, serving: RunningEngine, before: str) -> str | None:
    """Why an engine that was `before` in some state of health is not any more; None where it is as it was.

    The server of an engine that is ours outlives its core by a moment, and then tells why itself.
    """
    now = await control.state()
    if now in (HEALTHY, SLOW) or (now == before and now != UNREACHABLE):
        return None
    for _ in range(_DYING_POLLS if serving.command else 0):
        if (ending := serving.ending()) is not None:
            return ending
        await asyncio.sleep(_POLL_S)
    said = "nothing answers there any more" if now == UNREACHABLE else "its /health says that it is no longer well"
    return f"the engine at {serving.url} died: {said}"


def _on_sample(order: RunSpec, watched: Watched, number: int, sample: dict[str, Any]) -> None:
    values = {name: value for name, value in sample.items() if name != "at_ns"}
    watched.add(sample["at_ns"], f"client-{number}", values)
    order.on_sample(number, sample)


async def _lexicon(scenario: Scenario, serving: RunningEngine, control: ControlClient) -> Lexicon | None:
    """Words to write chat prompts with, aligned to the server's own tokenizer where it has one."""
    assert scenario.workload is not None
    if scenario.endpoint != "chat" or scenario.workload.kind == "dataset":
        return None
    return await align(control.tokenize, serving.model)


def _write_job(order: RunSpec, serving: RunningEngine, lexicon: Lexicon | None) -> None:
    """What the workers have to know."""
    scenario = order.loaded.scenario
    job = {
        "scenario": scenario.model_dump(mode="json", by_alias=True, exclude_none=True),
        "scenario_folder": str(order.loaded.path.parent.resolve()),
        "url": serving.url,
        "reach": serving.reach.model_dump(mode="json", exclude_defaults=True),
        "model": serving.model,
        "lexicon": None if lexicon is None else _lexicon_values(lexicon),
        "token_counts": _token_counts(scenario),
        "workers": worker_count(scenario),
    }
    store.write_json(order.folder / store.RAW, "job.json", job)


def _lexicon_values(lexicon: Lexicon) -> dict[str, Any]:
    return {name: getattr(lexicon, name) for name in lexicon.__slots__}


def _token_counts(scenario: Scenario) -> str:
    """How tokens are counted: a conversation by token ids needs the ids of its answers, to send them back."""
    assert scenario.workload is not None
    if scenario.workload.kind == "conversation" and scenario.endpoint == "completions":
        return "token_ids"
    return scenario.token_counts
