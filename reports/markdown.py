"""What does a CI job page show of a run? The answer, the verdict and one table, as Markdown."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from reports import headline, tables, verdict
from reports.folder import Result
from reports.tables import Column
from reports.writing import write_text

SUMMARY = "summary.md"
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|~#!@]|:(?=//)|(?<=www)\.)")
MARKS = {"good": "✅", "warn": "⚠️", "bad": "❌", "plain": ""}


def text(result: Result) -> str:
    """summary.md of a result: GitHub's Markdown, every foreign word escaped."""
    return "\n".join(_lines(result)) + "\n"


def plain(words: str) -> str:
    """Words that Markdown and HTML take as they stand: on one line, marks escaped."""
    return _SPECIAL.sub(lambda mark: f"&#{ord(mark[1])};", " ".join(words.split()))


def _lines(result: Result) -> Iterator[str]:
    run = result.run
    if result.simulated:
        yield from ("> **SIMULATED.** No hardware was measured; never quote these numbers as a measurement.", "")
    yield from (f"## {plain(str(run.get('question', '')))}", "", f"**{plain(headline.answer(result))}**", "")
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}" for badge in verdict.badges(result))
    yield ""
    yield from _doubt_lines(result)
    if result.stages:
        yield from _table_lines(result)
    name, folder = _code(str(run.get("name", ""))), _code(result.folder.name)
    yield f"Run `{name}`, folder `{folder}`. Everything is in report.html."


def _code(words: str) -> str:
    """Words within backticks, which cannot be escaped there."""
    return " ".join(words.replace("`", "'").split())


def _doubt_lines(result: Result) -> Iterator[str]:
    found = verdict.doubts(result)
    for doubt in found:
        said = " ".join(f"{place}: {words}" if place else words for place, words in doubt.said)
        yield (
            f"- **{doubt.severity}** {plain(said)} _Next:_ {plain(doubt.next)}"
            if doubt.next
            else f"- **{doubt.severity}** {plain(said)}"
        )
    if found:
        yield ""


def _table_lines(result: Result) -> Iterator[str]:
    table = tables.overview(result)
    heads = [head for column in table.columns for head in _heads(column)]
    yield row_of(heads)
    yield row_of([":--", *["--:"] * (len(heads) - 1)])
    for row in table.rows:
        yield row_of([plain(cell.text) for cell in row])
    yield ""


def _heads(column: Column) -> list[str]:
    unit = f", {column.unit}" if column.unit else ""
    return [plain(f"{column.label} {part}".strip() + unit) for part in column.parts or ("",)]


def row_of(cells: Sequence[str]) -> str:
    """A row of a table in Markdown; cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def write(result: Result) -> Path:
    """Write summary.md beside the page; its path."""
    return write_text(result.folder / SUMMARY, text(result))
