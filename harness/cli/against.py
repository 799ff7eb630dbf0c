"""What happens when somebody types `harness run --against`: two engines in turn, and which is better?

Each run is whole: engine up, warm, load, engine down, since two engines seldom fit on one device.
They take turns as A B B A, so that what drifts meanwhile touches both alike, and the runs of a
pair share a seed of their own, so that both answer the same requests.
"""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.cli.compare import compared
from harness.cli.run import flags_of, run_into
from harness.client.transport import target_of
from harness.comparison.comparison import compare
from harness.comparison.repeats import Side, read_side
from harness.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_INVALID, HarnessError, InputError, ScenarioError
from harness.execution.reconcile import draw, finish, trace
from harness.execution.run import RunOutcome
from harness.results import store
from harness.scenario.error_messages import Fault
from harness.scenario.gate import DEFAULT_GATE, KERNEL_GATE
from harness.scenario.loader import LoadedScenario, load_scenario
from harness.scenario.yaml_document import Override, parse_override

Say = Callable[[str], None]
RESULTS = Path("results")
PAIRS = 4  # where nobody says how many
A, B = "a", "b"


@dataclass(frozen=True, slots=True)
class Against:
    """How it ended: lines for stdout, lines that say why the exit code is not 0, and that code."""

    lines: tuple[str, ...]
    exit_code: int
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Turn:
    """One run: whose it is, which pair it belongs to, and its scenario."""

    side: str
    pair: int
    loaded: LoadedScenario


def against_command(chosen: argparse.Namespace, tell: Say) -> Against:
    """`harness run --against`: runs in turn into DIR/a and DIR/b, and their comparison in DIR.

    Raises:
        HarnessError: where the input is wrong or an engine does not come up; what was run is kept.
    """
    changes = _changes(chosen)
    turns = list(_turns(chosen, changes))
    name = turns[0].loaded.scenario.name
    folder = chosen.out or store.new_folder(RESULTS, f"{name}-against")
    _refuse_used(folder)
    say: Say = (lambda _line: None) if chosen.quiet else tell
    rerun = shlex.join(["harness", *chosen.words])
    ended = EXIT_DONE
    for number, turn in enumerate(turns):
        say(f"run {number + 1}/{len(turns)}: {turn.side.upper()}{_named(turn, changes)}")
        outcome = _run(turn, folder, rerun, say)
        for line in outcome.lines:
            tell(line)
        if outcome.exit_code != EXIT_DONE:
            ended = outcome.exit_code
            break
    return _close(folder, ended, say, chosen)


def _refuse_used(folder: Path) -> None:
    if any((folder / side).exists() for side in (A, B)) or (folder / store.RUN).exists():
        raise InputError(f"--out {folder}: holds a result already; expected a new or empty folder")


def order(pairs: int) -> list[tuple[str, int]]:
    """Sides and pairs in the order they run: A B B A, A B B A, and so on."""
    turns = [((A, B), (B, A))[pair % 2] for pair in range(pairs)]
    return [(side, pair) for pair, sides in enumerate(turns) for side in sides]


def _turns(chosen: argparse.Namespace, changes: Sequence[Override]) -> Iterator[_Turn]:
    flags = flags_of(chosen)
    first = load_scenario(chosen.scenario, chosen.overrides, flags)
    asked = first.scenario.repeats
    pairs = asked if asked > 1 or chosen.repeats else PAIRS
    for side, pair in order(pairs):
        # Requests differ from pair to pair, so that no one draw decides; cases of kernels are the same ones.
        shift = 0 if first.scenario.kernels is not None else pair
        seed = Override(("seed",), first.scenario.seed + shift, "--repeats")
        once = Override(("repeats",), 1, "--repeats")
        own = [*flags, seed, once, *(changes if side == B else ())]
        yield _Turn(side, pair, load_scenario(chosen.scenario, chosen.overrides, own))


def _changes(chosen: argparse.Namespace) -> list[Override]:
    """What --against makes of the second engine."""
    changes = [change for text in chosen.against for change in _change(text)]
    for change in changes:
        if change.path[0] != "engine":
            raise InputError(f"{change.place}: changes what is sent; expected a key of engine, or its kind or address")
    reached = chosen.url or chosen.engine == "attach"
    if reached and not any(change.path == ("engine", "url") for change in changes):
        raise InputError(f"{changes[0].place}: a server that runs already keeps its flags; expected its other address")
    return changes


def _change(text: str) -> list[Override]:
    place = f"--against {text}"
    if re.match(r"https?://", text):
        url = target_of(text).url
        return [Override(("engine", key), value, place) for key, value in (("kind", "attach"), ("url", url))]
    if "=" not in text:
        return [Override(("engine", "kind"), text, place)]
    parsed = parse_override(text)
    if isinstance(parsed, Fault):
        raise ScenarioError(parsed.text.replace("--set", "--against", 1))
    return [Override(parsed.path, parsed.value, parsed.place.replace("--set", "--against", 1))]


def _named(turn: _Turn, changes: Sequence[Override]) -> str:
    if turn.side == A:
        return ""
    return f" ({', '.join(change.place.removeprefix('--against ') for change in changes)})"


def _run(turn: _Turn, folder: Path, rerun: str, say: Say) -> RunOutcome:
    own = folder / turn.side / str(turn.pair + 1)
    own.parent.mkdir(parents=True, exist_ok=True)
    outcome = run_into(turn.loaded, own, rerun, say)
    if (own / store.RAW / store.BEGUN).exists():
        finish(own)
    return outcome


def _close(folder: Path, ended: int, say: Say, chosen: argparse.Namespace) -> Against:
    """Pages of every run, and the comparison of the pairs that are whole, which says how a whole command ends."""
    runs = {side: {run.parent.name for run in (folder / side).glob(f"*/{store.SUMMARY}")} for side in (A, B)}
    for side, names in runs.items():
        for name in sorted(names):
            draw(folder / side / name, chosen.lang)
            if chosen.trace:
                trace(folder / side / name)
    whole = runs[A] & runs[B]
    if ended == EXIT_INTERRUPTED or not whole:
        say(f"{len(whole)} pairs are whole")
    if not whole:
        return Against((), ended or EXIT_INVALID)
    sides = [_whole(read_side(folder / side), whole) for side in (A, B)]
    try:
        gate = KERNEL_GATE if sides[0].is_kernels else DEFAULT_GATE
        found = compare(sides[0], sides[1], gate, anyway=True)  # two engines are unlike on purpose
    except HarnessError as fault:
        return Against((), ended or fault.exit_code, tuple(fault.lines))
    done = compared(found, folder, chosen.lang)
    return Against(done.lines, ended or done.exit_code, done.faults)


def _whole(side: Side, names: set[str]) -> Side:
    return Side(side.name.upper(), [repeat for repeat in side.repeats if repeat.name in names])
