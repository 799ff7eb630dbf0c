"""Answers of the other APIs in the shape of completions and chat: the Responses API, and answers without tokens.

Pure. Events of the Responses API become events of a chat, one for one, so that they are counted and stamped as those
are. Of embeddings, rerank and score it is known how many documents came back, and the tokens of the prompt.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.client.events import (
    CompletionDetails,
    Delta,
    EventChoice,
    PromptDetails,
    StreamEvent,
    Usage,
    event_of,
    token_count,
)
from harness.results.request_table import MISSING

_HEAD_BYTES = 1024  # of a whole answer, that show what it is
_ANSWERS = ("response.output_text.delta", "response.refusal.delta")
_REASONING = (
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.reasoning.delta",
)
_ARGUMENTS = (
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
    "response.mcp_call_arguments.delta",
)
_FINISHES = {"response.completed": "stop", "response.incomplete": "length"}
_FAILURES = ("error", "response.failed")


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _ResponseUsage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Response(msgspec.Struct):
    output: Any = None
    usage: _ResponseUsage | None = None
    error: Any = None
    status: str | None = None


class _ResponseEvent(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    error: Any = None
    message: Any = None
    code: Any = None


_decode_event = msgspec.json.Decoder(_ResponseEvent).decode
_decode_response = msgspec.json.Decoder(_Response).decode


def is_of_responses(data: bytes) -> bool:
    """Whether the first event of a stream is one of the Responses API, which names itself in each."""
    return b'"response.' in data and b'"choices"' not in data


def response_events(datas: Sequence[bytes]) -> list[StreamEvent]:
    """Events of the Responses API as events of a chat, one for one; what they do not tell of tokens says nothing."""
    return [_of_response(data) for data in datas]


def _of_response(data: bytes) -> StreamEvent:
    try:
        event = _decode_event(data)
    except (ValueError, RecursionError):
        return event_of(data)
    gained = _gained(event)
    if gained is not None:
        return StreamEvent(choices=[EventChoice(delta=gained)])
    response = event.response
    failure = event.error or (None if response is None else response.error)
    if failure or event.type in _FAILURES:
        return StreamEvent(error=failure or {"message": event.message or event.code or event.type})
    if event.type in _FINISHES and response is not None:
        # With a role, as what opens a chat: whatever it counts, it brings no token itself.
        choice = EventChoice(delta=Delta(role="assistant"), finish_reason=_FINISHES[event.type])
        return StreamEvent(choices=[choice], usage=_usage(response.usage), calls=_calls(response.output))
    return StreamEvent()


def _gained(event: _ResponseEvent) -> Delta | None:
    """What an answer gains by an event; None where it is none that brings tokens."""
    if event.type in _ANSWERS:
        return Delta(content=_text(event.delta))
    if event.type in _REASONING:
        return Delta(reasoning=_text(event.delta))
    if event.type in _ARGUMENTS:
        return Delta(tool_calls=[{"function": {"arguments": _text(event.delta)}}])
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _usage(usage: _ResponseUsage | None) -> Usage | None:
    if usage is None:
        return None
    read, written = usage.input_tokens_details, usage.output_tokens_details
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        None if read is None else PromptDetails(read.cached_tokens),
        None if written is None else CompletionDetails(written.reasoning_tokens),
    )


def whole_response(body: bytes) -> StreamEvent | None:
    """A whole answer of the Responses API as one of a chat; None where the body is none."""
    if b'"output"' not in body or b'"response"' not in body:
        return None
    try:
        response = _decode_response(body)
    except (ValueError, RecursionError):
        return None
    if response.error or response.status == "failed":
        return StreamEvent(error=response.error or "failed")
    if not isinstance(response.output, list):
        return None
    content, reasoning = (_texts(response.output, kind) for kind in ("message", "reasoning"))
    finish = "length" if response.status == "incomplete" else "stop"
    message = Delta(content=content, reasoning=reasoning, tool_calls=_calls(response.output))
    return StreamEvent(choices=[EventChoice(message=message, finish_reason=finish)], usage=_usage(response.usage))


def _texts(output: Sequence[Any], kind: str) -> str:
    items = [item for item in output if isinstance(item, dict) and item.get("type") == kind]
    parts = [part for item in items for part in item.get("content") or () if isinstance(part, dict)]
    return "".join(_text(part.get("text")) for part in parts)


def _calls(output: object) -> list[Any] | None:
    """The calls of functions in an output, as a chat has them."""
    items = output if isinstance(output, list) else []
    calls = [item for item in items if isinstance(item, dict) and item.get("type") == "function_call"]
    return [
        {"index": place, "function": {"name": item.get("name"), "arguments": item.get("arguments")}}
        for place, item in enumerate(calls)
    ] or None


class _Pooled(msgspec.Struct):
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None
    usage: Usage | None = None
    choices: Any = None


_decode_pooled = msgspec.json.Decoder(_Pooled).decode


@dataclass(frozen=True, slots=True)
class PooledAnswer:
    """An answer without tokens: how many documents it is about, and the tokens of the prompt (MISSING: not told)."""

    documents: int
    input_tokens: int = MISSING


def pooled_answer(body: bytes) -> PooledAnswer | None:
    """What an answer of embeddings, rerank or score says; None where the body is none.

    Vectors are skipped, not read: an answer of a thousand of them takes a millisecond.
    """
    head = body[:_HEAD_BYTES]
    if b'"data"' not in head and b'"results"' not in head:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        pooled = _decode_pooled(body)
        items = pooled.data if pooled.data is not None else pooled.results
        if items is not None and pooled.choices is None:
            tokens = None if pooled.usage is None else token_count(pooled.usage.prompt_tokens)
            return PooledAnswer(len(items), MISSING if tokens is None else tokens)
    return None
