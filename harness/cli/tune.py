"""`harness tune`: arguments become options of a study, its result becomes lines."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.tuning import TuneOptions, run_study_file
from harness.cli.terminal import CommandOutcome, OutputLog, ProgressDisplay, silent
from harness.export.delivery import exporting
from harness.messages import message
from harness.results.study import STUDY, read_study
from harness.scenario.files import find_scenario
from harness.scenario.yaml_document import Override

if TYPE_CHECKING:  # loaded by the study
    from harness.results.progress import StudyProgress

SHIPPED = "tune"  # the study where none is given


def tune_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness tune`: everything from the study file to the page.

    Raises:
        HarnessError: where the study is wrong, or no engine can be started.
    """
    progress: OutputLog = silent if arguments.quiet else log
    path = find_scenario(arguments.study or SHIPPED, is_study=True)
    if arguments.study is None or path != Path(arguments.study):
        progress(message("cli.study_file", path=str(path)))
    with exporting(arguments.export, log) as exports:
        with ProgressDisplay(log, quiet=arguments.quiet) as display:

            def on_snapshot(snapshot: "StudyProgress") -> None:
                display.on_snapshot(snapshot)
                exports.progress(snapshot)

            options = TuneOptions(
                arguments.overrides,
                _flags(arguments),
                arguments.out,
                arguments.resume,
                display.show,
                _command(arguments),
                on_snapshot,
            )
            result = run_study_file(path, options)
        if (result.folder / STUDY).exists():
            exports.result(result.folder)
    table = [] if result.page is None else _table(result.folder)
    page = [] if result.page is None else [str(result.page)]
    return CommandOutcome([*result.lines, *table, *page, *result.next_steps], result.exit_code)


def _table(folder: Path) -> list[str]:
    from harness.cli.result_lines import output_of  # noqa: PLC0415 - rich, which `harness --help` has no time for
    from harness.cli.study_lines import study_table  # noqa: PLC0415 - likewise

    return study_table(read_study(folder), output_of(sys.stdout))


def _command(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The command that goes on with a study, without its folder."""
    options = [word for override in arguments.overrides for word in ("--set", override)]
    for name in ("trials", "seed"):
        value = getattr(arguments, name)
        options += [] if value is None else [f"--{name}", str(value)]
    study = [] if arguments.study is None else [str(arguments.study)]
    return ("harness", "tune", *study, *options)


def _flags(arguments: argparse.Namespace) -> list[Override]:
    """What the command's own flags mean for the study."""
    options = (("trials", ("budget", "trials")), ("storage", ("storage",)), ("seed", ("seed",)))
    return [
        Override(path, getattr(arguments, name), f"--{name} {getattr(arguments, name)}")
        for name, path in options
        if getattr(arguments, name) is not None
    ]
