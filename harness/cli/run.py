"""What happens, from words to files, when somebody types `harness run` or `harness selfcheck`?"""

import argparse
import asyncio
import contextlib
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.client.transport import target_of
from harness.errors import EXIT_DONE, HarnessError, InputError
from harness.execution.kernels import conduct_kernels
from harness.execution.reconcile import draw, finish, preload, trace, verdict_lines
from harness.execution.run import RunOutcome, RunSpec, conduct, open_folder
from harness.messages import localized
from harness.results import store
from harness.safety.interrupts import writing
from harness.scenario.loader import LoadedScenario, load_scenario
from harness.scenario.yaml_document import Override

Say = Callable[[str], None]
_RESULTS = Path("results")


@dataclass(frozen=True, slots=True)
class Done:
    """How `harness run` ended: lines for stdout, and what the exit code is made from."""

    exit_code: int
    lines: tuple[str, ...]
    valid: bool
    slo_met: bool


def run_command(chosen: argparse.Namespace, tell: Say) -> Done:
    """`harness run`: everything from the scenario file to the page.

    Raises:
        HarnessError: where the input is wrong or the engine does not come up.
    """
    loaded = load_scenario(chosen.scenario, chosen.overrides, flags_of(chosen))
    folder = chosen.out or store.new_folder(_RESULTS, loaded.scenario.name)
    say: Say = (lambda _line: None) if chosen.quiet else tell
    outcome = run_into(loaded, folder, shlex.join(["harness", *chosen.words]), say)
    for line in outcome.lines:
        tell(line)
    try:
        with writing(tell):
            return _close(folder, outcome, chosen)
    except KeyboardInterrupt:
        tell(f"what was measured is kept; `harness report {shlex.quote(str(folder))}` writes what is missing")
        raise


def run_into(loaded: LoadedScenario, folder: Path, rerun: str, say: Say) -> RunOutcome:
    """Run a scenario into a new folder of raw files; see `finish` for what becomes of them.

    Raises:
        HarnessError: where the engine does not come up; a folder without a request is removed again.
    """
    from harness.cli.progress import Progress  # noqa: PLC0415 - rich loads only for a terminal's sake
    from harness.selfcheck.selfcheck import last_selfcheck  # noqa: PLC0415 - selfcheck runs scenarios through this module's caller

    with Progress(say) as progress:
        order = RunSpec(loaded, folder, rerun, progress.say, last_selfcheck(), progress.on_sample, preload)
        somebodys = (folder / store.RUN).exists() or (folder / store.RAW).exists()
        try:
            if loaded.scenario.kernels is not None:
                return conduct_kernels(order)
            open_folder(order)
            return asyncio.run(conduct(order))
        except (HarnessError, KeyboardInterrupt) as fault:
            if not somebodys and not (folder / store.RAW / store.BEGUN).exists():
                _drop_if_empty(folder)
            if isinstance(fault, InputError):
                raise InputError(*map(loaded.located, fault.lines)) from None
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
            _RESULTS.rmdir()


def _close(folder: Path, outcome: RunOutcome, chosen: argparse.Namespace) -> Done:
    begun = (folder / store.RAW / store.BEGUN).exists()
    if not begun:
        _drop_if_empty(folder)
        return Done(outcome.exit_code, (), valid=False, slo_met=False)
    summary = finish(folder)
    pages = [draw(folder, chosen.lang), *([trace(folder)] if chosen.trace else [])]
    slo_met = all(stage["slo_met"] is not False for stage in summary["stages"])
    return Done(outcome.exit_code, (*verdict_lines(summary), *map(str, pages)), summary["verdict"]["valid"], slo_met)


def flags_of(chosen: argparse.Namespace) -> list[Override]:
    """What --url, --engine, --model, --seed and --repeats mean for the scenario."""
    if chosen.url and chosen.engine not in (None, "attach"):
        raise InputError(
            f"--url names a server that runs; --engine {chosen.engine} would start one: expected one of the two"
        )
    changes: list[tuple[str, str, Any, str]] = []
    if chosen.url:
        place = f"--url {chosen.url}"
        target_of(chosen.url)
        url = chosen.url if "://" in chosen.url else f"http://{chosen.url}"
        # The scenario's own model belongs to its own engine: a server that runs says what it serves.
        changes += [
            ("engine", "kind", "attach", place),
            ("engine", "url", url, place),
            ("engine", "model", None, place),
        ]
    elif chosen.engine:
        changes.append(("engine", "kind", chosen.engine, f"--engine {chosen.engine}"))
    if chosen.model:
        changes.append(("engine", "model", chosen.model, f"--model {chosen.model}"))
    flags = [Override((part, key), value, place) for part, key, value, place in changes]
    numbers = [("seed", chosen.seed), ("repeats", chosen.repeats)]
    return flags + [Override((key,), value, f"--{key} {value}") for key, value in numbers if value is not None]


def selfcheck_command(say: Say) -> list[str]:
    """`harness selfcheck`: measure this client against known token times; lines for stdout."""
    from harness.selfcheck.selfcheck import selfcheck  # noqa: PLC0415 - needs this module's run

    return [localized(line) for line in selfcheck(lambda line: say(localized(line)))]


__all__ = ["EXIT_DONE", "Done", "run_command", "run_into", "selfcheck_command"]
