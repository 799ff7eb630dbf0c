"""What does a YAML text say, and where does each value stand?

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
from harness.scenario.error_messages import Fault, KeyPath, dotted, is_secret, show, value_at
from harness.scenario.models import flag_name

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
        return _unreadable(Position(1, 1), f"too long; expected at most {MOST_CHARACTERS} characters")
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except RecursionError:
        return _unreadable(Position(1, 1), f"nested too deeply; expected at most {DEEPEST} levels")
    except yaml.YAMLError as error:
        return _unreadable(*_syntax(error, text))
    reading = ParsedYaml()
    if node is None:
        return reading
    value = _Reader(reading, itertools.count(1), set()).read(node, ())
    return ParsedYaml(value, reading.marks, reading.faults)


def _unreadable(mark: Position, text: str) -> ParsedYaml:
    return ParsedYaml(faults=[(mark, Fault((), text))])


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
            self._refuse(node, (), f"aliases multiply to {MOST_VALUES} values; expected fewer")
        if count >= MOST_VALUES:
            return None
        if id(node) in self.open:
            return self._refuse(node, path, "an alias stands inside its own anchor; expected a value that ends")
        if len(path) > DEEPEST:
            return self._refuse(node, path[:8], f"nested too deeply; expected at most {DEEPEST} levels")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self.open.add(id(node))
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        self.open.discard(id(node))
        return value

    def _refuse(self, node: yaml.Node, path: KeyPath, text: str) -> Any:
        """Note a fault; the value that stands in its place is None."""
        self.reading.faults.append((_mark(node.start_mark), Fault(path, text)))
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
                self._refuse(key_node, spot, f"the key stands twice, first on line {first}; expected it once")
            self.reading.marks.setdefault(spot, _mark(key_node.start_mark))
            value[key] = self.read(value_node, spot)
        return value

    def _key(self, node: yaml.Node, path: KeyPath) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return self._refuse(node, path, "a key is not text; expected a name")
        key = resolve(node.value) if node.style is None else joined(node.value)
        if isinstance(key, str):
            return key
        word = node.value
        return self._refuse(node, path, f"the key {word!r} is not text; expected a name, or {word!r} in quotes")

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag != _TEXT:
            return self._refuse(node, path, f"tag {node.tag!r} is not read here; expected a plain value")
        if node.style is not None:
            text, doubt = joined(node.value), "half a character; expected whole ones"
            return text if text is not None else self._refuse(node, path, doubt)
        doubtful = ambiguous(node.value)
        return self._refuse(node, path, doubtful) if doubtful else resolve(node.value)


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


def ambiguous(word: str) -> str | None:
    """Why a word without quotes is not to be trusted; None where all versions of YAML agree."""
    switch = _SWITCH.fullmatch(word)
    if switch:
        meant = "true" if switch.group("on") else "false"
        return f"{word!r} is {meant} in old YAML and a word in new; expected {meant}, or quotes around it"
    if _OLD_NUMBER.fullmatch(word):
        return f"{word!r} is read in two ways by YAML; expected a plain number, or quotes around it"
    if _ENDLESS.fullmatch(word) or (_REAL.fullmatch(word) and math.isinf(float(word))):
        return f"expected a finite number, got {show(word)}"
    return None


_SYNTAX = (
    ("expected a single document", "a second document begins here; expected one document a file"),
    (
        "mapping values are not allowed",
        "a second ': ' in one value; expected a line of its own for the key, or quotes",
    ),
    ("could not find expected ':'", "a key without ': ' behind it; expected key: value"),
    (
        "expected <block end>, but found",
        "the line does not fit the ones above; expected the same indentation, or a closed bracket",
    ),
    ("expected ',' or ']'", "a list in [ ] is not closed; expected , or ]"),
    ("expected ',' or '}'", "a mapping in { } is not closed; expected , or }"),
    ("found unexpected end of stream", "a quote is not closed; expected the same quote again"),
    ("found duplicate anchor", "an anchor stands twice; expected each anchor once"),
)


def _syntax(error: yaml.YAMLError, text: str) -> tuple[Position, str]:
    """Where and why a text is not YAML."""
    if not isinstance(error, yaml.MarkedYAMLError):
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        return Position(line, 1), "a control character; expected printable text"
    problem = f"{error.context or ''}: {error.problem or ''}"
    mark = _mark(error.problem_mark or error.context_mark)
    if "undefined alias" in problem:
        return mark, _no_anchor(problem, text)
    if "cannot start any token" in problem:
        return mark, _no_token(problem)
    return next(
        ((_where(error, words), words) for needle, words in _SYNTAX if needle in problem),
        (mark, f"not YAML; {error.problem}"),
    )


def _where(error: yaml.MarkedYAMLError, words: str) -> Position:
    """The line that begins what is never closed, or else the line where reading stopped."""
    begun = error.context_mark if "is not closed" in words else None
    return _mark(begun or error.problem_mark or error.context_mark)


def _no_anchor(problem: str, text: str) -> str:
    alias = problem.split("'")[1] if "'" in problem else ""
    near = nearest(alias, [anchor for anchor in _ANCHOR.findall(text) if anchor != alias])
    return f"alias *{alias} has no anchor; " + (f"did you mean *{near}?" if near else f"expected &{alias} before it")


def _no_token(problem: str) -> str:
    if "\\t" in problem:
        return "a tab stands where YAML takes spaces; expected spaces"
    sign = problem.split("'")[1] if "'" in problem else "this"
    return f"a value cannot begin with {sign}; expected quotes around it"


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
        return Fault((), f"{flag} {text}: expected KEY=VALUE, such as load.0.poisson.rate=3")
    path = tuple(_steps(key))
    hidden = "@" in word or any(map(is_secret, _WORD.findall(text)))
    place = f"{flag} {key}=…" if hidden else f"{flag} {text}"
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
    flags = value_at(tree, path[:2])
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
