"""Does the process follow what was observed, and does it know what it has not seen?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tuning.surrogate import expected_gain, fit, matern, normalised


def test_observed_points_are_remembered():
    """Without noise, the mean passes near the observations and the deviation is small there."""
    rows = np.linspace(0, 1, 9)[:, None]
    values = np.sin(4 * rows[:, 0])
    mean, deviation = fit(rows, values).at(rows)

    assert np.abs(mean - values).max() < 0.05
    assert deviation.max() < 0.2


def test_far_from_observations_it_is_unsure():
    """The deviation grows with the distance."""
    rows = np.asarray([[0.0], [0.1], [0.2], [0.3]])
    _, deviation = fit(rows, np.asarray([0.0, 1.0, 0.0, 1.0])).at(np.asarray([[0.1], [1.0]]))

    assert deviation[1] > 1.5 * deviation[0]


def test_a_cheap_source_carries_what_the_observations_do_not_show():
    """Where the twin is right up to a constant, its word is followed far from every observation."""
    rng = np.random.default_rng(1)
    rows, everywhere = rng.random((6, 3)), rng.random((40, 3))

    def truth(x):
        return 3 * (x[:, 0] - 0.3) ** 2 + x[:, 1]

    mean, _ = fit(rows, truth(rows) + 5, truth(rows)).at(everywhere, truth(everywhere))

    assert np.corrcoef(mean, truth(everywhere))[0, 1] > 0.98


def test_what_is_doubted_bends_the_mean_less():
    """Of two processes through the same outlier, the one that was told to doubt it stays nearer to the rest."""
    rows = np.linspace(0, 1, 9)[:, None]
    values = np.where(np.arange(9) == 4, 3.0, np.arange(9) / 8)
    doubt = np.where(np.arange(9) == 4, 3.0, 0.0)
    here = rows[[4]]

    assert fit(rows, values, None, doubt).at(here)[0][0] < fit(rows, values).at(here)[0][0] - 0.3


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_the_correlation_is_that_of_a_distance(seed):
    """1 at no distance, symmetric, falling, and positive definite."""
    rows = np.random.default_rng(seed).random((6, 2))
    found = matern(rows, rows, np.asarray([0.5, 0.5]))

    assert np.allclose(np.diag(found), 1)
    assert np.allclose(found, found.T)
    assert np.linalg.eigvalsh(found).min() > -1e-9


def test_the_expected_gain_is_the_mean_of_gains():
    """The closed form is the average over draws."""
    draws = np.random.default_rng(0).normal(0.2, 0.5, 400_000)
    gain = expected_gain(np.asarray([0.2]), np.asarray([0.5]), 0.1)[0]

    assert gain == pytest.approx(np.maximum(0.1 - draws, 0).mean(), rel=0.01)


def test_infinite_costs_are_worse_than_all_finite_ones():
    """They take part, and stay comparable."""
    found = normalised([1.0, float("inf"), 3.0])

    assert found.tolist() == [1.0, 5.0, 3.0]
