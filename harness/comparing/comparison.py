"""What does a comparison of two results come to: rows, doubts, an answer and an exit code?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.comparing.judging import BETTER, FEWEST_REPEATS, SAME, WORSE, Row, judge
from harness.comparing.likeness import Changed, Unlike, changes, pairs, unlike
from harness.comparing.sides import Side
from harness.comparing.telling import told
from harness.doubts import DOUBT, INVALID, NOTE, Doubt
from harness.errors import EXIT_DONE, EXIT_GATE, InputError
from harness.measures import FAILED_SHARE
from harness.scenario.gate import Gate
from harness.units import format_share

LEAST_FAILURES_APART = 0.01


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
    def broken(self) -> Sequence[Row]:
        """Measures that are worse by more than the gate allows."""
        return [row for row in self.judged if row.broken]

    @property
    def exit_code(self) -> int:
        """1 where the gate is broken."""
        return EXIT_GATE if self.broken else EXIT_DONE

    @property
    def verdict(self) -> str:
        """One word or two for the whole: of what the gate names."""
        words = {row.verdict for row in self.judged}
        both = {BETTER, WORSE} <= words
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
    apart = unlike(base, new)
    if apart and not anyway:
        raise InputError(*_refusal(base, new, apart))
    rows = judge(base, new, gate)
    judged = [row for row in rows if row.allowed is not None]
    shown = [row for row in rows if row.allowed is None]
    if not judged:
        raise InputError(f"{base.name} and {new.name} share no measured stage; expected two runs of one scenario")
    doubts = [*_doubts(base, new, gate, rows), *_unlike_doubts(apart)]
    return Comparison(base, new, gate, judged, shown, changes(base, new), doubts)


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


def _few_runs(base: Side, new: Side, gate: Gate) -> Iterator[Doubt]:
    counts = len(base.repeats), len(new.repeats)
    if min(counts) < FEWEST_REPEATS:
        text = (
            f"With {counts[0]} and {counts[1]} repeats, how far two runs of one engine differ cannot be seen; "
            f"{format_share(gate.between_runs)} is taken for it."
        )
        yield Doubt("few_repeats", DOUBT, text, "Run both in turn: harness run with --repeats 5 and --against.")
    if pairs(base, new) is None:
        text = "The repeats have no mates that sent the same requests, so what the load did to each counts as noise."
        yield Doubt("unpaired", NOTE, text, "Run both under the same seeds.")
    only = {number for repeat in base.repeats for number in repeat.stages} ^ {
        number for repeat in new.repeats for number in repeat.stages
    }
    if only:
        names = ", ".join(str(number) for number in sorted(only))
        yield Doubt("stages", DOUBT, f"Only one side measured stages {names} (from 0).", "Let both runs end.")


def _unjudged(rows: Sequence[Row]) -> Iterator[Doubt]:
    gated = [row for row in rows if row.allowed is not None]
    untold = [row for row in gated if row.effect is None and not row.broken]
    if untold:
        first = untold[0]
        text = (
            f"{len(untold)} of {len(gated)} measures of the gate cannot be judged; "
            f"{first.measure.key} at {first.label}: {first.reason}."
        )
        yield Doubt("not_judged", DOUBT, text, "Run the stages longer, or name other measures in the gate.")


def _failures(rows: Sequence[Row]) -> Iterator[Doubt]:
    for row in rows:
        if row.measure.metric != FAILED_SHARE or row.base is None or row.new is None:
            continue
        if abs(row.base - row.new) >= LEAST_FAILURES_APART:
            shares = f"{format_share(row.base)} of requests failed in BASE, {format_share(row.new)} in NEW"
            text = f"At {row.label} {shares}: latencies are of those that were answered, which are not the same."
            yield Doubt("failures", DOUBT, text, "Find out why they failed before you read latencies.", row.stage)


def _answer(found: Comparison) -> str:
    if any(doubt.severity == INVALID for doubt in found.doubts):
        return f"No valid comparison: {next(d.text for d in found.doubts if d.severity == INVALID)}"
    if found.broken:
        return f"Worse: {_first(found.broken, 'beyond the gate')}"
    worse = [row for row in found.judged if row.verdict == WORSE]
    better = [row for row in found.judged if row.verdict == BETTER]
    if worse:
        return f"Worse, but not shown to be by more than the gate allows: {_first(worse, 'worse')}"
    if better:
        return f"Better: {_first(better, 'better')}"
    count = sum(row.effect is not None for row in found.judged)
    stages = len({row.stage for row in found.judged})
    return f"No difference shown in {count} measures of {'1 stage' if stages == 1 else f'{stages} stages'}."


def _first(rows: Sequence[Row], what: str) -> str:
    """The row of the largest effect, and how many more there are."""
    row = max(rows, key=lambda one: abs(one.effect.estimate) if one.effect else float("inf"))
    more = f" {len(rows) - 1} more {'is' if len(rows) == 2 else 'are'} {what}." if len(rows) > 1 else ""
    return f"{told(row)}.{more}"
