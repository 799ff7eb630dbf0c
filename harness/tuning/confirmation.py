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

from harness.statistics.intervals import CONFIDENCE, student_t
from harness.statistics.time_series import trend
from harness.tuning.candidates import Candidate, canonical_json, cheapest_order
from harness.tuning.evaluation import EngineSession, EvaluationContext, StartFailed, measure_load
from harness.tuning.study import StudyContext, claim_digest
from harness.tuning.study_plan import TrialScores
from harness.tuning.types import LOAD, ParameterValue, StudyObjective, Trial
from harness.units import significant

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
    def words(self) -> str:
        """`+18 % (95 % CI 12-24)`, or that no difference was shown."""
        if self.ratio is None:
            why = f"{self.failed} of {self.rounds} rounds failed" if self.failed else "no round was measured"
            return f"no difference shown: {why}"
        if self.low is None or self.high is None:
            return f"no difference shown: {_percent(self.ratio)} in {self.rounds} rounds, too few for an interval"
        interval = f"95 % CI {_interval(self.low, self.high)}"
        if self.low > 1 or self.high < 1:
            return f"{_percent(self.ratio)} ({interval})"
        return f"no difference shown ({_percent(self.ratio)}, {interval})"


def _percent(ratio: float) -> str:
    change = 100 * (ratio - 1)
    return f"{'+' if change >= 0 else '-'}{significant(abs(change), 2)} %"


def _interval(low: float, high: float) -> str:
    ends = [100 * (end - 1) for end in (low, high)]
    if ends[0] >= 0:
        return f"{significant(ends[0], 2)}-{significant(ends[1], 2)}"
    return " to ".join(f"{'-' if end < 0 else '+'}{significant(abs(end), 2)}" for end in ends)


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
    own = sorted((one for _, one in rounds if _usable(one)), key=objective.cost)  # type: ignore[arg-type]
    failed = len(rounds) - len(ratios)
    ends = (own[-1], own[0]) if own else (None, None)
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
    shown = {who: one.ratio or 0.0 for who, one in gains.items() if one.shown}
    return max(shown, key=lambda who: (shown[who], -who), default=DEFAULT)


def gains_over_default(
    values: Mapping[int, Sequence[float | None]], objective: StudyObjective
) -> dict[int, GainEstimate]:
    """The gain of each candidate (1…) over the default (0), from their values round by round."""
    candidates = [who for who in values if who != DEFAULT]
    return {who: estimate_gain(values[DEFAULT], values[who], objective, len(candidates)) for who in sorted(candidates)}


def drift_warning(values: Sequence[float]) -> str | None:
    """What the default's own values say of the machine: a trend over the rounds, or None where there is none.

    The slope's t has to exceed that of a 99 % interval, since every confirmation is looked at.
    """
    if len(values) < 4:
        return None
    found = trend(np.asarray(values, dtype=np.float64))
    if abs(found.significance) <= student_t(0.995, len(values) - 2):
        return None
    change = _percent(found.last / found.first)
    return f"the default itself changed by {change} from the first round to the last: the machine was not at rest"


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
    drift_warning: str | None
    minutes: float
    starts: int = 0

    @property
    def winner(self) -> Finalist:
        """Who is taken: the default where no gain was shown."""
        return self.finalists[self.choice]

    @property
    def words(self) -> str:
        """The gain of the best entrant in one line."""
        if not self.gains:
            return "nothing was confirmed"
        best = self.choice or max(self.gains, key=lambda who: self.gains[who].ratio or 0.0)
        found = self.gains[best]
        worst = "" if found.worst is None else f"; its worst run: {significant(found.worst)}"
        return f"{found.words}{worst}"


def finalists(work: StudyContext, trials: Sequence[Trial]) -> tuple[Finalist, ...]:
    """The default, the trial whose own run was best, and those that are believed to be, each engine once.

    The best of many runs was lucky as well as good: who is second by its own run may be neither.
    """
    default = work.proposer.default()
    ranked = [one for one in work.proposer.contenders(trials) if one.origin != "default"]
    base = next((_load_of(one) for one in trials if one.origin == "default"), {})
    found = [Finalist(None, default, base)]
    for trial in ranked:
        point = {name: value for name, value in trial.point.items() if not name.startswith(LOAD + ".")}
        candidate = work.resolver.one(point)
        if candidate is not None and candidate.engine_key not in {one.candidate.engine_key for one in found}:
            found.append(Finalist(trial.number, candidate, _load_of(trial)))
    return tuple(found[: work.problem.study.confirm.best + 1])


