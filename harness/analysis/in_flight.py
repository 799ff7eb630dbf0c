"""Numbers in flight, on average and at most.

Pure: intervals given by their starts and ends (same unit, any order, end >= start).
"""

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]


def mean_in_flight(starts: Times, ends: Times, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Time-weighted mean number under way in each bin [edges[i], edges[i + 1]).

    The integral of a step function: every start adds a ramp, every end takes one away.
    """
    if len(starts) == 0:
        return np.zeros(len(edges) - 1)
    zero = int(edges[0])  # sums of times since then stay exact in a float64
    area = _ramps(starts - zero, edges - zero) - _ramps(ends - zero, edges - zero)
    return np.asarray(np.diff(area) / np.diff(edges))


def _ramps(corners: Times, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over corners of max(0, at - corner)."""
    ordered = np.sort(corners)
    passed = np.searchsorted(ordered, at, side="right")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    return np.asarray(passed * at - sums[passed])


def most_in_flight(starts: Times, ends: Times, first: int, last: int) -> int:
    """Largest number under way at once within [first, last]; one that ends as another starts makes room for it."""
    moments = np.append(starts[(starts > first) & (starts <= last)], first)
    begun = np.searchsorted(np.sort(starts), moments, side="right")
    over = np.searchsorted(np.sort(ends), moments, side="right")
    return int((begun - over).max())
