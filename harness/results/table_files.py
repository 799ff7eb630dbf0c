"""The tables of a result in Parquet: requests, events, samples and times of kernels, and what each column may hold.

A column of integers has nulls where `request_table.MISSING` stands in memory. Readers refuse what is not of
the expected form.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.errors import ResultError
from harness.messages import Message, message
from harness.results import store
from harness.results.request_table import (
    ALWAYS_COLUMNS,
    COLUMNS,
    LATER_COLUMNS,
    MISSING,
    TEXT_COLUMNS,
    Events,
    Requests,
    Samples,
    requests_from_columns,
)
from harness.safety.redaction import redact

BLOCK = 2_000_000  # values of lists that are written and read at once: 24 MB of numbers
_BUFFER_BYTES = 1 << 20
_MOST = 2**62  # so that a difference of two is no overflow


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column holds; `code` is the message that names it."""

    code: str
    fits: Callable[[pa.DataType], bool]
    empty: bool = False
    least: int = -_MOST
    most: int = _MOST

    @property
    def name(self) -> Message:
        """What it holds in a few words, such as `whole numbers from 0 on`."""
        return Message(self.code)


def _text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_null(inner))


def _whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_signed_integer(kind))


def _lists_of_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _whole(kind.value_type)


LISTS = Kind("results.lists_of_integers", _lists_of_whole)
WHOLE = Kind("results.integers", _whole)
WHOLE_OR_EMPTY = Kind("results.integers", _whole, empty=True)
COUNT = Kind("results.integers_from_0", _whole, least=0)
COUNT_OR_EMPTY = Kind("results.integers_from_0", _whole, empty=True, least=0)
LAUNCHES = Kind("results.integers_from_1", _whole, least=1)
PLACE = Kind("results.integers_to_a_million", _whole, least=0, most=10**6)
NUMBER = Kind("results.numbers", lambda kind: bool(pa.types.is_floating(kind) or pa.types.is_signed_integer(kind)))
TEXT = Kind("results.texts", _text)
Kinds = Mapping[str, Kind]


def read_table(path: Path, kinds: Kinds, optional: frozenset[str] = frozenset()) -> pa.Table:
    """These columns of one parquet file, as they lie there; of the `optional` ones those that it has.

    Read as a file and not as a data set, whose machinery takes longer to load than one of our tables to read.

    Raises:
        ResultError: where it is missing, cannot be read, or has a column of another kind.
    """
    with _faults_of(path), pq.ParquetFile(path) as file:
        wanted = [name for name in kinds if name not in optional or name in file.schema_arrow.names]
        for name in wanted:
            _hold_type(path, name, file.schema_arrow, kinds[name])
        table = file.read(columns=wanted).select(wanted)
        for name in wanted:
            _hold_values(path, name, table[name], kinds[name])
        return table


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """Whatever cannot be read of a file is a fault of the file."""
    try:
        yield
    except FileNotFoundError:
        raise ResultError(message("results.no_table", path=str(path))) from None
    except (OSError, KeyError, ValueError, MemoryError, pa.ArrowException) as fault:
        raise store.unreadable(path, store.first_line(fault), message("results.parquet_of_run")) from None


def _hold_type(path: Path, name: str, schema: pa.Schema, kind: Kind) -> None:
    if name not in schema.names:
        raise ResultError(message("results.no_column", path=str(path), column=name, kind=kind.name))
    actual = schema.field(name).type
    if not kind.fits(actual):
        raise ResultError(message("results.column_type", path=str(path), column=name, type=str(actual), kind=kind.name))


def _hold_values(path: Path, name: str, column: pa.ChunkedArray, kind: Kind) -> None:
    if column.null_count and not kind.empty:
        raise _empty_cells(path, name, column.null_count, kind)
    if pa.types.is_integer(column.type) and len(column):
        ends = pc.min_max(column).as_py()
        for value in (ends["min"], ends["max"]):
            if value is not None and not kind.least <= value <= kind.most:
                raise ResultError(
                    message("results.cell_value", path=str(path), column=name, value=value, kind=kind.name)
                )
    elif kind.fits is _text:
        _hold_texts(column)


def _empty_cells(path: Path, name: str, count: int, kind: Kind) -> ResultError:
    return ResultError(message("results.empty_cells", path=str(path), column=name, count=count, kind=kind.name))


