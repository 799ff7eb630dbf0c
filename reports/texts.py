"""Messages as HTML and as text, lists and paragraphs, in the language that is current; the writer of text files."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from harness.messages import Message, Parameter, current_language, localized, render
from harness.messages.message import PLAIN
from harness.messages.rendering import CHINESE, joined

_HASH = re.compile(r"[0-9a-f]{32,}")
SEVERITIES = {"invalid": "page.severity.invalid", "warning": "page.severity.warning", "note": "page.severity.note"}


def markup(code: str | Message, /, **parameters: Parameter) -> Markup:
    """A sentence as HTML: everything escaped, parameters that are text from outside isolated in <bdi>."""
    sentence = code if isinstance(code, Message) else Message(code, {name: _value(v) for name, v in parameters.items()})
    return Markup(render(sentence, current_language(), own=_escaped, outside=_isolated))  # noqa: S704 - every part is escaped


def _value(value: Parameter) -> Parameter:
    """A parameter; what is HTML already counts as text, which is escaped once more."""
    return str(value) if isinstance(value, Markup) else value


def _escaped(text: str) -> str:
    return str(escape(text))  # a plain string: Markup would escape what it is joined with


def _isolated(text: str) -> str:
    return f"<bdi>{escape(text)}</bdi>"


def listed(texts: Sequence[str], spec: str = "list") -> str:
    """Texts as the language lists them: `list` with commas, `parts` with semicolons (`harness.messages.rendering`)."""
    return joined(texts, spec, current_language())


def paragraph(texts: Iterable[str]) -> str:
    """Sentences one after another; in Chinese without blanks."""
    return ("" if current_language() == CHINESE else " ").join(filter(None, texts))


def sentence(message: Message) -> Markup:
    """A message of another room as HTML; empty where it is an empty text."""
    return markup(message) if message.code != PLAIN or message.parameters["text"] else Markup()


def severity_name(severity: str) -> str:
    """The name of a severity of warnings."""
    return localized(SEVERITIES.get(severity, "page.severity.warning"))


def is_hash(value: str) -> bool:
    """Whether a value is a hash, which a line of a page may break anywhere."""
    return _HASH.fullmatch(value) is not None


def write_text(path: Path, text: str) -> Path:
    """Write a text whole or not at all; what UTF-8 has no place for becomes a question mark."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(text.encode("utf-8", "replace"))
    draft.replace(path)
    return path
