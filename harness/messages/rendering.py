"""From a message to a sentence of a language."""

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.messages.catalogue import catalogue, room_of
from harness.messages.formats import QUOTE, joined, number
from harness.messages.language import ENGLISH, current_language
from harness.messages.message import PLAIN, Message, Parameter, message_from, plain

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
