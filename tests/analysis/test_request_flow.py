"""In-flight numbers, rounds of a closed loop, and where the part of a window that rates are of begins."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.request_flow import LEAST_ROUNDS, mean_in_flight, most_in_flight, rounds
from harness.analysis.steady_state import Span
from harness.analysis.warnings import Evidence
from harness.analysis.warnings.load import still_filling
from harness.results.request_table import COMPLETED, MISSING, WARMUP
from harness.scenario.loader import load_scenario
from harness.simulator.engine_config import settings_from_flags
from harness.tuning.study_plan import with_changes
from harness.tuning.virtual_evaluation import VirtualLoad
from tests.made_runs import NO_SAMPLES, answered, closed_run, columns, ns, open_run

intervals = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=30)


def _parts(pairs):
    starts = np.asarray([start for start, _ in pairs])
    return starts, starts + np.asarray([length for _, length in pairs])


@given(intervals, st.integers(1, 9))
def test_the_mean_is_that_of_counting_at_every_moment(pairs, bins):
    """The time-weighted mean of a bin is the mean over its unit steps."""
    starts, ends = _parts(pairs)
    edges = np.arange(bins + 1) * 20.0 - 10
    at = np.arange(-10, -10 + 20 * bins)
    counts = [((starts <= t) & (ends > t)).sum() for t in at]

    assert mean_in_flight(starts, ends, edges) == pytest.approx(np.reshape(counts, (bins, 20)).mean(axis=1), abs=1e-9)


@given(intervals, st.integers(0, 60), st.integers(0, 100))
def test_the_most_is_that_of_counting_at_every_moment(pairs, first, length):
    """The largest number within a stretch is the largest of all moments' counts."""
    starts, ends = _parts(pairs)
    counts = [((starts <= t) & (ends > t)).sum() for t in range(first, first + length + 1)]

    assert most_in_flight(starts, ends, first, first + length) == max(counts)


def test_nothing_under_way_is_zero():
    """Without intervals every mean is zero."""
    nothing = np.zeros(0, dtype=np.int64)

    assert mean_in_flight(nothing, nothing, np.asarray([0.0, 1.0, 2.0])).tolist() == [0.0, 0.0]
    assert most_in_flight(nothing, nothing, 0, 10) == 0


LOOPS = {  # users, the shortest and longest decode time of an answer (s), seconds of a prefill
    "answers of one to three seconds": (16, 1.0, 3.0, 0.05),
    "short and long answers": (32, 0.2, 3.8, 0.02),
    "answers nearly alike": (16, 0.9, 1.1, 0.03),
}


def _summary(loop, count, seed):
    """A closed loop of this many rounds of requests."""
    users, low, high, prefill_s = LOOPS[loop]
    rng = np.random.default_rng(seed)
    pairs = closed_run(users, users * count, lambda _: rng.uniform(low, high), prefill_s=prefill_s)
    stage = StageInput(*columns(pairs), Span(0, 0, 0, MISSING, MISSING), {"kind": "closed", "concurrency": users}, {})
    return summarize_stage(stage)


@cache
def _truth(loop):
    return _numbers(_summary(loop, 300, 0))


def _numbers(found):
    return np.asarray([found.rates.request, found.rates.output_token, found.metrics["ttft"].mean])


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("count", [3, 5])
def test_few_rounds_are_never_steady(loop, count):
    """A closed loop of three or five requests a user holds fewer than five rounds without its first wave and drain."""
    found = [_summary(loop, count, seed).window for seed in range(10)]

    assert not any(window.steady for window in found)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("count", [8, 20])
def test_what_is_called_steady_is_within_three_percent(loop, count):
    """Of loops that are called steady, rates and TTFT are on average those of three hundred rounds within 3 %."""
    found = [_summary(loop, count, seed) for seed in range(1, 16)]
    steady = [_numbers(one) / _truth(loop) - 1 for one in found if one.window.steady]

    assert len(steady) == (0 if (loop, count) == ("answers nearly alike", 8) else 15)
    assert not steady or np.abs(np.mean(steady, axis=0)).max() <= 0.03


def test_users_in_step_are_told_with_their_bias():
    """Answers nearly alike keep the users of the first wave together; the text says for how long, and what TTFT did."""
    window = _summary("answers nearly alike", 8, 1).window

    assert window.steady is None
    assert "still go in step with their first wave, until about" in str(window.text)
    assert "Mean TTFT was" in str(window.text)


