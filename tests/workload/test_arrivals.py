"""Due times follow the arrival process of the scenario, and nothing else."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.scenario.stages import Stage
from harness.seeds import stream
from harness.workload import arrivals
from harness.workload.arrivals import due_times

POISSON = Stage("poisson", rate=200.0, duration_s=100.0)
TIMED = [
    Stage("constant", rate=37.0, duration_s=1.0),
    Stage("poisson", rate=37.0, duration_s=1.0),
    Stage("gamma", rate=37.0, burstiness=0.3, duration_s=1.0),
    Stage("gamma", rate=37.0, burstiness=4.0, duration_s=1.0),
]


def drawn(stage, seed=1, **kwargs):
    """Due times of a stage for a seed."""
    return due_times(stage, stream(seed, "arrivals"), **kwargs)


def counts_a_second(due_ns, seconds):
    """How many arrivals each second has."""
    return np.bincount(due_ns // 1_000_000_000, minlength=seconds)


def test_poisson_keeps_its_rate_and_its_spread():
    """Counts a second of a Poisson process have mean and variance equal to the rate."""
    counts = counts_a_second(drawn(POISSON), 100)

    assert counts.sum() == pytest.approx(20_000, abs=4 * 141)
    assert counts.var(ddof=1) / counts.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / 99))


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_vary_as_burstiness_says(burstiness):
    """The squared variation of gamma gaps is 1 / burstiness, at the asked rate."""
    gaps = np.diff(drawn(Stage("gamma", rate=100.0, burstiness=burstiness, requests=50_000)))

    assert gaps.mean() == pytest.approx(1e7, rel=4 / np.sqrt(burstiness * 50_000))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.1)


@pytest.mark.parametrize("burstiness", [0.1, 1.0, 20.0])
def test_the_first_second_has_the_asked_rate(burstiness):
    """However bursty or calm, the mean count of the first second is the rate: there is no start effect."""
    stage = Stage("gamma", rate=5.0, burstiness=burstiness, duration_s=1.0)
    counts = [len(drawn(stage, seed)) for seed in range(1000)]

    assert np.mean(counts) == pytest.approx(5.0, abs=4 * np.std(counts) / np.sqrt(1000))


def test_constant_arrivals_stand_on_an_exact_grid():
    """Arrival k is due k / rate after the start, rounded to a nanosecond and never accumulated."""
    due_ns = drawn(Stage("constant", rate=3.0, duration_s=10.0))

    assert due_ns.tolist() == [round(k * 1e9 / 3) for k in range(30)]


def test_constant_arrivals_do_not_reach_the_end():
    """The duration is open at its end: 10 requests a second for 1 s are 10, not 11."""
    assert len(drawn(Stage("constant", rate=10.0, duration_s=1.0))) == 10


@pytest.mark.parametrize(("start", "end"), [(0.0, 400.0), (400.0, 0.0), (100.0, 300.0), (200.0, 200.0)])
def test_a_ramp_has_the_counts_of_its_rate(start, end):
    """Each tenth of a ramp has as many arrivals as its linearly changing rate says."""
    due_ns = drawn(Stage("ramp", rate=start, rate_to=end, duration_s=100.0))
    counts = np.bincount(due_ns // 10_000_000_000, minlength=10)
    expected = 10.0 * (start + (end - start) * (np.arange(10) + 0.5) / 10)

    assert np.all(np.abs(counts - expected) <= 4.5 * np.sqrt(expected))


def test_a_level_ramp_is_poisson():
    """From 50 to 50 the inversion leaves unit-rate gaps as they are, over the rate."""
    level = drawn(Stage("ramp", rate=50.0, rate_to=50.0, duration_s=60.0))
    gaps = np.diff(level)

    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1.0, abs=0.15)


def test_a_trace_is_replayed_at_its_speed():
    """Due times of a trace are divided by the speed."""
    recorded = np.array([0, 1_000, 5_000_000_000], dtype=np.int64)

    assert drawn(Stage("trace", speed=2.0), trace_due_ns=recorded).tolist() == [0, 500, 2_500_000_000]


@pytest.mark.parametrize("stage", TIMED, ids=lambda stage: f"{stage.kind}-{stage.burstiness}")
@given(
    seed=st.integers(0, 2**64),
    short_s=st.floats(0.001, 30, allow_subnormal=False),
    longer_s=st.floats(0, 300),
    requests=st.integers(1, 9000),
)
@settings(max_examples=25, deadline=None)
def test_a_longer_stage_only_appends(stage, seed, short_s, longer_s, requests):
    """The due times of a longer stage begin with those of a shorter one; a count cuts the same list."""
    short = drawn(dataclasses.replace(stage, duration_s=short_s), seed)
    long = drawn(dataclasses.replace(stage, duration_s=short_s + longer_s), seed)
    counted = drawn(dataclasses.replace(stage, duration_s=None, requests=requests), seed)
    shared = min(len(long), requests)

    assert long[: len(short)].tolist() == short.tolist()
    assert counted[:shared].tolist() == long[:shared].tolist()
    assert len(counted) == requests


@given(
    seed=st.integers(0, 2**64),
    start=st.floats(0, 100, allow_subnormal=False),
    end=st.floats(0.1, 100),
    duration_s=st.floats(0.001, 20),
)
@settings(max_examples=50, deadline=None)
def test_due_times_are_ascending_and_inside_the_stage(seed, start, end, duration_s):
    """Every due time lies within [0, duration), in order, whatever the ramp."""
    due_ns = drawn(Stage("ramp", rate=start, rate_to=end, duration_s=duration_s), seed)

    assert np.all(np.diff(due_ns) >= 0)
    assert np.all((due_ns >= 0) & (due_ns < round(duration_s * 1e9)))


def test_the_same_seed_gives_the_same_due_times():
    """Due times are a function of the generator alone."""
    assert drawn(POISSON, 5).tolist() == drawn(POISSON, 5).tolist()
    assert drawn(POISSON, 5).tolist() != drawn(POISSON, 6).tolist()


@pytest.mark.parametrize(
    "stage",
    [
        Stage("constant", rate=1e6, duration_s=60.0),
        Stage("poisson", rate=1e6, duration_s=60.0),
        Stage("ramp", rate=0.0, rate_to=1e6, duration_s=60.0),
    ],
    ids=lambda stage: stage.kind,
)
def test_a_stage_of_over_ten_million_requests_is_refused(stage):
    """Too many arrivals are refused in one line, before anything is drawn."""
    with pytest.raises(InputError, match=r"load: a stage of .*; expected at most 10,000,000, so ") as caught:
        drawn(stage)

    assert len(caught.value.lines) == 1


def test_a_burst_beyond_the_most_is_refused_too(monkeypatch):
    """Where the expected count passes but the drawn one does not, the drawn one decides."""
    monkeypatch.setattr(arrivals, "MAX_ARRIVALS", 1000)
    bursty = Stage("gamma", rate=900.0, burstiness=0.01, duration_s=1.0)
    refused = 0
    for seed in range(20):
        try:
            assert len(drawn(bursty, seed)) <= 1000
        except InputError:
            refused += 1

    assert 0 < refused < 20


def test_a_closed_stage_has_no_due_times():
    """Asking for them is a mistake of the program, not of the user."""
    with pytest.raises(AssertionError):
        drawn(Stage("closed", concurrency=1, requests=1))
