"""summary.md, which a CI job page shows, and junit.xml, which a CI test view shows, of a run."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.analysis.slo import VERDICTS, unproven_limits
from harness.messages import localized, message
from harness.results.folder import ResultFiles, number
from harness.units import format_count, format_duration
from reports import headline, speculation, tables
from reports.decision import choice_of
from reports.loads import title_of
from reports.tables import Cell, Column, count_name
from reports.texts import paragraph, severity_name, write_text

SUMMARY = "summary.md"
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|~#!@]|:(?=//)|(?<=www)\.)")
MARKS = {"good": "✅", "warn": "⚠️", "bad": "❌", "plain": ""}


def markdown_text(result: ResultFiles) -> str:
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
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}" for badge in headline.badges(result))
    yield ""
    yield from _warning_lines(result)
    if result.stages:
        yield from _table_lines(result)
        yield from _decision_lines(result)
        yield from _speculation_lines(result)
    name, folder = _code(str(run.get("name", ""))), _code(result.folder.name)
    whole = plain(localized("page.everything_in", file="report.html"))
    yield f"{localized('page.run')} `{name}` · {localized('page.folder')} `{folder}` · {whole}"


def _code(words: str) -> str:
    """Words within backticks, which cannot be escaped there."""
    return " ".join(words.replace("`", "'").split())


def _warning_lines(result: ResultFiles) -> Iterator[str]:
    groups = headline.warnings(result)
    for group in groups:
        yield warning_line(group)
    if groups:
        yield ""


def warning_line(group: headline.WarningGroup) -> str:
    """An item of a list: how grave, what, and the next step where there is one."""
    next_step = plain(localized(group.next))
    step = f" _{localized('page.warnings.next')}_ {next_step}" if next_step else ""
    return f"- **{severity_name(group.severity)}** {plain(paragraph(warning_texts(group)))}{step}"


def warning_texts(group: headline.WarningGroup) -> list[str]:
    """The texts of a group of warnings, each behind the stage it is about."""
    rows = [(place, localized(markdown_text)) for place, markdown_text in group.texts]
    return [
        localized("page.warnings.at", place=place, text=markdown_text) if place else markdown_text
        for place, markdown_text in rows
    ]


def _table_lines(result: ResultFiles) -> Iterator[str]:
    table = tables.overview(result)
    heads = [head for column in table.columns for head in _heads(column)]
    yield row_of(heads)
    yield row_of([":--", *["--:"] * (len(heads) - 1)])
    for row in table.rows:
        yield row_of([plain(cell.text) for cell in row])
    yield ""
    for stage in result.stages:
        if words := headline.left_out(stage):
            yield plain(localized("page.warnings.at", place=title_of(stage), text=words))
            yield ""


def _decision_lines(result: ResultFiles) -> Iterator[str]:
    """Which load to run, where there are several."""
    choice = choice_of(result.run, result.summary)
    if sum(math.isfinite(option.user_rate) for option in choice.options) > 1:
        title, reason = (plain(localized(words)) for words in (message("page_decision.title"), choice.decision.reason))
        yield from (f"**{title}** · {reason}", "")


def _speculation_lines(result: ResultFiles) -> Iterator[str]:
    """What was accepted of drafts, where the engine speculated."""
    rows = speculation.rows(result.stages)
    if rows:
        yield from (f"**{plain(localized('page.speculation.title'))}**", "")
        yield row_of([plain(head) for head in speculation.heads()])
        yield row_of([":--", *["--:"] * (len(rows[0]) - 1)])
        yield from (row_of([plain(f"{cell.text} {_beside(cell)}".strip()) for cell in row]) for row in rows)
        yield ""


def _beside(cell: Cell) -> str:
    """The quieter line of a cell, behind its text."""
    return f"({cell.below})" if cell.below else ""


def _heads(column: Column) -> list[str]:
    unit = f", {plain(column.unit)}" if column.unit else ""
    return [f"{plain(column.label)} {plain(part)}".strip() + unit for part in column.parts or ("",)]


def row_of(cells: Sequence[str]) -> str:
    """A row of a table in Markdown; cells are escaped already."""
    return f"| {' | '.join(cells)} |"


def write_markdown(result: ResultFiles) -> Path:
    """Write summary.md beside the page; its path."""
    return write_text(result.folder / SUMMARY, markdown_text(result))


JUNIT = "junit.xml"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0


def junit_text(result: ResultFiles) -> str:
    """junit.xml of a result."""
    name = str(result.run.get("name", ""))
    return document(name + (" (SIMULATED)" if result.simulated else ""), _cases(result, name))


def document(name: str, cases: Iterable[Xml.Element]) -> str:
    """An XML document of one suite of test cases, counted."""
    suite = Xml.Element("testsuite", name=clean(name))
    suite.extend(cases)
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    for attribute, path in counts.items():
        suite.set(attribute, str(len(suite.findall(path))))
    suite.set("errors", "0")
    root = Xml.Element("testsuites")
    root.append(suite)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def write_junit(result: ResultFiles) -> Path:
    """Write junit.xml into the result folder; its path."""
    return write_text(result.folder / JUNIT, junit_text(result))


def clean(words: str) -> str:
    """Words without the signs that XML has no place for."""
    return _FORBIDDEN.sub("?", words)


def _cases(result: ResultFiles, name: str) -> Iterator[Xml.Element]:
    yield _verdict_case(result, name)
    for stage in result.stages:
        label = title_of(stage)
        yield _stage_case(stage, f"{name}.stages", label)
        unproven = unproven_limits(stage)
        for key, held in (stage.get("slo") or {}).items():
            yield _limit_case(key, held, f"{name}.limits", label, unproven.get(key, ""))


def case_of(group: str, name: str, seconds: float = 0.0) -> Xml.Element:
    """A test case that passes, by its group and name."""
    took = seconds if seconds == seconds else 0.0  # noqa: PLR0124 - nan is unequal to itself
    return Xml.Element("testcase", classname=clean(group), name=clean(name), time=f"{took:.3f}")


def fail(case: Xml.Element, message: str, kind: str) -> None:
    """Make a case fail."""
    failure = Xml.SubElement(case, "failure", message=clean(message), type=kind)
    failure.text = clean(message)


def _verdict_case(result: ResultFiles, name: str) -> Xml.Element:
    case = case_of(name, localized("page.junit.valid"))
    judged = result.summary.get("verdict") or {}
    if not judged.get("valid", False):
        fail(case, headline.answer(result), "invalid" if result.summary else "unfinished")
    lines = [localized("page.simulated.junit")] if result.simulated else []
    for group in headline.warnings(result):
        first, *others = warning_texts(group)
        lines.append(localized("page.warnings.at", place=severity_name(group.severity), text=first))
        lines += [f"  {junit_text}" for junit_text in others]
        step = localized(group.next)
        lines += [f"  {localized('page.junit.next', step=step)}"] if step else []
    if lines:
        Xml.SubElement(case, "system-out").text = clean("\n".join(lines))
    return case


def _stage_case(stage: Mapping[str, Any], group: str, label: str) -> Xml.Element:
    case = case_of(group, label, number(stage.get("window_s")))
    requests = stage.get("requests") or {}
    if not requests.get("sent"):
        Xml.SubElement(case, "skipped", message=localized("page.junit.nothing_sent"))
    elif not requests.get("completed"):
        fail(case, localized("page.junit.none_completed", sent=requests["sent"]), "unanswered")
    counts = ", ".join(f"{count_name(key)} {format_count(value)}" for key, value in requests.items())
    Xml.SubElement(case, "system-out").text = counts
    return case


def _limit_case(key: str, held: Mapping[str, Any], group: str, label: str, unproven: str) -> Xml.Element:
    limit = format_duration(held.get("limit"))
    case = case_of(group, localized("page.junit.limit_case", limit=key, allowed=limit, stage=label))
    met = held.get("met")
    if met is None:
        code = tables.UNSURE.get(held.get("unsure") or "", "page.junit.not_measured")
        Xml.SubElement(case, "skipped", message=localized(code))
    elif not met:
        fail(
            case,
            localized("page.junit.limit_missed", limit=key, value=headline.held_value(held), allowed=limit),
            "limit",
        )
    if met is not None and unproven:
        Xml.SubElement(case, "system-out").text = localized(VERDICTS[met, unproven])
    return case