def test_a_window_of_users_in_step_holds_whole_rounds():
    """Four users answered each second, all together: from half a burst on, three rounds end with three times four."""
    requests, _ = columns(closed_run(4, 20, lambda _: 1.0, prefill_s=0.01))
    done_ns = requests.done_ns
    start_ns = int(np.sort(done_ns)[1])
    found = rounds(requests, done_ns, start_ns, start_ns, int(requests.sent_ns.max()))

    assert (found.users, found.number) == (4, 3)
    assert ((done_ns > start_ns) & (done_ns <= found.end_ns)).sum() == 12
    assert found.number < LEAST_ROUNDS
    assert str(found.reasons[0]).startswith("The window holds 3 rounds of 4 users")


def test_less_than_a_round_leaves_the_window():
    """Where fewer answers than users fall into the window, there is no round to end it with."""
    requests, _ = columns(closed_run(4, 8, lambda _: 1.0, prefill_s=0.01))
    found = rounds(requests, requests.done_ns, 0, 0, 5)

    assert (found.number, found.end_ns) == (0, 5)
    assert "less than one round" in str(found.reasons[0])


CAPACITY = Path(__file__).parents[2] / "scenarios" / "capacity.yaml"
SERVERS, SERVICE_S, DURATION_S = 64, 8.0, 60.0
LIMIT = SERVERS / SERVICE_S  # req/s


def summed(pairs, kind="poisson", stop=DURATION_S):
    """The summary of a stage whose requests are sent for so long."""
    return evidence_of(pairs, kind, stop).summary


def evidence_of(pairs, kind, stop):
    """The stage itself, and its summary."""
    requests, events = columns(pairs)
    end_ns = max(record.done_ns for record, _ in pairs)
    load = {"kind": kind, "rate": 1.0, "rate_to": 2.0, "concurrency": 1}
    stage = StageInput(requests, events, Span(0, 0, 0, ns(stop), end_ns), load, {})
    return Evidence(stage, summarize_stage(stage), NO_SAMPLES, None)


def swept(load):
    """Mean rates, reached and over the whole time of sending, of six stages that offer so much of the limit."""
    runs = [open_run(load * LIMIT, DURATION_S, SERVERS, SERVICE_S, np.random.default_rng(seed)) for seed in range(6)]
    whole = [sum(record.done_ns <= ns(DURATION_S) for record, _ in pairs) / DURATION_S for pairs in runs]
    return np.mean([summed(pairs).rates.request for pairs in runs]), np.mean(whole)


def test_a_server_of_known_capacity_is_measured_at_it():
    """Offered 1.2 to 4 times what 64 servers can do, every stage says that within 4 %, and none less than one before.

    Over the whole time of sending these stages say 7 to 10 % less: an answer takes an eighth of it.
    """
    reached, whole = np.transpose([swept(load) for load in (0.3, 0.6, 1.2, 2.0, 4.0)])

    assert reached[2:] == pytest.approx([LIMIT] * 3, rel=0.04)
    assert all(reached[1:] > 0.96 * np.maximum.accumulate(reached[:-1]))
    assert reached[:2] == pytest.approx([0.3 * LIMIT, 0.6 * LIMIT], rel=0.06)
    assert max(whole) < 0.95 * LIMIT


def test_an_engine_that_fills_its_batch_does_not_look_slower():
    """The simulated engine of the capacity scenario: at 24 and 40 req/s the rate of a long stage, above 16's."""
    scenario = load_scenario(CAPACITY).scenario
    settings = settings_from_flags({"model": scenario.engine.model, **scenario.engine.args})
    load = VirtualLoad(scenario, CAPACITY.parent)
    base = replace(scenario.stages[-1], requests=None, duration_s=30.0)
    stages = [with_changes(base, {"rate": rate}) for rate in (16.0, 24.0, 40.0)]
    found = [load.measure(settings, stage, 6).metrics["request_rate"] for stage in stages]
    long_run = load.measure(settings, with_changes(base, {"rate": 24.0, "duration": 75.0}), 6).metrics["request_rate"]

    assert found[1:] == pytest.approx([long_run] * 2, rel=0.05)
    assert min(found[1:]) > found[0] > 15.0


def test_rates_begin_when_the_warm_up_is_over():
    """Of an open loop and of a closed one: when the last answer of the warm-up has ended."""
    warm = [answered(1000 + i, -1.0, [0.5 + i], phase=WARMUP) for i in range(3)]
    by_clock = summed([*open_run(2, 20, 8, 1.0, np.random.default_rng(0)), *warm], stop=20)
    users = summed([*closed_run(1, 20, lambda _: 1.0), *warm], "closed", stop=20)

    assert (by_clock.window.rates_ns, users.window.rates_ns) == (ns(2.5), ns(2.5))
    assert "warm-up had ended" in str(by_clock.window.rates_reason)
    assert users.rates.request == pytest.approx(16 / 15.5)  # ended at 3, 4, … 18 s, the last whole round


