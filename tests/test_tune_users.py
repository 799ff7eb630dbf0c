"""Do the latencies of a closed loop tell its rates, request by request?"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tune.racing import race
from harness.tune.series import estimated, partial_of
from harness.tune.users import shared, shortfalls
from harness.tune.virtual import VirtualLoad
from harness.tune.words import Measurement, Objective
from harness.twin.settings import settings_from_flags
from tests.tune_problems import problem_in

FLAGS = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "max_model_len": 2048}
SECONDS = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=30)


def waited(seconds, *, good=None, seed=1):
    """A load of one user who waits so long for each answer; the first of them is the first wave."""
    done = tuple(np.cumsum(seconds).tolist())
    zeros = (0.0,) * len(done)
    series = {
        "done": done,
        "e2e": tuple(float(value) for value in seconds),
        "ttft": zeros,
        "tpot": zeros,
        "good": tuple(good if good is not None else [1.0] * len(done)),
        "tokens": (100.0,) * len(done),
    }
    return Measurement({"goodput": sum(series["good"]) / done[-1]}, series, done[-1], seed)


@given(SECONDS)
def test_a_load_does_not_fall_short_of_itself(seconds):
    """Every request pairs with itself: no difference, and a ratio of 1."""
    load = waited(seconds)

    assert np.allclose(shortfalls(load, load, "goodput"), 0.0)
    assert shared(load, load, "throughput").ratio == pytest.approx(1.0)


@given(SECONDS, st.floats(0.2, 5.0))
def test_shortfalls_add_up_to_the_rate(seconds, factor):
    """Over a whole load their sum is above 0 exactly where the rate is lower, and the ratio is that of the rates."""
    base, load = waited(seconds), waited([factor * one for one in seconds])

    assert shared(load, base, "request_rate").ratio == pytest.approx(1 / factor)
    assert shortfalls(load, base, "request_rate").sum() == pytest.approx((len(seconds) - 1) * (factor - 1), abs=1e-6)


def test_a_margin_is_what_the_rate_may_be_lower_by():
    """A tenth slower is within a margin of a tenth, and a fifth is not."""
    base, tenth, fifth = waited([1.0] * 20), waited([1.1] * 20), waited([1.2] * 20)

    assert shortfalls(tenth, base, "request_rate", 0.1).sum() == pytest.approx(0.0, abs=1e-9)
    assert shortfalls(fifth, base, "request_rate", 0.1).sum() > 1


def test_what_failed_brought_nothing_and_took_long():
    """A request that failed counts as ten mean latencies for nothing."""
    base = waited([1.0, 1.0, 1.0, 1.0])
    series = {**base.series, "done": (1.0, math.inf, 3.0, 4.0), "e2e": (1.0, math.inf, 1.0, 1.0)}
    found = shared(Measurement({}, series, 4.0, 1), base, "throughput")

    assert sorted(found.own_s.tolist()) == [1.0, 1.0, 10.0]
    assert sorted(found.own.tolist()) == [0.0, 100.0, 100.0]


def test_only_what_both_answered_is_compared_in_the_order_of_the_answers():
    """Request 0 is of the first wave, request 2 is under way, and request 3 was answered before request 1."""
    base = waited([1.0, 1.5, 2.0, 3.0])
    nan = math.nan
    series = {"done": (1.0, 5.0, nan, 4.0), "e2e": (1.0, 4.0, nan, 3.0), "good": (1.0, 1.0, nan, 0.0)}
    found = shared(Measurement({}, series, 5.0, 1, stopped=True), base, "goodput")

    assert found.own_s.tolist() == [3.0, 4.0]
    assert found.other_s.tolist() == [3.0, 1.5]
    assert found.own.tolist() == [0.0, 1.0]


def test_the_first_wave_says_nothing():
    """Three users whose requests come at once: from the fourth request on they are compared."""
    series = {"done": (1.0, 2.0, 3.0, 4.0), "e2e": (1.0, 2.0, 3.0, 3.0), "tokens": (1.0,) * 4}
    load = Measurement({}, series, 4.0, 1)

    assert shared(load, load, "throughput").own_s.tolist() == [3.0]


def test_where_nothing_was_good_there_is_no_rate_to_fall_short_of():
    """The other load met its SLO not once: nothing to race against."""
    base = waited([1.0] * 10, good=[0.0] * 10)

    assert not len(shortfalls(base, base, "goodput"))
    assert math.isnan(shared(base, base, "goodput").ratio)


@pytest.fixture
def loads(tmp_path):
    """What a closed loop of ten rounds shows on an engine with 24 places and on one with two."""
    task = problem_in(tmp_path).tasks[0]
    load, stage = VirtualLoad(task.scenario, task.path.parent), replace(task.stage, requests=240)
    return [load.measure(settings_from_flags({**FLAGS, "max_num_seqs": most}), stage, 1) for most in (24, 2)]


def test_on_an_engine_the_law_holds(loads):
    """Half way through, the rate of a slow engine is foretold within a tenth from a fast one's and from latencies."""
    fast, slow = loads
    part = partial_of(slow, slow.load_s / 2)

    assert estimated(part, fast, "throughput", closed=True) == pytest.approx(slow.metrics["throughput"], rel=0.1)


def test_users_tell_a_loser_from_fewer_answers_than_the_clock():
    """Long and short answers in turns hide a difference of a tenth from the clock, and not from pairs of requests."""
    rng = np.random.default_rng(8)
    seconds = rng.lognormal(0.0, 0.8, 200)
    base, trial = waited(seconds), waited(seconds * rng.normal(1.1, 0.02, 200))
    part = partial_of(trial, trial.load_s / 2)
    objective = [Objective("throughput")]

    assert race(part, [base], objective, closed=True).stop
    assert not race(part, [base], objective).stop
