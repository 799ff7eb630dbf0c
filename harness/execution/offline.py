"""Load without a server: engine up, one call of its own `LLM.generate` a stage, engine down.

The engine's own program makes the calls and notes what happens (harness/engines/offline.py); here it is only
watched, and interrupted where the user wants.
"""

import asyncio
from contextlib import AsyncExitStack

from harness.clock import monotonic_ns
from harness.engines import RunningEngine, offline
from harness.engines.offline import OfflineWork, begin_calls, start_offline
from harness.errors import EXIT_ENGINE
from harness.execution.client_job import build_workload, without_tokenizer
from harness.execution.progress import ProgressTracker, counts_of
from harness.execution.run_folder import (
    RunOutcome,
    RunSpec,
    interrupted,
    note_death,
    note_stage,
    write_plan,
    write_samples,
)
from harness.execution.watching import Watched, watching
from harness.messages import message
from harness.results import store
from harness.results.request_table import CANCELLED
from harness.safety.interrupts import Interrupts
from harness.workload import plan

DIED = "engine_died"
_POLL_S = 0.2
_LEAVING_POLLS = 50


async def run_offline(spec: RunSpec, kind: str) -> RunOutcome:
    """Run a spec whose folder is open and whose stages are all offline; raw files stay for `finish`.

    Raises:
        HarnessError: where the engine does not come up or cannot do what the scenario asks.
    """
    scenario, raw = spec.loaded.scenario, spec.folder / store.RAW
    workload = build_workload(spec, without_tokenizer(scenario))
    plans = plan.plan(scenario, workload)
    work = OfflineWork(raw, plans, workload, scenario.extra_body)
    watch = _Watch(spec, plans)
    outcome = RunOutcome()
    with Interrupts() as interrupts:
        try:
            loading = asyncio.get_running_loop().run_in_executor(None, spec.preload)
            log = spec.folder / "engine.log"
            async with watch.tracker.publishing(), start_offline(scenario.engine, kind, log, work) as serving:
                await loading  # before the load, not during it: it takes a core for half a second
                turns = write_plan(spec, serving, workload, plans)
                watch.tracker.engine(serving.kind, model=serving.model, simulated=serving.simulated)
                watch.tracker.plan(plans, turns)
                outcome = await _generated(serving, watch, interrupts)
                interrupts.leave()
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
        finally:
            watch.close(outcome)
    return interrupted(spec.folder) if interrupts.count and not outcome.exit_code else outcome


async def _generated(serving: RunningEngine, watch: "_Watch", interrupts: Interrupts) -> RunOutcome:
    """Let the engine's program make its calls, until the last one, an interrupt, or its death."""
    stopping = asyncio.Event()
    interrupts.on_first = stopping.set
    async with AsyncExitStack() as stack:
        if not serving.simulated:  # its times are not those of this machine
            await stack.enter_async_context(watching(None, serving, watch.watched))
        begin_calls(watch.raw)
        while True:
            ending = serving.ending()
            watch.read()  # after `ending`, so that its last notes are read
            if watch.finished:
                await _leaving(serving)
                return RunOutcome()
            if stopping.is_set():
                return RunOutcome()
            if ending is not None:
                return RunOutcome(EXIT_ENGINE, (ending,))
            await asyncio.sleep(_POLL_S)


async def _leaving(serving: RunningEngine) -> None:
    """Give a program that has finished the time to release its devices."""
    for _ in range(_LEAVING_POLLS):
        if serving.ending() is not None:
            return
        await asyncio.sleep(_POLL_S)


class _Watch:
    """What a program has noted so far, and what is sampled meanwhile."""

    def __init__(self, spec: RunSpec, plans: tuple[plan.StagePlan, ...]) -> None:
        self.raw = spec.folder / store.RAW
        self.watched = Watched()
        self.finished = False
        self._spec = spec
        self._plans = plans
        self._calls = tuple(offline.calls_of(plans))
        self._notes = offline.NotesReader(self.raw)
        self._number = -1
        self._sent = self._done = 0
        self.tracker = ProgressTracker(spec.folder, spec.loaded.scenario.name, spec.on_snapshot, self.watched)

    def read(self) -> None:
        """Take in what was noted since."""
        for line in self._notes.new():
            if "begin_ns" in line:
                self._begun(self._calls[line["call"]])
            elif "metrics" in line and "at_ns" in line:
                self.watched.add_metrics(line["at_ns"], line["metrics"])
            self._done += "done" in line
            self.finished = self.finished or "finished" in line
        self.tracker.on_counts(0, counts_of(self._number, self._sent, self._done))

    def _begun(self, call: offline.OfflineCall) -> None:
        if call.opens:
            if self._number >= 0:
                self.tracker.end(self._number)
            self._number, self._sent, self._done = call.number, 0, 0
            self.tracker.begin(call.number, monotonic_ns())
            self._spec.on_progress(plan.announced(self._plans[call.number], self._plans))
        self._sent += call.requests

    def close(self, outcome: RunOutcome) -> None:
        """When the program has ended: note why calls are unanswered, and write the samples."""
        self.read()
        if not (self.raw / store.BEGUN).exists():
            return
        if self._number >= 0:
            self.tracker.end(self._number)
        if not self.finished:
            died = outcome.exit_code == EXIT_ENGINE
            reason = outcome.lines[0] if died else message("execution.stopped")
            ended = DIED if died else CANCELLED
            offline.append_note(self.raw, ended=ended, at_ns=monotonic_ns(), message=str(reason))
            note_stage(self._spec.folder, stopped_ns=monotonic_ns())
            if died:
                note_death(self._spec.folder, outcome)
        write_samples(self._spec.folder, self.watched)
