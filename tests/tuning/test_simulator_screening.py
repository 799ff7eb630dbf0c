"""The simulator learns how fast a device is."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.step_cost import Terms
from harness.tuning.candidates import CandidateResolver, flag_resolver
from harness.tuning.capacity import LAST_RATE
from harness.tuning.evaluation import EvaluationContext, measure_loads
from harness.tuning.simulator_screening import (
    agreement,
    calibrate_terms,
    kendall_tau,
    scale_terms,
    screener_for,
    tau_interval,
)
from harness.tuning.study import run_study
from harness.tuning.virtual_evaluation import VirtualEvaluator
from tests.tuning.studies import problem_in, work_in

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
    return scale_terms(TERMS, [logs.get(name, 0.0) for name in NAMES])


@given(LOG, LOG, LOG)
def test_hidden_factors_are_found(compute, memory, host):
    """From three trials that are bound by different things, what is told becomes what was measured."""
    measured = told(slower(matmul=compute, weights=memory, step_s=host))
    found = told(calibrate_terms(TERMS, measured, told))

    assert [row["tpot_mean"] for row in found] == pytest.approx([row["tpot_mean"] for row in measured], rel=0.02)


def test_what_the_trials_say_nothing_of_stays_as_it_is():
    """No metric here depends on attention, on links or on launches."""
    found = calibrate_terms(TERMS, told(slower(matmul=0.3, step_s=-0.3)), told)
    silent = [name for name in NAMES if name not in ("matmul", "weights", "step_s")]

    assert found != TERMS
    assert [getattr(found, name) for name in silent] == pytest.approx([getattr(TERMS, name) for name in silent])


def test_longer_is_longer_for_times_and_for_shares():
    """A share of a peak is divided by the factor, a time multiplied."""
    found = slower(matmul=math.log(2), step_s=math.log(2))

    assert (found.matmul, found.step_s) == pytest.approx((TERMS.matmul / 2, TERMS.step_s * 2))
    assert scale_terms(TERMS, [0.0] * len(NAMES)) == TERMS


def test_without_trials_nothing_changes():
    """The coefficients stay."""
    assert calibrate_terms(TERMS, [], told) == TERMS


def test_an_infinite_latency_does_not_lead_astray():
    """It says slower, and not by how much."""
    measured = [{**row, "ttft_mean": math.inf} for row in told(TERMS)]
    found = calibrate_terms(TERMS, measured, told)

    assert found.matmul == pytest.approx(TERMS.matmul, rel=0.2)


numbers = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=20)


def counted(pairs):
    """Kendall's τ-b by its definition."""
    alike = different = ties_x = ties_y = 0
    for i, (x, y) in enumerate(pairs):
        for other_x, other_y in pairs[:i]:
            product = (x - other_x) * (y - other_y)
            alike, different = alike + (product > 0), different + (product < 0)
            ties_x, ties_y = ties_x + (x == other_x), ties_y + (y == other_y)
    all_pairs = len(pairs) * (len(pairs) - 1) // 2
    whole = (all_pairs - ties_x) * (all_pairs - ties_y)
    return (alike - different) / math.sqrt(whole) if whole else None


@given(numbers)
def test_tau_is_what_its_definition_counts(pairs):
    """Over pairs of pairs, with ties in either order."""
    tau, expected = kendall_tau([x for x, _ in pairs], [y for _, y in pairs]), counted(pairs)

    assert tau == (None if expected is None else pytest.approx(expected))


@given(numbers)
def test_the_interval_holds_tau(pairs):
    """And stays between -1 and 1."""
    found = agreement(pairs)

    if found.low is not None:
        assert -1 <= found.low <= max(found.tau, -0.999) + 1e-9
        assert min(found.tau, 0.999) - 1e-9 <= found.high <= 1


