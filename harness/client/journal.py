"""The journal of a run: what was sent and what came back, whole even if a process is killed the next instant.

A table in a memory-mapped file: a row is written at every send, costs about a microsecond, and
is in the kernel's hands at once, so that it outlives SIGKILL. Together with the journal of answers
it accounts for every request.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.client.connection import InFlightRequest
from harness.errors import ResultError
from harness.messages import message
from harness.safety.redaction import blank_secrets, redact

ROW = np.dtype(
    [
        ("written", "<i2"),
        ("request_class", "<i2"),
        ("stage", "<i4"),
        ("repeat", "<i4"),
        ("turn", "<i4"),
        ("measured", "<i4"),
        ("input_asked", "<i4"),
        ("output_asked", "<i4"),
        ("sent_bytes", "<i4"),
        ("session", "<i8"),
        ("due_ns", "<i8"),
        ("ready_ns", "<i8"),
        ("sent_ns", "<i8"),
    ]
)
_PACK = struct.Struct("<2h7i4q")
PRIMING_ROW = 2  # of `measured`: neither measured (1) nor warm-up (0)
# The most of each, so that no other file is taken for one.
_MOST = {"request_class": 2**15, "stage": 10**6, "repeat": 10**6, "turn": 10**6, "measured": PRIMING_ROW}
_ROWS_A_GROWTH = 65_536  # times 64 bytes: a multiple of every page size


def journals_of(raw: Path, number: int) -> tuple[Path, Path]:
    """The two files of a worker: what it sent, and what came back. Their names are those of the first version."""
    return raw / f"ledger-{number}.bin", raw / f"spool-{number}.bin"


def worker_journals(raw: Path) -> list[tuple[Path, Path]]:
    """The files of every worker that began, in the order of their numbers."""
    return [journals_of(raw, number) for number in range(len(list(raw.glob("ledger-*.bin"))))]


def answer_journals(raw: Path) -> list[Path]:
    """The files of answers that there are."""
    return sorted(raw.glob("spool-*.bin"))


class SentJournal:
    """The growing table of one worker; row number = the request's `seq`.

    Times are absolute monotonic nanoseconds.
    """

    def __init__(self, path: Path) -> None:
        assert ROW.itemsize == _PACK.size
        self._file = path.open("w+b")
        self._maps: list[mmap.mmap] = []

    def write(
        self,
        seq: int,
        identity: tuple[int, int, int, int, int, int],
        sizes: tuple[int, int, int],
        times: tuple[int, int, int],
    ) -> None:
        """Write the row of a request that was just handed to the transport.

        Args:
            seq: its number in this worker.
            identity: stage, repeat, session, turn, 1 where it is measured (0: warm-up, 2: priming), its class.
            sizes: tokens of input and output, as requested, and bytes of the request.
            times: due, ready and sent (or MISSING while its connection opens), in ns.
        """
        part, row = divmod(seq, _ROWS_A_GROWTH)
        while part >= len(self._maps):
            self._grow()
        stage, repeat, session, turn, measured, request_class = identity
        _PACK.pack_into(
            self._maps[part], row * _PACK.size, 1, request_class, stage, repeat, turn, measured, *sizes, session, *times
        )

    def _grow(self) -> None:
        size = _ROWS_A_GROWTH * _PACK.size
        start = len(self._maps) * size
        self._file.truncate(start + size)
        self._maps.append(mmap.mmap(self._file.fileno(), size, offset=start))

    def close(self) -> None:
        """Let go of the file."""
        for part in self._maps:
            part.close()
        self._file.close()


def read_sent(path: Path) -> NDArray[np.void]:
    """The rows that were written, as an array of dtype ROW; a row's place in the file is its `seq`.

    Raises:
        ResultError: where it cannot be read or holds what no worker writes.
    """
    try:
        rows = np.fromfile(path, dtype=ROW)
    except OSError as fault:
        raise ResultError(message("client.journal_unreadable", path=str(path), reason=fault.strerror)) from None
    rows = rows[: int((rows["written"] != 0).sum())]
    for name, most in _MOST.items():
        if len(rows) and not 0 <= rows[name].min() <= rows[name].max() <= most:
            raise ResultError(
                message(
                    "client.journal_range",
                    path=str(path),
                    column=name,
                    least=int(rows[name].min()),
                    most=int(rows[name].max()),
                    limit=most,
                )
            )
    if not (rows["written"] == 1).all():
        raise ResultError(message("client.journal_rows", path=str(path)))
    return rows


_LENGTH = struct.Struct("<Q")
_MESSAGE_CHARS = 2000


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One finished request; times are absolute monotonic nanoseconds, `seq` its number in its worker."""

    seq: int
    ready_ns: int
    sent_ns: int
    done_ns: int
    connect_ns: int
    resends: int
    failure: str
    message: str
    pieces: list[bytes]
    stamps: list[int]
    lates: list[int] = []
    spreads: list[int] = []
    sent_bound_ns: int = 0


