"""summary.md and junit.xml of a kernel bench, for a CI job page and a CI test view."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.kernels.repeats import MEASURED, SKIPPED
from harness.kernels.result import row_name
from harness.messages import localized
from reports import junit, kernels
from reports.kernels_page import badges, groups_of_warnings
from reports.markdown import MARKS, SUMMARY, plain, row_of, simulated_lines, warning_line
from reports.tables import Cell
from reports.texts import elsewhere
from reports.writing import write_text

_MOST_ROWS = 60  # of a job page; the page itself has them all
Told = Mapping[str, Any]


def write(folder: Path, run: Told, summary: Told) -> None:
    """Write summary.md and junit.xml of a kernel bench into its folder."""
    write_text(folder / SUMMARY, "\n".join(_lines(run, summary)) + "\n")
    suite = str(run.get("name", "")) + (" (SIMULATED)" if summary["simulated"] else "")
    write_text(folder / junit.JUNIT, junit.document(suite, _cases(str(run.get("name", "")), summary)))


def _lines(run: Told, summary: Told) -> Iterator[str]:
    if summary["simulated"]:
        yield from simulated_lines()
    yield from (f"## {plain(str(run.get('question', '')))}", "", f"**{plain(elsewhere(str(summary['answer'])))}**", "")
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}".strip() for badge in badges(summary))
    yield ""
    for warning in groups_of_warnings(summary):
        yield warning_line(warning)
    for heads, rows in (
        (kernels.heads(), kernels.measured_rows(summary["kernels"]["rows"])),
        (kernels.lost_heads(), kernels.lost_rows(summary["kernels"]["rows"])),
    ):
        if rows:
            yield from ("", row_of([plain(head) for head in heads]), row_of([":--"] * len(heads)))
            yield from (row_of([_words(cell) for cell in row]) for row in rows[:_MOST_ROWS])
    yield from ("", plain(localized("page.everything_in", file="report.html")))


def _words(cell: Cell) -> str:
    """A cell of a table, and what stands under a case: its path."""
    return plain(", ".join(filter(None, (cell.text, cell.below))) if cell.foreign else cell.text)


def _cases(name: str, summary: Told) -> Iterator[Xml.Element]:
    """A case for the verdict, and one for each case and path: wrong and lost ones fail, skipped ones are skipped."""
    verdict = junit.case_of(name, localized("page.junit.valid"))
    if not summary["verdict"]["valid"]:
        junit.fail(verdict, elsewhere(str(summary["answer"])), "invalid")
    yield verdict
    for row in summary["kernels"]["rows"]:
        case = junit.case_of(f"{name}.kernels", row_name(row))
        if row["status"] == SKIPPED:
            Xml.SubElement(case, "skipped", message=junit.clean(str(row["reason"])))
        elif row["status"] != MEASURED:
            text = localized("page_kernels.junit_lost", status=row["status"], reason=str(row["reason"]))
            junit.fail(case, text, row["status"])
        yield case
