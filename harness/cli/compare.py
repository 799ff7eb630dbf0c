"""What happens when somebody types `harness compare BASE NEW`?"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.warnings import NOTE
from harness.comparison.comparison import Comparison, compare
from harness.comparison.describe import table, told
from harness.comparison.history import earlier_in
from harness.comparison.judging import BETTER, NOT_VALID, WORSE
from harness.comparison.measures import KERNEL_TIME
from harness.comparison.repeats import Side, read_side
from harness.errors import EXIT_INVALID, InputError
from harness.importers import is_foreign, side_of
from harness.results import store
from harness.scenario.gate import DEFAULT_GATE, KERNEL_GATE, Gate, for_kernels
from harness.scenario.loader import load_gate

RESULTS = Path("results")


@dataclass(frozen=True, slots=True)
class Compared:
    """How `harness compare` ended: lines for stdout, lines that say why the gate is broken, and the exit code."""

    lines: tuple[str, ...]
    faults: tuple[str, ...]
    exit_code: int


def compare_command(chosen: argparse.Namespace) -> Compared:
    """`harness compare`: read both sides, compare, write the page and its companions.

    Raises:
        HarnessError: where a side is no result, the two are unlike or one, or the gate is faulty.
    """
    base, new = _side(chosen.base), _side(chosen.new)
    gate = _gate(chosen.gate, is_kernels=base.is_kernels)
    if chosen.base.resolve() == chosen.new.resolve() and not chosen.anyway:  # a gate that could never break
        raise InputError(f"{chosen.base}: is both BASE and NEW; expected two results, or --anyway")
    places = (chosen.base.parent, chosen.new.parent, *(getattr(chosen, "history", None) or ()))
    earlier = [] if base.is_kernels else earlier_in(places, (chosen.base, chosen.new), base)
    found = compare(base, new, gate, anyway=chosen.anyway, earlier=earlier)
    folder = chosen.out or store.new_folder(RESULTS, f"compare-{found.name}")
    return compared(found, folder, chosen.lang)


def _gate(path: Path | None, *, is_kernels: bool) -> Gate:
    """The gate of a file, or what is judged without one."""
    if path is None:
        return KERNEL_GATE if is_kernels else DEFAULT_GATE
    gate = load_gate(path)
    if is_kernels and KERNEL_TIME not in gate.gate:
        raise InputError(f"{path}: gate says nothing of kernels; expected {KERNEL_TIME}, such as {KERNEL_TIME}: 5%")
    if not is_kernels and set(gate.gate) == {KERNEL_TIME}:
        raise InputError(f"{path}: gate says nothing of requests; expected a measure of theirs, such as ttft_p99: 5%")
    return for_kernels(gate) if is_kernels else gate


def compared(found: Comparison, folder: Path, language: str = "en") -> Compared:
    """The files and lines of a comparison, its page in a language.

    Raises:
        InputError: where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"--out {folder}: cannot be made ({fault.strerror}); expected a folder to write to") from None
    import reports  # noqa: PLC0415 - a room of its own: pandas and matplotlib load only where a page is drawn

    page = reports.write_comparison(folder, found, language)
    faults = tuple(f"regression: {told(row)}, beyond the gate" for row in found.broken)
    if found.exit_code == EXIT_INVALID:
        what = f"{len(found.untold)} of {len(found.judged)} measures of the gate" if found.is_valid else NOT_VALID
        faults = (f"not judged: {what}; exit {EXIT_INVALID}",)
    return Compared((*lines_of(found), str(page)), faults, found.exit_code)


def lines_of(found: Comparison) -> list[str]:
    """The answer, the table of what the gate judges (of kernels what changed), and the doubts, for a terminal."""
    rows = [row for row in found.judged if not found.is_kernels or row.broken or row.verdict in (BETTER, WORSE)]
    lines = [*((found.sees,) if found.sees else ()), found.answer, *(table(rows) if rows else ())]
    for doubt in found.doubts:
        step = f" {doubt.next}" if doubt.severity != NOTE else ""
        lines.append(f"{doubt.severity}: {doubt.text}{step}")
    return lines


def _side(path: Path) -> Side:
    return side_of(path) if is_foreign(path) else read_side(path)


__all__ = ["Compared", "Gate", "compare_command", "compared", "lines_of"]
