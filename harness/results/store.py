"""The files of a run: one writer and one reader of each.

Parquet through pyarrow. A column of integers has nulls where
`request_table.MISSING` stands in memory. Every file is written beside its place and moved there, so
that a file that exists is whole.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.clock import VIRTUAL_TIME, utc_now
from harness.errors import InputError, ResultError
from harness.messages import Message, message
from harness.results.file_schemas import (
    WRITTEN_BY_RUN,
    JobSchema,
    OfflineJobSchema,
    RunSchema,
    TimelineRowSchema,
)
from harness.results.request_table import (
    ALWAYS_COLUMNS,
    CLIENT_COLUMNS,
    COLUMNS,
    MISSING,
    TEXT_COLUMNS,
    Events,
    Requests,
    Samples,
    requests_from_columns,
)
from harness.results.summary_schema import KernelSummarySchema, SummarySchema, in_format_2
from harness.results.table_files import (
    BLOCK,
    COUNT,
    COUNT_OR_EMPTY,
    LAUNCHES,
    NUMBER,
    PLACE,
    TEXT,
    WHOLE,
    WHOLE_OR_EMPTY,
    Kind,
    Kinds,
    read_lists,
    read_table,
)
from harness.safety.redaction import redact, redact_tree

FORMAT = 1  # of run.json
SUMMARY_FORMAT = 2
RUN = "run.json"
REQUESTS = "requests.parquet"
EVENTS = "events.parquet"
SAMPLES = "samples.parquet"
SUMMARY = "summary.json"
TIMELINE = "timeline.json"
KERNELS = "kernels.parquet"
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
RAW = "raw"
_BLOCK = BLOCK
_REPEATED = ["tokens.list.element"]  # few different values; times are all different, and a dictionary only costs
_EVENT_SCHEMA = pa.schema([("index", pa.int64()), ("at_ns", pa.list_(pa.int64())), ("tokens", pa.list_(pa.int32()))])
BEGUN = "begun.jsonl"  # in RAW: when stages began


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder that nobody else has, also not who begins in the same second: NAME-TIME, else NAME-TIME-2, ….

    Raises:
        ResultError: where it cannot be made.
    """
    stem = f"{name}-{utc_now().strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if not folder.exists():  # it is the parent that is no folder
                raise ResultError(message("results.parent_no_folder", path=str(parent))) from None
        except FileNotFoundError:  # who ended just now took the empty parent away
            continue
        except OSError as fault:
            reason = fault.strerror or str(fault)
            raise ResultError(message("results.folder_not_made", folder=str(folder), reason=reason)) from None
        else:
            return folder
    raise AssertionError


def make_out_folder(folder: Path) -> None:
    """Make the folder that a user named with --out, where it is not there yet.

    Raises:
        InputError: where it cannot be made, as below a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        reason = fault.strerror or str(fault)
        raise InputError(message("cli.out_not_made", folder=str(folder), reason=reason)) from None


def write_requests(folder: Path, requests: Requests) -> None:
    """Write requests.parquet: a row a request, columns as in `request_table.COLUMNS`."""
    arrays = {name: _column(name, getattr(requests, name)) for name in COLUMNS}
    _write_table(folder / REQUESTS, pa.table(arrays))


def _column(name: str, values: NDArray[Any]) -> pa.Array:
    if name in TEXT_COLUMNS:
        return pa.array([redact(text) for text in values.tolist()], type=pa.string()).dictionary_encode()
    return pa.array(values, type=pa.int64(), mask=values == MISSING)


def read_requests(folder: Path) -> Requests:
    """Read requests.parquet.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = read_table(folder / REQUESTS, REQUEST_KINDS, frozenset(CLIENT_COLUMNS))
    return requests_from_columns({name: _values(name, table[name]) for name in table.column_names})


