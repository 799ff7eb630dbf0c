"""Where does an HTTP/1.1 answer begin, how is it framed, and where does it end?

Pure: bytes in, values out. The wire client asks only for the end; the decoder walks the
framing again, in full, after the answer is complete (RFC 9112).
"""

from dataclasses import dataclass

LENGTH = "length"
CHUNKED = "chunked"
CLOSE = "close"  # the body ends where the connection does

_MAX_HEAD = 65_536


class BadHttpError(Exception):
    """The bytes are no HTTP/1.1 answer."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and the headers that decide where the body ends.

    `size` is the length of the head in bytes, its blank line included; `encoding` how the body is
    compressed, empty where it is not.
    """

    status: int
    framing: str
    length: int
    keep_alive: bool
    content_type: str
    size: int
    encoding: str = ""


def parse_head(raw: bytes) -> Head | None:
    """The head at the start of `raw`, or None while its blank line has not arrived.

    Raises:
        BadHttpError: where the bytes cannot become an HTTP/1.x head.
    """
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        if not raw.startswith(b"HTTP/1."[: len(raw)]) or len(raw) > _MAX_HEAD:
            raise BadHttpError(f"not an HTTP/1.1 answer: {printable(raw[:60])}")
        return None
    lines = raw[:end].split(b"\r\n")
    headers = _headers(lines[1:])
    status, version = _status_line(lines[0])
    framing, length = _framing(status, headers)
    connection = headers.get(b"connection", b"").lower()
    keep_alive = b"close" not in connection and (version == b"HTTP/1.1" or b"keep-alive" in connection)
    content_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    encoding = "" if encoding == "identity" else encoding
    return Head(status, framing, length, keep_alive and framing != CLOSE, content_type, end + 4, encoding)


def _status_line(line: bytes) -> tuple[int, bytes]:
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise BadHttpError(f"not an HTTP/1.1 status line: {printable(line[:60])}")
    return int(parts[1]), parts[0]


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _framing(status: int, headers: dict[bytes, bytes]) -> tuple[str, int]:
    if status < 200 or status in (204, 304):
        return LENGTH, 0
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return CHUNKED, 0
    length = headers.get(b"content-length")
    if length is None:
        return CLOSE, 0
    if not length.isdigit():
        raise BadHttpError(f"content-length is not a number: {printable(length[:40])}")
    return LENGTH, int(length)


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an answer as slices of its raw bytes.

    `starts` and `ends` are positions in the raw bytes, one pair a chunk; `complete` says
    whether the framing's end was seen, `end` where the answer ends.
    """

    starts: list[int]
    ends: list[int]
    complete: bool
    end: int


def body_of(raw: bytes, head: Head) -> Body:
    """The body that follows `head` in `raw`, as far as it has arrived.

    Raises:
        BadHttpError: where a chunk's size line is malformed.
    """
    if head.framing == CHUNKED:
        return _plain_chunks(raw, head.size) or _chunks(raw, head.size)
    wanted = head.size + head.length if head.framing == LENGTH else len(raw)
    end = min(wanted, len(raw))
    return Body([head.size], [end], head.framing == LENGTH and len(raw) >= wanted, end)


def _plain_chunks(raw: bytes, at: int) -> Body | None:
    """A whole chunked body without extensions, trailers, or line ends inside its chunks; None where it is not so.

    Nearly every event stream is of this form, and splitting at line ends reads it three times as
    fast as a walk from size line to size line. Sizes that equal the lengths prove the form.
    """
    parts = raw[at:].split(b"\r\n")
    if len(parts) % 2 == 0 or parts[-3:] != [b"0", b"", b""]:
        return None
    sizes, lengths = parts[0:-3:2], list(map(len, parts[1:-3:2]))
    try:
        if [int(size, 16) for size in sizes] != lengths:
            return None
    except ValueError:
        return None
    starts, ends = [], []
    for size, length in zip(sizes, lengths, strict=True):
        start = at + len(size) + 2
        at = start + length
        starts.append(start)
        ends.append(at)
        at += 2
    return Body(starts, ends, complete=True, end=len(raw))


def _chunks(raw: bytes, at: int) -> Body:
    starts: list[int] = []
    ends: list[int] = []
    find, total = raw.find, len(raw)
    while True:
        line_end = find(b"\r\n", at)
        if line_end < 0:
            return Body(starts, ends, complete=False, end=total)
        size = _chunk_size(raw[at:line_end])
        start = line_end + 2
        if size == 0:
            return _after_last_chunk(raw, line_end, Body(starts, ends, complete=False, end=total))
        starts.append(start)
        if start + size + 2 > total:
            ends.append(min(start + size, total))
            return Body(starts, ends, complete=False, end=total)
        ends.append(start + size)
        at = start + size + 2
        if raw[at - 2 : at] != b"\r\n":
            raise BadHttpError("a chunk is longer than its size line says")


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise BadHttpError(f"not a chunk size: {printable(line[:40])}") from None


def _after_last_chunk(raw: bytes, size_line_end: int, body: Body) -> Body:
    """The end of trailers: the first blank line at or after the last chunk's size line."""
    end = raw.find(b"\r\n\r\n", size_line_end)
    return body if end < 0 else Body(body.starts, body.ends, complete=True, end=end + 4)


def printable(raw: bytes) -> str:
    """Bytes as one line of text for a message."""
    return repr(raw.decode("utf-8", "replace"))
