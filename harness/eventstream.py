"""Where are the events of an event stream, and what data does each carry?

Pure. WHATWG event streams, read as leniently as servers write them: any line end, a last event
without its blank line, events parted by single line ends, errors as a field or an event of their
own. Long streams are cut into batches, so that what is decoded at a time stays small.
"""

import re
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.bodies import UnreadableError
from harness.bounds import LARGE_BYTES, MAX_EVENTS

DONE = b"[DONE]"
BOM = b"\xef\xbb\xbf"
_EVENT_END = re.compile(rb"((?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r))[\r\n]*")
_LINE = re.compile(rb"([^\r\n]+)(?:\r\n|\n|\r|$)")
_STREAM_BEGIN = re.compile(rb"\s*(?:(?:data|event|id|retry|error)\s*:|:)")

Batch = tuple[list[bytes], NDArray[np.int64], bool]  # data, their ends in the body, and whether the last is a tail
Found = list[tuple[bytes, int]]  # data, and the position in the body where it was complete


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
    if piece.count(b"\n") != 2 * len(datas) or piece.count(b"\r") != (len(blank) - 2) * len(datas) or b"" in datas:
        return None
    ends = np.cumsum(np.fromiter(map(len, datas), dtype=np.int64, count=len(datas)) + (6 + len(blank)))
    return datas, ends + offset if offset else ends, False


def _odd_events(piece: bytes, offset: int) -> Batch:
    found: Found = []
    start = 0
    for match in _EVENT_END.finditer(piece):
        found += _data(piece[start : match.start()], offset + start, offset + match.end(1))
        start = match.end()
    last = _data(piece[start:], offset + start, offset + len(piece))
    found += last
    return [data for data, _ in found], np.asarray([end for _, end in found], dtype=np.int64), bool(last)


def _data(block: bytes, start: int, end: int) -> Found:
    """What one raw event carries: nothing, its data, or several where single line ends part them.

    It begins at `start` in the body, and was complete at `end`.

    Raises:
        UnreadableError: where it has more lines than an answer may have events.
    """
    if block.startswith(b"data: ") and b"\n" not in block and b"\r" not in block:
        return [(block[6:].strip(), end)] if block[6:].strip() else []
    datas: Found = []
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
    told = words if _is_json(words) else msgspec.json.encode(words.decode("utf-8", "replace"))
    return b'{"error": ' + told + b"}"