_encode_into = msgspec.msgpack.Encoder().encode_into
_decode = msgspec.msgpack.Decoder(Frame).decode


def answer_frame(request: InFlightRequest) -> Frame:
    """What the journal keeps of a finished request."""
    return Frame(
        request.seq,
        request.ready_ns,
        request.sent_ns,
        request.done_ns,
        request.connect_ns,
        request.resends,
        request.failure,
        redact(request.message)[:_MESSAGE_CHARS],
        blank_secrets(request.pieces),
        request.stamps,
        request.lates,
        request.spreads,
        request.sent_bound_ns,
    )


class AnswerJournal:
    """The file that a worker's finished requests go to; each append reaches the kernel before it returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._buffer = bytearray()

    def append(self, request: InFlightRequest) -> None:
        """Write one finished request."""
        buffer = self._buffer
        _encode_into(answer_frame(request), buffer, _LENGTH.size)
        _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
        self._file.write(buffer)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_frames(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """The frames whose first byte lies in [start, stop) of a journal; a last frame that was cut is left out.

    Raises:
        ResultError: where it cannot be read or holds what no worker writes.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(start)
        while stop is None or file.tell() < stop:
            length = file.read(_LENGTH.size)
            if len(length) < _LENGTH.size:
                return
            if file.tell() + _LENGTH.unpack(length)[0] > size:
                return
            frame = _frame(path, file.read(_LENGTH.unpack(length)[0]))
            yield frame


def opened(path: Path) -> BinaryIO:
    """A journal of answers, to be read.

    Raises:
        ResultError: where it cannot be.
    """
    try:
        return path.open("rb")
    except OSError as fault:
        raise ResultError(message("client.journal_unreadable", path=str(path), reason=fault.strerror)) from None


def answers_size(path: Path) -> int:
    """Bytes of a journal of answers; see `opened`."""
    with opened(path) as file:
        return os.fstat(file.fileno()).st_size


def _frame(path: Path, body: bytes) -> Frame:
    try:
        frame = _decode(body)
    except msgspec.DecodeError as fault:
        raise ResultError(message("client.journal_frame", path=str(path), reason=str(fault))) from None
    if len(frame.pieces) != len(frame.stamps):
        raise ResultError(
            message("client.journal_stamps", path=str(path), pieces=len(frame.pieces), stamps=len(frame.stamps))
        )
    return frame


def whole_end(path: Path, start: int = 0) -> int:
    """Where the last frame ends that is there in full, of those from byte `start` (a frame's first) on."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while start + _LENGTH.size <= size:
            file.seek(start)
            end = start + _LENGTH.size + _LENGTH.unpack(file.read(_LENGTH.size))[0]
            if end > size:
                break
            start = end
    return start


def frame_starts(path: Path, parts: int) -> list[tuple[int, int]]:
    """Byte ranges that cut a journal of answers into about equal `parts` at frame borders."""
    borders = [0]
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size and len(borders) < parts:
            file.seek(at)
            length = file.read(_LENGTH.size)
            if len(length) < _LENGTH.size:
                break
            if at >= size * len(borders) // parts:
                borders.append(at)
            at += _LENGTH.size + _LENGTH.unpack(length)[0]
    return [(start, end) for start, end in zip(borders, [*borders[1:], size], strict=True) if end > start]
