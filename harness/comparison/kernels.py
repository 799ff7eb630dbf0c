"""Results of kernels as a comparison takes them: their measurements, matched by all axes, and the answer.

Measurements match where all axes do: phase, shapes, dtype, path, mode. An axis on which the sides share no value, such
as another dtype or another provider's path, is left out where each side has a single value of it for everything else.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.warnings import NOTE, WARNING, Warning
from harness.comparison.comparability import (
    COMPUTATION,
    COMPUTATIONS,
    DEVICE,
    Fact,
    Incompatibility,
    completeness,
    listed,
    unlike_facts,
)
from harness.comparison.comparison import Comparison
from harness.comparison.describe import describe_row
from harness.comparison.judging import BETTER, MACHINE_CHANGED, SINGLE_RUNS, WORSE, ComparisonRow
from harness.comparison.repeats import Repeat, Side
from harness.errors import InputError
from harness.kernels.repeats import ALWAYS_NAMED, FAILED, MEASURED, WRONG, axes_label, row_reason, varying_axes
from harness.messages import Message, message, plain
from harness.results import table_files
from harness.scenario.gate import KERNEL_GATE, Gate, for_kernels
from harness.scenario.metrics import KERNEL_TIME
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S


class KernelKind:
    """Comparisons of measured kernels."""

    name = "kernels"
    default_gate = KERNEL_GATE

    def gate_of_file(self, gate: Gate, path: Path) -> Gate:
        """The gate, with what it does not say as that of kernels has it; one without their time is refused."""
        if KERNEL_TIME not in gate.gate:
            raise InputError(message("cli.gate_without_kernels", path=str(path), measure=KERNEL_TIME))
        return for_kernels(gate)

    def incompatibilities(self, base: Side, new: Side) -> list[Incompatibility]:
        """The facts of the device, and axes without a common value."""
        unlike = unlike_facts(_FACTS, base, new)
        return [*unlike.values(), *_unlike_axes(base, new, other_provider=_PROVIDER in unlike)]

    def aligned(self, base: Side, new: Side) -> tuple[Side, Side]:
        """Both sides with their measurements numbered alike, each with a heading and its name below that."""
        return _align(base, new)

    def refuse_empty(self, side: Side) -> None:
        """Results whose kernels all were skipped, or ran on a stand-in that computes nothing."""
        if not any(repeat.stages for repeat in side.repeats):
            is_stub = self.device_facts(side.repeats[0]).get("hollow")
            code = "comparison.nothing_measured_on_stub" if is_stub else "comparison.nothing_measured"
            raise InputError(message(code, side=side.name))

    def noise_key(self, _repeat: Repeat) -> tuple[str, ...] | None:
        """None: only repeats of the results themselves show how far processes differ."""
        return None

    def surroundings(self, repeat: Repeat) -> tuple[Any, Any]:
        """Provider and device."""
        kernels = repeat.summary["kernels"]
        return kernels["provider"], kernels["device"]["name"]

    def device_facts(self, repeat: Repeat) -> Mapping[str, Any]:
        """What the bench noted of its device."""
        facts: Mapping[str, Any] = repeat.summary["kernels"]["device"]["facts"]
        return facts

    def load_stages(self, _repeat: Repeat) -> Sequence[int]:
        """None: kernels have measurements instead, each with a page of its own."""
        return ()

    def nothing_shared(self, base: Side, new: Side) -> Message:
        """That no measurement is on both sides."""
        return message("comparison.no_shared_measurement", base=base.name, new=new.name)

    def few_repeats(self, noise: float | None, command: str) -> Warning:
        """That one process shows no noise."""
        text = message("comparison.single_runs_kernel")
        if noise is not None:
            text = message("comparison.assumed_noise_kernel", noise=noise)
        return Warning("few_repeats", WARNING, text, message("comparison.repeat_next", command=command))

    def repeat_warnings(self, _base: Side, _new: Side, _command: str, *, is_few: bool) -> Iterator[Warning]:  # noqa: ARG002 - as others take it
        """None: each repeat is a process of its own, and nothing was sent."""
        return iter(())

    def lone_stages(self, stages: Mapping[int, Mapping[str, Any]]) -> Warning:
        """How many measurements."""
        text = message("comparison.measurements_of_one_side", count=len(stages))
        return Warning("stages", NOTE, text, message("comparison.measurements_of_one_side_next"))

    def listed(self, rows: Sequence[ComparisonRow]) -> Sequence[ComparisonRow]:
        """Those that changed: there are too many for all."""
        return [row for row in rows if row.broken or row.verdict in (BETTER, WORSE)]

    def answer(self, comparison: Comparison) -> Message:
        """How many measurements changed, and the one that changed most."""
        timed = [row for row in comparison.judged if row.effect is not None]
        slower, faster = ([row for row in timed if row.verdict == verdict] for verdict in (WORSE, BETTER))
        lost = [row for row in comparison.broken if row.effect is None]
        if not timed and not lost:
            if all(row.reason == SINGLE_RUNS for row in comparison.unjudged):
                return message("comparison.answer_single_runs")
            reason = comparison.unjudged[0].reason
            if all(row.reason == MACHINE_CHANGED for row in comparison.unjudged):
                return message("comparison.answer_not_judged", reason=reason)
            return message("comparison.answer_undetermined_kernels", count=len(comparison.judged), reason=reason)
        if not slower and not faster and not lost:
            return message("comparison.answer_no_difference_kernels", count=len(timed))
        changed = sorted((*slower, *faster), key=lambda row: -abs(row.effect.estimate) if row.effect else 0.0)
        return message(
            "comparison.answer_kernels",
            count=len(comparison.judged),
            slower=len(slower),
            faster=len(faster),
            lost=len(lost),
            row=describe_row([*lost, *changed][0]),
        )


KERNELS = KernelKind()


def read_repeats(folder: Path, run: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Repeat]:
    """The repeats of a result folder: a process each, its measurements as stages."""
    return [
        Repeat(folder.name, number, run, summary, stages, lambda: None, KERNELS, _kernel_samples(folder, number))
        for number, stages in _kernel_stages(summary).items()
    ]


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
    read = table_files.read_kernel_samples(folder)
    times: dict[tuple[int, int, str, str], list[float]] = {}
    keys = zip(read["repeat"], read["case"], read["path"], read["mode"], strict=True)
    values = zip(read["device_ns"], read["wall_ns"], read["launches"], strict=True)
    for key, (device_ns, wall_ns, launches) in zip(keys, values, strict=True):
        whole_ns = wall_ns if device_ns is None else device_ns
        times.setdefault(key, []).append(whole_ns / launches / NS_PER_S)
    return {key: np.asarray(values_s) for key, values_s in times.items()}


_PROVIDER = Fact(message("comparison.provider"), lambda repeat: str(repeat.summary["kernels"]["provider"]))
_FACTS = (
    Fact(DEVICE, lambda repeat: str(repeat.summary["kernels"]["device"]["name"])),
    Fact(COMPUTATION, lambda repeat: completeness(KERNELS.device_facts(repeat).get("hollow")), COMPUTATIONS),
    _PROVIDER,
)


def _unlike_axes(base: Side, new: Side, *, other_provider: bool) -> Iterator[Incompatibility]:
    """Axes of kernels without a value that both sides have; another provider has other paths, which is no news."""
    for name, values in _disjoint_axes(base, new).items():
        if not (name == "path" and other_provider):
            yield Incompatibility(plain(name), *(listed(sorted(map(str, side))) for side in values))


_AxesKey = tuple[tuple[str, Any], ...]
_HEADING = ("phase", "mode", "path")
_HEADING_WORDS = {
    "decode": message("comparison.phase_decode"),
    "prefill": message("comparison.phase_prefill"),
    "chunked_prefill": message("comparison.phase_chunked_prefill"),
    "kv_write": message("comparison.phase_kv_write"),
    "verify": message("comparison.phase_verify"),
    "mixed": message("comparison.phase_mixed"),
    "step": message("comparison.phase_step"),
    "mla_decode": message("comparison.phase_mla_decode"),
    "mla_prefill": message("comparison.phase_mla_prefill"),
    "cold": message("comparison.mode_cold"),
    "hot": message("comparison.mode_hot"),
    "graph": message("comparison.mode_graph"),
}


def _disjoint_axes(base: Side, new: Side) -> dict[str, tuple[set[Any], set[Any]]]:
    """The axes on which the sides share no value, with what each has."""
    base_values, new_values = _axis_values(base), _axis_values(new)
    return {
        name: (values, new_values[name])
        for name, values in base_values.items()
        if name in new_values and not values & new_values[name]
    }


def _axis_values(side: Side) -> dict[str, set[Any]]:
    values: dict[str, set[Any]] = {}
    for axes in _axes(side):
        for name, value in axes.items():
            values.setdefault(name, set()).add(value)
    return values


def _axes(side: Side) -> Iterator[Mapping[str, Any]]:
    return (stage["axes"] for repeat in side.repeats for stage in repeat.stages.values())


def _align(base: Side, new: Side) -> tuple[Side, Side]:
    """Both sides of kernels with their measurements numbered alike, each with a heading and its name below that."""
    left_out: set[str] = set()
    for name in _disjoint_axes(base, new):
        if all(_is_distinct_without(side, {*left_out, name}) for side in (base, new)):
            left_out.add(name)
    keys: dict[_AxesKey, list[str]] = {}
    for axes in (*_axes(base), *_axes(new)):
        keys.setdefault(_key(axes, left_out), _heading(axes, left_out))
    headings = list(dict.fromkeys(map(tuple, keys.values())))
    numbers = {key: place for place, key in enumerate(sorted(keys, key=lambda key: headings.index(tuple(keys[key]))))}
    differing = varying_axes(dict(key) for key in keys)
    sides = [[_numbered(repeat, numbers, left_out, differing) for repeat in side.repeats] for side in (base, new)]
    return replace(base, repeats=sides[0]), replace(new, repeats=sides[1])


def _is_distinct_without(side: Side, names: set[str]) -> bool:
    """Whether no two measurements of a repeat become the same without these axes."""
    return all(
        len({_key(stage["axes"], names) for stage in repeat.stages.values()}) == len(repeat.stages)
        for repeat in side.repeats
    )


def _key(axes: Mapping[str, Any], left_out: Collection[str]) -> _AxesKey:
    return tuple(sorted((name, value) for name, value in axes.items() if name not in left_out))


def _numbered(
    repeat: Repeat, numbers: Mapping[_AxesKey, int], left_out: set[str], differing: Collection[str]
) -> Repeat:
    stages = {
        numbers[_key(stage["axes"], left_out)]: {**stage, **_labels(stage["axes"], left_out, differing)}
        for stage in repeat.stages.values()
    }
    return replace(repeat, stages=dict(sorted(stages.items())))


def _heading(axes: Mapping[str, Any], left_out: Collection[str]) -> list[str]:
    return [str(axes[name]) for name in _HEADING if name in axes and name not in left_out]


def _labels(axes: Mapping[str, Any], left_out: Collection[str], differing: Collection[str]) -> dict[str, Any]:
    heading = _heading(axes, left_out)
    return {
        "label": ", ".join(heading),
        "title": message("comparison.heading", parts=[_HEADING_WORDS.get(name, name) for name in heading]),
        "part_name": axes_label(axes, {*ALWAYS_NAMED, *differing} - set(left_out)),
    }
