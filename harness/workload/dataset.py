"""Prompts of other people's conversations from a file, and the lengths of the answers.

ShareGPT (a JSON array, or a conversation a line) gives its first question and the length of the
reply, as other load generators take it. JSON lines give `prompt` or `messages`, and
`output_tokens`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.errors import InputError
from harness.results.request_table import MISSING
from harness.scenario.workload import MOST_TOKENS
from harness.workload.data_files import (
    SkippedRows,
    first_line,
    json_object,
    missing_or,
    numbered_lines,
    read_bytes,
    row_error,
    whole_number,
)
from harness.workload.lengths import Lengths
from harness.workload.prompts import USER, ChatMessage, ChatPrompt, Prompt, Reply, Session, TextPrompt, Turn
from harness.workload.vocabulary import estimated_tokens

SHAREGPT = "sharegpt"
JSONL = "jsonl"
NO_PAIR = "no question with an answer"

_SHAREGPT_ITEM = "an object with conversations"
_JSONL_ROW = "a JSON object a line with prompt (or messages) and output_tokens"
_ASKERS = ("human", "user")
_ANSWERERS = ("gpt", "assistant", "chatgpt", "bing", "bard")

RowPlace = int | str  # a line number, or "item 3" of an array


@dataclass(frozen=True, slots=True)
class DatasetPrompt:
    """One prompt of a file: its messages, and the length of the answer (MISSING where not known)."""

    messages: tuple[ChatMessage, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Prompts in the order in which they are to be sent; `skipped` counts left-out rows by reason."""

    entries: tuple[DatasetPrompt, ...]
    skipped: Mapping[str, int]
    format: str


@dataclass(frozen=True, slots=True)
class RowRequirements:
    """What a dataset's rows must have: one plain text each, or a length of the answer, or neither."""

    plain_text: bool
    output_tokens: bool


def read_dataset(
    path: Path,
    wanted: RowRequirements,
    *,
    format: str | None = None,  # noqa: A002 - the scenario's key
    limit: int | None = None,
    shuffle: np.random.Generator | None = None,
) -> Dataset:
    """The first `limit` usable prompts of a file, after shuffling where a generator is given.

    Raises:
        InputError: with file, line or item, field, and what was expected.
    """
    rows = _rows(path)
    name = format or _detect(path, rows)
    order = range(len(rows)) if shuffle is None else shuffle.permutation(len(rows)).tolist()
    entries: list[DatasetPrompt] = []
    skips = SkippedRows()
    for number in order:
        place, raw = rows[number]
        try:
            entry = _sharegpt(path, place, raw) if name == SHAREGPT else _jsonl(path, place, raw, wanted)
        except InputError as error:
            skips.add(error)
            continue
        if entry is None:
            skips.reasons[NO_PAIR] += 1
        else:
            entries.append(entry)
        if len(entries) == limit:
            break
    if not entries:
        expected = _SHAREGPT_ITEM if name == SHAREGPT else _JSONL_ROW
        raise skips.nothing(InputError(f"{path}: no usable prompts; expected {expected}"))
    return Dataset(tuple(entries), skips.as_dict(), name)


def _rows(path: Path) -> Sequence[tuple[RowPlace, bytes | msgspec.Raw]]:
    """The undecoded objects of a JSON array or of JSON lines, each with its place."""
    if not first_line(path).startswith(b"["):
        return list(numbered_lines(path))
    data = read_bytes(path)
    try:
        items = msgspec.json.decode(data, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); expected an array of conversations") from error
    return [(f"item {number}", raw) for number, raw in enumerate(items, 1)]


def _detect(path: Path, rows: Sequence[tuple[RowPlace, bytes | msgspec.Raw]]) -> str:
    if not rows:
        raise InputError(f"{path}: the array is empty; expected {_SHAREGPT_ITEM}")
    skips = SkippedRows()
    for place, raw in rows:
        try:
            return _format_of(path, place, raw)
        except InputError as error:
            skips.add(error)
    raise skips.nothing(InputError(f"{path}: no usable prompts; expected {_JSONL_ROW}"))


def _format_of(path: Path, place: RowPlace, raw: bytes | msgspec.Raw) -> str:
    row = json_object(path, place, raw, f"{_SHAREGPT_ITEM} (ShareGPT), or {_JSONL_ROW}")
    if "conversations" in row:
        return SHAREGPT
    if "prompt" in row or "messages" in row:
        return JSONL
    found = f"neither conversations (ShareGPT) nor prompt or messages is there; expected {_JSONL_ROW}"
    raise row_error(path, place, found)


