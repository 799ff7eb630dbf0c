"""What does a comparison of two results come to: rows, doubts, an answer and an exit code?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.comparing.aligning import aligned
from harness.comparing.judging import BETTER, FEWEST_REPEATS, SAME, UNTOLD, WORSE, Row, judge
from harness.comparing.likeness import Changed, Unlike, changes, pairs, unlike
from harness.comparing.sides import Side
from harness.comparing.telling import told
from harness.doubts import DOUBT, INVALID, NOTE, Doubt
from harness.errors import EXIT_DONE, EXIT_GATE, InputError
from harness.measures import FAILED_SHARE
from harness.scenario.gate import Gate
from harness.stage_names import stage_name
from harness.units import format_share

LEAST_FAILURES_APART = 0.01
MOST_MOVED = 0.05  # of a copy's rate between two runs: more says as much of the kernels' times


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, every measure of every stage, what else differs, and what to doubt.

    `judged` are the rows that the gate names, `shown` the others; `name` and `question` are those
    of the scenario.
    """

    base: Side
    new: Side
    gate: Gate
    judged: Sequence[Row]
    shown: Sequence[Row]
    changes: Sequence[Changed]
    doubts: Sequence[Doubt]

    @property
    def name(self) -> str:
        """The scenario's name."""
        return str(self.new.repeats[0].run.get("name", ""))

    @property
    def question(self) -> str:
        """The scenario's question."""
        return str(self.new.repeats[0].run.get("question", ""))

    @property
    def simulated(self) -> bool:
        """Whether either side came from the simulator."""
        return any(bool(repeat.engine.get("simulated")) for repeat in (*self.base.repeats, *self.new.repeats))

    @property
    def is_kernels(self) -> bool:
        """Whether kernels are compared, and no requests."""
        return self.base.is_kernels

    @property
    def broken(self) -> Sequence[Row]:
        """Measures that are worse by more than the gate allows."""
        return [row for row in self.judged if row.broken]

    @property
    def untold(self) -> Sequence[Row]:
        """Measures that the gate names and that cannot be judged."""
        return [row for row in self.judged if row.effect is None and not row.broken]

    @property
    def exit_code(self) -> int:
        """1 where the gate is broken."""
        return EXIT_GATE if self.broken else EXIT_DONE

    @property
    def verdict(self) -> str:
        """One word or two for the whole: of what the gate names."""
        words = {row.verdict for row in self.judged}
        both = {BETTER, WORSE} <= words
        if words == {UNTOLD}:
            return UNTOLD
        return "better and worse" if both else WORSE if WORSE in words else BETTER if BETTER in words else SAME

    @property
    def answer(self) -> str:
        """The comparison in one sentence."""
        body = _answer(self)
        return f"Simulated: {body}" if self.simulated else body


def compare(base: Side, new: Side, gate: Gate, *, anyway: bool = False) -> Comparison:
    """Two sides compared.

    Raises:
        InputError: where they are unlike, a line for each fact, unless `anyway`.
    """
    if base.is_kernels != new.is_kernels:
        raise InputError(f"{base.name} and {new.name}: one has kernels and the other requests; expected two of a kind")
    apart = unlike(base, new)
    if apart and not anyway:
        raise InputError(*_refusal(base, new, apart))
    if base.is_kernels:
        base, new = aligned(*(_measured(side) for side in (base, new)))
    rows = judge(base, new, gate)
    judged = [row for row in rows if row.allowed is not None]
    shown = [row for row in rows if row.allowed is None]
    if not judged:
        what = "measurement" if base.is_kernels else "measured stage"
        raise InputError(f"{base.name} and {new.name} share no {what}; expected two runs of one scenario")
    doubts = [*_doubts(base, new, gate, rows), *_unlike_doubts(apart)]
    return Comparison(base, new, gate, judged, shown, changes(base, new), doubts)


