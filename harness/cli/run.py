"""`harness run` and `harness selfcheck`: arguments become a scenario and options, a result becomes lines."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.analysis.warnings import warnings_of
from harness.api.result import TRACE
from harness.api.running import RunOptions, run_loaded, url_overrides
from harness.cli.terminal import CommandOutcome, OutputLine, OutputLog, ProgressDisplay, silent, text_of
from harness.errors import InputError
from harness.messages import Message, Parameter, message
from harness.messages.rendering import stored
from harness.results import store
from harness.scenario.files import find_scenario
from harness.scenario.loader import LoadedScenario, load_scenario
from harness.scenario.stages import load_name
from harness.scenario.yaml_document import Override

_SEVERITIES = {"note": "cli.note", "warning": "cli.severity_warning", "invalid": "cli.invalid"}


def run_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness run`: everything from the scenario file to the page; with --against, two engines in turn.

    Raises:
        HarnessError: where the input is wrong or the engine does not come up.
    """
    if arguments.against:
        from harness.cli.against import against_command  # noqa: PLC0415 - it runs by this module

        return against_command(arguments, log)
    loaded = scenario_of(arguments, flags_of(arguments), log)
    with ProgressDisplay(log, quiet=arguments.quiet) as progress:
        rerun = shlex.join(["harness", *arguments.words])
        options = RunOptions(arguments.out, rerun, arguments.trace, progress.show, progress.on_snapshot, log)
        result = run_loaded(loaded, options)
    pages = [result.page, *([result.folder / TRACE] if arguments.trace else [])]
    lines = (*verdict_lines(store.read_json(result.folder, store.SUMMARY)), *map(str, pages))
    return CommandOutcome(lines, result.status(strict=arguments.strict, enforce_slo=arguments.enforce_slo))


def verdict_lines(summary: Mapping[str, Any]) -> list[str]:
    """The answer, the verdict and the warnings of summary.json as lines for a terminal, in the current language."""
    kept = summary.get("answer_message")
    lines: list[OutputLine] = [stored(kept, str(summary["answer"]))]
    lines.append(message("cli.valid") if summary["verdict"]["valid"] else message("cli.not_valid"))
    loads = {stage.get("index"): stage.get("load") for stage in summary.get("stages") or ()}
    for warning in warnings_of(summary):
        words: dict[str, Parameter] = {"severity": Message(_SEVERITIES[warning.severity])}
        words |= {"text": warning.text, "next": warning.next}
        if warning.stage is None:
            lines.append(message("cli.warning", **words))
            continue
        load = loads.get(warning.stage)
        words |= {"stage": warning.stage + 1, "load": load_name(load) if load else "?"}
        if warning.repeat:
            lines.append(message("cli.warning_of_repeat", **words, repeat=warning.repeat + 1))
        else:
            lines.append(message("cli.warning_of_stage", **words))
    return [text_of(line) for line in lines]


def scenario_of(arguments: argparse.Namespace, flags: list[Override], log: OutputLog) -> LoadedScenario:
    """The scenario of a command line: a file, or one found by its name, which is then said.

    Raises:
        InputError: where there is none, or it has errors.
    """
    path = find_scenario(arguments.scenario)
    if path != Path(arguments.scenario):
        _progress(arguments, log)(message("cli.scenario_file", path=str(path)))
    return load_scenario(path, arguments.overrides, flags)


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
