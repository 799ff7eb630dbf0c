"""Errors of a scenario file: pydantic's as messages with the key, what was expected and what was value."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import nearest, suggestion
from harness.messages import Message, message, plain
from harness.plugins import ARRIVALS, WORKLOADS, installed
from harness.scenario.base import LONGEST_S, REFUSED, FileModel
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
    """Something wrong at a place of the tree; `reason` says what, and what was expected."""

    path: KeyPath
    reason: Message | str


def dotted(path: KeyPath) -> str:
    """A path as a reader writes it: `load[0].poisson.rate`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def is_secret(name: str) -> bool:
    """Whether a key of this name holds a secret, such as api_key or HF_TOKEN."""
    return _SECRET.fullmatch(name.removeprefix("--").replace("-", "_")) is not None


def show(value: Any) -> Message | str:
    """A value as it is named in an error, cut where it is long."""
    if isinstance(value, dict):
        return message("scenario.a_mapping") if value else message("scenario.an_empty_mapping")
    if isinstance(value, list):
        return message("scenario.a_list") if value else message("scenario.an_empty_list")
    if value is None:
        return message("scenario.nothing")
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
    faults = [(error["type"], _fault(error, tree, readers)) for error in errors]
    mended = {(f.path[:-1], _meant(f, tree, readers)) for kind, f in faults if kind == "extra_forbidden"}
    return [
        fault
        for kind, fault in faults
        if not (kind == "missing" and (fault.path[:-1], fault.path[-1]) in mended)
        and not (kind == "too_short" and any(_below(other.path, fault.path) for _, other in faults))
    ]


def _below(path: KeyPath, parent: KeyPath) -> bool:
    return len(path) > len(parent) and path[: len(parent)] == parent


def _meant(fault: Fault, tree: Any, readers: Mapping[int, type[FileModel]]) -> str | None:
    return nearest(str(fault.path[-1]), _keys(tree, fault.path[:-1], readers))


def _keys(tree: Any, path: KeyPath, readers: Mapping[int, type[FileModel]]) -> dict[str, str]:
    reader = readers.get(id(value_at(tree, path)))
    return reader.keys() if reader is not None else {}


def _fault(error: Mapping[str, Any], tree: Any, readers: Mapping[int, type[FileModel]]) -> Fault:
    kind, path = error["type"], _path(error, tree)
    if kind == "extra_forbidden":
        return Fault(path, message("scenario.unknown_key", hint=_right_key(path, tree, readers)))
    if kind == "missing":
        return _missing(path, tree, readers)
    if kind == "union_tag_not_found":
        return Fault((*path, "kind"), message("scenario.kind_missing", names=WORKLOAD_KINDS))
    if kind == "union_tag_invalid":
        return _no_such_kind(error["ctx"], value_at(tree, path), path)
    if kind in (REFUSED, "value_error"):
        return Fault(path, _refusal(error, value_at(tree, path), path))
    return Fault(path, _wrong_type(error, value_at(tree, path), path))


def _right_key(path: KeyPath, tree: Any, readers: Mapping[int, type[FileModel]]) -> Message:
    """What was meant by an unknown key: one that is near, or the same key of a mapping around this one."""
    key, names = str(path[-1]), _keys(tree, path[:-1], readers)
    if nearest(key, names) is None:
        for length in range(len(path) - 2, 0, -1):
            if key in _keys(tree, path[:length], readers):
                return message("scenario.key_of_outer", key=key, outer=dotted(path[:length]))
    return suggestion(key, names)


def _missing(path: KeyPath, tree: Any, readers: Mapping[int, type[FileModel]]) -> Fault:
    last = path[-1]
    if isinstance(last, int):
        value = len(value_at(tree, path[:-1]))
        return Fault(path[:-1], message("scenario.expected_values", values=last + 1, found=value))
    meaning = _keys(tree, path[:-1], readers).get(last, "a value")
    meaning = meaning[:1].lower() + meaning[1:].partition(";")[0].rstrip(".")
    return Fault(path, message("scenario.key_missing", meaning=meaning))


def _refusal(error: Mapping[str, Any], value: Any, path: KeyPath) -> Message:
    """What a validator of ours, or of another room, said."""
    reason = error["ctx"].get("reason") or plain(str(error["msg"]).removeprefix("Value error, "))
    is_about_key = error["loc"][-1:] == ("[key]",)
    is_named = isinstance(value, dict | list) or str(show(value)) in str(reason)
    if is_about_key or is_named or "secret" in reason.code:
        return reason
    return _with_found(reason, value, path)


