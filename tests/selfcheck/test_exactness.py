"""The error between records and ground truth is the one that was put between them."""

from array import array
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.truths import checked_stages
from harness.results.request_table import COMPLETED, FAILED, MEASURED, Record, events_from, requests_from, samples_from
from harness.selfcheck.exactness import exactness
from harness.selfcheck.reference_server.ground_truth import GroundTruthLog, TokenSchedule

MS = 1_000_000
BEAT = TokenSchedule(first_ns=50 * MS, gap_ns=10 * MS)
TOKENS = 11


def closed_loop(streams=4, rounds=3, *, first_late_ns=0, turn_ns=0, failed=0):
    """Records, events and truth of streams in lockstep whose answers take 150 ms and are seen late."""
    truth, records, rows = GroundTruthLog(BEAT), [], []
    for turn in range(rounds):
        for stream in range(streams):
            sent = turn * (150 * MS + turn_ns)
            true = [sent + BEAT.first_ns + token * BEAT.gap_ns for token in range(TOKENS)]
            truth.add(sent, TOKENS, array("q", true), ended=True)
            seen = [true[0] + first_late_ns, *true[1:]]
            index = turn * streams + stream
            status = FAILED if index < failed else COMPLETED
            times = {"due_ns": sent, "sent_ns": sent, "first_ns": seen[0], "last_ns": seen[-1], "done_ns": seen[-1]}
            tokens = {"output_tokens": TOKENS, "first_tokens": 1, "events": TOKENS}
            records.append(Record(index, 0, 0, MEASURED, index, 0, 0, **times, **tokens, status=status))
            rows.append((seen, [1] * TOKENS))
    return requests_from(records), events_from(rows), truth.sent()


def found(streams=4, samples=(), **loop):
    """The exactness of such a loop."""
    requests, events, sent = closed_loop(streams, **loop)
    return exactness(streams, requests, events, samples_from(samples), sent)


def test_a_perfect_client_has_no_error_and_holds_all():
    """Records equal to the truth are exact."""
    perfect = found()

    assert perfect.ttft_error_s == 0
    assert perfect.gap_error_s == 0
    assert perfect.held_share == pytest.approx(1)
    assert perfect.token_rate == pytest.approx(4 * TOKENS / 0.15)
    assert perfect.keeps_up


@pytest.mark.parametrize(("late_ms", "well"), [(4.9, True), (5.1, False)])
def test_late_stamps_are_the_client_s_error(late_ms, well):
    """First tokens stamped late are found as late as they were; over 10 % of 50 ms, and the client fell behind."""
    late = found(first_late_ns=round(late_ms * MS))

    assert late.ttft_error_s == pytest.approx(late_ms / 1000)
    assert late.keeps_up is well


@pytest.mark.parametrize(("turn_ms", "well"), [(4, True), (6, False)])
def test_a_client_that_dawdles_between_requests_holds_less(turn_ms, well):
    """The share held is the answer's time by the time from request to request."""
    slow = found(turn_ns=turn_ms * MS)

    assert slow.held_share == pytest.approx(150 / (150 + turn_ms))
    assert slow.keeps_up is well


def test_a_failed_request_is_never_well():
    """Whatever the times say."""
    assert not found(failed=1).keeps_up


def test_gaps_are_not_taken_across_answers():
    """The p99 of gaps is of neighbours in one answer, on both sides."""
    lone = found(streams=1, rounds=2)

    assert lone.gap_p99_s == lone.gap_p99_true_s == pytest.approx(0.010)


def test_cpu_is_counted_between_samples_and_over_processes():
    """CPU seconds of all clients by the tokens that came between the first sample and the last."""
    samples = [
        (0, "client-0", "cpu_s", 5.0),
        (0, "client-1", "cpu_s", 1.0),
        (150 * MS, "client-0", "cpu_s", 5.2),
        (150 * MS, "client-1", "cpu_s", 1.024),
        (150 * MS, "client-1", "loop_lag_s", 9.0),
        (150 * MS, "server", "cpu_s", 99.0),
    ]

    assert found(samples=samples).cpu_s_per_token == pytest.approx(0.224 / (4 * TOKENS))
    assert np.isnan(found().cpu_s_per_token)


def test_numbers_of_a_stage_are_checked_against_the_truth_about_the_requests_it_counts():
    """The first round, which its window leaves out, is late by a second; the log is in another order than the records.

    That error stands in no number of the result, so that it is in none that is checked.
    """
    requests, events, sent = closed_loop(rounds=6)
    late = requests.first_ns.copy()
    late[:4] += 1000 * MS
    requests = replace(requests, first_ns=late)
    timeline = [{"stage": 0, "repeat": 0, "start_ns": 0, "stop_ns": 750 * MS, "end_ns": 900 * MS}]
    run = {"stages": [{"kind": "closed", "concurrency": 4, "requests": 24}]}
    (stage,) = checked_stages((requests, events), timeline, run, sent.take(np.arange(24)[::-1]))

    assert len(stage.true["ttft"]) == 20
    assert all(number.error_s == pytest.approx(0) for number in stage.numbers())


def test_truth_about_other_requests_is_refused():
    """A request that never arrived at the server leaves no truth to match."""
    requests, events, sent = closed_loop()

    with pytest.raises(ValueError, match="12 requests left, and 11 arrived"):
        checked_stages((requests, events), [], {}, sent.take(np.arange(11)))
