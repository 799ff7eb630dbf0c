"""From a message to a sentence of a language: the language of a reader, formats of parameters, catalogues, rendering.

The language is given by --lang, else by the locale of the environment, else English. A parameter's format is written
in the sentence, as in `{wait_s:duration}`, `{count:count}`, `{names:or}`:

duration   seconds, `53.7 ms`, `2m 05s`        ns       nanoseconds, written as duration
count      thousands apart, `1,024`            number   three significant digits
share      of one, as `97.3 %`                 bytes    `1.50 GiB`
error      seconds by which something is off   about    seconds, rounded up roughly
change     per cent with its sign              quote    a word in quotes, as a user typed it
size       per cent without a sign             percent  a share of one that a user gave, as `5 %`
clock      seconds, `1:05:09`
and, or    a list with its last joint          list     a list with commas (`、` in Chinese)
parts      a list of clauses with semicolons   sentences  a list of sentences, one after the other
english    text that there is in English only: nothing in other languages
                                               (none)   text as it is; numbers as Python writes them

The catalogues are gettext .po files, read when a sentence of theirs is first needed, and by hand: Babel takes 40 ms to
load, half of what `harness --help` may take. Babel reads the same files in the tests, and both agree.
"""

import contextlib
import gettext
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.messages.message import PLAIN, Message, Parameter, message_from, plain
from harness.units import (
    NS_PER_S,
    format_about,
    format_bytes,
    format_change,
    format_clock,
    format_count,
    format_duration,
    format_error,
    format_share,
    significant,
)

ENGLISH, CHINESE = "en", "zh"
LANGUAGES = (ENGLISH, CHINESE)
_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides, as in POSIX
_CURRENT: ContextVar[str] = ContextVar("language", default=ENGLISH)


def language_of(environment: Mapping[str, str]) -> str:
    """The language of a process's environment, one of `LANGUAGES`: `LANG=zh_CN.UTF-8` is zh; English by default."""
    locale = next((environment[name] for name in _VARIABLES if environment.get(name)), "")
    return CHINESE if locale.lower().startswith("zh") else ENGLISH


def current_language() -> str:
    """The language that `localized` writes in."""
    return _CURRENT.get()


def language(name: str) -> AbstractContextManager[None]:
    """A context within which `localized` writes in another language, one of `LANGUAGES`.

    Raises:
        ValueError: where it is none of these.
    """
    if name not in LANGUAGES:
        raise ValueError(f"language {name!r}: expected {' or '.join(map(repr, LANGUAGES))}")
    return _within(name)


@contextlib.contextmanager
def _within(name: str) -> Iterator[None]:
    token = _CURRENT.set(name)
    try:
        yield
    finally:
        _CURRENT.reset(token)


NONE = "–"
NUMBERS: Mapping[str, Callable[[float], str]] = {
    "clock": format_clock,
    "duration": format_duration,
    "ns": lambda value: format_duration(value / NS_PER_S),
    "count": format_count,
    "number": significant,
    "share": format_share,
    "bytes": format_bytes,
    "error": format_error,
    "about": format_about,
    "change": format_change,
    "size": lambda value: format_change(value, signed=False),
    "percent": lambda value: f"{100 * value:g} %",
}
LISTS: Mapping[str, Mapping[str, tuple[str, str]]] = {  # by language: the joint between items, and before the last
    "and": {ENGLISH: (", ", " and "), CHINESE: ("、", " 和 ")},
    "or": {ENGLISH: (", ", " or "), CHINESE: ("、", " 或 ")},
    "list": {ENGLISH: (", ", ", "), CHINESE: ("、", "、")},
    "sentences": {ENGLISH: (" ", " "), CHINESE: ("", "")},
    "parts": {ENGLISH: ("; ", "; "), CHINESE: ("；", "；")},
}
QUOTE, ENGLISH_ONLY = "quote", "english"
SPECS = (*NUMBERS, *LISTS, QUOTE, ENGLISH_ONLY)


def number(value: float | None, spec: str) -> str:
    """A number as its spec writes it; `–` where there is none.

    Raises:
        ValueError: where there is no such spec for numbers.
    """
    if spec and spec not in NUMBERS:
        raise ValueError(f"no format {spec!r} for a number; expected one of {', '.join(NUMBERS)}")
    if value is None:
        return NONE
    return NUMBERS[spec](value) if spec else f"{value:g}" if isinstance(value, float) else str(value)


def joined(texts: Sequence[str], spec: str, language: str) -> str:
    """A list as a language joins it."""
    between, last = LISTS[spec or "list"][language]
    if len(texts) < 2:
        return "".join(texts)
    return between.join(texts[:-1]) + last + texts[-1]


