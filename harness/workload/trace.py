"""Traces: the requests that other people's users sent, when, and which beginnings they shared.

Mooncake (JSON lines, times in ms, hashes of 512-token blocks), Bailian (the same fields, but
seconds and 16-token blocks), BurstGPT (CSV, seconds) and Azure (CSV, dates) become one `Trace`.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.messages import Message, message
from harness.scenario.workload import MOST_TOKENS
from harness.units import NS_PER_MS, NS_PER_S
from harness.workload.data_files import (
    SkippedRows,
    csv_names,
    csv_rows,
    first_line,
    json_object,
    missing_or,
    numbered_lines,
    row_error,
    whole_number,
)
from harness.workload.draws import Draws, RandomSource
from harness.workload.prompts import Prompt, Reply, Session, Turn
from harness.workload.synthetic import Drawn, PromptMedium
from harness.workload.trace_sessions import LinkedRow, SessionLink, TraceSession, link_of, linked, turns_of

NO_OUTPUT = "workload.no_output_tokens"  # BurstGPT writes failed requests so
NO_INPUT = "workload.no_input_tokens"

_MOONCAKE_FIELDS = ("timestamp", "input_length", "output_length")
_BURSTGPT_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_ROW = message("workload.trace_row", fields=_MOONCAKE_FIELDS)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_LARGEST = 1e18  # of a cell; more is a fault, and would overflow
_LONGEST_NS = 100 * 365 * 86_400 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded requests in order of time; all arrays but `due_ns` have one entry a request.

    `due_ns` is when each session begins, from the first; `sessions` holds the places of its requests among all, and
    what each waits for: None where each request is one by itself. `hash_ids[i]`, where the format has them, name the
    blocks of `block_tokens` tokens that request i begins with: equal ids, equal tokens.
    `skipped` notes the rows that are left out.
    """

    due_ns: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    hash_ids: tuple[NDArray[np.int64], ...] | None
    block_tokens: int
    skipped: tuple[Message, ...]
    format: str
    sessions: tuple[TraceSession, ...] | None = None

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self.due_ns)


class TraceRow(NamedTuple):
    """One row of a file: ns since any zero, tokens, block hashes and its place in a session where it has them."""

    at_ns: int | None
    input_tokens: int
    output_tokens: int
    hash_ids: NDArray[np.int64] | None
    link: SessionLink | None = None


class TraceFormat(NamedTuple):
    """How a format is read: its lines, the row of a line, and the tokens of a hashed block (0: no hashes)."""

    lines: Callable[[Path], Iterator[tuple[int, Any]]]
    row: Callable[[Path, int, Any], TraceRow]
    block_tokens: int


def read_trace(path: Path, format: str | None = None, limit: int | None = None) -> Trace:  # noqa: A002 - the scenario's key
    """The first `limit` usable rows of a trace file; the format is detected where it is not given.

    Raises:
        InputError: with file, line and what was expected.
    """
    name = format or detect(path)
    skips = SkippedRows()
    kept = list(itertools.islice(_usable(path, FORMATS[name], skips), limit))
    if not kept:
        raise skips.nothing(InputError(message("workload.no_usable_rows", path=str(path))))
    sessions = None
    if any(row.link is not None for row in kept):
        sessions = linked([LinkedRow(row.at_ns, row.link, place) for place, row in enumerate(kept)], skips.reasons)
        begins = [session.at_ns for session in sessions]
    else:
        kept.sort(key=lambda row: row.at_ns or 0)
        begins = [row.at_ns or 0 for row in kept]
    if not begins:
        reason = Message(next(iter(skips.reasons)))
        raise skips.nothing(InputError(message("workload.no_row_left", path=str(path), reason=reason)))
    if begins[-1] - begins[0] > _LONGEST_NS:
        raise InputError(message("workload.times_too_far_apart", path=str(path)))
    return Trace(
        due_ns=np.array([at_ns - begins[0] for at_ns in begins], dtype=np.int64),
        input_tokens=np.array([row.input_tokens for row in kept], dtype=np.int64),
        output_tokens=np.array([row.output_tokens for row in kept], dtype=np.int64),
        hash_ids=_hashes(kept),
        block_tokens=FORMATS[name].block_tokens,
        skipped=skips.notes(),
        format=name,
        sessions=None if sessions is None else tuple(sessions),
    )


