"""`harness report`: the page of each result folder, and the index of several."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.cli.terminal import CommandOutcome, Log
from harness.errors import HarnessError
from harness.execution.reconcile import draw, finish, trace
from harness.importers import import_file, is_foreign, name_of
from harness.results import store

RESULTS = Path("results")
_DRAWN = (".html", ".md", ".xml")  # beside results, where `results/*` is asked for
COMPARISON = "compare.json"
STUDY = "study.json"


def report_command(arguments: argparse.Namespace, _log: Log) -> CommandOutcome:
    """`harness report`: the page of each result, as it is drawn; the index of several.

    Raises:
        HarnessError: where one of them is no result, as its turn comes.
    """
    return CommandOutcome(_pages(arguments))


def _pages(arguments: argparse.Namespace) -> Iterator[str]:
    paths = (
        arguments.folders if len(arguments.folders) == 1 else [path for path in arguments.folders if not _beside(path)]
    )
    folders = []
    for path in paths:
        folder = _imported(path) if is_foreign(path) else path
        if _is_study(folder):
            yield str(_study_page(folder, arguments.lang))
            continue
        finish(folder)
        yield str(draw(folder, arguments.lang))
        if arguments.trace:
            yield str(trace(folder))
        folders.append(folder)
    if len(folders) > 1:
        yield str(_index(folders, arguments.lang))


def _beside(path: Path) -> bool:
    """Whether a path is drawn from results, and none itself."""
    if path.is_dir():
        return (path / COMPARISON).exists() and not (path / store.RUN).exists()
    return path.suffix in _DRAWN


def _is_study(path: Path) -> bool:
    """Whether a folder holds what `harness tune` found, and no run."""
    return (path / STUDY).exists() and not (path / store.RUN).exists()


def _study_page(folder: Path, language: str) -> Path:
    import reports  # noqa: PLC0415 - a room of its own

    return reports.write_study(folder, language)


def _imported(path: Path) -> Path:
    folder = store.new_folder(RESULTS, name_of(path))
    try:
        return import_file(path, folder)
    except HarnessError:
        folder.rmdir()
        raise


def _index(folders: Sequence[Path], language: str) -> Path:
    import reports  # noqa: PLC0415 - a room of its own

    return reports.write_index(folders, language)
