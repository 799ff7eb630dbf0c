"""Losing trials are stopped early, and winning ones no more often than stated."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tuning.early_stopping import (
    BEATEN,
    PREDICTED_TO_LOSE,
    answered_prefix,
    block_differences,
    block_size,
    compare_with_incumbents,
    constraint_breach,
    evidence_against,
    latency_comparison,
    predicted_to_lose,
    stopping_rule,
)
from harness.tuning.types import MINIMISE, Constraint, StudyObjective
from tests.tuning.measurements import measured, paced

ALPHA = 0.05
BLOCKS = 20
THROUGHPUT, TTFT = StudyObjective("throughput"), StudyObjective("ttft_mean", MINIMISE)


def stopped_after(differences):
    """The block after which the evidence reached 1 / alpha; None where it never did."""
    looks = (count for count in range(4, len(differences) + 1) if evidence_against(differences[:count]) * ALPHA >= 1)
    return next(looks, None)


def shares(effect, alike, runs, block=10):
    """Of so many runs the share that was stopped, and the mean block; `effect` in deviations of a block's mean."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(runs, BLOCKS * block))
    for place in range(1, noise.shape[1]):  # a first-order autoregression from request to request
        noise[:, place] = alike * noise[:, place - 1] + math.sqrt(1 - alike**2) * noise[:, place]
    means = noise.reshape(runs, BLOCKS, block).mean(axis=2)
    stops = [stopped_after(row) for row in means + effect * means.std()]
    found = [stop for stop in stops if stop is not None]
    return len(found) / runs, float(np.mean(found)) if found else math.nan


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.8])
def test_of_equals_no_more_are_stopped_than_alpha(alike):
    """A/A with a look after every block: at most 5 % are ever stopped, also where requests resemble each other."""
    share, _ = shares(effect=0.0, alike=alike, runs=400)

    assert share <= ALPHA


def test_what_is_better_is_stopped_even_more_rarely():
    """Half a deviation better: not one of a hundred."""
    share, _ = shares(effect=-0.5, alike=0.0, runs=400)

    assert share <= 0.01


def test_losers_are_stopped_early():
    """Two deviations of a block worse: nearly all, in less than half of the benchmark."""
    share, mean_block = shares(effect=2.0, alike=0.0, runs=200)

    assert share >= 0.98
    assert mean_block < BLOCKS / 2


@pytest.mark.parametrize(("effect", "alike"), [(0.0, 0.0), (0.3, 0.0), (-0.3, 0.0), (0.0, 0.5), (0.0, -0.4)])
def test_what_would_end_ahead_is_rarely_foreseen_behind(effect, alike):
    """To be stopped and to end ahead: at most as likely as the error, over all looks, whichever is better in truth."""
    rng = np.random.default_rng(21)
    rows = rng.normal(size=(600, BLOCKS))
    for place in range(1, BLOCKS):
        rows[:, place] = alike * rows[:, place - 1] + math.sqrt(1 - alike**2) * rows[:, place]
    ahead = [row for row in rows + effect if row.sum() <= 0]
    stopped = sum(any(predicted_to_lose(row[:n], BLOCKS, ALPHA) for n in range(4, BLOCKS)) for row in ahead)

    assert stopped <= ALPHA * len(rows)
    assert len(ahead) > 20


def test_what_is_clearly_behind_is_foreseen_early():
    """One and a half deviations of a block: stopped before two thirds of the benchmark, nearly always."""
    rng = np.random.default_rng(22)
    rows = rng.normal(1.5, 1.0, size=(200, BLOCKS))
    looks = [next((n for n in range(4, BLOCKS) if predicted_to_lose(row[:n], BLOCKS, ALPHA)), None) for row in rows]
    found = [look for look in looks if look is not None]

    assert len(found) >= 190
    assert np.mean(found) < BLOCKS * 2 / 3


def test_foresight_needs_differences():
    """Nothing differs, or the sum is not above 0: nothing is foreseen."""
    assert not predicted_to_lose(np.zeros(10), BLOCKS, ALPHA)
    assert not predicted_to_lose(-np.ones(10), BLOCKS, ALPHA)
    assert predicted_to_lose(np.ones(10), BLOCKS, ALPHA)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(1e-3, 1e3))
