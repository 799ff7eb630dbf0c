"""What do the latencies of a closed loop say of its rates?

Users who send their next request as soon as they have the answer bring, all together, users × what an answer
brings / how long it takes (the interactive response time law without think time, from J. D. C. Little, "A Proof for
the Queuing Formula L = λW", Operations Research 9, 1961). So rates can be compared request by request: of two
loads with the same requests, what a long answer costs the one it costs the other as well.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.tune.words import Measurement

Floats = NDArray[np.float64]
COUNTED = {"throughput": "tokens", "goodput": "good", "request_rate": None}
"""Objectives that are rates, and the series that says what an answered request counts (None: one)."""
_RESOLUTION_S = 1e-6
_LATEST = 10.0  # mean latencies: as late counts what failed


@dataclass(frozen=True, slots=True)
class Shared:
    """The requests that both loads have answered, in the order of the first one's answers, but for the first wave.

    `own_s` and `other_s` are how long each took (seconds), `own` and `other` what each brought.
    """

    own_s: Floats
    other_s: Floats
    own: Floats
    other: Floats

    @property
    def ratio(self) -> float:
        """By which factor the first load's users bring more than the other's; NaN where that cannot be told."""
        own, other = float(self.own.sum()), float(self.other.sum())
        spent, others = float(self.own_s.sum()), float(self.other_s.sum())
        return own / spent * others / other if spent > 0 and other > 0 else math.nan


def shared(load: Measurement, other: Measurement, objective: str) -> Shared:
    """What two closed loops under the same seed have both answered.

    Without what the other's users sent before its first answer: they come all at once, and who of them is answered
    first has not waited, whatever the queue will be.
    """
    count = min(len(load.series["done"]), len(other.series["done"]))
    done, others = (_series(one, "done")[:count] for one in (load, other))
    first_s = float(np.nanmin(_series(other, "done"), initial=math.inf))
    with np.errstate(invalid="ignore"):  # what failed has no time, and is not later than anything
        later = others - _series(other, "e2e")[:count] >= first_s - _RESOLUTION_S
    rows = np.flatnonzero(~np.isnan(done) & ~np.isnan(others) & later)
    rows = rows[np.argsort(done[rows], kind="stable")]
    late_s = _LATEST * _mean_s(other)
    own_s, other_s = (np.nan_to_num(_series(one, "e2e")[rows], nan=late_s, posinf=late_s) for one in (load, other))
    own, brought = (_brought(one, objective)[rows] for one in (load, other))
    return Shared(own_s, other_s, own, brought)


def _series(load: Measurement, name: str) -> Floats:
    return np.asarray(load.series[name], dtype=np.float64)


def _mean_s(load: Measurement) -> float:
    taken = _series(load, "e2e")
    known = taken[np.isfinite(taken)]
    return float(known.mean()) if len(known) else 0.0


def _brought(load: Measurement, objective: str) -> Floats:
    """What each request brought: nothing where it failed."""
    series = COUNTED[objective]
    values = np.ones(len(load.series["done"])) if series is None else np.nan_to_num(_series(load, series))
    return np.where(np.isfinite(_series(load, "done")), values, 0.0)


def shortfalls(load: Measurement, other: Measurement, objective: str, margin: float = 0.0) -> Floats:
    """By how much less each request brings for the time that it takes than it did in the other load.

    With the rate of one of the other's users after its first wave, a request falls short by rate × its time - what
    it brings. Over all of the other load that adds up to nothing, and over all of this one it is above 0 where the
    rate is lower by more than `margin`. Of the same request subtracted, what the request itself is due to is gone.
    In the other's mean of what a request brings; empty where that is nothing.
    """
    pairs, whole = shared(load, other, objective), shared(other, other, objective)
    spent, brought = float(whole.own_s.sum()), float(whole.own.sum())
    if not spent > 0 or not brought > 0:
        return np.zeros(0)
    rate = brought / spent
    own = rate / (1 + margin) * pairs.own_s - pairs.own
    return np.asarray((own - (rate * pairs.other_s - pairs.other)) / whole.own.mean())
