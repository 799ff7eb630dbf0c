"""The reference server sends what it says, and says what it sent."""

import contextlib
import json
import socket
from array import array
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import EngineError
from harness.selfcheck.reference_server.ground_truth import GroundTruthLog, TokenSchedule, read, summary, write
from harness.selfcheck.reference_server.requests import BadRequestError, parse_completion, parse_head, script_of
from harness.selfcheck.selfcheck import started

SCHEDULE = TokenSchedule(first_ns=3_000_000, gap_ns=1_000_000)
COMPLETIONS = b"/v1/completions"
USAGE = {"include_usage": True, "continuous_usage_stats": True}


def asking(path=COMPLETIONS, fields=b"", **body):
    """The bytes of a request, by default for three tokens as a stream."""
    content = json.dumps({"prompt": [5, 6, 7, 8], "max_tokens": 3, "stream": True, **body}).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(content), content)


def unchunked(data):
    """The body of one chunked response at the start of `data`, and what follows it."""
    pieces, at = [], 0
    while True:
        begin = data.index(b"\r\n", at) + 2
        length = int(data[at : begin - 2], 16)
        pieces.append(data[begin : begin + length])
        at = begin + length + 2
        if length == 0:
            return b"".join(pieces), data[at:]


def events_of(data):
    """The decoded events of one streamed answer at the start of `data`, and what follows it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    body, rest = unchunked(rest)
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert lines.pop() == b"[DONE]"
    return [json.loads(line) for line in lines], rest


class Caller:
    """A client socket of a reference server; every receive gives up after ten seconds."""

    def __init__(self, url):
        at = urlsplit(url)
        self.sock = socket.create_connection((at.hostname, at.port), timeout=10)

    def ends(self, request, mark=b"\r\n0\r\n\r\n"):
        """Send a request; what comes up to `mark`."""
        self.sock.sendall(request)
        return self.until(mark)

    def until(self, mark):
        """What comes until it ends with `mark`, or until the server closes."""
        data = bytearray()
        while not data.endswith(mark) and (piece := self.sock.recv(1 << 16)):
            data += piece
        return bytes(data)

    def page(self, path):
        """The body of a page; the connection ends with it."""
        return self.ends(b"GET %b HTTP/1.1\r\nConnection: close\r\n\r\n" % path, b"never").partition(b"\r\n\r\n")[2]

    def close(self):
        self.sock.close()


def page_of(url, path):
    """A page fetched on a connection of its own."""
    caller = Caller(url)
    body = caller.page(path)
    caller.close()
    return body


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A reference server of its own process."""
    with started(SCHEDULE, tmp_path_factory.mktemp("server") / "log.npz", life_s=120) as found:
        yield found


@pytest.fixture
def caller(server):
    """One connection to it."""
    made = Caller(server.url)
    yield made
    made.close()


def test_a_stream_carries_the_asked_tokens_and_running_counts(caller):
    """Three tokens are three events with usage, then a usage event, [DONE] and the last chunk."""
    events, rest = events_of(caller.ends(asking(stream_options=USAGE)))

    assert rest == b""
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 3, 3]
    assert {event["usage"]["prompt_tokens"] for event in events} == {4}
    assert [event["choices"][0]["text"] for event in events[:3]] == [" tok"] * 3
    assert [event["choices"][0]["finish_reason"] for event in events[:3]] == [None, None, "length"]
    assert events[3]["choices"] == []


def test_chat_begins_with_a_role_and_counts_words(caller):
    """A chat stream's first event carries no token, as vLLM's does."""
    messages = [{"role": "user", "content": "one two three"}]
    events, _ = events_of(caller.ends(asking(b"/v1/chat/completions", messages=messages, prompt=None)))

    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in events[1:]] == [" tok"] * 3
    assert all("usage" not in event for event in events)


def test_token_ids_are_sent_where_asked(caller):
    """Each event names its tokens by their position."""
    events, _ = events_of(caller.ends(asking(return_token_ids=True)))

    assert [event["choices"][0]["token_ids"] for event in events] == [[1_000_000], [1_000_001], [1_000_002]]


def test_an_answer_that_is_not_streamed_comes_in_one_piece(caller):
    """Without "stream" the answer is one JSON object with its usage."""
    data = caller.ends(asking(stream=False), b"}}")
    answer = json.loads(data.partition(b"\r\n\r\n")[2])

    assert answer["choices"][0]["text"] == " tok" * 3
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 7, "completion_tokens": 3}


def test_a_connection_serves_one_request_after_another(caller):
    """Keep-alive: the socket of an answer takes the next request."""
    answers = [caller.ends(asking()) for _ in range(3)]

    assert answers[0] == answers[1] == answers[2]


