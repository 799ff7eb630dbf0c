"""A closed loop is called steady only where its numbers are those of a very long one."""

from functools import cache

import numpy as np
import pytest

from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.rounds import LEAST_ROUNDS, rounds
from harness.analysis.steady_state import Span
from harness.results.request_table import MISSING
from tests.made_runs import closed_run, columns

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
