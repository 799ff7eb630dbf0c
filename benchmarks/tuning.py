"""How good is the tuner after 20 trials, where the best configuration is known from an exhaustive grid?

Everything in virtual time, on the twin with noise as a device has it: no number here is a measurement of
hardware. The twin that screens has other coefficients, each off by up to 40 %. Regret is that of
whoever leads after the trials; beside it stands that of whom the confirmation leaves as the winner.
"""

import functools
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.numbers import Number
from benchmarks.tuning_landscapes import SCENARIOS, Served, write_study
from benchmarks.tuning_searches import TRIALS, Outcome, at_random, by_grid, by_tpe, evenly, searched, truth_of, tuned
from harness.tune.opening import open_study
from harness.tune.problem import Problem
from harness.tune.space import Space
from harness.tune.words import Parameter, Point
from harness.units import format_share, significant

SEEDS = range(10)
WITHIN = 0.03  # of the grid's optimum
METHODS = ("tuner", "tuner, no screening", "random", "TPE", "auto_tune grid")


def exhaustive(problem: Problem, served: Served) -> tuple[float, Point]:
    """The best point of a grid over the default ranges, and its truth."""
    space: Space = problem.space
    counts = {"max_num_seqs": None, "max_num_batched_tokens": None, "gpu_memory_utilization": 15}
    live = [one for one in space.parameters if one.name in counts]
    axes = [evenly(one, counts[one.name] or _steps(one)) for one in live]
    points = [dict(zip((one.name for one in live), values, strict=True)) for values in product(*axes)]
    found = [(truth_of(problem, served, point), place) for place, point in enumerate(points)]
    value, place = max(found)
    return value, points[place]


def _steps(parameter: Parameter) -> int:
    """Values of a range by factors: four an octave of requests, as fine as the space is, one an octave of tokens."""
    octaves = math.log2(parameter.high / parameter.low)
    return round(octaves * (4 if parameter.name == "max_num_seqs" else 1)) + 1


@functools.cache
def ground_truth(name: str, folder: Path) -> tuple[Problem, Served, float, Point]:
    """One scenario: its study, what it shows without noise, the grid's optimum and where that is."""
    problem = open_study(write_study(name, folder))
    served = Served()
    return problem, served, *exhaustive(problem, served)


def searches(name: str, folder: Path, seed: int) -> dict[str, Outcome]:
    """Every method on one scenario under one seed."""
    problem, served, _, _ = ground_truth(name, folder)
    found = {
        "tuner": tuned(problem, served, seed, screened=True),
        "tuner, no screening": tuned(problem, served, seed, screened=False),
    }
    for method, search in (("random", at_random), ("TPE", by_tpe), ("auto_tune grid", by_grid)):
        found[method] = searched(problem, served, seed, search)
    return found


def landscape(name: str, folder: Path, outcomes: Sequence[dict[str, Outcome]]) -> dict[str, Any]:
    """One scenario: its optimum, its default, and every method under every seed."""
    problem, served, optimum, where = ground_truth(name, folder)
    ends = [{one.low, one.high} for one in problem.space.parameters if one.name in where]
    inner = [value for value, end in zip(where.values(), ends, strict=True) if value not in end]
    found = {method: [one[method] for one in outcomes] for method in METHODS}
    default = truth_of(problem, served, {})
    return {"name": name, "optimum": optimum, "where": where, "inner": len(inner), "default": default, "found": found}


def tuning(folder: Path, seeds: Sequence[int] = SEEDS) -> Iterator[Number]:
    """Three scenarios, five searches of 20 trials, ten seeds each."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {name: [pool.submit(searches, name, folder, seed) for seed in seeds] for name in SCENARIOS}
        shown = [landscape(name, folder, [job.result() for job in found]) for name, found in jobs.items()]
    for one in shown:
        yield from _landscape_numbers(one)
    for one in shown:
        yield from _regrets(one)
    for one in shown:
        yield from _promises(one)
    yield from _across(shown)


def _across(shown: Sequence[dict[str, Any]]) -> Iterator[Number]:
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


def _medians(shown: Sequence[dict[str, Any]], method: str, field: str) -> list[float]:
    found = [[1 - getattr(outcome, field) / one["optimum"] for outcome in one["found"][method]] for one in shown]
    return [statistics.median(regrets) for regrets in zip(*found, strict=True)]


def regrets(one: dict[str, Any], method: str) -> list[float]:
    """By which share each seed's winner is below the grid's optimum; less than 0 where it is above."""
    return [1 - outcome.truth / one["optimum"] for outcome in one["found"][method]]


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
        middle = max(0.0, statistics.median(found))
        confirmed = max(0.0, statistics.median(1 - o.confirmed / one["optimum"] for o in one["found"][method]))
        worst = format_share(max(0.0, *found))
        shown = f"{format_share(middle)} (worst {worst}; confirmed {format_share(confirmed)})"
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
        wins = sum(a <= b + 1e-9 for a, b in zip(ours, regrets(one, method), strict=True))
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
