"""`harness run` and `harness selfcheck`: from a scenario file to the page of a result."""

import argparse
import asyncio
import contextlib
import shlex
import shutil
from pathlib import Path
from typing import Any

from harness.cli.terminal import CommandOutcome, Log, Progress, silent
from harness.client.transport import target_of
from harness.errors import EXIT_DONE, EXIT_GATE, EXIT_INVALID, HarnessError, InputError
from harness.execution.kernels import conduct_kernels
from harness.execution.reconcile import draw, finish, preload, trace, verdict_lines
from harness.execution.run import RunOutcome, RunSpec, conduct, open_folder
from harness.messages import message
from harness.results import store
from harness.safety.interrupts import writing
from harness.scenario.loader import LoadedScenario, load_scenario
from harness.scenario.shipped import find_scenario
from harness.scenario.yaml_document import Override

RESULTS = Path("results")


def run_command(arguments: argparse.Namespace, log: Log) -> CommandOutcome:
    """`harness run`: everything from the scenario file to the page; with --against, two engines in turn.

    Raises:
        HarnessError: where the input is wrong or the engine does not come up.
    """
    if arguments.against:
        from harness.cli.against import against_command  # noqa: PLC0415 - it runs by this module

        return against_command(arguments, log)
    loaded = scenario_of(arguments, flags_of(arguments), log)
    folder = arguments.out or store.new_folder(RESULTS, loaded.scenario.name)
    outcome = run_into(loaded, folder, shlex.join(["harness", *arguments.words]), _progress(arguments, log))
    for line in outcome.lines:
        log(line)
    try:
        with writing(log):
            return _close(folder, outcome, arguments)
    except KeyboardInterrupt:
        log(message("cli.measured_is_kept", command=f"harness report {shlex.quote(str(folder))}"))
        raise


def scenario_of(arguments: argparse.Namespace, flags: list[Override], log: Log) -> LoadedScenario:
    """The scenario of a command line: a file, or one found by its name, which is then said.

    Raises:
        InputError: where there is none, or it has errors.
    """
    path = find_scenario(arguments.scenario)
    if path != Path(arguments.scenario):
        _progress(arguments, log)(message("cli.scenario_file", path=str(path)))
    return load_scenario(path, arguments.overrides, flags)


def _progress(arguments: argparse.Namespace, log: Log) -> Log:
    return silent if arguments.quiet else log


def run_into(loaded: LoadedScenario, folder: Path, rerun: str, log: Log) -> RunOutcome:
    """Run a scenario into a new folder of raw files; see `finish` for what becomes of them.

    Raises:
        HarnessError: where the engine does not come up; a folder without a request is removed again.
    """
    from harness.selfcheck.selfcheck import last_selfcheck  # noqa: PLC0415 - selfcheck runs scenarios by this function

    with Progress(log) as progress:
        order = RunSpec(loaded, folder, rerun, progress.show, last_selfcheck(), progress.on_sample, preload)
        is_in_use = (folder / store.RUN).exists() or (folder / store.RAW).exists()
        try:
            if loaded.scenario.kernels is not None:
                return conduct_kernels(order)
            open_folder(order)
            return asyncio.run(conduct(order))
        except (HarnessError, KeyboardInterrupt) as error:
            if not is_in_use and not (folder / store.RAW / store.BEGUN).exists():
                _drop_if_empty(folder)
            if isinstance(error, InputError):
                raise InputError(*map(loaded.located, error.messages)) from None
            raise


def _drop_if_empty(folder: Path) -> None:
    """A folder of a run that never began is no result: only its log is kept, where there is one."""
    shutil.rmtree(folder / store.RAW, ignore_errors=True)
    (folder / store.RUN).unlink(missing_ok=True)
    log = folder / "engine.log"
    if log.exists() and not log.stat().st_size:
        log.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        with contextlib.suppress(OSError):  # not empty: other results live there
            RESULTS.rmdir()


def _close(folder: Path, outcome: RunOutcome, arguments: argparse.Namespace) -> CommandOutcome:
    if not (folder / store.RAW / store.BEGUN).exists():
        _drop_if_empty(folder)
        return CommandOutcome((), outcome.exit_code)
    summary = finish(folder)
    pages = [draw(folder, arguments.lang), *([trace(folder)] if arguments.trace else [])]
    return CommandOutcome((*verdict_lines(summary), *map(str, pages)), _exit_code(outcome, summary, arguments))


def _exit_code(outcome: RunOutcome, summary: dict[str, Any], arguments: argparse.Namespace) -> int:
    """The run's own exit code, and with --strict and --enforce-slo that of a result which is not good enough."""
    if outcome.exit_code == EXIT_DONE and arguments.strict and not summary["verdict"]["valid"]:
        return EXIT_INVALID
    is_met = all(stage["slo_met"] is not False for stage in summary["stages"])
    if outcome.exit_code == EXIT_DONE and arguments.enforce_slo and not is_met:
        return EXIT_GATE
    return outcome.exit_code


def flags_of(arguments: argparse.Namespace) -> list[Override]:
    """What --url, --engine, --model, --seed and --repeats mean for the scenario."""
    if arguments.url and arguments.engine not in (None, "attach"):
        raise InputError(message("cli.url_and_engine", engine=arguments.engine))
    changes: list[tuple[str, str, Any, str]] = []
    if arguments.url:
        place = f"--url {arguments.url}"
        target_of(arguments.url)
        url = arguments.url if "://" in arguments.url else f"http://{arguments.url}"
        # The scenario's own model belongs to its own engine: a server that runs says what it serves.
        changes += [
            ("engine", "kind", "attach", place),
            ("engine", "url", url, place),
            ("engine", "model", None, place),
        ]
    elif arguments.engine:
        changes.append(("engine", "kind", arguments.engine, f"--engine {arguments.engine}"))
    if arguments.model:
        changes.append(("engine", "model", arguments.model, f"--model {arguments.model}"))
    flags = [Override((part, key), value, place) for part, key, value, place in changes]
    numbers = [("seed", arguments.seed), ("repeats", arguments.repeats)]
    return flags + [Override((key,), value, f"--{key} {value}") for key, value in numbers if value is not None]


def selfcheck_command(arguments: argparse.Namespace, log: Log) -> CommandOutcome:
    """`harness selfcheck`: this client measured against known token times."""
    from harness.selfcheck.selfcheck import selfcheck  # noqa: PLC0415 - it runs scenarios by this module

    return CommandOutcome(selfcheck(_progress(arguments, log)))
