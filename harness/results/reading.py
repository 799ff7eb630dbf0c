"""Has what was read from a file the shape that its reader relies upon?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import ResultError
from harness.results.kernel_schema import KernelSummary
from harness.results.raw_schema import Job, OfflineJob
from harness.results.summary_schema import Row, Run, Summary

WROTE = "the file as `harness run` wrote it"
SHAPES: dict[str, Any] = {
    "run.json": Run,
    "timeline.json": list[Row],
    "summary.json": Summary,
    "job.json": Job,
    "offline.json": OfflineJob,
}
_Shape = TypeVar("_Shape")


def held(place: str, value: Any, shape: type[_Shape], expected: str = WROTE) -> _Shape:
    """A value from a file (or a line or key of one, as `place` says) as an object of its shape.

    Raises:
        ResultError: with the place, the key and what was expected of it.
    """
    try:
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, OverflowError, RecursionError) as fault:
        raise ResultError(f"{place}: {fault}; expected {expected}") from None


def checked(path: str, name: str, value: Any) -> Any:
    """A JSON file's value, if it has the shape of its name.

    Raises:
        ResultError: with the file, the key and what was expected of it.
    """
    shape = SHAPES.get(name)
    if shape is Summary and isinstance(value, dict) and "kernels" in value:
        shape = KernelSummary
    if shape is not None:
        held(path, value, shape)
    return value


def lines_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON lines of a file, each with its place; one that a kill cut short or broke is left out.

    Raises:
        ResultError: where it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as fault:
        raise ResultError(f"{path}: cannot be read ({fault.strerror}); expected a file of JSON lines") from None
    for number, line in enumerate(text.split("\n"), 1):
        try:
            yield f"{path}:{number}", json.loads(line)
        except (ValueError, RecursionError):
            continue
