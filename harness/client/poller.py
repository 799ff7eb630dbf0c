"""The loop that reads all sockets of a client, each read with the kernel's stamp of its arrival.

The sockets of a client stand in an epoll of their own, which the event loop watches as one: its
cost a wake-up is shared by all sockets that are ready, and a socket whose error queue holds a
stamp is not taken for a broken one, as libuv would. Where there is no epoll the event loop
watches each socket itself.

Where arrivals are dense, the loop gathers: after one it polls at a fixed interval, until there was nothing. The
stamps are the kernel's and lose nothing by it, and to wake up costs as much as several reads. A closed
loop's next request leaves up to one interval later, which its send lag shows.
"""

import asyncio
import select
from collections.abc import Callable, Iterable

from harness.client.kernel_stamps import CONTROL_BYTES, timespec
from harness.clock import KernelTimer, StampClock, monotonic_ns
from harness.units import NS_PER_S

READ_BYTES = 65_536
PROMPT_NS = 200_000  # a read this soon after its last byte was waited for: nothing of it had lain there for long
UNKNOWN = -1  # instead of a lateness where the kernel gives no stamp
LARGE_READ = 16_384
BEAT_NS = 900_000

_READABLE, _WRITABLE = getattr(select, "EPOLLIN", 1), getattr(select, "EPOLLOUT", 0)
_AT_ONCE = 48  # about 0.2 ms of reads; then the loop's other work (requests that are due) has its turn
_LOOKS = 64  # after so many the manner is chosen anew
_DENSE_NS = 250_000  # reads that follow each other closer than this on average are gathered
_SPARSE_NS = 500_000  # those that follow each other less closely are gathered no longer
_SHORT = 16  # where one of so many reads begins an answer, a closed loop would feel the beat
_CR = 13

_NONE = -1

Callback = Callable[[], None]
Receive = Callable[[int, int], tuple[bytes, list[tuple[int, int, bytes]], int, object]]
OnEnd = Callable[[OSError | None], None]
"""The peer has closed (None), or the connection broke."""
OnData = Callable[[bytes, int, int, int], None]
"""Bytes, when the last had arrived (monotonic ns), how much later they were read, and how much earlier the first came.

The last number (ns) is a bound, 0 where the read was prompt: of the bytes of a read the kernel stamps the last alone.
"""


class ReadableSocket:
    """A socket as the poller reads it: what it is read by, and where its reads go.

    A read that is plainly one event inside a chunked answer goes to the three lists of `keep`, any other to
    `on_data`: its bytes, when the last had arrived (monotonic ns), how much later they were read, and how much
    earlier the first may have come. `on_nothing` hears that a socket that was
    said to be ready had no bytes, `on_end` that its peer has closed (None) or the connection broke.
    """

    __slots__ = (
        "keep_late",
        "keep_piece",
        "keep_stamp",
        "least",
        "on_data",
        "on_end",
        "on_nothing",
        "plain",
        "recvmsg",
    )

    def __init__(
        self,
        recvmsg: Receive,
        on_data: OnData,
        on_nothing: Callable[[], None],
        on_end: Callable[[OSError | None], None],
    ) -> None:
        self.recvmsg = recvmsg
        self.on_data = on_data
        self.on_nothing = on_nothing
        self.on_end = on_end
        self.plain = _NONE  # a read of at most so many bytes is one event
        self.least = LARGE_READ  # the size of the smallest event of this answer

    def keep(self, pieces: list[bytes], stamps: list[int], lates: list[int]) -> None:
        """Append what is plainly one event to these lists from now on."""
        self.keep_piece, self.keep_stamp, self.keep_late = pieces.append, stamps.append, lates.append
        self.plain, self.least = 0, LARGE_READ

    def keep_no_more(self) -> None:
        """Call `on_data` for every read again."""
        self.plain = _NONE

    def is_one_event(self, data: bytes) -> bool:
        """Whether a read is one event with nothing to look for in it; two small ones are not taken for one later on."""
        size = len(data)
        # A read whose fourth byte from the end is a carriage return ends as the last chunk does.
        if self.plain == _NONE or not 4 <= size <= LARGE_READ or data[-4] == _CR or data.count(b"data") != 1:
            return False
        self.least = min(self.least, size)
        self.plain = min(max(self.plain, size), 2 * self.least - 1)
        return True


