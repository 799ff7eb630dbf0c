"""Trials on real engines: each started once, loaded one or several times, watched while loaded, stopped.

The engine is brought up by `harness.engines`; each load on it is a run of its own (engine kind attach), with a result
folder that `harness report` can draw. A load under way is read from the raw files that the workers write as they go.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.steady_state import Span
from harness.client.journal import read_sent, whole_end, worker_journals
from harness.client.journal_decoding import DecodedAnswers, decode_part, joined
from harness.clock import VIRTUAL_TIME, monotonic_ns
from harness.engines import RunningEngine, start_of
from harness.engines.engine_log import BootFacts, boot_facts
from harness.engines.process import ending_of
from harness.errors import EXIT_ENGINE, EXIT_INTERRUPTED, HarnessError
from harness.execution import run
from harness.execution.progress import ProgressTracker
from harness.execution.reconcile import Source, collect_records, finish, read_stage_starts
from harness.execution.watching import Watched
from harness.messages import Message, sentences
from harness.results import store, table_files
from harness.results.progress import Progress
from harness.results.request_table import Events, Requests
from harness.safety.interrupts import completed
from harness.safety.redaction import redact_tree
from harness.scenario.engine import DEPLOYMENT, Engine
from harness.scenario.loader import LoadedScenario
from harness.scenario.stages import Stage
from harness.tuning import feasibility
from harness.tuning.candidates import ResolveFlags
from harness.tuning.evaluation import EarlyStopCheck, EngineSession, StartedEngine, StartFailed
from harness.tuning.study_plan import Task, with_stage
from harness.tuning.trial_series import measurement_of, measurement_so_far
from harness.tuning.types import Measurement, TrialFailure
from harness.tuning.virtual_evaluation import VirtualEvaluator, stopped_early
from harness.units import NS_PER_S

OnProgress = Callable[[str | Message], None]
OnSnapshot = Callable[[Progress], None]


@dataclass(slots=True)
class _LiveSession:
    """An engine that is up, and the loop that it lives in.

    `reach` is the engine of a scenario that loads it: one that attaches to a server, or, of `virtual` sessions, the
    simulator itself. `ending` says why the engine has ended; None while it lives.
    """

    started: StartedEngine
    reach: Engine
    ending: Callable[[], Message | None]
    simulated: bool
    loop: asyncio.AbstractEventLoop
    folder: Path
    on_progress: OnProgress
    on_snapshot: OnSnapshot
    loads: int = 0
    virtual: bool = False

    def measure(self, task: Task, stage: Stage, seed: int, watch: EarlyStopCheck | None = None) -> Measurement:
        """See Session. Of a load that is ended early, what is in flight is given up."""
        self.loads += 1
        folder = self.folder / f"load-{self.loads}"
        scenario = with_stage(task.scenario, stage, seed).model_copy(update={"engine": self.reach})
        loaded = LoadedScenario(scenario, "", "", task.path, ())
        looks = watch is not None and not self.virtual
        monitor = LiveLoadMonitor(folder, seed, watch, self.simulated) if looks and watch is not None else None
        should_stop = None if monitor is None else monitor.enough
        order = run.RunSpec(loaded, folder, f"harness report {folder}", self.on_progress, enough=should_stop)
        order = replace(order, on_snapshot=self.on_snapshot)
        run.open_folder(order)
        begin_ns = monotonic_ns()
        try:
            outcome = self.loop.run_until_complete(run.run_load(order))
        except HarnessError as fault:
            raise self._died(fault.messages[:1], begin_ns) from None
        if outcome.exit_code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        ending = self.ending()
        if outcome.exit_code == EXIT_ENGINE or ending is not None:
            raise self._died(outcome.lines if ending is None else (ending,), begin_ns)
        finish(folder, details=False)  # what a study reads, without what a page adds
        if monitor is not None and monitor.ended is not None:
            return replace(monitor.ended, folder=folder.name)
        whole = measurement_in(folder, seed, simulated=self.simulated)
        return stopped_early(whole, watch) if watch is not None and self.virtual else whole

    def _died(self, reasons: Sequence[Message], begin_ns: int) -> StartFailed:
        """Of an engine that died under a load: what the load took, and the start where no earlier load counts it."""
        minutes = (monotonic_ns() - begin_ns) / NS_PER_S / 60 + (self.started.minutes if self.loads == 1 else 0.0)
        return StartFailed(failure_from_log(self.folder / "engine.log", reasons), self.started.facts, minutes)


def measurement_in(folder: Path, seed: int, *, simulated: bool) -> Measurement:
    """The measurement of a finished result folder of one stage."""
    row = store.read_json(folder, store.TIMELINE)[0]
    stage = stage_input(folder, table_files.read_requests(folder), table_files.read_events(folder), row)
    measurement = measurement_of(stage, summarize_stage(stage), seed, simulated=simulated)
    return replace(measurement, folder=folder.name)


def failure_from_log(log: Path, reasons: Sequence[Message]) -> TrialFailure:
    """Why an engine failed, by its log and the messages of its end."""
    line = " ".join(HarnessError(*reasons).lines)  # as a terminal shows it: no secret, no line end
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    failure = feasibility.classify_failure(text.splitlines() or [line], ending_of(reasons))
    if failure.message or (failure.line and text):
        return failure
    words = redact_tree(sentences(*reasons).as_dict())
    return replace(failure, line=line, message=words)


def _attached(serving: RunningEngine) -> Engine:
    """A running engine as a scenario that does not start it names it."""
    reach = {name: getattr(serving.reach, name) for name in ("api_key_env", "headers", "tls", "paths")}
    return Engine(kind="attach", url=serving.url, model=serving.model, **reach)


@dataclass(slots=True)
class VirtualRunEvaluator:
    """The simulated engine in virtual time with a client whose next turn waits for the answer before, as in a run.

    Slower than `VirtualEvaluator`, which serves single requests, and far faster than real time.
    """

    on_progress: OnProgress = lambda _line: None
    on_snapshot: OnSnapshot = lambda _progress: None
    simulated: bool = True
    _engines: VirtualEvaluator = field(default_factory=VirtualEvaluator)

    def left_busy(self) -> bool:
        """Nothing holds a device here."""
        return False

    @contextmanager
    def open(self, engine: Engine, folder: Path) -> Iterator[EngineSession]:
        """See Evaluator."""
        folder.mkdir(parents=True, exist_ok=True)
        kind = engine.kind if engine.kind == DEPLOYMENT else "simulator"
        reach = engine.model_copy(update={"kind": kind, "clock": VIRTUAL_TIME})
        loop = asyncio.new_event_loop()
        try:
            with self._engines.open(engine, folder) as simulated:
                yield _LiveSession(
                    simulated.started, reach, lambda: None, True, loop, folder, self.on_progress, self.on_snapshot,
                    virtual=True,
                )  # fmt: skip
        finally:
            loop.close()


@dataclass(slots=True)
class LiveEvaluator:
    """Real engines of one kind, or the simulated one in real time.

    `resolve` tells what an engine's flags become, and has kept what it told: no start asks for that again.
    """

    kind: str
    resolve: ResolveFlags | None = None
    on_progress: OnProgress = lambda _line: None
    on_snapshot: OnSnapshot = lambda _progress: None
    simulated: bool = False
    hollow: bool = False
    _busy: bool = field(default=False)

    def left_busy(self) -> bool:
        """Whether a device had not come back to idle when the last engine was gone."""
        return self._busy

    @contextmanager
    def open(self, engine: Engine, folder: Path) -> Iterator[EngineSession]:
        """See Evaluator."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "engine.log"
        store.write_json(folder, "engine.json", json.loads(engine.model_dump_json(exclude_none=True)))
        begin_ns = monotonic_ns()
        loop = asyncio.new_event_loop()
        resolved = None if self.resolve is None else self.resolve([engine])[0]
        kind = DEPLOYMENT if engine.kind == DEPLOYMENT else self.kind
        context = start_of(kind, resolved, self._note_busy)(engine, log)
        self._busy = False
        try:
            serving, interrupted = self._up(loop, context, log, begin_ns)
            minutes = (monotonic_ns() - begin_ns) / NS_PER_S / 60
            self.simulated, self.hollow = serving.simulated, serving.stub_device
            started = StartedEngine(minutes, facts_from_log(log), serving.configuration.effective, serving.command)
            try:
                if interrupted:
                    raise KeyboardInterrupt
                ending, simulated = serving.ending, serving.simulated
                reach = _attached(serving)
                yield _LiveSession(started, reach, ending, simulated, loop, folder, self.on_progress, self.on_snapshot)
            finally:
                _, interrupted = completed(loop, context.__aexit__(None, None, None), breakable=False)
            if interrupted:
                raise KeyboardInterrupt
        finally:
            loop.close()

    def _note_busy(self, _devices: Sequence[str]) -> None:
        self._busy = True

    def _up(
        self,
        loop: asyncio.AbstractEventLoop,
        context: AbstractAsyncContextManager[RunningEngine],
        log: Path,
        begin_ns: int,
    ) -> tuple[RunningEngine, bool]:
        try:
            return completed(loop, self._shown_start(context, log.parent))
        except HarnessError as fault:
            minutes = (monotonic_ns() - begin_ns) / NS_PER_S / 60
            raise StartFailed(failure_from_log(log, fault.messages), facts_from_log(log), minutes) from None

    async def _shown_start(self, context: AbstractAsyncContextManager[RunningEngine], folder: Path) -> RunningEngine:
        """Start the engine, and hand on what it logs meanwhile."""
        tracker = ProgressTracker(folder, folder.parent.name, self.on_snapshot, Watched())
        tracker.engine(self.kind)
        async with tracker.publishing():
            return await context.__aenter__()


