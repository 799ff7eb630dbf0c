"""The warnings that the code can give: code, severities, and their sentences from the catalogue, read from the source.

A warning is a call `Warning(code, severity, text, next, ...)`; `text` and `next` are messages, or names of them.
"""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.messages.rendering import catalogue, room_of

ROOT = Path(__file__).resolve().parents[2]
CLASS = "Warning"
SEVERITIES = {"NOTE": "note", "WARNING": "warning", "INVALID": "invalid"}
PLACEHOLDER = re.compile(r"\{(\w+)[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Given:
    """One place in the code that gives a warning: its code, severities, and the codes of its sentences."""

    code: str
    severities: tuple[str, ...]
    texts: tuple[str, ...]
    steps: tuple[str, ...]


@functools.cache
def given() -> tuple[Given, ...]:
    """Every warning of the source, in the order of files and lines."""
    sources = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "harness").rglob("*.py")))
    return tuple(one for text in sources if f"{CLASS}(" in text for one in _in_module(ast.parse(text)))


def codes() -> set[str]:
    """The codes of all warnings."""
    return {one.code for one in given()}


def _in_module(tree: ast.Module) -> Iterator[Given]:
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for call in (node for node in ast.walk(function) if _is_warning(node)):
            scopes = (function, tree)
            code, severity, text, step = (*call.args, *[None] * 4)[:4]
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                yield Given(
                    code.value,
                    tuple(value for name, value in SEVERITIES.items() if severity and name in _names(severity, scopes)),
                    tuple(dict.fromkeys(_messages(text, scopes))),
                    tuple(dict.fromkeys(_messages(step, scopes))),
                )


def _is_warning(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == CLASS


def _names(node: ast.AST, scopes: tuple[ast.AST, ...]) -> set[str]:
    """Names in an expression, and in what they were assigned."""
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names | {name for own in names for value in _assigned(own, scopes) for name in _names(value, ())}


def _messages(node: ast.AST | None, scopes: tuple[ast.AST, ...]) -> Iterator[str]:
    """Codes of the messages that an expression makes, by itself or through names of values and functions."""
    for part in ast.walk(node) if node is not None else ():
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "message":
            yield from (one.value for one in part.args[:1] if isinstance(one, ast.Constant))
        elif isinstance(part, ast.Name):
            for value in _assigned(part.id, scopes):
                yield from _messages(value, ())


def _assigned(name: str, scopes: tuple[ast.AST, ...]) -> list[ast.AST]:
    """What a name stands for: assigned in the function, else a constant or a function of the module."""
    for scope in scopes:
        nodes = scope.body if isinstance(scope, ast.Module) else ast.walk(scope)
        found = [value for node in nodes for value in _bound(name, node) if value is not scope]
        if found:
            return found
    return []


def _bound(name: str, node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets):
        yield node.value
    elif isinstance(node, ast.FunctionDef) and node.name == name:
        yield node


def rows(language: str) -> list[list[str]]:
    """A row for each code: code, severities, what it says and what to do, with placeholders in italics."""
    merged: dict[str, list[Given]] = {}
    for one in given():
        merged.setdefault(one.code, []).append(one)
    return [
        [
            f"`{code}`",
            ", ".join(name for name in SEVERITIES.values() if any(name in one.severities for one in merged[code])),
            _sentences([text for one in merged[code] for text in one.texts], language),
            _sentences([step for one in merged[code] for step in one.steps], language),
        ]
        for code in sorted(merged)
    ]


def _sentences(found: list[str], language: str) -> str:
    return "<br>".join(_sentence(code, language) for code in dict.fromkeys(found))


def _sentence(code: str, language: str) -> str:
    forms = catalogue(language, room_of(code)).sentences.get(code, (code,))
    return PLACEHOLDER.sub(r"*\1*", forms[-1])
