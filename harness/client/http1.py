"""HTTP/1.1 answers: where one begins, how it is framed, and where it ends.

Pure: bytes in, values out. The transport asks only for the end; the decoder walks the
framing again, in full, after the answer is complete (RFC 9112).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.safety import bounds
from harness.safety.redaction import redact

LENGTH = "length"
CHUNKED = "chunked"
CLOSE = "close"  # the body ends where the connection does

_BLANK_LINE = re.compile(rb"\n\r?\n")  # a lone line feed ends a line too (RFC 9112 section 2.2)
_LINE_END = re.compile(rb"\r?\n")
_STATUS = re.compile(rb"(HTTP/1\.[0-9]) ([1-9][0-9]{2})(?: [^\x00\n\r\v\f]*)?")
_FIELD = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+):[ \t]*((?:[^\x00\t-\r ]+(?:[ \t]+[^\x00\t-\r ]+)*)?)[ \t]*")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;[^\n]*)?")
_HEX = b"0123456789ABCDEFabcdef"
_SIZE_DIGITS = 12
_KEPT_SIZES = 4096
_USUAL_HEAD_BYTES = 8192


class BadHttpError(Exception):
    """The bytes are no HTTP/1.1 answer."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status line and the headers that decide how the body is read.

    `size` is where the body begins: the length of the head in bytes, its blank line and interim
    answers before it included. `encoding` is the Content-Encoding, "" for none; `location` is where
    a redirect points.
    """

    status: int
    framing: str
    length: int
    keep_alive: bool
    content_type: str
    size: int
    encoding: str = ""
    location: str = ""
    simulated: bool = False


def usual_head(raw: bytes) -> ResponseHead | None:
    """As `final_head`; equal heads are parsed once, for a server sends few different ones.

    Raises:
        BadHttpError: likewise.
    """
    end = raw.find(b"\r\n\r\n", 0, _USUAL_HEAD_BYTES) + 4
    head = _head_alone(raw[:end]) if end >= 4 else None
    return head if head is not None and head.size == end else final_head(raw)


@lru_cache(maxsize=256)
def _head_alone(raw: bytes) -> ResponseHead | None:
    return final_head(raw)


def final_head(raw: bytes) -> ResponseHead | None:
    """The head of the answer at the start of `raw`, interim (1xx) ones passed over; None while it is not all there.

    Raises:
        BadHttpError: where the bytes cannot become an HTTP/1.x head, or it is too long.
    """
    at = 0
    for _ in range(bounds.INTERIM_HEADS + 1):
        head = parse_head(raw, at)
        if head is None or head.status >= 200:
            return head
        at = head.size
        if at == len(raw):
            return None
    raise BadHttpError(f"over {bounds.INTERIM_HEADS} interim answers (1xx) before the answer")


def parse_head(raw: bytes, at: int = 0) -> ResponseHead | None:
    """The head that begins at `at` in `raw`, or None while its blank line has not arrived.

    Raises:
        BadHttpError: where the bytes cannot become an HTTP/1.x head, or it is too long.
    """
    match = _BLANK_LINE.search(raw, at, at + bounds.HEAD_BYTES)
    if match is None:
        if not raw.startswith(b"HTTP/1."[: len(raw) - at], at):
            raise BadHttpError(f"not an HTTP/1.1 answer: {printable(raw[at : at + bounds.HEAD_BYTES], 60)}")
        if len(raw) - at >= bounds.HEAD_BYTES:
            raise BadHttpError(f"the head passed {bounds.HEAD_BYTES >> 10} KiB without an end")
        return None
    first, *lines = _LINE_END.split(raw[at : match.start()].removesuffix(b"\r"))
    status, version = _status_line(first)
    headers = _headers(lines)
    framing, length = _framing(status, headers)
    connection = headers.get(b"connection", b"").lower()
    keep_alive = b"close" not in connection and (version == b"HTTP/1.1" or b"keep-alive" in connection)
    return ResponseHead(
        status,
        framing,
        length,
        keep_alive and framing != CLOSE,
        _text(headers, b"content-type").partition(";")[0].strip().lower(),
        match.end(),
        encoding=_text(headers, b"content-encoding").lower().replace("identity", ""),
        location=_text(headers, b"location"),
        simulated=headers.get(b"x-npu-harness-simulated") == b"1",
    )


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")


def _status_line(line: bytes) -> tuple[int, bytes]:
    match = _STATUS.fullmatch(line)
    if match is None:
        raise BadHttpError(f"not an HTTP/1.1 status line: {printable(line, 60)}")
    status = int(match[2])
    if status == 101:
        raise BadHttpError("the server switches protocols (101), which nobody asked for")
    return status, match[1]


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Fields by lower-case name; the values of one that stands several times are joined by commas."""
    fields: dict[bytes, bytes] = {}
    for line in _unfolded(lines):
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadHttpError(f"not a header: {printable(line, 60)}")
        name = match[1].lower()
        fields[name] = fields[name] + b", " + match[2] if name in fields else match[2]
    return fields


