"""A winner is called better only where it is, and by how much."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tuning.confirmation import (
    choose_winner,
    confirmation_turns,
    drift_warning,
    estimate_gain,
    gains_over_default,
)
from harness.tuning.types import MINIMISE, StudyObjective

RATE, LATENCY = StudyObjective("throughput"), StudyObjective("ttft_p99", MINIMISE)


def test_turns_mirror_each_other_on_fresh_arrivals():
    """ABBA, and all of a round under the same seed."""
    order = confirmation_turns([0, 2, 1], rounds=2, seed=100)

    assert [turn.who for turn in order] == [0, 2, 1, 1, 2, 0]
    assert [turn.seed for turn in order] == [100, 100, 100, 101, 101, 101]


@given(st.integers(1, 4), st.integers(1, 8))
def test_a_linear_drift_cancels(candidates, pairs):
    """Over an even number of rounds everybody's mean place is the same."""
    places = {who: [] for who in range(candidates + 1)}
    for place, turn in enumerate(confirmation_turns(range(candidates + 1), 2 * pairs, 0)):
        places[turn.who].append(place)

    assert len({sum(found) for found in places.values()}) == 1


def test_a_gain_is_said_with_its_interval():
    """18 % better in each round, with a little noise."""
    base = [100.0, 102.0, 98.0, 101.0]
    own = [118.0, 121.0, 115.0, 120.0]
    found = estimate_gain(base, own, RATE)

    assert found.shown
    assert str(found.message) == "+18.2 % (95 % CI +17.1 to +19.3 %)"
    assert (found.worst, found.best) == (115.0, 121.0)


def test_no_difference_is_said_so():
    """1 % between noisy runs."""
    found = estimate_gain([100.0, 90.0, 110.0], [99.0, 95.0, 108.0], RATE)

    assert not found.shown
    assert str(found.message).startswith("no significant difference (+0.9 %")
    assert " to +" in str(found.message)


def test_of_a_latency_less_is_a_gain():
    """Half the TTFT is a gain of 100 %; the worst run is the slowest."""
    found = estimate_gain([2.0, 2.0, 2.0], [1.0, 1.01, 0.99], LATENCY)

    assert found.ratio == pytest.approx(2.0, rel=0.01)
    assert found.worst == 1.01


def test_a_loss_is_said_too():
    """Worse, and surely so."""
    found = estimate_gain([100.0, 101.0, 99.0], [80.0, 82.0, 78.0], RATE)

    assert not found.shown
    assert str(found.message) == "\u221220.0 % (95 % CI \u221222.9 to \u221217.0 %)"


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
