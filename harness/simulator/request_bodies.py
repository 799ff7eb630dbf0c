"""Bodies of the simulated engine's further APIs, and what requests carry beside text: images, forms and tools.

Checked as vLLM checks them. An image is as many tokens of the prompt as Qwen2-VL makes of its size; a form or a tool
gives the answer its text, and what the model would have reasoned before it is so many tokens of nothing.
"""

import base64
import binascii
import json
import re
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.scenario.request_kinds import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, PAIRED, RERANK, RESPONSES, SCORE
from harness.simulator.request_parsing import (
    SPECIAL,
    ModelLimits,
    ParsedRequest,
    Refusal,
    check_model,
    encode,
    malformed,
    messages_of,
    parse_request,
    prompts_of,
)

ENDPOINT_OF = {
    "/v1/completions": COMPLETIONS,
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/rerank": RERANK,
    "/rerank": RERANK,
    "/v1/score": SCORE,
    "/score": SCORE,
}
"""The API behind each path."""

PATCH = 28  # pixels a side that are one token, in Qwen2-VL
_UNKNOWN_SIZE = (640, 480)  # of an image that is no PNG
_PNG = b"\x89PNG\r\n\x1a\n"
_HEAD_CHARS = 64  # of base64, that hold a PNG's size
_PIECE = 4  # characters of a text that are one token, about as a real vocabulary has it
_DIGITS = re.compile(r"\\d(?:\{(\d+)\})?")
_SQL = "SELECT id FROM users WHERE age > 100"  # keeps the grammar that ships


def parse_body(body: Any, serving: ModelLimits, endpoint: str) -> ParsedRequest:
    """The checked request of the decoded body of any API.

    Raises:
        Refusal: what vLLM would refuse, in its words.
    """
    if not isinstance(body, dict):
        raise malformed("body", "model_attributes_type", "Input should be a valid dictionary or object")
    if endpoint in PAIRED:
        return parse_scoring(body, serving, endpoint)
    if endpoint == EMBEDDINGS:
        return _pooled(body, serving, prompts_of(body.get("input"), serving), endpoint, ())
    if endpoint in MESSAGES:
        return _parse_messages(body, serving, endpoint)
    request = parse_request(body, serving, chat=False)
    pieces = script_of(body)[0]
    return replace(request, pieces=pieces) if pieces else request


def _parse_messages(body: Mapping[str, Any], serving: ModelLimits, endpoint: str) -> ParsedRequest:
    messages = messages_of(body) if endpoint == CHAT else messages_of_responses(body)
    urls = list(image_urls(messages))
    given = {**body, "messages": messages}
    request = parse_request(given, serving, chat=True, before=image_ids(urls, serving.vocab))
    pieces, call = script_of(body)
    return replace(
        request,
        endpoint=endpoint,
        pieces=pieces,
        call=call,
        thinks=serving.reasons and (body.get("chat_template_kwargs") or {}).get("enable_thinking") is not False,
        image_tokens=sum(map(image_tokens, urls)),
    )


