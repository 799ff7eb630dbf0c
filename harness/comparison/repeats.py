"""Which repeats of which runs stand on each side of a comparison?

A side is a result folder, a folder that holds several, or a result file of another tool. Its
smallest part is a repeat: one pass through the stages of one run.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.comparison.kernels import kernel_samples, kernel_stages
from harness.errors import ResultError
from harness.kernels.result import is_kernels
from harness.results import store
from harness.results.request_table import Events, Requests
from harness.statistics.intervals import Floats


@dataclass(frozen=True, slots=True)
class Records:
    """What a run recorded, and the measured span of each of its stages, as rows of timeline.json."""

    requests: Requests
    events: Events
    timeline: Sequence[Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Repeat:
    """One repeat of one run: run.json, summary.json, its own stages of the latter by number, and its records.

    `records` gives those of the whole run, or None where they are not known.
    """

    name: str
    number: int
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    stages: Mapping[int, Mapping[str, Any]]
    records: Callable[[], Records | None]
    times: Callable[[Mapping[str, Any]], Floats] | None = None
    """Of kernels only: the times behind a stage, which is a measurement there."""

    @property
    def key(self) -> tuple[str | None, str | None, int]:
        """What was sent when: equal where two repeats can be compared request by request."""
        return self.run.get("payload_sha256"), self.run.get("schedule_sha256"), self.number

    @property
    def engine(self) -> Mapping[str, Any]:
        """What run.json says of the engine."""
        found: Mapping[str, Any] = self.run.get("engine") or {}
        return found


@dataclass(frozen=True, slots=True)
class Side:
    """One side: how it is called, and its repeats in the order they ran; never empty."""

    name: str
    repeats: Sequence[Repeat]

    @property
    def is_kernels(self) -> bool:
        """Whether kernels were measured, and no requests."""
        return self.repeats[0].times is not None

    @property
    def runs(self) -> Sequence[Repeat]:
        """One repeat of each run, for what a whole run says."""
        first = {id(repeat.summary): repeat for repeat in reversed(self.repeats)}
        return list(reversed(first.values()))


def read_side(path: Path) -> Side:
    """The side at a path: one result folder, or a folder of several.

    Raises:
        ResultError: where there is no finished result.
    """
    if (path / store.RUN).exists():
        return Side(path.name or str(path), _repeats(path))
    if not path.is_dir():
        raise ResultError(f"{path}: no such folder; expected a result folder of `harness run`, or a folder of several")
    folders = sorted((found.parent for found in path.glob(f"*/{store.RUN}")), key=_natural)
    if not folders:
        raise ResultError(f"{path}: holds no result; expected a folder with run.json, or a folder of several")
    return Side(path.name or str(path), [repeat for folder in folders for repeat in _repeats(folder)])


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order in which 10 follows 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _repeats(folder: Path) -> list[Repeat]:
    run = store.read_run(folder)
    if not (folder / store.SUMMARY).exists():
        raise ResultError(
            f"{folder}: holds no {store.SUMMARY}; expected a finished run: `harness report {folder}` first"
        )
    summary = store.read_json(folder, store.SUMMARY)
    if is_kernels(run):
        return [
            Repeat(folder.name, number, run, summary, stages, lambda: None, kernel_samples(folder, number))
            for number, stages in kernel_stages(summary).items()
        ]
    records = functools.cache(lambda: _records(folder))
    return repeats_of(folder.name, run, summary, records)


def repeats_of(
    name: str, run: Mapping[str, Any], summary: Mapping[str, Any], records: Callable[[], Records | None]
) -> list[Repeat]:
    """The repeats of one run."""
    stages: dict[int, dict[int, Mapping[str, Any]]] = {}
    for place, stage in enumerate(summary.get("stages") or ()):
        stages.setdefault(stage.get("repeat", 0), {})[stage.get("index", place)] = stage
    if not stages:
        raise ResultError(f"{name}: {store.SUMMARY} has no stages; expected a run that measured something")
    return [Repeat(name, number, run, summary, own, records) for number, own in sorted(stages.items())]


def _records(folder: Path) -> Records | None:
    if not (folder / store.REQUESTS).exists() or not (folder / store.EVENTS).exists():
        return None
    timeline = store.read_json(folder, store.TIMELINE) if (folder / store.TIMELINE).exists() else []
    return Records(store.read_requests(folder), store.read_events(folder), timeline)
