"""Confirmation of the winner: the best few and the default measured again in turns, with an interval of the gain.

The best few and the default are measured again in turns: every round all of them, each round under
arrivals of its own that nothing was chosen by, every other round in reverse, so that a
slow drift of the machine cancels.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.messages import Message, message
from harness.tuning.candidates import cheapest_order
from harness.tuning.gains import DEFAULT, GainEstimate, choose_winner, drift_warning, gains_over_default, worst_message
from harness.tuning.posterior import engine_point
from harness.tuning.study import StudyContext
from harness.tuning.turns import ConfirmationTurn, Finalist, TurnOutcome, TurnRunner, confirmation_turns, turn_seed
from harness.tuning.types import LOAD, ParameterValue, Trial


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the confirmation showed, by who (0 the default, 1… the entrants): values round by round, gains, the choice.

    `broken` names who missed a limit in some round, `minutes` is the engine time that it took, in `starts`
    starts of an engine, those that failed too.
    """

    finalists: tuple[Finalist, ...]
    values: Mapping[int, tuple[float | None, ...]]
    gains: Mapping[int, GainEstimate]
    choice: int
    broken: Mapping[int, tuple[str, ...]]
    drift_warning: Message | None
    minutes: float
    starts: int = 0

    @property
    def winner(self) -> Finalist:
        """Who is taken: the default where no gain was shown."""
        return self.finalists[self.choice]

    @property
    def message(self) -> Message:
        """The gain of the best finalist in one line."""
        if not self.gains:
            return message("tuning.nothing_confirmed")
        best = self.choice or max(self.gains, key=lambda who: self.gains[who].ratio or 0.0)
        return worst_message(self.gains[best])


def finalists(context: StudyContext, trials: Sequence[Trial]) -> tuple[Finalist, ...]:
    """The default, the trial whose own run was best, and those with the best posterior, each engine once.

    The best of many runs was lucky as well as good: who is second by its own run may be neither.
    """
    default = context.proposer.default()
    ranked = [trial for trial in context.proposer.contenders(trials) if trial.origin != "default"]
    base = next((_load_of(trial) for trial in trials if trial.origin == "default"), {})
    selected = [Finalist(None, default, base)]
    engine_keys = {default.engine_key}
    for trial in ranked:
        candidate = context.resolver.candidate(engine_point(trial.point))
        if candidate is not None and candidate.engine_key not in engine_keys:
            engine_keys.add(candidate.engine_key)
            selected.append(Finalist(trial.number, candidate, _load_of(trial)))
    return tuple(selected[: context.plan.study.confirm.best + 1])


def _in_turn(finalists_: Sequence[Finalist]) -> list[int]:
    """The default, and after it the others so that each start costs little after the one before, in every round."""
    effective = [finalist.candidate.resolved.effective for finalist in finalists_]
    return [DEFAULT, *cheapest_order(range(1, len(finalists_)), lambda who: effective[who], effective[DEFAULT])]


def _load_of(trial: Trial) -> dict[str, ParameterValue]:
    return {name: value for name, value in trial.point.items() if name.startswith(LOAD + ".")}


def confirm(context: StudyContext, trials: Sequence[Trial]) -> Confirmation:
    """Measure all entrants in turns; an engine stays up where the next turn is its own."""
    selected = finalists(context, trials)
    seed = turn_seed(context.plan.study.seed)
    order = (
        confirmation_turns(_in_turn(selected), context.plan.study.confirm.repeats, seed) if len(selected) > 1 else ()
    )
    rounds: dict[int, list[float | None]] = {who: [] for who in range(len(selected))}
    broken: dict[int, set[str]] = {who: set() for who in range(len(selected))}
    minutes, starts = 0.0, 0
    with TurnRunner(context, "confirmation") as runner:
        for turn in order:
            outcome = runner.outcome(selected[turn.who], turn.seed, functools.partial(_turn_message, turn))
            minutes, starts = minutes + outcome.minutes, starts + outcome.starts
            rounds[turn.who].append(outcome.value)
            broken[turn.who] |= {*outcome.broken}
    gains = gains_over_default(rounds, context.plan.objectives[0])
    sound = {who: gain for who, gain in gains.items() if not broken[who]}
    defaults = [value for value in rounds[DEFAULT] if value is not None]
    return Confirmation(
        finalists=selected,
        values={who: tuple(values) for who, values in rounds.items()},
        gains=gains,
        choice=choose_winner(sound),
        broken={who: tuple(sorted(names)) for who, names in broken.items() if names},
        drift_warning=drift_warning(defaults) if len(defaults) == len(rounds[DEFAULT]) else None,
        minutes=minutes,
        starts=starts,
    )


def _turn_message(turn: ConfirmationTurn, outcome: TurnOutcome) -> Message:
    who = message("tuning.default") if turn.who == DEFAULT else message("tuning.candidate", number=turn.who)
    return message("tuning.confirmation_round", round=turn.round + 1, who=who, result=outcome.message)
