"""study.json, the result of a tuning study: what stands in it, its reader, and the keys that readers rely on.

Written by `harness tune` (harness/tuning/study_result.py) into its result folder; every key may be absent, as a
study that was cut short leaves some out. Times in minutes, metrics as in `harness.tuning.types`. What is read here:

    format         1
    name, question, finished_utc                         as in the study file; when it ended
    simulated, hollow  whether any number came from the simulated engine, or from a device that computes nothing
    kind, engine   {model, …}                            what served
    study          the study file with all defaults: seed, budget {trials, minutes, starts}, …
    objectives     [{name, direction}]                   direction: maximise or minimise
    limits         [{name, most, least}]                 constraints; null where there is none
    parameters     [{name, kind, low, high, log, values}]  what was searched
    dead           [{name, becomes, why, reason}]        what was found to change nothing
    notes, lines   [line]                                remarks; the summary as it was printed
    trials         [{number, point, effective, status, values, violations, failure: {kind, retryable, line, message},
                     cause, cause_message, minutes: {start, load, other}, seed, origin, start, twin, of,
                     extrapolated}]                  of a trial that was stopped early, as its values are
    front          [number]                              the Pareto front
    importance     [{name, share, low, high, chance, shown}]  shares of the variance, with 90 % intervals
    screening      {pairs, tau, low, high, trusted}      how the simulator agrees with the trials
    confirmation   {entrants: [{trial, point}], values: {who: [value]}, gains: {who: {words, shown, worst, …}}, choice,
                    broken: {who: [limit]}, drift, minutes, starts, words}   who: 0 the default, 1… the entrants
    simplification {margin, repeats, most_measurements, measurements, minutes, starts, spent, gain: as in gains,
                    flags: [{name, value, default, kept, verdict, words, effect: as in gains, or null}],
                    tests: [{removed: [name], verdict, loss: as in gains, broken: [limit], failure}]}
                   what the winner lost of its flags; null where the default stays, or none was to be removed
    winner         {trial, point, changed, command}      null where no configuration kept every limit
    files          {name: file}                          what to take away, beside study.json

`reason`, `message` and `…_message(s)` hold the English text beside them as a message: {code, parameters}.
A value that is not finite is null, or {"float": "inf"}.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from harness.errors import ResultError
from harness.messages import message
from harness.results.file_schemas import Count, Number, Object, Place
from harness.results.store import convert

STUDY = "study.json"


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """A study's folder and what its study.json holds."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def simulated(self) -> bool:
        """Whether a simulator answered; without the key it counts as simulated."""
        return bool(self.content.get("simulated", True))

    @property
    def trials(self) -> Sequence[Mapping[str, Any]]:
        """All trials in their order."""
        return self.content.get("trials") or ()

    @property
    def objectives(self) -> Sequence[Mapping[str, Any]]:
        """What was to be best."""
        return self.content.get("objectives") or ({"name": "throughput", "direction": "maximise"},)

    @property
    def marked(self) -> bool:
        """Whether no number here is a measurement of a device."""
        return self.simulated or bool(self.content.get("hollow"))

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The trial with the best value of the first objective of those that kept every limit; None where none did."""
        name, minimise = str(self.objectives[0]["name"]), self.objectives[0].get("direction") == "minimise"
        known = [trial for trial in self.trials if feasible(trial) and math.isfinite(value_of(trial, name))]
        return min(known, key=lambda trial: value_of(trial, name) * (1 if minimise else -1), default=None)

    @property
    def minutes(self) -> float:
        """The engine time of all trials, of the confirmation and of what follows it, starts that failed included."""
        later = (self.content.get("confirmation") or {}, self.simplification)
        searched = sum(float(value or 0) for trial in self.trials for value in (trial.get("minutes") or {}).values())
        return searched + sum(float(part.get("minutes") or 0) for part in later)

    @property
    def starts(self) -> int:
        """Engine starts of all trials, of the confirmation and of what follows it."""
        own = len({trial["start"] for trial in self.trials if trial.get("start") is not None})
        later = (self.content.get("confirmation") or {}, self.simplification)
        return own + sum(int(part.get("starts") or 0) for part in later)

    @property
    def simplification(self) -> Mapping[str, Any]:
        """What became of the winner's flags; empty where none was to be removed."""
        return self.content.get("simplification") or {}

    @property
    def confirmation(self) -> Mapping[str, Any]:
        """The confirmation; empty where nothing was held against the default."""
        confirmation = self.content.get("confirmation") or {}
        return confirmation if confirmation.get("gains") else {}

    @property
    def chosen(self) -> Mapping[str, Any] | None:
        """The trial that the confirmation chose, None where the default stays or nothing was confirmed."""
        choice, entrants = self.confirmation.get("choice") or 0, self.confirmation.get("entrants") or ()
        return self.trial(entrants[choice].get("trial")) if 0 < choice < len(entrants) else None

    @property
    def default(self) -> Mapping[str, Any] | None:
        """The trial of the default configuration."""
        return next((trial for trial in self.trials if trial.get("origin") == "default"), None)

    def trial(self, number: Any) -> Mapping[str, Any] | None:
        """The trial of that number."""
        return next((trial for trial in self.trials if trial.get("number") == number), None)


