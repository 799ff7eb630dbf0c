"""YAML texts: their values with the place of each, and overrides such as `load.0.poisson.rate=4`.

Plain words are read by the core schema of YAML 1.2, so that `1e3` is a number and nothing but
`true` and `false` is a switch. A word that older YAML reads otherwise (`on`, `1:30`, `010`) is a
fault and not a guess: the reader's editor and his other tools may not agree with us.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from harness.errors import nearest, suggestion
from harness.messages import Message, message
from harness.scenario.error_messages import Fault, KeyPath, dotted, is_secret, show, value_at
from harness.scenario.flags import flag_name

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 20_000
DEEPEST = 60

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]{1,40}")
_BASED = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SWITCH = re.compile(r"(?P<on>yes|on)|no|off", re.IGNORECASE)
_OLD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*_[0-9_]*|0b[01_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_ANCHOR = re.compile(r"(?<=&)[\w-]+")
_TEXT = "tag:yaml.org,2002:str"


class Position(NamedTuple):
    """A place in the text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ParsedYaml:
    """A YAML text as plain values, the mark of each by its path, and what is wrong with it."""

    value: Any = None
    marks: dict[KeyPath, Position] = field(default_factory=dict)
    faults: list[tuple[Position, Fault]] = field(default_factory=list)


def read_value(text: str) -> ParsedYaml:
    """The one value of a YAML text; `value` is None where `faults` are found."""
    if len(text) > MOST_CHARACTERS:
        return _unreadable(Position(1, 1), message("scenario.too_long", most=MOST_CHARACTERS))
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except RecursionError:
        return _unreadable(Position(1, 1), message("scenario.too_deep", most=DEEPEST))
    except yaml.YAMLError as error:
        return _unreadable(*_syntax(error, text))
    reading = ParsedYaml()
    if node is None:
        return reading
    value = _Reader(reading, itertools.count(1), set()).read(node, ())
    return ParsedYaml(value, reading.marks, reading.faults)


def _unreadable(mark: Position, reason: Message) -> ParsedYaml:
    return ParsedYaml(faults=[(mark, Fault((), reason))])


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns nodes into values; keeps count, because aliases can multiply a short text without end."""

    reading: ParsedYaml
    counter: Iterator[int]
    open: set[int]

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self.reading.marks.setdefault(path, _mark(node.start_mark))
        count = next(self.counter)
        if count == MOST_VALUES:
            self._refuse(node, (), message("scenario.aliases_multiply", values=MOST_VALUES))
        if count >= MOST_VALUES:
            return None
        if id(node) in self.open:
            return self._refuse(node, path, message("scenario.alias_in_itself"))
        if len(path) > DEEPEST:
            return self._refuse(node, path[:8], message("scenario.too_deep", most=DEEPEST))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self.open.add(id(node))
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        self.open.discard(id(node))
        return value

    def _refuse(self, node: yaml.Node, path: KeyPath, reason: Message) -> Any:
        """Note a fault; the value that stands in its place is None."""
        self.reading.faults.append((_mark(node.start_mark), Fault(path, reason)))
        return None

    def _list(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            spot = (*path, key)
            if key in value:
                first = self.reading.marks[spot].line
                self._refuse(key_node, spot, message("scenario.key_twice", line=first))
            self.reading.marks.setdefault(spot, _mark(key_node.start_mark))
            value[key] = self.read(value_node, spot)
        return value

    def _key(self, node: yaml.Node, path: KeyPath) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return self._refuse(node, path, message("scenario.key_not_text"))
        key = resolve(node.value) if node.style is None else joined(node.value)
        if isinstance(key, str):
            return key
        return self._refuse(node, path, message("scenario.key_is_value", word=node.value))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag != _TEXT:
            return self._refuse(node, path, message("scenario.yaml_tag", tag=node.tag))
        if node.style is not None:
            text = joined(node.value)
            return text if text is not None else self._refuse(node, path, message("scenario.half_a_character"))
        reason = ambiguous(node.value)
        return self._refuse(node, path, reason) if reason else resolve(node.value)


def _mark(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def resolve(word: str) -> Any:
    """What a word without quotes is in YAML 1.2: nothing, a switch, a number or text."""
    if _NULL.fullmatch(word):
        return None
    if _TRUE.fullmatch(word) or _FALSE.fullmatch(word):
        return word[0] in "tT"
    if _WHOLE.fullmatch(word):
        return int(word)
    if _BASED.fullmatch(word):
        return int(word, 0)
    return float(word) if _REAL.fullmatch(word) else word


def joined(text: str) -> str | None:
    r"""Text whose characters are whole: JSON may write one as a pair, `"\ud83d\ude00"`; None where a half is left."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return None


