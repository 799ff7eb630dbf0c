"""Which requests did somebody else's users send, when, and what did they share?

Mooncake (JSON lines, times in ms, hashes of 512-token blocks), Bailian (the same fields, but
seconds and 16-token blocks), BurstGPT (CSV, seconds) and Azure (CSV, dates) become one `Trace`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.inputs import csv_rows, fault, first_line, json_object, missing_or, numbered_lines
from harness.units import NS_PER_MS, NS_PER_S

NO_OUTPUT = "no output tokens"  # BurstGPT writes failed requests so
NO_INPUT = "no input tokens"

_MOONCAKE_FIELDS = ("timestamp", "input_length", "output_length")
_BURSTGPT_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_DATE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_LARGEST = 1e18  # of a cell; more is a fault, and would overflow
_LONGEST_NS = 100 * 365 * 86_400 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded requests in order of time; all arrays have one entry a request.

    `due_ns` counts from the first request. `hash_ids[i]`, where the format has them, name the
    blocks of `block_tokens` tokens that request i begins with: equal ids, equal tokens.
    `skipped` counts the rows that were left out, by reason.
    """

    due_ns: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    hash_ids: tuple[NDArray[np.int64], ...] | None
    block_tokens: int
    skipped: Mapping[str, int]
    format: str

    def __len__(self) -> int:
        return len(self.due_ns)


class Row(NamedTuple):
    """One row of a file: ns since any zero, tokens, and block hashes where it has them."""

    at_ns: int
    input_tokens: int
    output_tokens: int
    hash_ids: NDArray[np.int64] | None


class Format(NamedTuple):
    """How a format is read: its rows, and the tokens of a hashed block (0: no hashes)."""

    rows: Callable[[Path], Iterator[Row]]
    block_tokens: int


def read_trace(path: Path, format: str | None = None, limit: int | None = None) -> Trace:  # noqa: A002 - the scenario's key
    """The first `limit` usable rows of a trace file; the format is detected where it is not given.

    Raises:
        InputError: with file, line and what was expected.
    """
    name = format or detect(path)
    kept, skipped = _usable(FORMATS[name].rows(path), limit)
    if not kept:
        raise InputError(f"{path}: no usable rows; expected rows with input and output tokens")
    kept.sort(key=lambda row: row.at_ns)
    if kept[-1].at_ns - kept[0].at_ns > _LONGEST_NS:
        raise InputError(f"{path}: times span over a century; expected those of one recording")
    return Trace(
        due_ns=np.array([row.at_ns - kept[0].at_ns for row in kept], dtype=np.int64),
        input_tokens=np.array([row.input_tokens for row in kept], dtype=np.int64),
        output_tokens=np.array([row.output_tokens for row in kept], dtype=np.int64),
        hash_ids=_hashes(kept),
        block_tokens=FORMATS[name].block_tokens,
        skipped=skipped,
        format=name,
    )


def detect(path: Path) -> str:
    """The format of a trace file, by the fields of its first row."""
    line = first_line(path)
    if line.startswith(b"{"):
        row = json_object(path, 1, line, _fields(_MOONCAKE_FIELDS))
        if set(_MOONCAKE_FIELDS) <= row.keys():
            return "bailian" if "parent_chat_id" in row else "mooncake"
    names = {name.strip() for name in line.decode("utf-8", "replace").split(",")}
    for name, columns in (("burstgpt", _BURSTGPT_COLUMNS), ("azure", _AZURE_COLUMNS)):
        if names.issuperset(columns):
            return name
    raise fault(
        path,
        1,
        f"not a known trace; expected {_fields(_MOONCAKE_FIELDS)} (Mooncake), "
        f"columns {', '.join(_BURSTGPT_COLUMNS)} (BurstGPT) or {', '.join(_AZURE_COLUMNS)} (Azure)",
    )


def _fields(names: tuple[str, ...]) -> str:
    return f"a JSON object a line with {', '.join(names)}"


def _usable(rows: Iterator[Row], limit: int | None) -> tuple[list[Row], dict[str, int]]:
    """Rows that ask and answer something, up to `limit`, and why others were left out."""
    kept: list[Row] = []
    skipped: Counter[str] = Counter()
    for row in rows:
        if row.output_tokens == 0:
            skipped[NO_OUTPUT] += 1
        elif row.input_tokens == 0:
            skipped[NO_INPUT] += 1
        else:
            kept.append(row)
            if len(kept) == limit:
                break
    return kept, dict(skipped)


