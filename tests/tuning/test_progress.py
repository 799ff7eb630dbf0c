"""The progress of a study: trials, the best of them, and what is left."""

import pytest

from harness.results.progress import (
    CONFIRMING,
    PROGRESS,
    REPORTING,
    StudyProgress,
    end_study_progress,
    read_progress,
)
from harness.tuning import progress as progresses
from harness.tuning.progress import StudyTracker
from harness.tuning.types import COMPLETE, FAILED, MINIMISE, STOPPED, StudyObjective, Trial
from harness.units import NS_PER_S


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, in seconds."""
    now = [0]
    monkeypatch.setattr(progresses, "monotonic_ns", lambda: now[0] * NS_PER_S)
    return now


def _tracker(folder, **objective):
    shown = []
    head = StudyProgress("tune", objective="goodput", trials=5, turns=6)
    return StudyTracker(folder, head, StudyObjective("goodput", **objective), shown.append, begin_ns=0), shown


def _trial(number, value, *, origin="model", status=COMPLETE, violation=0.0):
    return Trial(number, {}, {}, status, {"goodput": value}, {"ttft_p99": violation}, origin=origin)


def test_a_study_from_its_first_trial_to_its_page(tmp_path, clock):
    """Which is tried, the best that keeps every limit, the default, and the time left by the mean so far."""
    tracker, shown = _tracker(tmp_path)
    tracker.begin(0, "default", {"max_num_seqs": 256})
    clock[0] = 10
    tracker.end(_trial(0, 4.0, origin="default"))
    tracker.begin(1, "model", {"max_num_seqs": 32, "async_scheduling": True})
    clock[0] = 20
    tracker.end(_trial(1, 6.0))
    tracker.end(_trial(2, 9.0, violation=0.5))
    tracker.end(_trial(3, 9.5, status=STOPPED))
    tracker.end(Trial(4, {}, {}, FAILED))
    tracker.turn(None)
    clock[0] = 24
    tracker.turn(1)
    tracker.close()

    assert (shown[0].trial, shown[0].origin, dict(shown[0].point)) == (0, "default", {"max_num_seqs": 256})
    assert shown[0].eta_s is None
    assert [shown[place].eta_s for place in (1, 2, 3)] == [None, None, None]
    assert (shown[3].best, shown[3].best_trial, shown[3].default) == (6.0, 1, 4.0)
    assert (shown[6].best, shown[6].done, shown[6].stopped, shown[6].failed) == (6.0, 5, 1, 1)
    assert (shown[7].phase, shown[7].trial, shown[7].turns_done) == (CONFIRMING, None, 0)
    assert (shown[8].trial, shown[8].turns_done, shown[8].eta_s) == (1, 1, pytest.approx(4 * 5))
    assert shown[-1].phase == REPORTING


def test_the_time_left_waits_for_a_few_trials_and_holds_all_that_follows(tmp_path, clock):
    """After three trials: two more, six turns of the confirmation, and the eight that the removal of flags may take."""
    tracker, shown = _tracker(tmp_path)
    tracker.removal_turns = 8
    for number in range(3):
        clock[0] += 10
        tracker.end(_trial(number, 4.0))
    tracker.turn(None)
    clock[0] += 4
    tracker.turn(1)
    confirming = shown[-1].eta_s
    tracker.expect_turns(3)
    tracker.publish()

    assert [snapshot.eta_s for snapshot in shown[:3]] == [None, None, pytest.approx(10 * (2 + 6 + 8))]
    assert confirming == pytest.approx(4 * (5 + 8))
    assert shown[-1].eta_s == pytest.approx(4 * (1 + 3))


def test_less_may_be_better(tmp_path):
    """As of a latency."""
    tracker, shown = _tracker(tmp_path, direction=MINIMISE)
    tracker.know([_trial(0, 4.0), _trial(1, 3.0), _trial(2, 5.0)])
    tracker.publish()

    assert (shown[0].best, shown[0].best_trial, shown[0].done) == (3.0, 1, 3)


def test_another_process_reads_it_until_the_end(tmp_path):
    """From progress.json in the study's folder, which goes when the result is there."""
    tracker, shown = _tracker(tmp_path)
    tracker.begin(3, "screened", {"max_num_seqs": 8})
    kept = read_progress(tmp_path)
    end_study_progress(tmp_path)

    assert kept.study == shown[0]
    assert kept.is_alive()
    assert not (tmp_path / PROGRESS).exists()
    assert read_progress(tmp_path) is None


def test_turns_that_are_added_later_are_waited_for(tmp_path, clock):
    """The removal of flags follows the confirmation: six turns were planned, ten more come."""
    tracker, shown = _tracker(tmp_path)
    for second in range(6):
        clock[0] = 4 * second
        tracker.turn(1)
    tracker.expect_turns(10)
    clock[0] = 24
    tracker.turn(2)

    assert (shown[-1].turns_done, shown[-1].turns) == (6, 16)
    assert shown[-1].eta_s == pytest.approx(4 * 10)