def read_study(folder: Path) -> StudyFiles:
    """The study in a result folder.

    Raises:
        ResultError: there is none, or it is broken.
    """
    path = folder / STUDY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResultError(message("results.no_study", path=str(path), reason=reason)) from None
    except (ValueError, RecursionError) as error:
        raise ResultError(message("results.not_json", path=str(path), reason=str(error))) from None
    if not isinstance(content, dict) or content.get("format") != 1:
        known = content.get("format") if isinstance(content, dict) else None
        raise ResultError(message("results.format", path=str(path), format=str(known), expected=1))
    convert(str(path), content, StudySchema, message("results.written_by_tune"))
    return StudyFiles(folder, content)


def value_of(trial: Mapping[str, Any] | None, name: str) -> float:
    """A trial's value of a metric, NaN where it has none."""
    value = ((trial or {}).get("values") or {}).get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def measured_value(trial: Mapping[str, Any], name: str) -> float:
    """What a trial showed itself: of a stopped one the metric up to its end, as its value is extrapolated."""
    value = ((trial.get("measurement") or {}).get("metrics") or {}).get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def feasible(trial: Mapping[str, Any]) -> bool:
    """Whether it was measured in full and kept every limit."""
    kept = all((value or 0) <= 0 for value in (trial.get("violations") or {}).values())
    return trial.get("status") == "complete" and bool(trial.get("values")) and kept


class NotFiniteSchema(Struct, frozen=True):
    """A value that is not finite."""

    float: str


StudyValue = Number | NotFiniteSchema | None
StudyValues = dict[str, StudyValue]


class ObjectiveSchema(Struct, frozen=True):
    """What was to be best."""

    name: str
    direction: str = "maximise"


class LimitSchema(Struct, frozen=True):
    """A constraint."""

    name: str
    most: StudyValue = None
    least: StudyValue = None


class ParameterSchema(Struct, frozen=True):
    """What was searched."""

    name: str
    kind: str | None = None
    low: Number = 0.0
    high: Number = 0.0
    log: bool | None = None
    values: list[Any] | None = None


class InertParameterSchema(Struct, frozen=True):
    """What was found to change nothing."""

    name: str
    why: str | None = None
    reason: Object | None = None


class FailureSchema(Struct, frozen=True):
    """Why a trial has no value."""

    kind: str
    line: str | None = None
    message: Object | None = None


class MeasurementSchema(Struct, frozen=True):
    """What a trial's load showed."""

    metrics: StudyValues | None = None