def detect(path: Path) -> str:
    """The format of a trace file, by the fields of its first row that has them all, or by its header."""
    line = first_line(path)
    if line.startswith(b"{"):
        for number, line in numbered_lines(path):
            with contextlib.suppress(InputError):
                row = json_object(path, number, line, _ROW)
                if set(_MOONCAKE_FIELDS) <= row.keys():
                    return "bailian" if "parent_chat_id" in row else "mooncake"
    names = set(csv_names(line))
    for name, columns in (("burstgpt", _BURSTGPT_COLUMNS), ("azure", _AZURE_COLUMNS)):
        if names.issuperset(columns):
            return name
    raise row_error(
        path,
        1,
        message("workload.unknown_trace", row=_ROW, burstgpt=_BURSTGPT_COLUMNS, azure=_AZURE_COLUMNS),
    )


def _usable(path: Path, how: TraceFormat, skips: SkippedRows) -> Iterator[TraceRow]:
    """Rows that ask and answer something; `skips` gets the others, as far as the file is read."""
    for number, line in how.lines(path):
        try:
            row = how.row(path, number, line)
        except InputError as error:
            skips.add(error)
            continue
        if row.output_tokens == 0:
            skips.reasons[NO_OUTPUT] += 1
        elif row.input_tokens == 0:
            skips.reasons[NO_INPUT] += 1
        else:
            yield row


def _hashes(rows: list[TraceRow]) -> tuple[NDArray[np.int64], ...] | None:
    if all(row.hash_ids is None for row in rows):
        return None
    none = np.empty(0, dtype=np.int64)
    return tuple(none if row.hash_ids is None else row.hash_ids for row in rows)


def _json_row(path: Path, number: int, line: bytes, unit_ns: int) -> TraceRow:
    row = json_object(path, number, line, _ROW)
    link, at = link_of(path, number, row, unit_ns), row.get("timestamp")
    is_number = isinstance(at, int | float) and not isinstance(at, bool) and abs(at) <= _LARGEST
    if not is_number and (link is None or at is not None):
        raise row_error(path, number, message("workload.expected_number", problem=missing_or(row, "timestamp")))
    inputs, outputs = (_whole_field(path, number, row, name) for name in _MOONCAKE_FIELDS[1:])
    at_ns = None if at is None else round(at * unit_ns)
    return TraceRow(at_ns, inputs, outputs, _hash_ids(path, number, row), link)


def _whole_field(path: Path, number: int, row: Mapping[str, Any], name: str) -> int:
    value = whole_number(row.get(name), MOST_TOKENS)
    if value is None:
        raise row_error(path, number, message("workload.expected_tokens", problem=missing_or(row, name)))
    return value


def _hash_ids(path: Path, number: int, row: Mapping[str, Any]) -> NDArray[np.int64] | None:
    if row.get("hash_ids") is None:
        return None
    try:
        return np.array(msgspec.convert(row["hash_ids"], list[int]), dtype=np.int64)
    except (msgspec.ValidationError, OverflowError) as error:
        reason = message("workload.expected_whole_numbers", problem=missing_or(row, "hash_ids"))
        raise row_error(path, number, reason) from error


def _csv_row(
    path: Path, number: int, cells: list[str], *, columns: tuple[str, str, str], instant: Callable[..., int]
) -> TraceRow:
    _, input_column, output_column = columns
    at, context, generated = cells
    input_tokens = _tokens(path, number, input_column, context)
    return TraceRow(instant(path, number, at), input_tokens, _tokens(path, number, output_column, generated), None)


def _tokens(path: Path, number: int, column: str, text: str) -> int:
    """A cell that holds a whole number; `12.0` is one, as data frames write it."""
    value = whole_number(_number(path, number, column, text), MOST_TOKENS)
    if value is None:
        raise row_error(path, number, message("workload.expected_tokens", problem=_cell(column, text)))
    return value