class Poller:
    """Reads sockets when they can be read, and calls back when one takes bytes again.

    `clear_ns` is a time at which no socket had bytes that were not read soon after: what is read has come since.
    It is 0 where that is not known. `gathers` says whether it looks at a steady beat after an arrival, and not at every
    arrival.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: StampClock) -> None:
        self.clock = clock
        self.clear_ns = 0
        self._loop = loop
        self._sources: dict[int, ReadableSocket] = {}
        self._writers: dict[int, Callback] = {}
        self.gathers = False
        self._beats = False  # looks when the timer rings, and not at the next arrival
        self._worst_ns = 0  # the latest read since the last look that found all
        self._may_gather = hasattr(select, "epoll")
        self._looks_left, self._reads, self._begun, self._chosen_ns = _LOOKS, 0, 0, monotonic_ns()
        self._epoll: select.epoll | None = None
        if hasattr(select, "epoll"):
            self._epoll, self._timer, self._awaited = select.epoll(), KernelTimer(), select.epoll()
            self._poll = self._epoll.poll
            self._awaited.register(self._epoll, _READABLE)
            self._awaited.register(self._timer.fd, _READABLE)
            loop.add_reader(self._awaited.fileno(), self._look)

    def watch(self, fd: int, source: ReadableSocket) -> None:
        """Read `source` whenever `fd` can be read, has ended, or failed."""
        self._sources[fd] = source
        if self._epoll is None:
            self._loop.add_reader(fd, self._read, ((fd, _READABLE),))
        else:
            self._epoll.register(fd, _READABLE)

    def watch_writes(self, fd: int, callback: Callback) -> None:
        """Call back, too, whenever a watched `fd` takes more bytes."""
        self._writers[fd] = callback
        if self._epoll is None:
            self._loop.add_writer(fd, callback)
        else:
            self._epoll.modify(fd, _READABLE | _WRITABLE)

    def unwatch_writes(self, fd: int) -> None:
        """Only its reads from now on."""
        if self._writers.pop(fd, None) is None:
            return
        if self._epoll is None:
            self._loop.remove_writer(fd)
        else:
            self._epoll.modify(fd, _READABLE)

    def unwatch(self, fd: int) -> None:
        """Nothing of `fd` any more; before it is closed."""
        self.unwatch_writes(fd)
        if self._sources.pop(fd, None) is None:
            return
        if self._epoll is None:
            self._loop.remove_reader(fd)
        else:
            self._epoll.unregister(fd)

    def _look(self) -> None:
        if self._epoll is None or self._epoll.closed:
            return
        looked_ns = monotonic_ns()
        ready = self._poll(0, _AT_ONCE)
        self._read(ready)
        self._reads += len(ready)
        if len(ready) < _AT_ONCE:
            self.clear_ns, self._worst_ns = looked_ns, 0
        elif self._beats:  # there may be more, from before; the loop's other work has its turn first
            self._loop.call_soon(self._look)
        self._looks_left -= 1
        if not self._looks_left:
            self._choose(looked_ns)
        if self._beats or self.gathers:
            self._await(beat=self.gathers and bool(ready))

    def _await(self, *, beat: bool) -> None:
        """Look again at the next beat, or at the next arrival."""
        assert self._epoll is not None
        if beat != self._beats:
            self._beats = beat
            self._awaited.modify(self._epoll, 0 if beat else _READABLE)
        self._timer.ring_in(BEAT_NS if beat else 0)

    def _read(self, ready: Iterable[tuple[int, int]]) -> None:
        """Read each socket that is ready once. This runs for every token, so that nothing in it is a call of ours."""
        sources, offset_ns, now = self._sources, self.clock.offset_ns, monotonic_ns
        lates, others = [self._worst_ns], []
        for fd, mask in ready:
            if mask & _WRITABLE:
                self._write(fd)
            # One callback may end another's socket: what is not watched any more is passed over.
            if mask == _WRITABLE or (source := sources.get(fd)) is None:
                continue
            try:
                data, control, _, _ = source.recvmsg(READ_BYTES, CONTROL_BYTES)
            except BlockingIOError:
                source.on_nothing()
                continue
            except OSError as fault:
                source.on_end(fault)
                continue
            now_ns = now()
            if not data or not control:
                self._take_unstamped(source, data, now_ns)
                continue
            # As `kernel_stamps.stamp_of`, in place. Only stamps come as control data here.
            seconds, nanoseconds = timespec(control[0][2])
            arrived_ns = seconds * NS_PER_S + nanoseconds - offset_ns
            late_ns = now_ns - arrived_ns
            if late_ns < 0:  # within what the relation of the clocks leaves open
                arrived_ns, late_ns = now_ns, 0
            lates.append(late_ns)
            if (4 <= len(data) <= source.plain and data[-4] != _CR) or source.is_one_event(data):
                source.keep_stamp(arrived_ns)
                source.keep_late(late_ns)
                source.keep_piece(data)
            else:
                others.append((fd, source, data, arrived_ns, late_ns))
        self._worst_ns = max(lates)
        if others:
            self._hand_on(others)

    def _write(self, fd: int) -> None:
        if (write := self._writers.get(fd)) is not None:
            write()

    def _take_unstamped(self, source: ReadableSocket, data: bytes, now_ns: int) -> None:
        """The end, or bytes of which only the time of their read is known: such are not to wait for a beat."""
        if data:
            self._may_gather = False
            source.on_data(data, now_ns, UNKNOWN, 0)
        else:
            source.on_end(None)

    def _hand_on(self, reads: list[tuple[int, ReadableSocket, bytes, int, int]]) -> None:
        """Reads that are not plainly one event, once it is known how late the latest of a look was."""
        for fd, source, data, arrived_ns, late_ns in reads:
            if self._sources.get(fd) is source:
                self._begun += source.plain == _NONE
                source.on_data(data, arrived_ns, late_ns, self._spread_ns(arrived_ns))

    def _spread_ns(self, arrived_ns: int) -> int:
        """How much earlier than the last byte of a read its first may have come: not before the last look.

        Nothing where this look was prompt, so that the first byte was waited for. One read alone cannot tell that: of
        many bytes that had lain there through a stop of this process, the last may have come just before its end.
        But of several sockets some were late then.
        """
        if not self._beats and self._worst_ns < PROMPT_NS:
            return 0
        return max(0, arrived_ns - self.clear_ns)

    def _choose(self, now_ns: int) -> None:
        """Look at every arrival, or gather, by how the last looks went."""
        span_ns, reads = now_ns - self._chosen_ns, self._reads
        may_gather = self._may_gather and self._begun * _SHORT <= reads
        self.gathers = may_gather and reads * (_SPARSE_NS if self.gathers else _DENSE_NS) > span_ns
        self._looks_left, self._reads, self._begun, self._chosen_ns = _LOOKS, 0, 0, now_ns

    def close(self) -> None:
        """Watch nothing any more."""
        if self._epoll is not None and not self._epoll.closed:
            self._loop.remove_reader(self._awaited.fileno())
            for each in (self._awaited, self._timer, self._epoll):
                each.close()
        for fd in list(self._sources) if self._epoll is None else ():
            self.unwatch(fd)
