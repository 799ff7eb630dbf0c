"""Which keys of a result's JSON files does a reader rely on, and of which kind are they?

Only what is relied upon is held: files of earlier and later versions have fewer and more keys.
"""

from typing import Annotated, Any

import msgspec

from harness.errors import ResultError

Object = dict[str, Any]


Time = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Place = Annotated[int, msgspec.Meta(ge=0, le=10**6)]


class Row(msgspec.Struct, frozen=True):
    """A row of timeline.json."""

    stage: Place
    repeat: Place
    start_ns: Time
    stop_ns: Time
    end_ns: Time


class Load(msgspec.Struct, frozen=True):
    """What a stage asked for."""

    kind: str
    rate: float | None = None
    rate_to: float | None = None
    burstiness: float | None = None
    speed: float | None = None
    concurrency: int | None = None
    max_concurrency: int | None = None
    requests: int | None = None
    duration_s: float | None = None


class Run(msgspec.Struct, frozen=True):
    """run.json."""

    format: int
    name: str
    question: str
    stages: list[Load]
    engine: Object | None = None
    client: Object | None = None
    slo: dict[str, float] | None = None
    repeats: int = 1
    notes: list[str] | None = None
    stream: bool = True
    scenario_text: str = ""
    environment: Object | None = None


class Doubt(msgspec.Struct, frozen=True):
    """A doubt of a verdict."""

    name: str
    severity: str
    text: str
    next: str
    stage: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """The verdict of summary.json."""

    valid: bool
    doubts: list[Doubt]


class Stage(msgspec.Struct, frozen=True):
    """A stage of summary.json."""

    index: int | None = None
    repeat: int | None = None
    label: str = ""
    requests: Object | None = None
    slo_met: bool | None = None


class Summary(msgspec.Struct, frozen=True):
    """summary.json of a load or of kernels."""

    verdict: Verdict
    answer: str
    simulated: bool = False
    stages: list[Stage] | None = None
    kernels: Object | None = None


_NEEDED = {
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate", "burstiness"),
    "ramp": ("rate", "rate_to"),
    "closed": ("concurrency",),
    "offline": ("requests",),
}


def _hold_loads(found: Any) -> None:
    """Each kind of load says what it is named by."""
    for number, load in enumerate(found.stages if isinstance(found, Run) else ()):
        for key in _NEEDED.get(load.kind, ()):
            if getattr(load, key) is None:
                raise msgspec.ValidationError(f"Object missing required field `{key}` - at `$.stages[{number}]`")


SHAPES: dict[str, Any] = {"run.json": Run, "timeline.json": list[Row], "summary.json": Summary}


def checked(path: str, name: str, value: Any) -> Any:
    """A file's value, if it has the shape of its name.

    Raises:
        ResultError: with the file, the key and what was expected of it.
    """
    shape = SHAPES.get(name)
    if shape is not None:
        try:
            _hold_loads(msgspec.convert(value, shape))
        except msgspec.ValidationError as fault:
            raise ResultError(f"{path}: {fault}; expected the file as `harness run` wrote it") from None
    return value
