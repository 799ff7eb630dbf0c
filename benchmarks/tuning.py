"""How good is the tuner after 20 trials, where the best configuration is known from an exhaustive grid?

Everything in virtual time, on the twin with noise as a device has it: no number here is a measurement of
hardware. The twin that screens has other coefficients, each off by up to 40 %.
"""

import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna

from benchmarks.numbers import Number
from benchmarks.tuning_landscapes import SCENARIOS, Device, Served, write_study
from harness.errors import HarnessError
from harness.seeds import stream
from harness.tune.configuration import Ground, canonical, engine_of, resolver
from harness.tune.dead import dead_parameters, settled
from harness.tune.evaluating import StartFailed
from harness.tune.lessons import Lessons
from harness.tune.opening import open_study
from harness.tune.problem import Problem
from harness.tune.proposing import Proposer
from harness.tune.sampler import suggested
from harness.tune.series import partial_of
from harness.tune.space import Space, at, pointed
from harness.tune.study import Work, carry_out
from harness.tune.twins import Twin, perturbed
from harness.tune.words import Parameter, Point, Trial, best
from harness.twin.cost import TERMS
from harness.twin.settings import effective, settings_from_flags
from harness.units import format_share, significant

SEEDS = range(10)
TRIALS = 20
SETTLING = 5  # trials whose failures do not count
WITHIN = 0.03  # of the grid's optimum
SCREENED = {"points": 30, "requests": 50}
METHODS = ("tuner", "tuner, no screening", "random", "TPE", "auto_tune grid")


@dataclass(slots=True)
class Shelf:
    """Trials in memory: what a study's book does, without a database."""

    done: list[Trial] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)

    def engine_keys(self) -> dict[int, str]:
        return dict(self.keys)

    def trials(self) -> list[Trial]:
        return list(self.done)

    def running(self) -> dict[int, tuple[str, str]]:
        return {}

    def begin(self, point: Point, engine_key: str, origin: str) -> tuple[int, None]:  # noqa: ARG002
        self.keys[len(self.done)] = engine_key
        return len(self.done), None

    def end(self, handle: None, trial: Trial) -> None:  # noqa: ARG002
        self.done.append(trial)


@dataclass(slots=True)
class Alone:
    """A desk with one worker."""

    worker: str = "alone"
    claimed: set[str] = field(default_factory=set)

    def alive(self) -> set[str]:
        return {self.worker}

    def forget(self, alive: set[str], kept: Sequence[str]) -> None:
        """There is nobody else."""

    def release(self, digest: str) -> None:
        self.claimed.discard(digest)

    def claim(self, digest: str) -> bool:
        fresh = digest not in self.claimed
        self.claimed.add(digest)
        return fresh


@dataclass(frozen=True, slots=True)
class Outcome:
    """One search: the truth of its winner, what its trials were, and what stopping early saved."""

    truth: float
    failed_late: int
    late: int
    repeated: int
    saved: float = 0.0
    same_winner: bool = True


def tuned(problem: Problem, served: Served, seed: int, *, screened: bool) -> Outcome:
    """The tuner itself, under a seed."""
    study = problem.study.model_copy(
        update={"seed": seed, "screening": problem.study.screening.model_copy(update=SCREENED)}
    )
    if not screened:
        study = study.model_copy(update={"screening": study.screening.model_copy(update={"points": 0})})
    asked = replace(problem, study=study)
    ground = Ground(asked, resolver(asked))
    asked, _ = settled(asked, dead_parameters(asked, ground))
    ground = Ground(asked, resolver(asked))
    twin = Twin(asked, perturbed(TERMS["A2"], seed)) if screened else None
    proposer = Proposer(asked, ground, Lessons(), twin)
    proposer.open()
    device = Device(served, seed)
    shelf = Shelf()
    carry_out(Work(asked, device, shelf, Alone(), ground, proposer, Path()))  # type: ignore[arg-type]
    return _outcome(asked, served, shelf.done, device)


def _outcome(problem: Problem, served: Served, trials: Sequence[Trial], device: Device) -> Outcome:
    winner = best(trials, problem.objectives[0])
    keys = [canonical(trial.effective) for trial in trials]
    late = trials[SETTLING:]
    stopped_best = max(device.wholes, default=0.0)
    own = winner.values["goodput"] if winner is not None else 0.0
    return Outcome(
        truth=0.0 if winner is None else truth_of(problem, served, winner.point),
        failed_late=sum(trial.failure is not None for trial in late),
        late=len(late),
        repeated=len(keys) - len(set(keys)),
        saved=1 - device.load_s / device.whole_s if device.whole_s else 0.0,
        same_winner=own >= stopped_best * (1 - 1e-9),
    )