def image_tokens(url: str) -> int:
    """Tokens of an image by its size in pixels."""
    width, height = _size_of(url)
    return -(-width // PATCH) * -(-height // PATCH)


def _size_of(url: str) -> tuple[int, int]:
    _, _, data = url.partition("base64,")
    try:
        head = base64.b64decode(data[:_HEAD_CHARS])
    except (binascii.Error, ValueError):
        return _UNKNOWN_SIZE
    if not head.startswith(_PNG) or len(head) < 24:
        return _UNKNOWN_SIZE
    width, height = struct.unpack(">II", head[16:24])
    return int(width), int(height)


def image_urls(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The images of a conversation, as the chat and the Responses API have them."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            url = part.get("image_url") if isinstance(part, dict) else None
            url = url.get("url") if isinstance(url, dict) else url
            if isinstance(url, str):
                yield url


def image_ids(urls: Sequence[str], vocab: int) -> list[int]:
    """Ids that stand for images in a prompt: equal for equal images alone, so that a prefix cache knows them again."""
    ids: list[int] = []
    for url in urls:
        first = zlib.crc32(url.encode())
        ids += [(first + place) % (vocab - SPECIAL) for place in range(image_tokens(url))]
    return ids


def messages_of_responses(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The `input` of the Responses API as messages: a text, or a list of them."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given or not all(isinstance(item, dict) for item in given):
        kind = "missing" if given is None else "list_type"
        raise malformed("body.input", kind, "Field required" if given is None else "Input should be a valid list")
    return given


def parse_scoring(body: Mapping[str, Any], serving: ModelLimits, endpoint: str) -> ParsedRequest:
    """The checked request of a /v1/rerank or /v1/score body: a prompt for each pair of a query and a document.

    Raises:
        Refusal: what vLLM would refuse.
    """
    names = ("query", "documents") if endpoint == RERANK else ("text_1", "text_2")
    if endpoint == SCORE and "queries" in body:
        names = ("queries", "documents")
    queries, documents = (_texts(body, name) for name in names)
    if len(queries) not in (1, len(documents)):
        raise Refusal("Input lengths must be either 1:1, 1:N or N:N")
    queries = queries * (len(documents) // len(queries))
    mark = serving.vocab - 4  # stands between the two, and at the ends
    prompts = [
        array("q", [mark, *encode(query, serving.vocab), mark, *encode(document, serving.vocab), mark])
        for query, document in zip(queries, documents, strict=True)
    ]
    return _pooled(body, serving, prompts, endpoint, tuple(documents))


def _texts(body: Mapping[str, Any], name: str) -> list[str]:
    given = body.get(name)
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        kind = "missing" if given is None else "string_type"
        raise malformed(f"body.{name}", kind, "Field required" if given is None else "Input should be a valid string")
    return texts


def _pooled(
    body: Mapping[str, Any],
    serving: ModelLimits,
    prompts: Sequence[Sequence[int]],
    endpoint: str,
    documents: tuple[str, ...],
) -> ParsedRequest:
    for prompt in prompts:
        if len(prompt) > serving.max_model_len:
            raise Refusal(
                f"This model's maximum context length is {serving.max_model_len} tokens. However, you requested"
                f" {len(prompt)} tokens in the input for {endpoint} generation. Please reduce the length of the input."
            )
    return ParsedRequest(
        chat=False,
        model=check_model(body, serving),
        prompts=tuple(prompts),
        max_tokens=(0,) * len(prompts),
        n=1,
        seed=0,
        stream=False,
        include_usage=False,
        continuous_usage=False,
        return_token_ids=False,
        endpoint=endpoint,
        documents=documents,
    )


def script_of(body: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The pieces of an answer that keeps the form a request asks for, a token each, and the tool that it calls.

    No pieces where it asks for none; a tool's are the arguments of the call.
    """
    tools = body.get("tools")
    if isinstance(tools, list) and tools and body.get("tool_choice") not in ("none", None):
        function = tools[0].get("function") or tools[0]
        return _cut(json.dumps(_instance(function.get("parameters") or {}))), str(function.get("name"))
    text = _formed(body)
    return (_cut(text), "") if text else ((), "")


def _cut(text: str) -> tuple[str, ...]:
    return tuple(text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


def _formed(body: Mapping[str, Any]) -> str:
    held = body.get("structured_outputs")
    if isinstance(held, dict):
        if held.get("json") is not None:
            return json.dumps(_instance(held["json"]))
        if held.get("choice"):
            return str(held["choice"][0])
        if held.get("regex"):
            return _DIGITS.sub(lambda match: "1" * int(match[1] or 1), str(held["regex"]))
        return _SQL if held.get("grammar") else ""
    for schema in _schemas(body):
        return json.dumps(_instance(schema))
    return ""


def _schemas(body: Mapping[str, Any]) -> Iterator[Any]:
    """The JSON schema of `response_format`, or of `text.format` in the Responses API."""
    of_chat, of_responses = body.get("response_format"), body.get("text")
    if isinstance(of_chat, dict) and isinstance(of_chat.get("json_schema"), dict):
        yield of_chat["json_schema"].get("schema")
    if isinstance(of_responses, dict) and isinstance(of_responses.get("format"), dict):
        yield of_responses["format"].get("schema")


_PLAIN: Mapping[str, Any] = {"string": "word", "integer": 1, "number": 1.5, "boolean": True}


def _instance(schema: Any) -> Any:
    """A small JSON value that is as a schema says, as far as it uses plain keywords."""
    if not isinstance(schema, dict):
        return {}
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: _instance(inner) for name, inner in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_instance(schema.get("items")) for _ in range(max(1, int(schema.get("minItems") or 1)))]
    return _PLAIN.get(str(kind), "word")
