"""Readers of data files, and their errors with file, line or item, and what was expected."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.errors import InputError
from harness.messages import Message, message

LEFT_OUT = "workload.rows_left_out"  # the code of a note on rows that were


class Item(NamedTuple):
    """The place of a row that is an element of a JSON array, counted from 1."""

    number: int


RowPlace = int | Item  # a line number, or an element of an array


def row_error(path: Path, place: RowPlace, reason: Message) -> InputError:
    """The one-line error of a row."""
    if isinstance(place, Item):
        return InputError(message("workload.at_item", path=str(path), item=place.number, reason=reason))
    return InputError(message("workload.at_line", path=str(path), line=place, reason=reason))


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(message("workload.cannot_be_read", path=str(path), reason=error.strerror or str(error)))


def read_bytes(path: Path) -> bytes:
    """The whole of a file, without a byte order mark."""
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise _unreadable(path, error) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


def json_object(path: Path, place: RowPlace, raw: bytes | msgspec.Raw, expected: Message) -> dict[str, Any]:
    """One JSON object of a file; `expected` ends the error line of anything else."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise row_error(path, place, message("workload.not_json", error=str(error), expected=expected)) from error
    if not isinstance(value, dict):
        raise row_error(path, place, message("workload.not_an_object", kind=type(value).__name__, expected=expected))
    return value


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1 on, without line ends."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                if text:
                    yield number, text
    except OSError as error:
        raise _unreadable(path, error) from error


def first_line(path: Path) -> bytes:
    """The first line that is not blank.

    Raises:
        InputError: where the file is empty.
    """
    line = next(numbered_lines(path), None)
    if line is None:
        raise InputError(message("workload.file_empty", path=str(path)))
    return line[1]


def csv_names(line: bytes) -> list[str]:
    """The column names in the header line of a CSV file, quoted or not."""
    try:
        return [name.strip() for name in next(csv.reader([line.decode("utf-8", "replace")]), [])]
    except csv.Error:
        return []


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """The named columns of each row of a CSV file with a header, with line numbers; "" where a row is too short."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.reader(file)
            places = _places(path, next((row for row in rows if row), []), columns)
            for row in rows:
                if row:
                    yield rows.line_num, [row[place] if place < len(row) else "" for place in places]
    except OSError as error:
        raise _unreadable(path, error) from error
    except csv.Error as error:
        raise InputError(message("workload.not_csv", path=str(path), error=str(error), columns=columns)) from error


def _places(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int]:
    names = [name.strip() for name in header]
    for column in columns:
        if column not in names:
            raise row_error(path, 1, message("workload.column_missing", column=column, columns=columns))
    return [names.index(column) for column in columns]


def whole_number(value: Any, most: int) -> int | None:
    """A number that is whole and from 0 to `most`, also where it is written as 20.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    return int(value) if value == int(value) else None


class SkippedRows:
    """Rows of a file that are left out: how many for which reason, how many that cannot be read, and the first error.

    A file of somebody else's has odd rows; they are counted and noted, and do not end a run.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()  # by the code of a message
        self.unread = 0
        self.first: InputError | None = None

    def add(self, error: InputError) -> None:
        """A row that cannot be read, and why."""
        self.first = self.first or error
        self.unread += 1

    def nothing(self, expected: InputError) -> InputError:
        """What is wrong with a file none of whose rows can be used: its first error says it best."""
        return self.first or expected

    def notes(self) -> tuple[Message, ...]:
        """A note for each reason with its count; of what cannot be read the reason is the first row's error."""
        notes = [_left_out(rows, Message(code)) for code, rows in self.reasons.items()]
        if self.first is not None:
            notes.append(_left_out(self.unread, message("workload.not_readable", first=_without_folder(self.first))))
        return tuple(notes)


def _left_out(rows: int, reason: Message) -> Message:
    return message("workload.rows_left_out", count=rows, reason=reason)


def _without_folder(error: InputError) -> Message:
    """A row's error that names its file without the folders."""
    reason = error.messages[0]
    return Message(reason.code, {**reason.parameters, "path": Path(str(reason.parameters["path"])).name})


def missing_or(row: Mapping[str, Any], field: str) -> Message:
    """What a field is that is not as expected: missing, or its value."""
    if field not in row:
        return message("workload.field_missing", field=field)
    text = repr(row[field])
    return message("workload.field_is", field=field, value=text if len(text) <= 40 else text[:39] + "…")
