"""How are a user's data files found and read, and how is a fault in one told?"""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError

LEFT_OUT = "of the file left out: "  # in a remark on rows that were


def row_error(path: Path, place: int | str, text: str) -> InputError:
    """The one-line error of a data file; `place` is a line number, or words such as `item 3`."""
    return InputError(f"{path}:{place}: {text}" if isinstance(place, int) else f"{path}: {place}: {text}")


def read_bytes(path: Path) -> bytes:
    """The whole of a file, without a byte order mark."""
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def json_object(path: Path, place: int | str, raw: bytes | msgspec.Raw, expected: str) -> dict[str, Any]:
    """One JSON object of a file; `expected` ends the error line of anything else."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise row_error(path, place, f"not JSON ({error}); expected {expected}") from error
    if not isinstance(value, dict):
        raise row_error(path, place, f"found {type(value).__name__}; expected {expected}")
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
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def first_line(path: Path) -> bytes:
    """The first line that is not blank.

    Raises:
        InputError: where the file is empty.
    """
    line = next(numbered_lines(path), None)
    if line is None:
        raise InputError(f"{path}: the file is empty; expected a row a request")
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
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV text ({error}); expected {', '.join(columns)}") from error


def _places(path: Path, header: list[str], columns: tuple[str, ...]) -> list[int]:
    names = [name.strip() for name in header]
    for column in columns:
        if column not in names:
            raise row_error(path, 1, f"column {column!r} is missing; expected {', '.join(columns)}")
    return [names.index(column) for column in columns]


def whole_number(value: Any, most: int) -> int | None:
    """A number that is whole and from 0 to `most`, also where it is written as 20.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    return int(value) if value == int(value) else None


class SkippedRows:
    """Which rows of a file were left out: how many for a plain reason, how many that could not be read, and the first.

    A file of somebody else's has odd rows; they are counted and told, and do not end a run.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.unread = 0
        self.first: InputError | None = None

    def add(self, error: InputError) -> None:
        """A row that could not be read, and why."""
        self.first = self.first or error
        self.unread += 1

    def nothing(self, expected: InputError) -> InputError:
        """What is wrong with a file none of whose rows can be used: its first fault says it best."""
        return self.first or expected

    def as_dict(self) -> dict[str, int]:
        """Counts by reason; of what could not be read the reason is the first row's, with its place."""
        unread = {} if self.first is None else {f"not readable, first {self._place()}": self.unread}
        return dict(self.reasons) | unread

    def _place(self) -> str:
        """The first fault without the folders of its file."""
        text = str(self.first)
        return text[text.rfind("/", 0, text.find(": ")) + 1 :]


def missing_or(row: Mapping[str, Any], field: str) -> str:
    """How a field that is not as expected is told: that it is missing, or what it is."""
    if field not in row:
        return f"{field} is missing"
    text = repr(row[field])
    return f"{field} is {text if len(text) <= 40 else text[:39] + '…'}"
