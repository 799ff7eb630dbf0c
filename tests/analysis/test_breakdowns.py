"""Breakdowns of latency by prompt length and turn hold the medians of the requests they are of."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.breakdowns import FEWEST, FEWEST_IN_BIN, PROMPT_TOKENS, TURN, breakdowns, judge_by_length
from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.steady_state import Span
from harness.results.request_table import MISSING
from tests.made_runs import answered, columns, failed, ns


def broken_down(pairs, *, stream=True):
    """The breakdowns of answered requests, all counted, in a closed loop."""
    requests, _ = columns(pairs)
    return breakdowns(requests, np.ones(len(requests), dtype=bool), stream=stream, open_loop=False)


def of_lengths(lengths):
    """One request of each length, whose first token takes as many seconds, and its second one more."""
    return [answered(i, 0.0, [float(n), n + 1.0], input_tokens=n) for i, n in enumerate(lengths)]


def test_bins_of_length_have_about_equally_many_and_their_medians():
    """Forty requests make five bins of eight; a latency that is the length has its median at the bin's middle."""
    ttft, tpot = broken_down(of_lengths(range(1, 41)))
    counts = [row["n"] for row in ttft["bins"]]

    assert (ttft["stage"], ttft["by"], ttft["metric"], tpot["metric"]) == (0, PROMPT_TOKENS, "ttft", "tpot")
    assert sum(counts) == 40
    assert all(7 <= count <= 9 for count in counts)
    assert all(row["p50"] == row["middle"] for row in ttft["bins"])
    assert all(row["ci95"][0] <= row["p50"] <= row["ci95"][1] for row in ttft["bins"])
    assert {row["p50"] for row in tpot["bins"]} == {1.0}


@given(st.lists(st.integers(1, 500), min_size=FEWEST, max_size=60))
def test_bins_of_length_part_the_requests(lengths):
    """Every request is in one bin; the bins lie apart, and each holds the median of the lengths between its ends."""
    blocks = broken_down(of_lengths(lengths))
    if max(lengths) <= 1.2 * min(lengths):
        assert blocks == []
        return
    rows = blocks[0]["bins"] if blocks else []

    assert sum(row["n"] for row in rows) in (len(lengths), 0)
    assert len(rows) <= len(lengths) // FEWEST_IN_BIN
    assert all(before["high"] < after["low"] for before, after in pairwise(rows))
    for row in rows:
        assert row["p50"] == np.median([n for n in lengths if row["low"] <= n <= row["high"]])


def test_equal_lengths_and_few_requests_are_not_broken_down():
    """Where all prompts are equally long, or fewer than sixteen, there is nothing to part."""
    assert broken_down(of_lengths([8] * 30)) == []
    assert broken_down(of_lengths(range(1, FEWEST))) == []


def test_turns_are_counted_from_one():
    """The median of each turn is that of its requests, and too few have no interval."""
    (turns,) = broken_down(
        [answered(2 * i + turn, 0.0, [1.0 + turn, 3.0], turn=turn) for i in range(4) for turn in (0, 1)]
    )

    assert (turns["by"], turns["metric"]) == (TURN, "ttft")
    assert [(row["middle"], row["p50"], row["n"], row["ci95"]) for row in turns["bins"]] == [
        (1.0, 1.0, 4, None),
        (2.0, 2.0, 4, None),
    ]


def test_answers_that_come_whole_are_broken_down_by_their_end():
    """Without a stream the only latency is E2E."""
    assert {block["metric"] for block in broken_down(of_lengths(range(1, 41)), stream=False)} == {"e2e"}


LOAD = {"kind": "closed", "concurrency": 4, "requests": 1}
BY_LENGTH = {"ttft_p90": 5.0}


