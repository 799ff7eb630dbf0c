"""The client of one target: it sends request bytes and stamps what comes back.

The client of one target: it keeps connections, opens what is missing, and times out what takes
too long. A request's bytes are complete before it is due, and each connection stamps for itself
(harness/client/connection.py); nothing is decoded on the way.
"""

import asyncio
import socket
import ssl

from harness.client import kernel_stamps
from harness.client.connection import Connection, InFlightRequest
from harness.client.poller import Poller
from harness.client.stamped_socket import StampedSocket, TlsSocket
from harness.client.target import Target, Trust, is_this_host, post_bytes, request_bytes, target_of
from harness.clock import Clock, StampClock
from harness.errors import EngineError
from harness.messages import message
from harness.results.request_table import MISSING
from harness.safety import bounds
from harness.units import NS_PER_S

__all__ = ["Client", "Target", "Trust", "post_bytes", "request_bytes", "target_of"]

Address = tuple[int, str, int]
"""Family, host and port."""

_ONE_ADDRESS_S = 3.0  # how long one address of several may take to connect before the next is tried
_SWEEP_NS = 500_000_000
STOPPED = ("cancelled", "the run was stopped")
"""The failure of a request that was given up, and its words."""


def too_late(timeout_ns: int) -> tuple[str, str]:
    """The failure of a request that took longer than this, and its words."""
    return "timeout", f"no complete answer within {timeout_ns / NS_PER_S:g} s"