def test_evidence_knows_no_unit(values, factor):
    """Milliseconds or seconds: the evidence is the same, is never negative, and never a NaN."""
    given_values = np.round(np.asarray(values), 3)

    assert evidence_against(given_values) >= 0
    assert evidence_against(given_values * factor) == pytest.approx(evidence_against(given_values), rel=1e-6)


def test_equal_values_are_no_evidence():
    """The same configuration in virtual time differs by nothing at all."""
    assert evidence_against(np.zeros(20)) == 1.0
    assert compare_with_incumbents(paced([1.0] * 100), [paced([1.0] * 100)], [THROUGHPUT]).stop is False


def test_a_slow_trial_is_stopped_and_a_fast_one_is_not():
    """By throughput, over pairs of requests with a little noise."""
    rng = np.random.default_rng(3)
    noise = rng.normal(1.0, 0.05, (2, 100))
    base, slow, fast = noise[0], noise[1] * 1.2, noise[1] * 0.8

    found = compare_with_incumbents(paced(slow[:40]), [paced(base)], [THROUGHPUT])
    assert found.stop
    assert found.rule in (BEATEN, PREDICTED_TO_LOSE)
    assert not compare_with_incumbents(paced(fast[:40]), [paced(base)], [THROUGHPUT]).stop


def test_several_objectives_stop_only_what_is_beaten_in_all():
    """Slower but earlier with its first token: it may yet be on the front."""
    rng = np.random.default_rng(4)
    base = measured(np.cumsum(rng.normal(1, 0.02, 100)), ttft=rng.normal(1, 0.05, 100).tolist())
    ends = np.cumsum(rng.normal(1.3, 0.02, 60))
    early, late = rng.normal(0.5, 0.05, 60).tolist(), rng.normal(1.5, 0.05, 60).tolist()

    assert not compare_with_incumbents(measured(ends, ttft=early), [base], [THROUGHPUT, TTFT]).stop
    assert compare_with_incumbents(measured(ends, ttft=late), [base], [THROUGHPUT, TTFT]).stop


def test_more_incumbents_ask_for_more_evidence():
    """Each may err with its part of the error only: here what is foretold has to do."""
    rng = np.random.default_rng(6)
    base, trial = paced(rng.normal(1, 0.1, 100)), paced(rng.normal(1.2, 0.1, 60))
    alone = compare_with_incumbents(trial, [base], [THROUGHPUT])

    assert alone.rule == BEATEN
    assert alone.evidence < 505 / ALPHA
    assert compare_with_incumbents(trial, [base, *[paced([9.0] * 100)] * 100], [THROUGHPUT]).rule != BEATEN


def test_within_the_margin_nothing_is_stopped():
    """10 % slower, where 20 % is allowed."""
    rng = np.random.default_rng(12)
    base, trial = paced(rng.normal(1, 0.02, 100)), paced(rng.normal(1.1, 0.02, 80))

    assert compare_with_incumbents(trial, [base], [THROUGHPUT]).stop
    assert not compare_with_incumbents(trial, [base], [THROUGHPUT], margin=0.2).stop


def test_what_takes_long_does_not_hold_back_the_count_of_the_rest():
    """The first request is under way still; a trial of half the rate is stopped all the same, by the clock."""
    rng = np.random.default_rng(14)
    base = measured([150.0, *np.cumsum(rng.normal(1, 0.05, 149))])
    slow = measured([math.nan, *np.cumsum(rng.normal(2, 0.05, 45))])

    assert answered_prefix(slow) == 0
    assert compare_with_incumbents(slow, [base], [THROUGHPUT]).stop
    assert compare_with_incumbents(slow, [base], [StudyObjective("goodput")]).stop


