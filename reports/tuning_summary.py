"""summary.md of a tuning study, which a CI job page shows."""

from collections.abc import Iterator
from pathlib import Path

from harness.messages import localized
from harness.results.study import StudyFiles
from reports import tuning
from reports.ci_files import MARKS, SUMMARY, plain, row_of, simulated_lines
from reports.tables import Cell
from reports.texts import write_text
from reports.tuning_flags import flag_heads, flag_rows


def write_markdown(result: StudyFiles) -> Path:
    """Write summary.md beside the page; its path."""
    return write_text(result.folder / SUMMARY, "\n".join(_lines(result)) + "\n")


def _lines(result: StudyFiles) -> Iterator[str]:
    if result.marked:
        yield from simulated_lines()
    yield from (f"## {plain(str(result.content.get('question') or ''))}", "", f"**{plain(tuning.answer(result))}**", "")
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}".strip() for badge in tuning.badges(result))
    yield ""
    for text, step in tuning.study_warnings(result):
        yield f"- {plain(localized(text))} _{localized('page.warnings.next')}_ {plain(localized(step))}"
    heads, rows = flag_heads(result), flag_rows(result)
    if rows:
        yield from ("", row_of([plain(head) for head in heads]), row_of([":--"] * len(heads)))
        yield from (row_of([plain(_words(cell)) for cell in row]) for row in rows)
    command = next((text for name, text in tuning.commands(result)), "")
    if command:
        yield from ("", "```sh", command.replace("```", "'''").rstrip(), "```")
    yield from ("", plain(localized("page.everything_in", file="report.html")))


def _words(cell: Cell) -> str:
    return ": ".join(filter(None, (cell.text, cell.below)))
