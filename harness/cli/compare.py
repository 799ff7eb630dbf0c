"""`harness compare`: two results against each other, and against a gate."""

import argparse
from pathlib import Path

from harness.analysis.warnings import NOTE
from harness.cli.terminal import CommandOutcome, Line, Log
from harness.comparison.comparison import Comparison, compare
from harness.comparison.describe import table, told
from harness.comparison.history import earlier_in
from harness.comparison.judging import BETTER, NOT_VALID, WORSE
from harness.comparison.measures import KERNEL_TIME
from harness.comparison.repeats import Side, read_side
from harness.errors import EXIT_INVALID, InputError
from harness.importers import is_foreign, side_of
from harness.messages import message
from harness.results import store
from harness.scenario.gate import DEFAULT_GATE, KERNEL_GATE, Gate, for_kernels
from harness.scenario.loader import load_gate

RESULTS = Path("results")


def compare_command(arguments: argparse.Namespace, _log: Log) -> CommandOutcome:
    """`harness compare`: read both sides, compare, write the page and its companions.

    Raises:
        HarnessError: where a side is no result, the two are unlike or one, or the gate is faulty.
    """
    base, new = _side(arguments.base), _side(arguments.new)
    gate = _gate(arguments.gate, is_kernels=base.is_kernels)
    if arguments.base.resolve() == arguments.new.resolve() and not arguments.anyway:  # a gate that could never break
        raise InputError(message("cli.same_result", path=str(arguments.base)))
    places = (arguments.base.parent, arguments.new.parent, *arguments.history)
    earlier = [] if base.is_kernels else earlier_in(places, (arguments.base, arguments.new), base)
    found = compare(base, new, gate, anyway=arguments.anyway, earlier=earlier)
    folder = arguments.out or store.new_folder(RESULTS, f"compare-{found.name}")
    return compared(found, folder, arguments.lang)


def _gate(path: Path | None, *, is_kernels: bool) -> Gate:
    """The gate of a file, or what is judged without one."""
    if path is None:
        return KERNEL_GATE if is_kernels else DEFAULT_GATE
    gate = load_gate(path)
    if is_kernels and KERNEL_TIME not in gate.gate:
        raise InputError(message("cli.gate_without_kernels", path=str(path), measure=KERNEL_TIME))
    if not is_kernels and set(gate.gate) == {KERNEL_TIME}:
        raise InputError(message("cli.gate_without_requests", path=str(path)))
    return for_kernels(gate) if is_kernels else gate


def compared(found: Comparison, folder: Path, language: str = "en") -> CommandOutcome:
    """The files and lines of a comparison, its page in a language.

    Raises:
        InputError: where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(message("cli.out_not_made", folder=str(folder), reason=error.strerror or str(error))) from None
    import reports  # noqa: PLC0415 - a room of its own: pandas and matplotlib load only where a page is drawn

    page = reports.write_comparison(folder, found, language)
    errors: tuple[Line, ...] = tuple(message("cli.regression", row=told(row)) for row in found.broken)
    if found.exit_code == EXIT_INVALID and found.is_valid:
        counts = {"unjudged": len(found.untold), "judged": len(found.judged)}
        errors = (message("cli.not_judged", **counts, exit_code=EXIT_INVALID),)
    elif found.exit_code == EXIT_INVALID:
        errors = (message("cli.result_not_valid", reason=NOT_VALID, exit_code=EXIT_INVALID),)
    return CommandOutcome((*lines_of(found), str(page)), found.exit_code, errors)


def lines_of(found: Comparison) -> list[str]:
    """The answer, the table of what the gate judges (of kernels what changed), and the warnings, for a terminal."""
    rows = [row for row in found.judged if not found.is_kernels or row.broken or row.verdict in (BETTER, WORSE)]
    lines = [*((found.sees,) if found.sees else ()), found.answer, *(table(rows) if rows else ())]
    for warning in found.warnings:
        step = f" {warning.next}" if warning.severity != NOTE else ""
        lines.append(f"{warning.severity}: {warning.text}{step}")
    return lines


def _side(path: Path) -> Side:
    return side_of(path) if is_foreign(path) else read_side(path)
