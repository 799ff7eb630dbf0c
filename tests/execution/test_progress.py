"""The progress of a run, made from its plan and what its workers count."""

import os

import numpy as np
import pytest

from harness.execution.progress import ProgressTracker, counts_of, last_line, newest_line
from harness.execution.watching import Watched
from harness.results.progress import DRAINING, ENDED, MEASURING, STOPPING, WARMUP, EngineLoad
from harness.results.store import RAW
from harness.safety import redaction
from harness.scenario.stages import Stage
from harness.units import NS_PER_S
from harness.workload.plan import StagePlan

POISSON = Stage("poisson", rate=2.0, duration_s=10.0)
DUE_NS = (np.arange(24) * 0.5 * NS_PER_S).astype(np.int64)
OPEN = StagePlan(0, 0, 0, POISSON, 0, 4, 20, 2 * NS_PER_S, 0, DUE_NS)
CLOSED = StagePlan(1, 1, 0, Stage("closed", concurrency=4, requests=40), 24, 0, 40, 0, 0, None)


def _tracker(folder, plans=(OPEN, CLOSED), turns=None):
    tracker = ProgressTracker(folder, "chat", lambda _progress: None, Watched())
    tracker.plan(plans, turns)
    return tracker


def _counts(number, **values):
    return {**counts_of(number, 0, 0), "looked_ns": 7 * NS_PER_S, **values}


def _at(tracker, seconds):
    return tracker.snapshot(seconds * NS_PER_S)


def test_an_open_stage_goes_from_warm_up_to_measuring_to_its_last_answers(tmp_path):
    """By its plan: two seconds of warm-up, ten of sending, then what is in flight."""
    tracker = _tracker(tmp_path)
    tracker.begin(0, 0)
    tracker.on_counts(0, _counts(0, sent=20, answered=16, measured_answered=16))
    stages = [_at(tracker, seconds).stage for seconds in (1, 7, 13)]

    assert [stage.state for stage in stages] == [WARMUP, MEASURING, DRAINING]
    assert [stage.share for stage in stages] == [pytest.approx(1 / 12), pytest.approx(7 / 12), 1.0]
    assert [stage.offered_rate for stage in stages] == [None, pytest.approx(2.2), pytest.approx(2.0)]
    assert [stage.remaining_s for stage in stages] == [11, 5, 0]
    assert stages[1].request_rate == pytest.approx(16 / 5)
    assert (stages[1].in_flight, stages[1].requests) == (4, 24)


def test_a_rate_needs_a_few_seconds_of_measuring(tmp_path):
    """Right after the warm-up a few arrivals would make eight a second of two; a stage that has ended has its rates."""
    tracker = _tracker(tmp_path)
    tracker.begin(0, 0)
    tracker.on_counts(0, _counts(0, sent=8, answered=6, measured_answered=2, looked_ns=3 * NS_PER_S, output_tokens=9))
    early = _at(tracker, 3).stage
    tracker.end(0)
    ended = _at(tracker, 3).ended[0]

    assert (early.offered_rate, early.request_rate, early.output_token_rate) == (None, None, None)
    assert (early.answered, early.answered_in_warmup) == (6, 4)
    assert (ended.request_rate, ended.output_token_rate) == (2.0, 9.0)


def test_a_run_that_the_user_ends_is_stopping(tmp_path):
    """Its stage says so until its last answer, and no time is promised: what was planned is not sent."""
    tracker = _tracker(tmp_path)
    tracker.begin(0, 0)
    tracker.on_counts(0, _counts(0, sent=20, answered=16, measured_answered=12))
    tracker.stop()
    progress = _at(tracker, 7)

    assert (progress.stage.state, progress.stage.remaining_s, progress.eta_s) == (STOPPING, None, None)
    assert progress.stage.in_flight == 4
    tracker.end(0)
    assert _at(tracker, 8).ended[0].state == ENDED


def test_answers_of_the_warm_up_form_no_rate(tmp_path):
    """Sixteen came and none of them counts: there is no rate yet, not one of 0."""
    tracker = _tracker(tmp_path)
    tracker.begin(0, 0)
    tracker.on_counts(0, _counts(0, sent=20, answered=16, measured_answered=0))
    stage = _at(tracker, 7).stage

    assert (stage.answered, stage.request_rate, stage.output_token_rate) == (16, None, None)


def test_workers_are_added_up_and_late_counts_of_an_earlier_stage_are_dropped(tmp_path):
    """Each reports all that it has counted of a stage: the last report of each counts."""
    tracker = _tracker(tmp_path)
    tracker.begin(0, 0)
    tracker.on_counts(0, _counts(0, sent=3, answered=1))
    tracker.on_counts(0, _counts(0, sent=5, answered=2, output_tokens=10))
    tracker.on_counts(1, _counts(0, sent=4, answered=4, failed=0, output_tokens=5))
    tracker.on_counts(1, _counts(7, sent=400))
    stage = _at(tracker, 7).stage

    assert (stage.sent, stage.answered, stage.in_flight, stage.output_tokens) == (9, 6, 3, 15)
    assert stage.output_token_rate == pytest.approx(15 / 5)


