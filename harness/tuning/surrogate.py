"""What would points that were never tried show, and how sure is that? A small Gaussian process.

Matérn 5/2 with a length for each column, found by the likelihood; a mean that follows what a
cheaper source (the twin) says of the points, by as much as the observations agree with it.
Formulas: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.5)
_NOISES = (1e-4, 1e-3, 1e-2, 0.05, 0.2)
_SCALES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_ROUNDS = 2
_SLOPE_DEVIATION = 0.5  # how far the twin's slope may be from 1 before observations have to say so


@dataclass(frozen=True, slots=True)
class Process:
    """A fitted process: `weights` over the observed rows, in the scale of the observations.

    `scale` is the variance of the process, in units of `spread` squared.
    """

    rows: Floats
    lengths: Floats
    scale: float
    lower: Floats
    weights: Floats
    beta: Floats
    spread: float

    def at(self, rows: Floats, cheap: Floats | None = None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the function (without noise) at some rows."""
        across = self.scale * matern(rows, self.rows, self.lengths)
        mean = trend_columns(len(rows), cheap) @ self.beta + across @ self.weights
        solved = np.linalg.solve(self.lower, across.T)
        variance = np.maximum(self.scale - (solved**2).sum(axis=0), 1e-12)
        return mean, self.spread * np.sqrt(variance)


def matern(one: Floats, other: Floats, lengths: Floats) -> Floats:
    """The Matérn 5/2 correlation of rows, a length for each column."""
    gap = (one[:, None, :] - other[None, :, :]) / lengths
    far = math.sqrt(5) * np.sqrt((gap**2).sum(axis=2))
    return np.asarray((1 + far + far**2 / 3) * np.exp(-far))


def trend_columns(count: int, cheap: Floats | None) -> Floats:
    """What the mean is made of: a constant, and what the cheap source says."""
    ones = np.ones((count, 1))
    return ones if cheap is None else np.column_stack([ones, cheap])


@dataclass(frozen=True, slots=True)
class _Shown:
    """Observations in units of their own spread; `doubt` is the variance that each has beyond the common noise."""

    rows: Floats
    values: Floats
    cheap: Floats | None
    doubt: Floats


@dataclass(frozen=True, slots=True)
class _Guess:
    """What is searched for: a length for each column, the variance of the process, and that of the noise."""

    lengths: tuple[float, ...]
    scale: float
    noise: float

    def others(self, place: int) -> list["_Guess"]:
        """The same with other values of one of them."""
        columns = len(self.lengths)
        if place == columns:
            return [replace(self, scale=one) for one in _SCALES]
        if place > columns:
            return [replace(self, noise=one) for one in _NOISES]
        return [replace(self, lengths=(*self.lengths[:place], one, *self.lengths[place + 1 :])) for one in _LENGTHS]


def fit(rows: Floats, values: Floats, cheap: Floats | None = None, doubt: Floats | None = None) -> Process:
    """The most likely process of some observations.

    `cheap` is what the twin says of the same rows, in their scale; `doubt` the standard deviation, in that scale, by
    which each observation is less sure than the rest (none by default).
    """
    spread = float(values.std()) if len(values) > 1 and values.std() > 0 else 1.0
    unsure = np.zeros(len(rows)) if doubt is None else (doubt / spread) ** 2
    shown = _Shown(rows, values / spread, None if cheap is None else cheap / spread, unsure)
    guess = _Guess((0.6,) * rows.shape[1], 1.0, 1e-2)
    best = _negative_likelihood(shown, guess)[0]
    for place in _ROUNDS * list(range(rows.shape[1] + 2)):
        tries = [(_negative_likelihood(shown, one)[0], one) for one in guess.others(place)]
        found, other = min(tries, key=lambda pair: pair[0])
        if found < best - 1e-9:
            best, guess = found, other
    process = _negative_likelihood(shown, guess)[1]
    units = np.asarray([spread] if cheap is None else [spread, 1.0])  # the slope over the cheap source has no unit
    return replace(process, weights=process.weights * spread, beta=process.beta * units, spread=spread)


def _negative_likelihood(shown: _Shown, guess: _Guess) -> tuple[float, Process]:
    """The negative logarithm of the posterior of a guess, and the process that it makes."""
    rows, count, lengths = shown.rows, len(shown.rows), np.asarray(guess.lengths)
    columns = trend_columns(count, shown.cheap)
    base = guess.scale * matern(rows, rows, lengths) + np.diag(guess.noise + shown.doubt)
    lower: Floats = np.asarray(np.linalg.cholesky(base + 1e-9 * np.eye(count)), dtype=np.float64)
    scaled, target = np.linalg.solve(lower, columns), np.linalg.solve(lower, shown.values)
    # A weak belief that the twin's slope is 1, so that two observations cannot turn it round.
    belief = np.diag([1e-6, *([1 / _SLOPE_DEVIATION**2] * (columns.shape[1] - 1))])
    prior = np.asarray([0.0, *([1.0] * (columns.shape[1] - 1))])
    beta = np.linalg.solve(scaled.T @ scaled + belief, scaled.T @ target + belief @ prior)
    left = target - scaled @ beta
    likelihood = float(left @ left) / 2 + float(np.log(np.diag(lower)).sum())
    weights = np.linalg.solve(lower.T, left)
    return likelihood + _unlikely(guess), Process(rows, lengths, guess.scale, lower, weights, beta, 1.0)


def _unlikely(guess: _Guess) -> float:
    """How far a guess is from what is believed without observations: log-normal, with factors of 3, 10 and 20."""
    lengths = sum((math.log(one / 0.6) / math.log(3)) ** 2 for one in guess.lengths)
    scale, noise = math.log(guess.scale) / math.log(10), math.log(guess.noise / 1e-2) / 3
    return (lengths + scale**2 + noise**2) / 2


def expected_gain(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Expected improvement below `best`, of normal beliefs; less is better."""
    ratio = (best - mean) / deviation
    density = np.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(deviation * (ratio * normal(ratio) + density))


def normal(values: Floats) -> Floats:
    """The standard normal distribution function."""
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in values.tolist()])


def normalised(values: Sequence[float]) -> Floats:
    """Values as floats, infinite ones as far beyond the worst finite one as that is from the best."""
    found = np.asarray(values, dtype=np.float64)
    finite = found[np.isfinite(found)]
    if len(finite) == 0:
        return np.zeros(len(found))
    worst = float(finite.max() + max(finite.max() - finite.min(), abs(finite.max()) * 0.1, 1e-9))
    return np.where(np.isfinite(found), found, worst)
