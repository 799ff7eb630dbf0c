"""What one worker counts of its stage while it runs, for whoever watches: cheap, bounded, beside the hot path.

Nothing is done as bytes arrive. Up to twice a second every stream is looked at, in slices so short that no request
leaves late: first tokens and the last gaps (at most 8 of a stream: a sample, where more came) go into histograms,
tokens are read from the running usage of the last event where the server sends one, else every read counts as one
token. Where looking takes more than its share of the process's CPU, the next look comes later, after three seconds at
the latest. In virtual time, where looking makes nothing late, every gap is counted at fixed times, so that two runs of
the same have the same figures. The numbers of a result do not come from here: they are made from whole answers.
"""

import asyncio
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.client.connection import InFlightRequest
from harness.clock import Clock
from harness.results.request_table import CANCELLED, MISSING
from harness.statistics.log_histogram import LogHistogram

EVERY_NS, AT_LATEST_NS = 500_000_000, 3_000_000_000
_CPU_SHARE = 0.008  # of what the process uses, for looking at streams
_PAUSE_NS = 2_000_000
_SLICE_STREAMS = 100  # about 0.2 ms of work
VIRTUAL_EVERY_NS = 1_000_000_000  # of virtual time
EVERY_GAP = sys.maxsize
GAPS = 8  # of a stream at a look: older stamps have left the processor's cache, and reading them is what costs
_COUNT = b'"completion_tokens":'
_DIGITS = re.compile(rb" ?(\d{1,9})[,}]")
_TAIL = 3  # reads at the end of an answer that may hold no token: finish, usage, [DONE]


class _Stream:
    """A measured request, and how far its reads are counted."""

    __slots__ = ("over", "reads", "request", "started", "tokens")

    def __init__(self, request: InFlightRequest) -> None:
        self.request = request
        self.reads = 0
        self.tokens = 0
        self.started = False
        self.over = False


@dataclass(slots=True)
class StageCounts:
    """What a worker has counted in one stage: all its requests, and tokens and times of the measured ones.

    `measured_ns` is when the first measured request was sent, `looked_ns` until when tokens and times are counted.
    """

    number: int
    sent: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    measured_sent: int = 0
    measured_answered: int = 0
    measured_ns: int = MISSING
    looked_ns: int = MISSING
    output_tokens: int = 0
    ttft: LogHistogram = field(default_factory=LogHistogram)
    itl: LogHistogram = field(default_factory=LogHistogram)

    def as_dict(self, at_ns: int) -> dict[str, Any]:
        """As a line of JSON carries it; requests are counted until `at_ns`."""
        plain = {name: getattr(self, name) for name in _COUNTS}
        return {**plain, "at_ns": at_ns, "ttft": self.ttft.as_dict(), "itl": self.itl.as_dict()}


_COUNTS = (
    "number", "sent", "answered", "failed", "cancelled", "measured_sent", "measured_answered", "measured_ns",
    "looked_ns", "output_tokens",
)  # fmt: skip