def _measured(side: Side) -> Side:
    """A side of kernels, some of which were measured."""
    if not any(repeat.stages for repeat in side.repeats):
        device = side.repeats[0].summary["kernels"]["device"]
        why = " on a stand-in that computes nothing" if device["facts"].get("hollow") else ""
        raise InputError(f"{side.name}: nothing was measured{why}; expected a result of kernels that has times")
    return side


def _refusal(base: Side, new: Side, apart: Sequence[Unlike]) -> list[str]:
    lines = [f"{base.name} and {new.name} are not alike: {fact.text}" for fact in apart]
    lines[-1] += "; expected runs of one scenario on one device, or --anyway"
    return lines


def _unlike_doubts(apart: Sequence[Unlike]) -> Iterator[Doubt]:
    if apart:
        facts = "; ".join(fact.text for fact in apart)
        yield Doubt("unlike", DOUBT, f"The two are not alike: {facts}.", "Compare runs that differ in one thing.")


def _doubts(base: Side, new: Side, gate: Gate, rows: Sequence[Row]) -> Iterator[Doubt]:
    for name, side in (("BASE", base), ("NEW", new)):
        yield from _invalid(name, side)
    yield from _few_runs(base, new, gate)
    yield from _limits_moved(base, new)
    yield from _unjudged(rows)
    yield from _failures(rows)
    if any(bool(repeat.engine.get("simulated")) for repeat in (*base.repeats, *new.repeats)):
        yield Doubt(
            "simulated",
            NOTE,
            "The engine was simulated: the numbers come from a model of an NPU.",
            "Measure a real one.",
        )


def _invalid(name: str, side: Side) -> Iterator[Doubt]:
    for run in side.runs:
        verdict = run.summary.get("verdict") or {}
        if not verdict.get("valid"):
            said = next((one["text"] for one in verdict.get("doubts") or () if one["severity"] == INVALID), "")
            text = f"{name} is not valid ({run.name}): {said or 'its run did not end.'}"
            yield Doubt("invalid", INVALID, text, "A difference to an invalid result means nothing: run it again.")


def _limits_moved(base: Side, new: Side) -> Iterator[Doubt]:
    """What the machine itself could do on each side: a copy does not change with the kernels."""
    rates = [[rate for run in side.runs if (rate := _copy_rate(run.summary))] for side in (base, new)]
    if not all(rates):
        return
    middles = [math.exp(sum(map(math.log, side)) / len(side)) for side in rates]
    moved = middles[1] / middles[0] - 1
    if abs(moved) > MOST_MOVED:
        text = f"A plain copy, measured in the same runs, moved {format_share(abs(moved))} "
        text += f"{'more' if moved > 0 else 'fewer'} bytes a second in NEW: the machine was not the same."
        yield Doubt("machine_moved", DOUBT, text, "Leave the machine alone, and measure both in turn.")


def _copy_rate(summary: Mapping[str, Any]) -> float | None:
    limits = (summary.get("kernels") or {}).get("limits") or ()
    return next((float(one["bytes_per_s"]) for one in limits if one["source"] == "measured"), None)


def _few_runs(base: Side, new: Side, gate: Gate) -> Iterator[Doubt]:
    counts = len(base.repeats), len(new.repeats)
    if min(counts) < FEWEST_REPEATS:
        what = "kernel" if base.is_kernels else "engine"
        runs = "one run a side" if counts == (1, 1) else f"{counts[0]} and {counts[1]} repeats"
        text = (
            f"With {runs}, how far two runs of one {what} differ cannot be seen; "
            f"{format_share(gate.between_runs)} is taken for it."
        )
        yield Doubt("few_repeats", DOUBT, text, "Run both in turn: harness run with --repeats 5 and --against.")
    if pairs(base, new) is None and not base.is_kernels:
        text = "The repeats have no mates that sent the same requests, so what the load did to each counts as noise."
        yield Doubt("unpaired", NOTE, text, "Run both under the same seeds.")
    only = {number for repeat in base.repeats for number in repeat.stages} ^ {
        number for repeat in new.repeats for number in repeat.stages
    }
    if only and base.is_kernels:
        text = f"Only one side has {len(only)} of the measurements."
        yield Doubt("stages", NOTE, text, "Give both the same axes.")
    elif only:
        measured = (repeat.stages for repeat in (*base.repeats, *new.repeats))
        labels = {number: str(one.get("label") or "") for stages in measured for number, one in stages.items()}
        names = ", ".join(stage_name(number, labels.get(number, "")) for number in sorted(only))
        yield Doubt("stages", DOUBT, f"Only one side measured {names}.", "Let both runs end.")


