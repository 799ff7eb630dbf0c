"""A connected TCP socket, plain or under TLS, with the times at which bytes arrived and sent bytes left.

Every read yields the bytes, when the kernel had them, and how much later this process read them. Under TLS
the stamps are those of the encrypted bytes that completed what could be decrypted.
"""

import asyncio
import socket
import ssl
from typing import Protocol

from harness.client import kernel_stamps
from harness.client.kernel_stamps import late_stamp, stamped_send
from harness.client.poller import READ_BYTES, OnData, OnEnd, Poller, ReadableSocket
from harness.clock import monotonic_ns


class Channel(Protocol):
    """What a connection writes to."""

    def send(self, data: bytes) -> tuple[int, int]:
        """Hand bytes over: when they left (monotonic ns), and how much later that may have been (ns)."""

    def keep(self, pieces: list[bytes], stamps: list[int], lates: list[int]) -> None:
        """From now on a read of one event may go to these lists (bytes, arrival, lateness) instead of `on_data`."""

    def keep_no_more(self) -> None:
        """Every read goes to `on_data` again."""

    def close(self) -> None:
        """Close at once; nothing is called back any more."""


class StampedSocket:
    """A plain TCP connection; calls `on_data` for each read and `on_end` once, never after `close`."""

    __slots__ = ("_fd", "_on_end", "_poller", "_sock", "_source", "_stamped", "_unsent")

    def __init__(self, sock: socket.socket, poller: Poller, on_data: OnData, on_end: OnEnd) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._poller = poller
        self._on_end = on_end
        self._unsent = bytearray()
        self._source = ReadableSocket(sock.recvmsg, on_data, self._take_stamps, self._end)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stamped = kernel_stamps.enable(sock, sends=True)
        poller.watch(self._fd, self._source)

    def keep(self, pieces: list[bytes], stamps: list[int], lates: list[int]) -> None:
        """From now on a read that is plainly one event goes to these lists, without a call for each."""
        self._source.keep(pieces, stamps, lates)

    def keep_no_more(self) -> None:
        """Call `on_data` for every read again."""
        self._source.keep_no_more()

    def _take_stamps(self) -> None:
        """Of a send that left after its call had returned: that is what made the socket ready."""
        if self._stamped:
            late_stamp(self._sock)

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
            return stamped_send(self._sock, data, self._poller.clock)
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
            if ours := self._to_peer.read():
                await loop.sock_sendall(sock, ours)
            if done:
                return
            theirs = await loop.sock_recv(sock, READ_BYTES)
            if not theirs:
                raise ConnectionResetError("the server closed the connection during the TLS handshake")
            self._from_peer.write(theirs)

    def keep(self, pieces: list[bytes], stamps: list[int], lates: list[int]) -> None:
        """Of no use here: what is read has to be decrypted first."""

    def keep_no_more(self) -> None:
        """Likewise."""

    def start(self, sock: socket.socket, poller: Poller) -> None:
        """Carry data from now on."""
        self._socket = StampedSocket(sock, poller, self._decrypt, self._on_end)
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
