"""What is believed of engines after all that was seen: less of luck, more of what neighbours show?"""

import pytest

from harness.tuning.posterior import Seen, believed
from harness.tuning.study import carry_out
from harness.tuning.types import best
from tests.tune_problems import problem_in, work_in

SEQS = (2, 4, 8, 16, 24, 32, 48, 64)


def seen_with(values, wander=0.05, twin=()):
    """Engines that differ in max_num_seqs, with the throughput that each showed, and what the twin says."""
    told = twin or [None] * len(values)
    return [
        Seen(
            {"max_num_seqs": seqs}, {}, {"throughput": value}, {}, {} if said is None else {"throughput": said}, {},
            0.0, -value, wander=wander,
        )
        for seqs, value, said in zip(SEQS, values, told, strict=True)
    ]  # fmt: skip


@pytest.fixture
def problem(tmp_path):
    """Throughput over max_num_seqs alone."""
    return problem_in(tmp_path, space={"max_num_seqs": {"int": [2, 64], "log": True}})


def order_of(problem, seen):
    """Their numbers of requests, the best first."""
    costs = believed(problem, problem.space, seen)
    return [SEQS[place] for place in costs.argsort()]


LUCKY = (10, 20, 40, 92, 95, 96, 40, 99)  # a hill whose top is at 24, and one run far from it that was lucky
HILL = (10, 20, 40, 90, 95, 92, 40, 30)


def test_what_the_twin_does_not_expect_is_believed_less(problem):
    """A run that shines where all of the twin's other words were right counts as lucky, not as the best."""
    plain = order_of(problem, seen_with(LUCKY, wander=0.4))
    told = order_of(problem, seen_with(LUCKY, wander=0.4, twin=HILL))

    assert plain.index(64) < told.index(64)
    assert told[0] in (16, 24, 32)


def test_a_hill_is_believed_as_it_was_seen(problem):
    """Runs that fit each other keep their best, and their worst."""
    found = order_of(problem, seen_with(HILL))

    assert (found[0], found[-1]) == (24, 2)


def test_of_a_few_engines_each_is_believed_itself(problem):
    """Two say nothing of each other."""
    seen = seen_with(LUCKY)[:2]

    assert believed(problem, problem.space, seen).tolist() == [-10, -20]


def test_the_best_run_is_confirmed_and_then_what_is_believed_to_be_best(tmp_path):
    """Contenders are the trials in full, each once; the first is the one that leads by its own run."""
    work = work_in(tmp_path, problem_in(tmp_path, budget={"trials": 8}))
    with work.desk.beating():
        carry_out(work)
    trials = work.book.trials()
    found = work.proposer.contenders(trials)

    assert found[0] == best(trials, work.problem.objectives[0])
    assert sorted(one.number for one in found) == [one.number for one in trials if one.status == "complete"]


def test_the_last_of_a_known_budget_explore_no_more(tmp_path):
    """Two fifths of the trials go to what is believed to be best; of minutes nobody knows which are the last."""
    known = work_in(tmp_path, problem_in(tmp_path, budget={"trials": 10})).proposer
    open_ended = work_in(tmp_path, problem_in(tmp_path, budget={"minutes": 5})).proposer

    assert [known._closes(number) for number in (0, 5, 6, 9)] == [False, False, True, True]
    assert not open_ended._closes(10_000)
    assert not any(known._climbs(number) for number in range(6, 10))
