"""How far would a value wander if the device ran a little faster or slower?

Runs of one configuration differ by a per cent or two in pace. A throughput differs by as much; the requests within an
SLO are many more or many fewer where most of them lie near a limit. Both are told from the run's own requests:
all its times are stretched by some factors, and what would have been good is counted again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.steady import is_open
from harness.tune.problem import Problem, Task
from harness.tune.series import LATENCIES
from harness.tune.words import Measurement

PACE = 0.015
"""Relative standard deviation of the pace of runs of one configuration, as devices at rest show it."""
_PLACES = np.asarray((-1.5, -0.75, 0.0, 0.75, 1.5))
_WEIGHTS = np.exp(-(_PLACES**2) / 2) / np.exp(-(_PLACES**2) / 2).sum()


@dataclass(frozen=True, slots=True)
class Wander:
    """What runs at other paces come to: the mean value, and the relative standard deviation around it."""

    mean: float
    deviation: float


def wander(problem: Problem, measured: Measurement, name: str) -> Wander | None:
    """Of an objective, from one measurement; None where it has no such value."""
    own = measured.metrics.get(name, math.nan)
    if not math.isfinite(own):
        return None
    task = problem.tasks[0]
    limits = _limits(task)
    told = limits.keys() <= {*LATENCIES} & measured.series.keys()
    if name != "goodput" or len(problem.tasks) > 1 or not limits or not told:
        return Wander(own, PACE)
    values = _rates(measured, limits, own, fixed_rate=is_open(task.stage.kind))
    mean = float(values @ _WEIGHTS)
    deviation = math.sqrt(float((values - mean) ** 2 @ _WEIGHTS))
    return Wander(mean, max(deviation / mean, PACE) if mean > 0 else 1.0)


def _limits(task: Task) -> dict[str, float]:
    """Limits by the latencies that series have; in the user's view where a load is open, as the series are."""
    return {name.rpartition("_")[0].removesuffix("_user"): limit for name, limit in task.scenario.slo.items()}


def _rates(
    measured: Measurement, limits: Mapping[str, float], own: float, *, fixed_rate: bool
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The goodput at each pace: good requests of all, beside how many are good at the run's own pace."""
    factors = np.exp(PACE * _PLACES)
    known = {name: np.asarray(measured.series[name], dtype=np.float64) for name in limits}
    late = [~(known[name] * factors[:, None] <= limit) & ~np.isnan(known[name]) for name, limit in limits.items()]
    ended = np.isfinite(np.asarray(measured.series["done"], dtype=np.float64))
    good = (ended & ~np.logical_or.reduce(late)).sum(axis=1)
    here = float(good[len(_PLACES) // 2])
    rates = own * good / here if here else np.zeros(len(_PLACES))
    return np.asarray(rates if fixed_rate else rates / factors)
