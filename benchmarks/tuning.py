"""The tuner after 20 trials, where the best configuration is known from an exhaustive grid.

Everything in virtual time, on the simulator with noise as a device has it: no number here is a measurement of
hardware. The simulator that screens has other coefficients, each off by up to 40 %. The truth of a configuration is
its mean goodput over runs with noise. Regret is that of whoever leads after the trials by its own run; beside it
stands that of whom the confirmation leaves as the winner.
"""

import functools
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.numbers import Number
from benchmarks.tuning_landscapes import SCENARIOS, Served, write_study
from benchmarks.tuning_searches import (
    TRIALS,
    SearchOutcome,
    at_random,
    by_grid,
    by_tpe,
    evenly,
    searched,
    truth_of,
    tuned,
)
from harness.tuning.space import value_at
from harness.tuning.study_loader import load_study_plan
from harness.tuning.study_plan import StudyPlan
from harness.tuning.types import Point, TunableParameter
from harness.units import format_share, significant

SEEDS = range(10)
WITHIN = 0.03  # of the grid's optimum
COUNTS = {"max_num_seqs": None, "max_num_batched_tokens": None, "gpu_memory_utilization": 15}
"""Parameters of the grid, and how many values of each; None: by factors."""
INSIDE = 0.01  # of the optimum: what is worse by less at an end of its range does not matter there
METHODS = ("tuner", "tuner, no screening", "random", "TPE", "auto_tune grid")


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best of an exhaustive grid over the default ranges: its value, where it is, and what the default has.

    `inner` counts the parameters that matter there and are not at an end of their range.
    """

    value: float
    where: Point
    default: float
    inner: int


@functools.cache
def served_study(study: Path) -> tuple[StudyPlan, Served]:
    """The study of a landscape, and what was served of it by this process."""
    return load_study_plan(study), Served()


def exhaustive(study: Path) -> Optimum:
    """The best point of a landscape by its truth, found by trying all of a grid."""
    problem, served = served_study(study)
    live = [one for one in problem.space.parameters if one.name in COUNTS]
    axes = [evenly(one, COUNTS[one.name] or _steps(one)) for one in live]
    points = [dict(zip((one.name for one in live), values, strict=True)) for values in product(*axes)]
    found = [(truth_of(problem, served, point), place) for place, point in enumerate(points)]
    value, place = max(found)
    where = points[place]
    inner = sum(_is_inside(problem, served, where, one, value) for one in live)
    return Optimum(value, where, truth_of(problem, served, {}), inner)


def _is_inside(problem: StudyPlan, served: Served, where: Point, one: TunableParameter, value: float) -> bool:
    """Whether an optimum lies within a range so that it is worse at both of its ends."""
    ends = [truth_of(problem, served, {**where, one.name: value_at(one, share)}) for share in (0.0, 1.0)]
    return max(ends) < (1 - INSIDE) * value


def _steps(parameter: TunableParameter) -> int:
    """Values of a range by factors: four an octave of requests, as fine as the space is, one an octave of tokens."""
    octaves = math.log2(parameter.high / parameter.low)
    return round(octaves * (4 if parameter.name == "max_num_seqs" else 1)) + 1


def searches(study: Path, seed: int) -> dict[str, SearchOutcome]:
    """Every method on one landscape under one seed."""
    problem, served = served_study(study)
    found = {
        "tuner": tuned(problem, served, seed, screened=True),
        "tuner, no screening": tuned(problem, served, seed, screened=False),
    }
    for method, search in (("random", at_random), ("TPE", by_tpe), ("auto_tune grid", by_grid)):
        found[method] = searched(problem, served, seed, search)
    return found


@dataclass(frozen=True, slots=True)
class Landscape:
    """One scenario: its optimum, and what every method came to under every seed."""

    name: str
    best: Optimum
    found: Mapping[str, Sequence[SearchOutcome]]


def tuning(folder: Path, seeds: Sequence[int] = SEEDS) -> Iterator[Number]:
    """Three scenarios, five searches of 20 trials, ten seeds each."""
    studies = {name: write_study(name, folder) for name in SCENARIOS}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        optima = {name: pool.submit(exhaustive, study) for name, study in studies.items()}
        jobs = {name: [pool.submit(searches, study, seed) for seed in seeds] for name, study in studies.items()}
        outcomes = {name: [job.result() for job in found] for name, found in jobs.items()}
        shown = [Landscape(name, optima[name].result(), _by_method(outcomes[name])) for name in studies]
    for one in shown:
        yield from _landscape_numbers(one)
    for one in shown:
        yield from _regrets(one)
    for one in shown:
        yield from _promises(one)
    yield from _across(shown)


def _by_method(outcomes: Sequence[Mapping[str, SearchOutcome]]) -> dict[str, list[SearchOutcome]]:
    return {method: [one[method] for one in outcomes] for method in METHODS}


def _across(shown: Sequence[Landscape]) -> Iterator[Number]:
    """Seed by seed the median over the scenarios of how far each winner is from the optimum."""
    for told, field in (("", "truth"), (" after the confirmation", "confirmed")):
        ours, theirs = (_medians(shown, method, field) for method in ("tuner", "random"))
        wins = sum(own < other for own, other in zip(ours, theirs, strict=True))
        needed = math.ceil(0.9 * len(ours))
        yield Number(
            "tuning, all three (simulated)",
            f"seeds whose median regret{told} is lower than random's",
            f"≥ {needed} of {len(ours)}",
            f"{wins} of {len(ours)}",
            wins >= needed,
        )


def _medians(shown: Sequence[Landscape], method: str, field: str) -> list[float]:
    found = [[1 - getattr(outcome, field) / one.best.value for outcome in one.found[method]] for one in shown]
    return [statistics.median(regrets) for regrets in zip(*found, strict=True)]


def regrets(one: Landscape, method: str) -> list[float]:
    """By which share each seed's winner is below the grid's optimum; less than 0 where it is above."""
    return [1 - outcome.truth / one.best.value for outcome in one.found[method]]


def _landscape_numbers(one: Landscape) -> Iterator[Number]:
    best = one.best
    point = ", ".join(f"{name} {value}" for name, value in best.where.items())
    honest = best.inner > 0 and best.default < (1 - WITHIN) * best.value
    shown = f"{significant(best.value)} req/s at {point}; default {significant(best.default)}"
    yield Number(f"tuning, {one.name} (simulated)", "optimum of the grid", "no corner, not the default", shown, honest)


def _regrets(one: Landscape) -> Iterator[Number]:
    for method in METHODS:
        found = regrets(one, method)
        middle = max(0.0, statistics.median(found))
        confirmed = max(0.0, statistics.median(1 - o.confirmed / one.best.value for o in one.found[method]))
        worst = format_share(max(0.0, *found))
        shown = f"{format_share(middle)} (worst {worst}; confirmed {format_share(confirmed)})"
        is_ours = method.startswith("tuner")
        target = "≤ 3 %" if method == "tuner" else "as is"
        what = f"median regret after {TRIALS} trials, {method}"
        yield Number(
            f"tuning, {one.name} (simulated)",
            what,
            target,
            shown,
            not is_ours or method != "tuner" or middle <= WITHIN,
        )


def _promises(one: Landscape) -> Iterator[Number]:
    label = f"tuning, {one.name} (simulated)"
    ours = regrets(one, "tuner")
    count = len(ours)
    needed = math.ceil(0.9 * count)
    for method in METHODS[2:]:
        wins = sum(a <= b + 1e-9 for a, b in zip(ours, regrets(one, method), strict=True))
        target = f"≥ {needed} of {count}" if method == "random" else "as is"
        yield Number(
            label, f"seeds no worse than {method}", target, f"{wins} of {count}", method != "random" or wins >= needed
        )
    found = one.found["tuner"]
    for method in METHODS:
        shares = one.found[method]
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
