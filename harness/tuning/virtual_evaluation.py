"""Loads and trials on the simulator in virtual time: a minute of load in a fraction of a second.

The same plan, prompts, records and summary as of a real run; only who answers is computed. Nothing from here is a
measurement of a device.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.steady_state import Span
from harness.engines.engine_log import BootFacts, boot_facts
from harness.errors import HarnessError, InputError
from harness.messages import message
from harness.results.request_table import (
    COLUMNS,
    COMPLETED,
    FAILED,
    MEASURED,
    MISSING,
    TEXT_COLUMNS,
    WARMUP,
    Events,
    Requests,
)
from harness.scenario.engine import Engine
from harness.scenario.models import Scenario
from harness.scenario.request_kinds import COMPLETIONS
from harness.scenario.stages import Stage
from harness.seeds import stream
from harness.simulator.engine_config import Settings, effective, settings_from_flags
from harness.simulator.memory import memory_of
from harness.simulator.step_cost import StepCost, StepTimes, Terms
from harness.simulator.virtual_deployments import Serve, pair_of, ranks_of, simulate_deployment
from harness.simulator.virtual_time import Arrival, SimulatedRun, simulate
from harness.simulator.vllm_formats import startup_lines
from harness.tuning import feasibility
from harness.tuning.candidates import START_MINUTES, restart_class
from harness.tuning.evaluation import EarlyStopCheck, EngineSession, StartedEngine, StartFailed
from harness.tuning.study_plan import Task, with_stage
from harness.tuning.topology import Layout, layout_of
from harness.tuning.trial_series import look_times, measurement_of, partial_measurement
from harness.tuning.types import Measurement
from harness.units import seconds_to_ns
from harness.workload import Workload, build
from harness.workload import plan as planning
from harness.workload.prompts import PooledPrompt, TokenPrompt

_FIRST_GUESS = 8  # requests a user, where a closed loop ends by time
_COURSES_BYTES = 200_000_000  # of loads whose steps are kept, to be timed again


@dataclass(frozen=True, slots=True)
class VirtualTraffic:
    """One stage of load as the engine will see it: its plan, and the arrivals it asks for, warm-up first."""

    plan: planning.StagePlan
    arrivals: tuple[Arrival, ...]
    sessions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SimulatedNoise:
    """What makes two runs of one configuration differ: relative standard deviations.

    `run` shifts a whole run, `step` each step; both are log-normal and drawn from `seed`.
    """

    run: float = 0.0
    step: float = 0.0
    seed: int = 0


class _NoisyCost:
    """The time of steps, with noise."""

    def __init__(self, cost: StepCost, noise: SimulatedNoise, seed: int, settings: Settings) -> None:
        rng = stream(noise.seed, f"step noise of {settings}", seed)
        self._cost = cost
        shift = rng.normal(0.0, noise.run)
        self._factors: list[float] = np.exp(shift + rng.normal(0.0, noise.step, 4096)).tolist()
        self._place = 0

    def duration_ns(
        self, decodes: int, context: int, prefills: Sequence[tuple[int, int]], drafts: int = 0, exchanged: int = 0
    ) -> int:
        """As StepCost's."""
        self._place = (self._place + 1) & 4095
        own_ns = self._cost.duration_ns(decodes, context, prefills, drafts, exchanged)
        return max(1, round(own_ns * self._factors[self._place]))

    def adapters_ns(self, adapters: int) -> int:
        """As StepCost's."""
        return round(self._cost.adapters_ns(adapters) * self._factors[self._place])


def _servers(settings: Settings, layout: Layout, cost: StepTimes) -> Serve:
    """What serves in a layout."""
    if layout.prefill:
        return pair_of(settings, layout.prefill, layout.decode, cost)
    return ranks_of(settings, layout.engines, cost)


_Key = tuple[Settings, Layout | None, Stage, int, int | None]
"""What a load is made of: engines, how they lie (None: one by itself), stage, seed, and how many requests."""


