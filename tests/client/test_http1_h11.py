"""Our reader of HTTP/1.1 accepts and refuses what another implementation of it (h11) does."""

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from harness.client import http1

LINES = [
    b"Content-Length: 5", b"content-length: 5, 5", b"Content-Length: 6", b"Content-Length: -1", b"Content-Length: 5x",
    b"Content-Length: " + b"9" * 30, b"Content-Length:", b"Transfer-Encoding: chunked", b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: gzip", b"X: y", b"X:", b"X : y", b": y", b"no colon", b" folded", b"X: a\x00b", b"X: \xe9",
    b"X: a\tb \t", b"Connection: close", b"X\xe9: y", b"X: a\x0bb",
]  # fmt: skip
STARTS = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304 Not",
    b"HTTP/1.1 500 \xe9rror", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK",
    b"HTTP/1.1 100 Continue", b"HTTP/1.1 099 No", b"HTTP/1.1 200 a\x00b", b"HTTP/x.1 200 OK",
]  # fmt: skip
BODIES = [
    b"hello", b"hell", b"hello!", b"", b"5\r\nhello\r\n", b"5;e=1\r\nhello\r\n", b"-5\r\nhello\r\n", b"+5\r\nhello\r\n",
    b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n", b" 5\r\nhello\r\n", b"1_0\r\nhello\r\n", b"00005\r\nhello\r\n",
    b"5\r\nhelloo\r\n",
    b"4\r\nhello\r\n", b"\r\n", b"A\r\n0123456789\r\n", b"0\r\n", b"0\r\n\r\n", b"X: y\r\n\r\n", b"no colon\r\n\r\n",
    b"0\r\nT: 1\r\n\r\n",
    b"f" * 21 + b"\r\n",
]  # fmt: skip
REFUSED, OPEN, WHOLE = "refused", "open", "whole"


def theirs(raw, *, closed):
    """What h11 makes of the bytes: how they end, the status, and the body as far as it came."""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    peer.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        peer.receive_data(raw)
        if closed and raw:
            peer.receive_data(b"")
        while True:
            event = peer.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return WHOLE, status, body
            elif event in (h11.NEED_DATA, h11.PAUSED):
                return OPEN, status, body
    except h11.RemoteProtocolError:
        return REFUSED, 0, b""


def ours(raw, *, closed):
    """The same of ours; what the connection's end makes whole is whole where it is closed."""
    try:
        head = http1.final_head(raw)
        if head is None:
            return (REFUSED if closed else OPEN), 0, b""
        body = http1.body_of(raw, head)
    except http1.BadHttpError:
        return REFUSED, 0, b""
    said = b"".join(raw[a:b] for a, b in zip(body.starts, body.ends, strict=True))
    whole = body.complete or (closed and head.framing == http1.CLOSE)
    return (WHOLE if whole else REFUSED if closed else OPEN), *(
        (head.status, said) if whole or not closed else (0, b"")
    )


@given(
    st.sampled_from(STARTS), st.lists(st.sampled_from(LINES), max_size=4), st.sampled_from([b"\r\n", b"\n"]),
    st.lists(st.sampled_from(BODIES), max_size=5), st.integers(0, 200), st.booleans(),
)  # fmt: skip
@example(STARTS[0], [LINES[7]], b"\r\n", [b"-5\r\nhello\r\n"], 200, False)
def test_answers_are_read_as_h11_reads_them(start, lines, line_end, bodies, cut, closed):
    """Accepted or refused alike, with the same status and body, cut anywhere, with the connection open or closed.

    Where ours refuses what h11 still waits for, h11 refuses it as well once all is there.
    """
    whole = line_end.join([start, *lines, b"", b""]) + b"".join(bodies)
    raw = whole[:cut]
    if not raw:
        return
    mine, other = ours(raw, closed=closed), theirs(raw, closed=closed)

    if mine[0] == REFUSED and other[0] == OPEN:
        mine, other = ours(whole, closed=True), theirs(whole, closed=True)
    assert mine == other
