"""How does a scenario become a result folder: engine up, warm, load, account, engine down?

The only orchestrator. Everything it learns goes to files as it goes, so that a run that dies at
any moment can still be reported.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import __version__, plan, store, telemetry
from harness.account import BEGUN, read_begun
from harness.clock import monotonic_ns, utc_now
from harness.crew import Crew
from harness.engines import Serving, resolve_kind, start_of
from harness.engines.control import Control
from harness.environment import cores, environment
from harness.errors import EXIT_DONE, EXIT_ENGINE, EXIT_INTERRUPTED, HarnessError
from harness.interrupts import Interrupts
from harness.lexicon import Lexicon, align
from harness.records import samples_from
from harness.scenario.loading import LoadedScenario
from harness.scenario.models import Scenario
from harness.watching import Watched, watching
from harness.workloads import Workload, build

_DYING_POLLS = 50  # of 0.2 s
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, into which folder, and who hears of its progress.

    `say` gets a line now and then; `on_sample` every sample that a worker takes of itself.
    `preload` is called in a thread of its own while the engine starts: time to load what the
    page will need.
    """

    loaded: LoadedScenario
    folder: Path
    rerun: str
    say: Say
    selfcheck: dict[str, Any] | None = None
    on_sample: Callable[[int, dict[str, Any]], None] = lambda _worker, _sample: None
    preload: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its exit code, and what went wrong in lines, if anything."""

    exit_code: int = EXIT_DONE
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Hands:
    """What a run works with: its workers, the user's interrupts, and what is sampled."""

    crew: Crew
    interrupts: Interrupts
    watched: Watched


def open_folder(order: Order) -> None:
    """Make the result folder and write run.json, before anything else happens.

    Raises:
        HarnessError: where the folder cannot be made, or holds a result already.
    """
    folder, loaded = order.folder, order.loaded
    # A folder called raw is made here and removed at the end: one that was there before is somebody's.
    if (folder / store.RUN).exists() or (folder / store.RAW).exists():
        raise HarnessError(f"--out {folder}: holds a result already; expected a new or empty folder")
    try:
        (folder / store.RAW).mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise HarnessError(
            f"--out {folder}: cannot be made ({fault.strerror}); expected a folder to write to"
        ) from None
    scenario = loaded.scenario
    run = {
        "format": store.FORMAT,
        "name": scenario.name,
        "question": scenario.question,
        "started_utc": utc_now().isoformat(timespec="seconds"),
        "scenario_file": str(loaded.path),
        "scenario_text": loaded.text,
        "scenario_sha256": loaded.sha256,
        "overrides": list(loaded.overrides),
        "seed": scenario.seed,
        "repeats": scenario.repeats,
        "stages": [stage.as_dict() for stage in scenario.stages],
        "slo": dict(scenario.slo),
        "endpoint": scenario.endpoint,
        "stream": scenario.stream,
        "environment": environment(),
        "client": {"version": __version__, "workers": _workers(scenario), "selfcheck": order.selfcheck},
        "rerun": order.rerun,
    }
    store.write_json(folder, store.RUN, run)


async def conduct(order: Order) -> Outcome:
    """Run an order whose folder is open; raw files stay in the folder for `finish`.

    Raises:
        HarnessError: where the engine does not come up or cannot do what the scenario asks.
    """
    engine = order.loaded.scenario.engine
    kind, why = resolve_kind(engine)
    order.say(f"engine: {kind} ({why})")
    start = start_of(kind)
    watched = Watched()
    crew = Crew(lambda number, sample: _on_sample(order, watched, number, sample))
    with Interrupts() as interrupts:
        try:
            await crew.start(order.folder / store.RAW, _workers(order.loaded.scenario))
            loading = asyncio.get_running_loop().run_in_executor(None, order.preload)
            async with start(engine, order.folder / "engine.log") as serving:
                await loading  # before the load, not during it: it takes a core for half a second
                return await _serve(order, serving, _Hands(crew, interrupts, watched))
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
            return Outcome(EXIT_INTERRUPTED, ("interrupted; what was measured is kept",))
        finally:
            await _end(crew, interrupts)


async def _serve(order: Order, serving: Serving, hands: _Hands) -> Outcome:
    scenario = order.loaded.scenario
    async with Control(serving.url, serving.api_key_env) as control:
        lexicon = await _lexicon(scenario, serving, control)
        workload = _workload(order, lexicon)
        plans = plan.plan(scenario, workload)
        _write_plan(order, serving, (workload, lexicon), plans)
        watched, interrupts = hands.watched, hands.interrupts
        try:
            async with watching(control, serving, watched):
                await hands.crew.set_up()
                outcome = await _stages(order, serving, hands, plans)
            if outcome == Outcome() and (ending := await _dying(control, serving)) is not None:
                outcome = Outcome(EXIT_ENGINE, (ending,))
        finally:
            interrupts.on_first = None
            await _end(hands.crew, interrupts)
            watched.add(
                monotonic_ns(),
                "server",
                {} if interrupts.count > 1 else telemetry.watched(await control.metrics()),
            )
            _write_samples(order.folder, watched)
    return outcome


async def _end(crew: Crew, interrupts: Interrupts) -> None:
    if interrupts.count > 1:
        crew.kill()
    await crew.close()


