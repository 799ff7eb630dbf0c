"""What would points that were never tried show, and how sure is that? A small Gaussian process.

Matérn 5/2 with a length for each column, found by the likelihood; a mean that follows what a
cheaper source (the twin) says of the points, by as much as the observations agree with it.
Formulas: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.5)
_NOISES = (1e-4, 1e-3, 1e-2, 0.05, 0.2)
_ROUNDS = 2
_SLOPE_DEVIATION = 0.5  # how far the twin's slope may be from 1 before observations have to say so


@dataclass(frozen=True, slots=True)
class Process:
    """A fitted process: `weights` over the observed rows, in the scale of the observations."""

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


def fit(rows: Floats, values: Floats, cheap: Floats | None = None, doubt: Floats | None = None) -> Process:
    """The most likely process of some observations.

    `cheap` is what the twin says of the same rows, in their scale; `doubt` the standard deviation, in that scale, by
    which each observation is less sure than the rest (none by default).
    """
    spread = float(values.std()) if len(values) > 1 and values.std() > 0 else 1.0
    lengths, noise = np.full(rows.shape[1], 0.6), 1e-2
    unsure = np.zeros(len(rows)) if doubt is None else (doubt / spread) ** 2
    shown = _Shown(rows, values / spread, _told(cheap, spread), unsure)
    best = _negative_likelihood(shown, lengths, noise)[0]
    for _ in range(_ROUNDS):
        for column in range(rows.shape[1] + 1):
            for candidate in _NOISES if column == rows.shape[1] else _LENGTHS:
                tried, tried_noise = lengths.copy(), noise
                if column == rows.shape[1]:
                    tried_noise = candidate
                else:
                    tried[column] = candidate
                found = _negative_likelihood(shown, tried, tried_noise)[0]
                if found < best - 1e-9:
                    best, lengths, noise = found, tried, tried_noise
    _, process = _negative_likelihood(shown, lengths, noise)
    return Process(
        rows,
        lengths,
        process.scale,
        process.lower,
        process.weights * spread,
        process.beta * _units(cheap, spread),
        spread,
    )


def _told(cheap: Floats | None, spread: float) -> Floats | None:
    return None if cheap is None else cheap / spread


def _units(cheap: Floats | None, spread: float) -> Floats:
    """The slope over the cheap source has no unit; the constant has that of the values."""
    return np.asarray([spread] if cheap is None else [spread, 1.0])


def _negative_likelihood(shown: _Shown, lengths: Floats, noise: float) -> tuple[float, Process]:
    """The negative logarithm of the posterior of lengths and noise, and the process that they make."""
    rows, count = shown.rows, len(shown.rows)
    columns = trend_columns(count, shown.cheap)
    base = matern(rows, rows, lengths) + np.diag(noise + shown.doubt)
    lower: Floats = np.asarray(np.linalg.cholesky(base + 1e-9 * np.eye(count)), dtype=np.float64)
    scaled, target = np.linalg.solve(lower, columns), np.linalg.solve(lower, shown.values)
    # A weak belief that the twin's slope is 1, so that two observations cannot turn it round.
    belief = np.diag([1e-6, *([1 / _SLOPE_DEVIATION**2] * (columns.shape[1] - 1))])
    prior = np.asarray([0.0, *([1.0] * (columns.shape[1] - 1))])
    beta = np.linalg.solve(scaled.T @ scaled + belief, scaled.T @ target + belief @ prior)
    left = target - scaled @ beta
    scale = float(left @ left / count + 1e-6)
    # Short lengths have to earn their keep: a log-normal belief about 0.6 with a factor of 3.
    doubt = float(((np.log(lengths / 0.6) / math.log(3)) ** 2).sum() / 2) + (math.log(noise / 1e-2) / 3) ** 2 / 2
    likelihood = count / 2 * math.log(scale) + float(np.log(np.diag(lower)).sum())
    weights = np.linalg.solve(lower.T, left)
    root = math.sqrt(scale)
    process = Process(rows, lengths, scale, np.asarray(lower * root), weights / scale, beta, 1.0)
    return likelihood + doubt, process


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
