"""What does a request ask the metronome for?

Nothing is decoded: a prompt may have 100 kB, and the loop that reads it also keeps a beat
of some microseconds. Keys are found by a byte search; a quote inside a JSON string is
escaped, so `"max_tokens"` followed by a colon can only be the key.
"""

import re
from dataclasses import dataclass

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
class Head:
    """The head of a request; `size` is its bytes with the blank line, `body` those that follow."""

    method: bytes
    path: bytes
    size: int
    body: int
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the bytes of every event but the last: hashable, the key of prepared answers."""

    chat: bool
    prompt_tokens: int
    continuous: bool  # a running usage in every event
    token_ids: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """What one completion request wants: `tokens` tokens, as a stream or in one piece."""

    shape: Shape
    tokens: int
    streamed: bool
    usage: bool  # a usage event after the last token


def parse_head(buffer: bytearray) -> Head | None:
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
    return Head(line[1], line[2].partition(b"?")[0], end + 4, _body_length(fields), not closes)


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


def parse_ask(path: bytes, body: bytes) -> Ask:
    """What the body of a completion or chat request asks for.

    Raises:
        BadRequestError: where the body is no JSON object, or max_tokens is out of range.
    """
    if body[:1] != b"{" or body[-1:] != b"}":
        raise BadRequestError(400, "expected a JSON object as the body")
    prompt_tokens, rest = _prompt(body)
    usage = _is_true(rest, b'"include_usage"')
    continuous = usage and _is_true(rest, b'"continuous_usage_stats"')
    shape = Shape(path == CHAT, prompt_tokens, continuous, _is_true(rest, b'"return_token_ids"'))
    return Ask(shape, _max_tokens(rest), _is_true(rest, b'"stream"'), usage)


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
