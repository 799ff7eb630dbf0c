"""Events are read from a folder as they were written into it."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ResultError
from harness.results import store, table_files
from harness.results.request_table import events_from

ANSWERS = st.lists(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**31 - 1)), max_size=6), max_size=12)


def of(answers):
    """Events of answers given as pairs of arrival and tokens."""
    return events_from([([at for at, _ in answer], [tokens for _, tokens in answer]) for answer in answers])


def same(events, others):
    """Whether two are equal in every column, types included."""
    pairs = ((getattr(events, name), getattr(others, name)) for name in ("offsets", "at_ns", "tokens"))
    return all(one.dtype == other.dtype and np.array_equal(one, other) for one, other in pairs)


@given(ANSWERS)
def test_events_come_back_as_they_were(tmp_path_factory, answers):
    """Whatever their number, also none, and rows without any."""
    folder, events = tmp_path_factory.mktemp("events"), of(answers)
    table_files.write_events(folder, np.arange(len(answers)), events)

    assert same(table_files.read_events(folder), events)


def test_events_lie_in_blocks(tmp_path, monkeypatch):
    """A file of several blocks has a group of rows for each, and reads as one."""
    monkeypatch.setattr(table_files, "BLOCK", 10)
    events = of([[(i, 1)] * 4 for i in range(9)] + [[], [(9, 2)] * 25, []])
    table_files.write_events(tmp_path, np.arange(12), events)
    file = pq.ParquetFile(tmp_path / store.EVENTS)

    assert file.metadata.num_row_groups > 4
    assert file.read()["index"].to_pylist() == list(range(12))
    assert same(table_files.read_events(tmp_path), events)


def test_a_file_in_one_block_is_read(tmp_path):
    """As earlier versions wrote it: one group, wide lists."""
    table = pa.table(
        {
            "index": pa.array([0, 1], type=pa.int64()),
            "at_ns": pa.array([[5, 7], []], type=pa.large_list(pa.int64())),
            "tokens": pa.array([[1, 2], []], type=pa.large_list(pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / store.EVENTS)

    assert same(table_files.read_events(tmp_path), of([[(5, 1), (7, 2)], []]))


def read_own_columns(folder):
    """Two columns of the table of samples."""
    return table_files.read_table(folder / store.SAMPLES, {"at_ns": table_files.WHOLE, "source": table_files.TEXT})


@pytest.mark.parametrize(
    ("name", "read", "short"),
    [
        (store.EVENTS, table_files.read_events, pa.table({"at_ns": [[1]]})),
        (store.SAMPLES, read_own_columns, pa.table({"at_ns": [1], "name": ["x"]})),
    ],
)
@pytest.mark.parametrize("content", ["missing", b"PAR1 and no more", "short"])
def test_a_broken_file_is_told_in_a_line(tmp_path, name, read, short, content):
    """Missing, cut or without a column: its name and what is wrong."""
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content == "short":
        pq.write_table(short, tmp_path / name)

    with pytest.raises(ResultError, match=rf"{re.escape(name)}: ") as caught:
        read(tmp_path)
    assert len(caught.value.lines) == 1


def test_the_columns_asked_for_are_read_in_their_order(tmp_path):
    """And no other."""
    pq.write_table(pa.table({"a": [1], "b": [2], "c": [3]}), tmp_path / store.SAMPLES)

    assert table_files.read_table(
        tmp_path / store.SAMPLES, {"c": table_files.WHOLE, "a": table_files.WHOLE}
    ).to_pydict() == {
        "c": [3],
        "a": [1],
    }


def test_results_of_one_second_have_a_folder_each(tmp_path, monkeypatch):
    """However many begin at once, in one process or in several, no two get the same folder."""
    moment = datetime(2026, 11, 29, 8, 0, tzinfo=timezone.utc)
    monkeypatch.setattr(store, "utc_now", lambda: moment)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.new_folder(tmp_path / "results", "chat"), range(24)))

    stem = "chat-20261129-080000"
    assert sorted(path.name for path in made) == sorted([stem, *(f"{stem}-{n}" for n in range(2, 25))])
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="is no folder"):
        store.new_folder(tmp_path / "file", "chat")
