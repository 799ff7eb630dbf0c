"""How does the result of a kernel bench become one HTML file?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.analysis.warnings import warnings_of
from harness.kernels.repeats import FAILED, MEASURED, SKIPPED, WRONG
from harness.messages import localized
from harness.results import store
from harness.units import format_bytes, format_rate, format_share
from reports import kernels
from reports.page import PAGE, environment, moment, policy, script
from reports.palette import stage_variables
from reports.verdict import Badge, WarningGroup
from reports.writing import write_text


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
        "simulated": summary["simulated"],
        "started": moment(str(run.get("started_utc") or "")),
        "policy": policy(),
        "script": Markup(script()),  # noqa: S704 - a file of ours
        "colours": {
            "light": stage_variables(kernels.COLOURS, dark=False),
            "dark": stage_variables(kernels.COLOURS, dark=True),
        },
        "badges": list(badges(summary)),
        "warnings": [
            WarningGroup(one.severity, localized(one.next), (("", localized(one.text)),))
            for one in warnings_of(summary)
        ],
        "figures": kernels.draw_all(summary, run),
        "heads": kernels.HEADS,
        "measured": kernels.measured_rows(rows),
        "lost_heads": kernels.LOST_HEADS,
        "lost": kernels.lost_rows(rows),
        "device": list(_device_rows(summary["kernels"])),
        "machine": list(_machine_rows(run)),
    }


def badges(summary: Mapping[str, Any]) -> Iterator[Badge]:
    """The verdict, and how many cases ended how."""
    valid = summary["verdict"]["valid"]
    yield Badge("Valid" if valid else "Not valid", "good" if valid else "bad", "#measured" if valid else "#warnings")
    counts = summary["kernels"]["counts"]
    tones = {MEASURED: "plain", SKIPPED: "plain", WRONG: "bad", FAILED: "warn"}
    for status, tone in tones.items():
        if counts[status]:
            yield Badge(f"{counts[status]} {status}", tone, "#measured" if status == MEASURED else "#lost")


def _device_rows(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    device = told["device"]
    yield "Provider", told["provider"]
    yield "Device", device["name"]
    yield "Last-level cache", format_bytes(device["cache_bytes"])
    if told.get("between_runs") is not None:
        yield "Fresh processes", str(told.get("repeats", 1))
        yield "They differ by", format_share(told["between_runs"])
    for limits in told["limits"]:
        source = "Measured" if limits["source"] == "measured" else "Data sheet"
        yield f"{source}: bandwidth", format_rate(limits["bytes_per_s"] / 1e9, "GB/s")
        for dtype, rate in limits["flops_per_s"].items():
            yield f"{source}: {dtype} product", format_rate(rate / 1e12, "TFLOP/s")
    yield from ((str(name), str(value)) for name, value in device["facts"].items())
    yield from ((f"Missing: {name}", reason) for name, reason in told["missing"].items())


def _machine_rows(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine = run.get("environment") or {}
    for name in ("host", "cpu", "cores", "os", "cann"):
        if machine.get(name):
            yield name, str(machine[name])
    yield "Run again", str(run.get("rerun") or "")
