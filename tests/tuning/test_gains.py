"""A winner is called better only where it is, and by how much."""

import math

import numpy as np
import pytest

from harness.tuning.gains import choose_winner, drift_warning, estimate_gain, gains_over_default
from harness.tuning.types import MINIMISE, StudyObjective

RATE, LATENCY = StudyObjective("throughput"), StudyObjective("ttft_p99", MINIMISE)


def test_a_gain_is_said_with_its_interval():
    """18 % better in each round, with a little noise."""
    base = [100.0, 102.0, 98.0, 101.0]
    own = [118.0, 121.0, 115.0, 120.0]
    found = estimate_gain(base, own, RATE)

    assert found.shown
    assert str(found.message) == "100 → 118 tokens/s (×1.18, 95 % CI 1.17-1.19)"
    assert (found.worst, found.best) == (115.0, 121.0)


def test_no_difference_is_said_so():
    """1 % between noisy runs."""
    found = estimate_gain([100.0, 90.0, 110.0], [99.0, 95.0, 108.0], RATE)

    assert not found.shown
    assert str(found.message).startswith("no significant difference: 99.7 → 101 tokens/s (×1.01, 95 % CI ")


def test_of_a_latency_less_is_a_gain():
    """Half the TTFT is twice as good, and said as the ratio of the times; the worst run is the slowest."""
    found = estimate_gain([2.0, 2.0, 2.0], [1.0, 1.01, 0.99], LATENCY)

    assert found.ratio == pytest.approx(2.0, rel=0.01)
    assert found.worst == 1.01
    assert str(found.message) == "2.00 → 1.00 s (×0.500, 95 % CI 0.488-0.513)"


def test_a_loss_is_said_too():
    """Worse, and surely so."""
    found = estimate_gain([100.0, 101.0, 99.0], [80.0, 82.0, 78.0], RATE)

    assert not found.shown
    assert str(found.message) == "100 → 80.0 tokens/s (×0.800, 95 % CI 0.771-0.830)"


@pytest.mark.parametrize("failed", [None, math.inf, 0.0, math.nan])
def test_a_round_that_failed_is_not_left_out_quietly(failed):
    """A candidate that died once was not shown to be better."""
    found = estimate_gain([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, failed], RATE)

    assert not found.shown
    assert str(found.message) == "no gain measured: 1 of 4 rounds failed"


def test_two_rounds_are_too_few():
    """They are shown, without a claim."""
    found = estimate_gain([1.0, 1.0], [2.0, 2.1], RATE)

    assert not found.shown
    assert "too few for an interval" in str(found.message)
    assert str(estimate_gain([], [], RATE).message) == "no gain measured: no round was run"


def test_of_equals_few_are_called_winners():
    """A/A of three candidates, 400 times: at most 5 % of confirmations claim a gain that is none (two-sided 5 %)."""
    rng = np.random.default_rng(9)
    claims = 0
    for _ in range(400):
        values = {who: np.exp(rng.normal(0, 0.05, 4)).tolist() for who in range(4)}
        claims += choose_winner(gains_over_default(values, RATE)) != 0

    assert claims / 400 <= 0.05


def test_more_candidates_ask_for_more():
    """The same rounds, held against the default alone or beside four others."""
    base, own = [100.0, 101.0, 99.0, 100.0], [106.0, 104.0, 103.0, 108.0]

    assert estimate_gain(base, own, RATE, compared=5).low < estimate_gain(base, own, RATE).low


def test_the_best_that_is_shown_is_taken():
    """Not the one with the largest mean, whose rounds differ too much."""
    base = [100.0, 101.0, 99.0, 100.0]
    values = {0: base, 1: [110.0, 111.0, 109.0, 110.0], 2: [90.0, 190.0, 80.0, 150.0]}

    assert choose_winner(gains_over_default(values, RATE)) == 1
    assert choose_winner({}) == 0


def test_a_drift_of_the_machine_is_told():
    """The default slows down from round to round."""
    rng = np.random.default_rng(1)
    steady = rng.normal(100, 1, 8)

    assert drift_warning(steady.tolist()) is None
    assert "changed by \u2212" in str(drift_warning((steady - 5 * np.arange(8)).tolist()))
    assert drift_warning([1.0, 2.0]) is None


def test_the_ratio_is_that_of_the_two_values():
    """What is printed can be checked by hand; the values are geometric means, in one unit."""
    found = estimate_gain([0.010, 0.012, 0.011], [0.005, 0.0065, 0.0055], LATENCY)
    ratio, low, high = found.change

    assert ratio == pytest.approx(found.after / found.before)
    assert low < ratio < high < 1 < found.low
    assert str(found.message).startswith("11.0 → 5.63 ms (×0.514, 95 % CI ")


def test_what_has_no_unit_is_said_without():
    """Such as a cost, whose currency nobody named."""
    found = estimate_gain([3.0, 3.0, 3.0], [2.0, 2.01, 1.99], StudyObjective("cost", MINIMISE))

    assert str(found.message).startswith("3.00 → 2.00 (×0.667")


@pytest.mark.parametrize("rounds", [3, 5, 8])
def test_the_interval_of_the_ratio_covers_the_truth(rounds):
    """Of 2,000 confirmations of a gain of 1.37 under noise shared by a round and noise of each run, 95 % hold it."""
    rng = np.random.default_rng(rounds)
    covered = 0
    for _ in range(2000):
        shared = rng.normal(0, 0.10, rounds)
        base = np.exp(shared + rng.normal(0, 0.03, rounds))
        own = 1.37 * np.exp(shared + rng.normal(0, 0.03, rounds))
        found = estimate_gain(base.tolist(), own.tolist(), RATE)
        covered += found.low <= 1.37 <= found.high

    assert 0.935 <= covered / 2000 <= 0.965