class TrialSchema(Struct, frozen=True):
    """A trial."""

    number: Place
    status: str
    point: Object | None = None
    effective: Object | None = None
    values: StudyValues | None = None
    violations: StudyValues | None = None
    failure: FailureSchema | None = None
    minutes: dict[str, Number | None] | None = None
    origin: str | None = None
    start: int | None = None
    twin: StudyValues | None = None
    measurement: MeasurementSchema | None = None
    extrapolated: bool | None = None
    cause: str | None = None
    answer: str | None = None
    answer_message: Object | None = None


class ImportanceSchema(Struct, frozen=True):
    """How much of the variance a parameter explains."""

    name: str
    share: Number | None = None
    low: Number | None = None
    high: Number | None = None
    chance: Number | None = None
    shown: bool | None = None


class ScreeningSchema(Struct, frozen=True):
    """How the simulator agrees with the trials."""

    pairs: Count = 0
    tau: StudyValue = None
    low: StudyValue = None
    high: StudyValue = None
    trusted: bool = True


class FinalistSchema(Struct, frozen=True):
    """Who was confirmed; the default has no trial."""

    trial: Place | None = None


class GainSchema(Struct, frozen=True):
    """How one configuration compares with another."""

    ratio: Number | None = None
    low: Number | None = None
    high: Number | None = None
    before: Number | None = None
    after: Number | None = None
    unit: str | None = None
    minimised: bool | None = None
    words: str | None = None
    message: Object | None = None
    shown: bool | None = None


class ConfirmationSchema(Struct, frozen=True):
    """The best against the default, in turns."""

    entrants: list[FinalistSchema] | None = None
    values: dict[str, list[StudyValue]] | None = None
    gains: dict[str, GainSchema] | None = None
    choice: Place | None = None
    broken: dict[str, list[str]] | None = None
    drift: str | None = None
    drift_message: Object | None = None
    minutes: Number | None = None
    starts: Count | None = None


class FlagSchema(Struct, frozen=True):
    """What became of a flag of the winner."""

    name: str
    value: Any = None
    default: Any = None
    kept: bool = True
    verdict: str | None = None
    words: str | None = None
    message: Object | None = None
    effect: GainSchema | None = None


class SimplificationSchema(Struct, frozen=True):
    """The winner without the flags that gain nothing."""

    margin: Number | None = None
    repeats: Count | None = None
    most_measurements: Count | None = None
    measurements: Count | None = None
    minutes: Number | None = None
    starts: Count | None = None
    spent: bool | None = None
    gain: GainSchema | None = None
    flags: list[FlagSchema] | None = None


class WinnerSchema(Struct, frozen=True):
    """What to serve with."""

    trial: Place | None = None
    command: list[Any] | None = None


class StudyEngineSchema(Struct, frozen=True):
    """What served."""

    model: str | None = None


class ConfirmSchema(Struct, frozen=True):
    """How the winner is confirmed."""

    best: Count | None = None


class StudyFileSchema(Struct, frozen=True):
    """The study file."""

    seed: int | None = None
    confirm: ConfirmSchema | None = None
    budget: dict[str, Number | None] | None = None


class StudySchema(Struct, frozen=True):
    """study.json."""

    format: Literal[1]
    name: str = ""
    question: str = ""
    finished_utc: str | None = None
    simulated: bool | None = None
    hollow: bool | None = None
    interrupted: bool | None = None
    kind: str | None = None
    engine: StudyEngineSchema | None = None
    study: StudyFileSchema | None = None
    objectives: Annotated[list[ObjectiveSchema], Meta(min_length=1)] | None = None
    limits: list[LimitSchema] | None = None
    parameters: list[ParameterSchema] | None = None
    dead: list[InertParameterSchema] | None = None
    notes: list[str] | None = None
    note_messages: list[Object] | None = None
    lines: list[str] | None = None
    trials: list[TrialSchema] | None = None
    front: list[Place] | None = None
    importance: list[ImportanceSchema] | None = None
    screening: ScreeningSchema | None = None
    confirmation: ConfirmationSchema | None = None
    simplification: SimplificationSchema | None = None
    winner: WinnerSchema | None = None
    files: dict[str, str] | None = None
