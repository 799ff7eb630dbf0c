"""The number of requests in flight, on average and at most."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.in_flight import mean_in_flight, most_in_flight

intervals = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=30)


def _parts(pairs):
    starts = np.asarray([start for start, _ in pairs])
    return starts, starts + np.asarray([length for _, length in pairs])


@given(intervals, st.integers(1, 9))
def test_the_mean_is_that_of_counting_at_every_moment(pairs, bins):
    """The time-weighted mean of a bin is the mean over its unit steps."""
    starts, ends = _parts(pairs)
    edges = np.arange(bins + 1) * 20.0 - 10
    at = np.arange(-10, -10 + 20 * bins)
    counts = [((starts <= t) & (ends > t)).sum() for t in at]

    assert mean_in_flight(starts, ends, edges) == pytest.approx(np.reshape(counts, (bins, 20)).mean(axis=1), abs=1e-9)


@given(intervals, st.integers(0, 60), st.integers(0, 100))
def test_the_most_is_that_of_counting_at_every_moment(pairs, first, length):
    """The largest number within a stretch is the largest of all moments' counts."""
    starts, ends = _parts(pairs)
    counts = [((starts <= t) & (ends > t)).sum() for t in range(first, first + length + 1)]

    assert most_in_flight(starts, ends, first, first + length) == max(counts)


def test_nothing_under_way_is_zero():
    """Without intervals every mean is zero."""
    nothing = np.zeros(0, dtype=np.int64)

    assert mean_in_flight(nothing, nothing, np.asarray([0.0, 1.0, 2.0])).tolist() == [0.0, 0.0]
    assert most_in_flight(nothing, nothing, 0, 10) == 0
