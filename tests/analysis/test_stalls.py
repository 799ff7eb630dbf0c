"""Pauses of the whole server are kept apart from slow single answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.stalls import SEEN_NS, chance, pauses, prefill_work, stall_blocks
from harness.results.request_table import events_from, samples_from
from tests.made_runs import NO_SAMPLES, answered, columns, failed, ns


def streams_of(count, tokens=50, gap=0.02, paused=(), for_s=0.3, at=20):
    """So many streams of even gaps; those in `paused` wait once, before their event number `at`."""
    rows = []
    for stream in range(count):
        times = [0.001 * stream + gap * i + (for_s if stream in paused and i >= at else 0.0) for i in range(tokens)]
        rows.append(([ns(time) for time in times], [1] * tokens))
    return events_from(rows)


def found_in(events, median=0.02):
    """The pauses of all rows."""
    return pauses(events, np.ones(len(events.offsets) - 1, dtype=bool), median)


def test_a_pause_of_all_streams_is_a_stall():
    """Eight of eight streams that wait 0.3 s at once are one stall of that length, and no single gaps."""
    found = found_in(streams_of(8, paused=range(8)))
    (stall,) = found.stalls

    assert (stall.hit, stall.streams) == (8, 8)
    assert stall.end_ns == ns(0.007 + 0.02 * 20 + 0.3)
    assert stall.lost_ns == 8 * ns(0.32)
    assert stall.chance < 1e-5
    assert len(found.single.row) == 0


def test_a_slow_single_answer_is_no_stall():
    """One stream of eight that waits is a gap of its own, with its row and its time."""
    found = found_in(streams_of(8, paused=[3]))

    assert found.stalls == ()
    assert found.single.row.tolist() == [3]
    assert found.single.start_ns.tolist() == [ns(0.003 + 0.02 * 19)]


def test_a_minority_that_waits_together_is_no_stall():
    """Three of eight streams are fewer than half of those under way."""
    found = found_in(streams_of(8, paused=[0, 1, 2]))

    assert found.stalls == ()
    assert len(found.single.row) == 3


def test_streams_that_are_over_do_not_count():
    """Four of four streams that are left make a stall, whatever had ended before."""
    rows = [([ns(0.01 * i) for i in range(5)], [1] * 5) for _ in range(20)]
    rows += [([ns(0.02 * i + (0.4 if i >= 25 else 0)) for i in range(50)], [1] * 50) for _ in range(4)]
    (stall,) = found_in(events_from(rows)).stalls

    assert (stall.hit, stall.streams) == (4, 4)


@pytest.mark.parametrize(("gap", "median", "long"), [(0.04, 0.002, 0), (0.06, 0.002, 1), (0.06, 0.02, 0)])
def test_long_is_five_medians_and_not_below_what_is_seen(gap, median, long):
    """40 ms is never long; 60 ms is long where the median is 2 ms and not where it is 20 ms."""
    events = events_from([([0, ns(gap)], [1, 1])])

    assert len(found_in(events, median).single.row) == long


def test_two_stalls_in_a_row_are_two():
    """Each step of the engine is a stall of its own, the second right after the first."""
    rows = []
    for stream in range(6):
        gaps = [0.02] * 10 + [0.2, 0.25] + [0.02] * 10
        rows.append(([ns(0.0005 * stream + time) for time in np.cumsum(gaps)], [1] * len(gaps)))
    found = found_in(events_from(rows))

    assert [stall.hit for stall in found.stalls] == [6, 6]
    assert [round((stall.end_ns - stall.start_ns) / 1e9, 2) for stall in found.stalls] == [0.2, 0.25]


def test_gaps_that_fall_by_chance_are_no_stalls():
    """Forty streams whose long gaps come each at its own time have none in common."""
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(40):
        gaps = np.where(rng.random(300) < 0.02, 0.15, 0.02) * rng.uniform(0.9, 1.1, 300)
        start = rng.uniform(0, 2)
        rows.append(([ns(start + time) for time in np.cumsum(gaps)], [1] * 300))
    found = found_in(events_from(rows))

    assert found.stalls == ()
    assert len(found.single.row) > 100


def test_nothing_is_found_in_nothing():
    """No events, or rows that were not chosen, have no pauses."""
    events = streams_of(4, paused=range(4))

    assert pauses(events, np.zeros(4, dtype=bool), 0.02).stalls == ()
    assert found_in(events_from([])).stalls == ()
    assert found_in(events).threshold_ns == 2 * SEEN_NS


@given(st.integers(1, 40), st.floats(0.01, 20))
def test_the_bound_is_never_below_the_true_tail(count, mean):
    """The chance that is stated is at least that of a Poisson number, summed term by term."""
    below = np.exp(-mean) * np.cumprod(np.concatenate([[1.0], mean / np.arange(1, count)])).sum()

    assert chance(count, mean) >= 1 - below - 1e-9


def test_every_long_gap_is_counted_once():
    """Gaps of stalls and of single requests together are all long gaps."""
    events = streams_of(9, paused=range(6))
    whole = sum(int((np.diff(events.of(row)[0]) > 2 * SEEN_NS).sum()) for row in range(9))
    found = found_in(events)

    assert sum(stall.hit for stall in found.stalls) + len(found.single.row) == whole == 6


def test_a_gap_while_a_long_prompt_is_prefilled_is_interference():
    """The same pause of all streams is prefill interference where a long prompt was prefilled then, else a stall."""
    events = streams_of(8, paused=range(8))
    everything = np.ones(8, dtype=bool)
    paused_ns = ns(0.38), ns(0.70)
    for sent_s, first_s, tokens, interferes in (
        (0.38, 0.71, 8000, True),  # sent as the pause began, its first token as it ended
        (0.20, 0.71, 8000, True),  # waited before
        (0.38, 0.71, 40, False),  # too short a prompt to make a step long
        (0.75, 1.08, 8000, False),  # began after the pause
    ):
        prompts = ([0, sent_s], [0.0, first_s], [0, tokens])
        alone = ([10.0, 20.0], [10.33, 20.33], [8000, 8000])  # what tells the speed of prefill
        sent, first, count = (np.asarray(a[1:] + b) for a, b in zip(prompts, alone, strict=True))
        work = prefill_work(np.asarray([ns(s) for s in sent]), np.asarray([ns(s) for s in first]), count)
        found = pauses(events, everything, 0.02, work)

        assert (len(found.interference), len(found.stalls)) == ((1, 0) if interferes else (0, 1)), sent_s
        assert abs((found.interference or found.stalls)[0].start_ns - paused_ns[0]) < ns(0.01)


def test_a_queued_prompt_does_not_explain_a_stall_before_its_prefill():
    """A request that waited through a stall and was prefilled afterwards is not why the server paused."""
    work = prefill_work(*(np.asarray(v) for v in ([ns(0.1), ns(9.0)], [ns(1.5), ns(9.3)], [8000, 8000])))

    assert work.explains(np.asarray([ns(0.38)]), np.asarray([ns(0.70)])).tolist() == [False]
    assert work.explains(np.asarray([ns(1.25)]), np.asarray([ns(1.48)])).tolist() == [True]


def test_a_single_gap_beside_a_prefill_is_interference():
    """One running stream that waits for another request's prompt is apart from the slow single requests."""
    events = streams_of(8, paused=[3])
    work = prefill_work(*(np.asarray(v) for v in ([ns(0.38)], [ns(0.71)], [8000])))
    found = pauses(events, np.ones(8, dtype=bool), 0.02, work)

    assert (len(found.single.row), found.interfered.row.tolist()) == (0, [3])


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 900), st.integers(256, 9000)), min_size=1, max_size=20))
def test_prefill_is_one_work_at_a_time(prompts):
    """Prefill lies between a request being sent and its first token, never twice at once, and grows with time."""
    sent, took, tokens = (np.asarray(column, dtype=np.int64) for column in zip(*prompts, strict=True))
    work = prefill_work(sent * 10**6, (sent + took) * 10**6, tokens)

    assert (np.diff(work.at_ns) >= 0).all()
    assert (np.diff(work.done_ns) >= -1e-3).all()  # ns, of floats
    assert work.at_ns.min() >= sent.min() * 10**6
    assert work.at_ns.max() <= (sent + took).max() * 10**6
    assert work.done_ns[-1] <= work.at_ns[-1] - work.at_ns[0] + 1
    assert work.done_ns[0] == pytest.approx(0, abs=1)