async def _stages(order: Order, serving: Serving, hands: _Hands, plans: tuple[plan.StagePlan, ...]) -> Outcome:
    """Run every stage in order, until the end, an interrupt, or the engine's death."""
    crew, interrupts = hands.crew, hands.interrupts
    notes = order.folder / store.RAW / BEGUN

    def stop() -> None:
        order.say("stopping: nothing more is sent; waiting for what is in flight (Ctrl-C again leaves at once)")
        _note(notes, stopped_ns=monotonic_ns())
        crew.stop()

    interrupts.on_first = stop
    for made in plans:
        await crew.prepare(made.number)
        if interrupts.count:
            break
        order.say(f"stage {made.number + 1}/{len(plans)}: {json.dumps(made.stage.as_dict())}")
        _note(notes, number=made.number, begin_ns=crew.begin(made.number))
        ending = await _finished(crew, made.number, serving)
        if ending is not None:
            _note(notes, stopped_ns=monotonic_ns())
            return Outcome(EXIT_ENGINE, (ending,))
    if interrupts.count:
        return Outcome(EXIT_INTERRUPTED, ("interrupted; what was measured is kept",))
    return Outcome()


async def _finished(crew: Crew, number: int, serving: Serving) -> str | None:
    """Wait for a stage's last answer; where the engine dies meanwhile, stop, and say why it died."""
    waiting = asyncio.get_running_loop().create_task(crew.finished(number))
    ending: str | None = None
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=0.2)
        if ending is None and (ending := serving.ending()) is not None:
            crew.stop()
    try:
        waiting.result()
    except HarnessError as fault:
        return "\n".join(fault.lines)
    return ending or serving.ending()


async def _dying(control: Control, serving: Serving) -> str | None:
    """Why an engine that no longer says it is well is about to end: its server outlives its core by a moment."""
    if not serving.command or await control.healthy():
        return None
    for _ in range(_DYING_POLLS):
        if (ending := serving.ending()) is not None:
            return ending
        await asyncio.sleep(0.2)
    return None


def _on_sample(order: Order, watched: Watched, number: int, sample: dict[str, Any]) -> None:
    values = {name: value for name, value in sample.items() if name != "at_ns"}
    watched.add(sample["at_ns"], f"client-{number}", values)
    order.on_sample(number, sample)


async def _lexicon(scenario: Scenario, serving: Serving, control: Control) -> Lexicon | None:
    """Words to write chat prompts with, aligned to the server's own tokenizer where it has one."""
    assert scenario.workload is not None
    if scenario.endpoint != "chat" or scenario.workload.kind == "dataset":
        return None
    return await align(control.tokenize, serving.model)


def _workload(order: Order, lexicon: Lexicon | None) -> Workload:
    scenario = order.loaded.scenario
    assert scenario.workload is not None
    return build(
        scenario.workload,
        endpoint=scenario.endpoint,
        seed=scenario.seed,
        lexicon=lexicon,
        folder=order.loaded.path.parent,
    )


def _workers(scenario: Scenario) -> int:
    """As asked, else one for every four cores: a worker needs one, the engine should keep the rest."""
    return scenario.workers or max(1, min(8, cores() // 4))


def _write_plan(
    order: Order,
    serving: Serving,
    contents: tuple[Workload, Lexicon | None],
    plans: tuple[plan.StagePlan, ...],
) -> None:
    """Complete run.json and write the workers' job, before the first request."""
    workload, lexicon = contents
    scenario, raw = order.loaded.scenario, order.folder / store.RAW
    plan.save(raw / "plan.npz", plans, plan.turns_of(plans, workload))
    run = store.read_json(order.folder, store.RUN)
    run |= {
        "payload_sha256": hashlib.sha256(
            json.dumps([workload.fingerprint(), scenario.endpoint, scenario.stream, scenario.extra_body]).encode()
        ).hexdigest(),
        "schedule_sha256": plan.schedule_sha256(plans),
        "lengths_exact": workload.exact,
        "dataset": _dataset(workload, plans),
        "notes": list(workload.notes),
        "shares_prompts": _shares_prompts(scenario),
        "engine": {
            "kind": serving.kind,
            "simulated": serving.simulated,
            "hollow": serving.hollow,
            "model": serving.model,
            "url": serving.url,
            "asked": scenario.engine.args,
            "command": list(serving.command),
            "effective": dict(serving.effective),
        },
    }
    store.write_json(order.folder, store.RUN, run)
    job = {
        "scenario": scenario.model_dump(mode="json", by_alias=True, exclude_none=True),
        "scenario_folder": str(order.loaded.path.parent.resolve()),
        "url": serving.url,
        "api_key_env": serving.api_key_env,
        "model": serving.model,
        "lexicon": None if lexicon is None else _lexicon_values(lexicon),
        "token_counts": _token_counts(scenario),
        "workers": _workers(scenario),
    }
    store.write_json(raw, "job.json", job)


def _dataset(workload: Workload, plans: tuple[plan.StagePlan, ...]) -> dict[str, int] | None:
    """How many sessions there are before they repeat, and how many the stages of known length draw."""
    return None if workload.size is None else {"size": workload.size, "drawn": sum(made.taken or 0 for made in plans)}


def _shares_prompts(scenario: Scenario) -> bool:
    """Whether prompts begin alike on purpose, so that a prefix cache is meant to be hit."""
    work = scenario.workload
    assert work is not None
    return work.kind != "synthetic" or work.prefix is not None


def _lexicon_values(lexicon: Lexicon) -> dict[str, Any]:
    return {name: getattr(lexicon, name) for name in lexicon.__slots__}


def _token_counts(scenario: Scenario) -> str:
    """How tokens are counted: a conversation by token ids needs the ids of its answers, to send them back."""
    assert scenario.workload is not None
    if scenario.workload.kind == "conversation" and scenario.endpoint == "completions":
        return "token_ids"
    return scenario.token_counts


def _note(path: Path, **words: int) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _write_samples(folder: Path, watched: Watched) -> None:
    zero_ns = read_begun(folder / store.RAW).zero_ns
    rows = ((at_ns - zero_ns, source, name, value) for at_ns, source, name, value in watched.rows)
    store.write_samples(folder, samples_from(rows))
