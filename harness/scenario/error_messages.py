"""What is wrong with a value, in plain words on one line?"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import nearest, suggestion
from harness.scenario.base import LONGEST_S, FileModel
from harness.scenario.workload import WORKLOAD_KINDS

KeyPath = tuple[str | int, ...]

_SHOWN = 60
_QUOTED = re.compile(r"'([^']*)'")
_USER = re.compile(r"//[^/@\s]*@")
_SECRET = re.compile(
    r"(.*_)?(api_?key(_env)?|(hf|hub|auth|access|bearer|api|github)_token|secret(_.*)?|password|passwd)|token",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a place of the tree; `text` says what, and what was expected."""

    path: KeyPath
    text: str


def dotted(path: KeyPath) -> str:
    """A path as a reader writes it: `load[0].poisson.rate`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def is_secret(name: str) -> bool:
    """Whether a key of this name holds a secret, such as api_key or HF_TOKEN."""
    return _SECRET.fullmatch(name.removeprefix("--").replace("-", "_")) is not None


def show(value: Any) -> str:
    """A value as it is named in a fault, cut where it is long."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(_USER.sub("//…@", value)) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def value_at(tree: Any, path: KeyPath) -> Any:
    """The value at a path; None where there is none."""
    for step in path:
        if step not in _steps_of(tree):
            return None
        tree = tree[step]
    return tree


def _steps_of(value: Any) -> Collection[Any]:
    return value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()


def faults_of(errors: Iterable[Mapping[str, Any]], tree: Any, readers: Mapping[int, type[FileModel]]) -> list[Fault]:
    """Pydantic's errors about `tree` as faults, without those that only follow from another.

    `readers` says which class read which mapping, by the mapping's identity.
    """
    told = [(error["type"], _explain_one(error, tree, readers)) for error in errors]
    mended = {(f.path[:-1], _meant(f, tree, readers)) for kind, f in told if kind == "extra_forbidden"}
    return [
        fault
        for kind, fault in told
        if not (kind == "missing" and (fault.path[:-1], fault.path[-1]) in mended)
        and not (kind == "too_short" and any(_below(other.path, fault.path) for _, other in told))
    ]


def _below(path: KeyPath, parent: KeyPath) -> bool:
    return len(path) > len(parent) and path[: len(parent)] == parent


def _meant(fault: Fault, tree: Any, readers: Mapping[int, type[FileModel]]) -> str | None:
    return nearest(str(fault.path[-1]), _keys(tree, fault.path[:-1], readers))


def _keys(tree: Any, path: KeyPath, readers: Mapping[int, type[FileModel]]) -> dict[str, str]:
    reader = readers.get(id(value_at(tree, path)))
    return reader.keys() if reader is not None else {}


def _explain_one(error: Mapping[str, Any], tree: Any, readers: Mapping[int, type[FileModel]]) -> Fault:
    kind, path = error["type"], _path(error, tree)
    if kind == "extra_forbidden":
        return Fault(path, f"unknown key; {suggestion(str(path[-1]), _keys(tree, path[:-1], readers))}")
    if kind == "missing":
        return _missing(path, tree, readers)
    if kind == "union_tag_not_found":
        return Fault((*path, "kind"), f"missing; expected {_either(WORKLOAD_KINDS)}")
    if kind == "union_tag_invalid":
        return _no_such_kind(error["ctx"], value_at(tree, path), path)
    if kind == "value_error":
        return Fault(path, _own_words(error, value_at(tree, path), path))
    return Fault(path, _type_words(error, value_at(tree, path), path))


def _missing(path: KeyPath, tree: Any, readers: Mapping[int, type[FileModel]]) -> Fault:
    last = path[-1]
    if isinstance(last, int):
        return Fault(path[:-1], f"expected {last + 1} values, got {len(value_at(tree, path[:-1]))}")
    what = _keys(tree, path[:-1], readers).get(last, "a value")
    what = what[:1].lower() + what[1:].partition(";")[0].rstrip(".")
    return Fault(path, f"missing; expected {what}")