def _hold_texts(column: pa.ChunkedArray) -> None:
    """Refuse bytes that are no text, which pyarrow finds only where it looks."""
    for chunk in column.chunks:
        (chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk).validate(full=True)


def read_lists(path: Path, columns: Mapping[str, type]) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Columns of lists of whole numbers, each as its dtype, end to end, and how long each row's lists are.

    It takes little more memory than the numbers do.

    Raises:
        ResultError: where it is missing, cannot be read, or has other columns.
    """
    lengths: NDArray[np.int64] | None = None
    values = {}
    with _faults_of(path), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
        for name, dtype in columns.items():
            _hold_type(path, name, file.schema_arrow, LISTS)
            own, values[name] = _lists(path, file, name, dtype)
            if lengths is not None and not np.array_equal(lengths, own):
                raise ResultError(message("results.list_lengths", path=str(path), columns=list(columns)))
            lengths = own
    assert lengths is not None
    return lengths, values


def _lists(path: Path, file: pq.ParquetFile, name: str, dtype: type) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """A column of lists: the length of each, and what is in them one after another, filled in block by block."""
    leaf = next(i for i in range(file.metadata.num_columns) if file.schema.column(i).path.startswith(f"{name}."))
    groups = range(file.metadata.num_row_groups)
    # An empty list counts as one value there, so this is never too few.
    filled = np.empty(sum(file.metadata.row_group(group).column(leaf).num_values for group in groups), dtype=dtype)
    lengths, end = [np.zeros(0, dtype=np.int64)], 0
    rows = max(1, BLOCK * file.metadata.num_rows // max(1, len(filled)))
    for batch in file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
        inner = batch.column(0).flatten()
        if batch.column(0).null_count or inner.null_count:
            raise _empty_cells(path, name, batch.column(0).null_count + inner.null_count, LISTS)
        values = inner.to_numpy(zero_copy_only=False)
        filled[end : end + len(values)] = values
        end += len(values)
        lengths.append(pc.list_value_length(batch.column(0)).to_numpy(zero_copy_only=False))
    return np.concatenate(lengths).astype(np.int64), filled[:end]


KERNEL_KINDS: Kinds = {
    "repeat": PLACE, "case": PLACE, "path": TEXT, "mode": TEXT, "sample": PLACE, "launches": LAUNCHES,
    "launch_ns": COUNT_OR_EMPTY, "wall_ns": COUNT, "device_ns": COUNT_OR_EMPTY,
}  # fmt: skip
KERNEL_COLUMNS = tuple(KERNEL_KINDS)
SAMPLE_KINDS: Kinds = {"at_ns": WHOLE, "source": TEXT, "name": TEXT, "value": NUMBER}


def _request_kind(name: str) -> Kind:
    if name in ALWAYS_COLUMNS:
        return PLACE if name in ("stage", "repeat") else COUNT
    return TEXT if name in TEXT_COLUMNS else WHOLE_OR_EMPTY


REQUEST_KINDS: Kinds = {name: _request_kind(name) for name in COLUMNS}
_REPEATED = ["tokens.list.element"]  # few different values; times are all different, and a dictionary only costs
_EVENT_SCHEMA = pa.schema([("index", pa.int64()), ("at_ns", pa.list_(pa.int64())), ("tokens", pa.list_(pa.int32()))])


def write_requests(folder: Path, requests: Requests) -> None:
    """Write requests.parquet: a row a request, columns as in `request_table.COLUMNS`."""
    arrays = {name: _column(name, getattr(requests, name)) for name in COLUMNS}
    _write_table(folder / store.REQUESTS, pa.table(arrays))


def _column(name: str, values: NDArray[Any]) -> pa.Array:
    if name in TEXT_COLUMNS:
        return pa.array([redact(text) for text in values.tolist()], type=pa.string()).dictionary_encode()
    return pa.array(values, type=pa.int64(), mask=values == MISSING)


def read_requests(folder: Path) -> Requests:
    """Read requests.parquet.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = read_table(folder / store.REQUESTS, REQUEST_KINDS, frozenset(LATER_COLUMNS))
    return requests_from_columns({name: _values(name, table[name]) for name in table.column_names})


