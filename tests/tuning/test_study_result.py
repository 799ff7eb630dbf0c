"""Parameters that decide are known from those that do not, with so few trials."""

import math

import numpy as np
import pytest

from harness.messages import message
from harness.tuning.gains import GainEstimate
from harness.tuning.simulator_screening import SimulatorAgreement
from harness.tuning.study_result import adjusted_r2, importances


def points(count, seed=3):
    """Drawn at random: two numbers, a choice, and a parameter that never changes."""
    rng = np.random.default_rng(seed)
    return [
        {
            "max_num_seqs": int(rng.integers(8, 512)),
            "max_num_batched_tokens": int(rng.integers(1024, 32768)),
            "mode": str(rng.choice(["a", "b", "c"])),
            "fixed": 1,
        }
        for _ in range(count)
    ]


def test_what_decides_comes_first():
    """A parabola of one number over noise: the others stay within chance."""
    drawn = points(40)
    rng = np.random.default_rng(1)
    costs = [((one["max_num_seqs"] - 200) / 100) ** 2 + rng.normal(0, 0.1) for one in drawn]
    first, *others = importances(drawn, costs)

    assert first.name == "max_num_seqs"
    assert first.share > 0.8
    assert first.shown
    assert first.low <= first.share <= 1
    assert not any(one.shown for one in others)


def test_a_choice_of_words_is_judged_too():
    """By the means of its values."""
    drawn = points(30)
    costs = [{"a": 1.0, "b": 5.0, "c": 1.1}[one["mode"]] for one in drawn]

    assert importances(drawn, costs)[0].name == "mode"
    assert importances(drawn, costs)[0].share == pytest.approx(1.0)


def test_of_pure_noise_little_is_shown():
    """Thirty-six parameters without effect: about one of twenty passes for one, no more than one of ten."""
    rng = np.random.default_rng(7)
    shown = sum(
        one.shown for seed in range(12) for one in importances(points(20, seed), rng.normal(size=20).tolist(), seed)
    )

    assert shown <= 4


def test_failed_trials_are_left_out_and_few_prove_nothing():
    """Infinite costs are no numbers to explain; five trials are too few."""
    drawn = points(12)
    costs = [float(one["max_num_seqs"]) for one in drawn]

    assert importances(drawn, [math.inf] * 7 + costs[7:]) == ()
    assert importances(drawn, [math.inf, *costs[1:]])[0].name == "max_num_seqs"


def test_the_same_trials_give_the_same_numbers():
    """The draws come from the seed."""
    drawn = points(15)
    costs = [float(one["max_num_seqs"] % 97) for one in drawn]

    assert importances(drawn, costs) == importances(drawn, costs)


def test_conditional_parameters_may_be_absent():
    """Absence is a value of its own."""
    drawn = [{"on": n % 2, **({"depth": n} if n % 2 else {})} for n in range(12)]
    names = {one.name for one in importances(drawn, [float(n % 2) for n in range(12)])}

    assert names == {"on", "depth"}


def test_nothing_is_explained_of_nothing():
    """All costs the same."""
    assert adjusted_r2(np.ones((8, 2)), np.full(8, 0.1)) == 0.0


def test_one_trial_is_counted_in_the_singular():
    """A study of one trial in one start, and a confirmation of one round."""
    lines = [
        message("tuning.counts_trials", count=1),
        message("tuning.counts_starts", count=1),
        GainEstimate(1.1, None, None, 1, before=2.0, after=2.2, name="goodput").message,
        SimulatorAgreement(1).message,
    ]

    assert list(map(str, lines)) == [
        "1 trial",
        "1 engine start",
        "no significant difference: 2.00 → 2.20 req/s (×1.10) in 1 round, too few for an interval",
        "only 1 trial: too little to tell whether the simulator ranks them correctly",
    ]
