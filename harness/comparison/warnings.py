"""The warnings of a comparison, each with the next step."""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning, warnings_of
from harness.comparison.comparability import ChangedSetting, pairs
from harness.comparison.describe import allowed_text, detectable_text
from harness.comparison.judging import MACHINE_CHANGED, NOT_VALID, SINGLE_RUNS, ComparisonRow
from harness.comparison.repeats import Repeat, Side
from harness.messages import plain
from harness.results.stage_names import stage_name
from harness.scenario.gate import Gate
from harness.scenario.metrics import FAILED_SHARE
from harness.units import format_share

LEAST_FAILURES_APART = 0.01
MOST_MOVED = 0.05  # of a copy's rate between two runs: more says as much of the kernels' times


def warnings_of_comparison(
    base: Side, new: Side, gate: Gate, rows: Sequence[ComparisonRow], *, changed: Sequence[ChangedSetting], earlier: int
) -> Iterator[Warning]:
    """Every reason for care, in the order in which a page has them."""
    yield from invalid_sides(base, new)
    yield from _few_runs(base, new, gate, rows, changed)
    yield from _earlier(rows, earlier)
    yield from _limits_moved(base, new)
    yield from _unjudged(rows)
    yield from _blind(rows, gate)
    yield from _failures(rows)
    yield from carried_warnings(base, new)
    if any(bool(repeat.engine.get("simulated")) for repeat in (*base.repeats, *new.repeats)):
        yield Warning(
            "simulated",
            NOTE,
            plain("The engine was simulated: the numbers come from a model of an NPU."),
            plain("Measure a real one."),
        )


def machine_change(base: Side, new: Side) -> float:
    """By which share the machine itself was faster in NEW, by a plain copy; 0 where it was the same, or is not known.

    A copy does not change with the kernels.
    """
    rates = [[rate for run in side.runs if (rate := _copy_rate(run.summary))] for side in (base, new)]
    if not all(rates):
        return 0.0
    middles = [math.exp(sum(map(math.log, side)) / len(side)) for side in rates]
    moved = middles[1] / middles[0] - 1
    return moved if abs(moved) > MOST_MOVED else 0.0


def _limits_moved(base: Side, new: Side) -> Iterator[Warning]:
    moved = machine_change(base, new)
    if moved:
        text = f"A plain copy, measured in the same runs, moved {format_share(abs(moved))} "
        text += f"{'more' if moved > 0 else 'fewer'} bytes a second in NEW: the machine was not the same."
        yield Warning(
            "machine_moved", WARNING, plain(text), plain("Leave the machine alone, and measure both in turn.")
        )


def _copy_rate(summary: Mapping[str, Any]) -> float | None:
    limits = (summary.get("kernels") or {}).get("limits") or ()
    return next((float(one["bytes_per_s"]) for one in limits if one["source"] == "measured"), None)


def _few_runs(
    base: Side, new: Side, gate: Gate, rows: Sequence[ComparisonRow], changed: Sequence[ChangedSetting]
) -> Iterator[Warning]:
    what = "kernel" if base.is_kernels else "engine"
    step = f"Run each 3 times, in turn: {_command(new, changed)}"
    if any(row.reason == SINGLE_RUNS for row in rows):
        text = f"With one run a side, how far two runs of one {what} differ cannot be seen: nothing of them is judged."
        yield Warning("few_repeats", WARNING, plain(text), plain(step))
    elif gate.between_runs is not None and len(base.repeats) == len(new.repeats) == 1:
        text = f"With one run a side, how far two runs of one {what} differ cannot be seen; "
        text += f"{format_share(gate.between_runs)} is taken for it, as the gate says."
        yield Warning("few_repeats", WARNING, plain(text), plain(step))
    elif not base.is_kernels and any(len(side.runs) == 1 < len(side.repeats) for side in (base, new)):
        text = "The repeats of a side share one start of its engine: what differs from start to start is not seen."
        yield Warning("one_start", NOTE, plain(text), plain(step))
    if pairs(base, new) is None and not base.is_kernels:
        text = "The repeats have no mates that sent the same requests, so what the load did to each counts as noise."
        yield Warning("unpaired", NOTE, plain(text), plain("Run both under the same seeds."))
    only = {number for repeat in base.repeats for number in repeat.stages} ^ {
        number for repeat in new.repeats for number in repeat.stages
    }
    if only and base.is_kernels:
        text = f"Only one side has {len(only)} of the measurements."
        yield Warning("stages", NOTE, plain(text), plain("Give both the same axes."))
    elif only:
        measured = (repeat.stages for repeat in (*base.repeats, *new.repeats))
        labels = {number: str(one.get("label") or "") for stages in measured for number, one in stages.items()}
        names = ", ".join(stage_name(number, labels.get(number, "")) for number in sorted(only))
        yield Warning("stages", WARNING, plain(f"Only one side measured {names}."), plain("Let both runs end."))


def _command(new: Side, changed: Sequence[ChangedSetting]) -> str:
    """The command that measures both in turn, as far as the results tell it."""
    file = str(new.repeats[0].run.get("scenario_file") or "SCENARIO.yaml")
    flags = [one for one in changed if one.name.startswith("engine.args.") and one.new != "–"]
    against = [f"--against {shlex.quote(f'{one.name}={one.new}')}" for one in flags] or ["--against KEY=VALUE"]
    return f"harness run {shlex.quote(file)} --repeats 3 {' '.join(against)}"


def _earlier(rows: Sequence[ComparisonRow], earlier: int) -> Iterator[Warning]:
    if earlier and any(row.effect is not None for row in rows):
        text = f"How far two runs of one engine differ is told by {earlier} earlier runs of this scenario as well."
        yield Warning("earlier_runs", NOTE, plain(text), plain("It holds as long as the machine is what it was."))


