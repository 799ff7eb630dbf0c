"""Prompts of other people's conversations from a file, and the lengths of the answers.

ShareGPT (a JSON array, or a conversation a line) gives its first question and the length of the
reply, as other load generators take it. JSON lines give `prompt` or `messages`, and
`output_tokens`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.errors import InputError
from harness.messages import Message, message
from harness.results.request_table import MISSING
from harness.scenario.workload import MOST_TOKENS
from harness.workload.data_files import (
    Item,
    RowPlace,
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
from harness.workload.prompts import (
    USER,
    ChatMessage,
    ChatPrompt,
    Prompt,
    Reply,
    Session,
    TextPrompt,
    Turn,
    estimated_tokens,
)

SHAREGPT = "sharegpt"
JSONL = "jsonl"
NO_PAIR = "workload.no_pair"

_SHAREGPT_ITEM = message("workload.sharegpt_item")
_JSONL_ROW = message("workload.jsonl_row")
_ASKERS = ("human", "user")
_ANSWERERS = ("gpt", "assistant", "chatgpt", "bing", "bard")


@dataclass(frozen=True, slots=True)
class DatasetPrompt:
    """One prompt of a file: its messages, and the length of the answer (MISSING where not known)."""

    messages: tuple[ChatMessage, ...]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Prompts in the order in which they are to be sent; `skipped` notes the rows that are left out."""

    entries: tuple[DatasetPrompt, ...]
    skipped: tuple[Message, ...]
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
        raise skips.nothing(InputError(message("workload.no_usable_prompts", path=str(path), expected=expected)))
    return Dataset(tuple(entries), skips.notes(), name)


def _rows(path: Path) -> Sequence[tuple[RowPlace, bytes | msgspec.Raw]]:
    """The undecoded objects of a JSON array or of JSON lines, each with its place."""
    if not first_line(path).startswith(b"["):
        return list(numbered_lines(path))
    data = read_bytes(path)
    try:
        items = msgspec.json.decode(data, type=list[msgspec.Raw])
    except msgspec.DecodeError as error:
        raise InputError(message("workload.not_an_array", path=str(path), error=str(error))) from error
    return [(Item(number), raw) for number, raw in enumerate(items, 1)]


def _detect(path: Path, rows: Sequence[tuple[RowPlace, bytes | msgspec.Raw]]) -> str:
    if not rows:
        raise InputError(message("workload.array_empty", path=str(path), expected=_SHAREGPT_ITEM))
    skips = SkippedRows()
    for place, raw in rows:
        try:
            return _format_of(path, place, raw)
        except InputError as error:
            skips.add(error)
    raise skips.nothing(InputError(message("workload.no_usable_prompts", path=str(path), expected=_JSONL_ROW)))


def _format_of(path: Path, place: RowPlace, raw: bytes | msgspec.Raw) -> str:
    row = json_object(path, place, raw, message("workload.sharegpt_or_jsonl", item=_SHAREGPT_ITEM, row=_JSONL_ROW))
    if "conversations" in row:
        return SHAREGPT
    if "prompt" in row or "messages" in row:
        return JSONL
    raise row_error(path, place, message("workload.no_known_field", expected=_JSONL_ROW))


def _sharegpt(path: Path, place: RowPlace, raw: bytes | msgspec.Raw) -> DatasetPrompt | None:
    """The first question that has an answer, and about how long that is; None where there is none."""
    row = json_object(path, place, raw, _SHAREGPT_ITEM)
    messages = row.get("conversations")
    if not isinstance(messages, list):
        reason = message("workload.expected_messages", problem=missing_or(row, "conversations"))
        raise row_error(path, place, reason)
    for (asker, question), (answerer, answer) in itertools.pairwise(_spoken(path, place, messages)):
        if asker in _ASKERS and answerer in _ANSWERERS and question.strip() and answer.strip():
            return DatasetPrompt((ChatMessage(USER, question),), estimated_tokens(answer))
    return None


def _spoken(path: Path, place: RowPlace, messages: list[Any]) -> Iterator[tuple[str, str]]:
    """Who says what, by `from` and `value`, or by `role` and `content`."""
    for number, entry in enumerate(messages):
        if not isinstance(entry, dict):
            raise row_error(path, place, message("workload.conversation_not_object", number=number))
        names = ("role", "content") if "role" in entry and "from" not in entry else ("from", "value")
        speaker, text = entry.get(names[0]), _text(entry.get(names[1]))
        if not isinstance(speaker, str) or text is None:
            wrong = names[1] if isinstance(speaker, str) else names[0]
            reason = message("workload.conversation_without_text", number=number, problem=missing_or(entry, wrong))
            raise row_error(path, place, reason)
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
        reason = message("workload.expected_answer_length", problem=missing_or(row, "output_tokens"))
        raise row_error(path, place, reason)
    return DatasetPrompt(_messages(path, place, row, wanted), length)


def _messages(path: Path, place: RowPlace, row: dict[str, Any], wanted: RowRequirements) -> tuple[ChatMessage, ...]:
    """What a row says: its messages where it has them and the endpoint takes them, else its prompt."""
    if "messages" in row and not (wanted.plain_text and "prompt" in row):
        if wanted.plain_text:
            raise row_error(path, place, message("workload.messages_need_chat"))
        return _chat(path, place, row)
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise row_error(path, place, message("workload.expected_text", problem=missing_or(row, "prompt")))
    return (ChatMessage(USER, prompt),)


def _chat(path: Path, place: RowPlace, row: dict[str, Any]) -> tuple[ChatMessage, ...]:
    raw = row["messages"]
    if isinstance(raw, list):
        raw = [_plain_parts(entry) for entry in raw]
    try:
        messages = msgspec.convert(raw, tuple[ChatMessage, ...])
    except msgspec.ValidationError as error:
        raise row_error(path, place, message("workload.messages_wrong", error=str(error))) from error
    if not messages:
        raise row_error(path, place, message("workload.messages_empty"))
    return messages


def _plain_parts(entry: Any) -> Any:
    """A message whose parts are all texts, as one text."""
    if not isinstance(entry, dict):
        return entry
    text = _text(entry.get("content"))
    return entry if text is None else {**entry, "content": text}


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
