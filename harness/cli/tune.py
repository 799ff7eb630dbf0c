"""`harness tune`: arguments become options of a study, its result becomes lines."""

import argparse
from pathlib import Path

from harness.api.tuning import TuneOptions, run_study_file
from harness.cli.terminal import CommandOutcome, OutputLine, OutputLog, silent
from harness.export.delivery import exporting
from harness.messages import message
from harness.results.study import STUDY
from harness.scenario.files import find_scenario
from harness.scenario.yaml_document import Override

SHIPPED = "tune"  # the study where none is given


def tune_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness tune`: everything from the study file to the page.

    Raises:
        HarnessError: where the study is wrong, or no engine can be started.
    """
    progress: OutputLog = silent if arguments.quiet else log
    path = find_scenario(arguments.study or SHIPPED)
    if arguments.study is None or path != Path(arguments.study):
        progress(message("cli.study_file", path=str(path)))
    options = TuneOptions(
        arguments.overrides, _flags(arguments), arguments.out, arguments.resume, progress, _command(arguments)
    )
    with exporting(arguments.export, log) as exports:
        result = run_study_file(path, options)
        if (result.folder / STUDY).exists():
            exports.result(result.folder)
    lines: list[OutputLine] = [*result.lines, *([] if result.page is None else [str(result.page)]), *result.next_steps]
    return CommandOutcome(lines, result.exit_code)


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
