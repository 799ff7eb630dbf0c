"""`harness run` and `harness selfcheck`: arguments become a scenario and options, a result becomes lines."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.warnings import warnings_of
from harness.api.result import TRACE
from harness.api.running import RunOptions, run_loaded, url_overrides
from harness.cli.terminal import CommandOutcome, OutputLog, ProgressDisplay, silent
from harness.errors import InputError
from harness.export.delivery import exporting
from harness.messages import localized, message
from harness.results import store
from harness.scenario.files import find_scenario
from harness.scenario.loader import LoadedScenario, load_scenario
from harness.scenario.yaml_document import Override

if TYPE_CHECKING:  # loaded by the run
    from harness.results.progress import Progress


def run_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness run`: everything from the scenario file to the page; with --against, two engines in turn.

    Raises:
        HarnessError: where the input is wrong or the engine does not come up.
    """
    if arguments.against:
        if arguments.export:
            raise InputError(message("cli.export_against", target=arguments.export[0].partition("=")[0]))
        from harness.cli.against import against_command  # noqa: PLC0415 - it runs by this module

        return against_command(arguments, log)
    loaded = scenario_of(arguments, flags_of(arguments), log)
    with exporting(arguments.export, log) as exports:
        with ProgressDisplay(log, quiet=arguments.quiet) as progress:

            def on_snapshot(snapshot: "Progress") -> None:
                progress.on_snapshot(snapshot)
                exports.progress(snapshot)

            rerun = shlex.join(["harness", *arguments.words])
            options = RunOptions(arguments.out, rerun, arguments.trace, progress.show, on_snapshot, log)
            result = run_loaded(loaded, options)
        exports.result(result.folder)
    pages = [result.page, *([result.folder / TRACE] if arguments.trace else [])]
    lines = shown_result(result.folder, all_warnings=arguments.warnings)
    return CommandOutcome(
        (*lines, *map(str, pages)), result.status(strict=arguments.strict, enforce_slo=arguments.enforce_slo)
    )


def shown_result(folder: Path, *, all_warnings: bool) -> list[str]:
    """The lines of a finished result for stdout; where warnings are folded, the last says how to see all.

    Raises:
        ResultError: where summary.json cannot be read.
    """
    from harness.cli import result_lines  # noqa: PLC0415 - rich, which `harness --help` has no time for

    summary = store.read_json(folder, store.SUMMARY)
    lines = result_lines.result_lines(summary, result_lines.output_of(sys.stdout), all_warnings=all_warnings)
    folded = len(warnings_of(summary)) - len(result_lines.folded_warning_lines(summary))
    if folded and not all_warnings:
        command = shlex.join(["harness", "watch", str(folder), "--warnings"])
        lines.append(localized("cli.warnings_folded", count=folded, command=command))
    return lines


def scenario_of(arguments: argparse.Namespace, flags: list[Override], log: OutputLog) -> LoadedScenario:
    """The scenario of a command line: a file, or one found by its name, which is then said.

    Raises:
        InputError: where there is none, or it has errors.
    """
    path = find_scenario(arguments.scenario)
    if path != Path(arguments.scenario):
        _progress(arguments, log)(message("cli.scenario_file", path=str(path)))
    loaded = load_scenario(path, arguments.overrides, flags)
    for warning in loaded.warnings:
        log(message("cli.file_warning", warning=warning))
    return loaded


def _progress(arguments: argparse.Namespace, log: OutputLog) -> OutputLog:
    return silent if arguments.quiet else log


def flags_of(arguments: argparse.Namespace) -> list[Override]:
    """What --url, --engine, --model, --seed and --repeats mean for the scenario."""
    if arguments.url and arguments.engine not in (None, "attach"):
        raise InputError(message("cli.url_and_engine", engine=arguments.engine))
    flags = url_overrides(arguments.url, f"--url {arguments.url}") if arguments.url else []
    kind = None if arguments.url else arguments.engine
    flags += [
        Override(("engine", key), value, f"{flag} {value}")
        for key, flag, value in (("kind", "--engine", kind), ("model", "--model", arguments.model))
        if value
    ]
    numbers = [("seed", arguments.seed), ("repeats", arguments.repeats)]
    return flags + [Override((key,), value, f"--{key} {value}") for key, value in numbers if value is not None]


def selfcheck_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness selfcheck`: this client measured against known token times."""
    from harness.selfcheck.selfcheck import selfcheck  # noqa: PLC0415 - only this command needs it

    return CommandOutcome(selfcheck(_progress(arguments, log)))
