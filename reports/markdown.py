"""summary.md, which a CI job page shows: the answer, the verdict and one table, as Markdown."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.messages import localized
from harness.results.folder import ResultFiles
from harness.results.stage_names import name_of
from reports import headline, tables, verdict
from reports.tables import Column
from reports.texts import elsewhere, paragraph, sentence_text, severity_name
from reports.writing import write_text

SUMMARY = "summary.md"
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|~#!@]|:(?=//)|(?<=www)\.)")
MARKS = {"good": "✅", "warn": "⚠️", "bad": "❌", "plain": ""}


def text(result: ResultFiles) -> str:
    """summary.md of a result: GitHub's Markdown, every word escaped."""
    return "\n".join(_lines(result)) + "\n"


def plain(words: str) -> str:
    """Words that Markdown and HTML take as they stand: on one line, marks escaped."""
    return _SPECIAL.sub(lambda mark: f"&#{ord(mark[1])};", " ".join(words.split()))


def simulated_lines() -> tuple[str, str]:
    """The mark of what came from the simulator, and a blank line."""
    return f"> **SIMULATED.** {plain(localized('page.simulated.markdown'))}", ""


def _lines(result: ResultFiles) -> Iterator[str]:
    run = result.run
    if result.simulated:
        yield from simulated_lines()
    yield from (f"## {plain(str(run.get('question', '')))}", "", f"**{plain(headline.answer(result))}**", "")
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}" for badge in verdict.badges(result))
    yield ""
    yield from _warning_lines(result)
    if result.stages:
        yield from _table_lines(result)
    name, folder = _code(str(run.get("name", ""))), _code(result.folder.name)
    whole = plain(localized("page.everything_in", file="report.html"))
    yield f"{localized('page.run')} `{name}` · {localized('page.folder')} `{folder}` · {whole}"


def _code(words: str) -> str:
    """Words within backticks, which cannot be escaped there."""
    return " ".join(words.replace("`", "'").split())


def _warning_lines(result: ResultFiles) -> Iterator[str]:
    groups = verdict.warnings(result)
    for group in groups:
        yield warning_line(group)
    if groups:
        yield ""


def warning_line(group: verdict.WarningGroup) -> str:
    """An item of a list: how grave, what, and the next step where there is one."""
    next_step = plain(sentence_text(group.next))
    step = f" _{localized('page.warnings.next')}_ {next_step}" if next_step else ""
    return f"- **{severity_name(group.severity)}** {plain(paragraph(warning_texts(group)))}{step}"


def warning_texts(group: verdict.WarningGroup) -> list[str]:
    """The texts of a group of warnings, each behind the stage it is about."""
    rows = [(place, sentence_text(text)) for place, text in group.texts]
    return [localized("page.warnings.at", place=place, text=text) if place else text for place, text in rows]


def _table_lines(result: ResultFiles) -> Iterator[str]:
    table = tables.overview(result)
    heads = [head for column in table.columns for head in _heads(column)]
    yield row_of(heads)
    yield row_of([":--", *["--:"] * (len(heads) - 1)])
    for row in table.rows:
        yield row_of([plain(cell.text) for cell in row])
    yield ""
    for stage in result.stages:
        if words := verdict.left_out(stage):
            yield plain(localized("page.warnings.at", place=elsewhere(name_of(stage)), text=words))
            yield ""


def _heads(column: Column) -> list[str]:
    unit = f", {plain(column.unit)}" if column.unit else ""
    return [f"{plain(column.label)} {plain(part)}".strip() + unit for part in column.parts or ("",)]


def row_of(cells: Sequence[str]) -> str:
    """A row of a table in Markdown; cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def write(result: ResultFiles) -> Path:
    """Write summary.md beside the page; its path."""
    return write_text(result.folder / SUMMARY, text(result))
