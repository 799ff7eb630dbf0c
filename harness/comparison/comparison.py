"""What does a comparison of two results come to: rows, warnings, an answer and an exit code?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.analysis.warnings import INVALID, WARNING, Warning
from harness.comparison.comparability import (
    ChangedSetting,
    Incompatibility,
    align_measurements,
    changes,
    incompatibilities,
)
from harness.comparison.describe import describe_row, detectable_text
from harness.comparison.judging import (
    BETTER,
    MACHINE_CHANGED,
    NO_DIFFERENCE,
    NOT_VALID,
    SINGLE_RUNS,
    UNDETERMINED,
    WORSE,
    ComparisonRow,
    judge,
)
from harness.comparison.repeats import Repeat, Side
from harness.comparison.warnings import invalid_sides, machine_change, warnings_of_comparison
from harness.errors import EXIT_DONE, EXIT_GATE, EXIT_INVALID, InputError
from harness.messages import plain
from harness.scenario.gate import DEFAULT_GATE, KERNEL_GATE, Gate

NOT_JUDGED = "cannot be judged"  # of the whole, where a side is not valid


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, every measure of every stage, what else differs, and its warnings.

    `judged` are the rows that the gate names, `shown` the others; `name` and `question` are those
    of the scenario.
    """

    base: Side
    new: Side
    gate: Gate
    judged: Sequence[ComparisonRow]
    shown: Sequence[ComparisonRow]
    changes: Sequence[ChangedSetting]
    warnings: Sequence[Warning]

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
    def is_valid(self) -> bool:
        """Whether both sides are valid; where one is not, nothing is judged."""
        return all(warning.severity != INVALID for warning in self.warnings)

    @property
    def broken(self) -> Sequence[ComparisonRow]:
        """Measures that are worse by more than the gate allows."""
        return [row for row in self.judged if row.broken]

    @property
    def untold(self) -> Sequence[ComparisonRow]:
        """Measures that the gate names and that cannot be judged."""
        return [row for row in self.judged if row.effect is None and not row.broken]

    @property
    def exit_code(self) -> int:
        """1 where the gate is broken; 4 where it could judge nothing, or a gate of a file not all that it names."""
        if self.broken:
            return EXIT_GATE
        asked = self.gate not in (DEFAULT_GATE, KERNEL_GATE)
        unjudged = bool(self.untold) if asked else len(self.untold) == len(self.judged)
        return EXIT_INVALID if unjudged else EXIT_DONE

    @property
    def sees(self) -> str:
        """What it can see, in a sentence; empty where nothing was judged."""
        found = sorted(row.sees for row in self.judged if row.sees is not None)
        if not found:
            return ""
        least, most = detectable_text(found[0]), detectable_text(found[-1])
        if least == most:
            return f"This comparison can see changes of {least} and more."
        return (
            f"This comparison can see changes of {least} and more in its surest measure, "
            f"and of {most} and more in its least sure one."
        )

    @property
    def verdict(self) -> str:
        """One word or two for the whole: of what the gate names."""
        if not self.is_valid:
            return NOT_JUDGED
        words = {row.verdict for row in self.judged}
        both = {BETTER, WORSE} <= words
        if words == {UNDETERMINED}:
            return UNDETERMINED
        return "better and worse" if both else WORSE if WORSE in words else BETTER if BETTER in words else NO_DIFFERENCE

    @property
    def answer(self) -> str:
        """The comparison in one sentence."""
        body = _answer(self)
        return f"Simulated: {body}" if self.simulated else body


