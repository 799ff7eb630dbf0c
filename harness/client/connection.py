"""A request in flight and its connection: when its bytes were handed over, and when the answer's came back."""

from collections.abc import Callable
from typing import Protocol

from harness.client import http1
from harness.client.poller import LARGE_READ
from harness.client.stamped_socket import Channel
from harness.clock import Clock
from harness.results.request_table import MISSING
from harness.safety import bounds


class InFlightRequest:
    """One request on its way: built before it is due, filled in by the transport, over when `on_done` is called.

    Mutable on purpose, and with slots: this is the only value of the hot path. `pieces` are the
    raw bytes of the answer as the socket gave them, `stamps` when the kernel had each (or, where it
    says nothing, when it was read), `lates` how much later it was read; `spreads` has, for reads that
    were late, their number and how much earlier than the stamp their first byte may have come.
    `sent_bound_ns` is how much later than `sent_ns` the request may have left. Times are absolute
    monotonic nanoseconds. `failure` is a short stable error name, or empty. `asked` is how many tokens
    are to come: what the bounds of an answer depend on.
    """

    __slots__ = (
        "asked", "connect_ns", "done_ns", "due_ns", "failure", "lates", "message", "on_done", "payload", "pieces",
        "ready_ns", "resends", "sent_bound_ns", "sent_ns", "seq", "spreads", "stamps",
    )  # fmt: skip

    def __init__(self, seq: int, payload: bytes, due_ns: int, on_done: "Callable[[InFlightRequest], None]") -> None:
        self.seq = seq
        self.payload = payload
        self.due_ns = due_ns
        self.ready_ns = due_ns
        self.on_done = on_done
        self.sent_ns = MISSING
        self.sent_bound_ns = 0
        self.done_ns = MISSING
        self.connect_ns = 0
        self.resends = 0
        self.failure = ""
        self.message = ""
        self.pieces: list[bytes] = []
        self.stamps: list[int] = []
        self.lates: list[int] = []
        self.spreads: list[int] = []
        self.asked = 0

    def cut(self) -> None:
        """Keep only the beginning of an answer that broke a bound: its head and some words."""
        kept, size = 0, 0
        while kept < len(self.pieces) and size < bounds.KEPT_BYTES:
            size += len(self.pieces[kept])
            kept += 1
        del self.pieces[kept:], self.stamps[kept:], self.lates[kept:]
        self.spreads.clear()
        if size > bounds.KEPT_BYTES:
            self.pieces[-1] = self.pieces[-1][: bounds.KEPT_BYTES - size]


_CR = 13
_LAST_CHUNK = b"\r\n\r\n"
_DONE_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"  # cannot occur inside a JSON event stream: JSON escapes line ends


class Owner(Protocol):
    """What a connection needs of the client that it belongs to."""

    clock: Clock
    held: int
    """Bytes of answers in flight that came in large reads, as floods do."""
    most_held: int
    """How many of them are too many."""

    def send(self, request: InFlightRequest) -> None:
        """Send a request on some other connection."""

    def release(self, connection: "Connection") -> None:
        """Take back a connection that is free again."""

    def forget(self, connection: "Connection") -> None:
        """Drop a connection that is gone."""

    def over(self, request: InFlightRequest) -> None:
        """Take note that a request has ended."""


