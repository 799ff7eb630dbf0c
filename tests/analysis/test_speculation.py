"""Acceptance is what vLLM's counters say it is, over the window of a stage and no other time."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.speculation import find_speculation
from harness.analysis.steady_state import Window
from harness.analysis.summary import summarize
from harness.results.request_table import samples_from
from harness.telemetry.server_metrics import ACCEPTED_AT, ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS
from harness.units import NS_PER_S
from tests.made_runs import answered, columns, run_json, span_row

TEN_S = Window(0, 10 * NS_PER_S, "whole stage", steady=True)


def counters(steps, source="server", at=None):
    """Samples of counters that rose by these (drafts, draft tokens, accepted by position) from second to second."""
    names = (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS)
    places = len(steps[0][2])
    totals = np.zeros(3 + places)
    rows = []
    for second, (drafts, tokens, accepted) in enumerate([(0, 0, (0,) * places), *steps]):
        totals += (drafts, tokens, sum(accepted), *accepted)
        at_ns = int((second if at is None else at[second]) * NS_PER_S)
        keys = (*names, *(f"{ACCEPTED_AT}:{place}" for place in range(places)))
        rows += [(at_ns, source, name, float(value)) for name, value in zip(keys, totals, strict=True)]
    return rows


def line_of_vllm(steps):
    """The numbers of vLLM's own log line (v1/spec_decode/metrics.py), from what each step of its engine observed."""
    drafts, tokens = sum(step[0] for step in steps), sum(step[1] for step in steps)
    accepted = np.sum([step[2] for step in steps], axis=0)
    return 1 + accepted.sum() / drafts, accepted.sum() / tokens, (accepted / drafts).tolist()


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1)), min_size=10, max_size=10))
def test_acceptance_is_that_of_vllms_log_line(drawn):
    """Mean accepted length, acceptance rate and acceptance by position: by the definitions of vLLM."""
    steps = [(n, 2 * n, (round(n * one), round(n * one * two))) for n, one, two in drawn]
    found = find_speculation(samples_from(counters(steps))).within(TEN_S)
    length, rate, places = line_of_vllm(steps)

    assert found["mean_accepted_length"] == pytest.approx(length)
    assert found["acceptance_rate"] == pytest.approx(rate)
    assert found["by_position"] == pytest.approx(places)
    assert found["drafts"] == sum(step[0] for step in steps)
    assert found["accepted_tokens"] == sum(sum(step[2]) for step in steps)


def test_what_came_before_and_after_does_not_count():
    """Of a counter that ran all day only what it rose by within the window, by the nearest samples."""
    before, inside, after = (100, 200, (90, 80)), (10, 20, (5, 1)), (70, 140, (70, 70))
    samples = samples_from(counters([before] * 5 + [inside] * 10 + [after] * 5))
    window = Window(int(5.2 * NS_PER_S), int(14.8 * NS_PER_S), "whole stage", steady=True)
    found = find_speculation(samples).within(window)

    assert (found["drafts"], found["by_position"]) == (100, [0.5, 0.1])


