"""Breakdowns of latency by prompt length and turn hold the medians of the requests they are of."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.breakdowns import FEWEST, FEWEST_IN_BIN, PROMPT_TOKENS, TURN, breakdowns
from tests.made_runs import answered, columns


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
