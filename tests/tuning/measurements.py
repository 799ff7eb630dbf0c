"""Measurements for tests of tuning, made by hand."""

import math

import numpy as np

from harness.tuning.types import Measurement

INFINITE = math.inf


def measured(done, *, ttft=None, tpot=None, good=None, tokens=100.0, seed=1, **metrics):
    """A measurement whose requests ended at these seconds."""
    count = len(done)
    span_s = float(np.nanmax(done)) if count else 0.0
    series = {
        "done": tuple(map(float, done)),
        "ttft": tuple(ttft if ttft is not None else [0.1] * count),
        "tpot": tuple(tpot if tpot is not None else [0.05] * count),
        "e2e": tuple([1.0] * count),
        "good": tuple(good if good is not None else [1.0] * count),
        "tokens": (tokens,) * count,
    }
    told = {"throughput": tokens * count / span_s if span_s else 0.0, **metrics}
    return Measurement(told, series, span_s, seed, simulated=True)


def paced(gaps):
    """A measurement whose requests end one after another with these gaps, in seconds."""
    return measured(np.cumsum(gaps))
