"""What does one JSON event of an OpenAI-like server say?

Pure. Events of the usual schema are read strictly and in one call, which is fast. One that differs
is read leniently: what cannot be understood (null, a list of parts, an object nobody knows) says
nothing, and only an event that is no JSON at all cannot be counted.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.client.event_stream import DONE
from harness.safety.bounds import LARGE_BYTES, MAX_PARTS, MAX_TOKENS, MESSAGE_CHARS
from harness.safety.redaction import redact

SOMETHING = "\0"  # stands for content that is no text, such as a call of a tool
_DIGITS = 20  # of a number in JSON; longer ones count nothing that exists
_TEXTS = ("content", "reasoning", "reasoning_content", "thinking", "refusal")
_CALLS = ("tool_calls", "function_call", "audio")
_FAILED_FINISHES = ("error", "abort", "insufficient_system_resource")
_FAILED = ("error", "failed")


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Counts by the server so far; any may be missing, and none is checked yet."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class Delta(msgspec.Struct, gc=False):
    """What a message gains, or all of it."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    role: str | None = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class Choice(msgspec.Struct, gc=False):
    """One answer's part in an event."""

    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    error: Any = None


class Event(msgspec.Struct, gc=False):
    """One event, or a whole answer; the last two are ours, not the server's."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    detail: Any = None
    object: str | None = None
    message: str | None = None
    code: Any = None
    type: str | None = None
    status: Any = None
    malformed: str | None = msgspec.field(default=None, name="npu-harness malformed")
    done: bool = msgspec.field(default=False, name="npu-harness done")


_decode = msgspec.json.Decoder(Event).decode
_decode_all = msgspec.json.Decoder(list[Event]).decode


def events_of(datas: Sequence[bytes]) -> list[Event]:
    """Events from their JSON: all in one call, which is much faster; one by one where any is odd."""
    events: list[Event] = []
    joined = b",".join(datas)
    if len(joined) < 2 * LARGE_BYTES:  # else one of them is large
        with contextlib.suppress(ValueError, RecursionError):
            events = _decode_all(b"[" + joined + b"]")
    return events if len(events) == len(datas) else [event_of(data) for data in datas]


def event_of(data: bytes) -> Event:
    """One event, by the usual schema or else leniently; text that is no JSON object says nothing."""
    if not data.lstrip().startswith(b"{"):
        return Event(done=data.strip() == DONE)
    if len(data) > LARGE_BYTES and sum(map(data.count, (b"{", b"[", b","))) > MAX_PARTS:
        return Event(malformed=f"an event of more than {MAX_PARTS} parts")
    try:
        return _decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        told = json.loads(data.decode("utf-8", "replace"), parse_int=_number, parse_constant=_nothing)
    except (ValueError, RecursionError) as fault:
        shown = one_line(data[: 64 * MESSAGE_CHARS].decode("utf-8", "replace"), 80)
        return Event(malformed=f"{one_line(str(fault))} in {shown}")
    return _lenient(told) if isinstance(told, dict) else Event()


def _number(digits: str) -> int | None:
    return int(digits) if len(digits) <= _DIGITS else None


def _nothing(_name: str) -> None:
    """NaN and the infinities count nothing."""


def _lenient(told: dict[str, Any]) -> Event:
    choices, usage = told.get("choices"), told.get("usage")
    return Event(
        choices=[_choice(one) for one in choices if isinstance(one, dict)] if isinstance(choices, list) else None,
        usage=_usage(usage) if isinstance(usage, dict) else None,
        error=told.get("error"),
        detail=told.get("detail"),
        object=_text(told.get("object")),
        message=_text(told.get("message")),
        code=told.get("code"),
        type=_text(told.get("type")),
        status=told.get("status"),
    )


def _usage(told: Mapping[str, Any]) -> Usage:
    details = told.get("prompt_tokens_details")
    cached = _whole(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(_whole(told.get("prompt_tokens")), _whole(told.get("completion_tokens")), _Details(cached))


def _whole(value: object) -> int | None:
    """A whole number, however it is written (8, 8.0, "8"); None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _choice(told: Mapping[str, Any]) -> Choice:
    finish, ids = told.get("finish_reason"), told.get("token_ids")
    error = told.get("error")
    if isinstance(finish, dict):  # {"type": "abort", "message": ...}
        error = error or (finish if finish.get("type") in _FAILED_FINISHES else None)
        finish = finish.get("type", "unknown")
    return Choice(
        text=_text(told.get("text")) or None,
        delta=_delta(told.get("delta")),
        message=_delta(told.get("message")),
        token_ids=ids if isinstance(ids, list) and all(type(one) is int for one in ids) else None,
        finish_reason=_text(finish) or None,
        error=error,
    )


