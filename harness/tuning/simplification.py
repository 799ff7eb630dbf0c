"""The minimal winner: a confirmed winner without the flags that gain nothing, and what each of the rest is worth.

Flags that leave the engine's effective configuration as it is are removed without a measurement. What the simulator and
the model of all trials expect of the others decides in which order they are tried; measurements in turns decide which
of them go (see `harness.tuning.elimination`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.messages import Message, message
from harness.scenario.study import Simplify
from harness.tuning.candidates import Candidate
from harness.tuning.confirmation import Confirmation
from harness.tuning.elimination import (
    COSTS,
    Elimination,
    EliminationRules,
    Flags,
    RoundValue,
    effect_of_single,
    eliminate,
    removal_margin,
    verdicts,
)
from harness.tuning.gains import GainEstimate
from harness.tuning.space import Space, is_active
from harness.tuning.study import StudyContext, claim_digest
from harness.tuning.turns import Finalist, TurnOutcome, TurnRunner, turn_seed
from harness.tuning.types import LOAD, ParameterValue, Trial, TunableParameter

_PLAN = "harness_simplification"  # the order of the flags, as it was when the first of them was tried
SAME, EQUAL, ONLY = "same", "equal", "only"
"""How a flag fared beside those that were measured: the engine is the same without it; its value is the default's, too;
it is the only one."""


@dataclass(frozen=True, slots=True)
class FlagOutcome:
    """What became of one flag of the winner.

    `value` is the winner's, `default` the engine's own (None: unknown). `verdict` is SAME, EQUAL, ONLY, or that of its
    last test in `harness.tuning.elimination`. `effect` compares the minimal winner without it with the minimal winner:
    None where it was removed, or where the budget did not reach to it.
    """

    name: str
    value: ParameterValue
    default: ParameterValue | None
    kept: bool
    verdict: str
    effect: GainEstimate | None = None


@dataclass(frozen=True, slots=True)
class MinimalWinner:
    """A winner with no more flags than it needs, and the gain of that over the default."""

    finalist: Finalist
    gain: GainEstimate
    flags: tuple[FlagOutcome, ...]
    elimination: Elimination
    rules: Simplify
    minutes: float
    starts: int

    @property
    def removed(self) -> tuple[str, ...]:
        """The flags that were removed though they set something."""
        return tuple(flag.name for flag in self.flags if not flag.kept and flag.verdict != EQUAL)

    @property
    def equal(self) -> tuple[str, ...]:
        """The flags whose values are the default's."""
        return tuple(flag.name for flag in self.flags if flag.verdict == EQUAL)


def simplify(context: StudyContext, trials: Sequence[Trial], confirmation: Confirmation) -> MinimalWinner | None:
    """Remove from the winner what gains nothing; None where the default stays, or the study keeps all flags."""
    rules = context.plan.study.simplify
    if rules is None or confirmation.winner.number is None:
        return None
    reduced = _Reductions(context, confirmation.finalists[0], confirmation.winner)
    same = _same_without(reduced)
    flags, likely_free = _planned(context, trials, reduced, same)
    gain = confirmation.gains[confirmation.choice]
    with TurnRunner(context, "simplification") as runner:
        rounds = _Rounds(context, runner, reduced)
        limits = EliminationRules(rules.margin, rules.repeats, rules.measurements)
        result = eliminate(flags, likely_free, (context.plan.objectives[0], gain), limits, rounds.measure)
    finalist = reduced.finalist(result.kept)
    assert finalist is not None
    outcomes = tuple(_outcomes(reduced, result, gain))
    return MinimalWinner(finalist, result.gain or gain, outcomes, result, rules, rounds.minutes, rounds.starts)


@dataclass(slots=True)
class _Reductions:
    """Configurations between the default and the winner, by the names of the winner's flags that they keep."""

    context: StudyContext
    default: Finalist
    winner: Finalist

    @property
    def names(self) -> Flags:
        """The winner's flags in the order of the space."""
        point = self.winner.candidate.point
        return tuple(name for name in point if not name.startswith(LOAD + "."))

    def point(self, flags: Sequence[str]) -> dict[str, ParameterValue]:
        """The winner's values of some flags; those whose condition does not hold any more are left out."""
        space = self.context.plan.space
        values = {**space.fixed, **self.default.candidate.point}
        point: dict[str, ParameterValue] = {}
        for parameter in _named(space, flags):
            if is_active(parameter, values | point):
                point[parameter.name] = self.winner.candidate.point[parameter.name]
        return point

    def full_point(self, flags: Sequence[str]) -> dict[str, ParameterValue]:
        """The same with the default's values of all other flags."""
        return {**self.default.candidate.point, **self.point(flags)}

    def finalist(self, flags: Flags) -> Finalist | None:
        """Who serves with these flags alone; None where a derived value cannot be computed without the others."""
        if not flags:
            return self.default
        candidate = self.context.resolver.candidate(self.point(flags))
        return None if candidate is None else Finalist(self.winner.number, candidate, self.winner.load)


def _named(space: Space, names: Sequence[str]) -> Iterator[TunableParameter]:
    return (parameter for parameter in space.parameters if parameter.name in names)


