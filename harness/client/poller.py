"""Which of many sockets can be read, asked of the kernel once for all of them?

The sockets of a client stand in an epoll of their own, which the event loop watches as one: its
cost a wake-up is shared by all sockets that are ready, and a socket whose error queue holds a
stamp is not taken for a broken one, as libuv would. Where there is no epoll the event loop
watches each socket itself.
"""

import asyncio
import select
from collections.abc import Callable

from harness.clock import monotonic_ns

_WRITABLE = getattr(select, "EPOLLOUT", 0)
_AT_ONCE = 48  # about 0.2 ms of reads; then the loop's other work (requests that are due) has its turn

Callback = Callable[[], None]


class Poller:
    """Calls back when a socket can be read, or written.

    `clear_ns` is a time at which no socket had bytes that were not read soon after: what a callback
    reads has come since. It is 0 where that is not known.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self.clear_ns = 0
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            self._poll = self._epoll.poll
            loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back whenever `fd` can be read, has ended, or failed."""
        self._readers[fd] = callback
        if self._epoll is None:
            self._loop.add_reader(fd, callback)
        else:
            self._epoll.register(fd, select.EPOLLIN)

    def watch_writes(self, fd: int, callback: Callback) -> None:
        """Call back, too, whenever a watched `fd` takes more bytes."""
        self._writers[fd] = callback
        if self._epoll is None:
            self._loop.add_writer(fd, callback)
        else:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)

    def unwatch_writes(self, fd: int) -> None:
        """Only its reads from now on."""
        if self._writers.pop(fd, None) is None:
            return
        if self._epoll is None:
            self._loop.remove_writer(fd)
        else:
            self._epoll.modify(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Nothing of `fd` any more; before it is closed."""
        self.unwatch_writes(fd)
        if self._readers.pop(fd, None) is None:
            return
        if self._epoll is None:
            self._loop.remove_reader(fd)
        else:
            self._epoll.unregister(fd)

    def _look(self) -> None:
        readers, looked_ns = self._readers, monotonic_ns()
        ready = self._poll(0, _AT_ONCE)
        for fd, mask in ready:
            # One callback may end another's socket: what is not watched any more is passed over.
            if mask & _WRITABLE and (write := self._writers.get(fd)) is not None:
                write()
            if mask != _WRITABLE and (read := readers.get(fd)) is not None:
                read()
        if len(ready) < _AT_ONCE:  # else there may be more, from before
            self.clear_ns = looked_ns

    def close(self) -> None:
        """Watch nothing any more."""
        if self._epoll is not None and not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        for fd in list(self._readers) if self._epoll is None else ():
            self.unwatch(fd)
