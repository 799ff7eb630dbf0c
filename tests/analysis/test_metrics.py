"""The numbers of a stage are those that the definitions give."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.metrics import StageInput, latencies, summarize_stage
from harness.analysis.steady_state import Span
from harness.errors import ResultError
from harness.results.request_table import MEASURED, MISSING, WARMUP
from tests.made_runs import answered, closed_run, columns, failed, hand_made, never_sent, ns
from tests.random_runs import any_pair

CONSTANT = {"kind": "constant", "rate": 1.0, "duration_s": 4.0}


def stage(pairs, *, load=CONSTANT, span=(0, 4, 5), slo=None, stream=True):
    """One stage's input of (record, events) pairs; span in seconds."""
    requests, events = columns(pairs)
    return StageInput(requests, events, Span(0, 0, *map(ns, span)), load, slo or {}, stream)


def test_a_small_stage_has_the_numbers_of_a_pencil():
    """Latencies of three answers, and rates of what ended after the warm-up's last answer, worked out by hand."""
    found = summarize_stage(stage(hand_made(), slo={"ttft_p50": 0.8, "ttft_p99": 0.8}))
    metrics = found.metrics

    assert (metrics["ttft"].n, metrics["ttft"].mean) == (3, pytest.approx((0.5 + 0.499 + 0.9) / 3))
    assert metrics["ttft_user"].p50 == pytest.approx(0.5)
    assert (metrics["tpot"].n, metrics["tpot"].max) == (2, pytest.approx(0.1))
    assert (metrics["itl"].n, metrics["itl"].mean) == (4, pytest.approx(0.1))
    assert (metrics["chunk_gap"].n, metrics["chunk_gap"].max) == (3, pytest.approx(0.2))
    assert (metrics["e2e"].max, metrics["e2e_user"].min) == (pytest.approx(0.9), pytest.approx(0.7))
    assert (metrics["send_lag"].n, metrics["send_lag"].max) == (4, pytest.approx(0.001))
    assert found.account.__class__(4, 4, 3, 1, 0, 0, 1, 4) == found.account
    assert found.errors == {"http_500": 1}
    assert (found.input_tokens, found.output_tokens) == (30, 8)
    assert found.rates.request == pytest.approx(3 / 3.5)  # from 0.5 s on, when the warm-up's answer had ended
    assert found.rates.output_token == pytest.approx(8 / 3.5)
    assert found.rates.total_token == pytest.approx((8 + 30) / 3.5)
    assert found.rates.event == pytest.approx(6 / 3.5)
    assert found.rates.good == pytest.approx(2 / 3.5)  # 0.5 s twice, 0.9 s once
    assert found.rates.offered == pytest.approx(3 / 3.5)
    assert found.rates.arrived == pytest.approx(7 / 3.5)  # the first of them came at 0.5 s
    assert found.concurrency_mean == pytest.approx((0.2 + 0.699 + 0.2 + 0.9) / 3.5)
    assert found.concurrency_max == 1
    assert [(o.value_s, o.met) for o in found.outcomes] == [(pytest.approx(0.7), True), (float("inf"), False)]
    assert found.slo_met is False


def test_answers_that_all_ended_outside_the_part_for_rates_form_no_rate():
    """A warm-up answer ended late, and rates count from 2 s on, when all was answered; no answer at all is 0 req/s."""
    early = [answered(i, i / 10, [i / 10 + 0.1, i / 10 + 0.3]) for i in range(16)]
    found = summarize_stage(stage([*early, answered(16, 0, [3.0], phase=WARMUP)]))
    rates = found.rates

    assert (found.account.completed, found.window.rates_s) == (16, 2.0)
    assert (rates.request, rates.output_token, rates.total_token, rates.event, rates.good) == (None,) * 5
    assert summarize_stage(stage([failed(0, 0, 3.0)])).rates.request == 0


def test_the_definitions_hold_row_by_row():
    """Every metric of a row is the difference that its name says, and undefined where an end is missing."""
    pairs = [
        answered(
            0, 1.0, [2.0, 3.0, 5.0], [2, 1, 1], sent=1.5, ready_ns=ns(1.25), connect_ns=ns(0.1), answer_ns=ns(3.0)
        ),
        never_sent(1, 2),
    ]
    found = latencies(columns(pairs)[0], stream=True)
    want = {
        "ttft": 0.5, "ttft_user": 1.0, "ttft_answer": 1.5, "ttft_answer_user": 2.0, "tpot": 1.5, "e2e": 3.5,
        "e2e_user": 4.0,
        "send_lag": 0.25, "queue_wait": 0.25, "connect": 0.1,
    }  # fmt: skip

    assert {name: values[0] for name, values in found.items()} == pytest.approx(want)
    assert all(np.isnan(values[1]) for values in found.values())


def test_an_answer_in_one_piece_has_only_its_end():
    """Without a stream e2e runs to the end of the answer, and nothing is said of tokens."""
    pairs = [answered(i, i, [i + 0.5], [8], done_ns=ns(i + 0.6)) for i in range(4)]
    found = summarize_stage(stage(pairs, stream=False, slo={"ttft_p99": 1.0}))

    assert found.metrics["e2e"].max == pytest.approx(0.6)
    assert [found.metrics[name].n for name in ("ttft", "ttft_user", "tpot", "itl", "chunk_gap")] == [0] * 5
    assert found.rates.output_token == pytest.approx(8 * found.rates.request)
    assert (found.slo_met, found.rates.good) == (None, None)


