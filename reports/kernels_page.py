"""The page of a kernel bench, and its summary.md and junit.xml."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.analysis.warnings import warnings_of
from harness.kernels.repeats import FAILED, MEASURED, SKIPPED, WRONG, row_reason
from harness.kernels.result import row_name
from harness.messages import localized, stored
from harness.results import store
from harness.units import format_bytes, format_rate, format_share
from reports import ci_files, kernels
from reports.assets import page_script
from reports.ci_files import MARKS, SUMMARY, plain, row_of, simulated_lines, warning_line
from reports.facts import environment_name
from reports.headline import Badge, WarningGroup
from reports.page import PAGE, environment, moment
from reports.palette import stage_variables
from reports.tables import Cell
from reports.texts import write_text


def write(folder: Path) -> Path:
    """Draw report.html from run.json and summary.json of a kernel bench; its path.

    Raises:
        ResultError: where one of them is missing or broken.
    """
    return write_text(folder / PAGE, render(store.read_run(folder), store.read_json(folder, store.SUMMARY)))


def render(run: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The page as HTML."""
    return environment().get_template("kernels.html").render(_context(run, summary))


def _context(run: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    rows = summary["kernels"]["rows"]
    return {
        "run": run,
        "summary": summary,
        "answer": answer(summary),
        "simulated": summary["simulated"],
        "started": moment(str(run.get("started_utc") or "")),
        **page_script(),
        "colours": {
            "light": stage_variables(kernels.COLOURS, dark=False),
            "dark": stage_variables(kernels.COLOURS, dark=True),
        },
        "badges": list(badges(summary)),
        "warnings": groups_of_warnings(summary),
        "figures": kernels.draw_all(summary, run),
        "heads": kernels.heads(),
        "measured": kernels.measured_rows(rows),
        "lost_heads": kernels.lost_heads(),
        "lost": kernels.lost_rows(rows),
        "device": list(_device_rows(summary["kernels"])),
        "machine": list(_machine_rows(run)),
    }


def answer(summary: Mapping[str, Any]) -> str:
    """The answer of a kernel bench in a sentence or two."""
    return localized(stored(summary.get("answer_message"), str(summary["answer"])))


def groups_of_warnings(summary: Mapping[str, Any]) -> list[WarningGroup]:
    """The warnings of a kernel bench."""
    return [WarningGroup(row.severity, row.next, [("", row.text)]) for row in warnings_of(summary)]


_COUNTS = {
    MEASURED: ("plain", "page_kernels.badge_measured"),
    SKIPPED: ("plain", "page_kernels.badge_skipped"),
    WRONG: ("bad", "page_kernels.badge_wrong"),
    FAILED: ("warn", "page_kernels.badge_failed"),
}


def badges(summary: Mapping[str, Any]) -> Iterator[Badge]:
    """The verdict, and how many cases ended how."""
    valid = summary["verdict"]["valid"]
    if valid:
        yield Badge(localized("page.valid"), "good", "#measured")
    else:
        yield Badge(localized("page.not_valid"), "bad", "#warnings")
    counts = summary["kernels"]["counts"]
    for status, (tone, code) in _COUNTS.items():
        if counts[status]:
            yield Badge(localized(code, cases=counts[status]), tone, "#measured" if status == MEASURED else "#lost")


def _device_rows(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    device = environment["device"]
    yield localized("page_compare.provider"), environment["provider"]
    yield localized("page_kernels.device"), device["name"]
    yield localized("page_kernels.cache"), format_bytes(device["cache_bytes"])
    if environment.get("between_runs") is not None:
        yield localized("page_kernels.processes"), str(environment.get("repeats", 1))
        yield localized("page_kernels.between_runs"), format_share(environment["between_runs"])
    for limits in environment["limits"]:
        measured = limits["source"] == "measured"
        bandwidth = "page_kernels.measured_bandwidth" if measured else "page_kernels.sheet_bandwidth"
        product = "page_kernels.measured_product" if measured else "page_kernels.sheet_product"
        yield localized(bandwidth), format_rate(limits["bytes_per_s"] / 1e9, "GB/s")
        for dtype, rate in limits["flops_per_s"].items():
            yield localized(product, dtype=dtype), format_rate(rate / 1e12, "TFLOP/s")
    yield from ((str(name), str(value)) for name, value in device["facts"].items())
    messages = environment.get("missing_messages") or {}
    yield from (
        (localized("page_kernels.missing", name=name), localized(stored(messages.get(name), reason)))
        for name, reason in environment["missing"].items()
    )


def _machine_rows(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine = run.get("environment") or {}
    for name in ("host", "cpu", "cores", "os", "cann"):
        if machine.get(name):
            yield environment_name(name), str(machine[name])
    yield localized("page_kernels.run_again"), str(run.get("rerun") or "")


_MOST_ROWS = 60  # of a job page; the page itself has them all
Content = Mapping[str, Any]


def write_companions(folder: Path, run: Content, summary: Content) -> None:
    """Write summary.md and junit.xml of a kernel bench into its folder."""
    write_text(folder / SUMMARY, "\n".join(_lines(run, summary)) + "\n")
    suite = str(run.get("name", "")) + (" (SIMULATED)" if summary["simulated"] else "")
    write_text(folder / ci_files.JUNIT, ci_files.document(suite, _cases(str(run.get("name", "")), summary)))


def _lines(run: Content, summary: Content) -> Iterator[str]:
    if summary["simulated"]:
        yield from simulated_lines()
    yield from (f"## {plain(str(run.get('question', '')))}", "", f"**{plain(answer(summary))}**", "")
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
    """A cell of a table, and what stands under a case, its path."""
    return plain(", ".join(filter(None, (cell.text, cell.below))) if cell.quoted else cell.text)


def _cases(name: str, summary: Content) -> Iterator[Xml.Element]:
    """A case for the verdict, and one for each case and path: wrong and lost ones fail, skipped ones are skipped."""
    verdict = ci_files.case_of(name, localized("page.junit.valid"))
    if not summary["verdict"]["valid"]:
        ci_files.fail(verdict, answer(summary), "invalid")
    yield verdict
    for row in summary["kernels"]["rows"]:
        case = ci_files.case_of(f"{name}.kernels", str(row_name(row)))
        if row["status"] == SKIPPED:
            Xml.SubElement(case, "skipped", message=ci_files.clean(localized(row_reason(row))))
        elif row["status"] != MEASURED:
            text = localized("page_kernels.junit_lost", status=row["status"], reason=row_reason(row))
            ci_files.fail(case, text, row["status"])
        yield case
