"""Errors in data files name file and line, and what was expected."""

import hashlib

import pytest

from harness.errors import InputError
from harness.workload import data_files


def test_lines_keep_their_numbers(tmp_path):
    """Blank lines are passed over but counted, and a byte order mark is no part of the first line."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\r\n\n  \n{"a":2}')

    assert list(data_files.numbered_lines(path)) == [(1, b'{"a":1}'), (4, b'{"a":2}')]


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    """SHA-256, as any other tool gives it."""
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1_000_000)

    assert data_files.sha256_of(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


@pytest.mark.parametrize(
    "read",
    [
        data_files.sha256_of,
        data_files.read_bytes,
        data_files.first_line,
        lambda path: list(data_files.csv_rows(path, ("a",))),
    ],
    ids=["sha256_of", "read_bytes", "first_line", "csv_rows"],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(read, tmp_path):
    """What the system says of a file becomes an input error, not a traceback."""
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read(tmp_path)


def test_a_long_value_is_cut_in_an_error():
    """An error line shows the beginning of a long value, never all of it."""
    told = str(data_files.missing_or({"prompt": ["x" * 1000]}, "prompt"))

    assert told.startswith("prompt is ['xxx")
    assert told.endswith("…")
    assert len(told) < 60
