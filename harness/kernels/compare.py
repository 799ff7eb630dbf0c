"""Which kernels really became faster or slower from one result to another?

For each case, path and mode that both sides measured the change is the ratio of medians. Its error comes from the
medians' own 95 % intervals and from what two runs of one kernel are taken to differ by (`RUN_TO_RUN`: where memory
lies, what the clock does, who else is there). All cases are judged together by Holm's procedure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import store
from harness.compare import Effect, holm
from harness.errors import EXIT_DONE, EXIT_GATE, InputError
from harness.kernels.result import MEASURED, is_kernels, name_of
from harness.units import format_duration

ALPHA = 0.05
RUN_TO_RUN = 0.02  # standard deviation of a median between runs, relative; two runs differ by sqrt(2) of it
Z95 = 1.96
MANY = 1e6  # degrees of freedom: the error's own uncertainty is within RUN_TO_RUN
FASTER, SLOWER, SAME = "faster", "slower", "no difference shown"


@dataclass(frozen=True, slots=True)
class Change:
    """One case in one mode on both sides; times in seconds."""

    name: str
    mode: str
    base_s: float
    new_s: float
    verdict: str

    @property
    def ratio(self) -> float:
        """New over base."""
        return self.new_s / self.base_s


@dataclass(frozen=True, slots=True)
class Changes:
    """All cases that both sides measured, and the names of those that only one did."""

    rows: Sequence[Change]
    only_base: Sequence[str]
    only_new: Sequence[str]

    @property
    def exit_code(self) -> int:
        """1 where a kernel is shown to be slower."""
        return EXIT_GATE if any(row.verdict == SLOWER for row in self.rows) else EXIT_DONE


def both_kernels(base: Path, new: Path) -> bool:
    """Whether both folders are results of kernels; False where either is anything else."""
    found = [(folder / store.RUN).exists() and is_kernels(store.read_run(folder)) for folder in (base, new)]
    if any(found) and not all(found):
        raise InputError(f"{base} and {new}: one has kernels and the other requests; expected two of a kind")
    return all(found)


def compare_folders(base: Path, new: Path, *, anyway: bool = False) -> Changes:
    """The changes from one result of kernels to another.

    Raises:
        InputError: they were measured on different devices or providers, unless `anyway`.
        ResultError: one of them is no finished result.
    """
    sides = [store.read_json(folder, store.SUMMARY)["kernels"] for folder in (base, new)]
    for what, one, other in (
        ("device", sides[0]["device"]["name"], sides[1]["device"]["name"]),
        ("provider", sides[0]["provider"], sides[1]["provider"]),
    ):
        if one != other and not anyway:
            raise InputError(f"{new}: {what} {other}; expected {one}, as in {base} (or --anyway)")
    return changes(sides[0]["rows"], sides[1]["rows"])


def changes(base: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Changes:
    """The changes between the rows of two summaries."""
    one, other = _series(base), _series(new)
    shared = [key for key in one if key in other]
    effects = [_effect(one[key][1], other[key][1]) for key in shared]
    judged = holm([effect.p_value() for effect in effects], ALPHA)
    rows = [
        Change(
            *(one[key][0], key[-1]),
            base_s=one[key][1]["median_s"],
            new_s=other[key][1]["median_s"],
            verdict=SAME if not verdict.shown else FASTER if effect.estimate < 0 else SLOWER,
        )
        for key, effect, verdict in zip(shared, effects, judged, strict=True)
    ]
    return Changes(
        rows,
        [f"{name}, {key[-1]}" for key, (name, _) in one.items() if key not in other],
        [f"{name}, {key[-1]}" for key, (name, _) in other.items() if key not in one],
    )


_Key = tuple[Any, ...]


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[_Key, tuple[str, Mapping[str, Any]]]:
    """Name and figures of each case, path and mode that was measured."""
    return {
        (*sorted(row["labels"].items()), row["path"], mode): (name_of(row), figures)
        for row in rows
        if row["status"] == MEASURED
        for mode, figures in row["modes"].items()
    }


def _effect(base: Mapping[str, Any], new: Mapping[str, Any]) -> Effect:
    errors = [_error(base), _error(new), RUN_TO_RUN * math.sqrt(2)]
    return Effect(math.log(new["median_s"] / base["median_s"]), math.hypot(*errors), MANY)


def _error(figures: Mapping[str, Any]) -> float:
    """Standard error of the logarithm of a median, from its interval; a half where it has none."""
    ends = figures["ci95_s"]
    return 0.5 if ends is None else math.log(ends[1] / ends[0]) / (2 * Z95)


def lines_of(found: Changes) -> list[str]:
    """The answer, then every case that changed, the largest change first."""
    changed = sorted((row for row in found.rows if row.verdict != SAME), key=lambda row: -abs(math.log(row.ratio)))
    slower = sum(row.verdict == SLOWER for row in changed)
    counts = f"{slower} slower, {len(changed) - slower} faster, the others show no difference"
    lines = [f"{len(found.rows)} measurements on both sides: {counts}."]
    for row in changed:
        times = f"{format_duration(row.base_s)} → {format_duration(row.new_s)} (× {row.ratio:.2f})"
        lines.append(f"{row.verdict}: {row.name}, {row.mode}: {times}")
    for side, names in (("base", found.only_base), ("new", found.only_new)):
        if names:
            lines.append(f"only in {side}: {len(names)} measurements (first: {names[0]})")
    return lines
