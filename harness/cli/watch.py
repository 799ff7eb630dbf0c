"""`harness watch`: a run that another process carries out, as its own terminal shows it, or a finished result again.

Everything comes from the folder's files: raw/progress.json while it runs, summary.json when it has ended.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.api.result import RESULTS, is_study
from harness.cli.plain_progress import stage_ends, stage_so_far
from harness.cli.result_lines import output_of
from harness.cli.run import shown_result
from harness.cli.terminal import CommandOutcome, OutputLine, OutputLog, ProgressDisplay
from harness.errors import EXIT_INTERRUPTED, ResultError
from harness.messages import message
from harness.results import store
from harness.results.progress import PROGRESS, Progress, ProgressFile, StudyProgress, read_progress
from harness.results.study import STUDY, read_study

_POLL_S = 0.5
_FIRST_POLLS = 6  # until the first progress of a run that has just made its folder
_PAGE_POLLS = 120  # from its summary to its page
PAGE = "report.html"
_KNOWN = (store.RUN, store.SUMMARY, store.RAW, STUDY, PROGRESS)


def watch_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness watch`: show what goes on in a folder until it ends, and then its result.

    Raises:
        ResultError: where the folder holds neither.
    """
    folder = _newest() if arguments.folder is None else arguments.folder
    if not folder.is_dir():
        raise ResultError(message("cli.watch_no_folder", folder=str(folder)))
    if not any((folder / name).exists() for name in _KNOWN):
        raise ResultError(message("cli.watch_no_result", folder=str(folder)))
    last = _followed(folder, log)
    if _is_finished(folder):
        return CommandOutcome(_result(folder, all_warnings=arguments.warnings))
    return CommandOutcome((), EXIT_INTERRUPTED, tuple(_killed(folder, last)))


def _newest() -> Path:
    """The run below results/ that began last.

    Raises:
        ResultError: there is none.
    """
    runs = [path for path in RESULTS.glob("*/run.json") if path.is_file()]
    if not runs:
        raise ResultError(message("cli.watch_nothing", folder=str(RESULTS)))
    return max(runs, key=lambda path: path.stat().st_mtime).parent


def _is_finished(folder: Path) -> bool:
    if (folder / STUDY).exists():
        return not (folder / PROGRESS).exists()
    return (folder / store.SUMMARY).exists() and not (folder / store.RAW).exists()


@dataclass(slots=True)
class _Watched:
    """What was last read of a run, and how many times in a row there was nothing to read."""

    last: ProgressFile | None = None
    misses: int = 0

    def read(self, folder: Path) -> bool:
        """Read what it does now; whether it may still go on."""
        now = read_progress(folder)
        self.last = now or self.last
        self.misses = 0 if now is not None else self.misses + 1
        if now is None and self.misses < _FIRST_POLLS:
            return True
        return self.last is not None and self.last.is_alive()


def _followed(folder: Path, log: OutputLog) -> ProgressFile | None:
    """Show a run until it has ended; what was last known of it."""
    watched = _Watched()
    if _is_finished(folder):
        return None
    with ProgressDisplay(log) as display:
        while watched.read(folder) and not _is_finished(folder):
            for progress in _shown(watched.last):
                display.on_snapshot(progress)
            time.sleep(_POLL_S)
        polls = 0
        while _is_finished(folder) and not (folder / PAGE).exists() and polls < _PAGE_POLLS:
            if watched.last is None or not watched.last.is_alive():
                break
            time.sleep(_POLL_S)
            polls += 1
    return watched.last


def _shown(last: ProgressFile | None) -> Iterator[Progress | StudyProgress]:
    """What there is to show of a run or a study."""
    if last is not None:
        yield from (progress for progress in (last.progress, last.study) if progress is not None)


def _result(folder: Path, *, all_warnings: bool) -> list[OutputLine]:
    lines: list[OutputLine]
    if is_study(folder):
        from harness.cli.study_lines import study_lines  # noqa: PLC0415 - rich

        lines = list(study_lines(read_study(folder), output_of(sys.stdout)))
    else:
        lines = list(shown_result(folder, all_warnings=all_warnings))
    return [*lines, *([str(folder / PAGE)] if (folder / PAGE).exists() else [])]


def _killed(folder: Path, last: ProgressFile | None) -> list[OutputLine]:
    """What is said of a run whose process is gone: how far it was, and how to get what it had measured."""
    lines: list[OutputLine] = []
    if last is not None and last.progress is not None:
        lines += [stage_ends(stage, last.progress) for stage in last.progress.ended]
        if last.progress.stage is not None:
            lines.append(stage_so_far(last.progress.stage, last.progress))
    command = shlex.join(["harness", "report", str(folder)])
    return [*lines, message("cli.watch_killed", folder=str(folder), command=command)]
