"""Which bytes carry each token of an answer?

Events look like vLLM's: one JSON object of some 200 to 250 bytes, each in a chunk of its
own. They are made once for all answers of one shape, the first time a token is needed, so
that sending one is a list look-up and a system call.
"""

import json
from functools import lru_cache
from typing import Any

from harness.metronome.request import Ask, Shape

FIELDS = b"server: metronome\r\nx-npu-harness-simulated: 1\r\n"  # a run against it says so everywhere
HEAD = (
    b"HTTP/1.1 200 OK\r\n%bcontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n" % FIELDS
)
DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large"}

_TOKEN_ID = 1_000_000  # plus its position: no two tokens of an answer are the same
_CREATED = 1_700_000_000


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(status: int, content: bytes, content_type: str = "application/json") -> bytes:
    """A response whose length is known."""
    line = f"HTTP/1.1 {status} {REASONS.get(status, 'Refused')}\r\n".encode()
    fields = f"content-type: {content_type}\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    return line + FIELDS + fields + content


class Script:
    """The events of all answers of one shape; event i carries tokens [i·k, (i+1)·k)."""

    __slots__ = ("_lasts", "_model", "_per_event", "_shape", "events")

    events: list[bytes]  # those that were needed so far, in order

    def __init__(self, shape: Shape, model: str, per_event: int) -> None:
        self._shape = shape
        self._model = model
        self._per_event = per_event
        self._lasts: dict[Ask, bytes] = {}
        self.events = []

    def grow(self) -> bytes:
        """The bytes of the next event that no answer needed so far; the first opens the response."""
        step = len(self.events)
        data = chunk(self._event(step * self._per_event, (step + 1) * self._per_event, None))
        self.events.append(self._opening() + data if step == 0 else data)
        return self.events[step]

    def last(self, ask: Ask) -> bytes:
        """The bytes of the last event of an answer and all that follows it."""
        found = self._lasts.get(ask)
        if found is None:
            found = self._lasts[ask] = self._ending(ask) if ask.streamed else whole(200, self._unstreamed(ask))
        return found

    def steps(self, ask: Ask) -> int:
        """Events of an answer; an unstreamed answer is one."""
        return -(-ask.tokens // self._per_event) if ask.streamed else 1

    def _opening(self) -> bytes:
        if not self._shape.chat:
            return HEAD
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return HEAD + chunk(self._data([role], 0 if self._shape.continuous else None))

    def _ending(self, ask: Ask) -> bytes:
        begin = (self.steps(ask) - 1) * self._per_event
        head = self._opening() if begin == 0 else b""
        usage = chunk(self._data([], ask.tokens)) if ask.usage else b""
        return head + chunk(self._event(begin, ask.tokens, "length")) + usage + chunk(DONE) + END

    def _unstreamed(self, ask: Ask) -> bytes:
        text = " tok" * ask.tokens
        said = {"message": {"role": "assistant", "content": text}} if self._shape.chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
        return json.dumps(self._object([choice], ask.tokens, "")).encode()

    def _event(self, begin: int, end: int, finish: str | None) -> bytes:
        text = " tok" * (end - begin)
        said = {"delta": {"content": text}} if self._shape.chat else {"text": text}
        choice: dict[str, Any] = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        if self._shape.token_ids:
            choice["token_ids"] = [_TOKEN_ID + position for position in range(begin, end)]
        return self._data([choice], end if self._shape.continuous else None)

    def _data(self, choices: list[dict[str, Any]], counted: int | None) -> bytes:
        value = self._object(choices, counted, ".chunk" if self._shape.chat else "")
        return b"data: %b\n\n" % json.dumps(value, separators=(",", ":")).encode()

    def _object(self, choices: list[dict[str, Any]], counted: int | None, suffix: str) -> dict[str, Any]:
        name = "chat.completion" if self._shape.chat else "text_completion"
        identity = {"id": "cmpl-0123456789abcdef0123456789abcdef", "object": name + suffix}
        usage = {} if counted is None else {"usage": self._usage(counted)}
        return {**identity, "created": _CREATED, "model": self._model, "choices": choices, **usage}

    def _usage(self, counted: int) -> dict[str, int]:
        prompt = self._shape.prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + counted, "completion_tokens": counted}


@lru_cache(maxsize=1024)
def script_of(shape: Shape, model: str, per_event: int) -> Script:
    """The script of a shape; those used last are kept."""
    return Script(shape, model, per_event)
