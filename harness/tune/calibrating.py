"""How does the twin learn from the first trials how fast this device is?

Every coefficient of its step time is fitted, under the belief that each is near what the twin began with: what the
trials say nothing of stays as it is. Least squares of logarithms by Gauss and Newton; the slopes are
taken once and mended by what each step shows (Broyden, Mathematics of Computation 19, 1965).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.twin.cost import Terms

Floats = NDArray[np.float64]
COMPARED: Mapping[str, float] = {"tpot_mean": 1.0, "tpot_p90": 1.0, "ttft_mean": 0.3, "throughput": 0.5}
"""Metrics that say how fast an engine is, and how much each counts: queues make times to the first token wander."""
_BELIEF = 0.3  # how far the logarithm of a coefficient may lie from 0 unseen
_NOISE = 0.02  # and that of a metric from the truth: a run's own noise, and what the twin's rules leave out
_STEP = 0.1
_MOST = 2.0  # of a residual: a queue that one of them has and the other has not says "slower", not by how much
_ROUNDS = 8
_WORTH = 0.02  # of what is off: less to be gained ends the search
_NAMES = Terms.__slots__

Predict = Callable[[Terms], Sequence[Mapping[str, float]]]
"""What the twin with some coefficients says of every trial that is compared, by metric."""


def scaled(terms: Terms, logs: Sequence[float]) -> Terms:
    """Coefficients with which all that each of them stands for takes e^log times as long; shares of a peak divide."""
    times = {name: math.exp(log if name.endswith("_s") else -log) for name, log in zip(_NAMES, logs, strict=True)}
    return replace(terms, **{name: getattr(terms, name) * factor for name, factor in times.items()})


def calibrated(terms: Terms, measured: Sequence[Mapping[str, float]], predict: Predict) -> Terms:
    """The coefficients under which the twin's word is nearest to what was measured; as they are where nothing is."""
    if not measured:
        return terms

    def off(logs: Floats) -> Floats:
        return _residuals(measured, predict(scaled(terms, logs.tolist())), logs)

    logs = np.zeros(len(_NAMES))
    left = off(logs)
    slopes = np.stack([(off(_STEP * unit) - left) / _STEP for unit in np.eye(len(_NAMES))], axis=1)
    for _ in range(_ROUNDS):
        step = np.clip(np.linalg.lstsq(slopes, -left, rcond=None)[0], -1.0, 1.0)
        found = _along(off, logs, left, step)
        if found is None:
            break
        moved, here = found
        change = moved - logs
        slopes += np.outer(here - left - slopes @ change, change) / (change @ change)
        settled = here @ here > (1 - _WORTH) * (left @ left)
        logs, left = moved, here
        if settled:
            break
    return scaled(terms, logs.tolist())


def _along(off: Callable[[Floats], Floats], logs: Floats, left: Floats, step: Floats) -> tuple[Floats, Floats] | None:
    """As far along a step as it helps, and what is off there: all of it, a half, a quarter, or none."""
    for share in (1.0, 0.5, 0.25):
        moved = logs + share * step
        here = off(moved)
        if here @ here < left @ left:
            return moved, here
    return None


def _residuals(measured: Sequence[Mapping[str, float]], told: Sequence[Mapping[str, float]], logs: Floats) -> Floats:
    """Logarithms of what was told over what was measured, weighed; then the belief about the factors."""
    rows = [
        weight * _ratio(said.get(name), seen.get(name))
        for seen, said in zip(measured, told, strict=True)
        for name, weight in COMPARED.items()
    ]
    return np.asarray([*rows, *(_NOISE * logs / _BELIEF)])


def _ratio(said: float | None, seen: float | None) -> float:
    if not said or not seen or not math.isfinite(seen):
        return 0.0
    return min(max(math.log(said / seen), -_MOST), _MOST) if math.isfinite(said) else _MOST
