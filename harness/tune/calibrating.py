"""How does the twin learn from the first trials how fast this device is?

Three factors are fitted: on what computing, on what memory and on what the host takes. The
rest of the twin's coefficients keep their proportions, so a few trials are enough. Least squares of
logarithms by Gauss and Newton, under the belief that each factor is near 1.
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
_BELIEF = 0.4  # how far the logarithm of a factor may lie from 0 unseen
_STEP = 0.1
_MOST = 2.0  # of a residual: a queue that one of them has and the other has not says "slower", not by how much
_ROUNDS = 4
_SHARES = {0: ("matmul", "attention"), 1: ("weights", "cache", "link")}
_TIMES = ("launch_s", "piece_s", "gap_s", "reduce_s", "link_s", "step_s", "request_s")

Predict = Callable[[Terms], Sequence[Mapping[str, float]]]
"""What the twin with some coefficients says of every trial that is compared, by metric."""


def scaled(terms: Terms, logs: Sequence[float]) -> Terms:
    """Coefficients with which computing, memory and the host take e^log times as long."""
    changes = {name: getattr(terms, name) / math.exp(logs[group]) for group, names in _SHARES.items() for name in names}
    changes |= {name: getattr(terms, name) * math.exp(logs[2]) for name in _TIMES}
    return replace(terms, **changes)


def calibrated(terms: Terms, measured: Sequence[Mapping[str, float]], predict: Predict) -> Terms:
    """The coefficients under which the twin's word is nearest to what was measured; as they are where nothing is."""
    if not measured:
        return terms
    logs = np.zeros(3)
    left = _residuals(measured, predict(terms), logs)
    for _ in range(_ROUNDS):
        slopes = np.stack(
            [
                (_residuals(measured, predict(scaled(terms, moved.tolist())), moved) - left) / _STEP
                for moved in _moved(logs)
            ],
            axis=1,
        )
        step = np.linalg.solve(slopes.T @ slopes + 1e-6 * np.eye(3), -slopes.T @ left)
        logs, left, better = _along(terms, measured, predict, (logs, left, np.clip(step, -1.0, 1.0)))
        if not better:
            break
    return scaled(terms, logs.tolist())


def _moved(logs: Floats) -> list[Floats]:
    return [logs + _STEP * np.eye(3)[place] for place in range(3)]


def _along(
    terms: Terms, measured: Sequence[Mapping[str, float]], predict: Predict, here: tuple[Floats, Floats, Floats]
) -> tuple[Floats, Floats, bool]:
    """As far along a step as it helps: all of it, a half, a quarter, or none."""
    logs, left, step = here
    for share in (1.0, 0.5, 0.25):
        tried = logs + share * step
        found = _residuals(measured, predict(scaled(terms, tried.tolist())), tried)
        if found @ found < 0.98 * (left @ left):
            return tried, found, True
    return logs, left, False


def _residuals(measured: Sequence[Mapping[str, float]], told: Sequence[Mapping[str, float]], logs: Floats) -> Floats:
    """Logarithms of what was told over what was measured, weighed; then the belief about the factors."""
    rows = [
        weight * _ratio(said.get(name), seen.get(name))
        for seen, said in zip(measured, told, strict=True)
        for name, weight in COMPARED.items()
    ]
    return np.asarray([*rows, *(0.1 * logs / _BELIEF)])


def _ratio(said: float | None, seen: float | None) -> float:
    if not said or not seen or not math.isfinite(seen):
        return 0.0
    return min(max(math.log(said / seen), -_MOST), _MOST) if math.isfinite(said) else _MOST
