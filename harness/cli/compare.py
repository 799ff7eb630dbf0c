"""`harness compare`: two results against each other, and against a gate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.analysis.warnings import NOTE
from harness.api.comparing import compare, draw_comparison
from harness.api.result import RESULTS
from harness.cli.terminal import CommandOutcome, OutputLine, OutputLog, aligned
from harness.comparison.comparison import Comparison
from harness.comparison.describe import COLUMNS, cells_of, describe_row
from harness.comparison.judging import BETTER, NOT_VALID, WORSE, ComparisonRow
from harness.errors import EXIT_INVALID
from harness.messages import message
from harness.results import store


def compare_command(arguments: argparse.Namespace, _log: OutputLog) -> CommandOutcome:
    """`harness compare`: read both sides, compare, write the page and its companions.

    Raises:
        HarnessError: where a side is no result, the two are unlike or one, or the gate is faulty.
    """
    comparison = compare(
        arguments.base, arguments.new, gate=arguments.gate, history=arguments.history, anyway=arguments.anyway
    )
    return compared(comparison, arguments.out or store.new_folder(RESULTS, f"compare-{comparison.name}"))


def compared(comparison: Comparison, folder: Path) -> CommandOutcome:
    """The page and the lines of a comparison.

    Raises:
        InputError: where the folder cannot be made.
    """
    page = draw_comparison(comparison, folder)
    errors: tuple[OutputLine, ...] = tuple(
        message("cli.regression", row=describe_row(row)) for row in comparison.broken
    )
    if comparison.exit_code == EXIT_INVALID and comparison.is_valid:
        counts = {"unjudged": len(comparison.untold), "judged": len(comparison.judged)}
        errors = (message("cli.not_judged", **counts, exit_code=EXIT_INVALID),)
    elif comparison.exit_code == EXIT_INVALID:
        errors = (message("cli.result_not_valid", reason=NOT_VALID, exit_code=EXIT_INVALID),)
    return CommandOutcome((*lines_of(comparison), str(page)), comparison.exit_code, errors)


def lines_of(comparison: Comparison) -> list[str]:
    """The answer, the table of what the gate judges (of kernels what changed), and the warnings, for a terminal."""
    changed = (BETTER, WORSE)
    rows = [row for row in comparison.judged if not comparison.is_kernels or row.broken or row.verdict in changed]
    lines = [*((comparison.sees,) if comparison.sees else ()), comparison.answer, *(_table(rows) if rows else ())]
    for warning in comparison.warnings:
        step = f" {warning.next}" if warning.severity != NOTE else ""
        lines.append(f"{warning.severity}: {warning.text}{step}")
    return lines


def _table(rows: Sequence[ComparisonRow]) -> list[str]:
    """Rows in columns below a heading a stage."""
    lines = aligned([(f"  {cells[0]}", *cells[1:]) for cells in (COLUMNS, *map(cells_of, rows))], right=range(1, 6))
    headings = [None, *(row.heading for row in rows)]
    for place in range(len(rows), 0, -1):
        if headings[place] != headings[place - 1]:
            lines.insert(place, str(headings[place]))
    return lines
