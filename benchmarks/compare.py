"""How often does a comparison see a difference where there is none, and how often one that is there?

On the simulated engine in virtual time. Two runs of it never differ, so it is given what makes
runs of a real engine differ: each run is as a whole a little faster or slower (standard deviation
1 %), and so is each of its steps (5 %); that noise is new for every run. The arrivals are those
of the scenario's seed: the same on both sides.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.numbers import Number
from harness import plan
from harness.comparing.judging import BETTER, WORSE, Row, judge
from harness.comparing.sides import Records, Repeat, Side, repeats_of
from harness.records import MEASURED, Requests, samples_from
from harness.scenario.gate import DEFAULT_GATE
from harness.scenario.loading import load_scenario
from harness.scenario.models import Scenario
from harness.seeds import stream
from harness.summary import summarize
from harness.tune.virtual import Traffic, records_of
from harness.twin.cost import StepCost
from harness.twin.settings import Settings, settings_from_flags
from harness.twin.simulate import Arrival, simulate
from harness.workloads import build

PAIRS = 100
REPEATS = 5
SLOWER = 1.05
RUN_NOISE, STEP_NOISE = 0.01, 0.05
FIRST_SEED = 3000  # none of the seeds that the method was settled on

SCENARIO = """\
name: compared
question: Is NEW as fast as BASE?
engine: {{kind: simulator, model: Qwen/Qwen2.5-7B-Instruct, args: {{max_num_seqs: 64}}}}
workload:
  kind: synthetic
  input_tokens: {{lognormal: {{median: 400, sigma: 0.6, min: 50, max: 3000}}}}
  output_tokens: {{uniform: [16, 96]}}
load:
  - {load}
warmup: {{requests: 8}}
"""
LOADS = {
    "open loop": "poisson: {rate: 4, requests: 320}",
    "closed loop": "closed: {concurrency: 16, requests: 320}",
}


class _NoisyCost:
    """The time of steps of one run: all a little off, and each a little more."""

    def __init__(self, cost: StepCost, factor: float, rng: np.random.Generator) -> None:
        shift = rng.normal(0.0, RUN_NOISE)
        self._cost = cost
        self._factors = (factor * np.exp(shift + rng.normal(0.0, STEP_NOISE, 4096))).tolist()
        self._step = 0

    def duration_ns(self, decodes: int, context: int, prefills: Sequence[tuple[int, int]]) -> int:
        self._step = (self._step + 1) & 4095
        return max(1, round(self._cost.duration_ns(decodes, context, prefills) * self._factors[self._step]))


@dataclass(frozen=True, slots=True)
class Virtual:
    """A scenario ready to be run in virtual time."""

    scenario: Scenario
    settings: Settings
    traffic: Traffic
    schedule: str

    def repeat(self, factor: float, noise: np.random.Generator) -> Repeat:
        """One run of it on an engine that takes `factor` times as long for each step."""
        stage = self.scenario.stages[0]
        cost = _NoisyCost(StepCost(self.settings), factor, noise)
        found = simulate(self.settings, self.traffic.arrivals, concurrency=stage.concurrency, cost=cost)  # type: ignore[arg-type]
        requests, events = records_of(self.traffic, found)
        run = {
            "format": 1, "name": self.scenario.name, "question": self.scenario.question, "slo": {}, "stream": True,
            "stages": [stage.as_dict()], "repeats": 1, "seed": self.scenario.seed, "endpoint": "completions",
            "payload_sha256": self.schedule, "schedule_sha256": self.schedule,
            "engine": {"kind": "simulator", "simulated": True, "model": self.settings.model, "effective": {}},
        }  # fmt: skip
        timeline = [_timeline(self.traffic, requests)]
        summary = summarize(requests, events, samples_from([]), timeline, run)
        return repeats_of("virtual", run, summary, lambda: Records(requests, events, timeline))[0]


def _timeline(traffic: Traffic, requests: Requests) -> dict[str, int]:
    measured = requests.phase == MEASURED
    sent_ns = requests.sent_ns[measured]
    start = traffic.made.measured_ns if traffic.made.due_ns is not None else int(sent_ns.min())
    return {
        "stage": 0,
        "repeat": 0,
        "start_ns": start,
        "stop_ns": int(sent_ns.max()),
        "end_ns": int(requests.done_ns.max()),
    }


def virtual(folder: Path, load: str, seed: int) -> Virtual:
    """A scenario with this load under a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scenario.yaml"
    path.write_text(SCENARIO.format(load=LOADS[load]), encoding="utf-8")
    scenario = load_scenario(path).scenario.model_copy(update={"seed": seed})
    workload = build(scenario.workload, endpoint="completions", seed=seed, lexicon=None, folder=folder)
    made = plan.plan(scenario, workload)[0]
    sessions = np.asarray([made.session(ordinal) for ordinal in range(made.taken or 0)], dtype=np.int64)
    due_ns = made.due_ns if made.due_ns is not None else np.zeros(len(sessions), dtype=np.int64)
    arrivals = tuple(
        Arrival(int(due), workload.prompt(int(s), 0).ids.tolist(), workload.session(int(s)).turns[0].output_tokens)
        for s, due in zip(sessions, due_ns, strict=True)
    )
    digest = hashlib.sha256(f"{load} {seed}".encode()).hexdigest()
    return Virtual(
        scenario,
        settings_from_flags(scenario.engine.args | {"model": scenario.engine.model}),
        Traffic(made, arrivals, sessions),
        digest,
    )


def compare(folder: Path) -> Iterator[Number]:
    """A/A pairs and a planted slow-down, by the default gate over all its measures together."""
    for load in LOADS:
        found = [_trial(folder, load, FIRST_SEED + trial) for trial in range(PAIRS)]
        alone, repeated, slower = (sum(one) for one in zip(*found, strict=True))
        name, least = f"compare, {load}", round(0.95 * PAIRS)
        yield Number(
            name, "A/A, one run a side: no difference shown", f"≥ {least} of {PAIRS}", f"{alone}", alone >= least
        )
        what = f"A/A, {REPEATS} repeats a side: no difference shown"
        yield Number(name, what, f"≥ {least} of {PAIRS}", f"{repeated}", repeated >= least)
        what, least = f"5 % slower, {REPEATS} repeats a side: exit 1", round(0.9 * PAIRS)
        yield Number(name, what, f"≥ {least} of {PAIRS}", f"{slower}", slower >= least)


def _trial(folder: Path, load: str, seed: int) -> tuple[bool, bool, bool]:
    """Whether the A/A pairs show nothing, and whether the slow-down breaks the gate."""
    sides: tuple[list[Repeat], list[Repeat], list[Repeat]] = ([], [], [])
    for repeat in range(REPEATS):
        made, noise = virtual(folder, load, seed * 100 + repeat), stream(seed, "noise", repeat)
        for side, factor in zip(sides, (1.0, 1.0, SLOWER), strict=True):
            side.append(made.repeat(factor, noise))
    base, same, slower = sides
    return _nothing(base[:1], same[:1]), _nothing(base, same), any(row.broken for row in _judged(base, slower))


def _nothing(base: Sequence[Repeat], new: Sequence[Repeat]) -> bool:
    return all(row.verdict not in (BETTER, WORSE) for row in _judged(base, new))


def _judged(base: Sequence[Repeat], new: Sequence[Repeat]) -> list[Row]:
    rows = judge(Side("base", base), Side("new", new), DEFAULT_GATE)
    return [row for row in rows if row.allowed is not None]
