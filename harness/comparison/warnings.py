"""The warnings of a comparison, each with the next step: its own, and those of the runs that hold for it as well.

Repeats and stages mostly share a warning of a run: it is given once, with the runs and stages that have it.
"""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning, warnings_of
from harness.comparison.comparability import ChangedSetting, Incompatibility
from harness.comparison.engines import unlike_engines
from harness.comparison.judging import (
    INTERRUPTED,
    MACHINE_CHANGED,
    MOST_DETECTABLE,
    NOT_VALID,
    SINGLE_RUNS,
    ComparisonRow,
)
from harness.comparison.repeats import Repeat, Side
from harness.messages import Message, message, plain
from harness.scenario.gate import Gate
from harness.scenario.metrics import FAILED_SHARE

LEAST_FAILURES_APART = 0.01
MOST_MOVED = 0.05  # of a copy's rate between two runs: more says as much of the kernels' times
_SIDES = ("BASE", "NEW")
_ONE_KERNEL = frozenset({"wrong_kernel"})  # costs a kernel its own time, which is judged as lost, and no other's
_NO_NUMBER = frozenset({"errors", "few_samples", "slo_unmeasured", "unverified"})
"""Warnings of runs that change no number that is compared; a comparison warns itself of failures and few samples."""
_MOST_NAMED = 6  # runs of a side


def warnings_of_comparison(
    base: Side, new: Side, gate: Gate, rows: Sequence[ComparisonRow], *, changed: Sequence[ChangedSetting], earlier: int
) -> Iterator[Warning]:
    """Every reason for care, in the order in which a page has them; `earlier` runs were used."""
    yield from invalid_sides(base, new)
    yield from _repeats(base, new, gate, rows, changed)
    yield from _stages_of_one_side(base, new)
    yield from unlike_engines(base, new)
    if earlier and any(row.effect is not None for row in rows):
        text = message("comparison.earlier_runs", count=earlier)
        yield Warning("earlier_runs", NOTE, text, message("comparison.earlier_runs_next"))
    yield from _machine(base, new)
    yield from _not_judged(rows)
    yield from _low_power(rows, gate)
    yield from _failures(rows)
    yield from carried_warnings(base, new)
    if any(bool(repeat.engine.get("simulated")) for repeat in (*base.repeats, *new.repeats)):
        yield Warning("simulated", NOTE, message("comparison.simulated"), message("comparison.simulated_next"))


def unlike_sides(incompatible: Sequence[Incompatibility]) -> Iterator[Warning]:
    """That sides were compared that are not comparable."""
    if incompatible:
        text = message("comparison.unlike", facts=[fact.text for fact in incompatible])
        yield Warning("unlike", WARNING, text, message("comparison.unlike_next"))


def machine_change(base: Side, new: Side) -> float:
    """By which share the machine itself was faster in NEW, by a plain copy; 0 where it was the same, or is not known.

    A copy does not change with the kernels.
    """
    rates = [[rate for run in side.runs if (rate := _copy_rate(run.summary))] for side in (base, new)]
    if not all(rates):
        return 0.0
    means = [math.exp(sum(map(math.log, side)) / len(side)) for side in rates]
    moved = means[1] / means[0] - 1
    return moved if abs(moved) > MOST_MOVED else 0.0


def _machine(base: Side, new: Side) -> Iterator[Warning]:
    moved = machine_change(base, new)
    if moved:
        code = "comparison.machine_faster" if moved > 0 else "comparison.machine_slower"
        yield Warning(
            "machine_moved", WARNING, message(code, share=abs(moved)), message("comparison.machine_moved_next")
        )


def _copy_rate(summary: Mapping[str, Any]) -> float | None:
    limits = (summary.get("kernels") or {}).get("limits") or ()
    return next((float(limit["bytes_per_s"]) for limit in limits if limit["source"] == "measured"), None)


def _repeats(
    base: Side, new: Side, gate: Gate, rows: Sequence[ComparisonRow], changed: Sequence[ChangedSetting]
) -> Iterator[Warning]:
    command = _command(new, changed)
    is_single = any(row.reason == SINGLE_RUNS for row in rows)
    is_few = is_single or (gate.between_runs is not None and len(base.repeats) == len(new.repeats) == 1)
    if is_few:
        yield base.kind.few_repeats(None if is_single else gate.between_runs, command)
    yield from base.kind.repeat_warnings(base, new, command, is_few=is_few)


def _command(new: Side, changed: Sequence[ChangedSetting]) -> str:
    """The command that measures both in turn, as far as the results hold it."""
    file = str(new.repeats[0].run.get("scenario_file") or "SCENARIO.yaml")
    flags = [setting for setting in changed if setting.kind == "argument" and setting.new != "–"]
    against = [f"--against {shlex.quote(f'{flag.name}={flag.new}')}" for flag in flags] or ["--against KEY=VALUE"]
    return f"harness run {shlex.quote(file)} --repeats 3 {' '.join(against)}"


def _stages_of_one_side(base: Side, new: Side) -> Iterator[Warning]:
    repeats = (*base.repeats, *new.repeats)
    lone = set().union(*(repeat.stages for repeat in base.repeats)) ^ set().union(
        *(repeat.stages for repeat in new.repeats)
    )
    if lone:
        stages = {number: stage for repeat in repeats for number, stage in repeat.stages.items() if number in lone}
        yield base.kind.lone_stages(stages)


