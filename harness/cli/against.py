"""`harness run --against`: two engines in turn, and their comparison.

Each run is whole: engine up, warm, load, engine down, since two engines seldom fit on one device.
They take turns as A B B A, so that what drifts meanwhile touches both alike, and the runs of a
pair share a seed of their own, so that both answer the same requests.
"""

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.api.comparing import compare_turns
from harness.api.result import RESULTS
from harness.api.running import RunOptions, run_loaded, url_overrides
from harness.cli.compare import compared
from harness.cli.run import flags_of, scenario_of
from harness.cli.terminal import CommandOutcome, OutputLog, ProgressDisplay, silent
from harness.comparison.repeats import Side
from harness.comparison.sides import read_side
from harness.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_INVALID,
    HarnessError,
    InputError,
    RunInterruptedError,
    ScenarioError,
)
from harness.messages import message
from harness.results import store
from harness.scenario.error_messages import Fault
from harness.scenario.loader import LoadedScenario, load_scenario
from harness.scenario.yaml_document import Override, parse_override

PAIRS = 4  # where nobody says how many
A, B = "a", "b"


@dataclass(frozen=True, slots=True)
class _Turn:
    """One run: whose it is, which pair it belongs to, and its scenario."""

    side: str
    pair: int
    loaded: LoadedScenario


def against_command(arguments: argparse.Namespace, log: OutputLog) -> CommandOutcome:
    """`harness run --against`: runs in turn into DIR/a and DIR/b, and their comparison in DIR.

    Raises:
        HarnessError: where the input is wrong or an engine does not come up; what was run is kept.
    """
    changes = _changes(arguments)
    progress: OutputLog = silent if arguments.quiet else log
    turns = list(_turns(arguments, changes, log))
    folder = arguments.out or store.new_folder(RESULTS, f"{turns[0].loaded.scenario.name}-against")
    _refuse_used(folder)
    rerun = shlex.join(["harness", *arguments.words])
    options = RunOptions(None, rerun, arguments.trace, progress, on_problem=log)
    exit_code = EXIT_DONE
    for number, turn in enumerate(turns, 1):
        own = [change.place.removeprefix("--against ") for change in changes] if turn.side == B else []
        code = "cli.turn_changed" if own else "cli.turn"
        changed = {"changes": own} if own else {}
        progress(message(code, number=number, turns=len(turns), side=turn.side.upper(), **changed))
        exit_code = _run(turn, folder, options)
        if exit_code != EXIT_DONE:
            break
    return _close(folder, exit_code, progress)


def _refuse_used(folder: Path) -> None:
    if any((folder / side).exists() for side in (A, B)) or (folder / store.RUN).exists():
        raise InputError(message("cli.out_used", folder=str(folder)))


def order(pairs: int) -> list[tuple[str, int]]:
    """Sides and pairs in the order they run: A B B A, A B B A, and so on."""
    turns = [((A, B), (B, A))[pair % 2] for pair in range(pairs)]
    return [(side, pair) for pair, sides in enumerate(turns) for side in sides]


def _turns(arguments: argparse.Namespace, changes: Sequence[Override], log: OutputLog) -> Iterator[_Turn]:
    flags = flags_of(arguments)
    first = scenario_of(arguments, flags, log)
    repeats = first.scenario.repeats
    pairs = repeats if repeats > 1 or arguments.repeats else PAIRS
    for side, pair in order(pairs):
        # Requests differ from pair to pair, so that no one draw decides; cases of kernels are the same ones.
        shift = 0 if first.scenario.kernels is not None else pair
        seed = Override(("seed",), first.scenario.seed + shift, "--repeats")
        once = Override(("repeats",), 1, "--repeats")
        own = [*flags, seed, once, *(changes if side == B else ())]
        yield _Turn(side, pair, load_scenario(first.path, arguments.overrides, own))


def _changes(arguments: argparse.Namespace) -> list[Override]:
    """What --against makes of the second engine."""
    changes = [change for text in arguments.against for change in _change(text)]
    for change in changes:
        if change.path[0] != "engine":
            raise InputError(message("cli.change_of_load", place=change.place))
    reached = arguments.url or arguments.engine == "attach"
    if reached and not any(change.path == ("engine", "url") for change in changes):
        raise InputError(message("cli.change_of_server", place=changes[0].place))
    return changes


def _change(text: str) -> list[Override]:
    place = f"--against {text}"
    if re.match(r"https?://", text):
        return [change for change in url_overrides(text, place) if change.path[-1] != "model"]
    if "=" not in text:
        return [Override(("engine", "kind"), text, place)]
    parsed = parse_override(text, "--against")
    if isinstance(parsed, Fault):
        raise ScenarioError(parsed.reason)
    return [parsed]


def _run(turn: _Turn, folder: Path, options: RunOptions) -> int:
    """Run one turn into its own folder; its exit code. One that is interrupted before its first request leaves none."""
    out = folder / turn.side / str(turn.pair + 1)
    store.make_out_folder(out.parent)
    try:
        with ProgressDisplay(options.on_progress, quiet=options.on_progress is silent) as progress:
            own = replace(options, out=out, on_progress=progress.show, on_snapshot=progress.on_snapshot)
            return run_loaded(turn.loaded, own).exit_code
    except RunInterruptedError as error:
        for line in error.messages:
            options.on_problem(line)
        return error.exit_code


def _close(folder: Path, exit_code: int, log: OutputLog) -> CommandOutcome:
    """The comparison of the pairs that are whole, which says how a whole command ends."""
    runs = {side: {run.parent.name for run in (folder / side).glob(f"*/{store.SUMMARY}")} for side in (A, B)}
    whole = runs[A] & runs[B]
    if exit_code == EXIT_INTERRUPTED or not whole:
        log(message("cli.whole_pairs", count=len(whole)))
    if not whole:
        return CommandOutcome((), exit_code or EXIT_INVALID)
    try:
        comparison = compare_turns(*(_whole(read_side(folder / side), whole) for side in (A, B)))
    except HarnessError as error:
        return CommandOutcome((), exit_code or error.exit_code, tuple(error.messages))
    outcome = compared(comparison, folder)
    return replace(outcome, exit_code=exit_code or outcome.exit_code)


def _whole(side: Side, names: set[str]) -> Side:
    return Side(side.name.upper(), [repeat for repeat in side.repeats if repeat.name in names])
