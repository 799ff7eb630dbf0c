"""Is a request's every byte ready before it is due?

Drafts are written ahead, in the order in which they will be taken, up to a budget of bytes; the
room that a taken draft leaves is filled again in short idle moments.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.clock import Clock
from harness.workload import Session

BUDGET_BYTES = 32 << 20
BUDGET_COUNT = 8192
_SLICE_NS = 300_000  # one refill holds the event loop no longer than this, plus one draft
_PAUSE_NS = 2_000_000


@dataclass(frozen=True, slots=True)
class Draft:
    """A request ready to be sent: whole HTTP bytes, and what was asked for in tokens."""

    session: Session
    turn: int
    payload: bytes
    input_asked: int
    output_asked: int
    measured: bool


class Drafts:
    """The first turns of the sessions that one worker takes in a stage, in order."""

    def __init__(self, ordinals: Iterator[int], write: Callable[[int], Draft], clock: Clock) -> None:
        self._ordinals = ordinals
        self._write = write
        self._clock = clock
        self._ready: deque[Draft] = deque()
        self._bytes = 0
        self._exhausted = False
        self._refilling = False

    def fill(self) -> None:
        """Write drafts until the budget is reached or there are no more; before the start, without haste."""
        while self._wanted():
            self._write_one()

    def take(self) -> Draft | None:
        """The next draft; None where there are no more sessions."""
        if not self._ready and not self._exhausted:
            self._write_one()
        if not self._ready:
            return None
        draft = self._ready.popleft()
        self._bytes -= len(draft.payload)
        if not self._refilling and not self._exhausted:
            self._refilling = True
            self._clock.call_at(self._clock.now_ns() + _PAUSE_NS, self._refill)
        return draft

    def _refill(self) -> None:
        until_ns = self._clock.now_ns() + _SLICE_NS
        while self._wanted():
            self._write_one()
            if self._clock.now_ns() >= until_ns:
                self._clock.call_at(self._clock.now_ns() + _PAUSE_NS, self._refill)
                return
        self._refilling = False

    def _wanted(self) -> bool:
        return not self._exhausted and self._bytes < BUDGET_BYTES and len(self._ready) < BUDGET_COUNT

    def _write_one(self) -> None:
        ordinal = next(self._ordinals, None)
        if ordinal is None:
            self._exhausted = True
            return
        draft = self._write(ordinal)
        self._ready.append(draft)
        self._bytes += len(draft.payload)
