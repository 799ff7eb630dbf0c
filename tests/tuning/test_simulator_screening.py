"""Does the twin judge candidates by what the study is for, and learn from loads that it can repeat?"""

from dataclasses import replace

import pytest

from harness.tuning.candidates import Ground, resolver
from harness.tuning.capacity import LAST_RATE
from harness.tuning.evaluation import Virtual
from harness.tuning.measuring import Given, shown
from harness.tuning.screening import kendall_tau
from harness.tuning.simulator_screening import twin_of
from harness.tuning.study import carry_out
from tests.tune_problems import problem_in, work_in

POINTS = [{"max_num_seqs": seqs} for seqs in (2, 3, 8, 32)]


@pytest.fixture
def capacity(tmp_path):
    """A study of capacity, its candidates, and what each was measured to have."""
    problem = problem_in(
        tmp_path, space={"max_num_seqs": {"int": [2, 64], "log": True}}, objective="capacity",
        load={"poisson": {"rate": 20, "requests": 60}},
    )  # fmt: skip
    candidates = Ground(problem, resolver(problem)).candidates(POINTS)
    given = Given(problem, Virtual(), (), problem.study.seed, tmp_path)
    return problem, candidates, [next(shown(given, one, [{}])).measured for one in candidates]


def test_a_capacity_is_searched_in_virtual_time_as_on_an_engine(capacity):
    """The twin's coefficients are off, but its order of candidates is that of the search on the engine."""
    problem, candidates, measured = capacity
    twin = twin_of(problem)
    said = [twin.says(one).values["capacity"] for one in candidates]

    assert kendall_tau(said, [one.metrics["capacity"] for one in measured]) > 0.6
    assert said[0] < said[-1]


def test_the_twin_learns_from_the_last_load_of_a_search(capacity):
    """It repeats that load at the same rate; with the device's speed it comes to the device's capacities."""
    problem, candidates, measured = capacity
    twin = twin_of(problem)
    before = [twin.says(one).values["capacity"] for one in candidates]
    twin.calibrate(list(zip(candidates, measured, strict=True)))
    after = [twin.says(one).values["capacity"] for one in candidates]
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

    assert twin_of(problem) is not None
    assert twin_of(problem_in(tmp_path, screening={"points": 0})) is None
    assert twin_of(replace(problem, engine=unknown)) is None


def test_a_cache_that_is_never_full_changes_no_step(tmp_path):
    """More memory than is asked for leaves the course of the load as it is, and fewer places do not."""
    problem = problem_in(tmp_path, space={"gpu_memory_utilization": [0.7, 0.9], "max_num_seqs": [4, 24]})
    points = [
        {"gpu_memory_utilization": share, "max_num_seqs": most} for share, most in ((0.7, 24), (0.9, 24), (0.9, 4))
    ]
    twin, candidates = twin_of(problem), Ground(problem, resolver(problem)).candidates(points)
    less, more, fewer = (twin.course(one) for one in candidates)

    assert candidates[0].engine_key != candidates[1].engine_key
    assert less == more
    assert less != fewer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_twin_sees_go_alike_is_tried_last(tmp_path, seed):
    """Eight caches, all large enough, and three numbers of places: after the default one of each is tried first."""
    shares = [round(0.6 + 0.04 * step, 2) for step in range(8)]
    space = {"gpu_memory_utilization": shares, "max_num_seqs": [4, 12, 24]}
    work = work_in(tmp_path, problem_in(tmp_path, seed=seed, space=space, budget={"trials": 4}))
    carry_out(work)

    assert {trial.point["max_num_seqs"] for trial in work.book.trials()[1:]} == {4, 12, 24}