class Connection:
    """One connection, carrying one request at a time over a channel that is given to it once it is open."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._now_ns = owner.clock.now_ns
        self._channel: Channel | None = None
        self._exchange: InFlightRequest | None = None
        self._head: http1.ResponseHead | None = None
        self._walk = http1.ChunkWalk()
        self._left = self._size = self._walked = 0
        self._used = False
        self._in_chunks = False  # inside a chunked answer whose head is known: the hot path

    def open(self, channel: Channel) -> None:
        """Carry requests over this channel from now on."""
        self._channel = channel

    @property
    def is_open(self) -> bool:
        """Whether a request may be written to it."""
        return self._channel is not None

    def start(self, request: InFlightRequest) -> None:
        """Hand the request's bytes over, and stamp when they left."""
        assert self._channel is not None
        self._exchange = request
        self._head = None
        self._in_chunks = False
        self._size = 0
        request.sent_ns, request.sent_bound_ns = self._channel.send(request.payload)

    def data_received(self, data: bytes, arrived_ns: int, late_ns: int, spread_ns: int) -> None:
        """Keep, and look for the end; a channel in the clear calls this only for what is not plainly one event."""
        request, size = self._exchange, len(data)
        if request is not None:
            if spread_ns:
                request.spreads += (len(request.pieces), spread_ns)
            request.stamps.append(arrived_ns)
            request.lates.append(late_ns)
            request.pieces.append(data)
        # Most reads are one event in a chunk of its own, with nothing to look for.
        if not self._in_chunks or size < 4 or size > LARGE_READ or data[-4] == _CR:  # as the last chunk ends
            self._look_closer(data)

    def _look_closer(self, data: bytes) -> None:
        request, head = self._exchange, self._head
        if request is None:  # bytes that nobody asked for: this connection is not to be trusted again
            self.close()
            return
        self._size += len(data)
        self._owner.held += len(data)
        if head is None:
            self._look_for_head(request)
        elif head.framing == http1.CHUNKED:
            if data.endswith(_LAST_CHUNK) or len(data) < 4:
                self._look_for_end(request, head)
        elif head.framing == http1.LENGTH:
            self._left -= len(data)
            if self._left <= 0:
                self._finish(request, reusable=self._left == 0)
        if self._exchange is request:
            self._watch_size(request)

    def _watch_size(self, request: InFlightRequest) -> None:
        """A flood comes in large reads; what comes in small ones is watched from time to time (`Client`)."""
        crowded = self._owner.held > self._owner.most_held and self._size > bounds.FAIR_BYTES
        limit = self.limit_of(request)
        if self._size > limit:
            self.fail_too_long(limit)
        elif crowded and self._size > bounds.explained_bytes(request.asked):
            self.fail_too_long(self._size)

    def limit_of(self, request: InFlightRequest) -> int:
        """The most bytes that the answer under way may take."""
        refused = self._head is not None and not 200 <= self._head.status < 300
        return bounds.ERROR_BYTES if refused else bounds.answer_bytes(request.asked)

    def fail_too_long(self, size: int) -> None:
        """End the request because its answer passed so many bytes."""
        what = "the answer"
        if self._head is not None and not 200 <= self._head.status < 300:
            what = f"the body of an answer with status {self._head.status}"
        self.fail("too_long", f"{what} passed {size / (1 << 20):.3g} MiB without an end")

    def _look_for_head(self, request: InFlightRequest) -> None:
        raw = request.pieces[0] if len(request.pieces) == 1 else b"".join(request.pieces)
        try:
            head = http1.usual_head(raw)
        except http1.BadHttpError as fault:
            self.fail("bad_http", str(fault))
            return
        if head is None:
            return
        self._head = head
        self._in_chunks = head.framing == http1.CHUNKED
        if self._in_chunks and not head.encoding and self._channel is not None:
            self._channel.keep(request.pieces, request.stamps, request.lates)
        if head.framing == http1.LENGTH:
            self._left = head.length - (len(raw) - head.size)
            if self._left <= 0:
                self._finish(request, reusable=self._left == 0)
        elif head.framing == http1.CHUNKED:
            self._walk, self._walked = http1.ChunkWalk(), len(request.pieces)
            self._walk_on(raw[head.size :], request, head)

    def _look_for_end(self, request: InFlightRequest, head: http1.ResponseHead) -> None:
        """Whether the chunked answer is complete, now that its tail looks like an end."""
        if request.pieces[-1].endswith(_DONE_END):
            self._finish(request, reusable=head.keep_alive)
            return
        raw = b"".join(request.pieces[self._walked :])
        self._walked = len(request.pieces)
        self._walk_on(raw, request, head)

    def _walk_on(self, raw: bytes, request: InFlightRequest, head: http1.ResponseHead) -> None:
        try:
            beyond = self._walk.feed(raw)
        except http1.BadHttpError as fault:
            self.fail("bad_http", str(fault))
            return
        if beyond is not None:
            self._finish(request, reusable=head.keep_alive and beyond == 0)

    def _finish(self, request: InFlightRequest, *, reusable: bool) -> None:
        assert self._head is not None
        self._let_go()
        self._used = True
        request.done_ns = request.stamps[-1]
        if reusable and self._head.keep_alive:
            self._owner.release(self)
        else:
            self.close()
        self._owner.over(request)

    def _let_go(self) -> InFlightRequest | None:
        request, self._exchange = self._exchange, None
        self._in_chunks = False
        if self._channel is not None:
            self._channel.keep_no_more()
        self._owner.held -= self._size
        self._size = 0
        return request

    def fail(self, failure: str, message: str) -> None:
        """End the request with a failure, and the connection with it."""
        request = self._let_go()
        self.close()
        if request is not None:
            if failure in ("too_long", "bad_http"):
                request.cut()
            request.failure, request.message = failure, message
            request.done_ns = self._now_ns()
            self._owner.over(request)

    def connection_lost(self, exc: OSError | None) -> None:
        """The end of an answer without framing, a stale connection to send again on, or a failure."""
        self._channel = None
        self._owner.forget(self)
        request = self._let_go()
        if request is None:
            return
        if exc is None and self._head is not None and self._head.framing == http1.CLOSE:
            request.done_ns = request.stamps[-1]
            self._owner.over(request)
        elif self._used and not request.pieces and request.resends == 0:
            # The server closed an idle connection while the request was on its way to it
            # (RFC 9112 section 9.3.1): it was never looked at, so it goes out once more.
            request.resends += 1
            self._owner.send(request)
        else:
            cut = bool(request.pieces)
            request.failure = "truncated" if cut and exc is None else "reset"
            request.message = str(exc or "the server closed the connection") + (" inside the answer" if cut else "")
            request.done_ns = self._now_ns()
            self._owner.over(request)

    def close(self) -> None:
        """Close at once; what is still unsent is dropped."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
            self._owner.forget(self)
