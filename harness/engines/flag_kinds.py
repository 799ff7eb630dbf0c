"""What kind of value does each flag of an engine take? Asked of the engine's own parser.

Standard library only: `probe.py` loads this file by its path inside the engine's interpreter. A kind is
a mapping: `kind` is one of the names below; of a switch, `off` is whether it has a `--no-` form
and `default` what it is where it is left out; `choices` are the values that are taken, as text.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

SWITCH, INT, FLOAT, JSON, LIST, CHOICE, TEXT = "switch", "int", "float", "json", "list", "choice", "text"
_WHOLE = ("int", "human_readable_int", "human_readable_int_or_auto")
_STRUCTURED = ("parse_dataclass", "union_dict_and_str", "loads")
_DEPTH = 3  # of converters around converters

Kinds = dict[str, dict[str, Any]]


def kinds_of(parser: argparse.ArgumentParser) -> Kinds:
    """The kind of every flag of a parser, by its long names in snake case."""
    found: Kinds = {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        told = _kind_of(action)
        names = [option[2:] for option in action.option_strings if option.startswith("--")]
        if told["kind"] == SWITCH:
            names = [name for name in names if not (told["off"] and name.startswith("no-"))]
        found.update({name.replace("-", "_"): told for name in names})
    return found


def _kind_of(action: argparse.Action) -> "dict[str, Any]":
    if action.nargs == 0:
        default = action.default if isinstance(action.default, bool) else None
        return {"kind": SWITCH, "off": isinstance(action, argparse.BooleanOptionalAction), "default": default}
    if action.nargs in ("+", "*"):
        return {"kind": LIST}
    if action.choices is not None:
        return {"kind": CHOICE, "choices": [str(one) for one in action.choices]}
    names = {getattr(one, "__name__", "") for one in _converters(action.type)}
    for kind, known in ((JSON, _STRUCTURED), (INT, _WHOLE), (FLOAT, ("float",))):
        if names.intersection(known):
            return {"kind": kind}
    return {"kind": TEXT}


def _converters(convert: Any, depth: int = _DEPTH) -> "Iterator[Any]":
    """A parser's converter and those that it wraps, as vLLM's `optional_type(int)` wraps int."""
    yield convert
    for cell in (getattr(convert, "__closure__", None) or ()) if depth else ():
        if callable(cell.cell_contents):
            yield from _converters(cell.cell_contents, depth - 1)


def words_of(args: "dict[str, Any]", kinds: "Kinds | None" = None) -> "list[str]":
    """Flags as command-line words: kebab-case, `--no-x` for false, JSON for mappings and lists.

    A false switch without a `--no-` form is left out; a flag that takes several words gets a list as those.
    """
    words: list[str] = []
    for name, value in args.items():
        kind = (kinds or {}).get(name, {})
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is False:
            words += ["--no-" + flag[2:]] if kind.get("off", True) else []
        elif isinstance(value, list) and kind.get("kind") == LIST:
            words += [flag, *(json.dumps(one) if isinstance(one, (dict, list)) else str(one) for one in value)]
        elif isinstance(value, (dict, list)):
            words += [flag, json.dumps(value)]
        elif value is not None:
            words += [flag, str(value)]
    return words
