"""Elimination of flags that gain nothing: which of a winner's flags are needed, and what each of them is worth.

A flag is removed where the configuration without it was measured in turns with the winner and the interval of their
ratio stays above 1 - margin: it is not worse by more than the margin (non-inferiority). The winner itself is what
every smaller configuration is held against, so that small losses cannot add up beyond the margin. Flags that are
expected to be free are first removed all at once; then each alone, those that are expected to cost least first. At the
end the default, the minimal winner and the minimal winner without each of its flags are measured in turns, on arrivals
that nothing was chosen by.

Nothing here starts an engine: a function measures rounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.messages import Message
from harness.tuning.gains import GainEstimate, estimate_gain
from harness.tuning.types import StudyObjective

Flags = tuple[str, ...]
"""A configuration by the names of the winner's flags that it keeps; () is the default."""

FREE, COSTS, UNDECIDED, BROKEN, FAILED, UNTESTED = "free", "costs", "undecided", "broken", "failed", "untested"
"""How removing a flag ended: no loss beyond the margin; a loss; neither shown; a limit was broken; the engine failed;
the budget was spent before."""
_LOOKS = (1, 2)  # times the repeats: where the first look decides nothing, there is a second one
_MOST_OF_GAIN = 0.5  # a margin never gives away more of the gain


@dataclass(frozen=True, slots=True)
class RoundValue:
    """What one configuration showed in one round: its value (None: it failed, by `failure`), the limits it broke."""

    value: float | None
    broken: tuple[str, ...] = ()
    failure: Message | None = None


MeasureRound = Callable[[int, int, Sequence[Flags]], Sequence[RoundValue]]
"""The number of a block, of a round in it, and configurations: one value each, all under the same arrivals."""


@dataclass(frozen=True, slots=True)
class EliminationRules:
    """How flags are removed: the loss that counts as none (a share), rounds a look, and the most measurements."""

    margin: float
    repeats: int
    measurements: int


@dataclass(frozen=True, slots=True)
class RemovalTest:
    """Some flags set back to the default, held against the winner with all its flags, and how that ended.

    `loss` compares the configuration without them with the winner: a ratio below 1 is a loss. `broken` are limits that
    it missed, `failure` is why its engine failed.
    """

    removed: Flags
    verdict: str
    loss: GainEstimate
    broken: tuple[str, ...] = ()
    failure: Message | None = None


@dataclass(slots=True)
class Elimination:
    """What became of a winner's flags, in the order of the study's space.

    `gain` is that of the kept flags over the default, `effects` by flag what is lost when it alone is set back; both
    are None, or missing, where the budget did not reach to the last block. `spent` says that the budget ended it.
    """

    kept: Flags
    removed: Flags = ()
    tests: list[RemovalTest] = field(default_factory=list)
    gain: GainEstimate | None = None
    effects: dict[str, GainEstimate] = field(default_factory=dict)
    measurements: int = 0
    spent: bool = False


def removal_margin(margin: float, gain: GainEstimate) -> float:
    """The margin as a loss of the logarithm: as stated, but never more than half of the winner's gain."""
    gained = math.log(gain.ratio) if gain.ratio is not None and gain.ratio > 1 else 0.0
    return min(-math.log1p(-margin), _MOST_OF_GAIN * gained)


def verdict_of(loss: GainEstimate, margin: float) -> str:
    """Whether a loss is none (its interval stays above the margin), is one, or is not decided."""
    if loss.low is None or loss.high is None:
        return UNDECIDED
    if math.log(loss.low) > -margin:
        return FREE
    return COSTS if math.log(loss.high) < 0 else UNDECIDED


def eliminate(
    flags: Sequence[str],
    likely_free: Sequence[str],
    confirmed: tuple[StudyObjective, GainEstimate],
    rules: EliminationRules,
    measure: MeasureRound,
) -> Elimination:
    """Remove what gains nothing, and measure what the rest is worth.

    `flags` stand in the order in which they are tried, `likely_free` are those of them that are expected to change
    nothing; `confirmed` is the objective and the winner's gain over the default.
    """
    return _Run(tuple(flags), *confirmed, rules, measure).carried_out(tuple(likely_free))