class LiveCounters:
    """Counts the requests of a stage, and reports up to twice a second."""

    def __init__(
        self,
        clock: Clock,
        report: Callable[[dict[str, Any]], None],
        gaps: int = GAPS,
        every_ns: int | None = None,
    ) -> None:
        """`gaps` is how many of a stream are counted at a look, `every_ns` how long it rests between two looks.

        Without `every_ns` it rests as long as its share of the CPU asks.
        """
        self._gaps = gaps
        self._every_ns = every_ns
        self._clock = clock
        self._report = report
        self._streams: dict[int, _Stream] = {}
        self._waiting: deque[_Stream] = deque()  # to be looked at in this round
        self._ended: list[_Stream] = []
        self._timer: asyncio.TimerHandle | None = None
        self._round_ns = 0  # when the round began,
        self._cpu_s = 0.0  # what the process had used by then,
        self._spent_s = 0.0  # and what was spent on looking since
        self.counts = StageCounts(-1)

    def begin(self, number: int) -> None:
        """Count a stage from nothing."""
        self.counts = StageCounts(number)
        self._streams.clear()
        self._waiting.clear()
        self._ended.clear()
        self._round_ns, self._cpu_s = self._clock.now_ns(), time.process_time()
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
        failed = _has_failed(request)
        if request.failure == CANCELLED:
            counts.cancelled += 1
        elif failed:
            counts.failed += 1
        else:
            counts.answered += 1
            counts.measured_answered += stream is not None
        if stream is not None:
            stream.over = True
            self._ended.append(stream)

    def end(self) -> None:
        """Count what is left of the stage, and report it."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.extend(self._ended)
        self._ended.clear()
        while self._waiting:
            self._count_some()
        self._say()

    def _call_in(self, wait_ns: int, callback: Callable[[], None]) -> None:
        self._timer = self._clock.call_at(self._clock.now_ns() + wait_ns, callback)

    def _round(self) -> None:
        """Begin to look at what is in flight, and at what has ended since the last round."""
        self._waiting.extend(self._streams.values())
        self._waiting.extend(self._ended)
        self._ended.clear()
        self._slice()

    def _slice(self) -> None:
        before_s = time.process_time()
        self._count_some()
        if self._waiting:
            self._spent_s += time.process_time() - before_s
            self._call_in(_PAUSE_NS, self._slice)
            return
        self._say()
        self._spent_s += time.process_time() - before_s
        self._call_in(self._pause_ns(), self._round)

    def _say(self) -> None:
        now_ns = self.counts.looked_ns = self._clock.now_ns()
        self._report(self.counts.as_dict(now_ns))

    def _pause_ns(self) -> int:
        """How long to rest after a round: a fixed time, or so long that looking stays within its share of the CPU."""
        if self._every_ns is not None:
            return self._every_ns
        now_ns, cpu_s = self._clock.now_ns(), time.process_time()
        used = max(cpu_s - self._cpu_s, self._spent_s) / max(1, now_ns - self._round_ns)  # CPU s a ns
        pause_ns = self._spent_s / (_CPU_SHARE * max(used, 1e-15))
        self._round_ns, self._cpu_s, self._spent_s = now_ns, cpu_s, 0.0
        return round(min(max(pause_ns, EVERY_NS), AT_LATEST_NS))

    def _count_some(self) -> None:
        """Look at some streams: a bounded number of them and of their reads."""
        batch = _Batch(self._gaps)
        waiting = self._waiting
        for _ in range(min(_SLICE_STREAMS, len(waiting))):
            stream = waiting.popleft()
            if stream.started and not stream.over:
                batch.look_on(stream)
            else:
                batch.look_first_or_last(stream)
        batch.add_to(self.counts)


def virtual_counters(clock: Clock, report: Callable[[dict[str, Any]], None]) -> LiveCounters:
    """Counters of a load in virtual time: of every gap, at times that do not depend on this process."""
    return LiveCounters(clock, report, EVERY_GAP, VIRTUAL_EVERY_NS)


class _Batch:
    """What a few streams have brought since they were last looked at: stamps of reads, one stream after the other."""

    __slots__ = ("first_ns", "lengths", "most", "odd", "per_gap", "stamps", "tokens")

    def __init__(self, most: int) -> None:
        """`most` is how many gaps of a stream are taken."""
        self.most = most
        self.first_ns: list[int] = []
        self.stamps: list[int] = []
        self.lengths: list[int] = []
        self.per_gap: list[float] = []
        self.odd = False  # whether reads brought more or less than one token each
        self.tokens = 0

    def look_on(self, stream: _Stream) -> None:
        """A stream in flight whose first token is known: most of them, so in few steps."""
        stamps, pieces, reads = stream.request.stamps, stream.request.pieces, stream.reads
        stop = len(stamps)
        if stop <= reads:
            return
        piece = pieces[-1]
        digits = _DIGITS.match(piece, piece.rfind(_COUNT) + len(_COUNT))
        gained = stop - reads if digits is None else int(digits[1]) - stream.tokens
        stream.reads = stop
        self._take(stream, gained)
        self._add(stamps[max(reads - 1, stop - self.most - 1) :], gained / (stop - reads))

    def look_first_or_last(self, stream: _Stream) -> None:
        """A stream whose first token is not known, or that has ended: its last reads may hold no token."""
        request = stream.request
        stop = _reads_with_tokens(request) if stream.over else len(request.stamps)
        before, begins = max(stream.reads - 1, 0), 0
        if not stream.started:
            first = _first_token(request, stream.reads, stop)
            if first is not None:
                self.first_ns.append(request.stamps[first] - request.sent_ns)
                stream.started, stream.reads, before, begins = True, first, first, 1
        gained = _tokens_gained(stream, stop)
        stream.reads = max(stop, stream.reads)
        self._take(stream, gained)
        if stream.started and stop - before > 1:
            per_gap = (gained - begins) / (stop - before - 1)
            self._add(request.stamps[max(before, stop - self.most - 1) : stop], per_gap)

    def _take(self, stream: _Stream, gained: int) -> None:
        if gained > 0:
            stream.tokens += gained
            self.tokens += gained

    def _add(self, stamps: list[int], per_gap: float) -> None:
        """Add the stamps of one stream; so many tokens came with each after the first."""
        self.stamps += stamps
        self.lengths.append(len(stamps))
        self.per_gap.append(max(1.0, per_gap))
        self.odd = self.odd or per_gap > 1

    def add_to(self, counts: StageCounts) -> None:
        """Count it: a gap that brought k tokens is k gaps of its k-th part, as in the result."""
        counts.output_tokens += self.tokens
        counts.ttft.add(np.asarray(self.first_ns, dtype=np.int64))
        if not self.stamps:
            return
        stamps_ns = np.asarray(self.stamps, dtype=np.int64)
        lengths = np.asarray(self.lengths)
        between = np.cumsum(lengths[:-1]) - 1  # two streams: no gap
        gaps_ns = np.delete(stamps_ns[1:] - stamps_ns[:-1], between)
        if not self.odd:
            counts.itl.add(gaps_ns)
            return
        weights = np.repeat(self.per_gap, lengths - 1)
        counts.itl.add(gaps_ns / weights, weights)


def _first_token(request: InFlightRequest, start: int, stop: int) -> int | None:
    """The first read that holds an event with a token; the head alone, or a role alone, is none."""
    for place in range(start, stop):
        piece = request.pieces[place]
        events = piece.count(b"data:")
        if b'"response.' in piece and b'.delta"' not in piece:  # what opens an answer of the Responses API
            continue
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
    if request.pieces[0][9:10] != b"2":
        return True
    ends = request.pieces[-_TAIL:]
    return any(b'data: {"error"' in piece or b"event: response.failed" in piece for piece in ends)