def paused_run(*, paused, waiting=()):
    """Eight answers, of which some pause from 1.1 s to 1.5 s, and requests that wait meanwhile."""
    even = [0.1 + 0.02 * i for i in range(80)]
    late = [time + (0.4 if time > 1.1 else 0.0) for time in even]
    pairs = [answered(i, 0.0, late if i in paused else even) for i in range(8)]
    return columns([*pairs, *(failed(8 + i, sent, over, input_tokens=100) for i, (sent, over) in enumerate(waiting))])


def test_a_block_says_what_the_pauses_are():
    """Counts, lengths and lists of one stage: a stall of all streams, or the long gap of one request by its index."""
    (block,) = stall_blocks(*paused_run(paused=range(8)), NO_SAMPLES, {0: 0.02})
    (alone,) = stall_blocks(*paused_run(paused=[5]), NO_SAMPLES, {0: 0.02})
    (stall,), (row,) = block["server"]["listed"], alone["requests"]["listed"]

    assert (block["stage"], block["threshold_s"], block["server"]["count"]) == (0, pytest.approx(0.1), 1)
    assert (stall["hit"], stall["streams"], stall["beside"]) == (8, 8, {})
    assert block["server"]["total_s"] == pytest.approx(0.42)
    assert stall["lost_s"] == pytest.approx(8 * 0.42)
    assert block["requests"] == {"gaps": 0, "requests": 0, "listed": []}
    assert (row["index"], row["gaps"], row["longest_s"]) == (5, 1, pytest.approx(0.42))
    assert (alone["requests"]["gaps"], alone["requests"]["requests"], alone["server"]["count"]) == (1, 1, 0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=12))