def facts_from_log(log: Path) -> BootFacts:
    """What a log tells of a start."""
    return boot_facts(log.read_text(encoding="utf-8", errors="replace").splitlines()) if log.exists() else BootFacts()


_SETTLED_S = 0.1  # after a time until what was answered by then is surely in its file: workers write in idle moments
_SPAN = ("stage", "repeat", "start_ns", "stop_ns", "end_ns")


def stage_input(folder: Path, requests: Requests, events: Events, row: dict[str, int]) -> StageInput:
    """The only stage of a result folder, from its rows and its span in the timeline."""
    run_info = store.read_json(folder, store.RUN)
    span = Span(**{name: int(row[name]) for name in _SPAN})
    slo, stream = run_info.get("slo") or {}, run_info.get("stream", True)
    return StageInput(requests, events, span, run_info["stages"][0], slo, stream=stream)


@dataclass(slots=True)
class _GrowingJournal:
    """A worker's answers as far as they were read."""

    path: Path
    end: int = 0
    known: DecodedAnswers | None = None

    def read(self) -> DecodedAnswers:
        """All answers that are there in full by now; each is decoded once."""
        end = whole_end(self.path, self.end)
        if self.known is None or end > self.end:
            new = decode_part(self.path, self.end, end)
            self.known = new if self.known is None else joined([self.known, new])
            self.end = end
        return self.known


