"""Which bytes of an answer's body came when, and what were they before a proxy compressed them?

Pure. A body is what the framing holds, joined; of each read it is known how far into the body it
reached, so that any position leads back to its stamp. A compressed body is unpacked read by read
and keeps its stamps.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness import http1
from harness.bounds import LARGE_BYTES, MAX_ANSWER_BYTES

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
        told = f"the answer is compressed with {encoding[:40]}, which was not asked for"
        raise UnreadableError("content_encoding", f"{told}; turn that off at the server or proxy")
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