def test_pipelined_requests_are_answered_in_order(caller):
    """What is sent during an answer waits for its end."""
    caller.sock.sendall(asking(max_tokens=2) + asking(max_tokens=5) + b"GET /health HTTP/1.1\r\n\r\n")
    data = caller.until(b"content-length: 0\r\n\r\n")
    first, rest = events_of(data)
    second, rest = events_of(rest)

    assert (len(first), len(second)) == (2, 5)
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_request_may_come_in_pieces(caller, piece):
    """A request cut anywhere asks for the same."""
    whole = asking()
    caller.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(whole), piece):
        caller.sock.send(whole[start : start + piece])
    events, _ = events_of(caller.until(b"\r\n0\r\n\r\n"))

    assert len(events) == 3


def test_a_large_prompt_is_counted(caller):
    """A body of some 600 kB is read and its 100,000 token ids are counted."""
    events, _ = events_of(caller.ends(asking(prompt=list(range(100_000)), stream_options=USAGE)))

    assert events[-1]["usage"]["prompt_tokens"] == 100_000


def test_close_is_done_as_asked(caller):
    """`Connection: close` ends the connection after the answer."""
    events, rest = events_of(caller.ends(asking(fields=b"Connection: close\r\n"), b"never"))

    assert (len(events), rest) == (3, b"")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"BREW\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 4\r\n\r\n[11]", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", 413),
        (asking(max_tokens=0), 400),
        (asking(max_tokens="many"), 400),
        (asking(max_tokens=10**9), 400),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/completions HTTP/1.1\r\n\r\n", 405),
        (b"A" * (64 << 10), 431),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(caller, request_bytes, status):
    """The status and a message come back, and then the connection ends."""
    data = caller.ends(request_bytes, b"never")
    head, _, body = data.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == status


def test_pages_say_what_it_is(server, caller):
    """Models and metrics are served in the forms that clients of vLLM read, marked as no real engine's."""
    models = json.loads(page_of(server.url, b"/v1/models"))
    metrics = page_of(server.url, b"/metrics?x=1")

    assert models["data"][0]["id"] == "reference-server"
    assert b'vllm:num_requests_running{model_name="reference-server"} 0\n' in metrics
    assert b"\r\nx-npu-harness-simulated: 1\r\n" in caller.ends(asking())


def test_the_log_has_every_write_on_or_after_its_due_time(tmp_path):
    """Events are never early, in order within an answer, and each answer has its own row."""
    with started(SCHEDULE, tmp_path / "log.npz", life_s=60) as server:
        callers = [Caller(server.url) for _ in range(5)]
        for count, made in enumerate(callers, 1):
            made.sock.sendall(asking(max_tokens=count))
        for made in callers:
            made.until(b"\r\n0\r\n\r\n")
            made.close()
        told = json.loads(page_of(server.url, b"/truth"))
    sent = read(tmp_path / "log.npz")

    assert sorted(sent.tokens) == sorted(np.diff(sent.offsets)) == [1, 2, 3, 4, 5]
    assert sent.ended.all()
    assert sent.late_ns.min() >= 0
    assert sent.ttft_ns.min() >= SCHEDULE.first_ns
    assert sent.gap_ns.min() > 0
    assert len(sent.gap_ns) == 15 - 5
    assert told["events"] == told["tokens"] == len(sent.sent_ns) == 15
    assert told["ttft"]["max"] == pytest.approx(sent.ttft_ns.max() / 1e9)


def test_a_client_that_leaves_is_logged_as_left(tmp_path):
    """An answer that its client did not wait for is a row that has not ended."""
    with started(TokenSchedule(1_000_000, 1_000_000), tmp_path / "log.npz", life_s=60) as server:
        made = Caller(server.url)
        made.sock.sendall(asking(max_tokens=1_000_000))
        made.sock.recv(10)
        made.close()
        other = Caller(server.url)
        other.ends(asking())
        other.close()
    sent = read(tmp_path / "log.npz")

    assert sorted(sent.ended) == [0, 1]
    assert summary(sent)["left"] == 1
    assert summary(sent)["tokens"] == 3


def test_a_socket_that_takes_no_more_delays_but_loses_nothing(tmp_path):
    """A client that reads late gets every event, in order."""
    count = 40_000  # more bytes than a socket holds
    with started(TokenSchedule(0, 1), tmp_path / "log.npz", life_s=60) as server:
        made = Caller(server.url)
        made.sock.sendall(asking(max_tokens=count, stream_options=USAGE))
        while json.loads(page_of(server.url, b"/truth"))["answers"] == 0:
            pass  # until it has written all: what the socket did not take waits
        events, _ = events_of(made.until(b"\r\n0\r\n\r\n"))
        made.close()

    assert [event["usage"]["completion_tokens"] for event in events] == [*range(1, count + 1), count]
    assert read(tmp_path / "log.npz").held > 0