def _values(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    if name in TEXT_COLUMNS:
        text = column.cast(pa.string())
        return np.asarray(text.to_numpy(zero_copy_only=False), dtype=object)
    return np.asarray(pc.fill_null(column, MISSING).to_numpy(), dtype=np.int64)


def write_events(folder: Path, index: NDArray[np.int64], events: Events) -> None:
    """Write events.parquet: for each request the arrival (ns since the zero) and tokens of its events."""
    _replace(folder / EVENTS, lambda path: _write_blocks(path, index, events))


def _write_blocks(path: Path, index: NDArray[np.int64], events: Events) -> None:
    """A group of rows at a time, each of about `_BLOCK` events, so that it can be read in such blocks again."""
    with pq.ParquetWriter(path, _EVENT_SCHEMA, compression="zstd", use_dictionary=_REPEATED) as writer:
        for first, last in _blocks(events.offsets):
            begin, end = int(events.offsets[first]), int(events.offsets[last])
            offsets = pa.array(events.offsets[first : last + 1] - begin, type=pa.int32())
            parts = ((events.at_ns, pa.int64()), (events.tokens, pa.int32()))
            lists = (pa.ListArray.from_arrays(offsets, pa.array(each[begin:end], type=kind)) for each, kind in parts)
            rows = pa.array(index[first:last], type=pa.int64())
            writer.write_table(pa.Table.from_arrays([rows, *lists], schema=_EVENT_SCHEMA))


def _blocks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Stretches of consecutive rows of about `_BLOCK` events and at most as many rows; one at least."""
    rows, first = len(offsets) - 1, 0
    while first < rows or first == 0:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), first + _BLOCK, rows)
        yield first, last
        if last == rows:
            return
        first = last


def read_events(folder: Path) -> Events:
    """Read events.parquet, in the order of requests.parquet, with little more memory than the events take.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    lengths, values = read_lists(folder / EVENTS, {"tokens": np.int32, "at_ns": np.int64})
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
    _write_table(folder / SAMPLES, table)


def read_samples(folder: Path) -> Samples:
    """Read samples.parquet; empty where the run was killed before it was written."""
    if not (folder / SAMPLES).exists():
        table: Mapping[str, Any] = {"at_ns": [], "source": [], "name": [], "value": []}
    else:
        read = read_table(folder / SAMPLES, SAMPLE_KINDS)
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
    _write_table(folder / KERNELS, pa.table(arrays))


def read_kernel_samples(folder: Path) -> dict[str, list[Any]]:
    """Read kernels.parquet as columns.

    Raises:
        ResultError: where it is missing or is not of this form.
    """
    table = read_table(folder / KERNELS, KERNEL_KINDS)
    return {name: table[name].to_pylist() for name in KERNEL_COLUMNS}


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a text file, whole or not at all."""
    _replace(folder / name, lambda path: path.write_text(text, encoding="utf-8"))


def write_json(folder: Path, name: str, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(redact_tree(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(folder / name, lambda path: path.write_text(text, encoding="utf-8"))


def _whole_text(text: str) -> Any:
    """The value of a JSON text; half surrogates in it, which are no letters, become question marks."""
    value = json.loads(text)
    if "\\ud" not in text and "\\uD" not in text:
        return value
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def read_json(folder: Path, name: str) -> Any:
    """Read a JSON file of a run.

    Raises:
        ResultError: where it is missing or is no JSON.
    """
    path = folder / name
    try:
        value = _whole_text(path.read_text(encoding="utf-8"))
        value = in_format_2(str(path), value) if name == SUMMARY else value
        return checked_json(str(path), name, value)
    except FileNotFoundError:
        raise ResultError(message("results.no_file", path=str(path))) from None
    except (OSError, ValueError, RecursionError) as fault:
        raise ResultError(message("results.unreadable", path=str(path), reason=str(fault))) from None


REQUEST_RUN, KERNEL_RUN = "requests", "kernels"  # kinds of runs


def kind_of(run: Mapping[str, Any]) -> str:
    """What a run.json tells of: a run of requests or of kernels."""
    return KERNEL_RUN if "kernels" in run else REQUEST_RUN


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json, refusing a format that this version does not know.

    Raises:
        ResultError: where the folder is no result, or a newer harness wrote it.
    """
    if not folder.is_dir():
        raise ResultError(message("results.no_folder", folder=str(folder)))
    run = read_json(folder, RUN)
    if not isinstance(run, dict) or run.get("format") != FORMAT:
        known = run.get("format") if isinstance(run, dict) else None
        path = str(folder / RUN)
        raise ResultError(message("results.format", path=path, format=str(known), expected=FORMAT))
    return run


def in_virtual_time(run: Mapping[str, Any]) -> bool:
    """Whether the times of a run.json were computed by a simulator in virtual time, and not waited for."""
    return (run.get("engine") or {}).get("clock") == VIRTUAL_TIME


def _write_table(path: Path, table: pa.Table) -> None:
    _replace(path, lambda place: pq.write_table(table, place, compression="zstd"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    draft = path.with_name(f".{path.name}.part")
    try:
        write(draft)
        draft.replace(path)
    except OSError as fault:
        draft.unlink(missing_ok=True)
        reason = fault.strerror or str(fault)
        raise ResultError(message("results.not_written", path=str(path), reason=reason)) from None


SHAPES: dict[str, Any] = {
    "run.json": RunSchema,
    "timeline.json": list[TimelineRowSchema],
    "summary.json": SummarySchema,
    "job.json": JobSchema,
    "offline.json": OfflineJobSchema,
}
_Shape = TypeVar("_Shape")


def convert(place: str, value: Any, shape: type[_Shape], expected: Message = WRITTEN_BY_RUN) -> _Shape:
    """A value from a file (or a line or key of one, as `place` says) as an object of its shape.

    Raises:
        ResultError: with the place, the key and what was expected of it.
    """
    try:
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, OverflowError, RecursionError) as fault:
        raise ResultError(
            message("results.not_as_expected", place=place, reason=str(fault), expected=expected)
        ) from None


def checked_json(path: str, name: str, value: Any) -> Any:
    """A JSON file's value, if it has the shape of its name.

    Raises:
        ResultError: with the file, the key and what was expected of it.
    """
    shape = SHAPES.get(name)
    if shape is SummarySchema and isinstance(value, dict) and "kernels" in value:
        shape = KernelSummarySchema
    if shape is not None:
        convert(path, value, shape)
    return value


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON lines of a file, each with its place; one that a kill cut short or broke is left out.

    Raises:
        ResultError: where it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as fault:
        reason = fault.strerror or str(fault)
        raise ResultError(message("results.lines_unreadable", path=str(path), reason=reason)) from None
    for number, line in enumerate(text.split("\n"), 1):
        try:
            yield f"{path}:{number}", json.loads(line)
        except (ValueError, RecursionError):
            continue
