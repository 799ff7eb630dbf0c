"""The framing of HTTP/1.1 answers, as RFC 9112 has it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.client import event_stream, http1

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def head(*lines, status="200 OK", version="1.1"):
    """A head of some header lines."""
    return f"HTTP/{version} {status}\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode()


@pytest.mark.parametrize(
    ("raw", "framing", "length", "keep_alive"),
    [
        (head("Content-Length: 12"), http1.LENGTH, 12, True),
        (head("transfer-encoding: Chunked"), http1.CHUNKED, 0, True),
        (head("Transfer-Encoding: chunked", "Content-Length: 5"), http1.CHUNKED, 0, True),
        (head("Content-Length: 5, 5", "content-length: 5"), http1.LENGTH, 5, True),
        (head("X: a", " b", "Content-Length: 5"), http1.LENGTH, 5, True),
        (head("Content-Length: 12").replace(b"\r\n", b"\n"), http1.LENGTH, 12, True),
        (head("Content-Length: 12", "Connection: close"), http1.LENGTH, 12, False),
        (head("Content-Length: 12", version="1.0"), http1.LENGTH, 12, False),
        (head("Content-Length: 1", "Connection: keep-alive", version="1.0"), http1.LENGTH, 1, True),
        (head(), http1.CLOSE, 0, False),
        (head(status="204 No Content"), http1.LENGTH, 0, True),
        (head("Transfer-Encoding: chunked", status="100 Continue"), http1.LENGTH, 0, True),
    ],
)
def test_headers_decide_the_framing(raw, framing, length, keep_alive):
    """Chunked stands above a length, 1xx and 204 have no body, and without either the connection's end is the end."""
    found = http1.parse_head(raw)

    assert (found.framing, found.length, found.keep_alive, found.size) == (framing, length, keep_alive, len(raw))


@given(st.integers(0, 60))
def test_a_head_that_is_cut_is_not_yet_a_head(cut):
    """Any proper prefix of a head is None, not an error."""
    raw = head("Content-Length: 12", "Content-Type: text/html; charset=utf-8")

    assert http1.parse_head(raw[: min(cut, len(raw) - 1)]) is None
    assert http1.parse_head(raw).content_type == "text/html"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH",
        b"<html>",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"\x16\x03\x01",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11_000,
        head(status="101 Switching Protocols"),
        head("Content-Length: ten"),
        head("Content-Length: -1"),
        head(f"Content-Length: {'9' * 5000}"),
        head("Content-Length: 5", "Content-Length: 6"),
        head("Transfer-Encoding: gzip, chunked"),
        head("no colon"),
        head("blank : 1"),
    ],
)
def test_what_is_not_http_is_told(raw):
    """Other protocols on the port, and broken heads, are errors with the bytes shown."""
    with pytest.raises(http1.BadHttpError):
        http1.parse_head(raw)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
