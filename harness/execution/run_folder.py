"""The files that a run writes into its folder beside the records of its requests.

run.json first, before anything else happens, and whole before the first request; notes of when
stages began, as they begin; samples of the server's counters, the NPUs and the host at the end.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import __version__
from harness.clock import VIRTUAL_TIME, utc_now
from harness.engines import RunningEngine
from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, HarnessError
from harness.execution.prefix_reuse import cache_block_size, priming_reach
from harness.execution.reconcile import read_stage_starts
from harness.execution.watching import Watched
from harness.messages import Message, message
from harness.results import store, table_files
from harness.results.progress import Progress
from harness.results.request_table import samples_from
from harness.safety.interrupts import NOTHING, STOPPED
from harness.scenario.loader import LoadedScenario
from harness.scenario.models import Scenario
from harness.telemetry.environment import cores, environment
from harness.workload import Workload, plan

OnProgress = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A scenario to run, the folder of its result, and the callbacks of its progress.

    `on_progress` gets a message now and then; `on_snapshot` twice a second what the run is doing, from the run's own
    thread: it has to be quick.
    `preload` is called in a thread of its own while the engine starts: time to load what the
    page will need. `enough` is called now and then while a stage runs, in a thread of its own; where it gives
    True, the run ends there and the requests in flight are given up.
    """

    loaded: LoadedScenario
    folder: Path
    rerun: str
    on_progress: OnProgress
    selfcheck: dict[str, Any] | None = None
    on_snapshot: Callable[[Progress], None] = lambda _progress: None
    preload: Callable[[], None] = lambda: None
    enough: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended: its exit code, and what went wrong in lines, if anything."""

    exit_code: int = EXIT_DONE
    lines: tuple[Message, ...] = ()


def interrupted(folder: Path) -> RunOutcome:
    """How a run ended that a signal ended: whether there is something to report depends on what had begun.

    Notes it in run.json: requests without an answer do not tell it, as those of a failed session have none either.
    """
    begun = (folder / store.RAW / store.BEGUN).exists()
    if begun:
        store.write_json(folder, store.RUN, {**store.read_json(folder, store.RUN), "interrupted": True})
    return RunOutcome(EXIT_INTERRUPTED, (STOPPED if begun else NOTHING,))


def open_folder(spec: RunSpec) -> None:
    """Make the result folder and write run.json, before anything else happens.

    Raises:
        HarnessError: where the folder cannot be made, or holds a result already.
    """
    folder, loaded = spec.folder, spec.loaded
    # A folder called raw is made here and removed at the end: one that was there before is somebody's.
    if (folder / store.RUN).exists() or (folder / store.RAW).exists():
        raise HarnessError(message("execution.out_used", folder=str(folder)))
    try:
        (folder / store.RAW).mkdir(parents=True)  # who comes second, were it at the same time, is refused
    except FileExistsError:
        raise HarnessError(message("execution.out_used", folder=str(folder))) from None
    except OSError as fault:
        reason = fault.strerror or str(fault)
        raise HarnessError(message("cli.out_not_made", folder=str(folder), reason=reason)) from None
    scenario = loaded.scenario
    selfcheck = None if scenario.is_offline else spec.selfcheck  # no client stands between
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
        "price_per_hour": scenario.price_per_hour,
        "currency": scenario.currency,
        "devices": None if scenario.engine.devices is None else list(scenario.engine.devices),
        "endpoint": scenario.endpoint,
        "stream": scenario.streams,
        "environment": environment(),
        "client": {
            "version": __version__,
            "workers": 0 if scenario.is_offline else worker_count(scenario),
            "selfcheck": selfcheck,
        },
        "rerun": spec.rerun,
    }
    store.write_json(folder, store.RUN, run)


def worker_count(scenario: Scenario) -> int:
    """As the scenario says, else one for every four cores: a worker needs one, the engine should keep the rest."""
    return scenario.workers or max(1, min(8, cores() // 4))


def write_plan(
    spec: RunSpec, serving: RunningEngine, workload: Workload, plans: tuple[plan.StagePlan, ...]
) -> NDArray[np.int64] | None:
    """Write the plans and complete run.json, before the first request; the turns of their sessions, if several."""
    scenario, raw = spec.loaded.scenario, spec.folder / store.RAW
    turns = plan.turns_of(plans, workload)
    plan.save(raw / "plan.npz", plans, turns)
    run = store.read_json(spec.folder, store.RUN)
    run |= {
        "payload_sha256": hashlib.sha256(
            json.dumps([workload.fingerprint(), scenario.endpoint, scenario.streams, scenario.extra_body]).encode()
        ).hexdigest(),
        "schedule_sha256": plan.schedule_sha256(plans),
        **_kinds(scenario, workload),
        "lengths_exact": workload.exact,
        "dataset": _dataset(workload, plans),
        "notes": [note.as_dict() for note in workload.notes],
        "shares_prompts": _shares_prompts(scenario),
        "text": workload.text,
        "prefix": _prefix(scenario, serving, workload),
        "engine": {
            "kind": serving.kind,
            "simulated": serving.simulated,
            "hollow": serving.stub_device,
            "model": serving.model,
            "url": serving.url,
            "command": list(serving.command),
            **({"clock": serving.clock} if serving.simulated else {}),
            **serving.marks,
            **serving.configuration.as_dict(),
            **({"processes": [process.as_dict() for process in serving.processes]} if serving.processes else {}),
        },
    }
    if serving.clock == VIRTUAL_TIME:  # no client stands between
        run["client"] |= {"workers": 0, "selfcheck": None}
    store.write_json(spec.folder, store.RUN, run)
    if (prefix := run["prefix"]).get("target") is not None:
        code = "execution.priming" if prefix["by_rank"] or prefix["copies"] == 1 else "execution.priming_spread"
        spec.on_progress(message(code, beginnings=prefix["beginnings"], copies=prefix["copies"]))
    for change in (*serving.configuration.messages(), *_changes(serving)):
        spec.on_progress(message("execution.engine", state=change))
    return turns


def _kinds(scenario: Scenario, workload: Workload) -> dict[str, Any]:
    """The classes of requests where they differ, and the forms that some of them ask for."""
    keys = ("structured", "tools", "adapters", "images")
    given = {name: getattr(scenario.workload, name, None) for name in keys}
    forms = {name: value.model_dump(mode="json") for name, value in given.items() if value is not None}
    classes = workload.mix.as_dicts()
    return {**({"classes": classes} if classes else {}), **forms}


def _changes(serving: RunningEngine) -> Iterator[Message]:
    """What the flags of each process of a deployment became, each line once for all processes that it is true of."""
    changes: dict[str, Message] = {}
    names: dict[str, list[str]] = {}
    for process in serving.processes:
        for change in process.configuration.messages():
            changes.setdefault(str(change), change)
            names.setdefault(str(change), []).append(process.name)
    for line, change in changes.items():
        yield message("engines.of_processes", names=names[line], reason=change)


def _dataset(workload: Workload, plans: tuple[plan.StagePlan, ...]) -> dict[str, int] | None:
    """How many sessions there are before they repeat, and how many the stages of known length draw."""
    return None if workload.size is None else {"size": workload.size, "drawn": sum(stage.taken or 0 for stage in plans)}


def _prefix(scenario: Scenario, serving: RunningEngine, workload: Workload) -> dict[str, Any]:
    """What is known of prefix caching: the size of blocks, the share of hits that is asked for, how it is primed."""
    prefix = getattr(scenario.workload, "prefix", None)
    target = getattr(prefix, "hit_rate", None)
    size = getattr(prefix, "block_size", None) or cache_block_size(serving)
    if target is None or workload.priming is None:
        return {"block_size": size}
    return {
        "block_size": size,
        "target": target,
        "beginnings": workload.priming.size,
        **priming_reach(serving).as_dict(),
    }


def _shares_prompts(scenario: Scenario) -> bool:
    """Whether prompts begin alike on purpose, so that a prefix cache is meant to be hit."""
    work = scenario.workload
    assert work is not None
    return work.kind != "synthetic" or work.prefix is not None


def note_stage(folder: Path, **words: int) -> None:
    """Note what happens to the stages of a run, on the disk before this returns."""
    path = folder / store.RAW / store.BEGUN
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
        file.flush()
        os.fsync(file.fileno())


def note_stop(folder: Path, at_ns: int) -> None:
    """Note when a run was stopped, where a stage had begun: before that nothing was measured."""
    if (folder / store.RAW / store.BEGUN).exists():
        note_stage(folder, stopped_ns=at_ns)


def note_engine(folder: Path, **marks: Any) -> None:
    """Add to what run.json says of the engine, such as `restarted`."""
    run = store.read_json(folder, store.RUN)
    store.write_json(folder, store.RUN, {**run, "engine": {**(run.get("engine") or {}), **marks}})


def note_death(folder: Path, outcome: RunOutcome) -> None:
    """Add to run.json why the engine died: the messages of the outcome, and their English text."""
    reason = outcome.lines[0] if len(outcome.lines) == 1 else message("execution.reasons", reasons=list(outcome.lines))
    note_engine(folder, died=str(reason), died_message=reason.as_dict())


def write_samples(folder: Path, watched: Watched) -> None:
    """Write all that was watched, where a stage had begun: before that there is no zero to count from."""
    if not (folder / store.RAW / store.BEGUN).exists():
        return
    zero_ns = read_stage_starts(folder / store.RAW).zero_ns
    rows = ((at_ns - zero_ns, source, name, value) for at_ns, source, name, value in watched.rows)
    table_files.write_samples(folder, samples_from(rows))
