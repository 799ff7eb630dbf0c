"""One JSON event of an OpenAI-like server, strict where it is fast and lenient where servers differ.

Pure. Events of the usual schema are read strictly and in one call, which is fast. One that differs
is read leniently: what cannot be understood (null, a list of parts, an object nobody knows) says
nothing, and only an event that is no JSON at all cannot be counted.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from harness.client.event_stream import DONE
from harness.results.request_table import MISSING
from harness.safety.bounds import LARGE_BYTES, MAX_PARTS, MAX_TOKENS, MESSAGE_CHARS
from harness.safety.redaction import redact
from harness.units import NS_PER_MS

SOMETHING = "\0"  # stands for content that is no text, such as a call of a tool
_DIGITS = 20  # of a number in JSON; longer ones count nothing that exists
_TEXTS = ("content", "reasoning", "reasoning_content", "thinking", "refusal")
_CALLS = ("tool_calls", "function_call", "audio")
_FAILED_FINISHES = ("error", "abort", "insufficient_system_resource")
_FAILED = ("error", "failed")
_DRAFT_COUNTS = ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
_LONGEST_MS = 365 * 86_400_000


class PromptDetails(msgspec.Struct, gc=False):
    """Of the tokens of a prompt, those of the prefix cache, and those of each kind of image or sound."""

    cached_tokens: int | None = None
    multimodal_tokens: Any = None


class CompletionDetails(msgspec.Struct, gc=False):
    """Of the tokens of an answer, those of reasoning."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Counts by the server so far; any may be missing, and none is checked yet."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class ServerMetrics(msgspec.Struct, gc=False):
    """What vLLM measured of a request itself (`PerRequestMetrics`), ms and counts; any may be missing or odd.

    It stands in the last event, with the usage, where the server has --enable-per-request-metrics, and never of
    requests with several answers. `time_to_first_token_ms` counts from the first step, not from the arrival.
    """

    queue_time_ms: Any = None
    time_to_first_token_ms: Any = None
    generation_time_ms: Any = None
    speculative_decoding: Any = None


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


class EventChoice(msgspec.Struct, gc=False):
    """One answer's part in an event."""

    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    error: Any = None


class StreamEvent(msgspec.Struct, gc=False):
    """One event, or a whole answer; the last three are ours, not the server's."""

    choices: list[EventChoice] | None = None
    usage: Usage | None = None
    metrics: ServerMetrics | None = None
    error: Any = None
    detail: Any = None
    object: str | None = None
    message: str | None = None
    code: Any = None
    type: str | None = None
    status: Any = None
    calls: list[Any] | None = msgspec.field(default=None, name="npu-harness calls")
    malformed: str | None = msgspec.field(default=None, name="npu-harness malformed")
    done: bool = msgspec.field(default=False, name="npu-harness done")


_decode = msgspec.json.Decoder(StreamEvent).decode
_decode_all = msgspec.json.Decoder(list[StreamEvent]).decode


def events_of(datas: Sequence[bytes]) -> list[StreamEvent]:
    """Events from their JSON: all in one call, which is much faster; one by one where any is odd."""
    events: list[StreamEvent] = []
    joined = b",".join(datas)
    if len(joined) < 2 * LARGE_BYTES:  # else one of them is large
        with contextlib.suppress(ValueError, RecursionError):
            events = _decode_all(b"[" + joined + b"]")
    return events if len(events) == len(datas) else [event_of(data) for data in datas]


def event_of(data: bytes) -> StreamEvent:
    """One event, by the usual schema or else leniently; text that is no JSON object says nothing."""
    if not data.lstrip().startswith(b"{"):
        return StreamEvent(done=data.strip() == DONE)
    if len(data) > LARGE_BYTES and sum(map(data.count, (b"{", b"[", b","))) > MAX_PARTS:
        return StreamEvent(malformed=f"an event of more than {MAX_PARTS} parts")
    try:
        return _decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        value = json.loads(data.decode("utf-8", "replace"), parse_int=_number, parse_constant=_nothing)
    except (ValueError, RecursionError) as fault:
        shown = one_line(data[: 64 * MESSAGE_CHARS].decode("utf-8", "replace"), 80)
        return StreamEvent(malformed=f"{one_line(str(fault))} in {shown}")
    return _lenient(value) if isinstance(value, dict) else StreamEvent()


def _number(digits: str) -> int | None:
    return int(digits) if len(digits) <= _DIGITS else None


def _nothing(_name: str) -> None:
    """NaN and the infinities count nothing."""


def _lenient(value: dict[str, Any]) -> StreamEvent:
    choices, usage = value.get("choices"), value.get("usage")
    return StreamEvent(
        choices=[_choice(choice) for choice in choices if isinstance(choice, dict)]
        if isinstance(choices, list)
        else None,
        usage=_usage(usage) if isinstance(usage, dict) else None,
        metrics=_metrics(value.get("metrics")),
        error=value.get("error"),
        detail=value.get("detail"),
        object=_text(value.get("object")),
        message=_text(value.get("message")),
        code=value.get("code"),
        type=_text(value.get("type")),
        status=value.get("status"),
    )


def _usage(value: Mapping[str, Any]) -> Usage:
    read, written = (_details(value.get(f"{part}_tokens_details")) for part in ("prompt", "completion"))
    return Usage(
        _whole(value.get("prompt_tokens")),
        _whole(value.get("completion_tokens")),
        PromptDetails(_whole(read.get("cached_tokens")), read.get("multimodal_tokens")),
        CompletionDetails(_whole(written.get("reasoning_tokens"))),
    )