def _sharegpt(path: Path, place: RowPlace, raw: bytes | msgspec.Raw) -> DatasetPrompt | None:
    """The first question that has an answer, and about how long that is; None where there is none."""
    row = json_object(path, place, raw, _SHAREGPT_ITEM)
    told = row.get("conversations")
    if not isinstance(told, list):
        raise row_error(path, place, f"{missing_or(row, 'conversations')}; expected a list of messages")
    for (asker, question), (answerer, answer) in itertools.pairwise(_spoken(path, place, told)):
        if asker in _ASKERS and answerer in _ANSWERERS and question.strip() and answer.strip():
            return DatasetPrompt((ChatMessage(USER, question),), estimated_tokens(answer))
    return None


def _spoken(path: Path, place: RowPlace, told: list[Any]) -> Iterator[tuple[str, str]]:
    """Who says what, by `from` and `value`, or by `role` and `content`."""
    for number, message in enumerate(told):
        if not isinstance(message, dict):
            raise row_error(path, place, f"conversations[{number}]: not an object; expected a text")
        names = ("role", "content") if "role" in message and "from" not in message else ("from", "value")
        speaker, text = message.get(names[0]), _text(message.get(names[1]))
        if not isinstance(speaker, str) or text is None:
            wrong = names[1] if isinstance(speaker, str) else names[0]
            raise row_error(path, place, f"conversations[{number}]: {missing_or(message, wrong)}; expected a text")
        yield speaker, text


def _text(value: Any) -> str | None:
    """A text, also where it is a list of text parts; None for anything else, an image among them."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) else part for part in value]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if parts and len(texts) == len(parts) else None


def _jsonl(path: Path, place: RowPlace, raw: bytes | msgspec.Raw, wanted: RowRequirements) -> DatasetPrompt:
    row = json_object(path, place, raw, _JSONL_ROW)
    length = whole_number(row.get("output_tokens"), MOST_TOKENS) if wanted.output_tokens else MISSING
    if not length:
        expected = "expected a whole number of at least 1, or output_tokens in the scenario"
        raise row_error(path, place, f"{missing_or(row, 'output_tokens')}; {expected}")
    return DatasetPrompt(_messages(path, place, row, wanted), length)


def _messages(path: Path, place: RowPlace, row: dict[str, Any], wanted: RowRequirements) -> tuple[ChatMessage, ...]:
    """What a row says: its messages where it has them and the endpoint takes them, else its prompt."""
    if "messages" in row and not (wanted.plain_text and "prompt" in row):
        if wanted.plain_text:
            raise row_error(path, place, "prompt is missing; expected a text (messages need endpoint chat)")
        return _told(path, place, row)
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise row_error(path, place, f"{missing_or(row, 'prompt')}; expected a text")
    return (ChatMessage(USER, prompt),)


def _told(path: Path, place: RowPlace, row: dict[str, Any]) -> tuple[ChatMessage, ...]:
    told = row["messages"]
    if isinstance(told, list):
        told = [_plain_parts(message) for message in told]
    try:
        messages = msgspec.convert(told, tuple[ChatMessage, ...])
    except msgspec.ValidationError as error:
        raise row_error(path, place, f"messages: {error}; expected a list of {{role, content}}") from error
    if not messages:
        raise row_error(path, place, "messages is empty; expected a list of {role, content}")
    return messages


def _plain_parts(message: Any) -> Any:
    """A message whose parts are all texts, as one text."""
    if not isinstance(message, dict):
        return message
    text = _text(message.get("content"))
    return message if text is None else {**message, "content": text}


@dataclass(frozen=True, slots=True)
class DatasetContents:
    """The prompts of a data set, then from the first again; only the server knows their tokens."""

    entries: tuple[DatasetPrompt, ...]
    chat: bool
    outputs: Lengths | None

    @property
    def size(self) -> int:
        """How many prompts there are."""
        return len(self.entries)

    def session(self, index: int) -> Session:
        """One request; only the length of its answer is known."""
        entry = self.entries[index % len(self.entries)]
        output_tokens = entry.output_tokens if self.outputs is None else self.outputs.at(index)
        return Session(index, (Turn(MISSING, output_tokens),))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - one turn each
        """The prompt as it stands in the file."""
        entry = self.entries[index % len(self.entries)]
        if self.chat:
            return ChatPrompt(entry.messages)
        return TextPrompt(entry.messages[0].content)
