"""Confirmation of the winner: the best few and the default measured again in turns, with an interval of the gain.

The best few and the default are measured again in turns: every round all of them, each round under
arrivals of its own that nothing was chosen by, every other round in reverse, so that a
slow drift of the machine cancels.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.messages import Message, message
from harness.tuning.candidates import Candidate, canonical_json, cheapest_order
from harness.tuning.evaluation import EngineSession, EvaluationContext, StartFailed, measure_load
from harness.tuning.gains import DEFAULT, GainEstimate, choose_winner, drift_warning, gains_over_default
from harness.tuning.posterior import engine_point
from harness.tuning.study import StudyContext, claim_digest
from harness.tuning.study_plan import TrialScores
from harness.tuning.types import LOAD, ParameterValue, Trial


@dataclass(frozen=True, slots=True)
class ConfirmationTurn:
    """One measurement of the confirmation: which round, who (0: the default, 1…: a candidate), under which seed."""

    round: int
    who: int
    seed: int


def confirmation_turns(order: Sequence[int], rounds: int, seed: int) -> tuple[ConfirmationTurn, ...]:
    """All measurements of those in `order`: each round goes through it the other way than the one before."""
    return tuple(
        ConfirmationTurn(number, who, seed + number)
        for number in range(rounds)
        for who in (order if number % 2 == 0 else reversed(order))
    )


_TURNS = "harness_turns"  # of the confirmation
_FRESH = 1_000_003  # so far from the trials' seed are those of the confirmation


@dataclass(frozen=True, slots=True)
class Finalist:
    """Who is confirmed: the trial that it was (number None: the default), its engine and its load."""

    number: int | None
    candidate: Candidate
    load: Mapping[str, ParameterValue]


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
        gain = self.gains[best]
        return gain.message if gain.worst is None else message("tuning.gain_worst", gain=gain.message, worst=gain.worst)


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
    seed = (context.plan.study.seed + _FRESH) % 2**63
    order = (
        confirmation_turns(_in_turn(selected), context.plan.study.confirm.repeats, seed) if len(selected) > 1 else ()
    )
    rounds: dict[int, list[float | None]] = {who: [] for who in range(len(selected))}
    broken: dict[int, set[str]] = {who: set() for who in range(len(selected))}
    minutes, starts = 0.0, 0
    with _Engines(context) as engines:
        for turn in order:
            outcome = _turn_outcome(context, engines, selected[turn.who], turn)
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


@dataclass(frozen=True, slots=True)
class _TurnOutcome:
    """One turn's value (None: it failed), the limits that it broke, its minutes and engine starts."""

    value: float | None
    broken: tuple[str, ...]
    minutes: float
    starts: int


def _turn_outcome(
    context: StudyContext, engines: "_Engines", finalist: Finalist, turn: ConfirmationTurn
) -> _TurnOutcome:
    """A turn as it was stored before the study was interrupted, or measured and stored now."""
    name = f"{turn.seed} {claim_digest(canonical_json(finalist.load) + finalist.candidate.key)[:16]}"
    recorded = context.store.attribute(_TURNS) or {}
    if name in recorded:
        known = recorded[name]
        return _TurnOutcome(known["value"], tuple(known["broken"]), known["minutes"], known.get("starts", 0))
    before = engines.starts
    scores, minutes = engines.measured(finalist, turn.who, turn.seed)
    starts = engines.starts - before
    value = None if scores is None else scores.values[context.plan.objectives[0].name]
    broken = tuple(limit for limit, by in (scores.violations if scores else {}).items() if by > 0)
    stored = {"value": value, "broken": broken, "minutes": minutes, "starts": starts}
    context.store.set_attribute(_TURNS, {**recorded, name: stored})
    context.on_progress(_turn_message(turn, value))
    return _TurnOutcome(value, broken, minutes, starts)


def _turn_message(turn: ConfirmationTurn, value: float | None) -> Message:
    who = message("tuning.default") if turn.who == DEFAULT else message("tuning.candidate", number=turn.who)
    result = message("tuning.turn_failed") if value is None else message("tuning.turn_value", value=value)
    return message("tuning.confirmation_round", round=turn.round + 1, who=who, result=result)


class _Engines:
    """One engine at a time, kept up for as long as the turns are its own."""

    def __init__(self, context: StudyContext) -> None:
        self._context = context
        self._stack = ExitStack()
        self._session: EngineSession | None = None
        self._who: int | None = None
        self._starts = 0

    def __enter__(self) -> "_Engines":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measured(self, entrant: Finalist, who: int, seed: int) -> tuple[TrialScores | None, float]:
        """Values of one turn (None: it failed), and the minutes that it took."""
        context = self._context
        try:
            minutes = self._turn_to(entrant, who)
            evaluation = EvaluationContext(context.plan, context.evaluator, (), seed, self._folder)
            assert self._session is not None
            measured = measure_load(evaluation, self._session, entrant.load)
        except StartFailed as fault:
            self._stack.close()
            self._who = None
            return None, fault.minutes
        return measured.verdict, minutes + measured.minutes.load

    @property
    def starts(self) -> int:
        """How many engines were started so far."""
        return self._starts

    @property
    def _folder(self) -> Path:
        return self._context.folder / "confirmation" / f"start-{self._starts}"

    def _turn_to(self, entrant: Finalist, who: int) -> float:
        """Have this entrant's engine up; the minutes of its start, 0 where it is up already."""
        if self._who == who:
            return 0.0
        self._stack.close()
        self._who, self._starts = None, self._starts + 1
        engine = entrant.candidate.engine
        if self._context.devices is not None:
            engine = engine.model_copy(update={"devices": self._context.devices})
        self._session = self._stack.enter_context(self._context.evaluator.open(engine, self._folder))
        self._who = who
        return self._session.started.minutes
