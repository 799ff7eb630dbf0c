"""`harness scenarios`, `validate` and `schema`: scenario files that ship, and whether a file of the user's is right."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from harness.cli.terminal import CommandOutcome, OutputLog, aligned
from harness.errors import EXIT_INPUT, InputError, suggestion
from harness.messages import Message, message
from harness.scenario.engine import DEPLOYMENT
from harness.scenario.files import copy_scenario, find_scenario, shipped_scenarios
from harness.scenario.json_schema import schema_text
from harness.scenario.loader import engine_of_file, load_scenario


def scenarios_command(arguments: argparse.Namespace, _log: OutputLog) -> CommandOutcome:
    """`harness scenarios`: the scenarios that ship; `copy NAME [DIR]`: one of them as a file to change.

    Raises:
        InputError: where there is no such scenario, or a file of that name already.
    """
    if arguments.action is None:
        return CommandOutcome(aligned(list(shipped_scenarios().items())))
    if arguments.action != "copy":
        raise InputError(
            message("cli.scenarios_unknown", word=arguments.action, hint=suggestion(arguments.action, ["copy"]))
        )
    if arguments.name is None:
        raise InputError(message("cli.scenarios_no_name", names=list(shipped_scenarios())))
    return CommandOutcome([str(path) for path in copy_scenario(arguments.name, arguments.folder)])


def validate_command(arguments: argparse.Namespace, _log: OutputLog) -> CommandOutcome:
    """`harness validate`: every error of each file, or that it is right."""
    from harness.tuning.study_loader import check_any  # noqa: PLC0415 - heavy: optuna

    paths = [find_scenario(name) for name in arguments.files]
    errors = tuple(error for path in paths for error in check_any(path))
    if errors:
        return CommandOutcome([], EXIT_INPUT, errors)
    return CommandOutcome(
        [line for path in paths for line in (message("cli.file_ok", path=str(path)), *_warnings(path), *_written(path))]
    )


def _warnings(path: Path) -> Iterator[Message]:
    """What a scenario says that can be run, but is hardly meant."""
    if engine_of_file(path) is not None:
        yield from (message("cli.file_warning", warning=warning) for warning in load_scenario(path).warnings)


def _written(path: Path) -> Iterator[Message]:
    """The processes of a deployment with their command lines, for a scenario that has one."""
    from harness.engines import auto_kind  # noqa: PLC0415 - for files alone nothing of it is needed
    from harness.engines.deployment import command_lines  # noqa: PLC0415 - likewise

    engine = engine_of_file(path)
    if engine is None or engine.kind != DEPLOYMENT:
        return
    for process, command, is_here in command_lines(engine, auto_kind(engine)):
        words = {"name": process.name, "role": process.role, "kind": process.kind, "command": command}
        yield (
            message("cli.process", **words) if is_here else message("cli.process_elsewhere", host=process.host, **words)
        )


def schema_command(_arguments: argparse.Namespace, _log: OutputLog) -> CommandOutcome:
    """`harness schema`: the JSON Schema of scenario and study files."""
    return CommandOutcome([schema_text().rstrip("\n")])