def _number(path: Path, number: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:  # nor NaN
        raise row_error(path, number, message("workload.expected_number", problem=_cell(column, text)))
    return value


def _cell(column: str, text: str) -> Message:
    """What stands in a cell."""
    return message("workload.field_is", field=column, value=repr(text[:40]))


def _seconds_ns(path: Path, number: int, text: str) -> int:
    return round(_number(path, number, "Timestamp", text) * NS_PER_S)


def _date_ns(path: Path, number: int, text: str) -> int:
    """Nanoseconds since 1970 of `2023-11-16 18:17:03.9799600`, exactly; UTC where no offset is given."""
    whole_number, fraction, offset = match.groups() if (match := _DATE.fullmatch(text.strip())) else ("", "", "")
    try:
        moment = datetime.fromisoformat(whole_number + _offset(offset)) - _EPOCH
    except ValueError:
        reason = message("workload.expected_date", problem=_cell("TIMESTAMP", text))
        raise row_error(path, number, reason) from None
    return moment // timedelta(seconds=1) * NS_PER_S + int((fraction or "").ljust(9, "0"))


def _offset(text: str | None) -> str:
    """An offset from UTC as Python 3.10 reads it: `+08:00`."""
    if not text or text == "Z":
        return "+00:00"
    return text if ":" in text else f"{text[:3]}:{text[3:]}"


def _csv_format(columns: tuple[str, str, str], instant: Callable[..., int]) -> TraceFormat:
    return TraceFormat(partial(csv_rows, columns=columns), partial(_csv_row, columns=columns, instant=instant), 0)


FORMATS: dict[str, TraceFormat] = {
    "mooncake": TraceFormat(numbered_lines, partial(_json_row, unit_ns=NS_PER_MS), 512),
    "bailian": TraceFormat(numbered_lines, partial(_json_row, unit_ns=NS_PER_S), 16),
    "burstgpt": _csv_format(_BURSTGPT_COLUMNS, _seconds_ns),
    "azure": _csv_format(_AZURE_COLUMNS, _date_ns),
}


@dataclass(frozen=True, slots=True)
class TraceContents:
    """Requests with the lengths of a trace, which share what the recorded ones shared.

    Session i takes the trace's session i modulo their number. When they begin again their blocks get new
    contents, so that a second pass does not find the first in the server's cache.
    """

    trace: Trace
    medium: PromptMedium
    shared: RandomSource
    own: RandomSource
    size: int | None = None

    @property
    def due_ns(self) -> NDArray[np.int64]:
        """When each session began, in ns from the first."""
        return self.trace.due_ns

    def session(self, index: int) -> Session:
        """Its requests, with their rows' lengths."""
        place = index % len(self.trace)
        if self.trace.sessions is None:
            return Session(index, (Turn(*self._lengths(place)),))
        session = self.trace.sessions[place]
        return Session(index, turns_of(session, [self._lengths(row) for row in session.places]))

    def prompt(self, index: int, turn: int, replies: Sequence[Reply]) -> Prompt:  # noqa: ARG002 - all of it is recorded
        """The blocks that the row's hashes name, cut to its length; what no hash names is its own."""
        round_, place = divmod(index, len(self.trace))
        row = place if self.trace.sessions is None else self.trace.sessions[place].places[turn]
        drawn = self._drawn(row)
        known = self._blocks(round_, row, drawn)
        own = self.own.draws(drawn - len(known), *((index, turn) if turn else (index,)))
        if not len(known):
            return self.medium.prompt([Drawn(own)])
        starts = range(0, len(known) + bool(len(own)), self.trace.block_tokens)
        return self.medium.prompt([Drawn(np.concatenate([known, own]), starts)])

    def _lengths(self, row: int) -> tuple[int, int]:
        """Tokens of a row's prompt and answer."""
        return self.medium.input_tokens(self._drawn(row), 1), int(self.trace.output_tokens[row])

    def _drawn(self, row: int) -> int:
        return self.medium.drawn_tokens(int(self.trace.input_tokens[row]))

    def _blocks(self, round_: int, row: int, drawn: int) -> Draws:
        if self.trace.hash_ids is None:
            return np.empty(0, dtype=np.uint64)
        size = self.trace.block_tokens
        names = self.trace.hash_ids[row][: -(-drawn // size)]
        return self.shared.blocks(names, size, round_)[:drawn]
