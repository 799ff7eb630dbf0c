"""Many random pairs of sides, and how often a comparison of them is right.

Runs are made once a load and noise: some seeds, each several times with noise of its own, once slowed. A trial draws
seeds and runs from these. What is planted for the stated power is put on the measure itself, which is exact.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare_runs import SLOWER, virtual
from harness.comparison.judging import BETTER, UNDETERMINED, WORSE, ComparisonRow, judge
from harness.comparison.repeats import Repeat, Side
from harness.scenario.gate import DEFAULT_GATE
from harness.seeds import stream

REPEATS, EARLIER = 5, 8
PLANTED = "tpot_mean"


@dataclass(frozen=True, slots=True)
class Bank:
    """Runs by seed: some as fast as each other, and one that is slower."""

    same: Sequence[Sequence[Repeat]]
    slow: Sequence[Repeat]


def bank(folder: Path, load: str, noise: float, seeds: range, draws: int = 6) -> Bank:
    """The runs of a load whose engine differs from run to run by `noise`."""
    same, slow = [], []
    for seed in seeds:
        made = virtual(folder, load, seed)
        rngs = [stream(seed, "noise", round(1000 * noise), draw) for draw in range(draws + 1)]
        same.append([made.repeat(1.0, noise, rng) for rng in rngs[:-1]])
        slow.append(made.repeat(SLOWER, noise, rngs[-1]))
    return Bank(same, slow)


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """Of trials: alarms without a difference, slow-downs that were found, refusals, what was said to be seen (median
    share) and how often a change of just that size was found."""

    trials: int
    alarms: int
    found: int
    refused: int
    sees: float | None
    seen: int


def trials(made: Bank, count: int, repeats: int, how: str, seed: int) -> TrialCounts:
    """So many trials; `how` is "paired" or "unlike" seeds, with "+earlier" where there are earlier results."""
    rng = np.random.default_rng(seed)
    plans = [_plan(made, repeats, how, rng) for _ in range(count)]
    same = [_judged(base, new, earlier) for base, new, _, earlier in plans]
    slow = [_judged(base, slow, earlier) for base, _, slow, earlier in plans]
    refused = sum(all(row.verdict == UNDETERMINED for row in rows) for rows in same)
    said = [
        row.detectable for rows in same for row in rows if row.measure.key == PLANTED and row.detectable is not None
    ]
    sees = statistics.median(said) if said else None
    seen = 0
    if sees is not None:
        seen = sum(
            _is_worse(_judged(base, [_planted(one, 1 + sees) for one in new], earlier))
            for base, new, _, earlier in plans
        )
    alarms = sum(any(row.verdict in (BETTER, WORSE) for row in rows) for rows in same)
    return TrialCounts(count, alarms, sum(map(_is_worse, slow)), refused, sees, seen)


_Plan = tuple[list[Repeat], list[Repeat], list[Repeat], list[Repeat]]


def _plan(made: Bank, repeats: int, how: str, rng: np.random.Generator) -> _Plan:
    chosen = rng.permutation(len(made.same))
    own, others = chosen[:repeats], chosen[repeats : 2 * repeats]
    theirs = own if how.startswith("paired") else others
    first, second = (0, 1) if rng.random() < 0.5 else (1, 0)
    base = [made.same[place][first] for place in own]
    new = [made.same[place][second] for place in theirs]
    slow = [made.slow[place] for place in theirs]
    return base, new, slow, list(_earlier(made, own, chosen[2 * repeats :], how, rng))


def _earlier(
    made: Bank, own: Sequence[Any], rest: Sequence[Any], how: str, rng: np.random.Generator
) -> Iterator[Repeat]:
    """Earlier runs: of the same requests where sides are paired, two a seed, else of other seeds."""
    if not how.endswith("earlier"):
        return
    if how.startswith("paired"):
        for place in own if len(own) > 1 else [own[0]]:
            yield from made.same[place][2:]
        return
    for place in rest[:EARLIER]:
        yield made.same[place][int(rng.integers(0, 4))]


def _planted(repeat: Repeat, factor: float) -> Repeat:
    stages = {}
    for number, stage in repeat.stages.items():
        tpot = {name: value if name == "n" or not isinstance(value, float) else value * factor
                for name, value in stage["tpot"].items()}  # fmt: skip
        stages[number] = {**stage, "tpot": tpot}
    return replace(repeat, stages=stages)


def _is_worse(rows: Sequence[ComparisonRow]) -> bool:
    return any(row.verdict == WORSE and row.measure.key == PLANTED for row in rows)


def _judged(base: Sequence[Repeat], new: Sequence[Repeat], earlier: Sequence[Repeat]) -> list[ComparisonRow]:
    rows = judge(Side("base", base), Side("new", new), DEFAULT_GATE, earlier=earlier)
    return [row for row in rows if row.allowed is not None]
