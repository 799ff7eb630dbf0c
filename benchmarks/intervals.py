"""Coverage of the 95 % intervals: how often one is shown, and how often it holds the truth.

On series whose truth is known, each run being one series in its steady state: independent values,
autoregressions, queues of one server at four loads, a closed loop, values whose scale wanders slowly,
and gaps that share the speed of their answer.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from benchmarks import queues
from benchmarks.numbers import Number
from benchmarks.queues import LEVELS
from harness.seeds import stream
from harness.statistics.distributions import Interval, distribution
from harness.statistics.intervals import CONFIDENCE, order_ranks, student_t
from harness.units import format_share, significant

RUNS = 200
LENGTHS = (100, 300, 1000, 5000)
LOADS = (0.5, 0.8, 0.9, 0.95)
SHOWN = ("mean", "p50", "p90", "p99")
LEAST_HELD, LEAST_SHOWN = 0.9, 0.95
WIDEST = 1.25  # times the interval that takes values as independent
SELDOM = 0.05  # of the runs: where fewer have an interval, what is wrong is held against all runs
MOST_WRONG = 0.02
GAPS = 20  # of an answer

Floats = NDArray[np.float64]
Make = Callable[[int, int, np.random.Generator], Floats]  # runs, n: one run a row


@dataclass(frozen=True, slots=True)
class Regime:
    """Series of one kind, and their true mean and percentiles (None: those of a very long run)."""

    name: str
    make: Make
    truth: dict[str, float] | None = None
    independent: bool = False
    together: int = 1  # how many values in a row belong to one request


def intervals(_: Path) -> Iterator[Number]:
    """Coverage, share shown and width of the intervals of latencies and gaps, by load and number of requests."""
    for regime in _regimes():
        truth = regime.truth or _truth_of(regime)
        for n in LENGTHS:
            yield from _measured(regime, truth, n)


def _regimes() -> Iterator[Regime]:
    normal = {"mean": 10.0} | {name: 10 + NormalDist().inv_cdf(level) for name, level in LEVELS.items()}
    yield Regime("independent, normal", lambda runs, n, rng: 10 + rng.standard_normal((runs, n)), normal, True)
    yield Regime("independent, log-normal", lambda runs, n, rng: queues.lognormal(rng, (runs, n)), None, True)
    yield Regime("independent, exponential", lambda runs, n, rng: queues.exponential(rng, (runs, n)), None, True)
    for phi in (0.5, 0.9, 0.98):
        yield Regime(f"autoregressive {phi}", _autoregressive(phi), normal)
    for name in queues.SERVICES:
        for load in LOADS:
            yield Regime(f"{name} at {format_share(load)}", _queue(name, load), queues.queue_truth(name, load))
    yield Regime("closed loop, 16 users of 8", lambda runs, n, rng: queues.closed_loop(16, 8, (runs, n), rng))
    yield Regime("log-normal, scale wanders", lambda runs, n, rng: queues.wandering(0.95, 0.3, n, runs, rng))
    yield Regime(f"{GAPS} gaps an answer", _gaps(0.0), None, True, together=GAPS)
    yield Regime(f"{GAPS} gaps an answer, load wanders", _gaps(0.9), together=GAPS)


def _autoregressive(phi: float) -> Make:
    return lambda runs, n, rng: 10 + queues.autoregressive(phi, n, runs, rng)


def _queue(name: str, load: float) -> Make:
    return lambda runs, n, rng: queues.queue(name, load, (runs, n), rng)


def _gaps(phi: float) -> Make:
    def make(runs: int, n: int, rng: np.random.Generator) -> Floats:
        pace = np.exp(0.3 * queues.autoregressive(phi, n, runs, rng))
        return np.asarray(np.repeat(pace, GAPS, axis=1) * rng.gamma(4, 0.25, (runs, n * GAPS)))

    return make


def _truth_of(regime: Regime) -> dict[str, float]:
    values = regime.make(40, 20_000, _random(regime, 0))
    return {"mean": float(values.mean()), **{key: float(np.quantile(values, level)) for key, level in LEVELS.items()}}


def _random(regime: Regime, n: int) -> np.random.Generator:
    return stream(zlib.crc32(regime.name.encode()), "intervals", n)


def _measured(regime: Regime, truth: dict[str, float], n: int) -> Iterator[Number]:
    runs = regime.make(RUNS, n, _random(regime, n))
    starts = None if regime.together == 1 else np.arange(n) * regime.together
    found = [distribution(run, starts) for run in runs]
    told, met = [], True
    for name in SHOWN:
        pairs = [one.ci95[name] for one in found if name in one.ci95]
        spread = float(np.std([getattr(one, name) for one in found]))
        told.append(f"{name} {_words(pairs, truth[name], spread)}")
        met &= _keeps(pairs, truth[name]) and (
            not _must_show(regime, name, n) or _shows(pairs, _plain(runs, name, spread, regime))
        )
    yield Number(f"intervals, {regime.name}", f"{n} requests: shown, held, width", "held ≥ 90 %", "; ".join(told), met)


def _held(pairs: list[Interval], truth: float) -> list[bool]:
    return [low <= truth <= high for low, high in pairs]


def _words(pairs: list[Interval], truth: float, spread: float) -> str:
    if not pairs:
        return "–"
    shares = [format_share(share) for share in (len(pairs) / RUNS, float(np.mean(_held(pairs, truth))))]
    return f"{', '.join(shares)}, {significant(_width(pairs, spread), 2)}×"


def _width(pairs: list[Interval], spread: float) -> float:
    """Median width over that of an interval that knew how far runs lie apart."""
    return float(np.median([high - low for low, high in pairs])) / (2 * 1.96 * spread)


def _keeps(pairs: list[Interval], truth: float) -> bool:
    held = _held(pairs, truth)
    if len(pairs) < SELDOM * RUNS:
        return len(held) - sum(held) <= MOST_WRONG * RUNS
    return float(np.mean(held)) >= LEAST_HELD


def _must_show(regime: Regime, name: str, n: int) -> bool:
    return regime.independent and (name != "p99" or n >= 1000)


def _plain(runs: Floats, name: str, spread: float, regime: Regime) -> float:
    """Spread for which the interval of independent values, by Student or by ranks, would be as wide as it is."""
    n = runs.shape[1]
    if regime.together > 1:
        return spread
    if name == "mean":
        return student_t((1 + CONFIDENCE) / 2, n - 1) / 1.96 * float(np.median(runs.std(axis=1, ddof=1))) / n**0.5
    ranks = order_ranks(n, LEVELS[name])
    assert ranks is not None
    ordered = np.sort(runs, axis=1)
    return float(np.median(ordered[:, ranks[1] - 1] - ordered[:, ranks[0] - 1])) / (2 * 1.96)


def _shows(pairs: list[Interval], spread: float) -> bool:
    return len(pairs) >= LEAST_SHOWN * RUNS and _width(pairs, spread) <= WIDEST