def _details(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def image_tokens(usage: Usage) -> int | None:
    """Tokens of images in a prompt, as vLLM tells them; None where it does not."""
    details = usage.prompt_tokens_details
    kinds = None if details is None else details.multimodal_tokens
    return token_count(_whole(kinds.get("image"))) if isinstance(kinds, dict) else None


def _metrics(value: object) -> ServerMetrics | None:
    if not isinstance(value, dict):
        return None
    return ServerMetrics(**{name: value.get(name) for name in ServerMetrics.__struct_fields__})


def server_columns(metrics: ServerMetrics) -> tuple[int, ...]:
    """What a server measured of a request, in the order of `request_table.SERVER_COLUMNS`: ns, and counts."""
    times = (metrics.queue_time_ms, metrics.time_to_first_token_ms, metrics.generation_time_ms)
    drafts = metrics.speculative_decoding if isinstance(metrics.speculative_decoding, dict) else {}
    counts = (token_count(_whole(drafts.get(name))) for name in _DRAFT_COUNTS)
    return (*(_ns_of_ms(value) for value in times), *(MISSING if count is None else count for count in counts))


def _ns_of_ms(value: object) -> int:
    """Milliseconds as whole nanoseconds; MISSING for what is no length of time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_MS:
        return MISSING
    return round(value * NS_PER_MS)


def _whole(value: object) -> int | None:
    """A whole number, however it is written (8, 8.0, "8"); None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _choice(value: Mapping[str, Any]) -> EventChoice:
    finish, ids = value.get("finish_reason"), value.get("token_ids")
    error = value.get("error")
    if isinstance(finish, dict):  # {"type": "abort", "message": ...}
        error = error or (finish if finish.get("type") in _FAILED_FINISHES else None)
        finish = finish.get("type", "unknown")
    return EventChoice(
        text=_text(value.get("text")) or None,
        delta=_delta(value.get("delta")),
        message=_delta(value.get("message")),
        token_ids=ids if isinstance(ids, list) and all(type(token_id) is int for token_id in ids) else None,
        finish_reason=_text(finish) or None,
        error=error,
    )


def _delta(value: object) -> Delta | None:
    if isinstance(value, str):
        return Delta(content=value)
    if not isinstance(value, dict):
        return None
    texts = {name: _text(value.get(name)) for name in (*_TEXTS, "role")}
    return Delta(**texts, **{name: value.get(name) for name in _CALLS})


def _text(value: object) -> str | None:
    """Text, or that of a list of parts; None where it is neither. Half surrogates are made printable."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        parts = [_text(_part(part)) or (SOMETHING if part else "") for part in value]
        return "".join(parts)
    return None


def _part(value: object) -> object:
    """The text of a part, {"type": "text", "text": "..."}."""
    inner = value.get("text", value.get("content")) if isinstance(value, dict) else value
    return inner if isinstance(inner, str) else None


def content_of(choices: Sequence[EventChoice]) -> tuple[str, list[int] | None]:
    """Text (or a mark that there is content) and token ids of all choices of an event."""
    texts, ids = [], None
    for choice in choices:
        delta = choice.delta or choice.message
        texts.append(choice.text or (_delta_text(delta) if delta is not None else ""))
        if choice.token_ids is not None:
            ids = [*(ids or ()), *choice.token_ids]
    return "".join(texts), ids


def _delta_text(delta: Delta) -> str:
    text = next((text for name in _TEXTS if (text := getattr(delta, name))), "")
    return text or (SOMETHING if _calls_something(delta) else "")


def answers(choices: Sequence[EventChoice]) -> bool:
    """Whether any choice of an event gained some of its answer: text that is no reasoning, or a call of a tool."""
    for choice in choices:
        delta = choice.delta or choice.message
        if choice.text or (delta is not None and (delta.content or delta.refusal or _calls_something(delta))):
            return True
    return False


def _calls_something(delta: Delta) -> bool:
    return any(getattr(delta, name) for name in _CALLS)


def call_parts(choices: Sequence[EventChoice]) -> Iterator[tuple[int, str, str]]:
    """What the choices of an event say of calls of tools: place of the call, its name and a part of its arguments."""
    for choice in choices:
        delta = choice.delta or choice.message
        calls = delta.tool_calls if delta is not None else None
        yield from parts_of_calls(calls)


def parts_of_calls(calls: object) -> Iterator[tuple[int, str, str]]:
    """Place, name and a part of the arguments of each call in a list of them; what is odd says nothing."""
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            number = call.get("index")
            name, arguments = (_text(function.get(key)) or "" for key in ("name", "arguments"))
            yield number if isinstance(number, int) else place, name, arguments


def failure_of(event: StreamEvent) -> str | None:
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


def _is_empty(value: object, depth: int = 0) -> bool:
    """Whether an error says nothing: null, "", 0, {}, or a container of only such."""
    if depth > 8:
        return False
    if isinstance(value, dict):
        return all(_is_empty(value, depth + 1) for value in value.values())
    return all(_is_empty(value, depth + 1) for value in value) if isinstance(value, list) else not value


def words_of(value: object) -> str:
    """The server's own message in an error of any of the usual forms, in one line."""
    while isinstance(value, dict):
        inner = next((value[name] for name in ("error", "message", "detail") if value.get(name)), None)
        if inner is None:
            break
        value = inner
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return "an error too deep to show"
    return one_line(text.encode("utf-8", "replace").decode())


def one_line(text: str, most: int = MESSAGE_CHARS) -> str:
    """A text cut to one line of so many characters; secrets go before the cut, which would hide a half."""
    return " ".join(redact(text[: 64 * MESSAGE_CHARS]).split())[:most]


def token_count(value: int | None) -> int | None:
    """A count of tokens that can be one; None where it is negative, absurd or not there."""
    return value if value is not None and 0 <= value <= MAX_TOKENS else None