def _unfolded(lines: list[bytes]) -> list[bytes]:
    """Header lines; one that begins with blanks goes on with the line before it (RFC 9112 section 5.2)."""
    whole: list[bytes] = []
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            whole.append(line)
        elif not whole:
            raise BadHttpError(f"not a header: {printable(line, 60)}")
        else:
            whole[-1] += b" " + line.lstrip(b" \t")
    return whole


def _framing(status: int, headers: dict[bytes, bytes]) -> tuple[str, int]:
    length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    size = None if length is None else _content_length(length)
    if coding is not None and coding.lower() != b"chunked":
        raise BadHttpError(f"transfer-encoding {printable(coding, 40)} is not read; expected chunked")
    if status < 200 or status in (204, 304):
        return LENGTH, 0
    if coding is not None:
        return CHUNKED, 0
    return (CLOSE, 0) if size is None else (LENGTH, size)


def _content_length(fields: bytes) -> int:
    """The one length that is told, however often it is (RFC 9112 section 6.3)."""
    lengths = {part.strip() for part in fields.split(b",")}
    length = lengths.pop()
    if lengths:
        raise BadHttpError(f"several content-lengths: {printable(fields, 40)}")
    if not length.isdigit() or len(length) > bounds.LENGTH_DIGITS:
        raise BadHttpError(f"content-length is not a number of bytes: {printable(length, 40)}")
    return int(length)


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


def body_of(raw: bytes, head: ResponseHead) -> Body:
    """The body that follows `head` in `raw`, as far as it has arrived.

    Raises:
        BadHttpError: where a chunk's size line is malformed.
    """
    if head.framing == CHUNKED:
        return _plain_body(raw, head.size) or _chunks(raw, head.size)
    wanted = head.size + head.length if head.framing == LENGTH else len(raw)
    end = min(wanted, len(raw))
    return Body([head.size], [end], head.framing == LENGTH and len(raw) >= wanted, end)


_sizes: dict[bytes, int] = {}  # what plain size lines say, each worked out once


def plain_sizes(lines: Sequence[bytes]) -> list[int | None]:
    """What plain size lines say; -1 of one that is none, or that ends the body."""
    sizes = list(map(_sizes.get, lines))
    if None in sizes:
        if len(_sizes) > _KEPT_SIZES:
            _sizes.clear()
        for line in set(lines):
            digits = line and len(line) < _SIZE_DIGITS and not line.strip(_HEX)  # int() would take signs and blanks too
            _sizes[line] = (int(line, 16) or -1) if digits else -1
        sizes = list(map(_sizes.get, lines))
    return sizes


def plain_chunks(raw: bytes, at: int) -> tuple[list[bytes], list[bytes]] | None:
    """Size lines and chunks of a whole chunked body that begins at `at`; None where it is not of the plain form.

    That is without extensions, trailers, or line ends (CRLF) inside its chunks. Nearly every event stream is of
    this form, and splitting at line ends reads it several times as fast as a walk from size line to size line.
    Sizes that equal the lengths prove the form.
    """
    if len(raw) >= bounds.LARGE_BYTES:  # its pieces take much room
        return None
    parts = raw[at:].split(b"\r\n")
    if len(parts) % 2 == 0 or parts[-3:] != [b"0", b"", b""]:
        return None
    sizes, chunks = parts[0:-3:2], parts[1:-3:2]
    return (sizes, chunks) if plain_sizes(sizes) == list(map(len, chunks)) else None


