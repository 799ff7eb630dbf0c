"""What of a result of kernels stands beside another's: which measurement is which, and what was sampled of it?

A measurement is a case on a path in a mode. It takes the place of a stage, and its median that of a measure.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.kernels.repeats import FAILED, MEASURED, WRONG
from harness.results import store
from harness.scenario.metrics import KERNEL_TIME
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

Stage = dict[str, Any]
Stages = dict[int, dict[int, Stage]]


def kernel_stages(summary: Mapping[str, Any]) -> Stages:
    """Measurements by repeat and number; `axes` tell which is which, `case` where its samples are.

    A kernel that was wrong or failed has its measurements without a time, and says why (`lost`). Where nothing was
    measured there is one repeat, and nothing in it.
    """
    rows = summary["kernels"]["rows"]
    modes = dict.fromkeys(mode for row in rows for mode in row["modes"])
    series = [figures for row in rows for figures in row["modes"].values()]
    repeats = range(max((len(figures.get("repeats") or (0,)) for figures in series), default=1))
    found: Stages = {repeat: {} for repeat in repeats}
    for row in rows:
        for path in _paths(row, rows):
            for mode in modes if row["status"] in (WRONG, FAILED) else row["modes"]:
                for repeat, stage in _repeated(row, path, mode, repeats):
                    found[repeat][len(found[repeat])] = stage
    return found


def _paths(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The row's path; of a case on which a process died all that its phase has."""
    phase = row["labels"].get("phase")
    if row["path"]:
        return (row["path"],)
    return dict.fromkeys(one["path"] for one in rows if one["path"] and one["labels"].get("phase") == phase)


def _repeated(row: Mapping[str, Any], path: str, mode: str, repeats: Iterable[int]) -> Iterator[tuple[int, Stage]]:
    axes = {**row["labels"], "path": path, "mode": mode}
    stage: Stage = {"axes": axes, "case": row["case"]}
    if row["status"] != MEASURED:
        yield from ((repeat, {**stage, "lost": f"{row['status']}: {row['reason']}"}) for repeat in repeats)
        return
    figures = row["modes"][mode]
    for repeat, one in enumerate(figures.get("repeats") or (figures,)):
        yield repeat, {**stage, KERNEL_TIME: {"n": one["n"], "p50": one["median_s"]}}


def kernel_samples(folder: Path, repeat: int) -> Callable[[Mapping[str, Any]], Floats]:
    """The times of a measurement in one repeat of a folder, in seconds a launch, in the order in which they came."""
    table = functools.cache(lambda: _times(folder))

    def times(stage: Mapping[str, Any]) -> Floats:
        axes = stage["axes"]
        return table().get((repeat, stage["case"], axes["path"], axes["mode"]), np.empty(0))

    return times


def _times(folder: Path) -> dict[tuple[int, int, str, str], Floats]:
    read = store.read_kernel_samples(folder)
    found: dict[tuple[int, int, str, str], list[float]] = {}
    keys = zip(read["repeat"], read["case"], read["path"], read["mode"], strict=True)
    values = zip(read["device_ns"], read["wall_ns"], read["launches"], strict=True)
    for key, (device_ns, wall_ns, launches) in zip(keys, values, strict=True):
        whole_ns = wall_ns if device_ns is None else device_ns
        found.setdefault(key, []).append(whole_ns / launches / NS_PER_S)
    return {key: np.asarray(times) for key, times in found.items()}
