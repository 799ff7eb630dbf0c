"""Requests to the reference server, and the bytes that carry each token of an answer.

Nothing is decoded: a prompt may have 100 kB, and the loop that reads it also sends tokens on time
of some microseconds. Keys are found by a byte search; a quote inside a JSON string is
escaped, so `"max_tokens"` followed by a colon can only be the key.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

HEAD_LIMIT = 64 << 10
BODY_LIMIT = 256 << 20
TOKEN_LIMIT = 1_000_000
_NEAR = 8  # bytes in which a colon or bracket follows its key
DEFAULT_TOKENS = 16  # what the completions API takes where max_tokens is left out

COMPLETIONS = b"/v1/completions"
CHAT = b"/v1/chat/completions"

_REQUEST_LINE = re.compile(rb"([A-Z]+) (/[^ \r\n]*) HTTP/1\.([01])")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r\n]*)")
_NUMBER = re.compile(rb"\s*:\s*(-?\d+)(?![\d.eE])")
_TRUE = re.compile(rb"\s*:\s*true\b")


class BadRequestError(Exception):
    """Something that is no request, or asks for what is not served; answered with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request; `size` is its bytes with the blank line, `body` those that follow."""

    method: bytes
    path: bytes
    size: int
    body: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """What decides the bytes of every event but the last: hashable, the key of prepared answers."""

    chat: bool
    prompt_tokens: int
    continuous: bool  # a running usage in every event
    token_ids: bool


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What one completion request wants: `tokens` tokens, as a stream or in one piece."""

    shape: AnswerShape
    tokens: int
    streamed: bool
    usage: bool  # a usage event after the last token


def parse_head(buffer: bytearray) -> RequestHead | None:
    """The head that starts `buffer`; None while it is not all there.

    Raises:
        BadRequestError: where it is no HTTP/1.x head, or says no usable body length.
    """
    end = buffer.find(b"\r\n\r\n", 0, HEAD_LIMIT)
    if end < 0:
        if len(buffer) >= HEAD_LIMIT:
            raise BadRequestError(431, f"head longer than {HEAD_LIMIT} bytes")
        return None
    line = _REQUEST_LINE.match(buffer)
    if line is None or buffer[line.end() : line.end() + 2] != b"\r\n":
        raise BadRequestError(400, "expected a request line such as POST /v1/completions HTTP/1.1")
    fields = bytes(buffer[line.end() : end]).lower()
    closes = b"\r\nconnection: close" in fields or (line[3] == b"0" and b"keep-alive" not in fields)
    return RequestHead(line[1], line[2].partition(b"?")[0], end + 4, _body_length(fields), not closes)


def _body_length(fields: bytes) -> int:
    if b"\r\ntransfer-encoding:" in fields:
        raise BadRequestError(400, "transfer-encoding is not served; expected content-length")
    lengths = set(_LENGTH.findall(fields))
    text = lengths.pop().strip() if lengths else b"0"
    if lengths or not text.isdigit():
        raise BadRequestError(400, "expected one content-length, a whole number")
    if int(text) > BODY_LIMIT:
        raise BadRequestError(413, f"body longer than {BODY_LIMIT} bytes")
    return int(text)


def parse_completion(path: bytes, body: bytes) -> CompletionRequest:
    """What the body of a completion or chat request asks for.

    Raises:
        BadRequestError: where the body is no JSON object, or max_tokens is out of range.
    """
    if body[:1] != b"{" or body[-1:] != b"}":
        raise BadRequestError(400, "expected a JSON object as the body")
    prompt_tokens, rest = _prompt(body)
    usage = _is_true(rest, b'"include_usage"')
    continuous = usage and _is_true(rest, b'"continuous_usage_stats"')
    shape = AnswerShape(path == CHAT, prompt_tokens, continuous, _is_true(rest, b'"return_token_ids"'))
    return CompletionRequest(shape, _max_tokens(rest), _is_true(rest, b'"stream"'), usage)


