"""The arithmetic of comparing: effects, Holm's procedure, blocks that are drawn again."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.statistics.difference import (
    FEWEST_BLOCKS,
    Effect,
    Estimand,
    RunValues,
    blocks_of,
    by_blocks,
    by_groups,
    by_pairs,
    holm,
    replicates,
)
from harness.statistics.intervals import student_t, student_t_above

LOGS = st.floats(-5, 5)
TIMES = st.floats(0.001, 100)
CHANCES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
ASKED = st.sampled_from([Estimand("mean"), Estimand("p50"), Estimand("p90"), Estimand("mean", ratio=False)])


def sides(values=LOGS, least=2, most=8):
    """Two arrays of one length."""
    sizes = st.integers(least, most)
    return sizes.flatmap(
        lambda n: st.tuples(hnp.arrays(float, n, elements=values), hnp.arrays(float, n, elements=values))
    )


def sample(values, first=0):
    """Values of consecutive places."""
    return RunValues(np.asarray(values), np.arange(first, first + len(values)))


@given(st.floats(-30, 30), st.floats(1, 200))
def test_the_tail_of_t_is_that_of_its_quantile(t, dof):
    """`student_t` undoes `student_t_above`, and both sides sum to one."""
    above = student_t_above(t, dof)

    assert above + student_t_above(-t, dof) == pytest.approx(1)
    if 1e-6 < above < 1 - 1e-6:
        assert student_t(1 - above, dof) == pytest.approx(t, rel=1e-3, abs=1e-5)


@given(sides())
def test_pairs_and_groups_turn_round_with_their_sides(both):
    """Exchanging the sides negates the effect and leaves its error and p-value."""
    base, new = both
    for method in (by_pairs, by_groups):
        there, back = method(base, new), method(new, base)

        assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
        assert back.error == pytest.approx(there.error, abs=1e-12)


def test_a_paired_effect_is_the_t_test_of_the_differences():
    """Five differences of mean 2 and deviation sqrt(2.5): t = 2 / sqrt(0.5) on four degrees of freedom."""
    effect = by_pairs(np.zeros(5), np.asarray([0.0, 1.0, 2.0, 3.0, 4.0]))

    assert effect == Effect(2.0, pytest.approx(math.sqrt(0.5)), 4)
    assert effect.p_value() == pytest.approx(0.0474, abs=1e-4)
    assert effect.p_above(0) == pytest.approx(0.0237, abs=1e-4)


def test_welch_gives_the_textbook_degrees_of_freedom():
    """Groups of unequal spread: the error of each adds, and degrees of freedom fall below n - 2."""
    base, new = np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([2.0, 6.0, 10.0])
    effect = by_groups(base, new)

    assert effect.estimate == 3.5
    assert effect.error == pytest.approx(math.sqrt(5 / 12 + 16 / 3))
    assert effect.dof == pytest.approx((5 / 12 + 16 / 3) ** 2 / ((5 / 12) ** 2 / 3 + (16 / 3) ** 2 / 2))


@given(CHANCES)
def test_holm_rejects_between_bonferroni_and_no_correction(chances):
    """Whatever Bonferroni rejects Holm does too, and it rejects nothing that stands above alpha."""
    for chance, judged in zip(chances, holm(chances, 0.05), strict=True):
        assert judged.shown or chance > 0.05 / len(chances)
        assert not judged.shown or chance <= 0.05


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 2)), min_size=1, max_size=8), st.floats(0, 1))
def test_an_interval_at_its_level_lies_beyond_the_smallest_exactly_where_it_is_shown(parts, smallest):
    """What the table prints and what is judged never contradict each other."""
    effects = [Effect(estimate, error, 6) for estimate, error in parts]
    chances = [effect.p_value(smallest) for effect in effects]
    for effect, chance, judged in zip(effects, chances, holm(chances, 0.05), strict=True):
        low, high = effect.interval(judged.level)
        if abs(chance - judged.level) > 1e-6:  # on the edge the last digit decides
            assert judged.shown == (low > smallest or high < -smallest)


def test_holm_by_hand():
    """Of 0.01, 0.04, 0.03 and 0.005 at 5 %, the smallest two are rejected: 0.03 is above 0.05 / 2."""
    judged = holm([0.01, 0.04, 0.03, 0.005], 0.05)

    assert [one.shown for one in judged] == [True, False, False, True]
    assert [one.level for one in judged] == [0.05 / 3, 0.025, 0.025, 0.0125]


@settings(max_examples=max(40, settings.default.max_examples // 4))
@given(hnp.arrays(float, st.integers(25, 80), elements=TIMES), ASKED)
def test_a_run_beside_itself_shows_nothing(values, asked):
    """The effect of a run on itself is none, and its p-value one."""
    effect = by_blocks([sample(values)], [sample(values)], asked, paired=True, between=0.01)

    assert effect is not None
    assert effect.estimate == 0
    assert effect.p_value() == 1


@settings(max_examples=max(40, settings.default.max_examples // 4))
@given(sides(TIMES, 25, 80), ASKED, st.booleans())
def test_blocks_turn_round_with_their_sides(both, asked, paired):
    """Exchanging the runs negates the effect and leaves its error, drawn together or apart."""
    base, new = ([sample(values)] for values in both)
    there = by_blocks(base, new, asked, paired=paired, between=0.01)
    back = by_blocks(new, base, asked, paired=paired, between=0.01)

    assert there is not None
    assert back is not None
    assert back.estimate == pytest.approx(-there.estimate)
    assert back.error == pytest.approx(there.error)


def test_values_that_share_their_requests_are_compared_in_pairs():
    """Requests of very different lengths, each 3 % slower: seen in pairs, lost where the runs are drawn apart."""
    rng = np.random.default_rng(1)
    base = rng.lognormal(0, 1, 400)
    new = 1.03 * base * rng.lognormal(0, 0.01, 400)
    pairs = by_blocks([sample(base)], [sample(new)], Estimand("mean"), paired=True, between=0.0)
    apart = by_blocks([sample(base)], [sample(new)], Estimand("mean"), paired=False, between=0.0)

    assert pairs.p_value() < 1e-6
    assert apart.p_value() > 0.3


def test_neighbours_that_resemble_each_other_widen_the_error():
    """The same values in shuffled order look far surer than in their own, where they wander slowly."""
    rng = np.random.default_rng(2)
    walk = 5 + np.cumsum(rng.normal(0, 0.1, 900))
    walk -= walk.min() - 1
    flat = np.full(900, 3.0)
    wandering = by_blocks([sample(flat)], [sample(walk)], Estimand("mean"), paired=True, between=0.0)
    shuffled = by_blocks([sample(flat)], [sample(rng.permutation(walk))], Estimand("mean"), paired=True, between=0.0)

    assert wandering.error > 5 * shuffled.error
    assert wandering.dof == FEWEST_BLOCKS - 1  # blocks were made longer, as far as they may be


def test_what_runs_differ_by_is_added():
    """One run a side: twice the variance between runs comes on top, and with it no 1 % is shown any more."""
    rng = np.random.default_rng(3)
    base = rng.lognormal(0, 0.1, 900)
    exact = by_blocks([sample(base)], [sample(1.02 * base)], Estimand("mean"), paired=True, between=0.0)
    honest = by_blocks([sample(base)], [sample(1.02 * base)], Estimand("mean"), paired=True, between=0.01)

    assert exact.p_value() < 1e-6
    assert honest.error**2 == pytest.approx(exact.error**2 + 2 * 0.01**2)
    assert honest.p_value() > 0.05


def test_too_few_values_give_no_effect():
    """Below 25 values there are fewer than five blocks."""
    few = [sample(np.ones(24))]

    assert by_blocks(few, few, Estimand("mean"), paired=True, between=0.01) is None


def test_blocks_hold_consecutive_places_of_both_runs():
    """Requests that only one run has fall between those of the other, in equal numbers of places."""
    one, other = RunValues(np.ones(6), np.arange(0, 12, 2)), RunValues(np.ones(6), np.arange(1, 13, 2))
    of = blocks_of([one, other], 3)

    assert of[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert of[1].tolist() == [0, 0, 1, 1, 2, 2]


@given(hnp.arrays(float, st.integers(30, 200), elements=TIMES), st.sampled_from(["p50", "p90", "p99"]))
def test_a_draw_of_every_block_once_gives_the_plain_percentile(values, statistic):
    """Replicates by counts are the values that sorting finds: the first at or above the rank."""
    blocks = blocks_of([sample(values)], 5)[0]
    found = replicates(values, blocks, np.ones((1, 5), dtype=np.int64), Estimand(statistic, ratio=False))

    assert found[0] == np.percentile(values, float(statistic[1:]), method="higher")


def test_many_values_are_binned():
    """Beyond 4096 different values percentiles come from bins of equal counts, within two hundredths."""
    values = np.random.default_rng(4).lognormal(0, 1, 100_000)
    found = replicates(
        values, np.arange(100_000) // 10_000, np.ones((1, 10), dtype=np.int64), Estimand("p99", ratio=False)
    )

    assert found[0] == pytest.approx(np.percentile(values, 99), rel=2e-2)