def test_the_time_left_is_that_of_all_stages(tmp_path):
    """A closed stage by requests is foreseen once an earlier closed one shows how long a request takes."""
    closed = [StagePlan(n, n, 0, CLOSED.stage, 0, 0, 40, 0, 0, None) for n in range(3)]
    tracker = _tracker(tmp_path, tuple(closed))
    tracker.begin(0, 0)
    unknown = _at(tracker, 5).eta_s
    tracker.on_counts(0, _counts(0, sent=12, answered=10, measured_answered=14))
    known = _at(tracker, 5).eta_s

    assert unknown is None
    assert known == pytest.approx(15 + 2 * 40 / 2)  # 2 requests a second


def test_an_ended_stage_stays_as_it_was(tmp_path):
    """It is kept in `ended`, and nothing is under way until the next begins."""
    tracker = _tracker(tmp_path)
    tracker.begin(0, 0)
    tracker.on_counts(0, _counts(0, sent=24, answered=24))
    tracker.end(0)
    progress = _at(tracker, 10**9)

    assert progress.stage is None
    assert [stage.state for stage in progress.ended] == [ENDED]
    assert progress.ended[0].answered == 24


def test_turns_of_conversations_are_requests(tmp_path):
    """A plan counts sessions; what is sent and answered are their turns."""
    turns = np.full(64, 3, dtype=np.int64)
    tracker = _tracker(tmp_path, turns=turns)
    tracker.begin(1, 0)

    assert _at(tracker, 1).stage.requests == 120


def test_the_engines_own_counters_are_shown(tmp_path):
    """The last that /metrics said, of several engines the fullest; nothing where it says nothing."""
    watched = Watched()
    tracker = ProgressTracker(tmp_path, "chat", lambda _progress: None, watched)
    before = _at(tracker, 1).engine
    lines = ['vllm:num_requests_running{{engine="{0}"}} 3', 'vllm:kv_cache_usage_perc{{engine="{0}"}} 0.{0}']
    watched.add_metrics(1, "".join(f"{line.format(engine)}\n" for engine in (1, 2) for line in lines))

    assert before is None
    assert _at(tracker, 1).engine == EngineLoad(6.0, None, 0.2, "2", 3.0)


def test_a_tracker_writes_what_it_shows(tmp_path):
    """The callback gets the same value as the file."""
    (tmp_path / RAW).mkdir()
    shown = []
    tracker = ProgressTracker(tmp_path, "chat", shown.append, Watched())
    tracker.publish()

    assert shown[0].phase == "starting"
    assert (tmp_path / RAW / "progress.json").exists()


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("", ""),
        ("one\n\n  \n", "one"),
        ("(EngineCore pid=7) INFO 11-29 10:00:00 [core.py:58] Loading weights\n", "Loading weights"),
        ("Loading:  50%\rLoading: 100%\r", "Loading: 100%"),
        ("\x1b[32mINFO\x1b[0m ready \x1b]0;title\x07[bold]now[/bold]\n", "INFO ready [bold]now[/bold]"),
        ("key abcdefgh-secret\n", "key <KEY>"),
        ("x" * 20_000, "x" * 300),
    ],
)
def test_the_last_line_of_a_log_is_shown_without_what_could_act(tmp_path, log, shown):
    """No prefix, no secret, no control code; a progress bar's last state."""
    (tmp_path / "engine.log").write_text(log, encoding="utf-8")
    redaction.register_secret("abcdefgh-secret", "KEY")
    try:
        assert last_line(tmp_path / "engine.log") == shown
    finally:
        redaction.forget_secrets()


def test_no_log_is_no_line(tmp_path):
    """Of a server that was there before."""
    assert last_line(tmp_path / "engine.log") == ""


def test_a_load_in_virtual_time_is_waited_for_in_seconds_of_our_own(tmp_path):
    """Of seven of twelve seconds of the load's clock in a moment of ours, the rest takes as short a moment."""
    shown, clock = [], [0]
    tracker = ProgressTracker(tmp_path, "chat", shown.append, Watched(), lambda: clock[0])
    tracker.plan((OPEN,), None)
    tracker.begin(0, 0)
    clock[0] = 7 * NS_PER_S
    tracker.publish()
    left = tracker.snapshot(clock[0]).eta_s / 7  # in moments such as have passed

    assert shown[-1].stage.elapsed_s == 7.0
    assert shown[-1].eta_s == pytest.approx(left * shown[-1].at_s)


def test_of_several_logs_the_one_that_grew_last_is_shown(tmp_path):
    """While processes of a deployment start, their lines follow each other; without a log there is none."""
    assert newest_line(tmp_path) == ""

    for name, at_s in (("engine-a.log", 200), ("engine-b.log", 100)):
        (tmp_path / name).write_text(f"of {name}\n", encoding="utf-8")
        os.utime(tmp_path / name, (at_s, at_s))

    assert newest_line(tmp_path) == "of engine-a.log"
