"""What one worker counts of its stage while it runs, for whoever watches: cheap, bounded, beside the hot path.

Nothing is done as bytes arrive. Twice a second the stamps that came since are looked at, in slices so short that
no request leaves late: first tokens and gaps go into histograms, tokens are read from the running usage of the last
event where the server sends one, else every read counts as one token. The numbers of a result do not come from here:
they are made from whole answers at the end.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.client.connection import InFlightRequest
from harness.clock import Clock
from harness.results.request_table import CANCELLED, MISSING
from harness.statistics.log_histogram import LogHistogram

EVERY_NS = 500_000_000
_PAUSE_NS = 2_000_000
_SLICE_READS = 4000  # about 0.2 ms of work
_SLICE_STREAMS = 100
_COUNT = b'"completion_tokens":'
_DIGITS = re.compile(rb" ?(\d{1,9})[,}]")
_TAIL = 3  # reads at the end of an answer that may hold no token: finish, usage, [DONE]
_S_PER_NS = 1e-9


@dataclass(slots=True)
class _Stream:
    """A measured request, and how far its reads are counted."""

    request: InFlightRequest
    reads: int = 0
    tokens: int = 0
    started: bool = False
    over: bool = False


@dataclass(slots=True)
class StageCounts:
    """What a worker has counted in one stage: all its requests, and tokens and times of the measured ones."""

    number: int
    sent: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    measured_sent: int = 0
    measured_answered: int = 0
    output_tokens: int = 0
    measured_ns: int = MISSING  # when the first measured request was sent
    ttft: LogHistogram = field(default_factory=LogHistogram)
    itl: LogHistogram = field(default_factory=LogHistogram)

    def as_dict(self, at_ns: int) -> dict[str, Any]:
        """As a line of JSON carries it; counted until `at_ns`."""
        plain = {name: getattr(self, name) for name in COUNTS}
        return {**plain, "at_ns": at_ns, "ttft": self.ttft.as_dict(), "itl": self.itl.as_dict()}


COUNTS = (
    "number", "sent", "answered", "failed", "cancelled", "measured_sent", "measured_answered", "output_tokens",
    "measured_ns",
)  # fmt: skip


class LiveCounters:
    """Counts the requests of a stage, and reports twice a second."""

    def __init__(self, clock: Clock, report: Callable[[dict[str, Any]], None]) -> None:
        self._clock = clock
        self._report = report
        self._streams: dict[int, _Stream] = {}
        self._waiting: deque[_Stream] = deque()  # to be looked at in this round
        self._ended: list[_Stream] = []
        self._timer: asyncio.TimerHandle | None = None
        self.counts = StageCounts(-1)

    def begin(self, number: int) -> None:
        """Count a stage from nothing."""
        self.counts = StageCounts(number)
        self._streams.clear()
        self._waiting.clear()
        self._ended.clear()
        self._call_in(EVERY_NS, self._round)

    def sent(self, request: InFlightRequest, *, measured: bool) -> None:
        """A request was handed to the transport."""
        counts = self.counts
        counts.sent += 1
        if measured:
            counts.measured_sent += 1
            if counts.measured_ns == MISSING:
                counts.measured_ns = self._clock.now_ns()
            self._streams[request.seq] = _Stream(request)

    def over(self, request: InFlightRequest) -> None:
        """A request has ended."""
        counts = self.counts
        stream = self._streams.pop(request.seq, None)
        cancelled, failed = request.failure == CANCELLED, _has_failed(request)
        counts.cancelled += cancelled
        counts.failed += failed and not cancelled
        counts.answered += not failed
        if stream is not None:
            stream.over = True
            self._ended.append(stream)
            counts.measured_answered += not failed

    def end(self) -> None:
        """Count what is left of the stage, and report it."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.extend(self._ended)
        self._ended.clear()
        while self._waiting:
            self._count_some()
        self._report(self.counts.as_dict(self._clock.now_ns()))

    def _call_in(self, wait_ns: int, callback: Callable[[], None]) -> None:
        self._timer = self._clock.call_at(self._clock.now_ns() + wait_ns, callback)

    def _round(self) -> None:
        """Begin to look at what is in flight, and at what has ended since the last round."""
        self._waiting.extend(self._streams.values())
        self._waiting.extend(self._ended)
        self._ended.clear()
        self._slice()

    def _slice(self) -> None:
        self._count_some()
        if self._waiting:
            self._call_in(_PAUSE_NS, self._slice)
        else:
            self._report(self.counts.as_dict(self._clock.now_ns()))
            self._call_in(EVERY_NS, self._round)

    def _count_some(self) -> None:
        """Look at some streams: a bounded number of them and of their reads."""
        batch = _Batch()
        for _ in range(min(_SLICE_STREAMS, len(self._waiting))):
            self._look(self._waiting.popleft(), batch)
            if len(batch.stamps) >= _SLICE_READS:
                break
        self.counts.ttft.add(np.asarray(batch.first_ns, dtype=np.float64) * _S_PER_NS)
        if batch.stamps:
            batch.add_gaps(self.counts.itl)

    def _look(self, stream: _Stream, batch: "_Batch") -> None:
        """Count what a stream has brought since it was last looked at."""
        request = stream.request
        stop = _reads_with_tokens(request) if stream.over else len(request.stamps)
        before, begins = max(stream.reads - 1, 0), 0
        if not stream.started:
            first = _first_token(request, stream.reads, stop)
            if first is not None:
                batch.first_ns.append(request.stamps[first] - request.sent_ns)
                stream.started, before, begins = True, first, 1
                stream.reads = first
        gained = _tokens_gained(stream, stop)
        stream.tokens += gained
        self.counts.output_tokens += gained
        stream.reads = max(stop, stream.reads)
        if stream.started and stop - before > 1:
            batch.add(request.stamps[before:stop], gained - begins)


