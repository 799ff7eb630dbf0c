"""The landscapes of the tuning benchmark: three scenarios on the simulator, with noise as a device has it."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.engines.engine_log import BootFacts, boot_facts
from harness.errors import EngineError, HarnessError
from harness.scenario.engine import Engine
from harness.scenario.stages import Stage
from harness.seeds import stream
from harness.simulator.engine_config import Settings, effective, settings_from_flags
from harness.simulator.memory import memory_of
from harness.simulator.vllm_formats import startup_lines
from harness.tuning import feasibility
from harness.tuning.candidates import START_MINUTES, restart_class
from harness.tuning.evaluation import EarlyStopCheck, StartedEngine, StartFailed
from harness.tuning.study_plan import Task
from harness.tuning.trial_series import look_times, partial_measurement
from harness.tuning.types import Measurement
from harness.tuning.virtual_evaluation import VirtualLoad

Floats = NDArray[np.float64]
HIDDEN_SHARE = 0.01  # of the device's memory: what the arithmetic does not know of (fragments, buffers of HCCL)
HIDDEN_GRAPHS = 1.5  # times the memory for captured graphs that the arithmetic expects
RUN_NOISE = 0.01  # relative standard deviation of a whole run
MOMENT_NOISE = 0.03  # and of a moment within it
MOMENTS = 100  # of a run
RUNS_OF_TRUTH = 24  # whose mean is the truth of a configuration
ALIKE = 0.8  # correlation of a moment's noise with the one before

SCENARIO = """\
name: {name}
question: Which flags serve {name} best?
seed: 7
engine: {{kind: simulator, model: {model}, args: {{chip: 910B4, max_model_len: {length}}}}}
workload: {{kind: synthetic, {workload}}}
load:
  - closed: {{concurrency: {users}, requests: {requests}}}
slo: {slo}
"""
STUDY = """\
name: {name}
question: Which flags serve {name} best?
scenario: {name}-scenario.yaml
objective: goodput
budget: {{trials: 20}}
"""
SCENARIOS: Mapping[str, Mapping[str, Any]] = {  # ten requests a user: what begins and ends a load is a small part of it
    "long-context": {
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "length": 32768,
        "workload": "input_tokens: {lognormal: {median: 7000, sigma: 0.6, min: 1000, max: 28000}}, "
        "output_tokens: {lognormal: {median: 100, sigma: 0.5, min: 32, max: 300}}",
        "users": 24,
        "requests": 240,
        "slo": "{ttft_p90: 24s, tpot_p90: 150ms}",
    },
    "chat": {
        "model": "Qwen/Qwen3-8B",
        "length": 8192,
        "workload": "input_tokens: {lognormal: {median: 300, sigma: 0.9, min: 16, max: 4000}}, "
        "output_tokens: {lognormal: {median: 100, sigma: 0.7, min: 16, max: 500}}",
        "users": 64,
        "requests": 640,
        "slo": "{ttft_p90: 6s, tpot_p90: 65ms}",
    },
    "shared-prefix": {
        "model": "Qwen/Qwen3-8B",
        "length": 8192,
        "workload": "input_tokens: {uniform: [2700, 3100]}, "
        "output_tokens: {lognormal: {median: 80, sigma: 0.6, min: 16, max: 300}}, prefix: {tokens: 2560, groups: 20}",
        "users": 32,
        "requests": 320,
        "slo": "{ttft_p90: 5s, tpot_p90: 80ms}",
    },
}


def write_study(name: str, folder: Path) -> Path:
    """Scenario and study of one landscape as files; the study's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-scenario.yaml").write_text(SCENARIO.format(name=name, **SCENARIOS[name]), encoding="utf-8")
    study = folder / f"{name}.yaml"
    study.write_text(STUDY.format(name=name), encoding="utf-8")
    return study


def as_device(settings: Settings) -> Settings:
    """The settings as the device serves them: its cache is smaller than the simulator's arithmetic says.

    Raises:
        EngineError: the engine would not start there, in its own words.
    """
    hidden = replace(settings, gpu_memory_utilization=settings.gpu_memory_utilization - HIDDEN_SHARE)
    memory = memory_of(settings)
    used = memory.weights + memory.activation + memory.outside + memory.cache
    if memory.graphs * HIDDEN_GRAPHS > memory.free - used - int(HIDDEN_SHARE * memory.total):
        raise EngineError(
            f"RuntimeError: NPU out of memory. Tried to allocate {memory.graphs >> 20}.00 MiB while capturing"
            f" {len(settings.cudagraph_capture_sizes)} graphs"
        )
    memory_of(hidden)
    return hidden


@dataclass(slots=True)
class Served:
    """What the measured simulator shows, each effective configuration served once: the truth of a landscape."""

    kept: dict[str, Measurement | HarnessError] = field(default_factory=dict)
    loads: dict[Path, VirtualLoad] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    runs: int = 0

    def expected(self, task: Task, stage: Stage, settings: Settings) -> float:
        """The mean goodput over runs with noise, all configurations under the same draws; 0 where it would not start.

        A configuration just inside a limit is not as good as a run without noise shows it.
        """
        key = _key(task, stage, settings)
        if key not in self.means:
            try:
                whole = self.show(task, stage, settings)
                runs = [noisy(whole, limits_of(task), 0, -1 - run) for run in range(RUNS_OF_TRUTH)]
                self.means[key] = float(np.mean([run.metrics["goodput"] for run in runs]))
            except HarnessError:
                self.means[key] = 0.0
        return self.means[key]

    def show(self, task: Task, stage: Stage, settings: Settings) -> Measurement:
        """The measurement under the scenario's own seed.

        Raises:
            HarnessError: the engine would not start.
        """
        key = _key(task, stage, settings)
        if key not in self.kept:
            load = self.loads.setdefault(task.path, VirtualLoad(task.scenario, task.path.parent))
            self.runs += 1
            try:
                self.kept[key] = load.measure(as_device(settings), stage, task.scenario.seed)
            except HarnessError as fault:
                self.kept[key] = fault
        found = self.kept[key]
        if isinstance(found, HarnessError):
            raise found
        return found


