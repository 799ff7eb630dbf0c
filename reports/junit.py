"""junit.xml, which a CI test view shows: a test case for the verdict, every stage and every limit."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.messages import localized
from harness.results.folder import ResultFiles, number
from harness.results.stage_names import name_of
from harness.units import format_count, format_duration
from reports import headline, verdict
from reports.markdown import warning_texts
from reports.tables import count_name
from reports.texts import elsewhere, sentence_text, severity_name
from reports.writing import write_text

JUNIT = "junit.xml"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0


def text(result: ResultFiles) -> str:
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


def write(result: ResultFiles) -> Path:
    """Write junit.xml into the result folder; its path."""
    return write_text(result.folder / JUNIT, text(result))


def clean(words: str) -> str:
    """Words without the signs that XML has no place for."""
    return _FORBIDDEN.sub("?", words)


def _cases(result: ResultFiles, name: str) -> Iterator[Xml.Element]:
    yield _verdict_case(result, name)
    for stage in result.stages:
        label = elsewhere(name_of(stage))
        yield _stage_case(stage, f"{name}.stages", label)
        for key, held in (stage.get("slo") or {}).items():
            yield _limit_case(key, held, f"{name}.limits", label)


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
    for group in verdict.warnings(result):
        first, *others = warning_texts(group)
        lines.append(localized("page.warnings.at", place=severity_name(group.severity), text=first))
        lines += [f"  {text}" for text in others]
        step = sentence_text(group.next)
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


def _limit_case(key: str, held: Mapping[str, Any], group: str, label: str) -> Xml.Element:
    limit = format_duration(held.get("limit"))
    case = case_of(group, localized("page.junit.limit_case", limit=key, allowed=limit, stage=label))
    met = held.get("met")
    if met is None:
        Xml.SubElement(case, "skipped", message=localized("page.junit.not_measured"))
    elif not met:
        fail(
            case,
            localized("page.junit.limit_missed", limit=key, value=verdict.held_value(held), allowed=limit),
            "limit",
        )
    return case