def test_of_equal_servers_few_are_stopped_that_would_end_ahead():
    """Answers at random times, at the same rate, a look at every twentieth: as rare as the error says, by the clock."""
    rng = np.random.default_rng(15)
    wrong = 0
    for _ in range(200):
        base, trial = (np.cumsum(rng.exponential(1.0, 100)) for _ in range(2))
        looks = [measured(trial[trial <= trial[-1] * look / 20]) for look in range(4, 20)]
        wrong += trial[-1] <= base[-1] and any(
            compare_with_incumbents(one, [measured(base)], [THROUGHPUT]).stop for one in looks
        )

    assert wrong <= ALPHA * 200


def test_another_seed_is_no_pair():
    """Request 7 of another seed is another request."""
    other = measured(range(1, 101), seed=2)

    assert not len(block_differences(paced([9.0] * 60), other, "throughput"))


def test_latencies_are_compared_as_far_as_nothing_is_missing():
    """A request still under way may be the slow one: what comes after it waits."""
    trial = measured([1, 2, math.nan, 4, 5])

    assert answered_prefix(trial) == 2


def test_in_a_closed_loop_goodput_counts_the_time():
    """Every request within the SLO, and half as many a second: beaten; as many good ones in half of the time: not."""
    rng = np.random.default_rng(13)
    base = measured(np.cumsum(rng.normal(1, 0.05, 100)), good=[1.0, 0.0] * 50)
    patient = measured(np.cumsum(rng.normal(4, 0.05, 80)))
    quick = measured(np.cumsum(rng.normal(0.4, 0.05, 80)), good=[1.0, 0.0, 0.0, 0.0] * 20)

    assert compare_with_incumbents(patient, [base], [StudyObjective("goodput")]).stop
    assert not compare_with_incumbents(quick, [base], [StudyObjective("goodput")]).stop


@pytest.mark.parametrize("objective", ["throughput", "request_rate", "goodput", "ttft_p99", "tpot_mean", "e2e_p90"])
def test_what_can_be_compared_is_stopped_when_worse(objective):
    """Each objective by its own series, the same trial being worse in all of them."""
    rng = np.random.default_rng(8)

    def one(factor, count):
        noisy = rng.normal(factor, 0.05, (3, count))
        good = (rng.random(count) < (1.0 if factor == 1 else 0.3)).astype(float)
        run = measured(np.cumsum(noisy[0]), ttft=noisy[1].tolist(), tpot=noisy[2].tolist(), good=good.tolist())
        series = {**run.series, "e2e": tuple((noisy[0] * 3).tolist())}
        return type(run)(run.metrics, series, run.load_s, run.seed)

    assert compare_with_incumbents(one(1.5, 80), [one(1.0, 100)], [StudyObjective(objective)]).stop


def test_what_has_no_pairs_is_never_stopped():
    """A capacity is found over many rates: no request of it has a partner."""
    assert latency_comparison("capacity") is None
    assert not compare_with_incumbents(paced([9.0] * 90), [paced([1.0] * 100)], [StudyObjective("capacity")]).stop


def test_a_failed_request_is_no_crash_of_the_test():
    """Infinite latencies and an end that never came count as far worse, not as NaN."""
    base = paced([1.0] * 100)
    trial = measured([math.inf] * 40, ttft=[math.inf] * 40)

    assert compare_with_incumbents(trial, [base], [THROUGHPUT, TTFT]).evidence >= 1.0


def test_a_limit_that_cannot_be_kept_any_more_ends_the_trial():
    """Of 100 planned requests a p90 leaves ten above; the eleventh decides."""
    limit = [Constraint("ttft_p90", most=1.0)]
    eleven = measured(range(1, 31), ttft=[2.0] * 11 + [0.1] * 19)

    assert constraint_breach(eleven, limit, planned=100).stop
    assert not constraint_breach(measured(range(1, 31), ttft=[2.0] * 10 + [0.1] * 20), limit, planned=100).stop
    assert stopping_rule([paced([1.0] * 100)], [THROUGHPUT], limit)(eleven).stop


def test_blocks_are_whole_and_the_benchmark_has_about_twenty():
    """Never fewer than five requests a block."""
    assert block_size(400) == 20
    assert block_size(10) == 5