def _hashes(rows: list[Row]) -> tuple[NDArray[np.int64], ...] | None:
    if all(row.hash_ids is None for row in rows):
        return None
    none = np.empty(0, dtype=np.int64)
    return tuple(none if row.hash_ids is None else row.hash_ids for row in rows)


def _mooncake(path: Path) -> Iterator[Row]:
    return _json_rows(path, NS_PER_MS)


def _bailian(path: Path) -> Iterator[Row]:
    return _json_rows(path, NS_PER_S)


def _json_rows(path: Path, unit_ns: int) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        row = json_object(path, number, line, _fields(_MOONCAKE_FIELDS))
        at = row.get("timestamp")
        if not isinstance(at, int | float) or isinstance(at, bool) or abs(at) > _LARGEST:
            raise fault(path, number, f"{missing_or(row, 'timestamp')}; expected a number")
        asked, answered = (_whole_field(path, number, row, name) for name in _MOONCAKE_FIELDS[1:])
        yield Row(round(at * unit_ns), asked, answered, _hash_ids(path, number, row))


def _whole_field(path: Path, number: int, row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise fault(path, number, f"{missing_or(row, name)}; expected a whole number of tokens")
    return value


def _hash_ids(path: Path, number: int, row: Mapping[str, Any]) -> NDArray[np.int64] | None:
    if row.get("hash_ids") is None:
        return None
    try:
        return np.array(msgspec.convert(row["hash_ids"], list[int]), dtype=np.int64)
    except (msgspec.ValidationError, OverflowError) as error:
        found = missing_or(row, "hash_ids")
        raise fault(path, number, f"{found}; expected a list of whole numbers") from error


def _burstgpt(path: Path) -> Iterator[Row]:
    return _csv(path, _BURSTGPT_COLUMNS, _seconds_ns)


def _azure(path: Path) -> Iterator[Row]:
    return _csv(path, _AZURE_COLUMNS, _date_ns)


def _csv(path: Path, columns: tuple[str, str, str], instant: Callable[[Path, int, str], int]) -> Iterator[Row]:
    _, asked, answered = columns
    for number, (at, context, generated) in csv_rows(path, columns):
        input_tokens = _tokens(path, number, asked, context)
        yield Row(instant(path, number, at), input_tokens, _tokens(path, number, answered, generated), None)


def _tokens(path: Path, number: int, column: str, text: str) -> int:
    """A cell that holds a whole number; `12.0` is one, as data frames write it."""
    try:
        return _not_negative(int(text))
    except ValueError:
        value = _number(path, number, column, text)
        if value < 0 or not value.is_integer():
            raise fault(path, number, f"{column} is {text!r}; expected a whole number of tokens") from None
        return int(value)


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError
    return value


def _number(path: Path, number: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:  # nor NaN
        raise fault(path, number, f"{column} is {text!r}; expected a number")
    return value


def _seconds_ns(path: Path, number: int, text: str) -> int:
    return round(_number(path, number, "Timestamp", text) * NS_PER_S)


def _date_ns(path: Path, number: int, text: str) -> int:
    """Nanoseconds since 1970 of `2023-11-16 18:17:03.9799600`, exactly; UTC where no offset is given."""
    whole, fraction, offset = match.groups() if (match := _DATE.fullmatch(text.strip())) else ("", "", "")
    try:
        moment = datetime.fromisoformat(whole + _offset(offset)) - _EPOCH
    except ValueError:
        expected = "expected a date such as 2023-11-16 18:17:03.9799600"
        raise fault(path, number, f"TIMESTAMP is {text!r}; {expected}") from None
    return moment // timedelta(seconds=1) * NS_PER_S + int((fraction or "").ljust(9, "0"))


def _offset(text: str | None) -> str:
    """An offset from UTC as Python 3.10 reads it: `+08:00`."""
    if not text or text == "Z":
        return "+00:00"
    return text if ":" in text else f"{text[:3]}:{text[3:]}"


FORMATS: dict[str, Format] = {
    "mooncake": Format(_mooncake, 512),
    "bailian": Format(_bailian, 16),
    "burstgpt": Format(_burstgpt, 0),
    "azure": Format(_azure, 0),
}
