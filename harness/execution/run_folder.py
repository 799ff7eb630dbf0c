"""The files that a run writes into its folder beside the records of its requests.

run.json first, before anything else happens, and whole before the first request; notes of when
stages began, as they begin; samples of the server's counters, the NPUs and the host at the end.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from harness import __version__
from harness.analysis.warnings.client import PARENT, PAUSED, PAUSED_S
from harness.client.target import is_this_host
from harness.clock import VIRTUAL_TIME, monotonic_ns, utc_now
from harness.engines import RunningEngine
from harness.engines.api_client import ControlClient
from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, HarnessError
from harness.execution.reconcile import read_stage_starts
from harness.messages import Message, message
from harness.results import store, table_files
from harness.results.progress import Progress
from harness.results.request_table import samples_from
from harness.safety.interrupts import NOTHING, STOPPED
from harness.scenario.loader import LoadedScenario
from harness.scenario.models import Scenario
from harness.telemetry import server_metrics
from harness.telemetry.devices import npu_watches, watch_host
from harness.telemetry.environment import cores, environment, find_npu_smi, this_host
from harness.telemetry.npu_smi import Values
from harness.units import NS_PER_S
from harness.workload import Workload, build, plan
from harness.workload.prompts import Vocabulary

SCRAPE_S = 1.0
_BEAT_NS = 100_000_000


@dataclass(slots=True)
class Watched:
    """What is sampled while the run goes on; times absolute ns."""

    rows: list[tuple[int, str, str, float]] = field(default_factory=list)
    latest: dict[str, Values] = field(default_factory=dict)
    """By source of /metrics, its last values."""

    def add(self, at_ns: int, source: str, values: Values) -> None:
        """Keep the values that a source had at a time."""
        self.rows += [(at_ns, source, name, float(value)) for name, value in values.items()]

    def add_metrics(self, at_ns: int, text: str) -> bool:
        """Keep the values of a text of /metrics, of the server and of each of its engines; whether there were any."""
        values_by_source = server_metrics.read_metrics(text)
        for source, values in values_by_source.items():
            self.add(at_ns, source, values)
            self.latest[source] = values
        return bool(values_by_source)


@asynccontextmanager
async def watching(control: ControlClient | None, serving: RunningEngine, watched: Watched) -> AsyncIterator[None]:
    """Fill `watched` until the context ends; whatever was started for it has ended then. No control, no counters."""
    loop = asyncio.get_running_loop()
    jobs = [watch_host(watched.add, serving.pids)]
    if control is not None:
        jobs += [_scrape(control, watched), _beat(watched)]
    npu_smi = find_npu_smi(this_host())
    if npu_smi is not None and uses_npus_here(serving):
        jobs += npu_watches(watched.add, npu_smi)
    tasks = [loop.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome


def uses_npus_here(serving: RunningEngine) -> bool:
    """Whether this machine's NPUs are the engine's: neither a simulated engine's nor those of a server elsewhere."""
    here = serving.kind != "attach" or is_this_host(urlsplit(serving.url).hostname or "")
    return here and not serving.simulated


async def _beat(watched: Watched) -> None:
    """Note where this process did not run: it was stopped, or its machine had no time for it."""
    while True:
        due_ns = monotonic_ns() + _BEAT_NS
        await asyncio.sleep(_BEAT_NS / NS_PER_S)
        late_s = (monotonic_ns() - due_ns) / NS_PER_S
        if late_s >= PAUSED_S:
            watched.add(monotonic_ns(), PARENT, {PAUSED: late_s})


async def _scrape(control: ControlClient, watched: Watched) -> None:
    while True:
        text = await control.metrics()
        read = watched.add_metrics(monotonic_ns(), text)
        await asyncio.sleep(SCRAPE_S if read else 10 * SCRAPE_S)


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
        "devices": None if scenario.engine.devices is None else list(scenario.engine.devices),
        "endpoint": scenario.endpoint,
        "stream": scenario.stream,
        "environment": environment(),
        "client": {
            "version": __version__,
            "workers": 0 if scenario.is_offline else worker_count(scenario),
            "selfcheck": selfcheck,
        },
        "rerun": spec.rerun,
    }
    store.write_json(folder, store.RUN, run)


def build_workload(spec: RunSpec, vocabulary: Vocabulary | None) -> Workload:
    """The workload of the spec's scenario; chat prompts are written with the words of `vocabulary`."""
    scenario = spec.loaded.scenario
    assert scenario.workload is not None
    return build(
        scenario.workload,
        endpoint=scenario.endpoint,
        seed=scenario.seed,
        vocabulary=vocabulary,
        folder=spec.loaded.path.parent,
    )


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
            json.dumps([workload.fingerprint(), scenario.endpoint, scenario.stream, scenario.extra_body]).encode()
        ).hexdigest(),
        "schedule_sha256": plan.schedule_sha256(plans),
        "lengths_exact": workload.exact,
        "dataset": _dataset(workload, plans),
        "notes": [note.as_dict() for note in workload.notes],
        "shares_prompts": _shares_prompts(scenario),
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
    for change in serving.configuration.messages():
        spec.on_progress(message("execution.engine", state=change))
    return turns


def _dataset(workload: Workload, plans: tuple[plan.StagePlan, ...]) -> dict[str, int] | None:
    """How many sessions there are before they repeat, and how many the stages of known length draw."""
    return None if workload.size is None else {"size": workload.size, "drawn": sum(stage.taken or 0 for stage in plans)}


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
