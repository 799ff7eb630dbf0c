"""What tells a comparison how far two runs differ, and the smallest change it can see."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.comparison.comparison import compare
from harness.comparison.control_variate import FluidServer, OfferedWork, serve_fluid
from harness.comparison.describe import detectable_text, interval
from harness.comparison.estimation import BlockedRuns, detectable_effect, estimate_effect, f_tail
from harness.comparison.judging import MACHINE_CHANGED, SINGLE_RUNS, UNDETERMINED, WORSE
from harness.comparison.repeats import Side
from harness.comparison.sides import earlier_runs, read_side
from harness.scenario.gate import KERNEL_GATE
from harness.statistics.difference import Effect, by_pairs
from tests.comparison.test_judging import GATE, repeat, side
from tests.comparison.test_kernels import drifting
from tests.kernel_results import make_kernels
from tests.result_folder import Run, make_result

VALUES = st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=3, max_size=7)


def runs(base, new, *, paired, earlier=(), known=None):
    """Values of both sides, and of groups of earlier runs."""
    values = np.concatenate([base, new, *earlier])
    own = len(base) + len(new)
    block = [*range(len(base)), *range(len(new))] if paired else [0] * own
    block += [100 + place for place, group in enumerate(earlier) for _ in group]
    is_new = np.asarray([0.0] * len(base) + [1.0] * (len(values) - len(base)))
    is_new[own:] = 0
    return BlockedRuns(
        values, np.asarray(block), is_new, np.arange(len(values)) < own,
        np.zeros(len(values)) if known is None else np.asarray(known),
    )  # fmt: skip


@settings(max_examples=40)
@given(VALUES)
def test_pairs_alone_are_the_t_test_of_their_differences(both):
    """Without earlier runs the linear model is the paired t test."""
    base, new = (np.asarray(one) for one in zip(*both, strict=True))
    found, plain = estimate_effect(runs(base, new, paired=True)), by_pairs(base, new)

    assert found.estimate == pytest.approx(plain.estimate, abs=1e-7)
    assert found.error == pytest.approx(plain.error, abs=1e-7)
    assert found.dof == plain.dof


def test_one_run_a_side_has_no_error_of_its_own():
    """Nothing tells how far two runs differ; four earlier ones do, with three degrees of freedom."""
    base, new, past = np.asarray([1.0]), np.asarray([1.1]), np.asarray([0.0, 0.1, -0.1, 0.0])

    assert estimate_effect(runs(base, new, paired=True)) is None
    found = estimate_effect(runs(base, new, paired=True, earlier=[past]))
    assert (found.estimate, found.dof) == (pytest.approx(0.1), 3)
    assert found.error == pytest.approx(np.sqrt(2 * past.var(ddof=1)))


def test_earlier_runs_do_not_hide_that_it_is_noisier_today():
    """Where today's runs are shown to differ by more than the earlier ones did, they alone count."""
    rng = np.random.default_rng(1)
    base, new = rng.normal(0, 1, 5), rng.normal(0, 1, 5)
    quiet = estimate_effect(runs(base, new, paired=False, earlier=[rng.normal(0, 0.01, 12)]))
    alike = estimate_effect(runs(base, new, paired=False, earlier=[rng.normal(0, 1, 12)]))

    assert (quiet.dof, alike.dof) == (8, 19)


def test_false_alarms_are_one_in_twenty_with_a_covariate_and_without():
    """Of 600 comparisons of unlike work without a difference; the covariate makes errors a third."""
    rng = np.random.default_rng(2)
    found = {True: [], False: []}
    for _ in range(600):
        work = rng.normal(0, 0.3, 10)
        values = work + rng.normal(0, 0.1, 10)
        for adjusted, kept in found.items():
            kept.append(estimate_effect(runs(values[:5], values[5:], paired=False, known=work if adjusted else None)))

    for kept in found.values():
        assert 0.03 < np.mean([one.p_value() < 0.05 for one in kept]) < 0.075
    errors = [np.median([one.error for one in found[adjusted]]) for adjusted in (True, False)]
    assert errors[0] < 0.45 * errors[1]


@pytest.mark.parametrize("dof", [2, 4, 12])
def test_what_is_said_to_be_seen_is_found_in_four_of_five(dof):
    """A change of just that size, under errors that are estimated themselves."""
    rng = np.random.default_rng(dof)
    size = detectable_effect(Effect(0.0, 1.0, dof), 0.0125)
    errors = np.sqrt(rng.chisquare(dof, 3000) / dof)
    found = [
        Effect(one, error, dof).p_value() < 0.0125 for one, error in zip(rng.normal(size, 1, 3000), errors, strict=True)
    ]

    assert 0.77 < np.mean(found) < 0.83


def test_the_tail_of_f_is_that_of_tables():
    """5 % points of Snedecor's F."""
    assert f_tail(3.478, 4, 10) == pytest.approx(0.05, abs=1e-3)
    assert f_tail(161.45, 1, 1) == pytest.approx(0.05, abs=1e-3)


