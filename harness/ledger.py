"""What was handed to the wire, even if this process is killed the next instant?

A table in a memory-mapped file: a row is written at every send, costs about a microsecond, and
is in the kernel's hands at once, so that it outlives SIGKILL. Together with the spool of answers
it accounts for every request.
"""

import mmap
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ResultError

ROW = np.dtype(
    [
        ("written", "<i4"),
        ("stage", "<i4"),
        ("repeat", "<i4"),
        ("turn", "<i4"),
        ("measured", "<i4"),
        ("input_asked", "<i4"),
        ("output_asked", "<i4"),
        ("spare", "<i4"),
        ("session", "<i8"),
        ("due_ns", "<i8"),
        ("ready_ns", "<i8"),
        ("sent_ns", "<i8"),
    ]
)
_PACK = struct.Struct("<8i4q")
_MOST = {"stage": 10**6, "repeat": 10**6, "turn": 10**6, "measured": 1}  # so that no other file is taken for one
_ROWS_A_GROWTH = 65_536  # times 64 bytes: a multiple of every page size


class Ledger:
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
        identity: tuple[int, int, int, int, int],
        asked: tuple[int, int],
        times: tuple[int, int, int],
    ) -> None:
        """Write the row of a request that was just handed to the wire.

        Args:
            seq: its number in this worker.
            identity: stage, repeat, session, turn, and 1 where it is measured (0: warm-up).
            asked: input and output tokens.
            times: due, ready and sent (or MISSING while its connection opens), in ns.
        """
        part, row = divmod(seq, _ROWS_A_GROWTH)
        while part >= len(self._maps):
            self._grow()
        stage, repeat, session, turn, measured = identity
        _PACK.pack_into(
            self._maps[part], row * _PACK.size, 1, stage, repeat, turn, measured, *asked, 0, session, *times
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


def read_ledger(path: Path) -> NDArray[np.void]:
    """The rows that were written, as an array of dtype ROW; a row's place in the file is its `seq`.

    Raises:
        ResultError: where it cannot be read or holds what no worker writes.
    """
    try:
        rows = np.fromfile(path, dtype=ROW)
    except OSError as fault:
        raise ResultError(f"{path}: cannot be read ({fault.strerror}); expected the file of a worker") from None
    rows = rows[: int((rows["written"] != 0).sum())]
    for name, most in _MOST.items():
        if len(rows) and not 0 <= rows[name].min() <= rows[name].max() <= most:
            raise ResultError(f"{path}: {name} is {rows[name].min()} to {rows[name].max()}; expected 0 to {most}")
    if not (rows["written"] == 1).all():
        raise ResultError(f"{path}: written is no 1 in all rows that are used; expected the file of a worker")
    return rows