def test_chunks_join_to_the_body(parts, trailer):
    """The slices of a chunked body are its parts, whatever bytes they hold, and the end is after the trailers."""
    raw = CHUNKED + b"".join(b"%X;ext=1\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"
    body = http1.body_of(raw + b"HTTP/1.1 next", http1.parse_head(raw))

    assert [raw[start:end] for start, end in zip(body.starts, body.ends, strict=True)] == parts
    assert (body.complete, body.end) == (True, len(raw))


@given(st.lists(st.sampled_from([b"ab", b"\r\n", b"0\r\n\r\n", b"2\r\nxy\r\n", b"a\n\n"]), max_size=6))
def test_the_quick_way_and_the_walk_agree(parts):
    """Where the quick reading of chunks gives an answer, it is the one that the walk gives."""
    raw = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    quick = http1._plain_body(raw, len(CHUNKED))

    assert quick in (None, http1._chunks(raw, len(CHUNKED)))
    assert quick is not None or any(b"\r\n" in part for part in parts)


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_a_cut_chunked_body_is_incomplete_and_a_prefix(parts, data):
    """Cut anywhere, a chunked body is incomplete and what it gives is a prefix of the whole."""
    raw = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    cut = data.draw(st.integers(len(CHUNKED), len(raw) - 1))
    body = http1.body_of(raw[:cut], http1.parse_head(raw))

    assert not body.complete
    assert b"".join(parts).startswith(b"".join(raw[:cut][s:e] for s, e in zip(body.starts, body.ends, strict=True)))


BROKEN_SIZES = [b"-2", b"-0", b"+2", b"0x2", b" 2", b"1_0", b"", b"2" * 21, b"2;" + b"x" * 20_000]


@pytest.mark.parametrize("size", [b"zz", *BROKEN_SIZES])
def test_broken_chunk_sizes_are_told(size):
    """A size that is no plain hexadecimal number is an error, never a way back: a negative one went round for ever."""
    tail = size + b"\r\nab\r\n0\r\n\r\n"
    with pytest.raises(http1.BadHttpError):
        http1.body_of(CHUNKED + tail, http1.parse_head(CHUNKED))
    with pytest.raises(http1.BadHttpError):
        http1.ChunkWalk().feed(tail)


def test_a_chunk_longer_than_its_size_is_told():
    """What follows a chunk is a line end."""
    with pytest.raises(http1.BadHttpError):
        http1.body_of(CHUNKED + b"2\r\nabc\r\n", http1.parse_head(CHUNKED))


def test_interim_answers_are_passed_over_up_to_a_bound():
    """The final head begins where the interim ones end; a server that sends only those is told so."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    raw = interim * 3 + head("Content-Length: 2") + b"{}"
    found = http1.final_head(raw)

    assert (found.status, raw[found.size :]) == (200, b"{}")
    assert http1.final_head(interim * 3) is None
    with pytest.raises(http1.BadHttpError, match="interim"):
        http1.final_head(interim * 18)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.sampled_from([b"", b"X-T: 1\r\n"]),
    st.binary(max_size=6), st.lists(st.integers(0, 400), max_size=12),
)  # fmt: skip
def test_the_walk_finds_the_same_end_in_any_pieces(parts, trailer, beyond, cuts):
    """Fed piece by piece, the end of a chunked body is found with its last byte, and what is beyond is counted."""
    raw = b"".join(b"%x;e\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"
    places = [0, *sorted(min(cut, len(raw) - 1) for cut in cuts), len(raw)]
    walk = http1.ChunkWalk()
    found = [walk.feed(raw[a:b] + (beyond if b == len(raw) else b"")) for a, b in itertools.pairwise(places)]

    assert (found[:-1], found[-1]) == ([None] * (len(found) - 1), len(beyond))


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.data())
def test_reads_lead_to_the_same_bytes_by_the_quick_way_and_by_the_walk(parts, data):
    """Wherever an answer was cut into reads, each reaches equally far into the body by either way."""
    raw = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    cuts = data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=6)) | {len(raw)}
    ends, stamps = np.asarray(sorted(cuts), dtype=np.int64), list(range(len(cuts)))
    quick = event_stream.plain_reads(raw, len(CHUNKED), ends, stamps)
    walked = event_stream.reads_of(raw, http1.Body(*chunk_places(parts), complete=True, end=len(raw)), ends, stamps)

    assert quick is not None or any(b"\r\n" in part for part in parts)
    if quick is not None:
        assert quick.body == walked.body == b"".join(parts)
        assert quick.reach.tolist() == walked.reach.tolist()


def chunk_places(parts):
    """Where the chunks of a body begin and end in the raw bytes."""
    starts, ends, at = [], [], len(CHUNKED)
    for part in parts:
        starts.append(at + len(b"%x\r\n" % len(part)))
        ends.append(starts[-1] + len(part))
        at = ends[-1] + 2
    return starts, ends
