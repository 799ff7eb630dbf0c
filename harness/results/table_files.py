"""Readers of parquet tables and .npz arrays, which refuse what is not of the expected form."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
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
from harness.results.file_schemas import WRITTEN_BY_RUN


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name.

    Raises:
        ResultError: where it cannot be read.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, EOFError, MemoryError, KeyError, zipfile.BadZipFile) as fault:
        raise _unreadable(path, _first_line(fault), WRITTEN_BY_RUN) from None
    except (NotImplementedError, RuntimeError, SyntaxError, TypeError) as fault:  # of a header that is none
        raise _unreadable(path, type(fault).__name__, WRITTEN_BY_RUN) from None


def _first_line(fault: BaseException) -> str:
    return next(iter(str(fault).splitlines()), type(fault).__name__)


def _unreadable(path: Path, reason: str, expected: Message) -> ResultError:
    return ResultError(message("results.unreadable_but_expected", path=str(path), reason=reason, expected=expected))


def integers_in(
    path: Path, arrays: Mapping[str, NDArray[Any]], name: str, count: int | None = None
) -> NDArray[np.int64]:
    """An array of whole numbers, of `count` where that is known.

    Raises:
        ResultError: where it is absent or another.
    """
    values = arrays.get(name)
    if values is None:
        raise ResultError(message("results.no_array", path=str(path), name=name, expected=WRITTEN_BY_RUN))
    if values.ndim != 1 or values.dtype.kind != "i" or len(values) != (len(values) if count is None else count):
        actual = {"path": str(path), "name": name, "shape": str(values.shape), "type": str(values.dtype)}
        if count is None:
            raise ResultError(message("results.array_type", **actual))
        raise ResultError(message("results.array_size", **actual, size=count))
    return values.astype(np.int64)


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
        raise _unreadable(path, _first_line(fault), message("results.parquet_of_run")) from None


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
