"""Chinese of the texts that other rooms still hand over in English, until those are messages.

A key of templates/zh.json may have slots: `{#}` for what has no words (numbers, units, terms such as TTFT), `{}` for
words that have to be in the table too, `{*}` for anything, such as a name. Without an entry a text stays as it is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLES = Path(__file__).parent / "templates"
_SLOT = re.compile(r"\{[#*]?\}")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_WORD = re.compile(r"[^\W\d_]{2,}")
_JOINTS = (  # between parts of a text; each becomes what the catalogue has for it
    (re.compile(r"(?<=[.?!]) +"), "(after a sentence)"),
    (re.compile(r"; "), "(; between parts)"),
    (re.compile(r": "), "(: between parts)"),
    (re.compile(r", "), "(, between parts)"),
    (re.compile(r" and "), "(and between parts)"),
    (re.compile(r" / "), "(/ between parts)"),
)
_BETWEEN = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef]) (?=[\u3000-\u9fff\uff00-\uffef])")  # no blank stands there
# Terms of the field and units, which are the same in every language.
_TERMS = re.compile(
    r"(?<![^\W_])(?:TTFT|TPOT|NTPOT|ITL|ICL|E2E|SLO|KV|NPUs?|CPU|HTTP|SHA-256|UTC|CANN|vLLM|AISBench|"
    r"std|min|max|mean|req/s|[KMGT]?B/s|[MGT]?FLOP/s|b?float\d+|NaN|tokens?/s|tok/s|tokens?|events/s|MSER-5|[a-z0-9]+(?:_[a-z0-9]+)+|[Tt]rue|[Ff]alse|auto|ms|µs|ns|n|[pP]\d[\d.]*|[KMGT]iB|"
    r"vllm bench serve|guidellm|aiperf|inference-perf|evalscope|npu-harness|npu-smi|harness)(?![^\W_])"
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Fixed texts, and patterns with slots, each with what it becomes."""

    fixed: Mapping[str, str]
    patterns: Sequence[tuple[re.Pattern[str], str, str]]


@cache
def catalogue(language: str) -> Catalogue:
    """The table of a language."""
    table: dict[str, str] = json.loads((_TABLES / f"{language}.json").read_text(encoding="utf-8"))
    slotted = sorted((key for key in table if _SLOT.search(key)), key=lambda key: -len(_SLOT.sub("", key)))
    fixed = {key: value for key, value in table.items() if key not in set(slotted)}
    return Catalogue(fixed, tuple((_pattern(key), "".join(_SLOT.findall(key)), table[key]) for key in slotted))


def _pattern(key: str) -> re.Pattern[str]:
    parts = _SLOT.split(key)
    return re.compile("(.+?)".join(map(re.escape, parts)), re.DOTALL)


def said_in(text: str, language: str) -> str:
    """A text in another language, or as it is where the catalogue does not have it, as in English."""
    return text if language == "en" or not text else translate(text, language) or text


def translate(text: str, language: str) -> str | None:
    """A text in another language; None where the catalogue does not have it, or a part of it."""
    return _translate(text, language)


@cache
def _translate(text: str, language: str) -> str | None:
    known = catalogue(language)
    if text in known.fixed:
        return known.fixed[text]
    if is_plain(text):
        return text
    for pattern, slots, other in known.patterns:
        found = pattern.fullmatch(text)
        filled = _filled(found.groups(), slots, language) if found else None
        if filled is not None:
            return _BETWEEN.sub("", other.format(*filled))
    return _joined(text, language)


def is_plain(text: str) -> bool:
    """Whether a text has no words but terms and units that are the same in every language."""
    return _WORD.search(_TERMS.sub("", text)) is None


def _filled(found: Sequence[str], slots: str, language: str) -> list[str] | None:
    """What fills the slots, translated where it has to be; None where it cannot be."""
    said = []
    for words, slot in zip(found, _SLOT.findall(slots), strict=True):
        told = (
            words
            if slot == "{*}"
            else (words if is_plain(words) else None)
            if slot == "{#}"
            else _translate(words, language)
        )
        if told is None:
            return None
        said.append(told)
    return said


def _joined(text: str, language: str) -> str | None:
    """A text of several parts, each translated by itself."""
    for joint, key in _JOINTS:
        parts = joint.split(text)
        told = [_translate(part, language) for part in parts] if len(parts) > 1 else [None]
        if None not in told:
            return catalogue(language).fixed[key].join(part for part in told if part is not None)
    return None