def truth_of(problem: Problem, served: Served, point: Point) -> float:
    """Goodput without noise; 0 where the engine would not start."""
    task = problem.tasks[0]
    try:
        whole = served.show(task, task.stage, _settings(problem, point))
        return partial_of(whole, whole.load_s).metrics["goodput"]
    except HarnessError:
        return 0.0


def _settings(problem: Problem, point: Point) -> Any:
    engine = engine_of(problem, point)
    return settings_from_flags({**engine.args, "model": engine.model})


@dataclass(slots=True)
class Tries:
    """What the other searches do with a point: start, measure with noise, note."""

    problem: Problem
    served: Served
    device: Device
    values: list[float | None] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def measure(self, point: Point) -> float | None:
        """The goodput that a run showed; None where the engine did not start."""
        task = self.problem.tasks[0]
        self.points.append(point)
        try:
            with self.device.open(engine_of(self.problem, point), Path()) as session:
                self.values.append(session.measure(task, task.stage, 0).metrics["goodput"])
        except StartFailed:
            self.values.append(None)
        return self.values[-1]

    def outcome(self) -> Outcome:
        """The best that was seen, by its truth."""
        known = [(value, place) for place, value in enumerate(self.values) if value is not None]
        winner = max(known, default=(0.0, -1))[1]
        keys = [self._key(point) for point in self.points]
        late = self.values[SETTLING:]
        truth = truth_of(self.problem, self.served, self.points[winner]) if known else 0.0
        return Outcome(truth, sum(value is None for value in late), len(late), len(keys) - len(set(keys)))

    def _key(self, point: Point) -> str:
        try:
            return str(sorted(effective(_settings(self.problem, point)).items(), key=str))
        except HarnessError:
            return str(point)


def searched(problem: Problem, served: Served, seed: int, search: Callable[[Problem, int, Tries], None]) -> Outcome:
    """One of the other searches: the default first, as for the tuner."""
    tries = Tries(problem, served, Device(served, seed))
    tries.measure({})
    search(problem, seed, tries)
    return tries.outcome()


def at_random(problem: Problem, seed: int, tries: Tries) -> None:
    """Points drawn evenly."""
    rng = stream(seed, "random search")
    for _ in range(TRIALS - 1):
        shares = {one.name: at(one, float(rng.random())) for one in problem.space.parameters}
        tries.measure(pointed(problem.space, shares))


def by_tpe(problem: Problem, seed: int, tries: Tries) -> None:
    """Optuna's TPE as it comes; failures are failed trials."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(TRIALS - 1):
        trial = study.ask()
        value = tries.measure(suggested(trial, problem.space))
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)


def by_grid(problem: Problem, seed: int, tries: Tries) -> None:  # noqa: ARG001
    """As vLLM's auto_tune: from 0.98 down to the first share that starts, then requests by tokens a step."""
    space = {one.name: one for one in problem.space.parameters}
    most = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
    share = 0.98
    while len(tries.values) < 6 and tries.measure({**most, "gpu_memory_utilization": share}) is None:
        share = round(share - 0.01, 2)
    axes = [_even(space[name], 4) for name in ("max_num_seqs", "max_num_batched_tokens")]
    for requests, tokens in product(*axes):
        if len(tries.values) < TRIALS:
            point = {"max_num_seqs": requests, "max_num_batched_tokens": tokens, "gpu_memory_utilization": share}
            tries.measure(point)


def _even(parameter: Parameter, count: int) -> list[Any]:
    return [at(parameter, place / (count - 1)) for place in range(count)]


def exhaustive(problem: Problem, served: Served) -> tuple[float, Point]:
    """The best point of a grid over the default ranges, and its truth."""
    space: Space = problem.space
    counts = {"max_num_seqs": None, "max_num_batched_tokens": None, "gpu_memory_utilization": 4}
    live = [one for one in space.parameters if one.name in counts]
    axes = [_even(one, counts[one.name] or _steps(one)) for one in live]
    points = [dict(zip((one.name for one in live), values, strict=True)) for values in product(*axes)]
    found = [(truth_of(problem, served, point), place) for place, point in enumerate(points)]
    value, place = max(found)
    return value, points[place]


