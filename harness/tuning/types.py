"""Types of tuning: parameter, point, measurement, failure, trial.

A **parameter** is one thing that may be set; a **point** gives each active parameter a value; a **trial** is a point
that was tried, under one seed; a **measurement** is what one load on a started engine showed. All values are in
seconds, requests and tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ParameterValue = bool | int | float | str
Point = Mapping[str, ParameterValue]
"""Asked values by parameter name: `block_size`, `additional_config.KEY`, `env.NAME`, `load.KEY`.
A parameter whose condition does not hold is left out. The empty point is the base configuration."""

FLAG, ADDITIONAL, ENVIRONMENT, LOAD = "flag", "additional_config", "env", "load"

COMPLETE, STOPPED, FAILED = "complete", "stopped", "failed"
"""How a trial ended: measured in full; stopped early because it could not win; never started, since
it was predicted not to; failed while starting or serving; the same effective configuration as another."""

MAXIMISE, MINIMISE = "maximise", "minimise"


@dataclass(frozen=True, slots=True)
class TunableParameter:
    """One thing that may be set.

    `kind` is int, float or choice. Of int and float `low` and `high` are both included, `step` is 0
    where a float is continuous, and `log` draws and measures distance in the logarithm; of a choice
    `values` are what it may be. It is active where every parameter named in `when` is active and has
    one of the values given there.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    log: bool = False
    values: tuple[ParameterValue, ...] = ()
    when: Mapping[str, tuple[ParameterValue, ...]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where its value goes: FLAG, ADDITIONAL, ENVIRONMENT or LOAD."""
        first = self.name.partition(".")[0]
        return first if "." in self.name and first in (ADDITIONAL, ENVIRONMENT, LOAD) else FLAG

    @property
    def key(self) -> str:
        """Its name without the place: KEY of `additional_config.KEY`."""
        return self.name if self.place == FLAG else self.name.partition(".")[2]


@dataclass(frozen=True, slots=True)
class StudyObjective:
    """What is to be best: the name of a metric (see `Measurement`), and which way is better."""

    name: str
    direction: str = MAXIMISE

    def better(self, value: float, other: float) -> bool:
        """Whether the first of two values is the better one."""
        return value > other if self.direction == MAXIMISE else value < other

    def cost(self, value: float) -> float:
        """The value so turned that less is better."""
        return -value if self.direction == MAXIMISE else value


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint: a metric has to stay at or below `most` (or at or above `least`)."""

    name: str
    most: float = math.inf
    least: float = -math.inf

    def violation(self, value: float) -> float:
        """By how much of the limit it is missed; 0 or less where it is kept. An infinite value is infinitely bad."""
        if self.most < math.inf:
            return value / self.most - 1 if self.most else value
        return 1 - value / self.least if self.least else -value


@dataclass(frozen=True, slots=True)
class TrialFailure:
    """Why a trial gave no value: its class, whether another try may end otherwise, the line.

    `message` is the line as code and parameters where it is ours; None where it has the engine's own words.
    """

    kind: str
    retryable: bool
    line: str
    message: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one load showed.

    `metrics` by name: `throughput` (output tokens/s), `request_rate`, `goodput` (requests/s within
    the SLO), `capacity` (requests/s), latencies as an SLO names them (`ttft_p99`, `tpot_mean`, seconds),
    `preemptions`, `failed` (share of requests).
    `series` holds, for every measured request in the order of its number, the values that may be
    compared in pairs with those of another measurement under the same seed: `ttft`, `tpot`, `e2e`
    (seconds, infinite where it failed, NaN where undefined), `good` (1 or 0), `done` (seconds from
    the load's begin to its last token, infinite where it failed) and `tokens` (of its answer).
    `load_s` is how long the load took. `stopped` says that it was ended early: the series are then
    those of the requests that were answered, and `metrics` those of that part.
    """

    metrics: Mapping[str, float]
    series: Mapping[str, tuple[float, ...]]
    load_s: float
    seed: int
    stopped: bool = False
    simulated: bool = False
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class TrialMinutes:
    """Where the time of a trial went."""

    start: float = 0.0
    load: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.start + self.load + self.other


@dataclass(frozen=True, slots=True)
class Trial:
    """A point that was tried.

    `effective` is its configuration as the engine has it (or would have it); `values` by objective
    and `violations` by limit (above 0 is violated) are empty where there was no measurement; a
    failure is a violation of the limit `starts`. `origin` says who proposed it: default, screened,
    model, sampler, neighbour, sweep or user. `start` numbers the engine start that it was measured in, `predicted`
    what the screening had predicted, by objective.
    `facts` are what the start's log told (see harness.engines.engine_log.BootFacts), memory in GiB.
    """

    number: int
    point: Point
    effective: Mapping[str, Any]
    status: str
    values: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    failure: TrialFailure | None = None
    minutes: TrialMinutes = field(default_factory=TrialMinutes)
    seed: int = 0
    origin: str = "sampler"
    start: int | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    measurement: Measurement | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether it has values and keeps every limit."""
        return bool(self.values) and all(violation <= 0 for violation in self.violations.values())


def best_trial(trials: Sequence[Trial], objective: StudyObjective) -> Trial | None:
    """The feasible trial, measured in full, with the best value of one objective; the earliest among equals."""
    candidates = [trial for trial in trials if trial.status == COMPLETE and trial.feasible]
    return min(candidates, key=lambda trial: objective.cost(trial.values[objective.name]), default=None)


def total_violation(violations: Mapping[str, float]) -> float:
    """By how much all limits together are violated; 0 where each is kept."""
    return sum(max(0.0, value) for value in violations.values())


def pareto_front(trials: Sequence[Trial], objectives: Sequence[StudyObjective]) -> tuple[Trial, ...]:
    """The feasible trials, measured in full, that no other beats in every objective, in their order."""
    candidates = [trial for trial in trials if trial.status == COMPLETE and trial.feasible]
    costs = [tuple(objective.cost(trial.values[objective.name]) for objective in objectives) for trial in candidates]
    return tuple(
        trial
        for trial, own in zip(candidates, costs, strict=True)
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in costs)
    )