def _key(task: Task, stage: Stage, settings: Settings) -> str:
    return f"{task.path} {stage.as_dict()} {sorted(effective(settings).items(), key=str)}"


def limits_of(task: Task) -> dict[str, float]:
    """What a request has to keep to count as good: seconds by latency."""
    return {name.rpartition("_")[0]: float(value) for name, value in task.scenario.slo.items()}


def noisy(truth: Measurement, limits: Mapping[str, float], seed: int, run: int) -> Measurement:
    """A measurement as a device would show it: the whole run a little off, and some moments slower than others.

    The device's time is stretched, so that all that a request shows, and when it ends, fits together.
    """
    at = _stretched(max(truth.load_s, *truth.series["done"]), stream(seed, "noise of a run", run))
    known = {name: np.asarray(values) for name, values in truth.series.items()}
    sent = known["done"] - known["e2e"]
    first = sent + known["ttft"]
    decoding = np.maximum(known["done"] - first, 1e-9)
    series = known | {"done": at(known["done"]), "ttft": at(first) - at(sent), "e2e": at(known["done"]) - at(sent)}
    series["tpot"] = known["tpot"] * (at(known["done"]) - at(first)) / decoding
    good = np.isfinite(series["done"])
    for metric, most in limits.items():
        good &= ~(series[metric] > most)
    series["good"] = good.astype(float)
    given = replace(truth, series={name: tuple(values.tolist()) for name, values in series.items()})
    told = partial_measurement(given, float(at(np.asarray(truth.load_s))))
    return replace(told, stopped=False)


def _stretched(span_s: float, rng: np.random.Generator) -> Callable[[Floats], Floats]:
    """From the device's time without noise to that with it, both in seconds."""
    draws = rng.normal(0.0, MOMENT_NOISE, MOMENTS)
    for place in range(1, MOMENTS):
        draws[place] = ALIKE * draws[place - 1] + math.sqrt(1 - ALIKE**2) * draws[place]
    lengths = np.exp(rng.normal(0.0, RUN_NOISE) + draws) * span_s / MOMENTS
    edges, ends = np.linspace(0.0, span_s, MOMENTS + 1), np.concatenate([[0.0], np.cumsum(lengths)])
    return lambda times: np.asarray(np.interp(times, edges, ends) + np.minimum(times, 0.0))


@dataclass(slots=True)
class _Session:
    started: StartedEngine
    settings: Settings
    owner: "MeasuredDevice"

    def measure(self, task: Task, stage: Stage, seed: int, watch: EarlyStopCheck | None = None) -> Measurement:
        """With fresh noise for every run; a watch is asked as often as it wants to be."""
        whole = self.owner.noisy(task, stage, self.settings, seed)
        self.owner.wholes.append(whole)
        for time_s in look_times(whole, watch.every_s) if watch is not None else ():
            part = partial_measurement(whole, time_s)
            if watch is not None and watch(part).stop:
                self.owner.load_s += time_s
                self.owner.whole_s += whole.load_s
                return part
        self.owner.load_s += whole.load_s
        self.owner.whole_s += whole.load_s
        return whole


@dataclass(slots=True)
class MeasuredDevice:
    """The simulator as a device that is measured: what is served is kept, noise is new in every run."""

    served: Served
    seed: int
    simulated: bool = True
    runs: int = 0
    load_s: float = 0.0  # of benchmark time that was spent
    whole_s: float = 0.0  # that would have been, with nothing stopped early
    wholes: list[Measurement] = field(default_factory=list)  # every run, had nothing ended it early
    last: Mapping[str, Any] | None = None

    def left_busy(self) -> bool:
        """Whether a trial left the device's memory in use: never here."""
        return False

    def noisy(self, task: Task, stage: Stage, settings: Settings, seed: int) -> Measurement:
        """One run; its requests pair with those of all others, as every landscape has one schedule."""
        self.runs += 1
        shown = noisy(self.served.show(task, stage, settings), limits_of(task), self.seed, self.runs)
        return replace(shown, seed=seed)

    @contextmanager
    def open(self, engine: Engine, folder: Path) -> Iterator[_Session]:  # noqa: ARG002 - nothing is written
        """An engine, or the failure of its start."""
        model = {} if engine.model is None else {"model": engine.model}
        try:
            settings = settings_from_flags({**engine.args, **model})
            values = effective(settings)
            minutes = START_MINUTES[restart_class(self.last, values)]
            memory = memory_of(as_device(settings))
        except HarnessError as fault:
            captured = ["NPU KV cache size: 1 tokens"] if "while capturing" in fault.lines[0] else []
            raise StartFailed(
                feasibility.classify_failure([*captured, *fault.lines]), BootFacts(), START_MINUTES["compile"] / 2
            ) from None
        self.last = values
        yield _Session(StartedEngine(minutes, boot_facts(startup_lines(settings, memory)), values), settings, self)