def _blind(rows: Sequence[ComparisonRow], gate: Gate) -> Iterator[Warning]:
    """A gate that allows less than the comparison can see holds by chance."""
    blind = [row for row in rows if row.allowed and row.allowed > gate.smallest and row.sees and row.sees > row.allowed]
    if blind:
        worst = max(blind, key=lambda row: row.sees or 0.0)
        text = (
            f"The gate allows {allowed_text(worst.allowed)} of {worst.measure.key} at {worst.place}, "
            f"and changes below {detectable_text(worst.sees)} cannot be relied on to be seen."
        )
        yield Warning(
            "low_power", WARNING, plain(text), plain("Take more repeats, in turn, or let the stages run longer.")
        )


def _unjudged(rows: Sequence[ComparisonRow]) -> Iterator[Warning]:
    gated = [row for row in rows if row.allowed is not None]
    untold = [
        row
        for row in gated
        if row.effect is None and not row.broken and row.reason not in (SINGLE_RUNS, MACHINE_CHANGED, NOT_VALID)
    ]
    if untold:
        first = untold[0]
        text = (
            f"{len(untold)} of {len(gated)} measures of the gate cannot be judged; "
            f"{first.measure.key} at {first.place}: {first.reason}."
        )
        yield Warning(
            "not_judged", WARNING, plain(text), plain("Run the stages longer, or name other measures in the gate.")
        )


def _failures(rows: Sequence[ComparisonRow]) -> Iterator[Warning]:
    for row in rows:
        if row.measure.metric != FAILED_SHARE or row.base is None or row.new is None:
            continue
        if abs(row.base - row.new) >= LEAST_FAILURES_APART:
            shares = f"{format_share(row.base)} of requests failed in BASE and {format_share(row.new)} in NEW"
            text = f"{shares} at {row.place}: latencies are of those that were answered, which are not the same."
            yield Warning(
                "failures",
                WARNING,
                plain(text),
                plain("Find out why they failed before you read latencies."),
                row.stage,
            )


_SIDES = ("BASE", "NEW")
_OWN = frozenset({"wrong_kernel"})  # costs a kernel its own time, which is judged as lost, and no other's
_NO_NUMBER = frozenset({"errors", "few_samples", "slo_unmeasured", "unverified"})
"""Warnings that change no number that is compared; of failed requests and too few samples a comparison tells itself."""
_MOST_NAMED = 6  # runs of a side
_AGAIN = "A difference to an invalid result means nothing: run it again."


@dataclass(frozen=True, slots=True)
class _RunWarning:
    """A warning of one run, and of which side it is (0: BASE)."""

    side: int
    run: str
    warning: Warning


def invalid_sides(base: Side, new: Side) -> Iterator[Warning]:
    """Why a side is not valid: then nothing is judged."""
    for own in _by_code(base, new, _why_invalid):
        are = "are" if len({one.side for one in own}) > 1 else "is"
        yield Warning(
            "invalid", INVALID, plain(f"{_sides(own)} {are} not valid ({_runs(own)}): {_text(own)}"), plain(_AGAIN)
        )


def carried_warnings(base: Side, new: Side) -> Iterator[Warning]:
    """Warnings of either side's numbers, which hold for their difference as well."""
    for own in _by_code(base, new, _carried):
        both = len({one.side for one in own}) > 1
        where = f"In {_sides(own)}" if both else f"In {_sides(own)} only"
        yield Warning(own[0].warning.code, WARNING, plain(f"{where} ({_runs(own)}): {_text(own)}"), own[0].warning.next)


def _why_invalid(run: Repeat) -> list[Warning]:
    if (run.summary.get("verdict") or {}).get("valid"):
        return []
    found = [warning for warning in warnings_of(run.summary) if warning.severity == INVALID]
    found = found or [Warning("not_ended", INVALID, plain("its run did not end."), plain(""))]
    return [warning for warning in found if warning.code not in _OWN]


def _carried(run: Repeat) -> list[Warning]:
    return [
        warning
        for warning in warnings_of(run.summary)
        if (warning.severity == WARNING and warning.code not in _NO_NUMBER)
        or (warning.severity == INVALID and warning.code in _OWN)
    ]


def _by_code(base: Side, new: Side, pick: Callable[[Repeat], list[Warning]]) -> list[list[_RunWarning]]:
    """What was picked of every run, each warning's own beside each other, in the order in which they come."""
    found: dict[str, list[_RunWarning]] = {}
    for number, side in enumerate((base, new)):
        for run in side.runs:
            for warning in pick(run):
                found.setdefault(warning.code, []).append(_RunWarning(number, run.name, warning))
    return list(found.values())


def _sides(own: Sequence[_RunWarning]) -> str:
    return " and ".join(_SIDES[side] for side in sorted({one.side for one in own}))


def _runs(own: Sequence[_RunWarning]) -> str:
    """The runs that have it: `1, 2, 3`, and where both sides have it `1, 2, 3; 1, 2, 3`."""
    parts = []
    for side in sorted({one.side for one in own}):
        names = list(dict.fromkeys(one.run for one in own if one.side == side))
        parts.append(", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else ""))
    return "; ".join(parts)


def _text(own: Sequence[_RunWarning]) -> str:
    """The warning's words; where runs or stages tell other numbers, those of the first, with the stages before them."""
    stages = sorted({one.warning.stage + 1 for one in own if one.warning.stage is not None})
    several = len({str(one.warning.text) for one in own}) > 1
    first = "of the first: " if several else ""
    where = f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}: " if stages else ""
    return f"{where}{first}{own[0].warning.text}"
