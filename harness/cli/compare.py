"""`harness compare`: two results against each other, and against a gate."""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.api.comparing import compare, draw_comparison
from harness.api.result import RESULTS
from harness.cli.terminal import CommandOutcome, OutputLine, OutputLog, aligned
from harness.comparison.comparison import Comparison
from harness.comparison.describe import (
    acceptance_lines,
    change,
    describe_row,
    describe_warning,
    detectable_text,
    interval,
    name_of,
    value_text,
    verdict_message,
)
from harness.comparison.engines import UNLIKE_ENGINES, EngineDifference
from harness.comparison.judging import NOT_VALID, ComparisonRow
from harness.errors import EXIT_INVALID
from harness.messages import localized, message
from harness.results import store

_COLUMNS = (
    "comparison.column_base",
    "comparison.column_new",
    "comparison.column_change",
    "comparison.column_interval",
    "comparison.column_detectable",
)


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
        counts = {"unjudged": len(comparison.unjudged), "judged": len(comparison.judged)}
        errors = (message("cli.not_judged", **counts, exit_code=EXIT_INVALID),)
    elif comparison.exit_code == EXIT_INVALID:
        errors = (message("cli.result_not_valid", reason=NOT_VALID, exit_code=EXIT_INVALID),)
    return CommandOutcome((*lines_of(comparison), str(page)), comparison.exit_code, errors)


def lines_of(comparison: Comparison) -> list[OutputLine]:
    """The answer, the table of what the gate judges (of kernels what changed), and the warnings, for a terminal."""
    rows = comparison.kind.listed(comparison.judged)
    sensitivity = [] if comparison.sensitivity is None else [comparison.sensitivity]
    table = _table(rows) if rows else []
    lines = [*sensitivity, comparison.answer, *table, *acceptance_lines(comparison.shown), *_engine_lines(comparison)]
    return [*lines, *map(describe_warning, comparison.warnings)]


def _engine_lines(comparison: Comparison) -> Iterator[OutputLine]:
    """Of several engines the one whose output changed most against the others', a line a stage.

    None where one side has engines that the other has not: each of the others then has another share of the load.
    """
    if any(warning.code == UNLIKE_ENGINES for warning in comparison.warnings):
        return
    titles = {row.stage: row.title for row in (*comparison.judged, *comparison.shown)}
    ratios: dict[int, list[tuple[float, EngineDifference]]] = {}
    for engine in comparison.engines:
        if ratio := engine.ratio("generation_tokens"):
            ratios.setdefault(engine.stage, []).append((ratio, engine))
    for stage, own in ratios.items():
        ratio, engine = max(own, key=lambda pair: abs(math.log(pair[0])))
        rates = {"base": engine.base["generation_tokens"], "new": engine.new["generation_tokens"]}
        words = {"stage": titles.get(stage, str(stage + 1)), "engine": engine.name, "engines": len(own)}
        yield message("cli.engine_changed", **words, **rates, change=100 * (ratio - 1))


def _table(rows: Sequence[ComparisonRow]) -> list[str]:
    """Rows in columns below a heading a stage."""
    heads = ("", *map(localized, _COLUMNS), "")
    lines = aligned([(f"  {cells[0]}", *cells[1:]) for cells in (heads, *map(_cells, rows))], right=range(1, 6))
    headings = [None, *(row.title for row in rows)]
    for place in range(len(rows), 0, -1):
        if headings[place] != headings[place - 1]:
            lines.insert(place, localized(rows[place - 1].title))
    return lines


def _cells(row: ComparisonRow) -> tuple[str, ...]:
    return (
        row.part or localized(name_of(row.measure)), value_text(row.measure, row.base),
        value_text(row.measure, row.new), localized(change(row)), localized(interval(row)),
        detectable_text(row.detectable), localized(verdict_message(row)),
    )  # fmt: skip
