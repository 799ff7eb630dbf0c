"""Confirmation of the winner: the best few and the default measured again in turns, with an interval of the gain.

The best few and the default are measured again in turns: every round all of them, each round under
arrivals of its own that nothing was chosen by, every other round in reverse, so that a
slow drift of the machine cancels. The gain is the mean of the rounds' log ratios with Student's
interval; that one of several candidates may win by luck widens it (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.messages import Message, message
from harness.statistics.intervals import CONFIDENCE, student_t
from harness.statistics.time_series import trend
from harness.tuning.candidates import Candidate, canonical_json, cheapest_order
from harness.tuning.evaluation import EngineSession, EvaluationContext, StartFailed, measure_load
from harness.tuning.posterior import engine_point
from harness.tuning.study import StudyContext, claim_digest
from harness.tuning.study_plan import TrialScores
from harness.tuning.types import LOAD, ParameterValue, StudyObjective, Trial

DEFAULT = 0
FEWEST_ROUNDS = 3  # of two rounds the interval would be thirteen standard errors wide


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


@dataclass(frozen=True, slots=True)
class GainEstimate:
    """How a candidate compares with the default: a ratio (1.18: 18 % better), its interval, its worst round.

    `low` and `high` are None where there were too few rounds, or where one gave no value. `best` and `worst` are the
    candidate's own values, in the objective's unit.
    """

    ratio: float | None
    low: float | None
    high: float | None
    rounds: int
    worst: float | None = None
    best: float | None = None
    failed: int = 0

    @property
    def shown(self) -> bool:
        """Whether it is shown to be better."""
        return self.low is not None and self.low > 1

    @property
    def message(self) -> Message:
        """`+18.0 % (95 % CI +12.0 to +24.0 %)`, or that there is no significant difference."""
        if self.ratio is None and self.failed:
            return message("tuning.rounds_failed", failed=self.failed, rounds=self.rounds, count=self.rounds)
        if self.ratio is None:
            return message("tuning.no_rounds")
        change = _percent(self.ratio)
        if self.low is None or self.high is None:
            return message("tuning.too_few_rounds", change=change, rounds=self.rounds, count=self.rounds)
        significant = self.low > 1 or self.high < 1
        code = "tuning.gain" if significant else "tuning.gain_not_significant"
        return message(code, change=change, low=_percent(self.low), high=_percent(self.high))


def _percent(ratio: float) -> float:
    """A ratio as a change in per cent."""
    return 100 * (ratio - 1)


def estimate_gain(
    defaults: Sequence[float | None], candidates: Sequence[float | None], objective: StudyObjective, compared: int = 1
) -> GainEstimate:
    """The gain of one candidate over the default, value by value of the same round (None, or infinite: it failed).

    `compared` is how many candidates are held against the default: each interval is then so wide
    that all of them hold together with 95 %.
    """
    rounds = list(zip(defaults, candidates, strict=True))
    sign = 1 if objective.better(2.0, 1.0) else -1
    ratios = [sign * math.log(own / base) for base, own in rounds if _usable(base) and _usable(own)]  # type: ignore[operator]
    values = sorted((value for _, value in rounds if _usable(value)), key=objective.cost)  # type: ignore[arg-type]
    failed = len(rounds) - len(ratios)
    ends = (values[-1], values[0]) if values else (None, None)
    if not ratios or failed:
        return GainEstimate(None, None, None, len(rounds), *ends, failed)
    low, high = _reach(ratios, compared)
    return GainEstimate(math.exp(sum(ratios) / len(ratios)), low, high, len(rounds), *ends)


def _usable(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf


def _reach(ratios: Sequence[float], compared: int) -> tuple[float | None, float | None]:
    n = len(ratios)
    if n < FEWEST_ROUNDS:
        return None, None
    mean, error = float(np.mean(ratios)), float(np.std(ratios, ddof=1)) / math.sqrt(n)
    reach = student_t(1 - (1 - CONFIDENCE) / 2 / compared, n - 1) * error
    return math.exp(mean - reach), math.exp(mean + reach)


def choose_winner(gains: Mapping[int, GainEstimate]) -> int:
    """Who is taken: of the candidates that are shown to be better the one that gains most, else the default (0)."""
    significant_gains = {who: gain.ratio or 0.0 for who, gain in gains.items() if gain.shown}
    return max(significant_gains, key=lambda who: (significant_gains[who], -who), default=DEFAULT)


def gains_over_default(
    values: Mapping[int, Sequence[float | None]], objective: StudyObjective
) -> dict[int, GainEstimate]:
    """The gain of each candidate (1…) over the default (0), from their values round by round."""
    candidates = [who for who in values if who != DEFAULT]
    return {who: estimate_gain(values[DEFAULT], values[who], objective, len(candidates)) for who in sorted(candidates)}


def drift_warning(values: Sequence[float]) -> Message | None:
    """A trend of the default's own values over the rounds, or None where there is none.

    The slope's t has to exceed that of a 99 % interval, since every confirmation is looked at.
    """
    if len(values) < 4:
        return None
    fit = trend(np.asarray(values, dtype=np.float64))
    if abs(fit.significance) <= student_t(0.995, len(values) - 2):
        return None
    return message("tuning.default_drifted", change=_percent(fit.last / fit.first))


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