def judged(lengths, seconds, *, slo=BY_LENGTH, load=LOAD, grew=False, lost=0):
    """The verdict by length of one stage: requests of these lengths, each with its TTFT; the last `lost` failed."""
    kept = len(lengths) - lost
    rows = list(enumerate(zip(lengths, seconds, strict=True)))
    pairs = [answered(i, 0.0, [s, s + 1], input_tokens=n) for i, (n, s) in rows[:kept]]
    pairs += [failed(i, 0.0, 90.0, input_asked=n, input_tokens=MISSING) for i, (n, _) in rows[kept:]]
    requests, events = columns(pairs)
    stage = StageInput(requests, events, Span(0, 0, 0, ns(1), ns(100)), load, slo)
    summary = summarize_stage(stage)
    return judge_by_length([(stage, replace(summary, window=replace(summary.window, grew=grew)))])


@given(st.lists(st.tuples(st.integers(100, 40_000), st.floats(0.1, 9.0)), min_size=90, max_size=200))
def test_each_doubling_is_judged_by_the_percentile_of_its_own_requests(rows):
    """Bins part the requests in order of length, hold enough for the percentile, and have numpy's own value."""
    lengths, seconds = (np.asarray(column) for column in zip(*rows, strict=True))
    verdict = judged(lengths.tolist(), seconds.tolist())
    if verdict is None:
        return

    assert sum(row.n for row in verdict.bins) == len(rows)
    assert all(before.high < after.low for before, after in pairwise(verdict.bins))
    for row in verdict.bins:
        own = seconds[(lengths >= row.low) & (lengths <= row.high)]
        assert row.n >= 29
        assert np.isclose(row.value_s, np.percentile(own, 90), atol=1e-8)
        assert row.ci95 is None or row.ci95[0] <= row.value_s <= row.ci95[1]


def test_the_verdict_ends_at_the_first_length_that_breaks_the_limit():
    """A longer length that holds by chance is not claimed, and the answer names the length that does."""
    lengths = [n for n in (1500, 3000, 6000, 12_000) for _ in range(40)]
    verdict = judged(lengths, [{1500: 1.0, 3000: 2.0, 6000: 7.0, 12_000: 3.0}[n] for n in lengths])

    assert [(row.low, row.high, row.n, row.value_s) for row in verdict.bins][1] == (3000, 3000, 40, 2.0)
    assert verdict.held == 2
    assert [row["met"] for row in verdict.as_dict()["bins"]] == [True, True, False, True]


def test_a_length_with_too_few_requests_joins_the_shorter():
    """Ten requests bound no p90: the longest bin is filled up from below, and the shortest joins the next."""
    lengths = [1500] * 5 + [3000] * 40 + [6000] * 40 + [12_000] * 40 + [24_000] * 10
    verdict = judged(lengths, [1.0] * len(lengths))

    assert [(row.low, row.high, row.n) for row in verdict.bins] == [
        (1500, 3000, 45), (6000, 6000, 40), (12_000, 24_000, 50)
    ]  # fmt: skip


def test_failed_requests_are_infinitely_late():
    """Where a fifth of the longest prompts failed, their p90 has no bound, which JSON says as null."""
    lengths = [n for n in (1500, 3000, 6000) for _ in range(40)]
    verdict = judged(lengths, [1.0] * len(lengths), lost=8)

    assert verdict.held == 2
    assert verdict.as_dict()["bins"][-1]["value_s"] is None


def test_where_length_does_not_decide_there_is_no_verdict():
    """A growing queue, no limit on TTFT, a limit on its mean, or lengths within two doublings give none."""
    lengths = [n for n in (1500, 3000, 6000) for _ in range(40)]
    times = [1.0] * len(lengths)

    assert judged(lengths, times) is not None
    assert judged(lengths, times, grew=True) is None
    assert judged(lengths, times, slo={"tpot_p90": 1.0}) is None
    assert judged(lengths, times, slo={"ttft_mean": 1.0}) is None
    assert judged([n // 4 * 4 for n in range(1500, 1620)], times) is None
    assert judge_by_length([]) is None
