"""Stand-ins as small as the seams that they fill."""

import json
from dataclasses import dataclass, field

from harness.client.connection import InFlightRequest
from harness.client.load import PreparedRequest
from harness.engines import interpreter_query
from harness.workload import Session, Turn


def event(text=" a", tokens=None, usage=None, ids=None):
    """One streamed completion event as JSON text."""
    choice = {"index": 0, "text": text}
    if ids is not None:
        choice["token_ids"] = ids
    said = {"id": "cmpl-1", "object": "text_completion", "choices": [choice]}
    if usage is not None:
        said["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(said)


def sse_body(*events, done=True):
    """Events as the text of a server-sent event stream."""
    blocks = [f"data: {text}\n\n" for text in events]
    return "".join([*blocks, "data: [DONE]\n\n"] if done else blocks).encode()


def chunked(*parts):
    """Parts as the chunks of a complete chunked answer with a head."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def answered(*events):
    """A complete streamed answer, one chunk an event."""
    return chunked(*(f"data: {text}\n\n".encode() for text in events), b"data: [DONE]\n\n")


@dataclass
class FakeWire:
    """Answers every request after a fixed service time, in the clock's time; counts what is under way."""

    clock: object
    service_ns: int
    answer: bytes = answered(event(ids=[7]))
    failure: str = ""
    busy: dict = field(default_factory=dict)
    most: int = 0

    def send(self, request: InFlightRequest) -> None:
        """Stamp the start and promise an answer."""
        request.sent_ns = self.clock.now_ns()
        self.busy[request] = True
        self.most = max(self.most, len(self.busy))
        self.clock.call_at(request.sent_ns + self.service_ns, lambda: self._answer(request))

    def _answer(self, request):
        if request not in self.busy:
            return
        del self.busy[request]
        request.done_ns = self.clock.now_ns()
        request.failure = self.failure
        request.pieces, request.stamps = [self.answer], [request.done_ns]
        request.on_done(request)

    def cancel_all(self) -> None:
        """Give up everything in flight."""
        for request in list(self.busy):
            del self.busy[request]
            request.failure, request.done_ns = "cancelled", self.clock.now_ns()
            request.on_done(request)


@dataclass
class FakeBooks:
    """Keeps what was written down."""

    started: list = field(default_factory=list)
    ended: list = field(default_factory=list)

    def sent(self, request, prepared) -> None:
        """Keep a start."""
        self.started.append((request, prepared))

    def over(self, request) -> None:
        """Keep an end."""
        self.ended.append(request)


def one_turn(index, *, measured=True):
    """A prepared of a session of one request."""
    return PreparedRequest(Session(index, (Turn(8, 4, 0),)), 0, b"request", 8, 4, measured)


def overheard(tmp_path, monkeypatch):
    """What an engine's interpreter is asked from now on, in order; no kept answers of other runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words, ask = [], interpreter_query.output_of

    def counting(command, *rest):
        words.append(command[2])
        return ask(command, *rest)

    monkeypatch.setattr(interpreter_query, "output_of", counting)
    return words