@dataclass(slots=True)
class _Batch:
    """Times to first token, and the stamps of consecutive reads of several streams, one after the other."""

    first_ns: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    per_gap: list[float] = field(default_factory=list)

    def add(self, stamps: list[int], tokens: int) -> None:
        """Add the stamps of one stream; so many tokens came with those after the first."""
        self.stamps += stamps
        self.lengths.append(len(stamps))
        self.per_gap.append(max(1.0, tokens / (len(stamps) - 1)))

    def add_gaps(self, histogram: LogHistogram) -> None:
        """Add the gaps between tokens: a gap that brought k gives k of its k-th part, as in the result."""
        stamps_ns = np.asarray(self.stamps, dtype=np.int64)
        gaps_ns = stamps_ns[1:] - stamps_ns[:-1]
        ends = np.cumsum(self.lengths)[:-1] - 1  # between two streams there is no gap
        gaps_s = np.delete(gaps_ns, ends) * _S_PER_NS
        if max(self.per_gap) == 1.0:
            histogram.add(gaps_s)
            return
        weights = np.repeat(self.per_gap, np.asarray(self.lengths) - 1)
        histogram.add(gaps_s / weights, weights)


def _first_token(request: InFlightRequest, start: int, stop: int) -> int | None:
    """The first read that holds an event with a token; the head alone, or a role alone, is none."""
    for place in range(start, stop):
        piece = request.pieces[place]
        events = piece.count(b"data:")
        if events > (b'"role":"assistant"' in piece and b'"content":""' in piece):
            return place
    return None


def _reads_with_tokens(request: InFlightRequest) -> int:
    """The reads of a finished answer up to the last that may hold a token."""
    stop = len(request.pieces)
    for piece in reversed(request.pieces[-_TAIL:]):
        if b'"choices":[]' not in piece and b"data: {" in piece:
            break
        stop -= 1
    return stop


def _tokens_gained(stream: _Stream, stop: int) -> int:
    """Tokens since the last look: by the server's running count, else one a read."""
    pieces = stream.request.pieces
    for piece in reversed(pieces[-_TAIL:] if stream.over else pieces[-1:]):
        at = piece.rfind(_COUNT)
        digits = _DIGITS.match(piece, at + len(_COUNT)) if at >= 0 else None
        if digits is not None:
            return max(0, int(digits[1]) - stream.tokens)
    return max(0, stop - stream.reads) if stream.started else 0


def _has_failed(request: InFlightRequest) -> bool:
    """Whether a request failed: on its way, by its status, or by an error at the end of its stream."""
    if request.failure or not request.pieces:
        return True
    status = request.pieces[0][9:10]
    return status != b"2" or any(b'data: {"error"' in piece for piece in request.pieces[-_TAIL:])
