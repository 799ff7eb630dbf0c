"""How far a value wanders from run to run."""

import numpy as np
import pytest

from harness.tuning.trial_series import PACE_DEVIATION, run_to_run_noise
from harness.tuning.types import Measurement
from tests.tuning.studies import problem_in

SLO = {"ttft_p90": "300ms"}


def run_of(ttft_s, rate=10.0):
    """A run of a hundred requests, of which those under 300 ms are good."""
    ttft = np.asarray(ttft_s, dtype=np.float64)
    good = ttft <= 0.3
    series = {"ttft": ttft, "tpot": np.full(100, 0.01), "e2e": ttft + 1, "done": ttft + 1, "good": good}
    metrics = {"goodput": rate * float(good.mean()), "throughput": 100.0}
    return Measurement(metrics, {name: tuple(map(float, values)) for name, values in series.items()}, 10.0, 1)


@pytest.fixture
def goodput(tmp_path):
    """A study of goodput under a closed loop, with a limit on TTFT."""
    return problem_in(tmp_path, scenario={"slo": SLO}, objective="goodput")


def test_far_from_a_limit_goodput_wanders_as_much_as_the_pace(goodput):
    """All requests stay good at any pace; a loop that is slower takes longer for them."""
    found = run_to_run_noise(goodput, run_of([0.1] * 100), "goodput")

    assert found.mean == pytest.approx(10.0, rel=1e-3)
    assert found.deviation == pytest.approx(PACE_DEVIATION, rel=0.05)


def test_at_a_limit_goodput_wanders_by_as_many_requests_as_lie_near_it(goodput):
    """Half of the requests are within 1 % of the limit: at another pace they are lost or won."""
    inside = run_to_run_noise(goodput, run_of([0.1] * 50 + [0.298] * 50), "goodput")
    outside = run_to_run_noise(goodput, run_of([0.1] * 50 + [0.302] * 50), "goodput")

    assert inside.deviation > 10 * PACE_DEVIATION
    assert inside.mean < 10.0
    assert outside.mean > 5.0


def test_an_open_loop_brings_as_many_requests_at_any_pace(tmp_path):
    """Only how many of them are good depends on it."""
    problem = problem_in(
        tmp_path, scenario={"slo": SLO}, objective="goodput", load={"poisson": {"rate": 10, "requests": 100}}
    )

    assert run_to_run_noise(problem, run_of([0.1] * 100), "goodput").mean == pytest.approx(10.0, rel=1e-12)


def test_other_objectives_wander_as_the_pace_does(goodput):
    """And what was not measured has no wander."""
    assert run_to_run_noise(goodput, run_of([0.1] * 100), "throughput").deviation == PACE_DEVIATION
    assert run_to_run_noise(goodput, run_of([0.1] * 100), "throughput").mean == 100.0
    assert run_to_run_noise(goodput, run_of([0.1] * 100), "capacity") is None


def test_where_nothing_was_good_the_value_is_unsure(goodput):
    """Nothing to divide by: no mean, and a deviation as large as any value."""
    found = run_to_run_noise(goodput, run_of([0.9] * 100), "goodput")

    assert (found.mean, found.deviation) == (0.0, 1.0)