def test_only_what_was_sent_within_the_window_has_latencies():
    """A request sent after the end of sending is accounted for and is in no percentile."""
    pairs = [answered(0, 1, [1.5, 1.6]), answered(1, 1, [1.5, 1.6]), answered(2, 4.5, [4.9, 4.95])]
    found = summarize_stage(stage(pairs))

    assert found.metrics["e2e"].n == 2
    assert found.metrics["itl"].n == 2
    assert (found.account.completed, found.account.in_window) == (3, 2)


def test_a_loop_of_one_user_has_its_own_rate_exactly():
    """Five answers of one second each: the last is sent as the fourth ends, so four are counted in four seconds."""
    pairs = closed_run(1, 5, lambda _: 1.0)
    found = summarize_stage(stage(pairs, load={"kind": "closed", "concurrency": 1}, span=(0, 4.5, 5)))

    assert (found.rates.request, found.rates.output_token) == (1.0, 4.0)
    assert (found.metrics["e2e"].n, found.concurrency_mean, found.concurrency_max) == (5, 1.0, 1)


def test_tokens_count_with_their_answer():
    """An answer that is half done at the end of sending gives neither a request nor tokens to the rates."""
    quick = [answered(i, i, [i + 0.5]) for i in range(3)]
    found = summarize_stage(stage([*quick, answered(3, 3, [3.5, 4.0, 4.5, 5.0])]))

    assert (found.counted.requests, found.counted.output_tokens) == (2, 2)
    assert found.rates.output_token == found.rates.request == pytest.approx(2 / 3.5)


def test_warm_up_counts_in_no_number():
    """A stage says the same whatever the answers of its warm-up hold; they only delay its rates."""
    own = [answered(i, i / 4, [i / 4 + 0.5, i / 4 + 0.6]) for i in range(16)]
    warm = [answered(20, -1.0, [-0.5, 0.9], phase=WARMUP), failed(21, -1.0, 0.3, phase=WARMUP)]
    other = [answered(20, -2.0, [0.1] * 9, [50] * 9, phase=WARMUP, done_ns=ns(0.9)), warm[1]]
    found, same = (summarize_stage(stage([*own, *pairs], slo={"ttft_p50": 1.0})) for pairs in (warm, other))

    assert found == same
    assert found.window.rates_ns == ns(0.9)
    assert found.counted.requests == 12
    assert found.concurrency_mean == pytest.approx(2.4, abs=0.05)
    assert found.metrics["ttft"].n == 16


@pytest.mark.parametrize(
    "pairs", [[], [failed(0, 1, 1.5), failed(1, 2, 2.5, "refused", sent_ns=MISSING)], [never_sent(0, 1)]]
)
def test_a_stage_without_an_answer_is_summed_up(pairs):
    """Nothing planned, all failed, or nothing sent: counts, and no numbers where there are none."""
    found = summarize_stage(stage(pairs, slo={"ttft_p99": 1.0, "itl_p99": 1.0}))

    assert found.account.completed == 0
    assert found.account.scheduled == len(pairs)
    assert found.metrics["ttft"].p99 is None
    assert found.rates.good in (0.0, None)
    assert found.slo_met is (False if found.account.failed else None)


def test_errors_are_told_most_frequent_first():
    """Names of errors come with their counts, the most frequent first."""
    pairs = [failed(0, 0, 1, "timeout"), failed(1, 1, 2, "refused"), failed(2, 2, 3, "timeout")]

    assert list(summarize_stage(stage(pairs)).errors.items()) == [("timeout", 2), ("refused", 1)]


def test_a_failure_that_was_never_sent_counts_against_an_objective():
    """A connection that was refused fails at the time it was due."""
    pairs = [answered(0, 1, [1.5]), failed(1, 2, 2.0, "refused", sent_ns=MISSING), answered(2, 3, [3.5])]
    (found,) = summarize_stage(stage(pairs, slo={"ttft_max": 1.0})).outcomes

    assert found.met is False


@given(st.data(), st.integers(0, 12), st.sampled_from(["closed", "poisson", "ramp"]))
def test_no_request_is_lost_from_the_account(data, count, kind):
    """Whatever becomes of requests, the account adds up and the rates stay within each other."""
    pairs = [data.draw(any_pair(i)) for i in range(count)]
    load = {"kind": kind, "rate": 1.0, "rate_to": 2.0, "concurrency": 2}
    missing = data.draw(st.booleans())
    span = (0, 4, 10)
    given_ = stage(pairs, load=load, span=span, slo={"ttft_p90": 1.0, "itl_p90": 0.5})
    given_ = replace(given_, span=Span(0, 0, MISSING, MISSING, MISSING)) if missing else given_
    found = summarize_stage(given_)
    account = found.account
    statuses = [record.status for record, _ in pairs if record.phase == MEASURED]

    assert account.scheduled == len(statuses)
    assert account.scheduled == account.completed + account.failed + account.cancelled + account.never_sent
    assert account.completed == statuses.count("completed")
    assert account.in_window <= account.sent <= account.scheduled
    assert sum(found.errors.values()) == account.failed
    assert found.metrics["e2e"].n <= account.completed
    assert found.window.end_ns >= found.window.start_ns
    if found.rates.request is not None:
        assert found.rates.good <= found.rates.request + 1e-12
        assert found.rates.output_token <= found.rates.total_token + 1e-12
        assert found.concurrency_mean <= found.concurrency_max + 1e-9


def test_an_unknown_status_is_refused():
    """A status that is none of the four would break the account: one line says which."""
    with pytest.raises(ResultError, match="'lost'; expected one of completed, failed, cancelled, never_sent"):
        summarize_stage(stage([answered(0, 0, [1.0], status="lost")]))