def test_several_tokens_an_event_end_with_the_rest(tmp_path):
    """Seven tokens in events of three are events of three, three and one."""
    with started(TokenSchedule(1_000_000, 1_000_000, per_event=3), tmp_path / "log.npz", life_s=60) as server:
        made = Caller(server.url)
        events, _ = events_of(made.ends(asking(max_tokens=7, stream_options=USAGE)))
        made.close()

    assert [event["usage"]["completion_tokens"] for event in events] == [3, 6, 7, 7]
    assert [event["choices"][0]["text"].count("tok") for event in events[:3]] == [3, 3, 1]


def test_it_ends_with_its_own_life(tmp_path):
    """A reference server outlives neither --life nor the stdin of a tied one."""
    with started(SCHEDULE, tmp_path / "log.npz", life_s=0.05) as server:
        made = Caller(server.url)
        told = made.until(b"never")
        made.close()

    assert told == b""
    assert len(read(tmp_path / "log.npz").read_ns) == 0


def test_one_that_cannot_start_is_an_error(tmp_path, capfd):
    """No address on stdout means that there is no server."""
    with (
        pytest.raises(EngineError, match="reference server did not start"),
        started(SCHEDULE, tmp_path / "log.npz", life_s=-1),
    ):
        pass

    assert "usage" in capfd.readouterr().err


KEYS = st.sampled_from(["max_tokens", "stream", "include_usage", "prompt", "a"])
NOISE = KEYS | st.integers() | st.lists(KEYS, max_size=3)


@given(
    st.lists(st.integers(0, 200_000), max_size=50),
    st.integers(1, 1_000_000),
    st.booleans(),
    st.booleans(),
    st.dictionaries(st.sampled_from(["user", "logit", "temperature"]), NOISE),
    st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
)
def test_a_byte_search_reads_what_json_says(prompt, tokens, stream, usage, others, separators):
    """However spaced and among whatever other values, the keys are found as a decoder finds them."""
    body = {"model": "m", "prompt": prompt, **others, "max_tokens": tokens, "stream": stream}
    body["stream_options"] = {"include_usage": usage}
    ask = parse_completion(COMPLETIONS, json.dumps(body, separators=separators).encode())

    assert (ask.shape.prompt_tokens, ask.tokens, ask.streamed, ask.usage) == (len(prompt), tokens, stream, usage)


@given(st.binary(max_size=200))
def test_a_head_is_read_or_refused(noise):
    """Any bytes with a blank line are a head that ends with it, or are refused: no other error, no wait."""
    buffer = bytearray(noise + b"\r\n\r\n")
    with contextlib.suppress(BadRequestError):
        head = parse_head(buffer)

        assert head is not None
        assert buffer[head.size - 4 : head.size] == b"\r\n\r\n"


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5))
def test_answers_share_the_events_of_their_shape(long, short, per_event):
    """Whatever answers came before, an answer's tokens add up to what was asked."""
    for tokens in (long, short):
        body = {"prompt": [1], "max_tokens": tokens, "stream": True, "stream_options": USAGE}
        ask = parse_completion(COMPLETIONS, json.dumps(body).encode())
        script = script_of(ask.shape, "m", per_event)
        while len(script.events) < script.steps(ask) - 1:
            script.grow()
        events, rest = events_of(b"".join(script.events[: script.steps(ask) - 1]) + script.last(ask))

        assert rest == b""
        assert sum(event["choices"][0]["text"].count("tok") for event in events[:-1]) == tokens
        assert events[-1]["usage"]["completion_tokens"] == tokens


@given(st.lists(st.lists(st.integers(0, 10**6), max_size=6), max_size=6))
def test_truth_is_read_as_it_was_written(tmp_path_factory, rows):
    """A log survives its file, and gaps are never taken across answers."""
    truth = GroundTruthLog(SCHEDULE)
    for number, row in enumerate(rows):
        truth.add(number, len(row), array("q", sorted(row)), ended=True)
    path = Path(tmp_path_factory.mktemp("truth")) / "log.npz"
    write(truth.sent(), path)
    sent = read(path)

    assert [list(part) for part in np.split(sent.sent_ns, sent.offsets[1:-1])] == [
        sorted(row) for row in rows
    ] or not rows
    assert list(sent.gap_ns) == [gap for row in rows for gap in np.diff(sorted(row))]
    assert list(sent.ttft_ns) == [min(row) - number for number, row in enumerate(rows) if row]
    assert sent.schedule == SCHEDULE