HERE = Path(__file__).parent
_LINE = re.compile(r'^(msgid|msgid_plural|msgstr|msgstr\[\d\]) (".*"(?:\n".*")*)', re.MULTILINE)
_PLURAL = re.compile(r"plural=([^;]+);")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The sentences of a room in one language, by code; several forms where a number chooses the wording."""

    sentences: Mapping[str, tuple[str, ...]]
    plural: Any  # from a count to the index of a form

    def sentence(self, code: str, count: float | None) -> str:
        """The sentence of a code; `count` chooses among forms.

        Raises:
            KeyError: where the catalogue lacks the code.
        """
        forms = self.sentences[code]
        return forms[0] if len(forms) == 1 else forms[self.plural(round(count or 0))]


@cache
def catalogue(language: str, room: str) -> Catalogue:
    """The catalogue of a room; without an entry where there is no file."""
    path = HERE / language / f"{room}.po"
    if not path.is_file():
        return Catalogue({}, int)
    sentences: dict[str, tuple[str, ...]] = {}
    header = code = ""
    for keyword, quoted in _LINE.findall(path.read_text(encoding="utf-8")):
        text = _unquoted(quoted)
        if keyword == "msgid":
            code = text
        elif keyword.startswith("msgstr") and code:
            sentences[code] = (*sentences.get(code, ()), text)
        elif keyword == "msgstr":
            header = text
    return Catalogue(sentences, gettext.c2py(_PLURAL.findall(header)[0]))


def _unquoted(quoted: str) -> str:
    """The text of one or more quoted lines."""
    text = "".join(line[1:-1] for line in quoted.splitlines())
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)


def room_of(code: str) -> str:
    """The room of a code, which names its file."""
    return code.partition(".")[0]


def rooms(language: str) -> list[str]:
    """All rooms that have a catalogue in a language."""
    return sorted(path.stem for path in (HERE / language).glob("*.po"))


Mark = Callable[[str], str]  # what a page makes of text from outside, such as <bdi>...</bdi>


def _unmarked(text: str) -> str:
    return text


def render(message: Message, language: str = ENGLISH, *, own: Mark = _unmarked, outside: Mark = _unmarked) -> str:
    """The sentence of a message; `own` is applied to our words, `outside` to texts that are parameters.

    Raises:
        KeyError: where the code is in no catalogue, or a parameter that the sentence names is missing.
    """
    if message.code == PLAIN:
        return outside(str(message.parameters["text"]))
    count = message.parameters.get("count")
    count = float(count) if isinstance(count, int | float) else None
    sentence = catalogue(language, room_of(message.code)).sentence(message.code, count)
    parts = _parts(sentence, message.parameters, language, (own, outside))
    return "".join(parts if language == ENGLISH else _closed_up(parts))


def _closed_up(parts: Iterator[str]) -> Iterator[str]:
    """The parts of a sentence without a blank where two Chinese letters meet: one stands beside Latin letters alone."""
    before = ""
    for part in parts:
        if part[:1] == " " and _is_wide(before[-1:]) and _is_wide(part[1:2]):
            part = part[1:]  # noqa: PLW2901 - the same part
        if before[-1:] == " " and _is_wide(before[-2:-1]) and _is_wide(part[:1]):
            before = before[:-1]
        yield before
        before = part
    yield before


def _is_wide(letter: str) -> bool:
    return letter > "\u2e7f"


def localized(code: str | Message, /, **parameters: Parameter) -> str:
    """The sentence of a message, or of a code with parameters, in the current language."""
    message = code if isinstance(code, Message) else Message(code, parameters)
    return render(message, current_language())


def stored(kept: Mapping[str, Any] | None, text: str) -> Message:
    """A message as a file keeps it; its English text where this version's catalogues lack its code or a parameter."""
    try:
        message = message_from(kept or {})
        render(message)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return plain(text)
    return message


def _parts(
    sentence: str, parameters: Mapping[str, Parameter], language: str, marks: tuple[Mark, Mark]
) -> Iterator[str]:
    for words, name, spec, _ in string.Formatter().parse(sentence):
        if words:
            yield marks[0](words)
        if name is not None:
            yield _value(parameters[name], spec or "", language, marks)


def _value(value: Parameter, spec: str, language: str, marks: tuple[Mark, Mark]) -> str:
    own, outside = marks
    if spec == ENGLISH_ONLY and language != ENGLISH:
        return ""
    if isinstance(value, Message):
        return render(value, language, own=own, outside=outside)
    if isinstance(value, str):
        return outside(f"'{value}'" if spec == QUOTE else value)
    if isinstance(value, Sequence):
        return joined([_value(item, "", language, marks) for item in value], spec, language)
    if isinstance(value, bool):
        return own(str(value).lower())
    return own(number(value, spec))


def placeholders(sentence: str) -> dict[str, str]:
    """The parameters that a sentence names, each with its format."""
    names: dict[str, Any] = {name: spec for _, name, spec, _ in string.Formatter().parse(sentence) if name is not None}
    return names