@dataclass(slots=True)
class _Run:
    """An elimination under way."""

    flags: Flags
    objective: StudyObjective
    confirmed: GainEstimate
    rules: EliminationRules
    measure: MeasureRound
    blocks: int = 0
    result: Elimination = field(init=False)

    def __post_init__(self) -> None:
        self.result = Elimination(self.flags)

    def carried_out(self, likely_free: Flags) -> Elimination:
        """All tests, and the last block."""
        likely_free = likely_free[: len(self.flags) - 1]
        if len(likely_free) > 1 and self._is_free(likely_free):
            self._remove(likely_free)
        for name in self.flags:
            if len(self.result.kept) > 1 and name in self.result.kept and self._is_free((name,)):
                self._remove((name,))
        self._measure_effects()
        return self.result

    def _remove(self, names: Flags) -> None:
        self.result.kept = _without(self.result.kept, names)
        self.result.removed += names

    def _is_free(self, names: Flags) -> bool:
        """Test the flags that are kept so far without these; whether nothing is lost."""
        if not self._affords(2 * self.rules.repeats, last_block=True):
            self.result.tests.append(RemovalTest(names, UNTESTED, GainEstimate(None, None, None, 0)))
            return False
        test = self._tested(names)
        self.result.tests.append(test)
        return test.verdict == FREE

    def _affords(self, loads: int, *, last_block: bool) -> bool:
        """Whether the budget has so many measurements left, those of the last block kept aside."""
        reserve = (len(self.result.kept) + 2) * self.rules.repeats if last_block and self._needs_last_block() else 0
        enough = self.result.measurements + loads + reserve <= self.rules.measurements
        self.result.spent |= not enough
        return enough

    def _needs_last_block(self) -> bool:
        return len(self.flags) > 1

    def _tested(self, names: Flags) -> RemovalTest:
        pair = (self.flags, _without(self.result.kept, names))
        values: list[list[RoundValue]] = [[], []]
        block, test = self._new_block(), RemovalTest(names, UNDECIDED, GainEstimate(None, None, None, 0))
        margin = removal_margin(self.rules.margin, self.confirmed)
        for look in _LOOKS:
            if look > 1 and not self._affords(2 * self.rules.repeats, last_block=True):
                break
            self._measure_rounds(block, pair, values, look * self.rules.repeats)
            test = self._judged(names, values, margin)
            if test.verdict != UNDECIDED:
                break
        return test

    def _new_block(self) -> int:
        self.blocks += 1
        return self.blocks

    def _measure_rounds(
        self, block: int, configurations: Sequence[Flags], values: list[list[RoundValue]], until: int
    ) -> None:
        """Rounds up to that number; the smaller configuration's failure, or a limit that it breaks, ends them."""
        while len(values[0]) < until:
            measured = self.measure(block, len(values[0]), configurations)
            self.result.measurements += len(configurations)
            for column, value in zip(values, measured, strict=True):
                column.append(value)
            if len(configurations) == 2 and _is_unfit(measured[1]):
                return

    def _judged(self, names: Flags, values: Sequence[Sequence[RoundValue]], margin: float) -> RemovalTest:
        loss = estimate_gain(_numbers(values[0]), _numbers(values[1]), self.objective)
        broken = tuple(sorted({limit for value in values[1] for limit in value.broken}))
        failure = next((value.failure for value in values[1] if value.value is None), None)
        if any(value.value is None for value in values[1]):
            return RemovalTest(names, FAILED, loss, broken, failure)
        return RemovalTest(names, BROKEN if broken else verdict_of(loss, margin), loss, broken)

    def _measure_effects(self) -> None:
        """What each kept flag is worth, and what all of them gain: from tests where these hold it, else measured."""
        kept, result = self.result.kept, self.result
        if not result.removed and len(kept) > 1:
            result.effects = {
                test.removed[0]: test.loss
                for test in result.tests
                if len(test.removed) == 1 and test.loss.ratio is not None
            }
        if len(self.flags) == 1 or (not result.removed and set(result.effects) == set(kept)):
            return
        smaller = [_without(kept, (name,)) for name in kept] if len(kept) > 1 else []
        configurations = [(), kept, *smaller]
        if not self._affords(len(configurations) * self.rules.repeats, last_block=False):
            return
        values: list[list[RoundValue]] = [[] for _ in configurations]
        self._measure_rounds(self._new_block(), configurations, values, self.rules.repeats)
        numbers = [_numbers(column) for column in values]
        result.gain = estimate_gain(numbers[0], numbers[1], self.objective)
        compared = numbers[2:] or numbers[:1]
        result.effects = {
            name: estimate_gain(numbers[1], column, self.objective) for name, column in zip(kept, compared, strict=True)
        }


def _without(flags: Flags, names: Flags) -> Flags:
    return tuple(name for name in flags if name not in names)


def _is_unfit(value: RoundValue) -> bool:
    return value.value is None or bool(value.broken)


def _numbers(column: Sequence[RoundValue]) -> list[float | None]:
    return [value.value for value in column]


def effect_of_single(gain: GainEstimate) -> GainEstimate:
    """What is lost when a winner's only flag is set back: its gain, turned round."""
    low, high = (None if end is None else 1 / end for end in (gain.high, gain.low))
    ratio = None if gain.ratio is None else 1 / gain.ratio
    return GainEstimate(
        ratio, low, high, gain.rounds, None, None, gain.failed, gain.after, gain.before, gain.name, gain.minimised
    )


def verdicts(tests: Sequence[RemovalTest]) -> Mapping[str, str]:
    """How the last test of each flag ended."""
    return {name: test.verdict for test in tests for name in test.removed}
