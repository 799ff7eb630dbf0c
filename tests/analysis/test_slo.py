"""Limits hold for the right view, failures count as infinite, and goodput follows from both."""

import math

import numpy as np
import pytest

from harness.analysis.metrics import latencies
from harness.analysis.slo import (
    BY_CLIENT,
    CLOSE,
    CUT,
    FEW,
    Objective,
    Outcome,
    good_requests,
    is_cut,
    objectives,
    outcome,
    unproven,
)
from harness.analysis.token_gaps import streams
from tests.made_runs import answered, columns, failed, never_sent

LATE = answered(0, 0, [2.0, 2.5], sent=1.0)
QUICK = answered(1, 1, [1.2, 1.3, 1.4])
SINGLE = answered(2, 2, [2.2])
LOST = failed(3, 3, 3.5)


def _good(slo, pairs, *, open_loop=True):
    requests, events = columns(pairs)
    return good_requests(
        objectives(slo, open_loop=open_loop), requests, events, latencies(requests, stream=True)
    ).tolist()


def _outcome(slo, pairs, *, open_loop=True):
    requests, events = columns(pairs)
    done = requests.status == "completed"
    found = latencies(requests, stream=True)
    values = {name: array[done & ~np.isnan(array)] for name, array in found.items()}
    (asked,) = objectives(slo, open_loop=open_loop)
    return outcome(asked, values, streams(events, done), requests.take(requests.status == "failed"))


def test_an_open_loop_is_held_to_the_users_view():
    """In an open loop ttft and e2e count from the due time; in a closed one, and for other metrics, as named."""
    plain = [o.metric for o in objectives({"ttft_p99": 1, "e2e_mean": 1, "tpot_p50": 1}, open_loop=False)]
    user = [o.metric for o in objectives({"ttft_p99": 1, "e2e_mean": 1, "tpot_p50": 1}, open_loop=True)]

    assert plain == ["ttft", "e2e", "tpot"]
    assert user == ["ttft_user", "e2e_user", "tpot"]


def test_the_parts_of_a_key_are_metric_and_statistic():
    """ttft_user_p99.9 is the p99.9 of ttft_user."""
    (asked,) = objectives({"ttft_user_p99.9": 2.0}, open_loop=True)

    assert (asked.metric, asked.statistic, asked.limit_s) == ("ttft_user", "p99.9", 2.0)


def test_waiting_before_sending_counts_against_a_user():
    """A request due at 0, sent at 1 and answered at 2 is one second late in its own view and two in the user's."""
    assert _outcome({"ttft_max": 1.5}, [LATE]).value_s == pytest.approx(2.0)
    assert _outcome({"ttft_max": 1.5}, [LATE], open_loop=False).value_s == pytest.approx(1.0)
    assert _good({"ttft_p99": 1.5}, [LATE]) == [False]
    assert _good({"ttft_p99": 1.5}, [LATE], open_loop=False) == [True]


@pytest.mark.parametrize("statistic", ["p99", "p75", "max", "mean"])
def test_one_failure_makes_the_upper_statistics_infinite(statistic):
    """A failed request is infinitely late: no limit on the p99, the maximum or the mean is kept."""
    found = _outcome({f"ttft_{statistic}": 100.0}, [LATE, QUICK, SINGLE, LOST])

    assert found.value_s == math.inf
    assert found.met is False


def test_a_median_bears_a_failure():
    """The median of 0.2, 0.2, 2 and infinity is 1.1."""
    found = _outcome({"ttft_p50": 1.2}, [LATE, QUICK, SINGLE, LOST])

    assert found.value_s == pytest.approx(1.1)
    assert found.met is True


def test_a_value_at_its_limit_meets_it():
    """Under means not over."""
    assert _outcome({"ttft_max": 2.0}, [LATE]).met is True
    assert _good({"ttft_max": 2.0}, [LATE]) == [True]


def test_nothing_answered_and_nothing_failed_tells_nothing():
    """Without requests, or without a second token, an objective is neither met nor broken."""
    assert _outcome({"ttft_p99": 1.0}, [never_sent(0, 0)]).met is None
    assert _outcome({"tpot_p99": 1.0}, [SINGLE]).met is None
    assert _outcome({"itl_max": 1.0}, [SINGLE]).met is None


TTFT = Objective("ttft_p90", "ttft", "p90", 1.0)


@pytest.mark.parametrize(
    ("value_s", "bound_s", "met", "unsure"),
    [(0.5, 0.4, None, BY_CLIENT), (1.2, 0.4, None, BY_CLIENT), (1.5, 0.4, False, ""), (math.inf, 9.0, False, "")],
)
def test_a_value_that_the_client_spoiled_meets_no_limit(value_s, bound_s, met, unsure):
    """Whatever it is; it misses the limit where it does so without what the client may have added."""
    found = Outcome(TTFT, value_s).judged_with(bound_s)

    assert (found.met, found.unsure) == (met, unsure)


@pytest.mark.parametrize(
    ("value_s", "met", "unsure"), [(0.5, None, CUT), (1.5, False, ""), (math.inf, False, ""), (None, None, "")]
)
def test_a_stage_that_was_cut_keeps_no_limit(value_s, met, unsure):
    """What it would have come to is not known; a limit that is missed so far is missed."""
    found = Outcome(TTFT, value_s).judged_until_cut()

    assert (found.met, found.unsure) == (met, unsure)


