"""Which requests a page holds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.results.request_table import COMPLETED, FAILED
from reports.request_sample import sample_requests, slower_than, slowest


def frame(count, failing=0.0, stages=1, seed=0):
    """A `latency_frame` of seeded requests, as much of it as is read."""
    rng = np.random.default_rng(seed)
    failed = rng.random(count) < failing
    return pd.DataFrame(
        {
            "place": rng.integers(0, stages, count),
            "status": np.where(failed, FAILED, COMPLETED),
            "phase": "measured",
            "due_s": rng.permutation(count).astype(float),
            "sent_s": np.arange(count, dtype=float),
            "ttft": np.where(failed, np.nan, rng.exponential(1.0, count)),
            "in_window": ~failed,
        }
    )


@given(st.integers(0, 300), st.floats(0, 1), st.integers(1, 4), st.integers(8, 80))
def test_a_sample_is_whole_or_as_large_as_allowed(count, failing, stages, most):
    """All requests where they fit, else exactly as many as allowed at most; each once, in the order of due times."""
    requests = frame(count, failing, stages)
    sample = sample_requests(requests, "ttft", most)

    assert len(sample.rows) <= most or sample.is_whole
    assert sample.is_whole == (count <= most)
    assert len(set(sample.rows.tolist())) == len(sample.rows)
    assert requests["due_s"].iloc[sample.rows].is_monotonic_increasing


def test_failures_and_the_slowest_come_first():
    """Where they fit their share every one is held, and the rest is spread over the whole run."""
    requests = frame(5000, failing=0.02, stages=3)
    sample = sample_requests(requests, "ttft", 1000)
    failed = np.flatnonzero(requests["status"] == FAILED)
    places = np.sort(requests["due_s"].to_numpy()[sample.rows])

    assert np.isin(failed, sample.rows).all()
    assert np.isin(np.flatnonzero(sample.slow), sample.rows).all()
    assert len(sample.rows) == 1000
    assert np.diff(places).max() <= 7


def test_a_run_that_failed_still_shows_what_was_answered():
    """Failures take half of the places at most."""
    requests = frame(5000, failing=0.9)
    sample = sample_requests(requests, "ttft", 400)
    statuses = requests["status"].iloc[sample.rows]

    assert (statuses == FAILED).sum() >= 200
    assert (statuses == COMPLETED).sum() >= 20


def test_a_rank_is_the_share_of_faster_requests():
    """Of the counted requests of the same stage, counted one by one; none for others."""
    requests = frame(120, failing=0.2, stages=2)
    ranks = slower_than(requests, "ttft")
    for row in range(len(requests)):
        same = requests["in_window"] & (requests["place"] == requests["place"][row])
        expected = (requests["ttft"][same] < requests["ttft"][row]).mean() if requests["in_window"][row] else np.nan

        assert ranks[row] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_the_slowest_are_a_hundredth_of_each_stage(count, expected):
    """One of a hundred, rounded up, by the latency named; those are the largest."""
    requests = pd.concat([frame(count), frame(count, seed=1).assign(place=1)], ignore_index=True)
    slow = slowest(requests, "ttft")

    assert [int(slow[requests["place"] == place].sum()) for place in (0, 1)] == [expected, expected]
    assert (
        requests["ttft"][slow & (requests["place"] == 0)].min()
        >= requests["ttft"][~slow & (requests["place"] == 0)].max()
        or count == 1
    )
