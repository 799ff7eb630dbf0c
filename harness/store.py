"""How do a run's records lie in its folder, and how are they read again?

Parquet through pyarrow, one writer and one reader a file. A column of integers has nulls where
`records.MISSING` stands in memory. Every file is written beside its place and moved there, so
that a file that exists is whole.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.errors import ResultError
from harness.records import COLUMNS, MISSING, TEXT_COLUMNS, Events, Requests, Samples, requests_from_columns

FORMAT = 1
RUN = "run.json"
REQUESTS = "requests.parquet"
EVENTS = "events.parquet"
SAMPLES = "samples.parquet"
SUMMARY = "summary.json"
TIMELINE = "timeline.json"
RAW = "raw"


def write_requests(folder: Path, requests: Requests) -> None:
    """Write requests.parquet: a row a request, columns as in `records.COLUMNS`."""
    arrays = {name: _column(name, getattr(requests, name)) for name in COLUMNS}
    _write_table(folder / REQUESTS, pa.table(arrays))


def _column(name: str, values: NDArray[Any]) -> pa.Array:
    if name in TEXT_COLUMNS:
        return pa.array(values, type=pa.string()).dictionary_encode()
    return pa.array(values, type=pa.int64(), mask=values == MISSING)


def read_requests(folder: Path) -> Requests:
    """Read requests.parquet.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = _read_table(folder / REQUESTS, COLUMNS)
    return requests_from_columns({name: _values(name, table[name]) for name in COLUMNS})


def _values(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    if name in TEXT_COLUMNS:
        text = column.cast(pa.string())
        return np.asarray(text.to_numpy(zero_copy_only=False), dtype=object)
    return np.asarray(pc.fill_null(column, MISSING).to_numpy(), dtype=np.int64)


def write_events(folder: Path, index: NDArray[np.int64], events: Events) -> None:
    """Write events.parquet: for each request the arrival (ns since the zero) and tokens of its events."""
    offsets = pa.array(events.offsets, type=pa.int32() if events.offsets[-1] < 2**31 else pa.int64())
    lists = pa.ListArray if events.offsets[-1] < 2**31 else pa.LargeListArray
    table = pa.table(
        {
            "index": pa.array(index, type=pa.int64()),
            "at_ns": lists.from_arrays(offsets, pa.array(events.at_ns, type=pa.int64())),
            "tokens": lists.from_arrays(offsets, pa.array(events.tokens, type=pa.int32())),
        }
    )
    _write_table(folder / EVENTS, table)


def read_events(folder: Path) -> Events:
    """Read events.parquet, in the order of requests.parquet.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = _read_table(folder / EVENTS, ("at_ns", "tokens")).combine_chunks()
    at_ns, tokens = table["at_ns"], table["tokens"]
    counts = np.asarray(pc.list_value_length(at_ns).to_numpy(), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Events(offsets, _flat(at_ns, np.int64), _flat(tokens, np.int32))


def _flat(column: pa.ChunkedArray, dtype: type) -> NDArray[Any]:
    parts: list[NDArray[Any]] = [
        np.asarray(chunk.flatten().to_numpy(zero_copy_only=False), dtype=dtype) for chunk in column.chunks
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


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
    _write_table(folder / SAMPLES, table)


def read_samples(folder: Path) -> Samples:
    """Read samples.parquet; empty where the run was killed before it was written."""
    if not (folder / SAMPLES).exists():
        table: Mapping[str, Any] = {"at_ns": [], "source": [], "name": [], "value": []}
    else:
        read = _read_table(folder / SAMPLES, ("at_ns", "source", "name", "value"))
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


def write_json(folder: Path, name: str, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(folder / name, lambda path: path.write_text(text, encoding="utf-8"))


def read_json(folder: Path, name: str) -> Any:
    """Read a JSON file of a run.

    Raises:
        ResultError: where it is missing or is no JSON.
    """
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file; expected a result folder of `harness run`") from None
    except (OSError, ValueError) as fault:
        raise ResultError(f"{path}: cannot be read ({fault})") from None


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json, refusing a format that this version does not know.

    Raises:
        ResultError: where the folder is no result, or a newer harness wrote it.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such folder; expected a result folder of `harness run`")
    run = read_json(folder, RUN)
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        found = run.get("format") if isinstance(run, dict) else None
        raise ResultError(f"{folder / RUN}: format {found}; expected {FORMAT}, which this version reads")
    return run


def _write_table(path: Path, table: pa.Table) -> None:
    _replace(path, lambda place: pq.write_table(table, place, compression="zstd"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    draft = path.with_name(f".{path.name}.part")
    write(draft)
    draft.replace(path)


def _read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file; expected a finished result folder") from None
    except (OSError, pa.ArrowException) as fault:
        raise ResultError(f"{path}: cannot be read ({str(fault).splitlines()[0]})") from None