def _low_power(rows: Sequence[ComparisonRow], gate: Gate) -> Iterator[Warning]:
    """A gate that allows less than the comparison can detect passes by chance."""
    weak = [
        row
        for row in rows
        if row.allowed and row.allowed > gate.smallest and row.detectable and row.detectable > row.allowed
    ]
    if weak:
        worst = max(weak, key=lambda row: row.detectable or 0.0)
        text = message(
            "comparison.low_power",
            allowed=worst.allowed,
            measure=worst.measure.key,
            place=worst.place,
            detectable=100 * min(worst.detectable or 0.0, MOST_DETECTABLE),
        )
        yield Warning("low_power", WARNING, text, message("comparison.low_power_next"))


def _not_judged(rows: Sequence[ComparisonRow]) -> Iterator[Warning]:
    of_gate = [row for row in rows if row.allowed is not None]
    reported = (SINGLE_RUNS, MACHINE_CHANGED, NOT_VALID)
    unjudged = [row for row in of_gate if row.effect is None and not row.broken and row.reason not in reported]
    if unjudged:
        first = unjudged[0]
        text = message(
            "comparison.not_judged",
            unjudged=len(unjudged),
            count=len(of_gate),
            measure=first.measure.key,
            place=first.place,
            reason=first.reason,
        )
        is_cut = first.reason in INTERRUPTED.values()
        step = "comparison.stages_of_one_side_next" if is_cut else "comparison.not_judged_next"
        yield Warning("not_judged", WARNING, text, message(step))


def _failures(rows: Sequence[ComparisonRow]) -> Iterator[Warning]:
    for row in rows:
        if row.measure.metric != FAILED_SHARE or row.base is None or row.new is None:
            continue
        if abs(row.base - row.new) >= LEAST_FAILURES_APART:
            text = message("comparison.failures", base=row.base, new=row.new, place=row.place)
            yield Warning("failures", WARNING, text, message("comparison.failures_next"), row.stage)


@dataclass(frozen=True, slots=True)
class _RunWarning:
    """A warning of one run, and of which side it is (0: BASE)."""

    side: int
    run: str
    warning: Warning


def invalid_sides(base: Side, new: Side) -> Iterator[Warning]:
    """Why a side is not valid: then nothing is judged."""
    for group in _by_code(base, new, _why_invalid):
        sides = _sides(group)
        text = message("comparison.invalid", sides=sides, runs=_runs(group), reason=_text(group), count=len(sides))
        yield Warning("invalid", INVALID, text, message("comparison.invalid_next"))


def carried_warnings(base: Side, new: Side) -> Iterator[Warning]:
    """Warnings of either side's numbers, which hold for their difference as well."""
    for group in _by_code(base, new, _carried):
        sides = _sides(group)
        code = "comparison.in_both" if len(sides) > 1 else "comparison.in_one"
        text = message(code, sides=sides, runs=_runs(group), warning=_text(group))
        yield Warning(group[0].warning.code, WARNING, text, group[0].warning.next)


def _why_invalid(run: Repeat) -> list[Warning]:
    if run.is_valid:
        return []
    reasons = [warning for warning in warnings_of(run.summary) if warning.severity == INVALID]
    reasons = reasons or [Warning("not_ended", INVALID, message("comparison.not_ended"), plain(""))]
    return [warning for warning in reasons if warning.code not in _ONE_KERNEL]


def _carried(run: Repeat) -> list[Warning]:
    return [
        warning
        for warning in warnings_of(run.summary)
        if (warning.severity == WARNING and warning.code not in _NO_NUMBER)
        or (warning.severity == INVALID and warning.code in _ONE_KERNEL)
    ]


def _by_code(base: Side, new: Side, pick: Callable[[Repeat], list[Warning]]) -> list[list[_RunWarning]]:
    """What was picked of every run, grouped by the code of the warning, in the order in which they come."""
    groups: dict[str, list[_RunWarning]] = {}
    for number, side in enumerate((base, new)):
        for run in side.runs:
            for warning in pick(run):
                groups.setdefault(warning.code, []).append(_RunWarning(number, run.name, warning))
    return list(groups.values())


def _sides(group: Sequence[_RunWarning]) -> list[str]:
    return [_SIDES[side] for side in sorted({warning.side for warning in group})]


def _runs(group: Sequence[_RunWarning]) -> list[list[str]]:
    """The names of the runs of each side that have it."""
    names = [
        list(dict.fromkeys(warning.run for warning in group if warning.side == side))
        for side in sorted({warning.side for warning in group})
    ]
    return [[*runs[:_MOST_NAMED], *(["…"] if len(runs) > _MOST_NAMED else [])] for runs in names]


def _text(group: Sequence[_RunWarning]) -> Message:
    """The warning's text; where runs or stages differ in numbers, that of the first, with the stages before it."""
    stages = sorted({run.warning.stage + 1 for run in group if run.warning.stage is not None})
    text = group[0].warning.text
    if len({str(run.warning.text) for run in group}) > 1:
        text = message("comparison.first_of", warning=text)
    return message("comparison.at_stages", stages=stages, warning=text, count=len(stages)) if stages else text