def _wrong_type(error: Mapping[str, Any], value: Any, path: KeyPath) -> Message:
    """What pydantic itself value wrong."""
    expected = _EXPECTED.get(error["type"])
    if expected is None:
        return plain(str(error["msg"]))
    if isinstance(value, str):
        expected = _OF_DURATION.get(error["type"], expected)
    reason = _with_found(expected(error.get("ctx", {})), value, path)
    hint = _hint(error, value)
    return reason if hint is None else message("scenario.with_hint", reason=reason, hint=hint)


def _with_found(reason: Message, value: Any, path: KeyPath) -> Message:
    """A reason, and what stands in the file, unless it is a secret."""
    if any(isinstance(step, str) and is_secret(step) for step in path):
        return reason
    return message("scenario.got", reason=reason, found=show(value))


def _path(error: Mapping[str, Any], tree: Any) -> KeyPath:
    """The error's place, without the names of union arms, which stand in no file."""
    path: KeyPath = ()
    for step in error["loc"]:
        if step in _steps_of(value_at(tree, path)):
            path = (*path, step)
    last = error["loc"][-1] if error["loc"] else None
    return (*path, last) if error["type"] == "missing" and last is not None else path


def _hint(error: Mapping[str, Any], value: Any) -> Message | None:
    kind = error["type"]
    if kind == "literal_error" and isinstance(value, str):
        near = nearest(value, _QUOTED.findall(error["ctx"]["expected"]))
        return None if near is None else message("errors.did_you_mean", near=near)
    if kind == "tuple_type" and isinstance(value, dict):
        return message("scenario.write_items")
    if kind == "string_type" and isinstance(value, bool | int | float):
        return message("scenario.write_in_quotes", word=str(value).lower() if isinstance(value, bool) else str(value))
    return None


def _no_such_kind(ctx: Mapping[str, Any], value: Any, path: KeyPath) -> Fault:
    """A value that says what it is by `kind`, or by its one key, and says it wrongly."""
    names = _QUOTED.findall(ctx["expected_tags"])
    for group, built_in in ((WORKLOADS, WORKLOAD_KINDS), (ARRIVALS, ("closed", "poisson"))):
        names += installed(group) if set(built_in) <= set(names) else ()
    if ctx["discriminator"] == "'kind'":
        return Fault((*path, "kind"), message("scenario.unknown_kind", hint=suggestion(str(value["kind"]), names)))
    if isinstance(value, dict) and len(value) == 1:
        key = next(iter(value))
        return Fault((*path, key), message("scenario.unknown_key", hint=suggestion(key, names)))
    keys = [name for name in names if " " not in name]
    reason = message("scenario.expected_key", names=keys)
    if len(keys) < len(names):  # the one kind that is no mapping
        reason = message("scenario.expected_whole_or_key", names=keys)
    shown = message("scenario.the_keys", names=list(value)) if isinstance(value, dict) and value else show(value)
    return Fault(path, message("scenario.got", reason=reason, found=shown))


_Expected = Callable[[Mapping[str, Any]], Message]
_OF_DURATION: dict[str, _Expected] = {
    "greater_than": lambda _: message("scenario.expected_positive_duration"),
    "less_than_equal": lambda _: message("scenario.expected_shorter_duration", hours=LONGEST_S / 3600),
}


def _mapping(_ctx: Mapping[str, Any]) -> Message:
    return message("scenario.expected_mapping")


def _whole_number(_ctx: Mapping[str, Any]) -> Message:
    return message("scenario.expected_whole")


_EXPECTED: dict[str, _Expected] = {
    "greater_than": lambda ctx: message("scenario.expected_above", bound=ctx["gt"]),
    "greater_than_equal": lambda ctx: message("scenario.expected_at_least", bound=ctx["ge"]),
    "less_than": lambda ctx: message("scenario.expected_below", bound=ctx["lt"]),
    "less_than_equal": lambda ctx: message("scenario.expected_at_most", bound=ctx["le"]),
    "finite_number": lambda _: message("scenario.expected_finite"),
    "int_type": _whole_number,
    "int_from_float": _whole_number,
    "float_type": lambda _: message("scenario.expected_number"),
    "string_type": lambda _: message("scenario.expected_text"),
    "bool_type": lambda _: message("scenario.expected_switch"),
    "dict_type": _mapping,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "tuple_type": lambda _: message("scenario.expected_list"),
    "too_short": lambda ctx: message("scenario.expected_more_values", count=ctx["min_length"]),
    "too_long": lambda ctx: message("scenario.expected_fewer_values", count=ctx["max_length"]),
    "string_too_short": lambda _: message("scenario.expected_some_text"),
    "string_too_long": lambda ctx: message("scenario.expected_shorter_text", characters=ctx["max_length"]),
    "literal_error": lambda ctx: message("scenario.expected_name_of", names=_QUOTED.findall(ctx["expected"])),
}
