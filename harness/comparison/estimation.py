"""By how much do the runs of two sides differ, and how far may that be off?

One linear model for every way in which runs may stand beside each other: each run's value is that of its block (a
pair, both sides together, or earlier runs of one configuration), plus the effect where the run is NEW's, plus what a
covariate explains, plus noise of one size. What runs of one configuration differ by is seen in pairs, in the repeats
of a side and in earlier results alike, and each adds its degrees of freedom. Least squares; Student's t.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.statistics.difference import Effect
from harness.statistics.intervals import Floats, student_t

POWER = 0.8  # how often a change of the size that is said to be seen is found
NOISIER = 0.1  # chance below which the runs at hand are called noisier than the earlier ones
FEWEST_FOR_COVARIATE = 6  # runs: with fewer the slope costs more than it explains
_ALIKE = 1e-9
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


@dataclass(frozen=True, slots=True)
class Runs:
    """A value a run, in the block it stands in; `is_new` is 1 where it is NEW's, `known` what a covariate says.

    `own` marks the runs that are compared; the others are earlier ones, which tell of noise alone.
    """

    values: Floats
    block: NDArray[np.int64]
    is_new: Floats
    own: NDArray[np.bool_]
    known: Floats

    def only(self, chosen: NDArray[np.bool_]) -> "Runs":
        """Some of the runs."""
        return Runs(self.values[chosen], self.block[chosen], self.is_new[chosen], self.own[chosen], self.known[chosen])


def estimated(runs: Runs) -> Effect | None:
    """The effect, its error from all runs; None where nothing tells how far two runs of one configuration differ.

    Earlier runs count where those at hand are not shown to be noisier than they were.
    """
    own, whole = _solved(runs.only(runs.own)), _solved(runs)
    if whole is None:
        return None
    if own is None:
        return whole.effect
    if own.dof == whole.dof:
        return own.effect
    earlier_dof = whole.dof - own.dof
    earlier = max(0.0, whole.variance * whole.dof - own.variance * own.dof) / earlier_dof
    if own.variance > 0:
        ratio = own.variance / earlier if earlier else math.inf
        if f_above(ratio, own.dof, earlier_dof) < NOISIER:
            return own.effect
    return whole.effect


@dataclass(frozen=True, slots=True)
class _Solved:
    effect: Effect
    variance: float
    dof: float


def _solved(runs: Runs) -> _Solved | None:
    blocks = np.unique(runs.block)
    columns = [*(np.asarray(runs.block == one, dtype=np.float64) for one in blocks), runs.is_new]
    slope = _centred(runs.known, runs.block, runs.is_new)
    if len(runs.values) >= FEWEST_FOR_COVARIATE and float(np.abs(slope).max(initial=0.0)) > _ALIKE:
        columns.append(runs.known)
    design = np.column_stack(columns)
    dof = len(runs.values) - int(np.linalg.matrix_rank(design))
    if dof < 1:
        return None
    inverse = np.linalg.pinv(design.T @ design)
    found = inverse @ (design.T @ runs.values)
    left = runs.values - design @ found
    square = float(left @ left)
    scale = float(runs.values @ runs.values) * _ALIKE**2
    variance = 0.0 if square <= scale else square / dof
    place = len(blocks)
    estimate = 0.0 if abs(found[place]) < _ALIKE else float(found[place])
    return _Solved(Effect(estimate, math.sqrt(variance * float(inverse[place, place])), dof), variance, dof)


def _centred(known: Floats, block: NDArray[np.int64], is_new: Floats) -> Floats:
    """What of a covariate differs between runs that are alike otherwise."""
    left: Floats = known.copy()
    for one in np.unique(block):
        for side in (0.0, 1.0):
            of = (block == one) & (is_new == side)
            if of.any():
                left[of] -= left[of].mean()
    return left


def with_shares(effect: Effect, shares: tuple[float, float], counts: tuple[int, int]) -> Effect:
    """An effect on a share, its error at least that of independent requests: a run of none failed says nothing."""
    whole = (shares[0] * counts[0] + shares[1] * counts[1]) / max(1, sum(counts))
    least = math.sqrt(whole * (1 - whole) * sum(1 / max(1, count) for count in counts))
    return Effect(effect.estimate, max(effect.error, least), effect.dof)


def f_above(ratio: float, over: float, under: float) -> float:
    """Probability that Snedecor's F with these degrees of freedom exceeds a ratio (Abramowitz and Stegun 26.6).

    The regularised incomplete beta function as an integral over an angle: x = sin².
    """
    if ratio <= 0:
        return 1.0
    if math.isinf(ratio):
        return 0.0
    angle = math.atan(math.sqrt(under / (over * ratio)))
    angles = angle * (_NODES + 1) / 2
    log_beta = math.lgamma(over / 2) + math.lgamma(under / 2) - math.lgamma((over + under) / 2)
    inside = np.exp((under - 1) * np.log(np.sin(angles)) + (over - 1) * np.log(np.cos(angles)) - log_beta)
    return min(1.0, float(angle * (_WEIGHTS @ inside)))


def detectable(effect: Effect, alpha: float) -> float:
    """How large a true effect has to be to be found in `POWER` of all comparisons of this error, two-sided at `alpha`.

    The error is an estimate itself; the power is the mean over what it may be (chi-squared, `dof`).
    """
    return _detectable(alpha, effect.dof) * effect.error if effect.error else 0.0


@functools.cache
def _detectable(alpha: float, dof: float) -> float:
    reach = student_t(1 - alpha / 2, dof)
    errors = _errors(dof)
    low, high = 0.0, reach * 4 + 4
    for _ in range(50):
        middle = (low + high) / 2
        power = sum(NormalDist().cdf(middle - reach * one) for one in errors) / len(errors)
        low, high = (middle, high) if power < POWER else (low, middle)
    return high


def _errors(dof: float) -> Sequence[float]:
    """Estimated over true standard error at evenly spaced chances (Wilson and Hilferty's cube for chi-squared)."""
    chances = [(place + 0.5) / 64 for place in range(64)]
    part = 2 / (9 * dof)
    return [max(0.0, 1 - part + NormalDist().inv_cdf(one) * math.sqrt(part)) ** 1.5 for one in chances]
