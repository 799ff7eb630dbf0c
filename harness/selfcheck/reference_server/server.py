"""The reference server: tokens at known times on a thousand streams from one core.

One epoll loop over non-blocking sockets. Answers wait in two queues, one for first tokens
and one for the rest: as all have the same `first_ns` and `gap_ns`, appending keeps both
ordered by due time, and a due token costs a look-up and a system call. Sockets are read
between every few tokens and requests are looked into later, so that neither a burst of
tokens nor one of requests ages an unread request.
"""

import json
import select
import socket
from array import array
from collections import deque
from collections.abc import Sequence

from harness.client.kernel_stamps import (
    CONTROL_BYTES,
    enable,
    enable_accepted,
    late_stamp,
    stamp_of,
    stamped_send,
)
from harness.clock import StampClock, monotonic_ns
from harness.selfcheck.reference_server.ground_truth import GroundTruthLog, TokenSchedule, summary
from harness.selfcheck.reference_server.requests import (
    CHAT,
    COMPLETIONS,
    AnswerScript,
    BadRequestError,
    CompletionRequest,
    RequestHead,
    parse_completion,
    parse_head,
    script_of,
    whole,
)
from harness.units import NS_PER_S

SENDS_A_TURN = 12
TAKES_A_TURN = 4
READ_SIZE = 256 << 10
_IDLE_NS = 3600 * NS_PER_S


class ClientConnection:
    """One client's socket: what it asked and was not answered yet, and the answer being played."""

    __slots__ = (
        "ask",
        "buffer",
        "due_ns",
        "head",
        "held",
        "left_ns",
        "over",
        "read_ns",
        "script",
        "sent_ns",
        "sock",
        "step",
        "steps",
    )

    script: AnswerScript  # this and what follows belong to the answer being played
    ask: CompletionRequest | None  # None between answers
    sent_ns: "array[int]"

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.head: RequestHead | None = None  # of the request whose body is still coming
        self.held = bytearray()  # written, but not yet taken by the socket
        self.over = False  # nothing more will be answered
        self.ask = None
        self.due_ns = self.read_ns = self.left_ns = self.step = self.steps = 0


