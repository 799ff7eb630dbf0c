"""Tokens are counted and stamped as they came, wherever the bytes were cut."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client import answer_decoding, event_stream
from harness.results.request_table import ASSUMED, FROM_EVENTS, FROM_TOKEN_IDS, FROM_USAGE, MISSING
from tests.fakes import answered, chunked, event, sse_body


def whole(raw, **more):
    """An answer that came in one read at 100."""
    return answer_decoding.decode([raw], [100], **more)


def pieces_of(raw, cuts):
    """Bytes cut at some places, empty pieces left out."""
    places = sorted({0, len(raw), *(cut % len(raw) for cut in cuts)})
    return [raw[a:b] for a, b in itertools.pairwise(places)]


COUNTED = answered(
    json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
    event(" a", usage=(9, 1)),
    event(" b", usage=(9, 3)),
    event("", usage=(9, 4)),
    json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}),
)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_an_answer_is_the_same_wherever_its_bytes_are_cut(cuts):
    """Counts and text do not depend on the reads; an event is stamped by the read that completed it."""
    pieces = pieces_of(COUNTED, cuts)
    answer = answer_decoding.decode(pieces, [1000 + number for number in range(len(pieces))])

    assert (answer.error, list(answer.tokens), answer.output_tokens, answer.input_tokens) == ("", [1, 2, 1], 4, 9)
    ends = [
        COUNTED.index(mark) + len(mark)
        for mark in (b'"total_tokens": 10}}\n\n', b'"total_tokens": 12}}\n\n', b'"total_tokens": 13}}\n\n')
    ]
    read_until, stamps = 0, []
    for end in ends:
        read_until, number = 0, -1
        while read_until < end:
            number += 1
            read_until += len(pieces[number])
        stamps.append(1000 + number)
    assert list(answer.at_ns) == stamps


EVENT_DATA = st.one_of(
    st.text(" ab\r\n", max_size=3).map(event),
    st.sampled_from(["[DONE]", "", " ", "{", '{"a": 1}\n{"b": 2}', "0\r\n\r\n", "x\n\n\r\ny"]),
)
CHUNK_FORMS = (
    "data: {}\n\n",
    "data: {}\n\n",
    "data: {}\n\n",
    "data:{}\n\n",
    ": {}\n\n",
    "data: {}\r\n\r\n",
    "data: {}\n",
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(EVENT_DATA, st.sampled_from(CHUNK_FORMS)), max_size=8),
    st.sampled_from(["0\r\n\r\n", "0\r\nX: 1\r\n\r\n", "00\r\n\r\n", ""]),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_events_in_chunks_of_their_own_are_read_as_any_other_stream(events, end, cuts):
    """The quick way for the usual stream says what the general way says, or leaves the answer to it."""
    chunks = [form.format(data).encode() for data, form in events]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end.encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    pieces = pieces_of(raw, cuts)
    stamps = list(range(100, 100 + len(pieces)))
    quick = answer_decoding.decode(pieces, stamps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_stream, "events_in_chunks", lambda _raw, _at: None)

        assert answer_decoding.decode(pieces, stamps) == quick


def test_the_usual_stream_is_read_the_quick_way():
    """Each event in a chunk of its own: its data, and where in the answer its blank line ended."""
    raw = b"head" + b"".join(b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data) for data in (b"abc", b"[DONE]"))
    datas, ends = event_stream.events_in_chunks(raw + b"0\r\n\r\n", 4)

    assert datas == [b"abc", b"[DONE]"]
    assert [raw[:end].count(b"\n\n") for end in ends] == [1, 2]
    assert all(raw[:end].endswith(b"\n\n") for end in ends)


def test_tokens_are_counted_by_ids_before_usage_before_events():
    """token_ids are exact, running usage is exact, and with no count at all an event with content is one token."""
    by_ids = whole(answered(event(" a", ids=[5, 6]), event("", ids=[7])))
    by_usage = whole(answered(event(" a", usage=(3, 2)), event(" b", usage=(3, 3))))
    assumed = whole(answered(event(" a"), event(" b"), event("")))

    assert (by_ids.counted_by, list(by_ids.tokens), by_ids.token_ids) == (FROM_TOKEN_IDS, [2, 1], (5, 6, 7))
    assert (by_usage.counted_by, list(by_usage.tokens)) == (FROM_USAGE, [2, 1])
    assert (assumed.counted_by, list(assumed.tokens), assumed.input_tokens) == (FROM_EVENTS, [1, 1], MISSING)


def test_assumed_counts_are_spread_to_the_servers_total():
    """Three events and a final usage of 7 tokens: the events share the 7, and the total is the server's."""
    final = json.dumps({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 7}})
    answer = whole(answered(event(), event(), event(), final))

    assert (answer.output_tokens, sum(answer.tokens), len(answer.tokens)) == (7, 7, 3)
    assert answer.counted_by == ASSUMED


