"""Kinds of the columns of a table: which hold numbers, which words; and where a long name may break."""

import re
from collections.abc import Sequence

from markupsafe import Markup

from reports.tables import Cell

_NUMBER = re.compile(r"[-+−<≤≥~]? ?\d(?!\d{3}-\d\d-\d\d)|[–∞]|$")  # noqa: RUF001 - a minus, and a dash for nothing
_SHORT = 14  # letters in a first column that need no line of their own
NUMBER, WORD, SHORT = "number", "word", "short"


def column_kinds(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """The class of each column: numbers stand at its right, words at its left; the first one names the row."""
    columns = list(zip(*rows, strict=True))
    kinds = [NUMBER if all(_NUMBER.match(cell.text) for cell in column) else WORD for column in columns]
    short = bool(columns) and all(max(len(cell.text), len(cell.below)) <= _SHORT for cell in columns[0])
    return [SHORT if short else WORD, *kinds[1:]]


def breakable(name: str) -> Markup:
    """A name that a browser may break after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))
