"""How a parameter is written in a sentence: `{wait_s:duration}`, `{count:count}`, `{names:or}`.

duration   seconds, `53.7 ms`, `2m 05s`        ns       nanoseconds, written as duration
count      thousands apart, `1,024`            number   three significant digits
share      of one, as `97.3 %`                 bytes    `1.50 GiB`
error      seconds by which something is off   about    seconds, rounded up roughly
change     per cent with its sign              quote    a word in quotes, as a user typed it
size       per cent without a sign             percent  a share of one that a user gave, as `5 %`
and, or    a list with its last joint          list     a list with commas (`、` in Chinese)
parts      a list of clauses with semicolons   sentences  a list of sentences, one after the other
                                               (none)   text as it is; numbers as Python writes them
"""

from collections.abc import Callable, Mapping, Sequence

from harness.messages.language import CHINESE, ENGLISH
from harness.units import (
    NS_PER_S,
    format_about,
    format_bytes,
    format_change,
    format_count,
    format_duration,
    format_error,
    format_share,
    significant,
)

NONE = "–"
NUMBERS: Mapping[str, Callable[[float], str]] = {
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
QUOTE = "quote"
SPECS = (*NUMBERS, *LISTS, QUOTE)


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