class Client:
    """Connections to one target: keeps idle ones, opens what is missing, times out what takes too long."""

    def __init__(self, target: Target, clock: Clock, timeout_ns: int, workers: int = 1) -> None:
        """`workers` is how many clients share what a run may hold of answers in flight."""
        self.clock = clock
        self.held = 0
        self.most_held = bounds.HELD_BYTES // workers
        self._target = target
        self._timeout_ns = timeout_ns
        self._tls = target.trust.context() if target.scheme == "https" else None
        self._addresses: list[Address] = []
        self._idle: list[Connection] = []
        self._busy: dict[InFlightRequest, Connection | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._weighed: dict[
            InFlightRequest, tuple[int, int]
        ] = {}  # reads and bytes of long answers, when last looked at
        self._timer: asyncio.TimerHandle | None = None
        self.stamps = StampClock()
        self._stamping = kernel_stamps.switch_on()
        self._poller = Poller(asyncio.get_running_loop(), self.stamps)

    async def resolve(self) -> None:
        """Look the host up once, so that no request waits for a name server.

        Raises:
            EngineError: where the name is not known.
        """
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as fault:
            raise EngineError(
                message("client.unknown_host", url=self._target.url, host=self._target.host, reason=str(fault))
            ) from None
        self._addresses = list(
            dict.fromkeys((family, str(place[0]), int(place[1])) for family, _, _, _, place in addresses)
        )

    @property
    def shares_host(self) -> bool:
        """Whether the server is on this host: one of its addresses can be bound here."""
        return any(is_this_host(host) for _, host, _ in self._addresses)

    async def open(self, count: int) -> None:
        """Open connections until `count` are idle; a server that refuses is left for the requests to tell."""
        for _ in range(count - len(self._idle)):
            try:
                self._idle.append(await self._connect())
            except OSError:
                return

    @property
    def idle(self) -> int:
        """Connections open and free."""
        return len(self._idle)

    @property
    def in_flight(self) -> int:
        """Exchanges begun and not over."""
        return len(self._busy)

    def send(self, request: InFlightRequest) -> None:
        """Send a request now: on an idle connection, or on a new one as soon as it is open."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._track(request, connection)
                connection.start(request)
                return
        self._track(request, None)
        task = asyncio.get_running_loop().create_task(self._send_on_new(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _track(self, request: InFlightRequest, connection: Connection | None) -> None:
        self._busy[request] = connection
        if self._timer is None:
            self._set_timer(self.clock.now_ns() + self._timeout_ns)

    def _set_timer(self, expiry_ns: int) -> None:
        self._timer = self.clock.call_at(min(expiry_ns, self.clock.now_ns() + _SWEEP_NS), self._look_after)

    async def _send_on_new(self, request: InFlightRequest) -> None:
        begun_ns = self.clock.now_ns()
        try:
            connection = await self._connect()
        except (OSError, EngineError) as fault:
            self._not_connected(request, fault)
            return
        request.connect_ns += self.clock.now_ns() - begun_ns
        if request in self._busy:
            del self._busy[request]  # it begins now: behind all that have begun before
            self._busy[request] = connection
            connection.start(request)
        else:  # timed out or given up while connecting
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        """A connection to the first address that takes one; that address is tried first from then on.

        A name may have several addresses of which only some are served: localhost is ::1 and 127.0.0.1.
        """
        if not self._addresses:
            await self.resolve()
        first: OSError | None = None
        for address in list(self._addresses):
            last = address == self._addresses[-1]
            try:
                connection = await asyncio.wait_for(self._connect_to(address), None if last else _ONE_ADDRESS_S)
            except ssl.SSLError:
                raise  # somebody is there
            except (OSError, asyncio.TimeoutError) as fault:
                refused = fault if isinstance(fault, OSError) else TimeoutError(f"no answer from {address[1]}")
                first = first or refused
            else:
                if self._addresses[0] != address:
                    self._addresses.remove(address)
                    self._addresses.insert(0, address)
                return connection
        assert first is not None
        raise first

    async def _connect_to(self, address: Address) -> Connection:
        family, *place = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        connection = Connection(self)
        try:
            await asyncio.get_running_loop().sock_connect(sock, tuple(place))
            if self._tls is None:
                calls = (connection.data_received, connection.connection_lost)
                connection.open(StampedSocket(sock, self._poller, *calls))
            else:
                await self._open_tls(sock, connection, self._tls)
        except BaseException:
            sock.close()
            raise
        return connection

    async def _open_tls(self, sock: socket.socket, connection: Connection, context: ssl.SSLContext) -> None:
        channel = TlsSocket(context, self._target.host, connection.data_received, connection.connection_lost)
        await channel.handshake(sock)
        connection.open(channel)
        channel.start(sock, self._poller)

    def _not_connected(self, request: InFlightRequest, fault: Exception) -> None:
        names: tuple[tuple[type[Exception], str], ...] = (
            (ssl.SSLError, "tls"),
            (ConnectionRefusedError, "refused"),
            (ConnectionResetError, "reset"),
            (TimeoutError, "connect_timeout"),
        )
        if request in self._busy:
            request.failure = next((name for kind, name in names if isinstance(fault, kind)), "no_connection")
            request.message = _words(fault)
            request.done_ns = self.clock.now_ns()
            self.over(request)

    def release(self, connection: Connection) -> None:
        """Take a connection back whose answer is complete."""
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is gone."""
        if connection in self._idle:
            self._idle.remove(connection)

    def over(self, request: InFlightRequest) -> None:
        """A request has ended, one way or the other."""
        self._busy.pop(request, None)
        request.on_done(request)

    def _look_after(self) -> None:
        """Fail what is too old or too long; requests are in the order of their begin, so the oldest come first."""
        self._timer = None
        self._sweep()
        now_ns = self.clock.now_ns()
        while self._busy:
            request = next(iter(self._busy))
            begun_ns = request.sent_ns if request.sent_ns != MISSING else request.ready_ns
            if begun_ns + self._timeout_ns > now_ns:
                self._set_timer(begun_ns + self._timeout_ns)
                return
            self._give_up(request, *too_late(self._timeout_ns))

    def _sweep(self) -> None:
        """End floods that come in many small reads, which the connections do not count: they are the hot path."""
        odd = [(e, c) for e, c in self._busy.items() if len(e.pieces) > bounds.usual_reads(e.asked) and c is not None]
        weighed, self._weighed = self._weighed, {}
        held = 0
        for request, connection in odd:
            reads, (known, size) = len(request.pieces), weighed.get(request, (0, 0))
            size += sum(map(len, request.pieces[known:]))
            self._weighed[request] = reads, size
            beyond = size + reads * bounds.READ_BYTES - bounds.explained_bytes(request.asked)
            held += max(0, beyond)
            crowded = held > self.most_held and beyond > bounds.FAIR_BYTES
            if crowded or size + reads * bounds.READ_BYTES > connection.limit_of(request):
                connection.fail_too_long(size)

    def cancel_all(self) -> None:
        """Give up everything in flight, as cancelled."""
        for request in list(self._busy):
            self._give_up(request, *STOPPED)

    def _give_up(self, request: InFlightRequest, failure: str, words: str) -> None:
        connection = self._busy.get(request)
        if connection is not None:
            connection.fail(failure, words)
        if request in self._busy:  # still connecting
            request.failure, request.message = failure, words
            request.done_ns = self.clock.now_ns()
            self.over(request)

    async def close(self) -> None:
        """Close every connection and wait for what was still connecting."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._idle):
            connection.close()
        self._idle.clear()
        self._poller.close()
        self._stamping.close()


def _words(fault: Exception) -> str:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return (
            f"the certificate is not trusted ({fault.verify_message}); expected engine.tls.ca: FILE, "
            "or SSL_CERT_FILE in the environment, with the authority that signed it"
        )
    return str(fault)
