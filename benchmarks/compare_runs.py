"""Runs to compare: those of the simulator in virtual time, made as unlike as real ones are.

Two runs of it never differ, so it is given what makes runs of a real engine differ: each run is as a whole a little
faster or slower (a standard deviation of 0, 1 or 2 %), and so is each of its steps (5 %).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.analysis.summary import summarize
from harness.comparison.repeats import Repeat, RunRecords
from harness.comparison.served import repeats_of
from harness.results.request_table import MEASURED, Requests, samples_from
from harness.scenario.loader import load_scenario
from harness.scenario.models import Scenario
from harness.simulator.engine_config import Settings, settings_from_flags
from harness.simulator.step_cost import StepCost
from harness.simulator.virtual_time import Arrival, simulate
from harness.tuning.virtual_evaluation import VirtualTraffic, client_records
from harness.workload import build, plan

SLOWER = 1.05
STEP_NOISE = 0.05

SCENARIO = """\
name: compared
question: Is NEW as fast as BASE?
engine: {{kind: simulator, model: Qwen/Qwen2.5-7B-Instruct, args: {{max_num_seqs: 64}}}}
workload:
  kind: synthetic
  input_tokens: {{lognormal: {{median: 400, sigma: 0.6, min: 50, max: 3000}}}}
  output_tokens: {{uniform: [16, 96]}}
{prefix}load:
  - {load}
warmup: {{requests: 8}}
"""
LOADS = {
    "open": "poisson: {rate: 4, requests: 320}",
    "closed": "closed: {concurrency: 16, requests: 320}",
    "bursty": "gamma: {rate: 9, burstiness: 0.3, requests: 320}",
    "near saturation": "poisson: {rate: 15, requests: 400}",
    "bursty near saturation": "gamma: {rate: 13, burstiness: 0.3, requests: 400}",
    "shared prefixes": "poisson: {rate: 8, requests: 320}",
}
"""Closed with 64 users the engine answers 18.4 requests a second."""
PREFIXES = {"shared prefixes": "  prefix: {tokens: 1024, groups: 8}\n"}


class _NoisyCost:
    """The time of steps of one run: all a little off, and each a little more."""

    def __init__(self, cost: StepCost, factor: float, run_noise: float, rng: np.random.Generator) -> None:
        shift = rng.normal(0.0, 1.0) * run_noise
        self._cost = cost
        self._factors = (factor * np.exp(shift + rng.normal(0.0, STEP_NOISE, 4096))).tolist()
        self._step = 0

    def duration_ns(self, decodes: int, context: int, prefills: Sequence[tuple[int, int]], drafts: int = 0) -> int:
        self._step = (self._step + 1) & 4095
        return max(1, round(self._cost.duration_ns(decodes, context, prefills, drafts) * self._factors[self._step]))


@dataclass(frozen=True, slots=True)
class VirtualRuns:
    """A scenario ready to be run in virtual time."""

    scenario: Scenario
    settings: Settings
    traffic: VirtualTraffic
    schedule: str

    def repeat(self, factor: float, run_noise: float, noise: np.random.Generator) -> Repeat:
        """One run of it on an engine that takes `factor` times as long for each step."""
        stage = self.scenario.stages[0]
        cost = _NoisyCost(StepCost(self.settings), factor, run_noise, noise)
        found = simulate(self.settings, self.traffic.arrivals, concurrency=stage.concurrency, cost=cost)  # type: ignore[arg-type]
        requests, events = client_records(self.traffic, found)
        run = {
            "format": 1, "name": self.scenario.name, "question": self.scenario.question, "slo": {}, "stream": True,
            "stages": [stage.as_dict()], "repeats": 1, "seed": self.scenario.seed, "endpoint": "completions",
            "payload_sha256": self.schedule, "schedule_sha256": self.schedule,
            "engine": {"kind": "simulator", "simulated": True, "model": self.settings.model, "effective": {}},
        }  # fmt: skip
        timeline = [_timeline(self.traffic, requests)]
        summary = summarize(requests, events, samples_from([]), timeline, run)
        return repeats_of("virtual", run, summary, lambda: RunRecords(requests, events, timeline))[0]


def _timeline(traffic: VirtualTraffic, requests: Requests) -> dict[str, int]:
    measured = requests.phase == MEASURED
    sent_ns = requests.sent_ns[measured]
    start = traffic.plan.measured_ns if traffic.made.due_ns is not None else int(sent_ns.min())
    return {
        "stage": 0,
        "repeat": 0,
        "start_ns": start,
        "stop_ns": int(sent_ns.max()),
        "end_ns": int(requests.done_ns.max()),
    }


def virtual(folder: Path, load: str, seed: int) -> VirtualRuns:
    """A scenario with this load under a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scenario.yaml"
    path.write_text(SCENARIO.format(load=LOADS[load], prefix=PREFIXES.get(load, "")), encoding="utf-8")
    scenario = load_scenario(path).scenario.model_copy(update={"seed": seed})
    workload = build(scenario.workload, endpoint="completions", seed=seed, vocabulary=None, folder=folder)
    made = plan.plan(scenario, workload)[0]
    sessions = np.asarray([made.session(ordinal) for ordinal in range(made.taken or 0)], dtype=np.int64)
    due_ns = made.due_ns if made.due_ns is not None else np.zeros(len(sessions), dtype=np.int64)
    arrivals = tuple(
        Arrival(int(due), workload.prompt(int(s), 0).ids.tolist(), workload.session(int(s)).turns[0].output_tokens)
        for s, due in zip(sessions, due_ns, strict=True)
    )
    digest = hashlib.sha256(f"{load} {seed}".encode()).hexdigest()
    return VirtualRuns(
        scenario,
        settings_from_flags(scenario.engine.args | {"model": scenario.engine.model}),
        VirtualTraffic(made, arrivals, sessions),
        digest,
    )