@pytest.mark.parametrize(("count", "low"), [(5, -0.684), (10, -0.044), (30, 0.564)])
def test_trials_all_in_order_show_as_much_as_their_number_bears(count, low):
    """Of n // 2 independent pairs all in the same order the lower end is 2 · 0.025^(1 / (n // 2)) - 1."""
    found = agreement([(n, n) for n in range(count)])

    assert found.tau == pytest.approx(1)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(1))
    assert found.low == pytest.approx(2 * 0.025 ** (1 / (count // 2)) - 1)


@pytest.mark.parametrize("count", [5, 8, 20])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_the_interval_holds_the_true_order(count, correlation):
    """Of 400 samples of normal pairs, whose τ is known (2 / π · arcsin ρ), at least 95 of 100 intervals hold it."""
    draw = np.random.default_rng(count)
    true = 2 / math.pi * math.asin(correlation)
    held = 0
    for _ in range(400):
        x, e = draw.normal(size=(2, count))
        low, high = tau_interval(kendall_tau(x, correlation * x + math.sqrt(1 - correlation**2) * e), count)
        held += low <= true <= high

    assert held >= 0.95 * 400


def test_few_trials_prove_nothing():
    """Below five the twin is believed, and that is said."""
    found = agreement([(1, 4), (2, 3), (3, 2), (4, 1)])

    assert found.trusted
    assert "too few" in str(found.message)


def test_a_twin_that_misleads_is_dropped():
    """Its order is the reverse."""
    found = agreement([(n, -n) for n in range(8)])

    assert not found.trusted
    assert "dropped" in str(found.message)
    assert found.tau == pytest.approx(-1)


def test_it_is_taken_up_again_only_when_it_clearly_helps():
    """Dropped at 0.1 or below, back at 0.35: not in and out around one value."""
    misleading = [(n, -n) for n in range(5)]
    better = misleading + [(10 + n, 10 + n) for n in range(3)]
    good = misleading + [(10 + n, 10 + n) for n in range(8)]

    assert agreement(better).tau > 0.1
    assert not agreement(better).trusted
    assert agreement(good).tau > 0.35
    assert agreement(good).trusted
    assert "it ranks candidates" in str(agreement(good).message)


POINTS = [{"max_num_seqs": seqs} for seqs in (2, 3, 8, 32)]


@pytest.fixture
def capacity(tmp_path):
    """A study of capacity, its candidates, and what each was measured to have."""
    problem = problem_in(
        tmp_path, space={"max_num_seqs": {"int": [2, 64], "log": True}}, objective="capacity",
        load={"poisson": {"rate": 20, "requests": 60}},
    )  # fmt: skip
    candidates = CandidateResolver(problem, flag_resolver(problem)).candidates(POINTS)
    given = EvaluationContext(problem, VirtualEvaluator(), (), problem.study.seed, tmp_path)
    return problem, candidates, [next(measure_loads(given, one, [{}])).measured for one in candidates]


def test_a_capacity_is_searched_in_virtual_time_as_on_an_engine(capacity):
    """The twin's coefficients are off, but its order of candidates is that of the search on the engine."""
    problem, candidates, measured = capacity
    twin = screener_for(problem)
    said = [twin.predict(one).values["capacity"] for one in candidates]

    assert kendall_tau(said, [one.metrics["capacity"] for one in measured]) > 0.6
    assert said[0] < said[-1]


def test_the_twin_learns_from_the_last_load_of_a_search(capacity):
    """It repeats that load at the same rate; with the device's speed it comes to the device's capacities."""
    problem, candidates, measured = capacity
    twin = screener_for(problem)
    before = [twin.predict(one).values["capacity"] for one in candidates]
    twin.calibrate(list(zip(candidates, measured, strict=True)))
    after = [twin.predict(one).values["capacity"] for one in candidates]
    truth = [one.metrics["capacity"] for one in measured]

    assert all(one.metrics[LAST_RATE] > 0 for one in measured)
    assert off(after, truth) < off(before, truth)


def off(said, truth):
    """How far apart two lists are, as the mean ratio of the larger to the smaller."""
    return sum(max(one / other, other / one) for one, other in zip(said, truth, strict=True)) / len(truth)


def test_screening_of_no_points_has_no_twin(tmp_path):
    """And so has a model that the twin does not know."""
    problem = problem_in(tmp_path)
    unknown = problem.engine.model_copy(update={"model": "some/unknown-model"})

    assert screener_for(problem) is not None
    assert screener_for(problem_in(tmp_path, screening={"points": 0})) is None
    assert screener_for(replace(problem, engine=unknown)) is None


def test_a_cache_that_is_never_full_changes_no_step(tmp_path):
    """More memory than is asked for leaves the course of the load as it is, and fewer places do not."""
    problem = problem_in(tmp_path, space={"gpu_memory_utilization": [0.7, 0.9], "max_num_seqs": [4, 24]})
    points = [
        {"gpu_memory_utilization": share, "max_num_seqs": most} for share, most in ((0.7, 24), (0.9, 24), (0.9, 4))
    ]
    twin, candidates = screener_for(problem), CandidateResolver(problem, flag_resolver(problem)).candidates(points)
    less, more, fewer = (twin.step_signature(one) for one in candidates)

    assert candidates[0].engine_key != candidates[1].engine_key
    assert less == more
    assert less != fewer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_twin_sees_go_alike_is_tried_last(tmp_path, seed):
    """Eight caches, all large enough, and three numbers of places: after the default one of each is tried first."""
    shares = [round(0.6 + 0.04 * step, 2) for step in range(8)]
    space = {"gpu_memory_utilization": shares, "max_num_seqs": [4, 12, 24]}
    work = work_in(tmp_path, problem_in(tmp_path, seed=seed, space=space, budget={"trials": 4}))
    run_study(work)

    assert {trial.point["max_num_seqs"] for trial in work.store.trials()[1:]} == {4, 12, 24}
