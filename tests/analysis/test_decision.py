"""The Pareto front against a brute-force oracle, and the choice with its reason."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.decision import Option, decide, pareto_front, stage_options
from harness.analysis.warnings import INVALID, Warning
from harness.messages import language, localized, plain

RATES = st.integers(1, 8).map(float) | st.floats(0.1, 1e5) | st.just(math.nan)
OPTIONS = st.lists(
    st.builds(
        Option, key=st.uuids().map(str), name=st.just(plain("x")), npu_rate=RATES, user_rate=RATES,
        kept=st.none() | st.booleans(), eligible=st.booleans(),
    ),
    max_size=24,
)  # fmt: skip


def option(name, npu_rate, user_rate, **more):
    """An option of that name."""
    return Option(name, plain(name), npu_rate, user_rate, **more)


def brute_force(options):
    """The keys of all eligible options that no eligible option dominates."""
    known = [o for o in options if o.eligible and not math.isnan(o.npu_rate + o.user_rate)]
    return {
        o.key
        for o in known
        if not any(
            p.npu_rate >= o.npu_rate
            and p.user_rate >= o.user_rate
            and (p.npu_rate, p.user_rate) != (o.npu_rate, o.user_rate)
            for p in known
        )
    }


@given(options=OPTIONS)
def test_the_front_is_that_of_brute_force(options):
    """Exactly the options that none dominates, by falling throughput; what is not eligible is never there."""
    front = pareto_front(options)
    rates = [o.npu_rate for o in front]

    assert {o.key for o in front} == brute_force(options)
    assert rates == sorted(rates, reverse=True)


@given(options=OPTIONS)
def test_the_choice_keeps_every_limit_and_none_that_does_has_more(options):
    """A chosen option is eligible and keeps its limits where there are any; the reason reads in both languages."""
    decision = decide(options)
    texts = []
    for code in ("en", "zh"):
        with language(code):
            texts.append(localized(decision.reason))

    assert all(texts)
    if decision.chosen is None:
        return
    assert decision.chosen.eligible
    if decision.chosen.kept is not None:
        keeping = [o.npu_rate for o in options if o.eligible and o.kept and not math.isnan(o.npu_rate + o.user_rate)]
        assert decision.chosen.npu_rate == max(keeping)


def test_the_most_throughput_within_the_limits_is_chosen():
    """Not the most of all: what breaks a limit is left, though it is on the front."""
    options = [option("a", 100, 50, kept=True), option("b", 200, 40, kept=True, cost=2.5, kwh=0.7),
               option("c", 400, 10, kept=False)]  # fmt: skip
    decision = decide(options)

    assert [o.key for o in decision.front] == ["c", "b", "a"]
    assert decision.chosen.key == "b"
    assert str(decision.reason) == (
        "Choose b: of 2 loads that keep every limit it has the highest throughput, 200 tok/s per NPU, with 40.0 tok/s "
        "per user. A million output tokens cost 2.50. A million output tokens take 0.700 kWh."
    )


def test_an_option_that_is_nearly_as_good_and_faster_is_named():
    """One that gives 2 % less and twice the speed is worth a sentence."""
    decision = decide([option("a", 98, 80, kept=True), option("b", 100, 40, kept=True)])

    assert "a has only 2.00 % less throughput and 80.0 tok/s per user." in str(decision.reason)


def test_without_limits_it_is_a_trade_unless_one_is_best_in_both():
    """Both ends of the front are named, and what would decide."""
    trade = decide([option("a", 100, 50), option("b", 200, 40)])
    best = decide([option("a", 100, 50), option("b", 200, 60)])

    assert trade.chosen is None
    assert "slo.tpot_p99" in str(trade.reason)
    assert best.chosen.key == "b"


def test_nothing_is_recommended_where_nothing_keeps_the_limits():
    """The number of valid loads is told; an invalid one is not among them."""
    decision = decide([option("a", 1, 1, kept=False), option("b", 2, 2, kept=True, eligible=False)])

    assert decision.chosen is None
    assert "none of 1 valid loads" in str(decision.reason)


def stage(index, npu_rate, user_rate, repeat=0, **more):
    """A stage of summary.json with what an option needs."""
    rates = {"npu_token_rate": npu_rate, "user_token_rate": user_rate}
    return {"index": index, "repeat": repeat, "label": f"load {index}", "efficiency": rates, **more}


def warning(code, severity, stage_index=None, repeat=None):
    """A warning about a stage."""
    return Warning(code, severity, plain("t"), plain("n"), stage_index, repeat)


def test_invalid_stages_and_growing_queues_are_not_eligible():
    """A stage that is not valid, or whose queue grew, is shown and not on the front."""
    stages = [stage(0, 1, 9), stage(1, 2, 8), stage(2, 3, 7)]
    warnings = [warning("late", INVALID, 1), warning("queue_grew", "warning", 2)]
    options = stage_options(stages, warnings, 2)

    assert [o.eligible for o in options] == [True, False, False]
    assert not any(o.eligible for o in stage_options(stages, [warning("late", INVALID)], 2))


def test_a_repeat_that_is_not_valid_is_left_out_of_the_medians():
    """The others of the stage stand for it."""
    stages = [stage(0, rate, 10, repeat) for repeat, rate in enumerate((1.0, 100.0, 3.0))]
    (left,) = stage_options(stages, [warning("late", INVALID, 0, 1)], None)

    assert (left.npu_rate, left.eligible, left.by_engine) == (2.0, True, True)


@pytest.mark.parametrize("met", [True, False, None])
def test_limits_are_kept_where_every_repeat_kept_them(met):
    """An unknown one counts as not kept."""
    slo = {"slo": {"tpot_p99": {}}}
    stages = [stage(0, 1, 1, **slo, slo_met=True), stage(0, 1, 1, 1, **slo, slo_met=met)]

    assert stage_options(stages, [], 1)[0].kept is (met is True)
    assert replace(stage_options([stage(0, 1, 1)], [], 1)[0]).kept is None
