"""Lengths are distributed as the scenario says, and each is a function of its place alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.errors import InputError
from harness.scenario.workload import CountSpec, Exponential
from harness.workload.lengths import BLOCK, think_times_ns, token_lengths

COUNT = TypeAdapter(CountSpec)


def lengths(written, seed=1, name="input_tokens"):
    """Lengths as a scenario writes them."""
    return token_lengths(COUNT.validate_python(written), seed, name)


def sample(written, size=20_000):
    """The first draws of lengths, as an array."""
    made = lengths(written)
    return np.array([made.at(index) for index in range(size)])


def test_a_fixed_count_is_always_itself():
    """A whole number is no distribution."""
    assert set(sample(7, 3000).tolist()) == {7}


def test_a_uniform_count_has_both_ends_alike():
    """Both ends of a uniform count are drawn as often as the middle."""
    drawn = sample({"uniform": [3, 6]})

    assert np.bincount(drawn)[3:].tolist() == pytest.approx([5000] * 4, abs=4 * 62)


def test_a_normal_count_is_kept_within_its_bounds():
    """Draws beyond min and max become min and max."""
    drawn = sample({"normal": {"mean": 100, "sd": 30, "min": 80, "max": 150}})

    assert (drawn.min(), drawn.max()) == (80, 150)
    assert np.median(drawn) == pytest.approx(100, abs=1.5)


def test_a_lognormal_count_has_its_median_and_sigma():
    """Half of the draws lie below the median, and the logarithm's spread is sigma."""
    drawn = sample({"lognormal": {"median": 2000, "sigma": 0.5}})

    assert np.median(drawn) == pytest.approx(2000, rel=0.03)
    assert np.log(drawn).std() == pytest.approx(0.5, rel=0.03)


def test_a_choice_follows_its_weights():
    """A value of weight 3 is drawn three times as often as one of weight 1."""
    drawn = sample({"choice": {"values": [10, 20, 30], "weights": [1, 3, 0]}})

    assert set(drawn.tolist()) == {10, 20}
    assert np.mean(drawn == 20) == pytest.approx(0.75, abs=0.0125)


def test_a_choice_without_weights_is_even():
    """Values without weights are all alike."""
    assert np.mean(sample({"choice": {"values": [1, 2]}}) == 1) == pytest.approx(0.5, abs=0.0145)


def test_a_length_is_at_least_one():
    """A normal count far below zero still asks for a token."""
    assert sample({"normal": {"mean": 1, "sd": 50}}, 2000).min() == 1


@given(places=st.lists(st.tuples(st.integers(0, 10 * BLOCK), st.integers(0, 5)), min_size=1), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_draw_depends_on_its_place_alone(places, seed):
    """In whatever order draws are asked for, each is what a fresh source gives for that place."""
    written = {"uniform": [1, 1_000_000]}
    together = lengths(written, seed)
    drawn = [together.at(*place) for place in places]

    assert drawn == [lengths(written, seed).at(*place) for place in places]


def test_forgotten_blocks_come_back_the_same():
    """More blocks than are kept in memory change nothing."""
    made = lengths({"uniform": [1, 1_000_000]})
    first = [made.at(block * BLOCK) for block in range(600)]

    assert [made.at(block * BLOCK) for block in range(600)] == first


def test_names_turns_and_seeds_are_independent():
    """Another name, turn or seed gives other draws."""
    written = {"uniform": [1, 1_000_000]}
    base = [lengths(written).at(index) for index in range(100)]

    assert base != [lengths(written, name="output_tokens").at(index) for index in range(100)]
    assert base != [lengths(written, seed=2).at(index) for index in range(100)]
    assert base != [lengths(written).at(index, 1) for index in range(100)]


def test_an_unbounded_draw_of_millions_is_refused():
    """A distribution that draws an absurd length is told to have a max."""
    with pytest.raises(InputError, match=r"input_tokens drew .*; expected at most 10,000,000, so give .* a max"):
        sample({"lognormal": {"median": 100_000, "sigma": 5}})


def test_think_times_are_none_fixed_or_exponential():
    """Pauses in ns: zero, the same, or exponential with the mean."""
    exponential = think_times_ns(Exponential(exponential=2.0), 1, "think_time")
    drawn = np.array([exponential.at(index) for index in range(20_000)]) / 1e9

    assert think_times_ns(None, 1, "think_time").at(5) == 0
    assert think_times_ns(0.25, 1, "think_time").at(5) == 250_000_000
    assert drawn.mean() == pytest.approx(2.0, rel=0.03)
    assert drawn.std() == pytest.approx(2.0, rel=0.04)
