"""The body of an answer and its events, each with the stamp of the read that completed it.

Pure. A body is what the framing holds, joined; of each read it is known how far into the body it
reached, so that any position leads back to its stamp. A compressed body is unpacked read by read
and keeps its stamps.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.client import http1
from harness.safety.bounds import LARGE_BYTES, MAX_ANSWER_BYTES, MAX_EVENTS

_AT_ONCE = 10_000  # chunks joined at a time, for each is an object until it is
_GZIP, _DEFLATE = ("gzip", "x-gzip"), ("deflate",)


class UnreadableError(Exception):
    """A body that cannot be unpacked; `name` is a failure's short stable name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Reads:
    """An answer's body with the way back from a position in it to the read that brought it.

    `reach` (int64, in order) is how much of the body was there after each read, `stamps` (ns) when.
    """

    __slots__ = ("body", "reach", "stamps")

    def __init__(self, body: bytes, reach: NDArray[np.int64], stamps: NDArray[np.int64]) -> None:
        self.body = body
        self.reach = reach
        self.stamps = stamps

    def stamps_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Stamp (ns) of the read that brought the byte before each position of the body."""
        return self.stamps[np.searchsorted(self.reach, positions, side="left")]

    @property
    def last_stamp(self) -> int:
        """Stamp (ns) of the last read."""
        return int(self.stamps[-1])


def reads_of(raw: bytes, body: http1.Body, ends: NDArray[np.int64], stamps: Sequence[int]) -> Reads:
    """The body of the answer `raw`; `ends` are the positions in it where each read ended."""
    whole = _joined(raw, body.starts, body.ends)
    starts = np.asarray([0, *body.starts], dtype=np.int64)
    lengths = np.asarray([0, *body.ends], dtype=np.int64) - starts
    chunk = np.searchsorted(starts, ends, side="right") - 1
    before = np.cumsum(lengths) - lengths
    reach = before[chunk] + np.minimum(np.maximum(ends - starts[chunk], 0), lengths[chunk])
    return Reads(whole, reach, np.asarray(stamps, dtype=np.int64))


def plain_reads(raw: bytes, at: int, ends: NDArray[np.int64], stamps: Sequence[int]) -> Reads | None:
    """As `reads_of`, of a whole chunked body of the plain form (see `http1.plain_chunks`) that begins at `at`."""
    plain = http1.plain_chunks(raw, at)
    if plain is None:
        return None
    sizes, chunks = plain
    count = len(chunks) + 1  # and one of no bytes, behind the last
    lengths = np.fromiter(chain(map(len, chunks), (0,)), dtype=np.int64, count=count)
    spans = np.fromiter(chain(map(len, sizes), (0,)), dtype=np.int64, count=count) + lengths + 4  # with both line ends
    before = np.cumsum(lengths) - lengths  # bytes of the body before each chunk
    begins = np.cumsum(spans) - spans + at  # where its size line begins in `raw`
    last = np.maximum(np.searchsorted(begins, ends, side="right") - 1, 0)  # the chunk that each read ended in
    over = ends - (begins + spans - lengths - 2)[last]  # how far in
    reach = before[last] + np.minimum(np.maximum(over, 0), lengths[last])
    return Reads(b"".join(chunks), reach, np.asarray(stamps, dtype=np.int64))


_EVENT_CHUNK_END, _LAST_CHUNK = b"\n\n\r\n", b"0\r\n\r\n"
_AROUND = len(b"data: ") + len(b"\n\n")


def events_in_chunks(raw: bytes, at: int) -> tuple[list[bytes], NDArray[np.int64]] | None:
    """The data of a whole chunked stream that begins at `at`, and where in `raw` each event was complete.

    None where not every event is one line of data in a chunk of its own, without extensions or trailers, as servers
    send them that write each event at once. Two splits and sizes that equal the lengths take half the time that the
    general way takes.
    """
    rest = raw[at:]
    if len(raw) >= LARGE_BYTES or not rest.endswith(_EVENT_CHUNK_END + _LAST_CHUNK):
        return None
    parts = rest.split(_EVENT_CHUNK_END)
    lines, _, datas = zip(*(part.partition(b"\r\ndata: ") for part in parts[:-1]), strict=True)
    lengths = np.fromiter(map(len, datas), dtype=np.int64, count=len(datas))
    together = b"".join(datas)
    if b"\n" in together or b"\r" in together or b"" in datas:
        return None
    if http1.plain_sizes(lines) != (lengths + _AROUND).tolist():
        return None
    size_lines = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)) + 2
    return list(datas), np.cumsum(size_lines + lengths + _AROUND + 2) + (at - 2)


def _joined(raw: bytes, starts: Sequence[int], ends: Sequence[int]) -> bytes:
    if len(raw) < LARGE_BYTES:
        return b"".join([raw[start:end] for start, end in zip(starts, ends, strict=True)])
    view, parts = memoryview(raw), []
    for at in range(0, len(starts), _AT_ONCE):
        some = zip(starts[at : at + _AT_ONCE], ends[at : at + _AT_ONCE], strict=True)
        parts.append(b"".join([view[start:end] for start, end in some]))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unpacked(reads: Reads, encoding: str) -> Reads:
    """The same body without its compression (a Content-Encoding in small letters).

    Raises:
        UnreadableError: where the encoding is not known, the bytes are not of it, or become too many.
    """
    if encoding not in (*_GZIP, *_DEFLATE):
        reason = f"the answer is compressed with {encoding[:40]}, which was not requested"
        raise UnreadableError("content_encoding", f"{reason}; turn that off at the server or proxy")
    bits = 31 if encoding in _GZIP else 15 if _has_zlib_head(reads.body) else -15
    stream, parts, size, at = zlib.decompressobj(bits), [], 0, 0
    reach = np.zeros(len(reads.reach), dtype=np.int64)
    try:
        for number, end in enumerate(reads.reach.tolist()):
            part = stream.decompress(reads.body[at:end], MAX_ANSWER_BYTES - size + 1) if end > at else b""
            size, at = size + len(part), end
            if size > MAX_ANSWER_BYTES:
                raise UnreadableError("too_long", f"the answer unpacks to more than {MAX_ANSWER_BYTES >> 20} MiB")
            parts.append(part)
            reach[number] = size
    except zlib.error as fault:
        raise UnreadableError("content_encoding", f"the answer is not {encoding} as its head says: {fault}") from None
    return Reads(b"".join(parts), reach, reads.stamps)


def _has_zlib_head(body: bytes) -> bool:
    """Whether a `deflate` body begins as RFC 1950 says; many servers send the bare stream of RFC 1951."""
    return len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0


DONE = b"[DONE]"
_LINE_FEED = 10
BOM = b"\xef\xbb\xbf"
_EVENT_END = re.compile(rb"((?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r))[\r\n]*")
_LINE = re.compile(rb"([^\r\n]+)(?:\r\n|\n|\r|$)")
_STREAM_BEGIN = re.compile(rb"\s*(?:(?:data|event|id|retry|error)\s*:|:)")

Batch = tuple[list[bytes], NDArray[np.int64], bool]  # data, their ends in the body, and whether the last is a tail
DataEnds = list[tuple[bytes, int]]  # data, and the position in the body where it was complete


def begins_as_stream(body: bytes) -> bool:
    """Whether a body (without its byte order mark) begins with a field or a comment of an event stream."""
    return _STREAM_BEGIN.match(body, 0, LARGE_BYTES) is not None


def batches(body: bytes, start: int) -> Iterator[Batch]:
    """The data of a stream's events from `start` on, about LARGE_BYTES of the stream at a time.

    Yields the data of some events, the position in the body where each was complete, and whether
    the last of them is a tail without its blank line. Events without data are left out.
    """
    while start < len(body):
        cut = _EVENT_END.search(body, start + LARGE_BYTES) if start + LARGE_BYTES < len(body) else None
        stop = cut.end() if cut else len(body)
        piece = body if (start, stop) == (0, len(body)) else body[start:stop]
        yield _events(piece, start)
        start = stop


def _events(piece: bytes, offset: int) -> Batch:
    return _plain_events(piece, offset) or _odd_events(piece, offset)


def _plain_events(piece: bytes, offset: int) -> Batch | None:
    """The events where each is one line of data and a blank line, as nearly all are; None where any is not."""
    blank = b"\r\n\r\n" if piece.endswith(b"\r\n\r\n") else b"\n\n"
    if not (piece.startswith(b"data: ") and piece.endswith(blank)):
        return None
    datas = piece[6 : -len(blank)].split(blank + b"data: ")
    line_ends = np.count_nonzero(np.frombuffer(piece, dtype=np.uint8) == _LINE_FEED)
    returns = piece.count(b"\r") if b"\r" in piece else 0
    if line_ends != 2 * len(datas) or returns != (len(blank) - 2) * len(datas) or b"" in datas:
        return None
    ends = np.cumsum(np.fromiter(map(len, datas), dtype=np.int64, count=len(datas)) + (6 + len(blank)))
    return datas, ends + offset if offset else ends, False


def _odd_events(piece: bytes, offset: int) -> Batch:
    complete: DataEnds = []
    start = 0
    for match in _EVENT_END.finditer(piece):
        complete += _data(piece[start : match.start()], offset + start, offset + match.end(1))
        start = match.end()
    last = _data(piece[start:], offset + start, offset + len(piece))
    complete += last
    return [data for data, _ in complete], np.asarray([end for _, end in complete], dtype=np.int64), bool(last)


def _data(block: bytes, start: int, end: int) -> DataEnds:
    """What one raw event carries: nothing, its data, or several where single line ends part them.

    It begins at `start` in the body, and was complete at `end`.

    Raises:
        UnreadableError: where it has more lines than an answer may have events.
    """
    if block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block:
        return [(block[6:].strip(), end)] if block[6:].strip() else []
    datas: DataEnds = []
    errors, name = [], b""
    for number, line in enumerate(_LINE.finditer(block)):
        if number > MAX_EVENTS:
            raise UnreadableError("too_long", f"an event has more than {MAX_EVENTS} lines")
        text, at = line[1].strip(), start + line.end()
        field, _, value = text.partition(b":")
        field, value = field.rstrip().lower(), value.strip()
        if text.startswith(b"{"):  # a bare JSON line amid the events
            datas.append((text, at))
        elif field == b"data" and value:
            datas.append((value, at))
        elif field == b"event":
            name = value
        elif field == b"error":
            errors.append(value)
    whole = b"\n".join(data for data, _ in datas)
    if errors or (name == b"error" and datas):
        return [(_as_error(b"\n".join(errors) or whole), end)]
    if len(datas) > 1 and not _is_json(whole):
        return [*datas[:-1], (datas[-1][0], end)]
    return [(whole, end)] if whole else []


def _is_json(data: bytes) -> bool:
    """Whether several lines are one JSON value; events parted by single line ends are not."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return True


def _as_error(words: bytes) -> bytes:
    """An error told by the stream itself, in the form that errors have as data."""
    data = words if _is_json(words) else msgspec.json.encode(words.decode("utf-8", "replace"))
    return b'{"error": ' + data + b"}"
