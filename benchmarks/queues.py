"""Series of latencies whose truth is known: queues, closed loops, autoregressions and independent values.

Each maker gives an array of (runs, n): one run a row, in the order of time, in its steady state.
"""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
SIGMA = 1.0  # of the logarithm of service times; their mean is 1
_GRID = 1 << 20


def exponential(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Service times of M/M/1."""
    return rng.exponential(1.0, shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Service times of M/G/1: log-normal of mean 1 and squared variation e - 1."""
    return rng.lognormal(-(SIGMA**2) / 2, SIGMA, shape)


SERVICES = {"M/M/1": exponential, "M/G/1": lognormal}


def queue(name: str, load: float, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Times in a system of one server, Poisson arrivals, by Lindley's recursion, a long start left out."""
    runs, n = shape
    start = int(60 / (1 - load) ** 2)
    needs = SERVICES[name](rng, (runs, start + n))
    steps = np.cumsum(needs[:, :-1] - rng.exponential(1 / load, (runs, start + n - 1)), axis=1)
    walk = np.concatenate([np.zeros((runs, 1)), steps], axis=1)
    return np.asarray((walk - np.minimum.accumulate(walk, axis=1) + needs)[:, start:])


def queue_truth(name: str, load: float) -> dict[str, float]:
    """Mean and percentiles of the time in the system, by Pollaczek and Khinchine.

    The wait is a geometric sum of residual service times; it is added up on a grid by its transform.
    """
    second = {"M/M/1": 2.0, "M/G/1": math.exp(SIGMA**2)}[name]
    mean = 1 + load * second / (2 * (1 - load))
    step = 40 * max(mean, 10.0) / _GRID
    at = np.arange(_GRID) * step
    needs = np.diff(_below(name, np.append(0.0, at + step / 2)))
    residual = 1 - _below(name, at)
    waves = np.fft.rfft(residual / residual.sum())
    dense = np.fft.irfft((1 - load) / (1 - load * waves) * np.fft.rfft(needs), _GRID)
    reached = np.cumsum(dense)
    return {"mean": mean, **{key: float(np.interp(level, reached, at)) for key, level in LEVELS.items()}}


def _below(name: str, at: Floats) -> Floats:
    """Distribution function of service times."""
    if name == "M/M/1":
        return np.asarray(1 - np.exp(-at))
    # The normal distribution function between points of a fine grid: numpy has none.
    points = np.linspace(-9, 9, 4001)
    normal = np.asarray([0.5 * math.erfc(-point / math.sqrt(2)) for point in points])
    logs = np.log(np.maximum(at, 1e-12))
    return np.asarray(np.interp((logs + SIGMA**2 / 2) / SIGMA, points, normal))


def autoregressive(phi: float, n: int, runs: int, rng: np.random.Generator) -> Floats:
    """Normal values of variance 1, each resembling the one before by `phi`."""
    noise = rng.standard_normal((n, runs)) * math.sqrt(1 - phi**2)
    found, last = np.empty((n, runs)), rng.standard_normal(runs)
    for i in range(n):
        last = found[i] = phi * last + noise[i]
    return found.T.copy()


def wandering(phi: float, swing: float, n: int, runs: int, rng: np.random.Generator) -> Floats:
    """Independent log-normal values whose scale wanders slowly: long answers under a load that comes and goes."""
    return np.asarray(rng.lognormal(0, 1, (runs, n)) * np.exp(swing * autoregressive(phi, n, runs, rng)))


def closed_loop(users: int, servers: int, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Times in the system of users that send again as soon as they are answered, served in their order."""
    runs, n = shape
    rows, start = np.arange(runs), 40 * users
    needs = lognormal(rng, (start + n, runs))
    free, sent = lognormal(rng, (runs, servers)), np.zeros((runs, servers))
    waiting = deque(np.zeros(runs) for _ in range(users - servers))
    found = []
    for need in needs:
        next_free = free.argmin(axis=1)
        now = free[rows, next_free]
        found.append(now - sent[rows, next_free])
        waiting.append(now)
        sent[rows, next_free] = waiting.popleft()
        free[rows, next_free] = now + need
    return np.asarray(found[start:]).T.copy()