def _same_without(reduced: _Reductions) -> Flags:
    """Flags without which the engine's effective configuration is the same, alone and all together."""
    names, key = reduced.names, reduced.winner.candidate.engine_key
    each = {name: tuple(other for other in names if other != name) for name in names}
    reduced.context.resolver.candidates([reduced.point(rest) for rest in each.values()])  # all at once: it may be slow
    same: list[str] = []
    for name in names:
        finalist = reduced.finalist(each[name])
        rest = tuple(other for other in names if other not in (*same, name))
        if finalist is None or finalist.candidate.engine_key != key or not rest:
            continue
        together = reduced.finalist(rest)
        if together is not None and together.candidate.engine_key == key:
            same.append(name)
    return tuple(same)


def _planned(context: StudyContext, trials: Sequence[Trial], reduced: _Reductions, same: Flags) -> tuple[Flags, Flags]:
    """The flags in the order in which they are tried, and those that are expected to be free.

    As it was planned before an interruption: what is expected depends on the way there.
    """
    winner = claim_digest(reduced.winner.candidate.key)
    known = context.store.attribute(_PLAN) or {}
    if known.get("winner") == winner:
        return tuple(known["flags"]), tuple(known["free"])
    flags, free = _expected(context, trials, reduced, same)
    context.store.set_attribute(_PLAN, {"winner": winner, "flags": list(flags), "free": list(free)})
    return flags, free


def _expected(context: StudyContext, trials: Sequence[Trial], reduced: _Reductions, same: Flags) -> tuple[Flags, Flags]:
    """By the loss that the simulator and the trials' model expect of each flag's removal, the least first."""
    rules = context.plan.study.simplify or Simplify()
    names = tuple(name for name in reduced.names if name not in same)
    without = {name: tuple(other for other in names if other != name) for name in names}
    smaller = {name: finalist for name in names if (finalist := reduced.finalist(without[name])) is not None}
    whole = reduced.finalist(names)
    if len(names) < 2 or whole is None:
        return names, ()
    engines = [(reduced.full_point(without[name]), smaller[name].candidate) for name in smaller]
    costs = context.proposer.expected_costs(trials, [(reduced.full_point(names), whole.candidate), *engines])
    losses = dict(zip(smaller, (costs[1:] - costs[0]).tolist(), strict=True))
    losses |= {name: 0.0 for name in smaller if _go_alike(context, smaller[name].candidate, whole.candidate)}
    order = sorted(names, key=lambda name: losses.get(name, np.inf))
    margin = rules.margin
    return tuple(order), tuple(name for name in order if losses.get(name, np.inf) < margin)


def _go_alike(context: StudyContext, candidate: Candidate, other: Candidate) -> bool:
    """Whether the simulator sees two engines go step by step alike under the load; false without a simulator."""
    screener = context.proposer.screener
    signature = None if screener is None else screener.step_signature(candidate)
    return screener is not None and signature is not None and signature == screener.step_signature(other)


class _Rounds:
    """Measures the rounds of an elimination, and adds up what they take."""

    def __init__(self, context: StudyContext, runner: TurnRunner, reduced: _Reductions) -> None:
        self._context, self._runner, self._reduced = context, runner, reduced
        self._rules = context.plan.study.simplify or Simplify()
        self.minutes, self.starts, self._count = 0.0, 0, 0

    def measure(self, block: int, number: int, configurations: Sequence[Flags]) -> list[RoundValue]:
        """One round of a block; every other one in reverse."""
        if number == 0 and self._context.tracker is not None:
            self._context.tracker.expect_turns(len(configurations) * self._rules.repeats)
        seed = turn_seed(self._context.plan.study.seed, block) + number
        values: dict[Flags, RoundValue] = {}
        for flags in configurations if number % 2 == 0 else reversed(configurations):
            values[flags] = self._value(flags, seed)
        return [values[flags] for flags in configurations]

    def _value(self, flags: Flags, seed: int) -> RoundValue:
        self._count += 1
        finalist = self._reduced.finalist(flags)
        refusal = message("tuning.not_without") if finalist is None else finalist.candidate.resolved.refusal
        if finalist is None or refusal is not None:
            return RoundValue(None, (), refusal)
        outcome = self._runner.outcome(
            finalist, seed, partial(_turn_message, (self._count, self._rules.measurements), flags)
        )
        self.minutes += outcome.minutes
        self.starts += outcome.starts
        return RoundValue(outcome.value, outcome.broken, outcome.failure)


def _turn_message(place: tuple[int, int], flags: Flags, outcome: TurnOutcome) -> Message:
    """A measurement in one line: the how-maniest it is, and of how many at most."""
    who = message("tuning.with_flags", flags=list(flags)) if flags else message("tuning.default")
    return message("tuning.simplification_turn", number=place[0], most=place[1], who=who, result=outcome.message)


def _outcomes(reduced: _Reductions, result: Elimination, gain: GainEstimate) -> Iterator[FlagOutcome]:
    """What became of each flag of the winner, those that are kept first."""
    ended = verdicts(result.tests)
    point, default = reduced.winner.candidate.point, reduced.default.candidate.point
    single = len(result.kept) == 1
    for name in sorted(reduced.names, key=lambda name: name not in result.kept):
        kept = name in result.kept
        effect = result.effects.get(name)
        if kept and single and effect is None:
            effect = effect_of_single(result.gain or gain)
        free = EQUAL if default.get(name) == point[name] else SAME
        verdict = ended.get(name, ONLY if kept and single else COSTS if kept else free)
        yield FlagOutcome(name, point[name], default.get(name), kept, verdict, effect)


def stated_margin(rules: Simplify, gain: GainEstimate) -> float:
    """The margin that holds for a winner, as a share."""
    return float(-np.expm1(-removal_margin(rules.margin, gain)))
