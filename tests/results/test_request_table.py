"""One table of a request's fields: columns, files, frames and what the client notes follow from it."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.client.journal import ROW
from harness.client.journal_decoding import INTEGERS, TEXTS
from harness.errors import ResultError
from harness.results import store, table_files
from harness.results.folder import request_frame
from harness.results.request_table import (
    ALWAYS_COLUMNS,
    COLUMNS,
    LATER_COLUMNS,
    MISSING,
    TEXT_COLUMNS,
    Record,
    Requests,
    requests_from,
)

RECORD = Record(0, 0, 0, "measured", 3, 0, 1, due_ns=5, sent_ns=7, input_tokens=12, status="completed")


def test_every_column_follows_from_a_field():
    """A field that is added to a record is a column of the table, the file and the frame, with its meaning."""
    columns = {field.name: field.metadata for field in dataclasses.fields(Record)}
    names = tuple(columns)

    assert names == COLUMNS == tuple(field.name for field in dataclasses.fields(Requests))
    assert tuple(table_files.REQUEST_KINDS) == names
    assert all(column["meaning"] and column["unit"] in ("", "ns", "tokens") for column in columns.values())
    assert all((column["unit"] == "ns") == name.endswith("_ns") for name, column in columns.items())


def test_what_the_client_notes_are_columns():
    """The journal of what was sent and the decoded answers have no field that the table does not have."""
    own = {"written", "measured", "spare", "seq"}  # of the files themselves, not of a request

    assert set(ROW.names) - own <= set(COLUMNS)
    assert {*INTEGERS, *TEXTS} - own <= set(COLUMNS)
    assert set(TEXTS) <= TEXT_COLUMNS


def test_records_become_columns_of_one_type(tmp_path):
    """Texts are objects, all else int64; the file has nulls where there is no value, and the frame <NA>."""
    requests = requests_from([RECORD])
    table_files.write_requests(tmp_path, requests)
    table = pq.read_table(tmp_path / store.REQUESTS)
    frame = request_frame(tmp_path)

    assert table.column_names == list(frame.columns) == list(COLUMNS)
    for name in COLUMNS:
        values = getattr(requests, name)
        assert values.dtype == (object if name in TEXT_COLUMNS else np.int64)
        assert values[0] == getattr(RECORD, name) == getattr(table_files.read_requests(tmp_path), name)[0]
        if name not in TEXT_COLUMNS:
            assert frame[name].isna().tolist() == [values[0] == MISSING] == [table[name].null_count == 1]


def test_the_table_is_a_value():
    """Rows are chosen by a mask or by numbers, nothing is changed in place, and a copy may have other columns."""
    requests = requests_from([RECORD, dataclasses.replace(RECORD, index=1, due_ns=9)])

    assert len(requests.take(np.array([False, True]))) == 1
    assert requests.take(np.array([1])).due_ns.tolist() == [9]
    assert dataclasses.replace(requests, due_ns=np.array([1, 2])).due_ns.tolist() == [1, 2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        requests.due_ns = np.array([1, 2])


@pytest.mark.parametrize("name", sorted(ALWAYS_COLUMNS))
def test_a_column_that_always_has_a_value_is_refused_with_an_empty_cell(tmp_path, name):
    """Of the others an empty cell is no value; the client's own columns may be absent."""
    requests = requests_from([RECORD])
    table_files.write_requests(tmp_path, dataclasses.replace(requests, **{name: np.array([MISSING])}))

    with pytest.raises(ResultError, match=f"column {name} has 1 empty cell;"):
        table_files.read_requests(tmp_path)
    pq.write_table(pq.read_table(tmp_path / store.REQUESTS).drop(list(LATER_COLUMNS)), tmp_path / store.REQUESTS)
    with pytest.raises(ResultError, match=name):
        table_files.read_requests(tmp_path)
