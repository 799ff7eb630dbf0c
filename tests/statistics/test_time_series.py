"""How many independent values a series is worth, where it settles, and its trend."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.queues import autoregressive
from harness.statistics import time_series as module
from harness.statistics.time_series import autocorrelation_of, correlations, variance_factor


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=60).filter(lambda values: np.ptp(values) > 1e-3))
def test_correlations_are_those_of_the_plain_sum(values):
    """At each lag the sum of products about the mean, over that at lag 0."""
    left = np.asarray(values) - np.mean(values)
    want = [left[lag:] @ left[: len(left) - lag] / (left @ left) for lag in range(len(left))]

    assert correlations(np.asarray(values)) == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(("phi", "times"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
@pytest.mark.parametrize("n", [8000, 64000])
def test_a_long_series_is_worth_what_its_correlations_say(phi, times, n):
    """A first-order autoregression: (1 + phi) / (1 - phi) values do for one, also where it is looked at in means."""
    values = autoregressive(phi, n, 4, np.random.default_rng(1))
    found = [autocorrelation_of(one) for one in values]

    assert np.median([one.times for one in found]) == pytest.approx(times, rel=0.35, abs=0.3)
    assert np.median([variance_factor(one) for one in values]) == pytest.approx(times, rel=0.25, abs=0.2)
    assert [one.alike for one in found].count(phi > 0) >= 3


def test_values_that_do_not_vary_resemble_nothing():
    """A constant is worth all of its values, and so is a series of two."""
    assert autocorrelation_of(np.full(50, 3.0)).times == 1
    assert autocorrelation_of(np.asarray([1.0, 2.0])).times == 1


def test_values_that_take_turns_are_worth_no_more_than_independent_ones():
    """High and low in turns know their mean better than chance would; that is not made use of."""
    found = autocorrelation_of(np.tile([1.0, 2.0], 200))

    assert found.times == 1
    assert found.effective == 400


def test_ties_do_not_pass_for_order():
    """Values that are mostly nothing, now and then more, are independent: equal values share their rank."""
    values = (np.random.default_rng(3).random(2000) < 0.1).astype(float)

    assert not autocorrelation_of(values).alike


def test_a_drift_shows_in_few_batches_though_neighbours_hide_it():
    """A slow wave of a tenth of the noise is found by the means of its batches."""
    noise = np.random.default_rng(4).standard_normal(4000)
    found = autocorrelation_of(noise + 0.3 * np.sin(np.arange(4000) / 4000 * 6.28))

    assert found.alike
    assert found.times > 3


def test_what_resembles_itself_is_widened_and_must_be_long():
    """Independent values need thirty and are not widened; others sixty and more if short; the factor falls to 1."""
    independent = module.Autocorrelation(100, 1.2, alike=False)
    near, far = (module.Autocorrelation(n, 10.0, alike=True) for n in (600, 6000))

    assert independent.widening(1.5) == 1
    assert independent.lacking < 1
    assert (
        module.Autocorrelation(724, 10.0, alike=True).lacking
        > 1
        >= module.Autocorrelation(725, 10.0, alike=True).lacking
    )
    assert near.widening(1.0) == pytest.approx(1.9)
    assert far.widening(1.0) == pytest.approx(1.09)
