"""Does the twin find out how fast a device is?"""

import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.step_cost import Terms
from harness.tuning.simulator_screening import calibrated, scaled

TERMS = Terms()
NAMES = list(asdict(TERMS))
LOG = st.floats(-0.5, 0.5)


def told(terms):
    """Metrics of three imagined loads: bound by computing, by memory, and by the host."""
    compute, memory, host = 1 / terms.matmul, 1 / terms.weights, terms.step_s * 1e3
    mixes = ((5.0, 1.0, 0.2), (1.0, 5.0, 0.2), (0.5, 0.5, 3.0))
    times = [a * compute + b * memory + c * host for a, b, c in mixes]
    return [{"tpot_mean": time, "ttft_mean": 3 * time, "throughput": 100 / time} for time in times]


def slower(**logs):
    """Coefficients with which what is named takes e^log times as long."""
    return scaled(TERMS, [logs.get(name, 0.0) for name in NAMES])


@given(LOG, LOG, LOG)
def test_hidden_factors_are_found(compute, memory, host):
    """From three trials that are bound by different things, what is told becomes what was measured."""
    measured = told(slower(matmul=compute, weights=memory, step_s=host))
    found = told(calibrated(TERMS, measured, told))

    assert [row["tpot_mean"] for row in found] == pytest.approx([row["tpot_mean"] for row in measured], rel=0.02)


def test_what_the_trials_say_nothing_of_stays_as_it_is():
    """No metric here depends on attention, on links or on launches."""
    found = calibrated(TERMS, told(slower(matmul=0.3, step_s=-0.3)), told)
    silent = [name for name in NAMES if name not in ("matmul", "weights", "step_s")]

    assert found != TERMS
    assert [getattr(found, name) for name in silent] == pytest.approx([getattr(TERMS, name) for name in silent])


def test_longer_is_longer_for_times_and_for_shares():
    """A share of a peak is divided by the factor, a time multiplied."""
    found = slower(matmul=math.log(2), step_s=math.log(2))

    assert (found.matmul, found.step_s) == pytest.approx((TERMS.matmul / 2, TERMS.step_s * 2))
    assert scaled(TERMS, [0.0] * len(NAMES)) == TERMS


def test_without_trials_nothing_changes():
    """The coefficients stay."""
    assert calibrated(TERMS, [], told) == TERMS


def test_an_infinite_latency_does_not_lead_astray():
    """It says slower, and not by how much."""
    measured = [{**row, "ttft_mean": math.inf} for row in told(TERMS)]
    found = calibrated(TERMS, measured, told)

    assert found.matmul == pytest.approx(TERMS.matmul, rel=0.2)
