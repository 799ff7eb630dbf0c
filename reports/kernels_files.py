"""What do a CI job page and a CI test view read of a kernel bench?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.analysis.warnings import warnings_of
from harness.kernels.repeats import MEASURED, SKIPPED
from harness.kernels.result import row_name
from harness.messages import localized
from reports import junit, kernels
from reports.kernels_page import badges
from reports.markdown import MARKS, SUMMARY, Say, plain, row_of, simulated_lines, speaker, warning_line
from reports.tables import Cell
from reports.writing import write_text

_MOST_ROWS = 60  # of a job page; the page itself has them all
Told = Mapping[str, Any]


def write(folder: Path, run: Told, summary: Told, language: str = "en") -> None:
    """Write summary.md, in a language, and junit.xml of a kernel bench into its folder."""
    write_text(folder / SUMMARY, "\n".join(_lines(run, summary, speaker(language))) + "\n")
    suite = str(run.get("name", "")) + (" (SIMULATED)" if summary["simulated"] else "")
    write_text(folder / junit.JUNIT, junit.document(suite, _cases(str(run.get("name", "")), summary)))


def _lines(run: Told, summary: Told, say: Say) -> Iterator[str]:
    if summary["simulated"]:
        yield from simulated_lines(say)
    yield from (f"## {plain(str(run.get('question', '')))}", "", f"**{say(summary['answer'])}**", "")
    yield " · ".join(f"{MARKS[badge.tone]} {say(badge.text)}".strip() for badge in badges(summary))
    yield ""
    for warning in warnings_of(summary):
        yield warning_line(warning.severity, say(localized(warning.text)), localized(warning.next), say)
    for heads, rows in (
        (kernels.HEADS, kernels.measured_rows(summary["kernels"]["rows"])),
        (kernels.LOST_HEADS, kernels.lost_rows(summary["kernels"]["rows"])),
    ):
        if rows:
            yield from ("", row_of([say(head) for head in heads]), row_of([":--"] * len(heads)))
            yield from (row_of([_words(cell, say) for cell in row]) for row in rows[:_MOST_ROWS])
    yield from ("", say("Everything is in report.html."))


def _words(cell: Cell, say: Say) -> str:
    """A cell of a table, and what stands under a case: its path."""
    return plain(", ".join(filter(None, (cell.text, cell.below)))) if cell.foreign else say(cell.text)


def _cases(name: str, summary: Told) -> Iterator[Xml.Element]:
    """A case for the verdict, and one for each case and path: wrong and lost ones fail, skipped ones are skipped."""
    verdict = junit.case_of(name, "the result is valid")
    if not summary["verdict"]["valid"]:
        junit.fail(verdict, str(summary["answer"]), "invalid")
    yield verdict
    for row in summary["kernels"]["rows"]:
        case = junit.case_of(f"{name}.kernels", row_name(row))
        if row["status"] == SKIPPED:
            Xml.SubElement(case, "skipped", message=junit.clean(str(row["reason"])))
        elif row["status"] != MEASURED:
            junit.fail(case, f"{row['status']}: {row['reason']}", row["status"])
        yield case