def test_prompts_beside_a_stall_are_those_that_wait_for_a_first_token(spans):
    """As many as were sent before its end and not over at its begin, and their tokens; none are not told."""
    waiting = [(sent / 10, (sent + lasts) / 10) for sent, lasts in spans]
    (block,) = stall_blocks(*paused_run(paused=range(8), waiting=waiting), NO_SAMPLES, {0: 0.02})
    (stall,) = block["server"]["listed"]
    count = sum(ns(sent) < stall["end_ns"] and ns(over) > stall["start_ns"] for sent, over in waiting)

    assert stall["beside"] == ({"prompts": count, "prompt_tokens": 100 * count} if count else {})


def test_samples_beside_a_stall_are_those_around_it():
    """A full cache and a late client count when they were sampled just then; the client's lag of before does not."""
    samples = samples_from(
        [
            (ns(0.5), "client-0", "loop_lag_s", 0.9),
            (ns(1.0), "server", "vllm:kv_cache_usage_perc", 0.97),
            (ns(1.2), "client-0", "loop_lag_s", 0.02),
            (ns(1.3), "server/0", "vllm:kv_cache_usage_perc", 1.0),
        ]
    )
    (block,) = stall_blocks(*paused_run(paused=range(8)), samples, {0: 0.02})

    assert block["server"]["listed"][0]["beside"] == {"kv_cache_usage": 0.97, "loop_lag_s": 0.02}