def _own_words(error: Mapping[str, Any], found: Any, path: KeyPath) -> str:
    """What a validator of ours said."""
    about_key = error["loc"][-1:] == ("[key]",)
    got = "" if about_key or "secret" in error["msg"] else _got(found, path, error["msg"])
    return str(error["msg"]).removeprefix("Value error, ") + got


def _type_words(error: Mapping[str, Any], found: Any, path: KeyPath) -> str:
    """What pydantic itself found wrong."""
    words = _EXPECTED.get(error["type"])
    if words is None:
        return str(error["msg"])
    expected = words(error.get("ctx", {}))
    if isinstance(found, str):
        expected = _OF_DURATION.get(error["type"], expected)
    return f"expected {expected}{_got(found, path)}{_hint(error, found)}"


def _path(error: Mapping[str, Any], tree: Any) -> KeyPath:
    """The error's place, without the names of union arms, which stand in no file."""
    path: KeyPath = ()
    for step in error["loc"]:
        if step in _steps_of(value_at(tree, path)):
            path = (*path, step)
    last = error["loc"][-1] if error["loc"] else None
    return (*path, last) if error["type"] == "missing" and last is not None else path


def _got(found: Any, path: KeyPath, message: str = "") -> str:
    """What stands in the file, unless it is a secret, a whole mapping, or already named."""
    if any(isinstance(step, str) and is_secret(step) for step in path):
        return ""
    if message and (isinstance(found, dict | list) or show(found) in message):
        return ""
    return f", got {show(found)}"


def _hint(error: Mapping[str, Any], found: Any) -> str:
    kind = error["type"]
    if kind == "literal_error" and isinstance(found, str):
        near = nearest(found, _QUOTED.findall(error["ctx"]["expected"]))
        return f"; did you mean {near!r}?" if near else ""
    if kind == "tuple_type" and isinstance(found, dict):
        return "; write '- ' before each item"
    if kind == "string_type" and isinstance(found, bool | int | float):
        return f"; write {show(str(found).lower() if isinstance(found, bool) else str(found))} in quotes"
    return ""


def _no_such_kind(ctx: Mapping[str, Any], found: Any, path: KeyPath) -> Fault:
    """A value that says what it is by `kind`, or by its one key, and says it wrongly."""
    names = _QUOTED.findall(ctx["expected_tags"])
    if ctx["discriminator"] == "'kind'":
        return Fault((*path, "kind"), f"unknown kind; {suggestion(str(found['kind']), names)}")
    if isinstance(found, dict) and len(found) == 1:
        key = next(iter(found))
        return Fault((*path, key), f"unknown key; {suggestion(key, names)}")
    words = [f"{name}, or" for name in names if " " in name]
    keys = [name for name in names if " " not in name]
    got = f"the keys {', '.join(found)}" if isinstance(found, dict) and found else show(found)
    return Fault(path, " ".join(["expected", *words, "one key of", _either(keys)]) + f", got {got}")


def _either(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]


_OF_DURATION = {"greater_than": "a duration above 0", "less_than_equal": f"a duration of at most {LONGEST_S / 3600:g}h"}
_Words = Callable[[Mapping[str, Any]], str]
_EXPECTED: dict[str, _Words] = {
    "greater_than": lambda ctx: f"a number above {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"a number of at least {ctx['ge']:g}",
    "less_than": lambda ctx: f"a number below {ctx['lt']}",
    "less_than_equal": lambda ctx: f"a number of at most {ctx['le']:,g}".replace(",", ""),
    "finite_number": lambda _: "a finite number",
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "string_type": lambda _: "text",
    "bool_type": lambda _: "true or false",
    "dict_type": lambda _: "a mapping of keys to values",
    "model_type": lambda _: "a mapping of keys to values",
    "model_attributes_type": lambda _: "a mapping of keys to values",
    "tuple_type": lambda _: "a list",
    "too_short": lambda ctx: f"at least {ctx['min_length']} value{'s' * (ctx['min_length'] > 1)}",
    "too_long": lambda ctx: f"at most {ctx['max_length']} values",
    "string_too_short": lambda _: "some text",
    "string_too_long": lambda ctx: f"at most {ctx['max_length']} characters",
    "literal_error": lambda ctx: str(ctx["expected"]).replace("'", ""),
}