class VirtualLoad:
    """Loads of one scenario in virtual time; arrivals are made once for each stage and seed, and kept."""

    def __init__(self, scenario: Scenario, folder: Path, *, most_requests: int | None = None) -> None:
        """`folder` is the scenario's; `most_requests` cuts the measured part of every load (a low fidelity).

        Raises:
            InputError: a workload that virtual time cannot serve.
        """
        workload = scenario.workload
        if workload is None or workload.kind == "conversation":
            raise InputError(message("tuning.turns_in_virtual_time", scenario=scenario.name))
        self._scenario, self._folder, self._most = scenario, folder, most_requests
        self._kept: dict[tuple[Stage, int, int | None], VirtualTraffic] = {}
        self._courses: OrderedDict[_Key, SimulatedRun] = OrderedDict()
        self._held = 0

    def measure(
        self,
        settings: Settings,
        stage: Stage,
        seed: int,
        *,
        terms: Terms | None = None,
        noise: SimulatedNoise | None = None,
        layout: Layout | None = None,
    ) -> Measurement:
        """What the stage shows on an engine with these settings, or on several in a layout.

        Raises:
            EngineError: the engine would not start.
            InputError: a prompt does not fit into its context.
        """
        cost = StepCost(settings, terms)
        noisy = cost if noise is None else _NoisyCost(cost, noise, seed, settings)
        traffic, simulated = self._served((settings, layout), stage, seed, noisy)
        requests, events = client_records(traffic, simulated)
        requests, events = _within(requests, events, stage)
        span = _span(traffic, requests)
        slo = dict(self._scenario.slo)
        stage_data = StageInput(requests, events, span, stage.as_dict(), slo)
        preempted = float(simulated.preemptions.sum())
        return measurement_of(stage_data, summarize_stage(stage_data), seed, simulated=True, preemptions=preempted)

    def _served(
        self, served: tuple[Settings, Layout | None], stage: Stage, seed: int, cost: StepTimes
    ) -> tuple[VirtualTraffic, SimulatedRun]:
        """Until a closed loop by time has sent its last request; others at once."""
        count = None
        if stage.kind == "closed" and stage.requests is None:
            count = _FIRST_GUESS * (stage.concurrency or 1)
        while True:
            traffic = self._traffic(stage, seed, count)
            simulated = self._simulated((*served, stage, seed, count), traffic, cost)
            if count is None or simulated.sent_ns.max() >= seconds_to_ns(stage.duration_s or 0.0):
                return traffic, simulated
            count *= 2

    def _simulated(self, key: "_Key", traffic: VirtualTraffic, cost: StepTimes) -> SimulatedRun:
        """Served, or where only the pace is another than the last time, timed again."""
        if key in self._courses:
            self._courses.move_to_end(key)
            return self._courses[key].at_pace(cost)
        settings, layout, stage = key[:3]
        limit = stage.concurrency or stage.max_concurrency
        if layout is not None:
            serve = _servers(settings, layout, cost)
            return simulate_deployment(serve, traffic.arrivals, concurrency=limit)
        simulated = simulate(settings, traffic.arrivals, concurrency=limit, cost=cost)
        if simulated.course is not None:
            self._courses[key] = replace(simulated, token_ns=())
            self._held += simulated.course.size
        while self._held > _COURSES_BYTES:
            _, oldest = self._courses.popitem(last=False)
            self._held -= oldest.course.size if oldest.course is not None else 0
        return simulated

    def _traffic(self, stage: Stage, seed: int, count: int | None) -> VirtualTraffic:
        key = (stage, seed, count)
        if key not in self._kept:
            if len(self._kept) > 8:
                self._kept.clear()
            self._kept[key] = self._made(stage, seed, count)
        return self._kept[key]

    def _made(self, stage: Stage, seed: int, count: int | None) -> VirtualTraffic:
        scenario = self._scenario
        assert scenario.workload is not None
        work, folder = _plain(scenario.workload), self._folder
        workload = build(work, endpoint=COMPLETIONS, seed=seed, vocabulary=None, folder=folder)
        requested = stage if count is None else replace(stage, requests=count, duration_s=None)
        stage_plan = planning.plan(with_stage(scenario, requested, seed), workload)[0]
        return _cut(stage_plan, workload, self._most)


