"""Turns: configurations that are measured again one after the other, round by round, each turn stored when it ends.

Every round runs all of them under arrivals of its own, every other round in reverse, so that a slow drift of the
machine cancels. What was measured before an interruption is not measured again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.messages import Message, message, stored
from harness.tuning.candidates import Candidate, canonical_json
from harness.tuning.evaluation import EngineSession, EvaluationContext, LoadResult, StartFailed, measure_load
from harness.tuning.feasibility import failure_line
from harness.tuning.study import StudyContext, claim_digest
from harness.tuning.topology import leased
from harness.tuning.types import ParameterValue

_TURNS = "harness_turns"  # of the confirmation, and of what follows it
_FRESH = 1_000_003  # so far from the trials' seed are those of turns


@dataclass(frozen=True, slots=True)
class Finalist:
    """Who is measured again: the trial that it was (number None: the default), its engine and its load."""

    number: int | None
    candidate: Candidate
    load: Mapping[str, ParameterValue]


@dataclass(frozen=True, slots=True)
class ConfirmationTurn:
    """One measurement of a finalist: which round, who (0: the default, 1…: a candidate), under which seed."""

    round: int
    who: int
    seed: int


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """One turn's value (None: it failed, and why), the limits that it broke, its minutes and engine starts."""

    value: float | None
    broken: tuple[str, ...] = ()
    minutes: float = 0.0
    starts: int = 0
    failure: Message | None = None

    @property
    def message(self) -> Message:
        """The value, or that it failed."""
        return message("tuning.turn_failed") if self.value is None else message("tuning.turn_value", value=self.value)

    def as_dict(self) -> dict[str, Any]:
        """As the store keeps it."""
        failure = {} if self.failure is None else {"failure": self.failure.as_dict(), "words": str(self.failure)}
        own = {"value": self.value, "broken": list(self.broken), "minutes": self.minutes, "starts": self.starts}
        return own | failure


def _outcome_from(known: Mapping[str, Any]) -> TurnOutcome:
    failure = stored(known["failure"], str(known.get("words"))) if "failure" in known else None
    return TurnOutcome(known["value"], tuple(known["broken"]), known["minutes"], known.get("starts", 0), failure)


def confirmation_turns(order: Sequence[int], rounds: int, seed: int) -> tuple[ConfirmationTurn, ...]:
    """All measurements of those in `order`: each round goes through it the other way than the one before."""
    return tuple(
        ConfirmationTurn(number, who, seed + number)
        for number in range(rounds)
        for who in (order if number % 2 == 0 else reversed(order))
    )


def turn_seed(study_seed: int, block: int = 0) -> int:
    """The seed of a block's first round: of arrivals that no trial, and no other block, has."""
    return (study_seed + (block + 1) * _FRESH) % 2**63


class TurnRunner:
    """Measures turns on one engine at a time, which is kept up for as long as the turns are its own."""

    def __init__(self, context: StudyContext, folder: str) -> None:
        self._context, self._name = context, folder
        self._stack = ExitStack()
        self._session: EngineSession | None = None
        self._up: str | None = None
        self._starts = 0
        self._folder = context.folder

    def __enter__(self) -> "TurnRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def outcome(self, finalist: Finalist, seed: int, describe: Callable[[TurnOutcome], Message]) -> TurnOutcome:
        """A turn as it was stored before the study was interrupted, or measured and stored now."""
        name = f"{seed} {claim_digest(canonical_json(finalist.load) + finalist.candidate.key)[:16]}"
        recorded = self._context.store.attribute(_TURNS) or {}
        if name in recorded:
            return _outcome_from(recorded[name])
        if self._context.tracker is not None:
            self._context.tracker.turn(finalist.number)
        outcome = self._measured(finalist, seed)
        self._context.store.set_attribute(_TURNS, {**recorded, name: outcome.as_dict()})
        self._context.on_progress(describe(outcome))
        return outcome

    def _measured(self, finalist: Finalist, seed: int) -> TurnOutcome:
        before = self._starts
        try:
            minutes = self._turn_to(finalist)
            result = self._load(finalist, seed)
        except StartFailed as fault:
            self._stack.close()
            self._up = None
            return TurnOutcome(None, (), fault.minutes, self._starts - before, failure_line(fault.failure))
        value = result.verdict.values[self._context.plan.objectives[0].name]
        broken = tuple(limit for limit, by in result.verdict.violations.items() if by > 0)
        return TurnOutcome(value, broken, minutes + result.minutes.load, self._starts - before)

    def _load(self, finalist: Finalist, seed: int) -> LoadResult:
        assert self._session is not None
        plan = self._context.plan
        effective = finalist.candidate.resolved.effective
        evaluation = EvaluationContext(plan, self._context.evaluator, (), seed, self._folder, effective)
        return measure_load(evaluation, self._session, finalist.load)

    def _turn_to(self, finalist: Finalist) -> float:
        """Have this finalist's engine up; the minutes of its start, 0 where it is up already."""
        if self._up == finalist.candidate.engine_key:
            return 0.0
        self._stack.close()
        self._up, self._starts = None, self._starts + 1
        self._folder = self._new_folder()
        engine = finalist.candidate.engine
        if self._context.devices is not None:
            engine = leased(engine, self._context.devices, all_of_them=not self._context.plan.layouts)
        self._session = self._stack.enter_context(self._context.evaluator.open(engine, self._folder))
        self._up = finalist.candidate.engine_key
        return self._session.started.minutes

    def _new_folder(self) -> Path:
        """The next start's folder; one that an interrupted run left is not written into again."""
        number = self._starts
        while (folder := self._context.folder / self._name / f"start-{number}").exists():
            number += 1
        return folder