def ambiguous(word: str) -> Message | None:
    """Why a word without quotes is not to be trusted; None where all versions of YAML agree."""
    switch = _SWITCH.fullmatch(word)
    if switch:
        meant = "true" if switch.group("on") else "false"
        return message("scenario.old_yaml_switch", word=word, meant=meant)
    if _OLD_NUMBER.fullmatch(word):
        return message("scenario.old_yaml_number", word=word)
    if _ENDLESS.fullmatch(word) or (_REAL.fullmatch(word) and math.isinf(float(word))):
        return message("scenario.not_finite", found=show(word))
    return None


_SYNTAX = (
    ("expected a single document", message("scenario.second_document")),
    (
        "mapping values are not allowed",
        message("scenario.second_colon"),
    ),
    ("could not find expected ':'", message("scenario.key_without_colon")),
    (
        "expected <block end>, but found",
        message("scenario.indentation"),
    ),
    ("expected ',' or ']'", message("scenario.list_not_closed")),
    ("expected ',' or '}'", message("scenario.mapping_not_closed")),
    ("found unexpected end of stream", message("scenario.quote_not_closed")),
    ("found duplicate anchor", message("scenario.anchor_twice")),
)


def _syntax(error: yaml.YAMLError, text: str) -> tuple[Position, Message]:
    """Where and why a text is not YAML."""
    if not isinstance(error, yaml.MarkedYAMLError):
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        return Position(line, 1), message("scenario.control_character")
    problem = f"{error.context or ''}: {error.problem or ''}"
    mark = _mark(error.problem_mark or error.context_mark)
    if "undefined alias" in problem:
        return mark, _no_anchor(problem, text)
    if "cannot start any token" in problem:
        return mark, _no_token(problem)
    return next(
        ((_where(error, reason), reason) for needle, reason in _SYNTAX if needle in problem),
        (mark, message("scenario.not_yaml", problem=str(error.problem))),
    )


def _where(error: yaml.MarkedYAMLError, reason: Message) -> Position:
    """The line that begins what is never closed, or else the line where reading stopped."""
    begun = error.context_mark if reason.code.endswith("_not_closed") else None
    return _mark(begun or error.problem_mark or error.context_mark)


def _no_anchor(problem: str, text: str) -> Message:
    alias = problem.split("'")[1] if "'" in problem else ""
    near = nearest(alias, [anchor for anchor in _ANCHOR.findall(text) if anchor != alias])
    if near is None:
        return message("scenario.no_anchor", alias=alias)
    return message("scenario.no_such_anchor", alias=alias, near=near)


def _no_token(problem: str) -> Message:
    if "\\t" in problem:
        return message("scenario.tab")
    sign = problem.split("'")[1] if "'" in problem else "?"
    return message("scenario.cannot_begin", sign=sign)


_STEP = re.compile(r'"([^"]*)"|\[(\d+)\]|([^.\[\]"]+_p\d{1,2}\.\d{1,3}|[^.\[\]"]+)')
_WORD = re.compile(r"[\w-]+")
_KEY = re.compile(rf"(?:{_STEP.pattern})(?:\.?(?:{_STEP.pattern}))*")


@dataclass(frozen=True, slots=True)
class Override:
    """One `KEY=VALUE`: a path into the tree, the value to stand there, and how it was written."""

    path: KeyPath
    value: Any
    place: str


def parse_override(text: str, flag: str = "--set") -> Override | Fault:
    """An override such as `load.0.poisson.rate=3` of a flag of the command line; its value is YAML."""
    key, equals, word = text.partition("=")
    if not equals or _KEY.fullmatch(key.strip()) is None:
        return Fault((), message("scenario.expected_override", place=f"{flag} {text}"))
    path = tuple(_steps(key))
    hidden = "@" in word or any(map(is_secret, _WORD.findall(text)))
    place = f"{flag} {key}=…" if hidden else f"{flag} {text}"
    reading = read_value(word)
    if reading.faults:
        return Fault((), message("scenario.at_place", place=place, fault=reading.faults[0][1].reason))
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
    flags = value_at(tree, path[:2])
    if path[:2] != ("engine", "args") or len(path) < 3 or not isinstance(flags, dict):
        return path
    name = flag_name(str(path[2]))
    spelled = next((flag for flag in flags if flag_name(flag) == name), path[2])
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
        return _fault(override, message("scenario.no_positions", key=name, hint=suggestion(str(step), here)))
    if isinstance(here, dict):
        return None
    if not isinstance(here, list):
        return _fault(override, message("scenario.nothing_below", key=name, found=show(here)))
    if not isinstance(step, int):
        return _fault(override, message("scenario.expected_position", key=name))
    if step >= len(here):
        return _fault(
            override,
            message("scenario.position_too_high", key=name, items=len(here), last=len(here) - 1),
        )
    return None


def _fault(override: Override, reason: Message) -> Fault:
    return Fault((), message("scenario.at_place", place=override.place, fault=reason))