class TokenServer:
    """The server; `run` answers until `stop` is called or one of `stop_fds` can be read (or has ended)."""

    def __init__(self, listener: socket.socket, schedule: TokenSchedule, stop_fds: Sequence[int] = ()) -> None:
        listener.setblocking(False)
        enable_accepted(listener)
        self._clock = StampClock()
        self.truth = GroundTruthLog(schedule)
        self._schedule = schedule
        self._listener = listener
        self._stop_fds = stop_fds
        self._stopping = False
        self._firsts: deque[ClientConnection] = deque()
        self._rest: deque[ClientConnection] = deque()
        self._unread: deque[ClientConnection] = deque()  # with bytes that were not looked into
        self._connections: dict[int, ClientConnection] = {}
        self._prompt_tokens = 0
        self._epoll = select.epoll()
        for source in (listener.fileno(), *stop_fds):
            self._epoll.register(source, select.EPOLLIN)

    def stop(self) -> None:
        """Leave the loop after the present turn."""
        self._stopping = True

    def run(self) -> None:
        """Serve until stopped; answers cut short by that are logged as not ended."""
        while not self._stopping:
            self._clock.refresh_if_old()
            wait_ns = self._play()
            if (
                wait_ns and not self._unread
            ):  # by select on the epoll, because epoll's own timeout has whole milliseconds
                select.select((self._epoll,), (), (), wait_ns / NS_PER_S)
            for fd, mask in self._epoll.poll(0, 64):
                self._handle(fd, mask)
            for _ in range(min(len(self._unread), TAKES_A_TURN)):
                self._take(self._unread.popleft())
        for connection in list(self._connections.values()):
            self._leave(connection)
        self._epoll.close()

    def _play(self) -> int:
        """Send what is due, a few tokens at most; nanoseconds until the next is due."""
        firsts, rest, gap_ns = self._firsts, self._rest, self._schedule.gap_ns
        for _ in range(SENDS_A_TURN):
            queue = rest if not firsts or (rest and rest[0].due_ns <= firsts[0].due_ns) else firsts
            if not queue:
                return _IDLE_NS
            connection = queue[0]
            now_ns = monotonic_ns()
            if connection.due_ns > now_ns:
                return connection.due_ns - now_ns
            queue.popleft()
            if connection.ask is None:  # its client has left
                continue
            connection.left_ns = now_ns
            step = connection.step
            if step + 1 == connection.steps:
                self._end(connection, connection.ask)
                continue
            events = connection.script.events
            self._write(connection, events[step] if step < len(events) else connection.script.grow())
            connection.sent_ns.append(connection.left_ns)
            connection.step = step + 1
            connection.due_ns += gap_ns
            rest.append(connection)
        return 0

    def _write(self, connection: ClientConnection, data: bytes) -> None:
        if not connection.held:
            try:
                taken, connection.left_ns, _ = stamped_send(connection.sock, data, self._clock)
            except BlockingIOError:
                taken = 0
            except OSError:
                self._leave(connection)
                return
            if taken == len(data):
                return
            data = data[taken:]
            self._epoll.modify(connection.sock, select.EPOLLIN | select.EPOLLOUT)
        self.truth.held += 1
        connection.held += data

    def _end(self, connection: ClientConnection, ask: CompletionRequest) -> None:
        """Send the last token with all that follows it, log the answer, and go on to the next request."""
        self._write(connection, connection.script.last(ask))
        connection.sent_ns.append(connection.left_ns)
        if connection.ask is None:  # the write found that the client has left, and logged it
            return
        self.truth.add(connection.read_ns, ask.tokens, connection.sent_ns, ended=True)
        connection.ask = None
        if connection.over:
            self._shut(connection)
        elif connection.buffer:
            connection.read_ns = monotonic_ns()
            self._unread.append(connection)

    def _handle(self, fd: int, mask: int) -> None:
        connection = self._connections.get(fd)
        if connection is None:
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._stop_fds:
                self.stop()
            return
        if mask & select.EPOLLOUT:
            self._flush(connection)
        if mask & ~select.EPOLLOUT:
            self._read(connection)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # none left, or no descriptor for another
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            enable(sock, sends=True)
            self._connections[sock.fileno()] = ClientConnection(sock)
            self._epoll.register(sock, select.EPOLLIN)

    def _flush(self, connection: ClientConnection) -> None:
        try:
            del connection.held[: connection.sock.send(connection.held)]
        except BlockingIOError:
            return
        except OSError:
            self._leave(connection)
            return
        if not connection.held:
            self._epoll.modify(connection.sock, select.EPOLLIN)
            if connection.over and connection.ask is None:
                self._shut(connection)

    def _read(self, connection: ClientConnection) -> None:
        try:
            data, control, _, _ = connection.sock.recvmsg(READ_SIZE, CONTROL_BYTES)
        except BlockingIOError:
            late_stamp(connection.sock)  # of a send that left after its call had returned
            return
        except OSError:
            data, control = b"", []
        if not data:
            self._leave(connection)
        elif not connection.over:
            connection.buffer += data
            if connection.ask is None:  # else looked into when the present answer has ended
                stamp_ns = stamp_of(control)
                connection.read_ns = monotonic_ns() if stamp_ns is None else stamp_ns - self._clock.offset_ns
                self._unread.append(connection)

    def _take(self, connection: ClientConnection) -> None:
        """Answer the requests that are wholly there, up to one that has to be played."""
        buffer = connection.buffer
        try:
            while connection.ask is None and not connection.over:
                head = connection.head = connection.head or parse_head(buffer)
                if head is None or len(buffer) < head.size + head.body:
                    return
                body = bytes(buffer[head.size : head.size + head.body])
                del buffer[: head.size + head.body]
                connection.head = None
                connection.over = not head.keep_alive
                self._answer(connection, head, body)
        except BadRequestError as fault:
            connection.over = True
            error = {"message": str(fault), "type": "BadRequestError", "code": fault.status}
            self._reply(connection, whole(fault.status, json.dumps({"error": error}).encode()))

    def _answer(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:
        if head.path in (COMPLETIONS, CHAT):
            if head.method != b"POST":
                raise BadRequestError(405, f"{head.path.decode()} takes POST")
            self._begin(connection, parse_completion(head.path, body))
            return
        if head.method != b"GET":
            raise BadRequestError(404, f"expected POST {COMPLETIONS.decode()} or {CHAT.decode()}")
        self._reply(connection, self._page(head.path))

    def _begin(self, connection: ClientConnection, ask: CompletionRequest) -> None:
        connection.script = script_of(ask.shape, self._schedule.model, self._schedule.per_event)
        connection.ask = ask
        connection.step = 0
        connection.steps = connection.script.steps(ask)
        connection.sent_ns = array("q")
        connection.due_ns = connection.read_ns + self._schedule.first_ns
        self._prompt_tokens += ask.shape.prompt_tokens
        self._firsts.append(connection)

    def _page(self, path: bytes) -> bytes:
        if path == b"/health":
            return whole(200, b"")
        if path == b"/v1/models":
            model = {
                "id": self._schedule.model,
                "object": "model",
                "owned_by": "reference-server",
                "max_model_len": 1 << 20,
            }
            return whole(200, json.dumps({"object": "list", "data": [model]}).encode())
        if path == b"/truth":
            return whole(200, json.dumps(summary(self.truth.sent())).encode())
        if path == b"/metrics":
            return whole(200, self._metrics().encode(), "text/plain; version=0.0.4")
        raise BadRequestError(404, "expected /v1/models, /health, /metrics or /truth")

    def _metrics(self) -> str:
        playing = [connection for connection in self._connections.values() if connection.ask is not None]
        values = {
            "num_requests_running": ("gauge", len(playing)),
            "num_requests_waiting": ("gauge", 0),
            "prompt_tokens_total": ("counter", self._prompt_tokens),
            "generation_tokens_total": ("counter", self.truth.tokens + self._begun(playing)),
            "request_success_total": ("counter", len(self.truth)),
        }
        lines = (
            f'# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name="{self._schedule.model}"}} {value}\n'
            for name, (kind, value) in values.items()
        )
        return "".join(lines)

    def _begun(self, playing: list[ClientConnection]) -> int:
        return sum(connection.step for connection in playing) * self._schedule.per_event

    def _reply(self, connection: ClientConnection, data: bytes) -> None:
        self._write(connection, data)
        if connection.over and not connection.held:
            self._shut(connection)

    def _shut(self, connection: ClientConnection) -> None:
        """End our side only: closing with unread bytes would destroy the answer under way."""
        if not connection.held:
            try:
                connection.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._leave(connection)

    def _leave(self, connection: ClientConnection) -> None:
        """The client has gone, or the server ends."""
        if self._connections.pop(connection.sock.fileno(), None) is None:
            return
        if connection.ask is not None:
            self.truth.add(connection.read_ns, connection.ask.tokens, connection.sent_ns, ended=False)
            connection.ask = None
        connection.over = True
        connection.sock.close()