def _values(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    if name in TEXT_COLUMNS:
        text = column.cast(pa.string())
        return np.asarray(text.to_numpy(zero_copy_only=False), dtype=object)
    return np.asarray(pc.fill_null(column, MISSING).to_numpy(), dtype=np.int64)


def write_events(folder: Path, index: NDArray[np.int64], events: Events) -> None:
    """Write events.parquet: for each request the arrival (ns since the zero) and tokens of its events."""
    store.replace_file(folder / store.EVENTS, lambda path: _write_blocks(path, index, events))


def _write_blocks(path: Path, index: NDArray[np.int64], events: Events) -> None:
    """A group of rows at a time, each of about `BLOCK` events, so that it can be read in such blocks again."""
    with pq.ParquetWriter(path, _EVENT_SCHEMA, compression="zstd", use_dictionary=_REPEATED) as writer:
        for first, last in _blocks(events.offsets):
            begin, end = int(events.offsets[first]), int(events.offsets[last])
            offsets = pa.array(events.offsets[first : last + 1] - begin, type=pa.int32())
            parts = ((events.at_ns, pa.int64()), (events.tokens, pa.int32()))
            lists = (pa.ListArray.from_arrays(offsets, pa.array(each[begin:end], type=kind)) for each, kind in parts)
            rows = pa.array(index[first:last], type=pa.int64())
            writer.write_table(pa.Table.from_arrays([rows, *lists], schema=_EVENT_SCHEMA))


def _blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Stretches of consecutive rows of about `BLOCK` events and at most as many rows; one at least."""
    rows, first = len(offsets) - 1, 0
    while first < rows or first == 0:
        last = int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), first + BLOCK, rows)
        yield first, last
        if last == rows:
            return
        first = last


def read_events(folder: Path) -> Events:
    """Read events.parquet, in the order of requests.parquet, with little more memory than the events take.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    lengths, values = read_lists(folder / store.EVENTS, {"tokens": np.int32, "at_ns": np.int64})
    return Events(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), values["at_ns"], values["tokens"])


def write_samples(folder: Path, samples: Samples) -> None:
    """Write samples.parquet: one value of one source at one time a row."""
    table = pa.table(
        {
            "at_ns": pa.array(samples.at_ns, type=pa.int64()),
            "source": pa.array(samples.source, type=pa.string()).dictionary_encode(),
            "name": pa.array(samples.name, type=pa.string()).dictionary_encode(),
            "value": pa.array(samples.value, type=pa.float64()),
        }
    )
    _write_table(folder / store.SAMPLES, table)


def read_samples(folder: Path) -> Samples:
    """Read samples.parquet; empty where the run was killed before it was written."""
    if not (folder / store.SAMPLES).exists():
        table: Mapping[str, Any] = {"at_ns": [], "source": [], "name": [], "value": []}
    else:
        read = read_table(folder / store.SAMPLES, SAMPLE_KINDS)
        table = {name: _cell_values(read[name]) for name in read.column_names}
    return Samples(
        np.asarray(table["at_ns"], dtype=np.int64),
        np.asarray(table["source"], dtype=object),
        np.asarray(table["name"], dtype=object),
        np.asarray(table["value"], dtype=np.float64),
    )


def _cell_values(column: pa.ChunkedArray) -> NDArray[Any]:
    plain = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
    return np.asarray(plain.to_numpy(zero_copy_only=False))


def write_kernel_samples(folder: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write kernels.parquet: a row a sample, columns as in `KERNEL_COLUMNS`; device_ns null where there is none."""
    columns = list(zip(*rows, strict=True)) or [()] * len(KERNEL_COLUMNS)
    arrays = {
        name: pa.array(values, type=pa.string() if name in ("path", "mode") else pa.int64())
        for name, values in zip(KERNEL_COLUMNS, columns, strict=True)
    }
    _write_table(folder / store.KERNELS, pa.table(arrays))


def read_kernel_samples(folder: Path) -> dict[str, list[Any]]:
    """Read kernels.parquet as columns.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = read_table(folder / store.KERNELS, KERNEL_KINDS)
    return {name: table[name].to_pylist() for name in KERNEL_COLUMNS}


def _write_table(path: Path, table: pa.Table) -> None:
    store.replace_file(path, lambda place: pq.write_table(table, place, compression="zstd"))
