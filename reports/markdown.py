"""What does a CI job page show of a run? The answer, the verdict and one table, as Markdown."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from harness.results.folder import ResultFiles
from harness.results.stage_names import name_of
from reports import headline, tables, verdict
from reports.language import said_in
from reports.tables import Column
from reports.writing import write_text

SUMMARY = "summary.md"
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|~#!@]|:(?=//)|(?<=www)\.)")
MARKS = {"good": "✅", "warn": "⚠️", "bad": "❌", "plain": ""}
SIMULATED = "No hardware was measured; never quote these numbers as a measurement."
Say = Callable[[str], str]


def text(result: ResultFiles, language: str = "en") -> str:
    """summary.md of a result in a language: GitHub's Markdown, every foreign word escaped."""
    return "\n".join(_lines(result, speaker(language))) + "\n"


def speaker(language: str) -> Say:
    """Words of ours in a language, ready for Markdown."""
    say = partial(said_in, language=language)
    return lambda words: plain(say(words))


def plain(words: str) -> str:
    """Words that Markdown and HTML take as they stand: on one line, marks escaped."""
    return _SPECIAL.sub(lambda mark: f"&#{ord(mark[1])};", " ".join(words.split()))


def simulated_lines(say: Say) -> tuple[str, str]:
    """The mark of what came from the simulator, and a blank line."""
    return f"> **SIMULATED.** {say(SIMULATED)}", ""


def _lines(result: ResultFiles, say: Say) -> Iterator[str]:
    run = result.run
    if result.simulated:
        yield from simulated_lines(say)
    yield from (f"## {plain(str(run.get('question', '')))}", "", f"**{say(headline.answer(result))}**", "")
    yield " · ".join(f"{MARKS[badge.tone]} {say(badge.text)}" for badge in verdict.badges(result))
    yield ""
    yield from _warning_lines(result, say)
    if result.stages:
        yield from _table_lines(result, say)
    name, folder = _code(str(run.get("name", ""))), _code(result.folder.name)
    yield f"{say('Run')} `{name}` · {say('folder')} `{folder}` · {say('Everything is in report.html.')}"


def _code(words: str) -> str:
    """Words within backticks, which cannot be escaped there."""
    return " ".join(words.replace("`", "'").split())


def _warning_lines(result: ResultFiles, say: Say) -> Iterator[str]:
    found = verdict.warnings(result)
    for group in found:
        said = " ".join(f"{say(place)}: {say(words)}" if place else say(words) for place, words in group.said)
        yield warning_line(group.severity, said, group.next, say)
    if found:
        yield ""


def warning_line(severity: str, said: str, step: str, say: Say) -> str:
    """An item of a list: how grave, what, and the next step where there is one; `said` is Markdown already."""
    return f"- **{say(severity)}** {said}" + (f" _{say('Next:')}_ {say(step)}" if step else "")


def _table_lines(result: ResultFiles, say: Say) -> Iterator[str]:
    table = tables.overview(result)
    heads = [head for column in table.columns for head in _heads(column, say)]
    yield row_of(heads)
    yield row_of([":--", *["--:"] * (len(heads) - 1)])
    for row in table.rows:
        yield row_of([say(cell.text) for cell in row])
    yield ""
    for stage in result.stages:
        if words := verdict.left_out(stage):
            yield f"{say(name_of(stage))}: {say(words)}"
            yield ""


def _heads(column: Column, say: Say) -> list[str]:
    unit = f", {say(column.unit)}" if column.unit else ""
    return [f"{say(column.label)} {plain(part)}".strip() + unit for part in column.parts or ("",)]


def row_of(cells: Sequence[str]) -> str:
    """A row of a table in Markdown; cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def write(result: ResultFiles, language: str = "en") -> Path:
    """Write summary.md beside the page, in a language; its path."""
    return write_text(result.folder / SUMMARY, text(result, language))
