"""A connected TCP socket, plain or under TLS, that says when its bytes came and when what it sent had left.

Every read yields the bytes, when the kernel had them, and how much later this process read them. Under TLS
the stamps are those of the encrypted bytes that completed what could be decrypted.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from harness.client import kernel_stamps
from harness.client.kernel_stamps import CONTROL_BYTES, late_stamp, stamped_send, timespec
from harness.client.poller import Poller
from harness.clock import StampClock, monotonic_ns
from harness.units import NS_PER_S

READ_BYTES = 65_536

PROMPT_NS = 200_000  # a read this soon after its last byte was waited for: nothing of it had lain there for long
UNKNOWN = -1  # instead of a lateness where the kernel gives no stamp

OnData = Callable[[bytes, int, int, int], None]
"""Bytes, when the last had arrived (monotonic ns), how much later they were read, and how much earlier the first came.

The last number (ns) is a bound, 0 where the read was prompt: of the bytes of a read the kernel stamps the last alone.
"""
OnEnd = Callable[[OSError | None], None]
"""The peer has closed (None), or the connection broke."""


class Channel(Protocol):
    """What a connection writes to."""

    def send(self, data: bytes) -> tuple[int, int]:
        """Hand bytes over: when they left (monotonic ns), and how much later that may have been (ns)."""

    def close(self) -> None:
        """Close at once; nothing is called back any more."""


class StampedSocket:
    """A plain TCP connection; calls `on_data` for each read and `on_end` once, never after `close`."""

    __slots__ = ("_clock", "_fd", "_on_data", "_on_end", "_poller", "_recvmsg", "_sock", "_stamped", "_unsent")

    def __init__(self, sock: socket.socket, poller: Poller, clock: StampClock, on_data: OnData, on_end: OnEnd) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._poller = poller
        self._clock = clock
        self._on_data = on_data
        self._on_end = on_end
        self._recvmsg = sock.recvmsg
        self._unsent = bytearray()
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stamped = kernel_stamps.enable(sock, sends=True)
        poller.watch(self._fd, self._read)

    def _read(self) -> None:
        try:
            data, control, _, _ = self._recvmsg(READ_BYTES, CONTROL_BYTES)
        except BlockingIOError:
            if self._stamped:  # woken by the stamp of a send that left after its call had returned
                late_stamp(self._sock)
            return
        except OSError as fault:
            self._end(fault)
            return
        now_ns = monotonic_ns()
        if not data:
            self._end(None)
            return
        if not control:
            self._on_data(data, now_ns, UNKNOWN, 0)
            return
        # As `kernel_stamps.stamp_of`, in place: this runs for every token. Only stamps come as control data here.
        seconds, nanoseconds = timespec(control[0][2])
        late_ns = now_ns + self._clock.offset_ns - (seconds * NS_PER_S + nanoseconds)
        if 0 < late_ns < PROMPT_NS:
            self._on_data(data, now_ns - late_ns, late_ns, 0)
        elif late_ns <= 0:  # within what the relation of the clocks leaves open
            self._on_data(data, now_ns, 0, 0)
        else:
            arrived_ns = now_ns - late_ns
            self._on_data(data, arrived_ns, late_ns, max(0, arrived_ns - self._poller.clear_ns))

    def send(self, data: bytes) -> tuple[int, int]:
        """Hand bytes over: when they left (monotonic ns), and how much later that may have been (ns)."""
        if self._unsent:
            self._unsent += data
            return monotonic_ns(), 0
        try:
            taken, left_ns, bound_ns = self._hand_over(data)
        except BlockingIOError:
            taken, left_ns, bound_ns = 0, monotonic_ns(), 0
        except OSError as fault:
            asyncio.get_running_loop().call_soon(self._end, fault)
            return monotonic_ns(), 0
        if taken < len(data):
            self._unsent += memoryview(data)[taken:]
            self._poller.watch_writes(self._fd, self._write_rest)
        return left_ns, bound_ns

    def _hand_over(self, data: bytes) -> tuple[int, int, int]:
        if self._stamped:
            return stamped_send(self._sock, data, self._clock)
        before_ns = monotonic_ns()
        taken = self._sock.send(data)
        return taken, before_ns, monotonic_ns() - before_ns

    def _write_rest(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError as fault:
            self._end(fault)
            return
        if not self._unsent:
            self._poller.unwatch_writes(self._fd)

    def _end(self, fault: OSError | None) -> None:
        if self._fd >= 0:
            self.close()
            self._on_end(fault)

    def close(self) -> None:
        """Close at once; what is still unsent is dropped."""
        if self._fd >= 0:
            self._poller.unwatch(self._fd)
            self._fd = -1
            self._sock.close()


class TlsSocket:
    """TLS over a stamped socket, after its handshake; the same calls with plain bytes."""

    __slots__ = ("_from_peer", "_on_data", "_on_end", "_session", "_socket", "_to_peer")

    def __init__(self, context: ssl.SSLContext, host: str, on_data: OnData, on_end: OnEnd) -> None:
        self._from_peer, self._to_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._from_peer, self._to_peer, server_hostname=host)
        self._on_data = on_data
        self._on_end = on_end
        self._socket: StampedSocket | None = None

    async def handshake(self, sock: socket.socket) -> None:
        """Agree with the peer on a connected non-blocking socket.

        Raises:
            ssl.SSLError: where its certificate or what it says is not accepted.
            ConnectionResetError: where it leaves.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._session.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                await loop.sock_sendall(sock, self._to_peer.read())  # the alert that tells the peer why
                raise
            if said := self._to_peer.read():
                await loop.sock_sendall(sock, said)
            if done:
                return
            told = await loop.sock_recv(sock, READ_BYTES)
            if not told:
                raise ConnectionResetError("the server closed the connection during the TLS handshake")
            self._from_peer.write(told)

    def start(self, sock: socket.socket, poller: Poller, clock: StampClock) -> None:
        """Carry data from now on."""
        self._socket = StampedSocket(sock, poller, clock, self._decrypt, self._on_end)
        if self._from_peer.pending:  # came with the end of the handshake
            self._decrypt(b"", monotonic_ns(), 0, 0)

    def _decrypt(self, data: bytes, arrived_ns: int, late_ns: int, spread_ns: int) -> None:
        self._from_peer.write(data)
        parts, over, fault = [], False, None
        while True:
            try:
                part = self._session.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                over = True
                break
            except ssl.SSLError as broken:
                over, fault = True, broken
                break
            if not part:
                over = True
                break
            parts.append(part)
        if parts:
            self._on_data(b"".join(parts), arrived_ns, late_ns, spread_ns)
        if over and self._socket is not None:
            self.close()
            self._on_end(fault)

    def send(self, data: bytes) -> tuple[int, int]:
        """As `StampedSocket.send`; the stamp is that of the encrypted bytes."""
        assert self._socket is not None
        begun_ns = monotonic_ns()
        self._session.write(data)
        left_ns, bound_ns = self._socket.send(self._to_peer.read())
        return begun_ns if bound_ns else left_ns, bound_ns

    def close(self) -> None:
        """Close at once."""
        if self._socket is not None:
            self._socket.close()
