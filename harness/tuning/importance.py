"""Which parameters decide, and how sure is that after so few trials?

For each parameter alone: the share of the variance between trials that it explains, as a parabola
of its rank (numbers) or the mean of each value (choices), less what as many coefficients explain by chance
(adjusted R²). Trials drawn again with replacement give the interval; values dealt out at random among the trials
give the share that nothing at all would reach.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.seeds import stream
from harness.tuning.types import Value

Floats = NDArray[np.float64]

FEWEST_TRIALS = 6
DRAWS = 200


@dataclass(frozen=True, slots=True)
class Importance:
    """Of one parameter: the share of variance that it explains, its 90 % interval, and whether chance would not do.

    `chance` is what 95 of 100 parameters without any effect would stay below.
    """

    name: str
    share: float
    low: float
    high: float
    chance: float

    @property
    def shown(self) -> bool:
        """Whether it explains more than chance would."""
        return self.share > self.chance


def importances(points: Sequence[Mapping[str, Value]], costs: Sequence[float], seed: int = 0) -> tuple[Importance, ...]:
    """The importance of every parameter that took more than one value, the largest first; () of too few trials.

    `costs` are the trials' values, whichever way is better. Absence of a parameter counts as a value of its own.
    """
    kept = [place for place, cost in enumerate(costs) if math.isfinite(cost)]
    if len(kept) < FEWEST_TRIALS:
        return ()
    values = np.asarray([costs[place] for place in kept], dtype=np.float64)
    names = dict.fromkeys(name for point in points for name in point)
    columns = {name: [points[place].get(name) for place in kept] for name in names}
    found = [_importance(name, column, values, seed) for name, column in columns.items() if len(set(column)) > 1]
    return tuple(sorted(found, key=lambda one: (-one.share, one.name)))


def _importance(name: str, column: Sequence[Value | None], values: Floats, seed: int) -> Importance:
    rng = stream(seed, f"importance of {name}")
    design = _design(column)
    n = len(values)
    drawn = [explained(design[rows], values[rows]) for rows in rng.integers(0, n, (DRAWS, n))]
    dealt = [explained(design, rng.permutation(values)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    return Importance(name, explained(design, values), float(low), float(high), float(np.quantile(dealt, 0.95)))


def _design(column: Sequence[Value | None]) -> Floats:
    """The columns of the regression: rank and its square of numbers, else one a value."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        _, ranks = np.unique(np.asarray(column, dtype=np.float64), return_inverse=True)
        line = ranks / max(1, ranks.max())
        parts = [np.ones(len(column)), line, line**2] if ranks.max() > 1 else [np.ones(len(column)), line]
        return np.column_stack(parts)
    kinds = list(dict.fromkeys(map(str, column)))
    return np.asarray([[float(str(value) == kind) for kind in kinds] for value in column])


def explained(design: Floats, values: Floats) -> float:
    """Adjusted R² of a least-squares fit, never below 0; 0 where there is nothing to explain."""
    left = values - values.mean()
    whole = float(left @ left)
    coefficients, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    n = len(values)
    if whole <= 1e-18 * max(1.0, float(values @ values)) or n <= rank or rank < 2:
        return 0.0
    residual = values - design @ coefficients
    return max(0.0, 1 - float(residual @ residual) / whole * (n - 1) / (n - int(rank)))