def _in_turn(found: Sequence[Finalist]) -> list[int]:
    """The default, and after it the others so that each start costs little after the one before, in every round."""
    effective = [one.candidate.resolved.effective for one in found]
    return [DEFAULT, *cheapest_order(range(1, len(found)), lambda who: effective[who], effective[DEFAULT])]


def _load_of(trial: Trial) -> dict[str, ParameterValue]:
    return {name: value for name, value in trial.point.items() if name.startswith(LOAD + ".")}


def confirm(work: StudyContext, trials: Sequence[Trial]) -> Confirmation:
    """Measure all entrants in turns; an engine stays up where the next turn is its own."""
    found = finalists(work, trials)
    seed = (work.problem.study.seed + _FRESH) % 2**63
    order = confirmation_turns(_in_turn(found), work.problem.study.confirm.repeats, seed) if len(found) > 1 else ()
    rounds: dict[int, list[float | None]] = {who: [] for who in range(len(found))}
    broken: dict[int, set[str]] = {who: set() for who in range(len(found))}
    minutes, starts = 0.0, 0
    with _Engines(work) as engines:
        for turn in order:
            heard = _heard(work, engines, found[turn.who], turn)
            minutes, starts = minutes + heard.minutes, starts + heard.starts
            rounds[turn.who].append(heard.value)
            broken[turn.who] |= {*heard.broken}
    gains = gains_over_default(rounds, work.problem.objectives[0])
    sound = {who: estimate_gain for who, estimate_gain in gains.items() if not broken[who]}
    known = [value for value in rounds[DEFAULT] if value is not None]
    return Confirmation(
        finalists=found,
        values={who: tuple(values) for who, values in rounds.items()},
        gains=gains,
        choice=choose_winner(sound),
        broken={who: tuple(sorted(names)) for who, names in broken.items() if names},
        drift_warning=drift_warning(known) if len(known) == len(rounds[DEFAULT]) else None,
        minutes=minutes,
        starts=starts,
    )


@dataclass(frozen=True, slots=True)
class _Heard:
    """What one turn came to: the value (None: it failed), the limits that it broke, and the minutes that it took."""

    value: float | None
    broken: tuple[str, ...]
    minutes: float
    starts: int


def _heard(work: StudyContext, engines: "_Engines", entrant: Finalist, turn: ConfirmationTurn) -> _Heard:
    """A turn as the book has it from before the study was interrupted, or measured now and written into the book."""
    name = f"{turn.seed} {claim_digest(canonical_json(entrant.load) + entrant.candidate.key)[:16]}"
    known = work.store.attribute(_TURNS) or {}
    if name in known:
        told = known[name]
        return _Heard(told["value"], tuple(told["broken"]), told["minutes"], told.get("starts", 0))
    before = engines.starts
    verdict, minutes = engines.measured(entrant, turn.who, turn.seed)
    starts = engines.starts - before
    value = None if verdict is None else verdict.values[work.problem.objectives[0].name]
    broken = tuple(limit for limit, by in (verdict.violations if verdict else {}).items() if by > 0)
    work.store.set_attribute(
        _TURNS, {**known, name: {"value": value, "broken": broken, "minutes": minutes, "starts": starts}}
    )
    work.on_progress(f"confirmation round {turn.round + 1}: {_who(turn.who)} {_value(value)}")
    return _Heard(value, broken, minutes, starts)


def _who(who: int) -> str:
    return "default" if who == DEFAULT else f"candidate {who}"


def _value(value: float | None) -> str:
    return "failed" if value is None else significant(value)


class _Engines:
    """One engine at a time, kept up for as long as the turns are its own."""

    def __init__(self, work: StudyContext) -> None:
        self._work = work
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
        work = self._work
        try:
            minutes = self._turn_to(entrant, who)
            given = EvaluationContext(work.problem, work.evaluator, (), seed, self._folder)
            assert self._session is not None
            measured = measure_load(given, self._session, entrant.load)
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
        return self._work.folder / "confirmation" / f"start-{self._starts}"

    def _turn_to(self, entrant: Finalist, who: int) -> float:
        """Have this entrant's engine up; the minutes of its start, 0 where it is up already."""
        if self._who == who:
            return 0.0
        self._stack.close()
        self._who, self._starts = None, self._starts + 1
        engine = entrant.candidate.engine
        if self._work.devices is not None:
            engine = engine.model_copy(update={"devices": self._work.devices})
        self._session = self._stack.enter_context(self._work.evaluator.open(engine, self._folder))
        self._who = who
        return self._session.started.minutes
