"""The two sides of a comparison, as read from result folders: the repeats of their runs.

A side is a result folder, a folder that holds several, or a result file of another tool. Its smallest part is a
repeat: one pass through the stages of one run. Of kernels a stage is one measurement: a case on a path in a mode.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ResultError
from harness.kernels.repeats import FAILED, MEASURED, WRONG, row_reason
from harness.kernels.result import is_kernels
from harness.messages import message
from harness.results import store
from harness.results.request_table import Events, Requests
from harness.scenario.metrics import KERNEL_TIME
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class RunRecords:
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
    records: Callable[[], RunRecords | None]
    times: Callable[[Mapping[str, Any]], Floats] | None = None
    """Of kernels only: the times behind a stage, which is a measurement there."""

    @property
    def key(self) -> tuple[str | None, str | None, int]:
        """What was sent when: equal where two repeats can be compared request by request."""
        return self.run.get("payload_sha256"), self.run.get("schedule_sha256"), self.number

    @property
    def engine(self) -> Mapping[str, Any]:
        """What run.json says of the engine."""
        engine: Mapping[str, Any] = self.run.get("engine") or {}
        return engine

    @property
    def is_valid(self) -> bool:
        """Whether its run ended and is valid."""
        return bool((self.summary.get("verdict") or {}).get("valid"))


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
    if is_kernels(run):
        return [
            Repeat(folder.name, number, run, summary, stages, lambda: None, _kernel_samples(folder, number))
            for number, stages in _kernel_stages(summary).items()
        ]
    records = functools.cache(lambda: _records(folder))
    return repeats_of(folder.name, run, summary, records)


def repeats_of(
    name: str, run: Mapping[str, Any], summary: Mapping[str, Any], records: Callable[[], RunRecords | None]
) -> list[Repeat]:
    """The repeats of one run."""
    stages: dict[int, dict[int, Mapping[str, Any]]] = {}
    for place, stage in enumerate(summary.get("stages") or ()):
        stages.setdefault(stage.get("repeat", 0), {})[stage.get("index", place)] = stage
    if not stages:
        raise ResultError(message("comparison.no_stages", name=name, file=store.SUMMARY))
    return [Repeat(name, number, run, summary, own, records) for number, own in sorted(stages.items())]


def _records(folder: Path) -> RunRecords | None:
    if not (folder / store.REQUESTS).exists() or not (folder / store.EVENTS).exists():
        return None
    timeline = store.read_json(folder, store.TIMELINE) if (folder / store.TIMELINE).exists() else []
    return RunRecords(store.read_requests(folder), store.read_events(folder), timeline)


_Stage = dict[str, Any]
_Stages = dict[int, dict[int, _Stage]]


def _kernel_stages(summary: Mapping[str, Any]) -> _Stages:
    """Measurements by repeat and number; `axes` identify them, `case` where its samples are.

    A kernel that was wrong or failed has its measurements without a time, but with its status and the reason (`lost`).
    Where nothing was measured there is one repeat, and nothing in it.
    """
    rows = summary["kernels"]["rows"]
    modes = dict.fromkeys(mode for row in rows for mode in row["modes"])
    series = [figures for row in rows for figures in row["modes"].values()]
    repeats = range(max((len(figures.get("repeats") or (0,)) for figures in series), default=1))
    stages: _Stages = {repeat: {} for repeat in repeats}
    for row in rows:
        for path in _paths(row, rows):
            for mode in modes if row["status"] in (WRONG, FAILED) else row["modes"]:
                for repeat, stage in _repeated(row, path, mode, repeats):
                    stages[repeat][len(stages[repeat])] = stage
    return stages


def _paths(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The row's path; of a case on which a process died all that its phase has."""
    phase = row["labels"].get("phase")
    if row["path"]:
        return (row["path"],)
    return dict.fromkeys(other["path"] for other in rows if other["path"] and other["labels"].get("phase") == phase)


def _repeated(row: Mapping[str, Any], path: str, mode: str, repeats: Iterable[int]) -> Iterator[tuple[int, _Stage]]:
    axes = {**row["labels"], "path": path, "mode": mode}
    stage: _Stage = {"axes": axes, "case": row["case"]}
    if row["status"] != MEASURED:
        yield from ((repeat, {**stage, "lost": (row["status"], row_reason(row))}) for repeat in repeats)
        return
    figures = row["modes"][mode]
    for repeat, times in enumerate(figures.get("repeats") or (figures,)):
        yield repeat, {**stage, KERNEL_TIME: {"n": times["n"], "p50": times["median_s"]}}


def _kernel_samples(folder: Path, repeat: int) -> Callable[[Mapping[str, Any]], Floats]:
    """The times of a measurement in one repeat of a folder, in seconds a launch, in the order in which they came."""
    table = functools.cache(lambda: _times(folder))

    def times(stage: Mapping[str, Any]) -> Floats:
        axes = stage["axes"]
        return table().get((repeat, stage["case"], axes["path"], axes["mode"]), np.empty(0))

    return times


def _times(folder: Path) -> dict[tuple[int, int, str, str], Floats]:
    read = store.read_kernel_samples(folder)
    times: dict[tuple[int, int, str, str], list[float]] = {}
    keys = zip(read["repeat"], read["case"], read["path"], read["mode"], strict=True)
    values = zip(read["device_ns"], read["wall_ns"], read["launches"], strict=True)
    for key, (device_ns, wall_ns, launches) in zip(keys, values, strict=True):
        whole_ns = wall_ns if device_ns is None else device_ns
        times.setdefault(key, []).append(whole_ns / launches / NS_PER_S)
    return {key: np.asarray(values_s) for key, values_s in times.items()}
