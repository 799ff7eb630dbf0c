"""Percentiles, intervals and tests of series are what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.intervals import (
    batch_error,
    batch_starts,
    order_ranks,
    percentile_of,
    percentile_with_failures,
    samples_needed,
    student_t,
)
from harness.statistics.time_series import mser5_truncate, trend

numbers = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@given(numbers, st.floats(0, 100))
def test_percentiles_are_those_of_numpy(values, percent):
    """A percentile of sorted values is numpy's linear one."""
    ours = percentile_of(np.sort(values), percent)

    assert ours == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


@given(numbers, st.integers(0, 50), st.floats(0, 100))
def test_a_failure_counts_as_an_infinite_value(values, failures, percent):
    """With failures the percentile is numpy's wherever both neighbours are finite, else infinite."""
    ours = percentile_with_failures(np.asarray(values), failures, percent)
    at = (len(values) + failures - 1) * percent / 100
    pushed = np.percentile([*values, *[1e9] * failures], percent)

    assert math.isinf(ours) == (math.ceil(at) >= len(values))
    assert math.isinf(ours) or ours == pytest.approx(pushed, rel=1e-9, abs=1e-9)


def test_nothing_has_no_percentile():
    """Without values and failures there is no number; with failures only it is infinite."""
    nothing = np.zeros(0)

    assert percentile_with_failures(nothing, 0, 99) is None
    assert percentile_with_failures(nothing, 1, 50) == math.inf


@pytest.mark.parametrize(
    ("probability", "dof", "value"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 4, 2.77645),
        (0.95, 7, 1.89458),
        (0.995, 10, 3.16927),
        (0.975, 30, 2.04227),
        (0.95, 120, 1.65765),
        (0.975, 1e6, 1.95997),
        (0.025, 4, -2.77645),
    ],
)
def test_student_t_agrees_with_the_tables(probability, dof, value):
    """Quantiles of Student's t are those of printed tables."""
    assert student_t(probability, dof) == pytest.approx(value, abs=1e-5 * abs(value))


@given(st.integers(1, 1500), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_order_ranks_leave_at_most_a_fortieth_on_each_side(n, level):
    """The ranks are the innermost whose binomial tails are at most 2.5 %, and exist exactly where any do."""
    pmf = [math.exp(_log_choose(n, k) + k * math.log(level) + (n - k) * math.log(1 - level)) for k in range(n + 1)]
    cdf = np.cumsum(pmf)
    possible = pmf[0] <= 0.025 and pmf[n] <= 0.025
    ranks = order_ranks(n, level)

    assert (ranks is not None) == possible
    if ranks is not None:
        low, high = ranks
        assert cdf[low - 1] <= 0.025 + 1e-9
        assert cdf[low] > 0.025 - 1e-9
        assert cdf[high - 1] >= 0.975 - 1e-9
        assert cdf[high - 2] < 0.975 + 1e-9


def _log_choose(n, k):
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def test_order_ranks_agree_with_the_sign_test():
    """Ten values bound their median by the second and the ninth, six by the first and the last, five not at all."""
    assert order_ranks(10, 0.5) == (2, 9)
    assert order_ranks(6, 0.5) == (1, 6)
    assert order_ranks(5, 0.5) is None


@pytest.mark.parametrize(("percent", "needed"), [(50, 5), (90, 29), (95, 59), (99, 299), (99.9, 2995)])
def test_samples_needed_is_the_least_that_bounds(percent, needed):
    """So many values exceed the quantile with 95 %, and one fewer does not."""
    level = percent / 100

    assert samples_needed(percent) == needed
    assert level**needed <= 0.05 < level ** (needed - 1)


@given(st.integers(1, 5000))
def test_batches_cover_all_values_in_equal_parts(n):
    """Batches begin at 0, differ in size by at most one, and number at most thirty."""
    sizes = np.diff(np.append(batch_starts(n), n))

    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1
    assert len(sizes) <= 30


def _autoregressive(n, phi, rng):
    noise = rng.standard_normal(n) * math.sqrt(1 - phi**2)
    noise[0] = rng.standard_normal()
    values = np.empty(n)
    last = 0.0
    for i in range(n):
        last = values[i] = phi * last + noise[i]
    return values


def test_the_batch_error_is_that_of_a_mean_unless_neighbours_resemble_each_other():
    """Alternating batches have the plain standard error; pairs of like ones a larger one, by (1 + r) / (1 - r)."""
    counts = np.full(20, 10.0)
    apart, alike = np.tile([5.0, 7.0], 10), np.tile([5.0, 5.0, 7.0, 7.0, 7.0], 4)
    left = alike - alike.mean()
    r = (left[:-1] @ left[1:]) / (left @ left)

    assert batch_error(apart, counts) == pytest.approx(np.std(apart / 10, ddof=1) / math.sqrt(20))
    assert r > 0.1
    plain = np.std(alike / 10, ddof=1) / math.sqrt(20)
    assert batch_error(alike, counts) == pytest.approx(plain * math.sqrt((1 + r) / (1 - r)))


@given(st.integers(5, 120), st.floats(3, 100))
def test_mser_finds_the_step_of_a_step_series(start_up, height):
    """A high start before a level stretch is cut where it ends, to within one mean of five."""
    ripple = 0.1 * (-1.0) ** np.arange(250)
    series = np.concatenate([np.full(start_up, height), np.zeros(250 - start_up)]) + ripple
    found = mser5_truncate(series)

    assert start_up <= found.at <= start_up + 5
    assert found.shift > 3
    assert found.before > found.after


def test_mser_of_a_constant_series_cuts_nothing():
    """Without noise and without a step there is nothing to cut, nor in a series too short for two halves."""
    assert mser5_truncate(np.full(250, 3.0)).at == 0
    assert mser5_truncate(np.asarray([9.0, 1.0, 1.0])).at == 0


def test_a_cut_of_level_noise_is_rarely_sure():
    """MSER-5 may cut a level series, but such a cut is seldom three standard errors wide."""
    rng = np.random.default_rng(13)
    sure = [mser5_truncate(_autoregressive(250, 0.9, rng)).shift > 3 for _ in range(200)]

    assert np.mean(sure) < 0.06


@given(st.floats(-100, 100), st.floats(-10, 10), st.integers(3, 200))
def test_a_line_is_found_exactly(first, slope, n):
    """The ends of a straight line are its own ends."""
    found = trend(first + slope * np.arange(n))

    assert found.first == pytest.approx(first, abs=1e-6)
    assert found.last == pytest.approx(first + slope * (n - 1), abs=1e-6)


def test_level_noise_has_no_trend_and_a_slope_has():
    """At three standard errors noise alone is hardly ever a trend, and a clear slope always is one."""
    rng = np.random.default_rng(14)
    level = [abs(trend(_autoregressive(50, 0.5, rng)).significance) > 3 for _ in range(300)]
    rising = [trend(_autoregressive(50, 0.5, rng) + 0.2 * np.arange(50)).significance > 3 for _ in range(50)]

    assert np.mean(level) < 0.04
    assert all(rising)
