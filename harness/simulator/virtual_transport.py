"""A transport of the load without a socket: requests to a simulated engine in the same process, in virtual time.

Requests and answers are the bytes that the HTTP server (harness/simulator/server.py) reads and writes, so that all that
comes after a socket works on them: the journal, the decoding, the accounts. Nothing is added to the engine's times: an
answer's bytes are stamped at the end of the step that made them. A request that an answer sets free comes when the next
step has begun, as it does over a socket.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec

from harness.client.connection import InFlightRequest
from harness.client.transport import STOPPED, too_late
from harness.clock import Clock
from harness.simulator.deployment import Deployment
from harness.simulator.request_bodies import ENDPOINT_OF, parse_body
from harness.simulator.request_parsing import Refusal, decode_body
from harness.simulator.service import SIMULATED_HEADER, Service

_LAST_CHUNK = b"0\r\n\r\n"
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found"}
_STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}


@dataclass(slots=True)
class _Exchange:
    """A request under way: the call that ends it when it is too old, and its answer once the engine has it."""

    expiry: asyncio.TimerHandle
    answer: Any = None  # of the service's own kind


@dataclass(slots=True)
class VirtualTransport:
    """A transport of the load (harness/client/load.py) to an engine in the same process, by the same clock."""

    service: Service | Deployment
    clock: Clock
    timeout_ns: int
    _busy: dict[InFlightRequest, _Exchange] = field(default_factory=dict)

    def send(self, request: InFlightRequest) -> None:
        """Send now; the engine has it when all that happens at this moment has happened."""
        request.sent_ns = self.clock.now_ns()
        expiry = self.clock.call_at(request.sent_ns + self.timeout_ns, lambda: self._expire(request))
        self._busy[request] = _Exchange(expiry)
        asyncio.get_running_loop().call_soon(self._receive, request)

    def cancel_all(self) -> None:
        """Give up everything in flight, as cancelled."""
        for request in list(self._busy):
            self._give_up(request, *STOPPED)

    def _receive(self, request: InFlightRequest) -> None:
        """Hand a request to the engine, or refuse it."""
        exchange = self._busy.get(request)
        if exchange is None:  # given up at once
            return
        head, _, body = request.payload.partition(b"\r\n\r\n")
        try:
            ask = parse_body(decode_body(body), self.service.serving, _endpoint(head))
        except Refusal as refusal:
            self._whole(request, refusal.status, refusal.body)
            return
        if not ask.stream:
            answer = self.service.answer(ask, None, lambda: self._whole(request, 200, answer.body()))
            exchange.answer = answer
            return

        def write(data: bytes) -> None:
            request.pieces.append(data)
            request.stamps.append(self.clock.now_ns())

        def whole() -> None:
            write(_LAST_CHUNK)
            self._end(request)

        write(_head(200, _STREAM))
        exchange.answer = self.service.answer(ask, write, whole)

    def _whole(self, request: InFlightRequest, status: int, body: dict[str, Any]) -> None:
        """Answer a request in one piece."""
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json; charset=utf-8", "Content-Length": str(len(data))}
        request.pieces.append(_head(status, headers) + data)
        request.stamps.append(self.clock.now_ns())
        self._end(request)

    def _expire(self, request: InFlightRequest) -> None:
        self._give_up(request, *too_late(self.timeout_ns))

    def _give_up(self, request: InFlightRequest, failure: str, words: str) -> None:
        answer = self._busy[request].answer
        if answer is not None:
            self.service.abort(answer)
        request.failure, request.message = failure, words
        self._end(request)

    def _end(self, request: InFlightRequest) -> None:
        self._busy.pop(request).expiry.cancel()
        request.done_ns = self.clock.now_ns()
        request.lates = [0] * len(request.stamps)
        request.on_done(request)


def _endpoint(head: bytes) -> str:
    """The API that a request goes to, by its path."""
    return ENDPOINT_OF[head[: head.find(b"\r\n")].split(b" ")[1].decode()]


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}", f"{SIMULATED_HEADER}: 1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()
