"""What do readers rely upon in study.json, where every key may be absent?"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from harness.results.summary_schema import Count, Number, Object, Place


class Endless(Struct, frozen=True):
    """A value that is not finite."""

    float: str


Value = Number | Endless | None
Values = dict[str, Value]


class Objective(Struct, frozen=True):
    """What was to be best."""

    name: str
    direction: str = "maximise"


class Limit(Struct, frozen=True):
    """A constraint."""

    name: str
    most: Value = None
    least: Value = None


class Parameter(Struct, frozen=True):
    """What was searched."""

    name: str
    kind: str | None = None
    low: Number = 0.0
    high: Number = 0.0
    log: bool | None = None
    values: list[Any] | None = None


class Dead(Struct, frozen=True):
    """What was found to change nothing."""

    name: str
    why: str | None = None


class Failure(Struct, frozen=True):
    """Why a trial has no value."""

    kind: str
    line: str | None = None


class Measured(Struct, frozen=True):
    """What a trial's load showed."""

    metrics: Values | None = None


class Trial(Struct, frozen=True):
    """A trial."""

    number: Place
    status: str
    point: Object | None = None
    effective: Object | None = None
    values: Values | None = None
    violations: Values | None = None
    failure: Failure | None = None
    minutes: dict[str, Number | None] | None = None
    origin: str | None = None
    start: int | None = None
    twin: Values | None = None
    measurement: Measured | None = None
    extrapolated: bool | None = None
    cause: str | None = None
    answer: str | None = None


class Share(Struct, frozen=True):
    """How much of the variance a parameter explains."""

    name: str
    share: Number | None = None
    low: Number | None = None
    high: Number | None = None
    chance: Number | None = None
    shown: bool | None = None


class Screening(Struct, frozen=True):
    """How the twin agrees with the trials."""

    pairs: Count = 0
    tau: Value = None
    low: Value = None
    high: Value = None
    trusted: bool = True


class Entrant(Struct, frozen=True):
    """Who was confirmed; the default has no trial."""

    trial: Place | None = None


class Gain(Struct, frozen=True):
    """What was gained over the default."""

    words: str | None = None
    shown: bool | None = None


class Confirmation(Struct, frozen=True):
    """The best against the default, in turns."""

    entrants: list[Entrant] | None = None
    values: dict[str, list[Value]] | None = None
    gains: dict[str, Gain] | None = None
    choice: Place | None = None
    broken: dict[str, list[str]] | None = None
    drift: str | None = None
    minutes: Number | None = None
    starts: Count | None = None


class Winner(Struct, frozen=True):
    """What to serve with."""

    trial: Place | None = None
    command: list[Any] | None = None


class Engine(Struct, frozen=True):
    """What served."""

    model: str | None = None


class Confirm(Struct, frozen=True):
    """How the winner is confirmed."""

    best: Count | None = None


class Asked(Struct, frozen=True):
    """The study file."""

    seed: int | None = None
    confirm: Confirm | None = None
    budget: dict[str, Number | None] | None = None


class Study(Struct, frozen=True):
    """study.json."""

    format: Literal[1]
    name: str = ""
    question: str = ""
    finished_utc: str | None = None
    simulated: bool | None = None
    hollow: bool | None = None
    interrupted: bool | None = None
    kind: str | None = None
    engine: Engine | None = None
    study: Asked | None = None
    objectives: Annotated[list[Objective], Meta(min_length=1)] | None = None
    limits: list[Limit] | None = None
    parameters: list[Parameter] | None = None
    dead: list[Dead] | None = None
    notes: list[str] | None = None
    lines: list[str] | None = None
    trials: list[Trial] | None = None
    front: list[Place] | None = None
    importance: list[Share] | None = None
    screening: Screening | None = None
    confirmation: Confirmation | None = None
    winner: Winner | None = None
    files: dict[str, str] | None = None
