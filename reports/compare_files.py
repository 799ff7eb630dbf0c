"""compare.md, compare.xml and compare.json: a comparison for a CI job page, a CI test view and programs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.comparison.comparison import Comparison
from harness.comparison.describe import describe_row, verdict_text
from harness.comparison.judging import UNDETERMINED, ComparisonRow
from harness.messages import localized
from reports import junit
from reports.compare_page import badges, cells, groups_of_warnings, heads
from reports.markdown import MARKS, plain, row_of, simulated_lines, warning_line
from reports.texts import elsewhere
from reports.writing import write_text

MARKDOWN, JUNIT, JSON = "compare.md", "compare.xml", "compare.json"
FORMAT = 1


def write(folder: Path, found: Comparison) -> None:
    """Write compare.md, compare.xml and compare.json into a folder."""
    write_text(folder / MARKDOWN, "\n".join(_lines(found)) + "\n")
    suite = localized("page_compare.suite", name=found.name) + (" (SIMULATED)" if found.simulated else "")
    write_text(folder / JUNIT, junit.document(suite, _cases(found)))
    write_text(folder / JSON, json.dumps(as_dict(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _lines(found: Comparison) -> Iterator[str]:
    if found.simulated:
        yield from simulated_lines()
    yield from (f"## {plain(found.question)}", "", f"**{plain(elsewhere(found.answer))}**", "")
    yield from (plain(elsewhere(found.sees)), "") if found.sees else ()
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}".strip() for badge in badges(found))
    yield ""
    for warning in groups_of_warnings(found):
        yield warning_line(warning)
    yield from ("", *_table(found.judged), "")
    sides = localized("page_compare.sides", base=found.base.name, new=found.new.name)
    yield f"{plain(sides)} · {plain(localized('page.everything_in', file='compare.html'))}"


def _table(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    columns = heads(localized("page_compare.measure"))
    # Of kernels the first column is what they have in common.
    yield row_of([plain(head) for head in (localized("page.stages.stage"), *columns)])
    yield row_of([":--", ":--", *["--:"] * (len(columns) - 2), ":--"])
    for row in rows:
        yield row_of([plain(elsewhere(row.heading)), *(plain(cell.text) for cell in cells(row))])


def _cases(found: Comparison) -> Iterator[Xml.Element]:
    """A case a measure of the gate: it fails where the gate is broken, and is skipped where it cannot be judged."""
    for row in found.judged:
        case = junit.case_of(
            f"{found.name}.compare",
            localized("page_compare.measure_at", measure=row.measure.key, stage=elsewhere(row.place)),
        )
        if row.broken:
            junit.fail(
                case,
                localized("page.warnings.at", place=elsewhere(describe_row(row)), text=elsewhere(verdict_text(row))),
                "regression",
            )
        elif row.verdict == UNDETERMINED:
            Xml.SubElement(case, "skipped", message=elsewhere(row.reason))
        yield case


def as_dict(found: Comparison) -> dict[str, Any]:
    """The content of compare.json: seconds, rates per second, ratios; null where there is no number."""
    return {
        "format": FORMAT,
        "name": found.name,
        "simulated": found.simulated,
        "base": [run.name for run in found.base.runs],
        "new": [run.name for run in found.new.runs],
        "repeats": [len(found.base.repeats), len(found.new.repeats)],
        "answer": found.answer,
        "sees": found.sees,
        "exit_code": found.exit_code,
        "verdict": found.verdict,
        "gate_held": None if len(found.untold) == len(found.judged) else not found.broken,
        "warnings": [warning.as_dict() for warning in found.warnings],
        "measures": [_row(row) for row in (*found.judged, *found.shown)],
        "changes": [{"name": one.name, "base": one.base, "new": one.new} for one in found.changes],
    }


def _row(row: ComparisonRow) -> dict[str, Any]:
    kind = "ratio" if row.measure.ratio else "difference"
    return {
        "stage": row.stage,
        "label": row.place if row.part else row.label,
        "measure": row.measure.key,
        "metric": row.measure.metric,
        "base": row.base,
        "new": row.new,
        "n": list(row.counts),
        kind: row.ratio,
        "interval": None if row.low is None or row.high is None else [row.low, row.high],
        "sees": row.sees,
        "adjusted": row.adjusted,
        "verdict": row.verdict,
        "allowed": row.allowed,
        "gate_broken": row.broken,
        "reason": row.reason,
    }
