"""Histograms with buckets of equal relative width, against exact order statistics."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.log_histogram import RELATIVE_ERROR, LogHistogram, histogram_from

TIMES = st.lists(st.floats(1e-9, 1e5), min_size=1, max_size=300)
SHARES = st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0])


def _histogram(times, weights=None):
    histogram = LogHistogram()
    histogram.add(np.asarray(times, dtype=np.float64) * 1e9, None if weights is None else np.asarray(weights, float))
    return histogram


def _exact(times, share):
    """The least value that at least a share of all lie at or below."""
    return float(np.quantile(np.asarray(times), share, method="inverted_cdf"))


@given(TIMES, SHARES)
def test_a_quantile_is_off_by_at_most_its_stated_error(times, share):
    """Of itself, against the sample's own order statistic, whatever the times."""
    quantile = _histogram(times).quantile(share)

    assert quantile == pytest.approx(_exact(times, share), rel=RELATIVE_ERROR * 1.0001)


@given(TIMES, TIMES, SHARES)
def test_merging_loses_nothing(some, others, share):
    """Two processes' histograms together are the histogram of all, also after a way through JSON."""
    merged = histogram_from(json.loads(json.dumps(_histogram(some).as_dict())))
    merged.merge(_histogram(others))

    assert merged.n == len(some) + len(others)
    assert merged.quantile(share) == _histogram([*some, *others]).quantile(share)


@given(st.lists(st.tuples(st.floats(1e-4, 10.0), st.integers(1, 5)), min_size=1, max_size=60), SHARES)
def test_a_weight_counts_a_time_as_often(pairs, share):
    """A gap that stands for k tokens is k gaps."""
    times, weights = zip(*pairs, strict=True)

    weighted = _histogram(times, weights)

    assert weighted.quantile(share) == _histogram(np.repeat(times, weights)).quantile(share)


def test_nothing_has_no_quantile_and_what_is_beyond_the_range_counts_at_its_end():
    """None where nothing was counted; 0 s and a week are counted, too."""
    histogram = _histogram([0.0, 7 * 86400.0])

    assert LogHistogram().quantile(0.5) is None
    assert histogram.n == 2
    assert histogram.quantile(0.0) == pytest.approx(1e-9, rel=0.01)
    assert histogram.quantile(1.0) == pytest.approx(2**48 * 1e-9, rel=0.01)