def _max_tokens(body: bytes) -> int:
    for key in (b'"max_completion_tokens"', b'"max_tokens"'):
        after = _after_key(body, key)
        if after >= 0:
            number = _NUMBER.match(body, after)
            if number is None or not 1 <= int(number[1]) <= TOKEN_LIMIT:
                raise BadRequestError(400, f"{key.decode()} is out of range; expected 1 to {TOKEN_LIMIT}")
            return int(number[1])
    return DEFAULT_TOKENS


def _prompt(body: bytes) -> tuple[int, bytes]:
    """Tokens of the prompt (words, where it is a text or messages), and the body without its token ids."""
    start = _after_key(body, b'"prompt"')
    if start < 0:
        return 1 + body.count(b" ", max(0, _after_key(body, b'"messages"'))), body
    opening = body.find(b"[", start, start + _NEAR)
    if opening < 0:
        return 1 + body.count(b" ", start + 2, body.find(b'"', start + 3)), body
    closing = max(opening, body.find(b"]", opening))
    commas = body.count(b",", opening, closing)
    return commas + 1 if commas or body[opening + 1 : closing].strip() else 0, body[:opening] + body[closing:]


def _is_true(body: bytes, key: bytes) -> bool:
    after = _after_key(body, key)
    return after >= 0 and _TRUE.match(body, after) is not None


def _after_key(body: bytes, key: bytes) -> int:
    """Where the text after `key` begins; -1 where it does not occur as a key."""
    at = body.find(key)
    while at >= 0:
        after = at + len(key)
        if body[after : after + _NEAR].lstrip()[:1] == b":":
            return after
        at = body.find(key, after)
    return -1


FIELDS = b"server: reference-server\r\nx-npu-harness-simulated: 1\r\n"  # a run against it says so everywhere
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


class AnswerScript:
    """The events of all answers of one shape; event i carries tokens [i·k, (i+1)·k)."""

    __slots__ = ("_lasts", "_model", "_per_event", "_shape", "events")

    events: list[bytes]  # those that were needed so far, in order

    def __init__(self, shape: AnswerShape, model: str, per_event: int) -> None:
        self._shape = shape
        self._model = model
        self._per_event = per_event
        self._lasts: dict[CompletionRequest, bytes] = {}
        self.events = []

    def grow(self) -> bytes:
        """The bytes of the next event that no answer needed so far; the first opens the response."""
        step = len(self.events)
        data = chunk(self._event(step * self._per_event, (step + 1) * self._per_event, None))
        self.events.append(self._opening() + data if step == 0 else data)
        return self.events[step]

    def last(self, ask: CompletionRequest) -> bytes:
        """The bytes of the last event of an answer and all that follows it."""
        event = self._lasts.get(ask)
        if event is None:
            event = self._lasts[ask] = self._ending(ask) if ask.streamed else whole(200, self._unstreamed(ask))
        return event

    def steps(self, ask: CompletionRequest) -> int:
        """Events of an answer; an unstreamed answer is one."""
        return -(-ask.tokens // self._per_event) if ask.streamed else 1

    def _opening(self) -> bytes:
        if not self._shape.chat:
            return HEAD
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return HEAD + chunk(self._data([role], 0 if self._shape.continuous else None))

    def _ending(self, ask: CompletionRequest) -> bytes:
        begin = (self.steps(ask) - 1) * self._per_event
        head = self._opening() if begin == 0 else b""
        usage = chunk(self._data([], ask.tokens)) if ask.usage else b""
        return head + chunk(self._event(begin, ask.tokens, "length")) + usage + chunk(DONE) + END

    def _unstreamed(self, ask: CompletionRequest) -> bytes:
        text = " tok" * ask.tokens
        content = {"message": {"role": "assistant", "content": text}} if self._shape.chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": "length"}
        return json.dumps(self._object([choice], ask.tokens, "")).encode()

    def _event(self, begin: int, end: int, finish: str | None) -> bytes:
        text = " tok" * (end - begin)
        content = {"delta": {"content": text}} if self._shape.chat else {"text": text}
        choice: dict[str, Any] = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
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
def script_of(shape: AnswerShape, model: str, per_event: int) -> AnswerScript:
    """The script of a shape; those used last are kept."""
    return AnswerScript(shape, model, per_event)