@dataclass(slots=True)
class LiveLoadMonitor:
    """A load of one stage under way, into a result folder, and who watches it.

    `ended` is what it had shown when it was ruled to be enough; None until then.
    """

    folder: Path
    seed: int
    watch: EarlyStopCheck
    simulated: bool
    ended: Measurement | None = None
    _looks: int = 0
    _answers: dict[Path, _GrowingJournal] = field(default_factory=dict)

    def enough(self) -> bool:
        """Whether the load can end here: asked of the watch where the time to look has come, else no."""
        raw = self.folder / store.RAW
        begun = read_stage_starts(raw)
        if not begun.begin_ns or self._due(begun.zero_ns) <= self._looks:
            return False
        stage = self._stage(raw)
        looks = self._due(begun.zero_ns + stage.span.start_ns)
        if looks <= self._looks:
            return False
        self._looks = looks
        part = measurement_so_far(stage, looks * self.watch.every_s, self.seed, simulated=self.simulated)
        if self.watch(part).stop:
            self.ended = part
        return self.ended is not None

    def _due(self, begin_ns: int) -> int:
        """How many times to look have passed since then."""
        passed_s = (monotonic_ns() - begin_ns) / NS_PER_S - _SETTLED_S
        return int(passed_s / self.watch.every_s) if self.watch.every_s > 0 else 0

    def _stage(self, raw: Path) -> StageInput:
        requests, events, timeline = collect_records(raw, list(self._sources(raw)))
        return stage_input(self.folder, requests, events, timeline[0])

    def _sources(self, raw: Path) -> Iterator[Source]:
        """What each worker has sent and heard; what it heard is read first, as it was sent before."""
        for sent, answers in worker_journals(raw):
            decoded = self._answers.setdefault(answers, _GrowingJournal(answers)).read()
            rows = read_sent(sent)
            whole = len(rows) - int((rows["sent_ns"][-1:] == 0).sum())  # the last row may be half written
            yield rows[:whole], decoded
