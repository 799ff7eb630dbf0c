"""The catalogues: gettext .po files, read by Babel when a sentence of theirs is first needed."""

import gettext
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


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
    """The catalogue of a room; without an entry where there is no file.

    Raises:
        ValueError: where a file is no catalogue.
    """
    path = HERE / language / f"{room}.po"
    if not path.is_file():
        return Catalogue({}, int)
    from babel.messages.pofile import read_po  # noqa: PLC0415 - 25 ms that a run without messages does not need

    with path.open("rb") as file:
        entries = read_po(file, locale=language, abort_invalid=True)
    found = {_code(entry.id): _forms(entry.string) for entry in entries if entry.id}
    return Catalogue(found, gettext.c2py(entries.plural_expr))


def _code(key: str | tuple[str, ...] | list[str]) -> str:
    return key if isinstance(key, str) else key[0]


def _forms(string: Any) -> tuple[str, ...]:
    return (string,) if isinstance(string, str) else tuple(string)


def room_of(code: str) -> str:
    """The room of a code, which names its file."""
    return code.partition(".")[0]


def rooms(language: str) -> list[str]:
    """All rooms that have a catalogue in a language."""
    return sorted(path.stem for path in (HERE / language).glob("*.po"))
