"""What a worker counts of its streams while they run, against exact statistics of the same streams."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.connection import InFlightRequest
from harness.client.live_counters import LiveCounters
from harness.clock import LoopClock
from harness.statistics.log_histogram import RELATIVE_ERROR, histogram_from
from tests.virtual_loop import run_virtually

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def _event(tokens, *, usage):
    counted = b',"usage":{"prompt_tokens":3,"completion_tokens":%d}' % tokens if usage else b""
    return b'data: {"choices":[{"text":"a"}]' + counted + b"}\n\n"


def _counted(streams, *, usage=True, role=False, gaps=10**6):
    """Counts after the streams (gaps in s and tokens of each event, the first gap being the TTFT) went by."""
    reports = []

    async def main():
        clock = LoopClock(asyncio.get_running_loop())
        counters = LiveCounters(clock, reports.append, gaps)
        counters.begin(2)
        await asyncio.gather(*(_play(clock, counters, *each, usage=usage, role=role) for each in enumerate(streams)))
        counters.end()

    run_virtually(main)
    return reports


async def _play(clock, counters, number, events, *, usage, role):
    request = InFlightRequest(number, b"", 0, counters.over)
    request.sent_ns = clock.now_ns()
    counters.sent(request, measured=True)
    _bring(request, clock, HEAD)
    if role:
        _bring(request, clock, ROLE)
    tokens = 0
    for gap_s, count in events:
        await asyncio.sleep(gap_s)
        tokens += count
        _bring(request, clock, _event(tokens, usage=usage))
    _bring(request, clock, b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\n' % tokens if usage else DONE)
    _bring(request, clock, DONE)
    request.done_ns = clock.now_ns()
    counters.over(request)


def _bring(request, clock, piece):
    request.pieces.append(piece)
    request.stamps.append(clock.now_ns())
    request.lates.append(0)


GAPS = st.floats(1e-3, 2.0)
STREAMS = st.lists(st.lists(st.tuples(GAPS, st.just(1)), min_size=1, max_size=30), min_size=1, max_size=6)


def _near(histogram, times_s):
    """Every quantile is that of the exact times, but for the histogram's error and the nanosecond of a stamp."""
    for share in (0.5, 0.95, 0.99):
        exact = float(np.quantile(times_s, share, method="inverted_cdf"))
        assert histogram.quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR + 1e-4)


@settings(deadline=None)
@given(STREAMS, st.booleans(), st.booleans())
def test_counts_are_those_of_the_streams(streams, usage, role):
    """Tokens are exact, TTFT and ITL right to 1 %, with a server's running count or without, after a role or not."""
    last = _counted(streams, usage=usage, role=role)[-1]
    tokens = sum(len(events) for events in streams)
    gaps = [gap_s for events in streams for gap_s, _ in events[1:]]

    assert (last["number"], last["sent"], last["answered"], last["failed"]) == (2, len(streams), len(streams), 0)
    assert last["output_tokens"] == tokens
    assert histogram_from(last["ttft"]).n == len(streams)
    assert histogram_from(last["itl"]).n == len(gaps)
    _near(histogram_from(last["ttft"]), [events[0][0] for events in streams])
    if gaps:
        _near(histogram_from(last["itl"]), gaps)


def test_events_of_several_tokens_are_gaps_of_a_part_each():
    """As the result counts them: an event of k tokens is k gaps of a k-th; their mean within half a second."""
    last = _counted([[(0.1, 3), *[(0.03, 3)] * 40]])[-1]
    itl = histogram_from(last["itl"])

    assert last["output_tokens"] == 123
    assert itl.quantile(0.5) == pytest.approx(0.01, rel=0.05)


def test_reports_come_every_half_to_three_seconds_and_never_fall():
    """Each is the whole so far: one that is lost is no loss."""
    reports = _counted([[(0.1, 1)] * 50])
    tokens = [report["output_tokens"] for report in reports]
    pauses_s = np.diff([report["at_ns"] for report in reports[:-1]]) * 1e-9

    assert len(reports) >= 3
    assert np.all((pauses_s > 0.499) & (pauses_s < 3.01))
    assert tokens == sorted(tokens)
    assert tokens[-1] == 50


def test_what_opens_an_answer_of_the_responses_api_is_no_token():
    """The first token is the first delta; an answer that failed is told from one that did not."""
    reports = []

    async def main():
        clock = LoopClock(asyncio.get_running_loop())
        counters = LiveCounters(clock, reports.append, 10**6)
        counters.begin(0)
        for number, last in enumerate((b"response.completed", b"response.failed")):
            request = InFlightRequest(number, b"", 0, counters.over)
            request.sent_ns = clock.now_ns()
            counters.sent(request, measured=True)
            _bring(request, clock, HEAD + b'event: response.created\ndata: {"type":"response.created"}\n\n')
            for kind in (b"response.output_text.delta", b"response.output_text.delta", last):
                await asyncio.sleep(0.2)
                _bring(request, clock, b'event: %b\ndata: {"delta":"a","type":"%b"}\n\n' % (kind, kind))
            counters.over(request)
        counters.end()

    run_virtually(main)
    counts = reports[-1]

    assert (counts["answered"], counts["failed"]) == (1, 1)
    assert histogram_from(counts["ttft"]).quantile(0.5) == pytest.approx(0.2, rel=2 * RELATIVE_ERROR)


def test_failures_are_told_from_answers():
    """A failure on the way, a status other than 2xx and an error in the stream are failed; given up is cancelled."""
    reports = []

    async def main():
        clock = LoopClock(asyncio.get_running_loop())
        counters = LiveCounters(clock, reports.append)
        counters.begin(0)
        error = b'data: {"error":{"message":"out of memory"}}\n\n'
        cases = [("reset", []), ("cancelled", []), ("", [HEAD, error]), ("", [b"HTTP/1.1 503 Busy\r\n\r\n"])]
        for number, (failure, pieces) in enumerate(cases):
            request = InFlightRequest(number, b"", 0, counters.over)
            counters.sent(request, measured=False)
            request.failure = failure
            for piece in pieces:
                _bring(request, clock, piece)
            counters.over(request)
        counters.end()

    run_virtually(main)

    last = reports[-1]
    assert (last["sent"], last["answered"], last["failed"], last["cancelled"]) == (4, 0, 3, 1)
    assert last["output_tokens"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_of_the_gaps_shows_their_quantiles(seed):
    """Where streams bring more than is counted at a look, their last gaps stand for all; tokens stay exact."""
    draw = np.random.default_rng(seed)
    streams = [[(float(gap_s), 1) for gap_s in draw.lognormal(-4.5, 0.4, 600)] for _ in range(30)]
    last = _counted(streams, gaps=8)[-1]
    itl, gaps = histogram_from(last["itl"]), [gap_s for events in streams for gap_s, _ in events[1:]]

    assert last["output_tokens"] == 18_000
    assert 500 < itl.n < len(gaps) / 2
    for share in (0.5, 0.95):
        assert itl.quantile(share) == pytest.approx(float(np.quantile(gaps, share)), rel=0.08)
