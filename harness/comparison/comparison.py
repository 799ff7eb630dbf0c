"""The comparison of two results: its rows, its warnings, an answer and an exit code."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis.warnings import INVALID, Warning
from harness.comparison.comparability import ChangedSetting, Incompatibility, changed_settings
from harness.comparison.engines import EngineDifference, engine_changes
from harness.comparison.judging import (
    BETTER,
    BOTH,
    MACHINE_CHANGED,
    MOST_DETECTABLE,
    NO_DIFFERENCE,
    NOT_JUDGED,
    NOT_VALID,
    UNDETERMINED,
    WORSE,
    ComparisonRow,
    judge,
)
from harness.comparison.repeats import Repeat, ResultKind, Side
from harness.comparison.warnings import invalid_sides, machine_change, unlike_sides, warnings_of_comparison
from harness.errors import EXIT_DONE, EXIT_GATE, EXIT_INVALID, InputError
from harness.messages import Message, Parameter, message
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
    def kind(self) -> ResultKind:
        """What is compared: requests or kernels."""
        return self.base.kind

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
    def engines(self) -> Sequence[EngineDifference]:
        """The engines that both sides have, matched by name; none where there were not several."""
        return engine_changes(self.base, self.new)

    @property
    def sensitivity(self) -> Message | None:
        """The changes that it can detect, in a sentence; None where nothing was judged."""
        known = [row for row in self.judged if row.detectable is not None]
        shares = sorted(row.detectable or 0.0 for row in known if not row.is_blind)
        if not known:
            return None
        repeats = min(len(self.base.repeats), len(self.new.repeats))
        limit: dict[str, Parameter] = {"repeats": repeats, "limit": 100 * MOST_DETECTABLE}
        if not shares:
            return message("comparison.detects_nothing", **limit)
        least, most = (round(100 * share, 1) for share in (shares[0], shares[-1]))
        if len(shares) < len(known):
            return message("comparison.detects_some", least=least, **limit)
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
    if base.kind is not new.kind:
        raise InputError(message("comparison.two_kinds", **names))
    incompatible = base.kind.incompatibilities(base, new)
    if incompatible and not anyway:
        raise InputError(*_refusal(base, new, incompatible))
    for side in (base, new):
        side.kind.refuse_empty(side)
    base, new = base.kind.aligned(base, new)
    rows = judge(base, new, gate, earlier=earlier)
    if any(invalid_sides(base, new)):
        rows = [_withheld(row, NOT_VALID) for row in rows]
    elif machine_change(base, new):  # a kernel that is wrong or failed stays lost
        rows = [row if row.effect is None else _withheld(row, MACHINE_CHANGED) for row in rows]
    judged = [row for row in rows if row.allowed is not None]
    shown = [row for row in rows if row.allowed is None]
    if not judged:
        raise InputError(base.kind.nothing_shared(base, new))
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


def _refusal(base: Side, new: Side, incompatible: Sequence[Incompatibility]) -> list[Message]:
    lines = [
        message("comparison.not_comparable", base=base.name, new=new.name, fact=fact.text) for fact in incompatible
    ]
    return [*lines[:-1], message("comparison.not_comparable_last", line=lines[-1])]


def _answer(comparison: Comparison) -> Message:
    if not comparison.is_valid:
        reason = next(warning.text for warning in comparison.warnings if warning.severity == INVALID)
        return message("comparison.answer_invalid", reason=reason)
    return comparison.kind.answer(comparison)
