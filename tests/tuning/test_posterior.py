"""What the model says of engines after all trials: less of luck, more of what neighbours show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tuning.posterior import Observation, expected_improvement, fit, matern, posterior_costs, with_finite_worst
from harness.tuning.study import run_study
from harness.tuning.types import best_trial
from tests.tuning.studies import problem_in, work_in

SEQS = (2, 4, 8, 16, 24, 32, 48, 64)


def seen_with(values, run_deviation=0.05, twin=()):
    """Engines that differ in max_num_seqs, with the throughput that each showed, and what the twin says."""
    told = twin or [None] * len(values)
    return [
        Observation(
            {"max_num_seqs": seqs}, {}, {"throughput": value}, {}, {} if said is None else {"throughput": said}, {},
            0.0, -value, run_deviation=run_deviation,
        )
        for seqs, value, said in zip(SEQS, values, told, strict=True)
    ]  # fmt: skip


@pytest.fixture
def problem(tmp_path):
    """Throughput over max_num_seqs alone."""
    return problem_in(tmp_path, space={"max_num_seqs": {"int": [2, 64], "log": True}})


def order_of(problem, seen):
    """Their numbers of requests, the best first."""
    costs = posterior_costs(problem, problem.space, seen)
    return [SEQS[place] for place in costs.argsort()]


LUCKY = (10, 20, 40, 92, 95, 96, 40, 99)  # a hill whose top is at 24, and one run far from it that was lucky
HILL = (10, 20, 40, 90, 95, 92, 40, 30)


def test_what_the_twin_does_not_expect_is_believed_less(problem):
    """A run that shines where all of the twin's other words were right counts as lucky, not as the best."""
    plain = order_of(problem, seen_with(LUCKY, run_deviation=0.4))
    told = order_of(problem, seen_with(LUCKY, run_deviation=0.4, twin=HILL))

    assert plain.index(64) < told.index(64)
    assert told[0] in (16, 24, 32)


def test_a_hill_is_believed_as_it_was_seen(problem):
    """Runs that fit each other keep their best, and their worst."""
    found = order_of(problem, seen_with(HILL))

    assert (found[0], found[-1]) == (24, 2)


def test_of_a_few_engines_each_is_believed_itself(problem):
    """Two say nothing of each other."""
    seen = seen_with(LUCKY)[:2]

    assert posterior_costs(problem, problem.space, seen).tolist() == [-10, -20]


def test_the_best_run_is_confirmed_and_then_what_is_believed_to_be_best(tmp_path):
    """Contenders are the trials in full, each once; the first is the one that leads by its own run."""
    work = work_in(tmp_path, problem_in(tmp_path, budget={"trials": 8}))
    with work.coordinator.heartbeat():
        run_study(work)
    trials = work.store.trials()
    found = work.proposer.contenders(trials)

    assert found[0] == best_trial(trials, work.plan.objectives[0])
    assert sorted(one.number for one in found) == [one.number for one in trials if one.status == "complete"]


def test_the_last_of_a_known_budget_explore_no_more(tmp_path):
    """Two fifths of the trials go to what is believed to be best; of minutes nobody knows which are the last."""
    known = work_in(tmp_path, problem_in(tmp_path, budget={"trials": 10})).proposer
    open_ended = work_in(tmp_path, problem_in(tmp_path, budget={"minutes": 5})).proposer

    assert [known._is_closing(number) for number in (0, 5, 6, 9)] == [False, False, True, True]
    assert not open_ended._is_closing(10_000)
    assert not any(known._searches_locally(number) for number in range(6, 10))


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
    gain = expected_improvement(np.asarray([0.2]), np.asarray([0.5]), 0.1)[0]

    assert gain == pytest.approx(np.maximum(0.1 - draws, 0).mean(), rel=0.01)


def test_infinite_costs_are_worse_than_all_finite_ones():
    """They take part, and stay comparable."""
    found = with_finite_worst([1.0, float("inf"), 3.0])

    assert found.tolist() == [1.0, 5.0, 3.0]