def test_a_role_chunk_is_no_token():
    """The first event that carries a token is the first with content, not the empty role chunk."""
    role = json.dumps({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    word = json.dumps({"choices": [{"delta": {"content": "hi"}}]})
    raw = answered(role, word)
    cut = raw.index(b'{"choices": [{"delta": {"content": "hi"')
    answer = answer_decoding.decode([raw[:cut], raw[cut:]], [1, 2])

    assert (list(answer.at_ns), list(answer.tokens)) == ([2], [1])


def test_reasoning_and_tool_calls_are_tokens():
    """A model that thinks or calls before it speaks has sent tokens all the same."""
    thought = json.dumps({"choices": [{"delta": {"reasoning_content": "hm"}}]})
    call = json.dumps({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})

    assert list(whole(answered(thought, call)).tokens) == [1, 1]


def test_an_error_inside_a_stream_is_a_failure():
    """HTTP 200 does not make a success of a stream that says it failed."""
    answer = whole(answered(event(), json.dumps({"error": {"message": "out of KV", "code": 500}})))

    assert (answer.error, answer.message, len(answer.at_ns)) == ("stream_error", "out of KV", 1)


@pytest.mark.parametrize(
    ("raw", "error", "words"),
    [
        (answered(event())[:-30], "truncated", "before the answer was complete"),
        (chunked(sse_body(event(), done=False)), "truncated", "without [DONE]"),
        (answered(), "no_tokens", "no token"),
        (answered("{not json"), "bad_event", "{not json"),
        (answered('{"choices": 7}'), "no_tokens", "no token"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/html\r\n\r\n<html>", "not_json", "text/html"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "http_503", ""),
        (b'HTTP/1.1 400 Bad\r\nContent-Length: 32\r\n\r\n{"error":{"message":"too long"}} ', "http_400", "too long"),
        (b'HTTP/1.1 422 No\r\nContent-Length: 24\r\n\r\n{"detail":[{"msg":"x"}]}', "http_422", '[{"msg":"x"}]'),
        (answered('{"error": {"message": "half \\ud800 pair"}}'), "stream_error", "half ? pair"),
        (b"SSH-2.0-x\r\n", "bad_http", "not an HTTP/1.1 answer"),
        (b"HTTP/1.1 200", "truncated", "inside its head"),
    ],
)
def test_each_kind_of_bad_answer_has_its_name(raw, error, words):
    """A short stable error name, and the server's own words where it has any."""
    answer = whole(raw)

    assert (answer.error, words in answer.message) == (error, True)


def test_what_the_wire_says_stands_above_what_the_bytes_say():
    """A stream cut by a time-out is a time-out, with the tokens that came."""
    answer = whole(answered(event(), event())[:-60], failure="timeout", message="after 5 s")

    assert (answer.error, answer.message, len(answer.at_ns)) == ("timeout", "after 5 s", 1)


def test_interim_answers_are_passed_over():
    """100 Continue and 103 Early Hints come before the answer and are none."""
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answered(event())
    answer = answer_decoding.decode([raw[:60], raw[60:]], [1, 2])

    assert (answer.error, answer.http_status, list(answer.tokens), list(answer.at_ns)) == ("", 200, [1], [2])


def test_an_answer_in_one_body_has_its_tokens_at_its_end():
    """Without streaming all tokens arrive with the last byte, and there is no stream of events."""
    body = json.dumps({"choices": [{"text": "abc"}], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}).encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answer = answer_decoding.decode([raw[:70], raw[70:]], [1, 9])

    assert (answer.streamed, list(answer.at_ns), list(answer.tokens), answer.output_tokens) == (False, [9], [3], 3)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_every_line_end_of_event_streams_is_read(end):
    """LF, CRLF and CR end lines; comments, ids and event names are passed over."""
    blocks = [b": ping", b"event: message\nid: 1\ndata: " + event(" a").encode(), b"data:[DONE]"]
    body = b"".join(block.replace(b"\n", end[: len(end) // 2]) + end for block in blocks)

    assert list(whole(chunked(body)).tokens) == [1]


def test_cached_prompt_tokens_are_kept():
    """What the server found in its prefix cache is part of the record."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}

    assert whole(answered(event(), json.dumps({"choices": [], "usage": usage}))).cached_tokens == 8


VLLM_METRICS = {
    "time_to_first_token_ms": 12.5,
    "generation_time_ms": 30,
    "queue_time_ms": 0.25,
    "mean_itl_ms": 10.0,
    "tokens_per_second": 94.1,
}


@pytest.mark.parametrize(
    ("metrics", "kept"),
    [
        (VLLM_METRICS, (250_000, 12_500_000, 30_000_000, MISSING, MISSING, MISSING)),
        (
            {"speculative_decoding": {"num_spec_steps": 4, "num_draft_tokens": 12, "num_accepted_draft_tokens": 7}},
            (MISSING, MISSING, MISSING, 4, 12, 7),
        ),
        ({"queue_time_ms": "soon", "time_to_first_token_ms": -1, "generation_time_ms": True}, (MISSING,) * 6),
        ({"queue_time_ms": 1e300, "speculative_decoding": []}, (MISSING,) * 6),
        ("fast", None),
        (None, None),
    ],
)
def test_what_the_server_measured_of_a_request_is_kept(metrics, kept):
    """VLLM's PerRequestMetrics in the last event become whole ns and counts; what is odd is no value."""
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    end = {"choices": [], "usage": usage, "metrics": metrics}

    assert whole(answered(event(), json.dumps(end))).by_server == kept
    assert whole(answered(event(), json.dumps(end))).output_tokens == 1
