"""The catalogues: gettext .po files, read when a sentence of theirs is first needed.

They are read by hand: Babel takes 40 ms to load, half of what `harness --help` may take. Babel reads the same files in
the tests, and both agree.
"""

import gettext
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
