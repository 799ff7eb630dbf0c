"""A measured number beside its target, as a row of the table."""

from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from harness.telemetry.environment import environment
from harness.units import format_bytes, format_share


@dataclass(frozen=True, slots=True)
class Number:
    """One line of the table: what was measured where, what was wanted, what was found."""

    benchmark: str
    what: str
    target: str
    measured: str
    met: bool


def table(numbers: Iterable[Number]) -> list[str]:
    """Lines of a Markdown table."""
    rows = [(n.benchmark, n.what, n.target, n.measured, "yes" if n.met else "**no**") for n in numbers]
    head = ("benchmark", "number", "target", "measured", "met")
    return [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """The machine these numbers came from, in a line."""
    found = environment()
    memory = format_bytes(found["memory_bytes"])
    return f"{found['cpu']}, {found['cores']} cores, {memory} of memory, {found['os']}, Python {found['python']}"


def wait_for_quiet(limit_s: int = 30, busy_share: float = 0.1) -> str:
    """Wait until nothing else works on this machine; a remark where something still does after `limit_s`."""
    share = 1.0
    for _ in range(limit_s):
        share = psutil.cpu_percent(interval=1) / 100
        if share <= busy_share:
            return ""
    return f"other work kept {format_share(share)} of this machine busy"
