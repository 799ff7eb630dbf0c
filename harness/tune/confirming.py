"""How are the best few held against the default: in turns, on fresh arrivals, each in full?"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.tune.configuration import Candidate, canonical
from harness.tune.confirm import DEFAULT, Gain, Turn, chosen, confirmation, drift, turns
from harness.tune.evaluating import Session, StartFailed
from harness.tune.measuring import Given, load_measured
from harness.tune.problem import Verdict
from harness.tune.restarts import ordered
from harness.tune.study import Work, digest
from harness.tune.words import LOAD, Trial, Value
from harness.units import significant

_TURNS = "harness_turns"  # of the confirmation
_FRESH = 1_000_003  # so far from the trials' seed are those of the confirmation


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who is confirmed: the trial that it was (number None: the default), its engine and its load."""

    number: int | None
    candidate: Candidate
    load: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the confirmation showed, by who (0 the default, 1… the entrants): values round by round, gains, the choice.

    `broken` names who missed a limit in some round, `minutes` is the engine time that it took, in `starts`
    starts of an engine, those that failed too.
    """

    entrants: tuple[Entrant, ...]
    values: Mapping[int, tuple[float | None, ...]]
    gains: Mapping[int, Gain]
    choice: int
    broken: Mapping[int, tuple[str, ...]]
    drift: str | None
    minutes: float
    starts: int = 0

    @property
    def winner(self) -> Entrant:
        """Who is taken: the default where no gain was shown."""
        return self.entrants[self.choice]

    @property
    def words(self) -> str:
        """The gain of the best entrant in one line."""
        if not self.gains:
            return "nothing was confirmed"
        best = self.choice or max(self.gains, key=lambda who: self.gains[who].ratio or 0.0)
        found = self.gains[best]
        worst = "" if found.worst is None else f"; its worst run: {significant(found.worst)}"
        return f"{found.words}{worst}"


def entrants(work: Work, trials: Sequence[Trial]) -> tuple[Entrant, ...]:
    """The default, the trial whose own run was best, and those that are believed to be, each engine once.

    The best of many runs was lucky as well as good: who is second by its own run may be neither.
    """
    default = work.proposer.default()
    ranked = [one for one in work.proposer.contenders(trials) if one.origin != "default"]
    base = next((_load_of(one) for one in trials if one.origin == "default"), {})
    found = [Entrant(None, default, base)]
    for trial in ranked:
        point = {name: value for name, value in trial.point.items() if not name.startswith(LOAD + ".")}
        candidate = work.ground.one(point)
        if candidate is not None and candidate.engine_key not in {one.candidate.engine_key for one in found}:
            found.append(Entrant(trial.number, candidate, _load_of(trial)))
    return tuple(found[: work.problem.study.confirm.best + 1])


def _in_turn(found: Sequence[Entrant]) -> list[int]:
    """The default, and after it the others so that each start costs little after the one before, in every round."""
    effective = [one.candidate.resolved.effective for one in found]
    return [DEFAULT, *ordered(range(1, len(found)), lambda who: effective[who], effective[DEFAULT])]


def _load_of(trial: Trial) -> dict[str, Value]:
    return {name: value for name, value in trial.point.items() if name.startswith(LOAD + ".")}


def confirm(work: Work, trials: Sequence[Trial]) -> Confirmed:
    """Measure all entrants in turns; an engine stays up where the next turn is its own."""
    found = entrants(work, trials)
    seed = (work.problem.study.seed + _FRESH) % 2**63
    order = turns(_in_turn(found), work.problem.study.confirm.repeats, seed) if len(found) > 1 else ()
    rounds: dict[int, list[float | None]] = {who: [] for who in range(len(found))}
    broken: dict[int, set[str]] = {who: set() for who in range(len(found))}
    minutes, starts = 0.0, 0
    with _Engines(work) as engines:
        for turn in order:
            heard = _heard(work, engines, found[turn.who], turn)
            minutes, starts = minutes + heard.minutes, starts + heard.starts
            rounds[turn.who].append(heard.value)
            broken[turn.who] |= {*heard.broken}
    gains = confirmation(rounds, work.problem.objectives[0])
    sound = {who: gain for who, gain in gains.items() if not broken[who]}
    known = [value for value in rounds[DEFAULT] if value is not None]
    return Confirmed(
        entrants=found,
        values={who: tuple(values) for who, values in rounds.items()},
        gains=gains,
        choice=chosen(sound),
        broken={who: tuple(sorted(names)) for who, names in broken.items() if names},
        drift=drift(known) if len(known) == len(rounds[DEFAULT]) else None,
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


def _heard(work: Work, engines: "_Engines", entrant: Entrant, turn: Turn) -> _Heard:
    """A turn as the book has it from before the study was interrupted, or measured now and written into the book."""
    name = f"{turn.seed} {digest(canonical(entrant.load) + entrant.candidate.key)[:16]}"
    known = work.book.noted(_TURNS) or {}
    if name in known:
        told = known[name]
        return _Heard(told["value"], tuple(told["broken"]), told["minutes"], told.get("starts", 0))
    before = engines.starts
    verdict, minutes = engines.measured(entrant, turn.who, turn.seed)
    starts = engines.starts - before
    value = None if verdict is None else verdict.values[work.problem.objectives[0].name]
    broken = tuple(limit for limit, by in (verdict.violations if verdict else {}).items() if by > 0)
    work.book.note(_TURNS, {**known, name: {"value": value, "broken": broken, "minutes": minutes, "starts": starts}})
    work.say(f"confirmation round {turn.round + 1}: {_who(turn.who)} {_value(value)}")
    return _Heard(value, broken, minutes, starts)


def _who(who: int) -> str:
    return "default" if who == DEFAULT else f"candidate {who}"


def _value(value: float | None) -> str:
    return "failed" if value is None else significant(value)


class _Engines:
    """One engine at a time, kept up for as long as the turns are its own."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stack = ExitStack()
        self._session: Session | None = None
        self._who: int | None = None
        self._starts = 0

    def __enter__(self) -> "_Engines":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measured(self, entrant: Entrant, who: int, seed: int) -> tuple[Verdict | None, float]:
        """Values of one turn (None: it failed), and the minutes that it took."""
        work = self._work
        try:
            minutes = self._turn_to(entrant, who)
            given = Given(work.problem, work.evaluator, (), seed, self._folder)
            assert self._session is not None
            measured = load_measured(given, self._session, entrant.load)
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

    def _turn_to(self, entrant: Entrant, who: int) -> float:
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