def compare(base: Side, new: Side, gate: Gate, *, anyway: bool = False, earlier: Sequence[Repeat] = ()) -> Comparison:
    """Two sides compared; `earlier` runs on this machine tell how far two runs of one configuration differ.

    Raises:
        InputError: where they are unlike, a line for each fact, unless `anyway`.
    """
    if base.is_kernels != new.is_kernels:
        raise InputError(f"{base.name} and {new.name}: one has kernels and the other requests; expected two of a kind")
    apart = incompatibilities(base, new)
    if apart and not anyway:
        raise InputError(*_refusal(base, new, apart))
    if base.is_kernels:
        base, new = align_measurements(*(_measured(side) for side in (base, new)))
    rows = judge(base, new, gate, earlier=earlier)
    if any(invalid_sides(base, new)):
        rows = [_withheld(row, NOT_VALID) for row in rows]
    elif base.is_kernels and machine_change(base, new):  # a kernel that is wrong or failed stays lost
        rows = [row if row.effect is None else _withheld(row, MACHINE_CHANGED) for row in rows]
    judged = [row for row in rows if row.allowed is not None]
    shown = [row for row in rows if row.allowed is None]
    if not judged:
        what = "measurement" if base.is_kernels else "measured stage"
        raise InputError(f"{base.name} and {new.name} share no {what}; expected two runs of one scenario")
    changed = changes(base, new)
    warnings = [
        *warnings_of_comparison(base, new, gate, rows, changed=changed, earlier=len(earlier)),
        *_unlike_warnings(apart),
    ]
    return Comparison(base, new, gate, judged, shown, changed, warnings)


def _withheld(row: ComparisonRow, reason: str) -> ComparisonRow:
    """A row without a verdict."""
    return replace(
        row,
        effect=None,
        verdict=UNDETERMINED,
        low=None,
        high=None,
        sees=None,
        broken=False,
        reason=reason,
        adjusted=False,
    )


def _measured(side: Side) -> Side:
    """A side of kernels, some of which were measured."""
    if not any(repeat.stages for repeat in side.repeats):
        device = side.repeats[0].summary["kernels"]["device"]
        why = " on a stand-in that computes nothing" if device["facts"].get("hollow") else ""
        raise InputError(f"{side.name}: nothing was measured{why}; expected a result of kernels that has times")
    return side


def _refusal(base: Side, new: Side, apart: Sequence[Incompatibility]) -> list[str]:
    lines = [f"{base.name} and {new.name} are not alike: {fact.text}" for fact in apart]
    lines[-1] += "; expected runs of one scenario on one device, or --anyway"
    return lines


def _unlike_warnings(apart: Sequence[Incompatibility]) -> Iterator[Warning]:
    if apart:
        facts = "; ".join(fact.text for fact in apart)
        yield Warning(
            "unlike",
            WARNING,
            plain(f"The two are not alike: {facts}."),
            plain("Compare runs that differ in one thing."),
        )


def _answer(found: Comparison) -> str:
    if not found.is_valid:
        return f"No valid comparison: {next(str(d.text) for d in found.warnings if d.severity == INVALID)}"
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
    if not count and all(row.reason == SINGLE_RUNS for row in found.untold):
        return "Cannot be judged from one run a side: run each 3 times, in turn."
    if not count:
        return f"Nothing can be told of {len(found.judged)} measures of {where}: {found.untold[0].reason}."
    return f"No difference shown in {count} measures of {where}."


def _kernel_answer(found: Comparison) -> str:
    """How many measurements changed, and the one that changed most."""
    timed = [row for row in found.judged if row.effect is not None]
    slower, faster = ([row for row in timed if row.verdict == verdict] for verdict in (WORSE, BETTER))
    lost = [row for row in found.broken if row.effect is None]
    if not timed and not lost:
        return _unchanged(found) if all(row.reason == SINGLE_RUNS for row in found.untold) else _untimed(found)
    if not slower and not faster and not lost:
        return f"No difference shown in {len(timed)} measurements of kernels."
    changed = sorted((*slower, *faster), key=lambda row: -abs(row.effect.estimate) if row.effect else 0.0)
    counts = f"{len(slower)} are slower, {len(faster)} faster and {len(lost)} lost"
    return f"Of {len(found.judged)} measurements of kernels {counts}: {describe_row([*lost, *changed][0])}."


def _untimed(found: Comparison) -> str:
    """That no time of a kernel could be judged."""
    if all(row.reason == MACHINE_CHANGED for row in found.untold):
        return f"Cannot be judged: {MACHINE_CHANGED}."
    return f"Nothing can be told of {len(found.judged)} measurements of kernels: {found.untold[0].reason}."


def _first(rows: Sequence[ComparisonRow], what: str) -> str:
    """The row of the largest effect, and how many more there are."""
    row = max(rows, key=lambda one: abs(one.effect.estimate) if one.effect else float("inf"))
    more = f" {len(rows) - 1} more {'is' if len(rows) == 2 else 'are'} {what}." if len(rows) > 1 else ""
    return f"{describe_row(row)}.{more}"
