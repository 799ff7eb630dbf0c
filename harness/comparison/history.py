"""How far did runs of one configuration differ on this machine before?

Earlier results in the folders that hold the two sides, of the same scenario on the same model, device and engine
versions: runs of one set of flags make a group, and what differs within a group is noise.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.comparison.comparability import facts_of
from harness.comparison.repeats import Repeat, Side, read_side
from harness.errors import HarnessError
from harness.results import store

MOST_READ = 200  # folders that are looked at, the newest first
MOST_EARLIER = 40  # runs that are used
FEWEST_EARLIER = 3  # runs of one configuration, for a verdict on one run a side


def earlier_in(folders: Iterable[Path], sides: Sequence[Path], like: Side) -> list[Repeat]:
    """Repeats of earlier results in these folders that ran what `like` ran, the newest first.

    Not what stands on either side, nothing that is not valid, and nothing that cannot be read.
    """
    own = {path.resolve() for path in sides}
    own |= {run.parent.resolve() for path in sides for run in path.glob(f"*/{store.RUN}")}
    found = {run.parent.resolve() for folder in folders for run in folder.glob(f"*/{store.RUN}")} - own
    newest = sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)[:MOST_READ]
    repeats: list[Repeat] = []
    wanted = _same(like.repeats[0])
    for folder in newest:
        try:
            side = read_side(folder)
        except (HarnessError, KeyError, TypeError, ValueError):
            continue
        first = side.repeats[0]
        if not side.is_kernels and _is_valid(first) and _same(first) == wanted:
            repeats.extend(side.repeats)
        if len(repeats) >= MOST_EARLIER:
            break
    return repeats[:MOST_EARLIER]


def _is_valid(repeat: Repeat) -> bool:
    return bool((repeat.summary.get("verdict") or {}).get("valid"))


def _same(repeat: Repeat) -> tuple[str, ...]:
    return (str(repeat.run.get("name")), *facts_of(repeat))


def groups(earlier: Iterable[Repeat], sent: set[tuple[str | None, str | None, int]] | None) -> list[list[Repeat]]:
    """Earlier repeats by configuration, at least two each.

    `sent` are the payloads and schedules of runs that stand in pairs: groups are then parted by what was sent, and
    those that sent other requests count only where none sent the same, as what they differ by is more.
    """
    alike: dict[str, list[Repeat]] = {}
    for repeat in earlier:
        alike.setdefault(_configuration(repeat), []).append(repeat)
    if sent is not None:
        same: dict[tuple[str, object], list[Repeat]] = {}
        for name, own in alike.items():
            for repeat in own:
                if repeat.key in sent:
                    same.setdefault((name, repeat.key), []).append(repeat)
        parted = [own for own in same.values() if len(own) > 1]
        if parted:
            return parted
    return [own for own in alike.values() if len(own) > 1]


def _configuration(repeat: Repeat) -> str:
    """Flags and versions: what a difference between two runs may come from other than noise."""
    engine, machine = repeat.engine, repeat.run.get("environment") or {}
    parts = [engine.get("asked"), engine.get("effective"), machine.get("packages"), machine.get("host")]
    return json.dumps(parts, sort_keys=True, default=str)