def test_a_warm_up_that_never_ends_is_told():
    """Where it takes more than half of the window, rates begin there all the same, and say what is left of it."""
    warm = [answered(1000 + i, -1.0, [15.0 + i], phase=WARMUP) for i in range(3)]
    found = summed([*open_run(2, 20, 8, 1.0, np.random.default_rng(0)), *warm], stop=20).window

    assert (found.rates_ns, found.warmup_left) == (ns(10), 3)
    assert "3 responses of the warm-up were still in flight" in str(found.rates_reason)


@pytest.mark.parametrize(("slow", "share"), [(1, "all"), (12, "nine in ten"), (15, "half")])
def test_an_engine_that_began_empty_is_filled_first(slow, share):
    """Until the first requests are answered; one that takes too long is not waited for."""
    waits = [1.0] * 14 + [2.0, slow]
    pairs = [answered(i, i / 20, [i / 20 + wait]) for i, wait in enumerate(waits)]
    pairs = [*pairs, *(answered(20 + i, 1 + i, [2 + i]) for i in range(19))]
    if share == "half":
        pairs[8:15] = [answered(i, i / 20, [i / 20 + 15]) for i in range(8, 15)]
    found = summed(pairs, stop=20).window

    assert f"when {share} of the first 16 requests" in str(found.rates_reason)


def in_parallel(seconds, takes):
    """Eight requests a second for so long; answer i takes `takes(i)` seconds, a token in each."""
    pairs = [answered(i, i / 8, list(i / 8 + np.arange(1, 1.0 + takes(i)))) for i in range(8 * seconds)]
    return evidence_of(pairs, "poisson", seconds)


def test_a_stage_that_only_filled_the_engine_is_a_warning():
    """Twelve seconds of load whose answers take four to ten give lower bounds; ten times as long do not."""
    told = [list(still_filling(in_parallel(seconds, lambda i: 4 + i % 7))) for seconds in (12, 120)]

    assert [len(warnings) for warnings in told] == [1, 0]
    assert "still filling" in str(told[0][0].text)


def test_rates_begin_with_the_first_answer_where_it_comes_late():
    """Answers of seven seconds leave as fast as they are offered, in a stage of twelve seconds, too: no 3.3 req/s."""
    found = in_parallel(12, lambda _: 7).summary

    assert (found.window.rates_ns, found.window.filling) == (ns(7), True)
    assert found.rates.request == pytest.approx(8, rel=0.03)
    assert "less than half of the first 56 requests" in str(found.window.rates_reason)


def test_a_stage_is_a_warning_though_its_queue_looked_steady():
    """A third more tokens that came than ended answers hold: a warning, whatever the test of the window said."""
    found = in_parallel(12, lambda i: 4 + i % 7)
    calm = replace(found.summary, window=replace(found.summary.window, steady=True))

    assert [warning.code for warning in still_filling(replace(found, summary=calm))] == ["still_filling"]


def test_a_load_without_one_rate_is_taken_whole():
    """A ramp counts from its begin, or from the end of a warm-up."""
    pairs = open_run(4, 20, 64, 2.0, np.random.default_rng(0))
    warm = answered(1000, -1.0, [0.5], phase=WARMUP)

    assert summed(pairs, "ramp", stop=20).window.later_ns == 0
    assert summed([*pairs, warm], "ramp", stop=20).window.later_ns == ns(0.5)


def test_steady_answers_are_not_cut():
    """Of twenty steady stages one at most shows a ramp-up."""
    runs = [open_run(8, 60, 64, 2.0, np.random.default_rng(seed)) for seed in range(20)]

    assert sum("before," in str(summed(pairs).window.rates_reason) for pairs in runs) <= 1


def test_a_stage_that_cannot_answer_has_no_part():
    """Nothing was answered: rates are those of the whole window."""
    lost = [answered(i, i, [i + 0.5], status="failed", error="timeout") for i in range(5)]
    found = summed(lost, stop=5)

    assert (found.window.later_ns, found.window.rates_reason, found.rates.request) == (0, None, 0.0)


def test_what_fails_does_not_fill():
    """Requests refused at once do not end the filling of an engine."""
    refused = [answered(100, 0.0, [0.01], status="failed", error="refused")]
    pairs = [*refused, *(answered(i, i / 10, [i / 10 + 1]) for i in range(40))]
    found = summed(pairs, "constant", stop=4)

    assert {record.status for record, _ in pairs} == {"failed", COMPLETED}
    assert found.window.rates_ns == ns(1.9)
    assert found.rates.request == pytest.approx(10)
