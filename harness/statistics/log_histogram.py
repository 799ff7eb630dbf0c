"""A histogram with buckets of equal relative width: quantiles of a stream to a known relative error.

The buckets are those of HdrHistogram: each octave of nanoseconds in 64 equal parts, which is the exponent and the
first six bits of a float64, so that a value finds its bucket by a shift. A bucket stands for the value that is nearest
to all in it, in relative terms (DDSketch; Masson, Rim and Lee, VLDB 2019, section 2). Histograms of several processes
are added up without any further error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PARTS_BITS = 6
RELATIVE_ERROR = 1 / (2 << _PARTS_BITS)  # half a part of an octave: 0.78 %
_SHIFT = 52 - _PARTS_BITS
_LEAST_NS, _MOST_NS = 1.0, 2.0**48  # up to three days


def _place(time_ns: float) -> int:
    return int(np.asarray([time_ns], dtype=np.float64).view(np.int64)[0]) >> _SHIFT


_FIRST = _place(_LEAST_NS)
_BUCKETS = _place(_MOST_NS) - _FIRST + 1


class LogHistogram:
    """Times by their size; a quantile is off by at most 0.8 % of itself from 1 ns to three days."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: NDArray[np.float64] = np.zeros(_BUCKETS)

    def add(self, times_ns: NDArray[Any], weights: NDArray[np.float64] | None = None) -> None:
        """Count times in ns, each as many times as its weight says; what lies beyond the range counts at its end."""
        if len(times_ns):
            places = np.clip(times_ns, _LEAST_NS, _MOST_NS).astype(np.float64).view(np.int64)
            places >>= _SHIFT
            places -= _FIRST
            self.counts += np.bincount(places, weights, minlength=_BUCKETS)

    def merge(self, other: "LogHistogram") -> None:
        """Add the counts of another."""
        self.counts += other.counts

    @property
    def n(self) -> int:
        """How many values were counted."""
        return round(float(self.counts.sum()))

    def quantile(self, share: float) -> float | None:
        """The time in seconds that a share (0 to 1) of all lie at or below; None where there is none."""
        total = float(self.counts.sum())
        if total < 0.5:
            return None
        place = int(np.searchsorted(np.cumsum(self.counts), max(share * total, 0.5) - 1e-6))
        ends = np.asarray([place, place + 1], dtype=np.int64) + _FIRST
        low, high = (ends << _SHIFT).view(np.float64)
        return float(2 * low * high / (low + high)) * 1e-9

    def as_dict(self) -> dict[str, list[int]]:
        """The buckets that hold something, as JSON keeps them."""
        places = np.flatnonzero(self.counts)
        return {"places": places.tolist(), "counts": np.rint(self.counts[places]).astype(int).tolist()}


def histogram_from(kept: Mapping[str, Sequence[int]] | Any) -> LogHistogram:
    """A histogram from what `as_dict` made of it."""
    histogram = LogHistogram()
    histogram.counts[kept["places"]] = kept["counts"]
    return histogram