def _delta(told: object) -> Delta | None:
    if isinstance(told, str):
        return Delta(content=told)
    if not isinstance(told, dict):
        return None
    texts = {name: _text(told.get(name)) for name in (*_TEXTS, "role")}
    return Delta(**texts, **{name: told.get(name) for name in _CALLS})


def _text(told: object) -> str | None:
    """Text, or that of a list of parts; None where it is neither. Half surrogates are made printable."""
    if isinstance(told, str):
        return told.encode("utf-8", "replace").decode()
    if isinstance(told, list):
        parts = [_text(_part(one)) or (SOMETHING if one else "") for one in told]
        return "".join(parts)
    return None


def _part(told: object) -> object:
    """The text of a part, {"type": "text", "text": "..."}."""
    value = told.get("text", told.get("content")) if isinstance(told, dict) else told
    return value if isinstance(value, str) else None


def content_of(choices: Sequence[Choice]) -> tuple[str, list[int] | None]:
    """Text (or a mark that there is content) and token ids of all choices of an event."""
    texts, ids = [], None
    for choice in choices:
        said = choice.delta or choice.message
        texts.append(choice.text or (_said(said) if said is not None else ""))
        if choice.token_ids is not None:
            ids = [*(ids or ()), *choice.token_ids]
    return "".join(texts), ids


def _said(said: Delta) -> str:
    text = next((text for name in _TEXTS if (text := getattr(said, name))), "")
    return text or (SOMETHING if any(getattr(said, name) for name in _CALLS) else "")


def failure_of(event: Event) -> str | None:
    """The server's words where an event says that the answer failed, else None."""
    if not _is_empty(event.error):
        return words_of(event.error)
    for choice in event.choices or ():
        if not _is_empty(choice.error):
            return words_of(choice.error)
        if choice.finish_reason in _FAILED_FINISHES:
            return f"the server ended the answer with finish_reason {choice.finish_reason}"
    if event.choices:
        return None
    marked = not {event.object, event.type, _text(event.status)}.isdisjoint(_FAILED)
    if marked or (event.message and not _is_empty(event.code)):
        return words_of(event.message or event.detail or "error")
    return words_of(event.detail) if not _is_empty(event.detail) and event.usage is None else None


def _is_empty(told: object, depth: int = 0) -> bool:
    """Whether an error says nothing: null, "", 0, {}, or a container of only such."""
    if depth > 8:
        return False
    if isinstance(told, dict):
        return all(_is_empty(value, depth + 1) for value in told.values())
    return all(_is_empty(value, depth + 1) for value in told) if isinstance(told, list) else not told


def words_of(told: object) -> str:
    """The server's own message in an error of any of the usual forms, in one line."""
    while isinstance(told, dict):
        inner = next((told[name] for name in ("error", "message", "detail") if told.get(name)), None)
        if inner is None:
            break
        told = inner
    try:
        text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return "an error too deep to show"
    return one_line(text.encode("utf-8", "replace").decode())


def one_line(text: str, most: int = MESSAGE_CHARS) -> str:
    """A text cut to one line of so many characters; secrets go before the cut, which would hide a half."""
    return " ".join(redact(text[: 64 * MESSAGE_CHARS]).split())[:most]


def token_count(value: int | None) -> int | None:
    """A count of tokens that can be one; None where it is negative, absurd or not there."""
    return value if value is not None and 0 <= value <= MAX_TOKENS else None