def test_tokens_that_never_came_are_infinite_gaps():
    """A failed request that owed five tokens adds five infinite gaps; few of them push the p99 but not the median."""
    long = answered(0, 0, list(np.arange(1, 62) / 10))
    lost = failed(1, 0, 1.0, output_asked=5)

    assert _outcome({"itl_p99": 1.0}, [long, lost]).value_s == math.inf
    assert _outcome({"itl_p50": 1.0}, [long, lost]).value_s == pytest.approx(0.1)
    assert _outcome({"itl_mean": 1.0}, [long, lost]).value_s == math.inf
    assert _outcome({"chunk_gap_max": 1.0}, [long]).value_s == pytest.approx(0.1)


def test_a_failed_request_is_never_good():
    """Whatever the limits, a failure keeps none; without limits the rest is good."""
    assert _good({}, [QUICK, LOST]) == [True, False]
    assert _good({"itl_p99": 100.0, "e2e_p99": 100.0}, [QUICK, LOST]) == [True, False]


def test_a_single_token_breaks_no_limit_on_gaps():
    """Where tpot and gaps are undefined, nothing was late."""
    assert _good({"tpot_p99": 1e-9, "itl_p99": 1e-9, "chunk_gap_mean": 1e-9}, [SINGLE]) == [True]


def test_every_limit_must_be_kept():
    """One broken limit is enough, whichever comes first."""
    assert _good({"ttft_p99": 10.0, "tpot_p99": 0.2}, [LATE, QUICK]) == [False, True]
    assert _good({"tpot_p99": 0.2, "ttft_p99": 10.0}, [LATE, QUICK]) == [False, True]


def test_a_requests_own_gaps_are_held_to_the_named_share():
    """With one long gap of ten a p90 is kept, a p95 and a maximum are not, and the mean has its own value."""
    request = answered(0, 0, [*(np.arange(1, 11) / 10), 3.0])

    assert _good({"itl_p90": 0.11}, [request]) == [True]
    assert _good({"itl_p95": 0.11}, [request]) == [False]
    assert _good({"chunk_gap_max": 0.11}, [request]) == [False]
    assert _good({"itl_mean": 0.291}, [request]) == [True]
    assert _good({"chunk_gap_mean": 0.289}, [request]) == [False]


def test_tokens_of_one_event_share_its_gap():
    """Two events of four tokens 0.4 s apart are 0.1 s a token and 0.4 s an event."""
    request = answered(0, 0, [1.0, 1.4], [4, 4])

    assert _good({"itl_max": 0.11}, [request]) == [True]
    assert _good({"itl_mean": 0.11}, [request]) == [True]
    assert _good({"chunk_gap_max": 0.11}, [request]) == [False]
    assert _good({"chunk_gap_mean": 0.11}, [request]) == [False]


def _stage_with(**limits):
    """A stage of summary.json with these limits, each `(value, limit, met, interval, median)`."""
    return {
        "slo": {key: {"metric": key.rpartition("_")[0], "value": value, "limit": limit, "met": met}
                for key, (value, limit, met, _, _) in limits.items()},
        **{key.rpartition("_")[0]: {"p50": median, "ci95": {key.rpartition("_")[2]: pair} if pair else {}}
           for key, (*_, pair, median) in limits.items()},
    }  # fmt: skip


SURE = (0.5, 1.0, True, (0.4, 0.6), 0.3)
NEAR = (0.9, 1.0, True, (0.7, 1.2), 0.3)
NO_INTERVAL = (0.5, 1.0, True, None, 0.3)
OVER = (1.5, 1.0, False, (1.2, 1.8), 0.3)
JUST_OVER = (1.1, 1.0, False, (0.9, 1.3), 0.3)
FEW_OVER = (1.5, 1.0, False, None, 0.3)
MOST_OVER = (9.5, 1.0, False, None, 2.0)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"ttft_p99": SURE}, ""),
        ({"ttft_p99": NEAR}, CLOSE),
        ({"ttft_p99": NO_INTERVAL}, FEW),
        ({"ttft_p99": NO_INTERVAL, "tpot_p99": NEAR}, CLOSE),
        ({"ttft_p99": SURE, "tpot_mean": NO_INTERVAL}, FEW),
        ({"ttft_max": NO_INTERVAL}, ""),
        ({"ttft_p99": OVER, "tpot_p99": NO_INTERVAL}, ""),
        ({"ttft_p99": JUST_OVER, "tpot_p99": NO_INTERVAL}, CLOSE),
        ({"ttft_p99": FEW_OVER, "tpot_p99": SURE}, FEW),
        ({"ttft_p99": MOST_OVER}, ""),
        ({"ttft_p50": MOST_OVER}, FEW),
        ({"ttft_p99": (None, 1.0, False, None, 0.3)}, ""),
        ({"ttft_p99": (None, 1.0, None, None, None)}, ""),
    ],
)
def test_what_is_no_proof_says_why(limits, why):
    """An interval that spans the limit, or none: of a stage that met its limits one such, of one that missed all."""
    assert unproven(_stage_with(**limits)) == why


@pytest.mark.parametrize(
    ("stage", "cut"),
    [
        ({"cut": True}, True),
        ({"cut": False, "requests": {"cancelled": 3}}, False),
        ({"requests": {"cancelled": 3}}, True),
        ({"requests": {"cancelled": 0}}, False),
        ({"slo": {"ttft_p99": {"unsure": "cut"}}}, True),
    ],
)
def test_a_stage_says_itself_whether_it_was_cut(stage, cut):
    """Of results of earlier versions, which have no such key, it follows from what was lost; a whole run has none."""
    assert is_cut({"verdict": {"interrupted": True}}, stage) is cut
    assert is_cut({"verdict": {}}, {key: value for key, value in stage.items() if key != "cut"}) is False
