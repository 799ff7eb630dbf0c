"""Arrival processes: when each request of a stage is due.

All due times are drawn before the stage starts and never rescaled: the count of a stage that
lasts so long is as random as its process is. The same generator state gives the same times, and
a longer stage only appends to a shorter one.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.messages import message
from harness.plugins import ARRIVALS, Plugin, plugin_of
from harness.scenario.stages import Stage
from harness.units import NS_PER_S, seconds_to_ns

MAX_ARRIVALS = 10_000_000
_BLOCK = 4096  # gaps are drawn so many at a time, whatever the length: that makes a longer stage append

DrawGaps = Callable[[int], NDArray[np.float64]]


def due_times(
    stage: Stage, rng: np.random.Generator, *, trace_due_ns: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Due times of an open-loop stage in ns from its start, ascending, within [0, duration).

    `trace_due_ns` are the arrivals of the workload's trace, for a stage of kind trace. The
    result may be empty where the expected count is small.

    Raises:
        InputError: where the stage makes over ten million requests.
    """
    assert stage.is_open, stage.kind  # answers drive a closed stage
    if stage.kind == "trace":
        due_ns = _replayed(stage, trace_due_ns)
    else:
        _refuse_too_many(_expected(stage))
        due_ns = np.rint(_times_s(stage, rng) * NS_PER_S).astype(np.int64)
    if stage.duration_s is not None:
        due_ns = due_ns[: np.searchsorted(due_ns, seconds_to_ns(stage.duration_s))]
    return due_ns[: stage.requests]


def _times_s(stage: Stage, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrival times in seconds, by the process of the stage's kind; a package's is held to what it promises.

    Raises:
        InputError: where they are not ascending times from 0 on.
    """
    process = plugin_of(ARRIVALS, PROCESSES, stage.kind)
    if stage.options is None:
        built_in: NDArray[np.float64] = process.factory(stage, rng)
        return built_in
    times_s = np.asarray(process.factory(process.options.model_validate(stage.options), rng), dtype=np.float64)
    _refuse_too_many(times_s.size)
    if times_s.ndim != 1 or not np.isfinite(times_s).all() or (np.diff(times_s, prepend=0.0) < 0).any():
        raise InputError(message("plugins.times", name=stage.kind))
    return times_s


def _expected(stage: Stage) -> float:
    return stage.expected_requests or 0.0


def _refuse_too_many(count: float) -> None:
    if count > MAX_ARRIVALS:
        raise InputError(message("workload.stage_too_long", requests=count, most=MAX_ARRIVALS))


def _constant(stage: Stage, _rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrival k is due k / rate after the start."""
    return np.arange(math.ceil(_expected(stage)) + 1) / (stage.rate or 1.0)


def _gamma(stage: Stage, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaps ~ Gamma(shape, mean 1/rate), squared variation 1/shape; shape 1 is Poisson.

    The first arrival follows a gap that began before the start: uniform in a length-biased gap,
    Gamma(shape + 1) (the forward recurrence time of a renewal process, Cox 1962). The rate is
    therefore as asked from the first second on, however bursty the process is.
    """
    shape = stage.burstiness or 1.0
    scale_s = 1.0 / (shape * (stage.rate or 1.0))
    first_s = float(rng.uniform() * rng.gamma(shape + 1.0, scale_s))
    end_s = math.inf if stage.duration_s is None else stage.duration_s
    return _summed(first_s, lambda n: rng.gamma(shape, scale_s, n), end_s, stage.requests)


def _ramp(stage: Stage, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrivals of rate from + (to - from) t / duration, by inverting the cumulative rate.

    Unit-rate Poisson arrivals u are mapped to the t where from t + slope t²/2 = u, written so
    that nothing cancels when the slope is small.
    """
    start, duration_s = stage.rate or 0.0, stage.duration_s or 0.0
    slope = ((stage.rate_to or 0.0) - start) / duration_s
    unit = _summed(float(rng.exponential()), rng.standard_exponential, _expected(stage), None)
    return 2.0 * unit / (start + np.sqrt(np.maximum(start * start + 2.0 * slope * unit, 0.0)))


def _summed(first: float, draw: DrawGaps, end: float, most: int | None) -> NDArray[np.float64]:
    """Running sums of gaps from `first` on, up to `end` or at least `most` of them."""
    blocks, last, count = [np.array([first])], first, 1
    while last < end and count < (MAX_ARRIVALS + 1 if most is None else most):
        sums = last + np.cumsum(draw(_BLOCK))
        blocks.append(sums)
        last, count = float(sums[-1]), count + _BLOCK
    sums = np.concatenate(blocks)
    sums = sums[: np.searchsorted(sums, end)]
    if most is None:
        _refuse_too_many(len(sums))
    return sums


def _replayed(stage: Stage, trace_due_ns: NDArray[np.int64] | None) -> NDArray[np.int64]:
    assert trace_due_ns is not None  # the loader refuses a trace stage without a workload of traces
    _refuse_too_many(len(trace_due_ns))
    return np.rint(trace_due_ns / (stage.speed or 1.0)).astype(np.int64)


PROCESSES: Mapping[str, Plugin] = {
    "constant": Plugin(Stage, _constant),
    "poisson": Plugin(Stage, _gamma),
    "gamma": Plugin(Stage, _gamma),
    "ramp": Plugin(Stage, _ramp),
}