@pytest.mark.parametrize(
    "window",
    [Window(0, NS_PER_S // 10, "x", steady=True), Window(60 * NS_PER_S, 70 * NS_PER_S, "x", steady=True)],
    ids=["shorter than a look", "after all looks"],
)
def test_a_window_with_one_sample_has_no_acceptance(window):
    """Where nothing was counted there is no block, rather than one of zeros."""
    assert find_speculation(samples_from(counters([(5, 10, (2, 1))] * 10))).within(window) is None


def test_a_counter_that_fell_is_another_process():
    """An engine that was started again has counted from nothing."""
    rows = counters([(5, 10, (2, 1))] * 10)
    rows = [(at, source, name, value - 15 if at >= 5 * NS_PER_S else value) for at, source, name, value in rows]

    assert find_speculation(samples_from(rows)).within(TEN_S) is None


def test_an_engine_that_speculates_and_never_drafts_has_no_rates():
    """N-gram speculation finds nothing to draft: counters stand still, and no rate is made of them."""
    found = find_speculation(samples_from(counters([(0, 0, (0, 0))] * 10))).within(TEN_S)

    assert (found["drafts"], found["acceptance_rate"], found["mean_accepted_length"]) == (0, None, None)
    assert (found["by_position"], found["ci95"]) == ([], {})


def test_an_engine_that_does_not_speculate_has_none():
    """Its /metrics has no such counter, and its summary no such block."""
    rows = [(second * NS_PER_S, "server", "vllm:generation_tokens_total", 5.0 * second) for second in range(11)]

    assert find_speculation(samples_from(rows)) is None
    assert find_speculation(samples_from([])) is None


def test_each_of_several_engines_has_its_own():
    """Rank 1 accepts half of what rank 0 does; what both have together is the server's."""
    ranks = {"server/0": (100, 200, (80, 60)), "server/1": (100, 200, (40, 30))}
    rows = [row for source, step in ranks.items() for row in counters([step] * 10, source)]
    rows += counters([(200, 400, (120, 90))] * 10)
    found = find_speculation(samples_from(rows)).within(TEN_S)

    assert found["acceptance_rate"] == pytest.approx(210 / 400)
    assert {name: own["acceptance_rate"] for name, own in found["engines"].items()} == {"0": 0.7, "1": 0.35}
    assert found["engines"]["1"]["by_position"] == pytest.approx([0.4, 0.3])


def test_the_interval_holds_the_true_rate_as_often_as_it_says():
    """Of 300 stages of 60 s with independent acceptance, 95 % intervals hold the truth in 90 % at least."""
    generator = np.random.default_rng(7)
    window = Window(0, 60 * NS_PER_S, "whole stage", steady=True)
    held = known = 0
    for _ in range(300):
        drafts = generator.integers(20, 60, 60)
        steps = [(int(n), int(2 * n), (int(generator.binomial(n, 0.7)), 0)) for n in drafts]
        ends = find_speculation(samples_from(counters(steps))).within(window)["ci95"]
        if ends:
            known += 1
            held += ends["acceptance_rate"][0] <= 0.35 <= ends["acceptance_rate"][1]
            low, high = ends["mean_accepted_length"]
            assert 1 < low < high < 2
    assert known > 270
    assert held / known >= 0.9


def test_few_samples_give_no_interval():
    """Ten looks at the counters say nothing of how far the rate may be off."""
    assert find_speculation(samples_from(counters([(50, 100, (40, 20))] * 10))).within(TEN_S)["ci95"] == {}


@settings(deadline=None)
@given(st.sets(st.integers(0, 62), max_size=40))
def test_missing_looks_change_nothing_but_the_edges(lost):
    """Counters add up whatever looks were lost between the ends."""
    steps = [(3, 6, (second % 3, second % 2)) for second in range(10)]
    rows = [row for place, row in enumerate(counters(steps)) if place not in lost or row[0] in (0, 10 * NS_PER_S)]
    found = find_speculation(samples_from(rows)).within(TEN_S)

    assert found["accepted_tokens"] == sum(sum(step[2]) for step in steps)


def stage_with(rows, **run):
    """The summary of a stage of 400 answers with these samples."""
    requests, events = columns([answered(i, i / 40, [i / 40 + 0.1 + 0.01 * k for k in range(5)]) for i in range(400)])
    whole = run_json([{"kind": "constant", "rate": 40.0, "duration_s": 10.0}]) | run
    return summarize(requests, events, samples_from(rows), [span_row(0, 10, 10.2)], whole)


def warned(summary):
    """The codes of its warnings."""
    return {warning["code"] for warning in summary["verdict"]["warnings"]}


def test_a_stage_tells_its_acceptance_where_the_engine_speculates():
    """Summary.json has the block with every number finite, and has none without speculation."""
    rows = counters([(50, 100, (40, 20))] * 10)
    (stage,) = stage_with(rows)["stages"]

    assert stage["speculation"]["acceptance_rate"] == pytest.approx(0.6)
    assert stage["speculation"]["mean_accepted_length"] == pytest.approx(2.2)
    assert all(math.isfinite(value) for value in stage["speculation"]["by_position"])
    assert "speculation" not in stage_with([])["stages"][0]


def test_random_tokens_say_nothing_of_acceptance():
    """A warning where an engine speculates over random prompts; none over text, a data set, or without speculation."""
    rows = counters([(50, 100, (40, 20))] * 10)
    simulated = {"engine": {"kind": "simulator", "simulated": True}}

    assert "random_text" in warned(stage_with(rows, text="random"))
    assert "random_text" not in warned(stage_with(rows, text="real"))
    assert "random_text" not in warned(stage_with(rows, text=None))
    assert "random_text" not in warned(stage_with([], text="random"))
    assert "random_text" not in warned(stage_with(rows, text="random", **simulated))
    (said,) = [w for w in stage_with(rows, text="random")["verdict"]["warnings"] if w["code"] == "random_text"]
    assert re.search("random tokens", said["text"])
    assert "workload.text" in said["next_text"]
