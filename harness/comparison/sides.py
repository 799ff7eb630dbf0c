"""The reading of sides: results of any kind, a folder of several, and earlier results that show the noise."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.comparison import kernels, served
from harness.comparison.repeats import Repeat, Side
from harness.errors import HarnessError, ResultError
from harness.messages import message
from harness.results import store

MOST_READ = 200  # folders of earlier results that are looked at, the newest first
MOST_EARLIER = 40  # earlier repeats that are used
_READERS = {store.REQUEST_RUN: served.read_repeats, store.KERNEL_RUN: kernels.read_repeats}


def read_side(path: Path) -> Side:
    """The side at a path: one result folder, or a folder of several.

    Raises:
        ResultError: where there is no finished result.
    """
    if (path / store.RUN).exists():
        return Side(path.name or str(path), _repeats(path))
    if not path.is_dir():
        raise ResultError(message("comparison.no_folder", path=str(path)))
    folders = sorted((run.parent for run in path.glob(f"*/{store.RUN}")), key=_natural)
    if not folders:
        raise ResultError(message("comparison.no_result", path=str(path)))
    return Side(path.name or str(path), [repeat for folder in folders for repeat in _repeats(folder)])


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order in which 10 follows 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _repeats(folder: Path) -> list[Repeat]:
    run = store.read_run(folder)
    if not (folder / store.SUMMARY).exists():
        raise ResultError(message("comparison.no_summary", folder=str(folder), file=store.SUMMARY))
    summary = store.read_json(folder, store.SUMMARY)
    return _READERS[store.kind_of(run)](folder, run, summary)


def earlier_runs(folders: Iterable[Path], sides: Sequence[Path], like: Side) -> list[Repeat]:
    """Repeats of earlier results in these folders that ran what `like` ran, the newest first.

    They are of the same scenario on the same model, device and engine. Left out is what stands on either side, what is
    not valid, and what cannot be read.
    """
    own = {path.resolve() for path in sides}
    own |= {run.parent.resolve() for path in sides for run in path.glob(f"*/{store.RUN}")}
    results = {run.parent.resolve() for folder in folders for run in folder.glob(f"*/{store.RUN}")} - own
    newest = sorted(results, key=lambda folder: folder.stat().st_mtime, reverse=True)[:MOST_READ]
    repeats: list[Repeat] = []
    wanted = like.kind.noise_key(like.repeats[0])
    if wanted is None:
        return []
    for folder in newest:
        try:
            side = read_side(folder)
        except (HarnessError, KeyError, TypeError, ValueError):
            continue
        first = side.repeats[0]
        if first.is_valid and side.kind.noise_key(first) == wanted:
            repeats.extend(side.repeats)
        if len(repeats) >= MOST_EARLIER:
            break
    return repeats[:MOST_EARLIER]
