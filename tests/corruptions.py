"""Every way in which a file of a result can be broken, as a change to a folder."""

import copy
import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

VALUES = (None, "x", -1, 1.5, 10**400, [], {}, True, [None], {"x": None})
_FLIPS = 12  # bytes that are changed, one a case
_FEW = 2  # items of a list that are looked into


Content = bytes | Callable[[], bytes]  # of many cases few are taken, and only these are made


class Case(NamedTuple):
    """A broken file: which, what of it, and how a folder gets it."""

    name: str
    what: str
    apply: Callable[[Path], None]


def cases_of(folder: Path, name: str) -> Iterator[Case]:
    """Every way to break a file of a folder that the kinds below know."""
    whole = (folder / name).read_bytes()
    for what, content in (*_cut(whole), *_flipped(whole)):
        yield Case(name, what, _writing(name, content))
    yield Case(name, "a folder", lambda place: _as_folder(place / name))
    if name != "study.db":
        yield Case(name, "missing", lambda place: (place / name).unlink())
    kind = _KINDS.get(Path(name).suffix)
    for what, content in kind(whole) if kind else ():
        yield Case(name, what, _writing(name, content))


def _writing(name: str, content: Content) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        (place / name).write_bytes(content() if callable(content) else content)

    return apply


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _cut(whole: bytes) -> Iterator[tuple[str, Content]]:
    yield "empty", b""
    yield "half", whole[: len(whole) // 2]
    yield "a byte short", whole[:-1]
    yield "random", np.random.default_rng(1).bytes(256)
    yield "followed", whole + b"\0x"
    yield "deep", b"[" * 5000


def _flipped(whole: bytes) -> Iterator[tuple[str, Content]]:
    for place in np.random.default_rng(2).integers(0, max(1, len(whole)), _FLIPS).tolist():
        yield f"byte {place} is 0xff", whole[:place] + b"\xff" + whole[place + 1 :]


def broken_values(value: Any, depth: int, path: str = "$") -> Iterator[tuple[str, Any]]:
    """A JSON value with it, or what lies in it to a depth, replaced or left out."""
    yield from ((f"{path} is {str(other)[:9]}", other) for other in VALUES)
    if depth and isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else range(min(_FEW, len(value)))
        for key in keys:
            left = copy.copy(value)
            del left[key]
            yield f"{path}.{key} is left out", left
            for what, inner in broken_values(value[key], depth - 1, f"{path}.{key}"):
                changed = copy.copy(value)
                changed[key] = inner
                yield what, changed


def _json(whole: bytes) -> Iterator[tuple[str, Content]]:
    for what, value in broken_values(json.loads(whole), 6):
        yield what, partial(_text, value)


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def _lines(whole: bytes) -> Iterator[tuple[str, Content]]:
    lines = [line for line in whole.splitlines() if line]
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        for what, changed in broken_values(value, 5):
            yield f"line {number + 1}: {what}", partial(_with_line, lines, number, changed)


def _with_line(lines: list[bytes], number: int, value: Any) -> bytes:
    return b"\n".join([*lines[:number], _text(value), *lines[number + 1 :], b""])


def _table(whole: bytes) -> Iterator[tuple[str, Content]]:
    table = pq.read_table(io.BytesIO(whole))
    yield "no rows", _parquet(table.slice(0, 0))
    yield "a row less", _parquet(table.slice(1))
    for place, name in enumerate(table.column_names):
        yield f"no {name}", partial(_parquet, table.drop_columns([name]))
        for what, column in _columns(table[name]):
            yield f"{name} {what}", partial(_parquet, table.set_column(place, name, column))


def _columns(column: pa.ChunkedArray) -> Iterator[tuple[str, Any]]:
    count = len(column)
    yield "of texts", pa.array(["x"] * count)
    yield "of floats", pa.array([0.5] * count)
    yield "of nothing", pa.nulls(count)
    yield "of lists", pa.array([[1]] * count)
    yield "of lists with holes", pa.array([[1, None]] * count)
    yield "of bytes", pa.array([b"\xff"] * count)
    yield "of times", pa.array([1] * count, type=pa.timestamp("ns"))
    yield "of flags", pa.array([True] * count)
    if _flat(column):
        yield "with a hole", pc.if_else(pa.array([False] + [True] * (count - 1)), column, None)
    for value in (-1, -7, 10**6 + 1, 2**62, -(2**63), 2**63 - 1):
        yield f"of {value}", pa.array([value] * count)
        yield f"of lists of {value}", pa.array([[value]] * count)


def _flat(column: pa.ChunkedArray) -> bool:
    return not (pa.types.is_list(column.type) or pa.types.is_dictionary(column.type))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _arrays(whole: bytes) -> Iterator[tuple[str, Content]]:
    with np.load(io.BytesIO(whole)) as file:
        arrays = {name: file[name] for name in file.files}
    for name, array in arrays.items():
        yield f"no {name}", _npz({key: value for key, value in arrays.items() if key != name})
        for what, other in (("short", array.ravel()[:1]), ("of texts", array.astype(str)), ("one", np.float64(1.5))):
            yield f"{name} {what}", _npz(arrays | {name: other})
        yield f"{name} is flat", _npz(arrays | {name: np.zeros((2, 2))})
    for what, value in broken_values(json.loads(str(arrays["heads"])) if "heads" in arrays else [], 4):
        yield f"heads {what}", partial(_heads, arrays, value)


def _heads(arrays: dict[str, Any], value: Any) -> bytes:
    return _npz(arrays | {"heads": np.asarray(json.dumps(value))})


def _npz(arrays: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def study_cases(folder: Path) -> Iterator[Case]:
    """Every way to break what a study has told of a trial in its database."""
    with sqlite3.connect(folder / "study.db") as base:
        rows = base.execute("select trial_user_attribute_id, key, value_json from trial_user_attributes").fetchall()
        tables = [name for (name,) in base.execute("select name from sqlite_master where type = 'table'")]
    base.close()
    for number, key, told in rows:
        if key == "harness" and number <= rows[-1][0]:
            for what, value in broken_values(json.loads(told), 4):
                yield Case("study.db", f"trial {what}", _setting(number, json.dumps(value)))
            yield Case("study.db", "trial is no JSON", _setting(number, "{"))
            break
    for table in tables:
        yield Case("study.db", f"without {table}", _running(f"drop table {table}"))
        yield Case("study.db", f"nothing in {table}", _running(f"delete from {table}"))


def _setting(number: int, text: str) -> Callable[[Path], None]:
    words = "update trial_user_attributes set value_json = ? where trial_user_attribute_id = ?"
    return _running(words, text, number)


def _running(words: str, *values: Any) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        base = sqlite3.connect(place / "study.db")
        with base:
            base.execute(words, values)
        base.close()

    return apply


_KINDS: dict[str, Callable[[bytes], Iterator[tuple[str, Content]]]] = {
    ".json": _json, ".jsonl": _lines, ".parquet": _table, ".npz": _arrays
}  # fmt: skip
