"""`harness report`: the page of each result folder, and the index of several."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from harness.api.result import TRACE, is_study, report, report_index
from harness.cli.terminal import CommandOutcome, OutputLog
from harness.export.delivery import Exports, exporting
from harness.messages import Message
from harness.results import store

_DRAWN = (".html", ".md", ".xml")  # beside results, where `results/*` is asked for
COMPARISON = "compare.json"


def report_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness report`: the page of each result, as it is drawn; the index of several.

    Raises:
        HarnessError: where one of them is no result, as its turn comes.
    """
    return CommandOutcome(_exported_pages(arguments, log))


def _exported_pages(arguments: argparse.Namespace, log: OutputLog) -> Iterator[str]:
    with exporting(arguments.export, log) as exports:
        yield from _pages(arguments, log, exports)


def _pages(arguments: argparse.Namespace, log: OutputLog, exports: Exports) -> Iterator[str]:
    several = len(arguments.folders) > 1
    folders = []
    for path in arguments.folders:
        if several and _beside(path):
            continue
        page = report(path, trace=arguments.trace)
        yield str(page)
        if not is_study(path) and (without := _left_out(page.parent)) is not None:
            log(without)
        if arguments.trace and not is_study(path):
            yield str(page.parent / TRACE)
        folders.append(page.parent)
        exports.result(page.parent)
    if len(folders) > 1:
        yield str(report_index(folders))


def _left_out(folder: Path) -> Message | None:
    from harness.results.folder import left_out  # noqa: PLC0415 - pandas, which a page has loaded by now

    return left_out(folder)


def _beside(path: Path) -> bool:
    """Whether a path is drawn from results, and none itself."""
    if path.is_dir():
        return (path / COMPARISON).exists() and not (path / store.RUN).exists()
    return path.suffix in _DRAWN