def _cut(stage_plan: planning.StagePlan, workload: Workload, most: int | None) -> VirtualTraffic:
    count = stage_plan.taken or 0
    if most is not None:
        count = min(count, stage_plan.warm + most)
    sessions = np.asarray([stage_plan.session(ordinal) for ordinal in range(count)], dtype=np.int64)
    due_ns = stage_plan.due_ns if stage_plan.due_ns is not None else np.zeros(count, dtype=np.int64)
    arrivals = tuple(
        _arrival(workload, int(session), int(due)) for session, due in zip(sessions, due_ns[:count], strict=True)
    )
    return VirtualTraffic(stage_plan, arrivals, sessions)


def _arrival(workload: Workload, session: int, due_ns: int) -> Arrival:
    prompt = workload.prompt(session, 0)
    if isinstance(prompt, PooledPrompt):  # one pass over all documents, and no token more than that
        return Arrival(due_ns, [int(number) for document in prompt.documents for number in document], 1)
    assert isinstance(prompt, TokenPrompt)
    return Arrival(due_ns, prompt.ids.tolist(), workload.session(session).turns[0].output_tokens)


def _plain(work: Any) -> Any:
    """A workload as token ids alone: without images, and without the query of its documents."""
    given = {name for name in ("images", "query_tokens") if getattr(work, name, None) is not None}
    return work.model_copy(update=dict.fromkeys(given)) if given else work


def client_records(traffic: VirtualTraffic, simulated: SimulatedRun) -> tuple[Requests, Events]:
    """What a client would have recorded of the requests, warm-up included."""
    size, stage_plan = len(traffic.arrivals), traffic.plan
    counts = np.asarray([len(times) for times in simulated.token_ns], dtype=np.int64)
    max_tokens = np.asarray([arrival.max_tokens for arrival in traffic.arrivals], dtype=np.int64)
    columns: dict[str, NDArray[Any]] = {
        name: np.full(size, "", dtype=object) if name in TEXT_COLUMNS else np.full(size, MISSING, dtype=np.int64)
        for name in COLUMNS
    }
    zeros = ("stage", "repeat", "turn", "worker", "connect_ns", "resends")
    columns |= {name: np.zeros(size, dtype=np.int64) for name in zeros} | _times(traffic, simulated)
    lengths = np.asarray([len(arrival.prompt) for arrival in traffic.arrivals], dtype=np.int64)
    columns |= {
        "index": np.arange(size), "session": traffic.sessions, "input_asked": lengths, "input_tokens": lengths,
        "cached_tokens": simulated.cached_tokens, "output_asked": max_tokens, "output_tokens": counts,
        "first_tokens": (counts > 0).astype(np.int64), "events": counts,
        "phase": np.where(np.arange(size) < stage_plan.warm, WARMUP, MEASURED).astype(object),
        "status": np.where(counts >= max_tokens, COMPLETED, FAILED).astype(object),
    }  # fmt: skip
    times = np.concatenate([*simulated.token_ns, np.zeros(0, dtype=np.int64)])
    events = Events(np.concatenate([[0], np.cumsum(counts)]), times, np.ones(len(times), dtype=np.int32))
    return Requests(**columns), events


def _times(traffic: VirtualTraffic, simulated: SimulatedRun) -> dict[str, NDArray[Any]]:
    """When each request was due, sent and answered; in a closed loop it is due when it is sent."""
    first = np.asarray([int(times[0]) if len(times) else MISSING for times in simulated.token_ns], dtype=np.int64)
    last = np.asarray([int(times[-1]) if len(times) else MISSING for times in simulated.token_ns], dtype=np.int64)
    planned = np.asarray([arrival.at_ns for arrival in traffic.arrivals], dtype=np.int64)
    due = simulated.sent_ns if traffic.plan.due_ns is None else planned
    sent = simulated.sent_ns
    return {"due_ns": due, "ready_ns": sent, "sent_ns": sent, "first_ns": first, "last_ns": last, "done_ns": last}