def test_one_run_a_side_is_refused_with_the_command_that_takes_turns():
    """However large the change: exit 4, and no regression."""
    found = compare(side("base", [(0.01, 400.0)]), side("new", [(0.05, 90.0)]), GATE)

    assert all(row.reason == SINGLE_RUNS for row in found.judged)
    assert (found.exit_code, found.broken, found.sensitivity) == (4, [], None)
    assert str(found.answer) == "Cannot be judged from one run per side: run each 3 times, in turn."
    assert "harness run SCENARIO.yaml --repeats 3 --against" in str(found.warnings[0].next)


def test_earlier_runs_judge_one_run_a_side():
    """Four of them that differ by 1 % show a change of 20 %, and the comparison says what it can see."""
    past = [repeat((0.01 * factor, 400.0)) for factor in (0.99, 1.0, 1.01, 1.0)]
    found = compare(side("base", [(0.01, 400.0)]), side("new", [(0.012, 400.0)]), GATE, earlier=past)

    assert found.judged[0].verdict == WORSE
    assert str(found.sensitivity).startswith("This comparison can detect changes of ")
    assert "earlier_runs" in {warning.code for warning in found.warnings}


def test_two_repeats_that_differ_wildly_are_said_to_be_too_few():
    """Neither a detectable change nor the end of an interval is written out in thousands of per cent."""
    base = side("base", [(0.01, 400.0), (0.09, 90.0)])
    comparison = compare(base, side("new", [(0.08, 100.0), (0.01, 380.0)]), GATE)
    rows = [row for row in comparison.judged if row.is_blind]

    assert rows == [row for row in comparison.judged if row.detectable is not None]
    assert str(comparison.sensitivity) == (
        "With 2 repeats of each side this comparison can tell nothing: even a change of 200 % may go unseen. "
        "Run more repeats."
    )
    assert {detectable_text(row.detectable) for row in rows if not row.measure.more_is_better} == {"> 200 %"}
    assert all(str(interval(row)).endswith(" to more than +200 %") for row in rows)


def test_earlier_runs_are_those_of_the_same_scenario(tmp_path):
    """Neither the sides themselves, nor another model's, nor what is no result."""
    run = Run(loads=(2.0,), duration_s=5, warmup=0, samples=False, output=(4, 8))
    made = [make_result(tmp_path / name, run) for name in ("a", "b", "c")]
    make_result(tmp_path / "other", Run(loads=(2.0,), duration_s=5, samples=False, model="other"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    found = earlier_runs([tmp_path], made[:2], read_side(made[0]))

    assert [one.name for one in found] == ["c"]


def test_kernels_of_a_machine_that_moved_break_no_gate(tmp_path):
    """Four repeats a side, half as slow again, and a copy that moved by a fifth: not judged, exit 4."""
    base = make_kernels(tmp_path / "a", drifting(0.01, 1), repeats=4)[0]
    new = make_kernels(tmp_path / "b", drifting(0.01, 2, 1.5), repeats=4, rate=0.8e10)[0]
    found = compare(read_side(base), read_side(new), KERNEL_GATE)

    assert all((row.verdict, row.reason) == (UNDETERMINED, MACHINE_CHANGED) for row in found.judged)
    assert (found.exit_code, found.broken) == (4, [])


def test_kernels_that_differ_from_process_to_process_break_no_gate(tmp_path):
    """The same kernels once a side, and every run 20 % off: no verdict of any case; the command is said."""
    sides = [read_side(make_kernels(tmp_path / name, drifting(0.2, seed))[0]) for seed, name in enumerate("ab")]
    found = compare(*sides, KERNEL_GATE)

    assert {row.verdict for row in found.judged} == {UNDETERMINED}
    assert found.broken == []


def test_a_plain_server_keeps_order_and_lengths():
    """One at a time: a prompt of 100 tokens at 1 ms each, then nine steps of 10 ms."""
    work = OfferedWork(
        np.asarray([0.0, 5.0]), np.full(2, 100.0), np.full(2, 10.0), np.ones(2, bool), None, 8, np.ones(2), np.ones(2)
    )
    sent, first, last = serve_fluid(work, FluidServer(0.01, 0.0, 0.001))

    assert (first - sent).tolist() == pytest.approx([0.1, 0.1])
    assert (last - first).tolist() == pytest.approx([0.09, 0.09])


def test_two_runs_a_side_are_judged_by_themselves():
    """By a t test of one or two degrees of freedom, which says that it sees little."""
    found = compare(
        Side("base", side("x", [(0.01, 400.0), (0.0101, 399.0)]).repeats),
        Side("new", side("y", [(0.0103, 400.0), (0.0102, 399.5)]).repeats), GATE,
    )  # fmt: skip

    assert found.exit_code == 0
    assert found.judged[0].detectable > 0.2
