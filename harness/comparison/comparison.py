"""The comparison of two results: its rows, its warnings, an answer and an exit code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis.warnings import INVALID, Warning
from harness.comparison.comparability import (
    ChangedSetting,
    Incompatibility,
    align_measurements,
    changed_settings,
    incompatibilities,
)
from harness.comparison.describe import describe_row
from harness.comparison.judging import (
    BETTER,
    BOTH,
    MACHINE_CHANGED,
    NO_DIFFERENCE,
    NOT_JUDGED,
    NOT_VALID,
    SINGLE_RUNS,
    UNDETERMINED,
    WORSE,
    ComparisonRow,
    judge,
)
from harness.comparison.repeats import Repeat, Side
from harness.comparison.warnings import invalid_sides, machine_change, unlike_sides, warnings_of_comparison
from harness.errors import EXIT_DONE, EXIT_GATE, EXIT_INVALID, InputError
from harness.messages import Message, message, sentences
from harness.scenario.gate import DEFAULT_GATE, KERNEL_GATE, Gate


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
    def unjudged(self) -> Sequence[ComparisonRow]:
        """Measures that the gate names and that cannot be judged."""
        return [row for row in self.judged if row.effect is None and not row.broken]

    @property
    def exit_code(self) -> int:
        """1 where the gate is broken; 4 where it could judge nothing, or a gate of a file not all that it names."""
        if self.broken:
            return EXIT_GATE
        is_given = self.gate not in (DEFAULT_GATE, KERNEL_GATE)
        lacks = bool(self.unjudged) if is_given else len(self.unjudged) == len(self.judged)
        return EXIT_INVALID if lacks else EXIT_DONE

    @property
    def sensitivity(self) -> Message | None:
        """The changes that it can detect, in a sentence; None where nothing was judged."""
        shares = sorted(row.detectable for row in self.judged if row.detectable is not None)
        if not shares:
            return None
        least, most = (round(100 * share, 1) for share in (shares[0], shares[-1]))
        if least == most:
            return message("comparison.detects", least=least)
        return message("comparison.detects_range", least=least, most=most)

    @property
    def verdict(self) -> str:
        """One word or two for the whole, of what the gate names, as compare.json has it."""
        if not self.is_valid:
            return NOT_JUDGED
        verdicts = {row.verdict for row in self.judged}
        if verdicts == {UNDETERMINED}:
            return UNDETERMINED
        if {BETTER, WORSE} <= verdicts:
            return BOTH
        return next((verdict for verdict in (WORSE, BETTER) if verdict in verdicts), NO_DIFFERENCE)

    @property
    def answer(self) -> Message:
        """The comparison in one sentence."""
        answer = _answer(self)
        return message("comparison.simulated_answer", answer=answer) if self.simulated else answer


def compare(base: Side, new: Side, gate: Gate, *, anyway: bool = False, earlier: Sequence[Repeat] = ()) -> Comparison:
    """Two sides compared; `earlier` runs on this machine show how far two runs of one configuration differ.

    Raises:
        InputError: where they are not comparable, a line for each fact, unless `anyway`.
    """
    names = {"base": base.name, "new": new.name}
    if base.is_kernels != new.is_kernels:
        raise InputError(message("comparison.two_kinds", **names))
    incompatible = incompatibilities(base, new)
    if incompatible and not anyway:
        raise InputError(*_refusal(base, new, incompatible))
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
        code = "comparison.no_shared_measurement" if base.is_kernels else "comparison.no_shared_stage"
        raise InputError(message(code, **names))
    changed = changed_settings(base, new)
    warnings = [
        *warnings_of_comparison(base, new, gate, rows, changed=changed, earlier=len(earlier)),
        *unlike_sides(incompatible),
    ]
    return Comparison(base, new, gate, judged, shown, changed, warnings)


def _withheld(row: ComparisonRow, reason: Message) -> ComparisonRow:
    """A row without a verdict."""
    return replace(
        row,
        effect=None,
        verdict=UNDETERMINED,
        low=None,
        high=None,
        detectable=None,
        broken=False,
        reason=reason,
        adjusted=False,
    )


def _measured(side: Side) -> Side:
    """A side of kernels, some of which were measured."""
    if not any(repeat.stages for repeat in side.repeats):
        is_stub = side.repeats[0].summary["kernels"]["device"]["facts"].get("hollow")
        code = "comparison.nothing_measured_on_stub" if is_stub else "comparison.nothing_measured"
        raise InputError(message(code, side=side.name))
    return side


def _refusal(base: Side, new: Side, incompatible: Sequence[Incompatibility]) -> list[Message]:
    lines = [
        message("comparison.not_comparable", base=base.name, new=new.name, fact=fact.text) for fact in incompatible
    ]
    return [*lines[:-1], message("comparison.not_comparable_last", line=lines[-1])]


def _answer(comparison: Comparison) -> Message:
    if not comparison.is_valid:
        reason = next(warning.text for warning in comparison.warnings if warning.severity == INVALID)
        return message("comparison.answer_invalid", reason=reason)
    if comparison.is_kernels:
        return _kernel_answer(comparison)
    if comparison.broken:
        return _headline("comparison.answer_broken", "comparison.more_broken", comparison.broken)
    worse = [row for row in comparison.judged if row.verdict == WORSE]
    better = [row for row in comparison.judged if row.verdict == BETTER]
    if worse:
        return _headline("comparison.answer_worse", "comparison.more_worse", worse)
    return _headline("comparison.answer_better", "comparison.more_better", better) if better else _unchanged(comparison)


def _headline(code: str, more_code: str, rows: Sequence[ComparisonRow]) -> Message:
    """The row of the largest effect, and how many more there are."""
    largest = max(rows, key=lambda row: abs(row.effect.estimate) if row.effect else float("inf"))
    first = message(code, row=describe_row(largest))
    return sentences(first, message(more_code, count=len(rows) - 1)) if len(rows) > 1 else first


def _unchanged(comparison: Comparison) -> Message:
    """That there is no significant difference, or that nothing could be judged."""
    judged = sum(row.effect is not None for row in comparison.judged)
    stages = message("comparison.in_stages", count=len({row.stage for row in comparison.judged}))
    if not judged and all(row.reason == SINGLE_RUNS for row in comparison.unjudged):
        return message("comparison.answer_single_runs")
    if not judged:
        reason = comparison.unjudged[0].reason
        return message("comparison.answer_undetermined", count=len(comparison.judged), stages=stages, reason=reason)
    return message("comparison.answer_no_difference", count=judged, stages=stages)


def _kernel_answer(comparison: Comparison) -> Message:
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
