"""What does `--set KEY=VALUE` change in a scenario?"""

import re
from dataclasses import dataclass
from typing import Any

from harness.errors import suggestion
from harness.scenario.document import read_value
from harness.scenario.faults import Fault, KeyPath, at, dotted, is_secret, show
from harness.scenario.models import flag_name

_STEP = re.compile(r'"([^"]*)"|\[(\d+)\]|([^.\[\]"]+_p\d{1,2}\.\d{1,3}|[^.\[\]"]+)')
_WORD = re.compile(r"[\w-]+")
_KEY = re.compile(rf"(?:{_STEP.pattern})(?:\.?(?:{_STEP.pattern}))*")


@dataclass(frozen=True, slots=True)
class Override:
    """One `KEY=VALUE`: a path into the tree, the value to stand there, and how it was written."""

    path: KeyPath
    value: Any
    place: str


def parse_override(text: str) -> Override | Fault:
    """An override such as `load.0.poisson.rate=3`; its value is YAML."""
    key, equals, word = text.partition("=")
    if not equals or _KEY.fullmatch(key.strip()) is None:
        return Fault((), f"--set {text}: expected KEY=VALUE, such as load.0.poisson.rate=3")
    path = tuple(_steps(key))
    hidden = "@" in word or any(map(is_secret, _WORD.findall(text)))
    place = f"--set {key}=…" if hidden else f"--set {text}"
    reading = read_value(word)
    if reading.faults:
        return Fault((), f"{place}: {reading.faults[0][1].text}")
    return Override(path, reading.value, place)


def _steps(key: str) -> list[str | int]:
    """Quoted steps are names whatever they hold; other whole numbers are positions in a list."""
    return [_step(*match.groups()) for match in _STEP.finditer(key.strip())]


def _step(quoted: str | None, position: str | None, name: str) -> str | int:
    if quoted is not None:
        return quoted
    word = position or name
    return int(word) if word.isascii() and word.isdigit() else word


def as_spelled(tree: Any, path: KeyPath) -> KeyPath:
    """The path in the file's own spelling where it leads to a flag: max-model-len for max_model_len."""
    flags = at(tree, path[:2])
    if path[:2] != ("engine", "args") or len(path) < 3 or not isinstance(flags, dict):
        return path
    asked = flag_name(str(path[2]))
    spelled = next((flag for flag in flags if flag_name(flag) == asked), path[2])
    return (*path[:2], spelled, *path[3:])


def apply_override(tree: Any, override: Override) -> Fault | None:
    """Put the override's value into `tree`, making mappings on the way; a fault where that cannot be."""
    path = as_spelled(tree, override.path)
    for depth, step in enumerate(path):
        wrong = _wrong_step(tree, override, depth)
        if wrong is not None:
            return wrong
        if depth == len(path) - 1:
            tree[step] = override.value
        elif isinstance(tree, dict) and tree.get(str(step)) is None:
            tree[step] = {}
        tree = tree[step]
    return None


def _wrong_step(here: Any, override: Override, depth: int) -> Fault | None:
    step, name = override.path[depth], dotted(override.path[:depth])
    if isinstance(here, dict) and isinstance(step, int):
        return _fault(override, f"{name} has no positions; {suggestion(str(step), here)}")
    if isinstance(here, dict):
        return None
    if not isinstance(here, list):
        return _fault(override, f"{name} is {show(here)}; expected nothing below it")
    if not isinstance(step, int):
        return _fault(override, f"{name} is a list; expected a position, such as {name}.0")
    if step >= len(here):
        return _fault(
            override,
            f"{name} has {len(here)} of them; expected a position up to {len(here) - 1}",
        )
    return None


def _fault(override: Override, text: str) -> Fault:
    return Fault((), f"{override.place}: {text}")
