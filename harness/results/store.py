"""The files of a result and their names: JSON, text and arrays, one writer and one reader of each.

Tables are in `harness.results.table_files`. Every file is written beside its place and moved there, so that a file that
exists is whole.
"""

import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
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
from harness.results.summary_schema import KernelSummarySchema, SummarySchema, in_format_2
from harness.safety.redaction import redact_tree

FORMAT = 1  # of run.json
SUMMARY_FORMAT = 2
RUN = "run.json"
REQUESTS = "requests.parquet"
EVENTS = "events.parquet"
SAMPLES = "samples.parquet"
SUMMARY = "summary.json"
TIMELINE = "timeline.json"
KERNELS = "kernels.parquet"
RAW = "raw"
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


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a text file, whole or not at all."""
    replace_file(folder / name, lambda path: path.write_text(text, encoding="utf-8"))


def write_json(folder: Path, name: str, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(redact_tree(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(folder / name, lambda path: path.write_text(text, encoding="utf-8"))


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


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Have a file written beside its place, and move it there.

    Raises:
        ResultError: where that fails.
    """
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


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name.

    Raises:
        ResultError: where it cannot be read.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, EOFError, MemoryError, KeyError, zipfile.BadZipFile) as fault:
        raise unreadable(path, first_line(fault), WRITTEN_BY_RUN) from None
    except (NotImplementedError, RuntimeError, SyntaxError, TypeError) as fault:  # of a header that is none
        raise unreadable(path, type(fault).__name__, WRITTEN_BY_RUN) from None


def first_line(fault: BaseException) -> str:
    """The first line of what an error says, else its kind."""
    return next(iter(str(fault).splitlines()), type(fault).__name__)


def unreadable(path: Path, reason: str, expected: Message) -> ResultError:
    """The error of a file that cannot be read."""
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
