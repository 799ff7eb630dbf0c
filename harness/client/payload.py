"""The JSON bodies of requests, for each API of an OpenAI-compatible server: exactly so many tokens, or one pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import FROM_TOKEN_IDS, FROM_USAGE
from harness.scenario.request_kinds import CHAT, COMPLETIONS, EMBEDDINGS, POOLED, RERANK, RESPONSES, SCORE
from harness.workload.classes import STRUCTURED, TOOLS, RequestClass
from harness.workload.forms import fields_of_structured, fields_of_tools
from harness.workload.prompts import USER, ChatPrompt, ImagePrompt, PooledPrompt, Prompt, TextPrompt, TokenPrompt

_NO_MORE: Mapping[str, Any] = {}
# Four characters a number, blanks before it: white space that JSON allows.
_FOUR_DIGITS = np.frombuffer("".join(f"{n:4d}" for n in range(10_000)).encode(), dtype=np.uint32)
_CELL = np.dtype([("digits", np.uint32), ("comma", np.uint8)])

PATHS = {
    COMPLETIONS: "/v1/completions",
    CHAT: "/v1/chat/completions",
    RESPONSES: "/v1/responses",
    EMBEDDINGS: "/v1/embeddings",
    RERANK: "/v1/rerank",
    SCORE: "/v1/score",
}

_USAGE = ("continuous_usage_stats", "include_usage")
_OPTIONAL = ("ignore_eos", "return_token_ids", "temperature", "encoding_format", "store", *_USAGE, "stream_options")


@dataclass(frozen=True, slots=True)
class Options:
    """What all requests of a run have in common.

    `token_counts` says how tokens of a stream's events are to be counted: `usage` asks for the
    running usage on every event, `token_ids` for the ids, `assumed` for neither. `extra_body`
    adds keys to every request or replaces ours, inside mappings too; a key whose value is None is left out.
    """

    model: str
    endpoint: str
    stream: bool
    token_counts: str
    extra_body: Mapping[str, Any]


def path(endpoint: str) -> str:
    """The path of an endpoint, from the server's root."""
    return PATHS[endpoint]


def body(prompt: Prompt, output_tokens: int, options: Options, extra: Mapping[str, Any] = _NO_MORE) -> bytes:
    """The JSON body of a request for exactly `output_tokens` tokens, unless the context ends before.

    Sampling is greedy, so that a repeated run does the same work; `max_tokens` is the name that
    servers of every age know on both endpoints. `extra` are the keys of the request's class (see `class_fields`).
    """
    if options.endpoint in POOLED:
        fields = {"model": options.model, **_pooled(prompt, options.endpoint)}
    elif options.endpoint == RESPONSES:
        fields = {
            "model": options.model,
            "input": _messages(prompt, _RESPONSE_PARTS),
            "max_output_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": options.stream,
            "store": False,
        }
    else:
        fields = {
            "model": options.model,
            **_prompt_fields(prompt),
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": options.stream,
            **_counting(options),
        }
    return msgspec.json.encode(_merged({**fields, **extra} if extra else fields, options.extra_body))


def class_fields(request_class: RequestClass, work: Any, endpoint: str) -> dict[str, Any]:
    """The keys that requests of a class have beside the others, in place of those of the same name.

    `work` is the scenario's workload. An answer that is held to a form ends where the form does: it is not told to
    go on to its last token.
    """
    fields: dict[str, Any] = {"model": request_class.model} if request_class.model else {}
    if request_class.priority is not None:
        fields["priority"] = request_class.priority
    if request_class.form == STRUCTURED:
        fields |= {"ignore_eos": None, **fields_of_structured(work.structured, endpoint)}
    elif request_class.form == TOOLS:
        fields |= {"ignore_eos": None, **fields_of_tools(work.tools, endpoint)}
    return fields


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our keys and theirs; theirs win, and their None removes ours."""
    both = {**ours, **theirs}
    for key in ours.keys() & theirs.keys():
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            both[key] = _merged(ours[key], theirs[key])
    return {key: value for key, value in both.items() if value is not None}


def advice(words: str) -> str:
    """How to leave out the key of ours that a server's refusal names; "" where it names none."""
    name = next((name for name in _OPTIONAL if name in words), None)
    if name is None:
        return ""
    key = f"{{{name}: null}}" if name not in _USAGE else f"{{stream_options: {{{name}: null}}}}"
    return f"; set extra_body: {key} to leave it out"


def _prompt_fields(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, TokenPrompt):
        return {"prompt": _json_ids(prompt.ids)}
    if isinstance(prompt, TextPrompt):
        return {"prompt": prompt.text}
    return {"messages": _messages(prompt, _CHAT_PARTS)}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


_Parts = tuple[Callable[[str], dict[str, Any]], Callable[[str], dict[str, Any]]]
_CHAT_PARTS: _Parts = (_text_part, _image_part)
_RESPONSE_PARTS: _Parts = (
    lambda text: {"type": "input_text", "text": text},
    lambda url: {"type": "input_image", "image_url": url, "detail": "auto"},
)


def _messages(prompt: Prompt, parts: _Parts) -> Sequence[Any]:
    """The messages of a chat; images stand before the text of its first message of a user."""
    assert isinstance(prompt, ChatPrompt | ImagePrompt)
    if isinstance(prompt, ChatPrompt) or not prompt.images:
        return prompt.messages
    text_part, image_part = parts
    messages: list[Any] = list(prompt.messages)
    place = next((number for number, message in enumerate(messages) if message.role == USER), 0)
    content = [*map(image_part, prompt.images), text_part(messages[place].content)]
    messages[place] = {"role": messages[place].role, "content": content}
    return messages


def _pooled(prompt: Prompt, endpoint: str) -> dict[str, Any]:
    """What is embedded, or held against a query."""
    if isinstance(prompt, TextPrompt):
        return {"input": prompt.text, "encoding_format": "float"}
    assert isinstance(prompt, PooledPrompt)
    documents = [text if isinstance(text, str) else _json_ids(text) for text in prompt.documents]
    if endpoint == EMBEDDINGS:
        return {"input": documents, "encoding_format": "float"}
    if endpoint == RERANK:
        return {"query": prompt.query, "documents": documents}
    return {"text_1": prompt.query, "text_2": documents}


def _json_ids(ids: NDArray[np.int32]) -> Any:
    """Ids as a JSON array: by table where they have up to four digits, six times as fast as digit by digit."""
    if len(ids) == 0 or int(ids.max()) >= len(_FOUR_DIGITS):
        return ids.tolist()
    cells = np.empty(len(ids), dtype=_CELL)
    cells["digits"] = _FOUR_DIGITS[ids]
    cells["comma"] = ord(",")
    return msgspec.Raw(b"[" + cells.tobytes()[:-1] + b"]")


def _counting(options: Options) -> dict[str, Any]:
    counting: dict[str, Any] = {"return_token_ids": True} if options.token_counts == FROM_TOKEN_IDS else {}
    if options.stream:
        usage = {"include_usage": True}
        if options.token_counts == FROM_USAGE:
            usage["continuous_usage_stats"] = True
        counting["stream_options"] = usage
    return counting
