"""The measured part of a stage is the one that shows the engine in its steady state."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.analysis.steady_state import FIRST_WAVE, MSER, SENDING, WHOLE_STAGE, Span, find_window, whole_span
from harness.results.request_table import MISSING, WARMUP
from tests.made_runs import answered, closed_run, columns, failed, never_sent, ns, open_run


def _window(pairs, kind, stop=None, end=None):
    requests, events = columns(pairs)
    stop = MISSING if stop is None else ns(stop)
    span = whole_span(requests, Span(0, 0, 0, stop, MISSING if end is None else ns(end)))
    return find_window(requests, events, span, kind)


@pytest.mark.parametrize("seed", range(8))
def test_gentle_poisson_load_is_left_whole(seed):
    """About 31 requests in 60 s are too few to tell, and none is cut."""
    window = _window(open_run(0.5, 60, 8, 2.0, np.random.default_rng(seed)), "poisson", 60)

    assert (window.start_ns, window.end_ns, window.method, window.steady) == (0, ns(60), SENDING, None)
    assert "too few" in str(window.text)


def test_a_steady_open_loop_is_steady():
    """Of long stages at half the capacity nearly all are found steady, with little cut and the drain left out."""
    windows = [_window(open_run(2, 300, 8, 2.0, np.random.default_rng(seed)), "poisson", 300) for seed in range(20)]

    assert sum(window.steady is True for window in windows) >= 19
    assert np.mean([window.start_ns for window in windows]) < ns(30)
    assert all(window.end_ns == ns(300) for window in windows)


def test_filling_up_from_empty_is_no_growing_queue():
    """Answers that take a fifth of the stage fill an idle engine first; of sixty such, three at most look alike."""
    runs = [open_run(rate, 60, 200, 12.0, np.random.default_rng(seed)) for seed in range(30) for rate in (2, 4)]

    assert sum(_window(pairs, "poisson", 60).grew for pairs in runs) <= 3


def test_turns_that_never_became_due_are_no_queue():
    """Later turns of a conversation that was stopped were never due and wait for nobody."""
    pairs = open_run(2, 300, 8, 2.0, np.random.default_rng(0))
    stopped = [never_sent(len(pairs) + i, 0, due_ns=MISSING) for i in range(300)]

    assert _window(pairs + stopped, "poisson", 300) == _window(pairs, "poisson", 300)


def test_a_queue_that_grows_is_not_steady():
    """At one and a half times the capacity requests pile up from the first second to the last, and words say so."""
    windows = [_window(open_run(6, 120, 8, 2.0, np.random.default_rng(seed)), "poisson", 120) for seed in range(10)]

    assert sum(window.grew and window.steady is False for window in windows) >= 9
    assert all(window.start_ns == 0 for window in windows if window.grew)
    assert "came faster than they were served" in str(windows[0].text)


def test_requests_that_wait_for_a_slot_are_a_queue_too():
    """With a cap on concurrency nothing piles up at the engine; what waits at the client counts as queue."""
    pairs = open_run(6, 120, 8, 2.0, np.random.default_rng(1))
    held = [(replace(record, sent_ns=record.first_ns - ns(0.2)), events) for record, events in pairs]

    assert _window(held, "poisson", 120).grew


def test_a_slow_start_of_an_open_loop_is_cut():
    """Where the first 30 s of 300 pile up behind a compilation, MSER-5 leaves them out."""
    pairs = []
    for record, (at, tokens) in open_run(4, 300, 50, 1.0, np.random.default_rng(3)):
        late = max(0, ns(30) - record.sent_ns)
        times = {name: getattr(record, name) + late for name in ("first_ns", "last_ns", "done_ns")}
        pairs.append((replace(record, **times), ([t + late for t in at], tokens)))
    window = _window(pairs, "poisson", 300)

    assert window.method == MSER
    assert ns(24) <= window.start_ns <= ns(48)
    assert window.steady is True


def test_a_load_that_changes_by_design_is_taken_whole():
    """A ramp or a trace is no steady state, however many requests it has."""
    for kind in ("ramp", "trace"):
        window = _window(open_run(4, 60, 50, 1.0, np.random.default_rng(4)), kind, 60)

        assert (window.start_ns, window.end_ns, window.steady) == (0, ns(60), None)
        assert kind in str(window.text)


def test_the_first_wave_of_a_closed_loop_is_cut():
    """Sixteen users that start together queue behind each other's prompts; the window begins when half are answered."""
    rng = np.random.default_rng(5)
    pairs = closed_run(16, 320, lambda _: rng.uniform(1, 3), prefill_s=0.05)
    window = _window(pairs, "closed")
    wave = sorted(record.done_ns for record, _ in pairs if record.sent_ns == 0)

    assert FIRST_WAVE in window.method
    assert window.start_ns >= wave[7]
    assert window.first_wave == 0
    last_sent = max(record.sent_ns for record, _ in pairs)
    assert last_sent - ns(4) < window.end_ns <= last_sent
    assert window.steady is True