def _steps(parameter: Parameter) -> int:
    """Values of a range by factors: four an octave of requests, as fine as the space is, one an octave of tokens."""
    octaves = math.log2(parameter.high / parameter.low)
    return round(octaves * (4 if parameter.name == "max_num_seqs" else 1)) + 1


def landscape(name: str, folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """One scenario: its optimum, its default, and every method under every seed."""
    problem = open_study(write_study(name, folder))
    served = Served()
    optimum, where = exhaustive(problem, served)
    ends = [{one.low, one.high} for one in problem.space.parameters if one.name in where]
    inner = [value for value, end in zip(where.values(), ends, strict=True) if value not in end]
    found: dict[str, list[Outcome]] = {method: [] for method in METHODS}
    for seed in seeds:
        found["tuner"].append(tuned(problem, served, seed, screened=True))
        found["tuner, no screening"].append(tuned(problem, served, seed, screened=False))
        for method, search in (("random", at_random), ("TPE", by_tpe), ("auto_tune grid", by_grid)):
            found[method].append(searched(problem, served, seed, search))
    default = truth_of(problem, served, {})
    return {"name": name, "optimum": optimum, "where": where, "inner": len(inner), "default": default, "found": found}


def tuning(folder: Path, seeds: Sequence[int] = SEEDS) -> Iterator[Number]:
    """Three scenarios, five searches of 20 trials, ten seeds each."""
    workers = min(len(SCENARIOS), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(landscape, name, folder, list(seeds)) for name in SCENARIOS]
        shown = [job.result() for job in jobs]
    for one in shown:
        yield from _landscape_numbers(one)
    for one in shown:
        yield from _regrets(one)
    for one in shown:
        yield from _promises(one)


def regrets(one: dict[str, Any], method: str) -> list[float]:
    """By which share each seed's winner is below the grid's optimum; 0 where it is above."""
    return [max(0.0, 1 - outcome.truth / one["optimum"]) for outcome in one["found"][method]]


def _landscape_numbers(one: dict[str, Any]) -> Iterator[Number]:
    point = ", ".join(f"{name} {value}" for name, value in one["where"].items())
    honest = one["inner"] > 0 and one["default"] < 0.97 * one["optimum"]
    shown = f"{significant(one['optimum'])} req/s at {point}; default {significant(one['default'])}"
    yield Number(
        f"tuning, {one['name']} (simulated)", "optimum of the grid", "no corner, not the default", shown, honest
    )


def _regrets(one: dict[str, Any]) -> Iterator[Number]:
    for method in METHODS:
        found = regrets(one, method)
        middle = statistics.median(found)
        shown = f"{format_share(middle)} (worst {format_share(max(found))})"
        is_ours = method.startswith("tuner")
        target = "≤ 3 %" if method == "tuner" else "as is"
        what = f"median regret after {TRIALS} trials, {method}"
        yield Number(
            f"tuning, {one['name']} (simulated)",
            what,
            target,
            shown,
            not is_ours or method != "tuner" or middle <= WITHIN,
        )


def _promises(one: dict[str, Any]) -> Iterator[Number]:
    label = f"tuning, {one['name']} (simulated)"
    ours = regrets(one, "tuner")
    count = len(ours)
    needed = math.ceil(0.9 * count)
    for method in METHODS[2:]:
        wins = sum(a <= b for a, b in zip(ours, regrets(one, method), strict=True))
        target = f"≥ {needed} of {count}" if method == "random" else "as is"
        yield Number(
            label, f"seeds no worse than {method}", target, f"{wins} of {count}", method != "random" or wins >= needed
        )
    found = one["found"]["tuner"]
    for method in METHODS:
        shares = one["found"][method]
        failed = sum(o.failed_late for o in shares) / max(1, sum(o.late for o in shares))
        met = method != "tuner" or failed <= 0.05
        yield Number(
            label,
            f"infeasible after the fifth trial, {method}",
            "≤ 5 %" if method == "tuner" else "as is",
            format_share(failed),
            met,
        )
    repeated = sum(outcome.repeated for outcome in found)
    yield Number(label, "trials that repeat a configuration", "0", str(repeated), repeated == 0)
    saved = statistics.mean(outcome.saved for outcome in found)
    yield Number(label, "benchmark time saved by stopping early", "≥ 30 %", format_share(saved), saved >= 0.3)
    same = sum(outcome.same_winner for outcome in found)
    yield Number(
        label, "seeds whose winner that left unchanged", f"≥ {needed} of {count}", f"{same} of {count}", same >= needed
    )
