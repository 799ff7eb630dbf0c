"""Request bodies, checked as vLLM checks them and refused in its words, and the simulated tokenizer.

A word is a token: runs of up to twelve letters, signs or digits that no space parts, and every
CJK character by itself. The word `t` and a number is the token of that id, so an answer
that comes back as part of a later prompt has the ids it had; other words get an id by CRC-32.
Output tokens are drawn from the prompt alone, as greedy decoding would: equal prompts, equal answers.
"""

import re
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from harness.scenario.request_kinds import COMPLETIONS
from harness.simulator.scheduler_types import Draw
from harness.simulator.speculation import Accept, Speculation

_LIMITS = ("max_completion_tokens", "max_output_tokens")  # names of max_tokens in later APIs
_LEAST = {"max_tokens": 1, **dict.fromkeys(_LIMITS, 1), "n": 1, "min_tokens": 0}


class Refusal(Exception):  # noqa: N818 - a refusal is an answer to a client, not a fault of ours
    """A request that is answered with an error: HTTP status, vLLM's type, parameter and message."""

    def __init__(
        self, message: str, *, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def _refused(message: str, parameter: str, value: Any = None) -> Refusal:
    """What vLLM's own checks say: the message, then the parameter and, where it tells, its value."""
    place = f"parameter={parameter}" if value is None else f"parameter={parameter}, value={value}"
    return Refusal(f"{message} ({place})", param=parameter)


def malformed(place: str, kind: str, message: str, given: Any = None) -> Refusal:
    """What the schema of the body says, in the form of vLLM's summary of it."""
    detail = {"type": kind, "loc": place, "msg": message, "input": given}
    return Refusal(f"1 validation error:\n  {detail}", kind="Bad Request", param=place)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """One request, checked. `prompts` are token ids, one answer each and `n` times.

    `model` is the name that the request gave, of the model or of an adapter. `pieces` are the texts of an answer that
    has a form, a token each, and `call` the tool that it calls with them; `thinks` says that the model reasons first.
    `documents` are the texts that a query is held against.
    """

    chat: bool
    model: str
    prompts: tuple[Sequence[int], ...]
    max_tokens: tuple[int, ...]  # for each prompt
    n: int
    seed: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    endpoint: str = COMPLETIONS
    priority: int = 0
    pieces: tuple[str, ...] = ()
    call: str = ""
    thinks: bool = False
    image_tokens: int = 0
    documents: tuple[str, ...] = ()
    kv_transfer_params: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a request is checked against: names that may stand in place of the model's are `adapters` and `aliases`."""

    model: str
    vocab: int
    max_model_len: int
    adapters: tuple[str, ...] = ()
    reasons: bool = False
    by_priority: bool = False
    aliases: tuple[str, ...] = ()


def decode_body(data: bytes) -> Any:
    """The JSON of a request's body.

    Raises:
        Refusal: it is none.
    """
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise malformed("body", "json_invalid", f"JSON decode error: {error}") from error


def parse_request(body: Any, serving: ModelLimits, *, chat: bool, before: Sequence[int] = ()) -> ParsedRequest:
    """The checked request of a decoded JSON body; `before` are ids of images, which stand before a chat's text.

    Raises:
        Refusal: what vLLM would refuse, in its words.
    """
    if not isinstance(body, dict):
        raise malformed("body", "model_attributes_type", "Input should be a valid dictionary or object")
    model = check_model(body, serving)
    prompts = _chat_prompts(body, serving, before) if chat else prompts_of(body.get("prompt"), serving)
    wanted = _wanted(body, serving, chat=chat)
    options = body.get("stream_options") or {}
    return ParsedRequest(
        chat=chat,
        model=model,
        prompts=tuple(prompts),
        max_tokens=tuple(_room(prompt, wanted, serving) for prompt in prompts),
        n=_integer(body, "n", 1),
        seed=_integer(body, "seed", 0),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        return_token_ids=bool(body.get("return_token_ids")),
        priority=_priority(body, serving) if "priority" in body else 0,
        kv_transfer_params=transfer if isinstance(transfer := body.get("kv_transfer_params"), dict) else None,
    )


def check_model(body: Mapping[str, Any], serving: ModelLimits) -> str:
    """The name of the model or adapter that a request is for; a missing one means the model's.

    Raises:
        Refusal: a name that is not served.
    """
    name = body.get("model")
    if name in (None, "", serving.model, *serving.aliases):
        return serving.model
    if name in serving.adapters:
        return str(name)
    aliases = ", ".join((serving.model, *serving.aliases, *serving.adapters))
    message = f"The model `{name}` does not exist. Valid aliases: {aliases}."
    raise Refusal(message, status=404, kind="NotFoundError", param="model")


def _priority(body: Mapping[str, Any], serving: ModelLimits) -> int:
    priority = _integer(body, "priority", 0)
    if priority and not serving.by_priority:
        raise Refusal(f"Got priority {priority} but Priority scheduling is not enabled.")
    return priority


def prompt_ids(body: Mapping[str, Any], serving: ModelLimits) -> list[int]:
    """Token ids of what `/tokenize` was given: `prompt`, or `messages` with the chat template."""
    if "messages" in body:
        opened = body.get("add_generation_prompt", True)
        return chat_ids(messages_of(body), serving.vocab, open_answer=bool(opened))
    if not isinstance(body.get("prompt"), str):
        raise malformed("body.prompt", "string_type", "Input should be a valid string")
    return encode(body["prompt"], serving.vocab)


def _chat_prompts(body: Mapping[str, Any], serving: ModelLimits, before: Sequence[int]) -> list[Sequence[int]]:
    return [array("q", [*before, *chat_ids(messages_of(body), serving.vocab)])]


def messages_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a chat.

    Raises:
        Refusal: there are none.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        kind = "missing" if messages is None else "list_type"
        message = "Field required" if messages is None else "Input should be a valid list"
        raise malformed("body.messages", kind, message)
    return messages


def prompts_of(prompt: Any, serving: ModelLimits) -> list[Sequence[int]]:
    """Prompts as vLLM takes them: a text, token ids, or a list of either.

    Raises:
        Refusal: what it does not take.
    """
    if prompt == []:
        raise Refusal("You must pass at least one prompt")
    items = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    return [_prompt(item, serving) for item in items]


def _prompt(item: Any, serving: ModelLimits) -> Sequence[int]:
    ids = array("q", encode(item, serving.vocab)) if isinstance(item, str) else _ids(item)
    if not ids:
        raise _refused("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    numbers = np.frombuffer(ids, dtype=np.int64)
    if numbers.max() >= serving.vocab or numbers.min() < 0:
        raise Refusal(f"Token id {numbers.max()} is out of vocabulary")
    return ids


def _ids(item: Any) -> "array[int]":
    if item is not None and not isinstance(item, list):
        raise malformed("body.prompt", "string_type", "Input should be a valid string")
    try:
        return array("q", item or ())
    except (TypeError, OverflowError):
        raise malformed("body.prompt", "int_parsing", "Input should be a valid integer") from None


def _wanted(body: Mapping[str, Any], serving: ModelLimits, *, chat: bool) -> int | None:
    """Output tokens asked for; None where a chat leaves them open."""
    name = next((name for name in _LIMITS if body.get(name) is not None), "max_tokens")
    wanted = body.get(name)
    if wanted is None and chat:
        return None
    wanted = _integer(body, name, 16)
    if body.get(name) is not None and wanted > serving.max_model_len:
        longest = f"max_model_len={serving.max_model_len}"
        raise _refused(
            f"{name}={wanted} cannot be greater than {longest}. Please request fewer output tokens.", name, wanted
        )
    least = _integer(body, "min_tokens", 1)
    if least > wanted:
        raise Refusal(f"min_tokens must be less than or equal to max_tokens={wanted}, got {least}.")
    return wanted


def _integer(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise malformed(f"body.{name}", "int_parsing", "Input should be a valid integer", value)
    least = _LEAST.get(name)
    if least is not None and value < least:
        raise _refused(f"{name} must be at least {least}, got {value}.", name, value)
    return value


def _room(prompt: Sequence[int], wanted: int | None, serving: ModelLimits) -> int:
    """Output tokens for this prompt: as asked, cut to what the context leaves."""
    room = serving.max_model_len - len(prompt)
    if room < 0:
        raise _refused(
            f"This model's maximum context length is {serving.max_model_len} tokens. However, your prompt contains"
            f" {len(prompt)} input tokens, which exceeds this limit even without any output tokens."
            " Please reduce the length of the input prompt.",
            "input_tokens",
            len(prompt),
        )
    if room == 0:
        raise _refused("max_tokens must be at least 1, got 0.", "max_tokens", 0)
    return room if wanted is None else min(wanted, room)


SPECIAL = 16  # ids at the end of the vocabulary that no word gets
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef"
_WORD = re.compile(f"[{_CJK}]|[^\\s{_CJK}]{{1,12}}")
_NUMBERED = re.compile(r"t(\d{1,7})")
_STRIDE = 7919


def words(text: str) -> list[str]:
    """The text cut into the pieces that become tokens."""
    return _WORD.findall(text)


def pieces(text: str) -> list[str]:
    """The same with `Ġ` before each word that a space precedes, as byte-level vocabularies write it."""
    return [
        ("Ġ" if match.start() and text[match.start() - 1].isspace() else "") + match.group()
        for match in _WORD.finditer(text)
    ]


def encode(text: str, vocab: int) -> list[int]:
    """Token ids of a text, each below vocab - 16."""
    usable = vocab - SPECIAL
    return [_word_id(word, usable) for word in words(text)]


def _word_id(word: str, usable: int) -> int:
    numbered = _NUMBERED.fullmatch(word)
    if numbered and int(numbered.group(1)) < usable:
        return int(numbered.group(1))
    return zlib.crc32(word.encode()) % usable


def decode(ids: Sequence[int]) -> str:
    """A text whose token ids these are."""
    return " ".join(f"t{number}" for number in ids)


def chat_ids(messages: Sequence[Mapping[str, Any]], vocab: int, *, open_answer: bool = True) -> list[int]:
    """Token ids of a conversation: five tokens around each message, three that open the answer."""
    start, end, newline = vocab - 1, vocab - 2, vocab - 3
    ids = []
    for message in messages:
        role = _role_id(message.get("role"), vocab)
        ids += [start, role, newline, *encode(content_text(message.get("content")), vocab), end, newline]
    return [*ids, start, _role_id("assistant", vocab), newline] if open_answer else ids


def _role_id(role: Any, vocab: int) -> int:
    return zlib.crc32(str(role).encode()) % 8 + vocab - SPECIAL


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def answer_tokens(prompt: Sequence[int], vocab: int, *, seed: int = 0) -> Draw:
    """A function of positions (start, end) to the output tokens that follow this prompt."""
    usable = vocab - SPECIAL
    first = _key(prompt, seed) % usable

    def draw(start: int, end: int) -> list[int]:
        return [(first + position * _STRIDE) % usable for position in range(start, end)]

    return draw


def acceptance(speculation: Speculation | None, prompt: Sequence[int], *, seed: int = 0) -> Accept | None:
    """How many draft tokens of the answer to this prompt are accepted at each length; None without speculation."""
    return None if speculation is None else speculation.accept(_key(prompt, seed))


def _key(prompt: Sequence[int], seed: int) -> int:
    """A number that stands for a prompt and a seed."""
    ids = prompt if isinstance(prompt, array) else array("q", prompt)
    return zlib.crc32(ids) + seed * 104729