def test_a_first_wave_that_is_too_large_to_cut_is_counted():
    """Three waves in all leave too little without the first, so it stays and raises a warning."""
    window = _window(closed_run(32, 72, lambda _: 2.0, prefill_s=0.01), "closed")

    assert window.first_wave == 32
    assert window.start_ns == 0
    assert window.steady is None


def test_a_warm_up_that_hands_over_leaves_no_first_wave():
    """Where a warm-up keeps the slots busy, measured requests begin one by one and nothing is cut for a wave."""
    rng = np.random.default_rng(6)
    pairs = closed_run(16, 400, lambda _: rng.uniform(1, 3), prefill_s=0.02, start=-10.0)
    pairs = [(replace(r, phase=WARMUP) if r.sent_ns < 0 else r, events) for r, events in pairs]
    window = _window(pairs, "closed")

    assert (window.start_ns, window.method, window.first_wave) == (0, SENDING, 0)
    assert window.steady is True


def test_one_user_makes_no_wave():
    """A closed loop of one is measured from its first request to its last."""
    window = _window(closed_run(1, 5, lambda _: 1.0), "closed")

    assert (window.start_ns, window.end_ns, window.first_wave) == (0, ns(4), 0)


def test_everything_sent_at_once_is_taken_with_its_drain():
    """An offline batch has no time of sending: the whole stage is taken, and called a first wave."""
    window = _window(closed_run(64, 64, lambda i: 1 + i / 64, prefill_s=0.01), "closed")

    assert window.method == WHOLE_STAGE
    assert window.end_ns > ns(1.9)
    assert (window.steady, window.first_wave) == (None, 64)


def test_a_burst_by_the_clock_is_taken_with_its_drain():
    """Fifty requests within a tenth of a second, answered later, leave no answers in the time of sending."""
    pairs = [answered(i, i / 500, [1 + i / 50]) for i in range(50)]
    window = _window(pairs, "constant", 0.1)

    assert (window.method, window.end_ns, window.first_wave) == (WHOLE_STAGE, ns(1.98), 0)


def test_an_output_that_falls_is_not_steady():
    """A closed loop whose answers take ever longer has no steady rate."""
    falling = _window(closed_run(8, 600, lambda i: 1 + i / 100), "closed")
    late = _window(closed_run(8, 900, lambda i: 1 + max(0, i - 600) / 200), "closed")

    assert (falling.steady, late.steady) == (False, False)
    assert "did not settle" in str(falling.text)
    assert "tok/s to" in str(late.text)


@pytest.mark.parametrize("kind", ["closed", "poisson"])
def test_a_stage_without_answers_has_a_window_and_no_verdict(kind):
    """Nothing sent, or everything failed: a window that says so."""
    nothing = _window([], kind, 10)
    lost = _window([failed(i, i / 10, i / 10 + 0.01) for i in range(100)], kind, 10)

    assert (nothing.steady, str(nothing.text)) == (None, "Nothing was sent.")
    assert (lost.steady, lost.method) == (None, WHOLE_STAGE)
    assert "Nothing was answered" in str(lost.text)


def test_a_killed_runs_span_comes_from_its_records():
    """Without a timeline a stage begins at its first due time and ends with its last answer."""
    pairs = [answered(0, 2.0, [2.5, 4.0]), answered(1, 3.0, [3.5, 9.0]), answered(2, 0.5, [1.0], phase=WARMUP)]
    unknown = Span(1, 2, MISSING, MISSING, MISSING)

    assert whole_span(columns(pairs)[0], unknown) == Span(1, 2, ns(2), ns(3), ns(9))
    assert whole_span(columns([])[0], unknown) == Span(1, 2, 0, 0, 0)
    assert whole_span(columns(pairs)[0], Span(0, 0, 1, 2, 3)) == Span(0, 0, 1, 2, 3)


@settings(max_examples=100)
@given(
    st.integers(2, 60),
    st.lists(st.tuples(st.floats(0.02, 1.0), st.floats(0.0, 3.0)), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.01, 0.1]),
)
@example(52, [(0.3, 1.0), (0.3, 0.0)], 0.01)
def test_a_window_of_a_stage_with_answers_has_some(users, waves, jitter):
    """Waves of users in step, with pauses between: some requests are sent in the window, some end where rates count."""
    rng, begin_s, times = np.random.default_rng(users), 0.0, []
    for answer_s, pause_s in waves:
        sent = begin_s + jitter * answer_s * rng.random(users)
        times += zip(sent.tolist(), (sent + answer_s * (1 + jitter * rng.random(users))).tolist(), strict=True)
        begin_s += answer_s * (1 + 2 * jitter) + pause_s
    pairs = [answered(i, sent, list(np.linspace(sent, end, 4))[1:]) for i, (sent, end) in enumerate(sorted(times))]
    window = _window(pairs, "closed", max(times)[0], max(end for _, end in times))

    assert [record for record, _ in pairs if window.start_ns <= record.sent_ns <= window.end_ns]
    assert [record for record, _ in pairs if window.rates_ns < record.done_ns <= window.end_ns]