def _within(requests: Requests, events: Events, stage: Stage) -> tuple[Requests, Events]:
    """Without what a closed loop by time would no longer have sent."""
    if stage.kind != "closed" or stage.duration_s is None:
        return requests, events
    sent_in_time = requests.sent_ns <= seconds_to_ns(stage.duration_s)
    return requests.take(sent_in_time), events.take(sent_in_time)


def _span(traffic: VirtualTraffic, requests: Requests) -> Span:
    """From the end of the warm-up to the last request sent, and to the last answer."""
    measured = requests.phase == MEASURED
    sent_ns = requests.sent_ns[measured]
    start_ns = traffic.plan.measured_ns if traffic.plan.due_ns is not None else int(sent_ns.min(initial=2**62))
    stop_ns = int(max(sent_ns.max(initial=0), requests.due_ns[measured].max(initial=0)))
    return Span(0, 0, min(start_ns, stop_ns), stop_ns, int(requests.done_ns.max(initial=stop_ns)))


@dataclass(slots=True)
class _VirtualSession:
    """The simulated engine with one configuration."""

    started: StartedEngine
    settings: Settings
    layout: Layout | None
    owner: "VirtualEvaluator"

    def measure(self, task: Task, stage: Stage, seed: int, watch: EarlyStopCheck | None = None) -> Measurement:
        """See Session."""
        whole = self.owner.load_of(task).measure(
            self.settings, stage, seed, terms=self.owner.terms, noise=self.owner.noise, layout=self.layout
        )
        return whole if watch is None else stopped_early(whole, watch)


def stopped_early(whole: Measurement, watch: EarlyStopCheck) -> Measurement:
    """What a load had shown when it could no longer win; all of it where it could to its end."""
    parts = (partial_measurement(whole, time_s) for time_s in look_times(whole, watch.every_s))
    return next((part for part in parts if watch(part).stop), whole)


@dataclass(slots=True)
class VirtualEvaluator:
    """The simulated engine in virtual time: a trial takes a fraction of a second. Nothing from here is measured.

    `terms` replace the coefficients of its step time, `noise` makes runs differ, `device` stands for how the
    device differs from its specification: it changes the settings of memory and time. `most_requests` cuts loads.
    With `in_layouts` single engines are served as several are, so that all are alike.
    """

    terms: Terms | None = None
    noise: SimulatedNoise | None = None
    device: Callable[[Settings], Settings] = field(default=lambda settings: settings)
    most_requests: int | None = None
    in_layouts: bool = False
    simulated: bool = True
    _loads: dict[Path, VirtualLoad] = field(default_factory=dict)
    _last: Mapping[str, Any] | None = None

    def load_of(self, task: Task) -> VirtualLoad:
        """The loads of a task, made once."""
        if task.path not in self._loads:
            self._loads[task.path] = VirtualLoad(task.scenario, task.path.parent, most_requests=self.most_requests)
        return self._loads[task.path]

    def left_busy(self) -> bool:
        """Nothing holds a device here."""
        return False

    @contextmanager
    def open(self, engine: Engine, folder: Path) -> Iterator[EngineSession]:  # noqa: ARG002 - nothing is written
        """See Evaluator."""
        model = {} if engine.model is None else {"model": engine.model}
        try:
            settings = self.device(settings_from_flags({**engine.args, **model}))
            values = effective(settings)
            minutes = START_MINUTES[restart_class(self._last, values)]
            memory = memory_of(settings)
        except HarnessError as fault:
            failure = feasibility.classify_failure(fault.lines)
            raise StartFailed(failure, BootFacts(), START_MINUTES["compile"] / 2) from None
        self._last = values
        facts = boot_facts(startup_lines(settings, memory))
        layout = layout_of(engine)
        own = layout if self.in_layouts or layout.engines > 1 else None
        yield _VirtualSession(StartedEngine(minutes, facts, values), settings, own, self)