def _unjudged(rows: Sequence[Row]) -> Iterator[Doubt]:
    gated = [row for row in rows if row.allowed is not None]
    untold = [row for row in gated if row.effect is None and not row.broken]
    if untold:
        first = untold[0]
        text = (
            f"{len(untold)} of {len(gated)} measures of the gate cannot be judged; "
            f"{first.measure.key} at {first.place}: {first.reason}."
        )
        yield Doubt("not_judged", DOUBT, text, "Run the stages longer, or name other measures in the gate.")


def _failures(rows: Sequence[Row]) -> Iterator[Doubt]:
    for row in rows:
        if row.measure.metric != FAILED_SHARE or row.base is None or row.new is None:
            continue
        if abs(row.base - row.new) >= LEAST_FAILURES_APART:
            shares = f"{format_share(row.base)} of requests failed in BASE, {format_share(row.new)} in NEW"
            text = f"At {row.place} {shares}: latencies are of those that were answered, which are not the same."
            yield Doubt("failures", DOUBT, text, "Find out why they failed before you read latencies.", row.stage)


def _answer(found: Comparison) -> str:
    if any(doubt.severity == INVALID for doubt in found.doubts):
        return f"No valid comparison: {next(d.text for d in found.doubts if d.severity == INVALID)}"
    if found.is_kernels:
        return _kernel_answer(found)
    if found.broken:
        return f"Worse: {_first(found.broken, 'beyond the gate')}"
    worse = [row for row in found.judged if row.verdict == WORSE]
    better = [row for row in found.judged if row.verdict == BETTER]
    if worse:
        return f"Worse, but not shown to be by more than the gate allows: {_first(worse, 'worse')}"
    return f"Better: {_first(better, 'better')}" if better else _unchanged(found)


def _unchanged(found: Comparison) -> str:
    """That no difference is shown, or that nothing could be judged."""
    count = sum(row.effect is not None for row in found.judged)
    stages = len({row.stage for row in found.judged})
    where = "1 stage" if stages == 1 else f"{stages} stages"
    if not count:
        return f"Nothing can be told of {len(found.judged)} measures of {where}: {found.untold[0].reason}."
    return f"No difference shown in {count} measures of {where}."


def _kernel_answer(found: Comparison) -> str:
    """How many measurements changed, and the one that changed most."""
    timed = [row for row in found.judged if row.effect is not None]
    slower, faster = ([row for row in timed if row.verdict == verdict] for verdict in (WORSE, BETTER))
    lost = [row for row in found.broken if row.effect is None]
    if not slower and not faster and not lost:
        return f"No difference shown in {len(timed)} measurements of kernels."
    changed = sorted((*slower, *faster), key=lambda row: -abs(row.effect.estimate) if row.effect else 0.0)
    counts = f"{len(slower)} are slower, {len(faster)} faster and {len(lost)} lost"
    return f"Of {len(found.judged)} measurements of kernels {counts}: {told([*lost, *changed][0])}."


def _first(rows: Sequence[Row], what: str) -> str:
    """The row of the largest effect, and how many more there are."""
    row = max(rows, key=lambda one: abs(one.effect.estimate) if one.effect else float("inf"))
    more = f" {len(rows) - 1} more {'is' if len(rows) == 2 else 'are'} {what}." if len(rows) > 1 else ""
    return f"{told(row)}.{more}"