def _plain_body(raw: bytes, at: int) -> Body | None:
    plain = plain_chunks(raw, at)
    if plain is None:
        return None
    starts, ends = [], []
    for size, chunk in zip(*plain, strict=True):
        start = at + len(size) + 2
        at = start + len(chunk)
        starts.append(start)
        ends.append(at)
        at += 2
    return Body(starts, ends, complete=True, end=len(raw))


def _chunks(raw: bytes, at: int) -> Body:
    starts: list[int] = []
    ends: list[int] = []
    total = len(raw)
    while True:
        line = _size_line(raw, at)
        if line is None:
            return Body(starts, ends, complete=False, end=total)
        size, start = line
        if size == 0:
            end = _end_of_trailers(raw, start - 2)
            return Body(starts, ends, complete=end is not None, end=total if end is None else end)
        starts.append(start)
        if len(starts) > bounds.MAX_CHUNKS:
            raise BadHttpError(f"the answer has more than {bounds.MAX_CHUNKS} chunks")
        at = start + size
        ends.append(min(at, total))
        if not b"\r\n".startswith(raw[at : at + 2]):
            raise BadHttpError("a chunk is longer than its size line says")
        at += 2
        if at > total:
            return Body(starts, ends, complete=False, end=total)


def _size_line(raw: bytes, at: int) -> tuple[int, int] | None:
    """The size that the line at `at` tells, and where its chunk begins; None while the line is not all there."""
    end = raw.find(b"\r\n", at, at + bounds.CHUNK_LINE_BYTES)
    if end < 0:
        if len(raw) - at >= bounds.CHUNK_LINE_BYTES:
            raise BadHttpError(f"a chunk's size line passed {bounds.CHUNK_LINE_BYTES >> 10} KiB without an end")
        return None
    match = _SIZE.fullmatch(raw, at, end)
    if match is None:
        raise BadHttpError(f"not a chunk size: {printable(raw[at:end], 40)}")
    return int(match[1], 16), end + 2


def _end_of_trailers(raw: bytes, at: int) -> int | None:
    """Where the trailers end whose first line end is at `at`; None while their blank line is not there."""
    end = raw.find(b"\r\n\r\n", at, at + bounds.HEAD_BYTES)
    if end < 0:
        if len(raw) - at >= bounds.HEAD_BYTES:
            raise BadHttpError(f"the trailers passed {bounds.HEAD_BYTES >> 10} KiB without an end")
        return None
    if end > at:
        _headers(raw[at + 2 : end].split(b"\r\n"))
    return end + 4


class ChunkWalk:
    """Finds the end of a chunked body whose bytes come piece by piece; each is looked at about once."""

    __slots__ = ("_rest", "_skip")

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0  # bytes to come of the chunk under way, with the line end after it

    def feed(self, raw: bytes) -> int | None:
        """Take in more bytes; how many lie beyond the end once that was seen, None before.

        Raises:
            BadHttpError: where a size line or a trailer is malformed.
        """
        raw, at = self._rest + raw, 0
        while True:
            at, self._skip = at + self._skip, 0
            if at > len(raw):
                self._rest, self._skip = b"", at - len(raw)
                return None
            line = _size_line(raw, at)
            if line is None:
                self._rest = raw[at:]
                return None
            size, start = line
            if size == 0:
                end = _end_of_trailers(raw, start - 2)
                self._rest = raw[at:]
                return None if end is None else len(raw) - end
            at, self._skip = start, size + 2


def printable(raw: bytes, most: int) -> str:
    """The first characters of foreign bytes for a message; secrets go before the cut, which would hide a half."""
    return repr(redact(raw.decode("utf-8", "replace"))[:most])
