"""The load of a scenario: kinds of stages, the flat stages that they expand to, and the names of both.

Each item of `load` is a mapping of one key, such as `poisson: {rate: [1, 2], duration: 60s}`;
a list as a value makes a stage of each. `expand` turns items into flat `Stage`s.

A name has the scenario's own numbers, as `stage 2 (poisson 4 req/s)`. People read numbers of stages from 1. Files for
programs keep `index` and `stage`, counted from 0, and `label`.
"""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Discriminator, Field, SerializeAsAny, Tag, create_model, model_validator

from harness.messages import Message, message, plain
from harness.plugins import ARRIVALS, load_plugin
from harness.scenario.base import Duration, FileModel, OneOrMany, ends_once, many, one_key, refused, with_plugins

Rate = Annotated[float, Field(gt=0, le=1_000_000)]
EndRate = Annotated[float, Field(ge=0, le=1_000_000)]
Factor = Annotated[float, Field(gt=0, le=1_000_000)]
RequestCount = Annotated[int, Field(ge=1, le=10_000_000)]


class _Bounded(FileModel):
    """A stage that ends after so many requests, or after so long."""

    requests: OneOrMany[RequestCount] | None = None
    """How many requests the stage sends; instead of duration."""
    duration: OneOrMany[Duration] | None = None
    """How long requests are sent, such as 60s; instead of requests."""

    @model_validator(mode="after")
    def _one_end(self) -> Any:
        ends_once(self.requests, self.duration)
        return self


class _WithAdapters(_Bounded):
    """A stage that may leave some of the workload's adapters out."""

    adapters: OneOrMany[Annotated[int, Field(ge=0, le=10_000)]] | None = None
    """How many of the workload's adapters take part, the first ones; 0 is the model alone; all by default."""


class Closed(_WithAdapters):
    """So many users; each sends its next request when the last is answered."""

    concurrency: OneOrMany[RequestCount]
    """How many requests are in flight at a time."""


class Constant(_WithAdapters):
    """Requests at equal distances."""

    rate: OneOrMany[Rate]
    """Requests a second."""
    max_concurrency: OneOrMany[RequestCount] | None = None
    """The most requests in flight; others wait and keep their due times."""


class Poisson(_WithAdapters):
    """Independent arrivals: exponential gaps."""

    rate: OneOrMany[Rate]
    """Requests a second, on average."""
    max_concurrency: OneOrMany[RequestCount] | None = None
    """The most requests in flight; others wait and keep their due times."""


class Gamma(_WithAdapters):
    """Gaps from a gamma distribution."""

    rate: OneOrMany[Rate]
    """Requests a second, on average."""
    burstiness: OneOrMany[Annotated[float, Field(gt=0, le=1000)]]
    """The shape of the gaps: 1 is Poisson, below 1 comes in bursts, above 1 is calmer."""
    max_concurrency: OneOrMany[RequestCount] | None = None
    """The most requests in flight; others wait and keep their due times."""


class Ramp(FileModel):
    """Poisson arrivals whose rate changes linearly over the duration."""

    from_: Annotated[OneOrMany[EndRate], Field(alias="from")]
    """Requests a second at the start."""
    to: OneOrMany[EndRate]
    """Requests a second at the end."""
    duration: OneOrMany[Duration]
    """How long the change takes, such as 120s."""
    max_concurrency: OneOrMany[RequestCount] | None = None
    """The most requests in flight; others wait and keep their due times."""

    @model_validator(mode="after")
    def _some_rate(self) -> "Ramp":
        if 0 in many(self.from_) and 0 in many(self.to):
            raise refused(message("scenario.ramp_of_nothing"))
        return self


class TraceReplay(FileModel):
    """Arrivals at the trace's own times."""

    speed: OneOrMany[Factor] = 1.0
    """How many times as fast as recorded."""
    max_concurrency: OneOrMany[RequestCount] | None = None
    """The most requests in flight; others wait and keep their due times."""


class Offline(FileModel):
    """All requests at once, in one call of the engine's own `LLM.generate`: no server, no arrivals."""

    requests: OneOrMany[RequestCount]
    """How many requests the call is given."""


class ClosedItem(FileModel):
    """A closed-loop stage: so many users."""

    closed: Closed
    """So many users; each sends its next request when the last is answered."""


class ConstantItem(FileModel):
    """An open-loop stage with equal gaps."""

    constant: Constant
    """Requests at equal distances."""


class PoissonItem(FileModel):
    """An open-loop stage with independent arrivals."""

    poisson: Poisson
    """Independent arrivals: exponential gaps."""


class GammaItem(FileModel):
    """An open-loop stage with burstier or calmer arrivals."""

    gamma: Gamma
    """Gaps from a gamma distribution."""


class RampItem(FileModel):
    """An open-loop stage with a changing rate."""

    ramp: Ramp
    """Poisson arrivals whose rate changes linearly."""


class TraceItem(FileModel):
    """An open-loop stage with recorded arrivals."""

    trace: TraceReplay
    """Arrivals at the trace's own times."""


class OfflineItem(FileModel):
    """A batch without a server: one call of `LLM.generate`."""

    offline: Offline
    """All requests at once, in one call of the engine's own `LLM.generate`: no server, no arrivals."""


STAGE_KINDS = ("closed", "constant", "poisson", "gamma", "ramp", "trace", "offline")
OFFLINE = "offline"
BY_ANSWERS = ("closed", OFFLINE)  # kinds without due times


def _kind_of(data: Any) -> str:
    if isinstance(data, FileModel):
        return next(iter(type(data).model_fields))
    return one_key(data)


@functools.cache
def _item_of(kind: str) -> type[FileModel]:
    """The mapping of one key that an installed arrival process is written as."""
    options = load_plugin(ARRIVALS, kind).options
    fields: dict[str, Any] = {kind: (options, ...)}
    return create_model(f"{options.__name__}Item", __base__=FileModel, **fields)


BuiltInItem = Annotated[
    Annotated[ClosedItem, Tag("closed")]
    | Annotated[ConstantItem, Tag("constant")]
    | Annotated[PoissonItem, Tag("poisson")]
    | Annotated[GammaItem, Tag("gamma")]
    | Annotated[RampItem, Tag("ramp")]
    | Annotated[TraceItem, Tag("trace")]
    | Annotated[OfflineItem, Tag("offline")],
    Discriminator(_kind_of),
]
LoadItem = Annotated[SerializeAsAny[BuiltInItem], with_plugins(ARRIVALS, STAGE_KINDS, one_key, _item_of)]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of load, measured on its own; None where a value does not belong to its kind.

    Rates are requests per second, `duration_s` seconds. `rate` is the starting and `rate_to`
    the final rate of a ramp; `adapters` how many of the workload's take part, None: all.
    """

    kind: str
    rate: float | None = None
    rate_to: float | None = None
    concurrency: int | None = None
    requests: int | None = None
    duration_s: float | None = None
    burstiness: float | None = None
    speed: float | None = None
    max_concurrency: int | None = None
    adapters: int | None = None
    options: Mapping[str, Any] | None = field(default=None, hash=False)
    """All keys of an arrival process that a package brings, as JSON; the ones above that it has stand there as well."""

    @property
    def is_open(self) -> bool:
        """Whether arrivals come by the clock and not by answers."""
        return self.kind not in BY_ANSWERS

    @property
    def expected_requests(self) -> float | None:
        """How many requests it will send, on average; None where answers or a trace decide."""
        if self.requests is not None:
            return float(self.requests)
        if self.rate is None or self.duration_s is None:
            return None
        return (self.rate + (self.rate if self.rate_to is None else self.rate_to)) / 2 * self.duration_s

    def as_dict(self) -> dict[str, Any]:
        """Its kind and the values it has, as summary.json shows a load."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


_SHARED = ("rate", "requests", "duration_s", "max_concurrency")  # what a process of a package may have as well
_FIELD_OF = {"from_": "rate", "to": "rate_to", "duration": "duration_s"}


def expand(items: tuple[LoadItem, ...]) -> tuple[Stage, ...]:
    """The stages of `load`, in order; an item's lists multiply out, requests and duration fastest."""
    return tuple(stage for item in items for stage in stages_of(item))


def stages_of(item: LoadItem) -> list[Stage]:
    """The stages that one item of `load` makes."""
    kind = next(iter(type(item).model_fields))
    body = getattr(item, kind)
    fields = sorted(type(body).model_fields, key=lambda name: name in _Bounded.model_fields)
    rows = itertools.product(*(many(getattr(body, name)) for name in fields))
    return [_stage(kind, body, dict(zip(fields, row, strict=True))) for row in rows]


def _stage(kind: str, body: Any, row: Mapping[str, Any]) -> Stage:
    values = {_FIELD_OF.get(name, name): value for name, value in row.items()}
    if kind in STAGE_KINDS:
        return Stage(kind, **values)
    options = body.model_dump(mode="json") | {name: value for name, value in row.items() if _is_plain(value)}
    return Stage(kind, options=options, **{name: values[name] for name in _SHARED if name in values})


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def load_name(load: Mapping[str, Any]) -> Message:
    """A stage's load in a few words, in the scenario's own numbers, such as `poisson 2 req/s`."""
    capped = load.get("max_concurrency")
    kind = str(load["kind"])
    if not load.get("rate") and kind not in _NAMES:  # of a package, which need not have a rate
        options = (f"{name} {value}" for name, value in (load.get("options") or {}).items() if value is not None)
        return message("load.of_package", keys=[kind, *options])
    code, fields = _NAMES.get(kind, ("load.other", ("kind", "rate")))
    name = message(code, **{field: {"speed": 1.0, **load}[field] for field in fields})
    name = message("load.at_most", load=name, max_concurrency=capped) if capped else name
    return name if load.get("adapters") is None else message("load.adapters", load=name, count=load["adapters"])


def load_and_end(load: Mapping[str, Any]) -> Message:
    """A stage's load and when it ends, such as `poisson 2 req/s, 60 s`."""
    name, requests, duration_s = load_name(load), load.get("requests"), load.get("duration_s")
    if duration_s is not None:
        return message("load.for_duration", load=name, duration_s=float(duration_s))
    if requests is not None and load["kind"] != "offline":  # whose name has them
        return message("load.for_requests", load=name, count=requests)
    return name


_NAMES = {  # of a load: its message, and the fields that the message has
    "closed": ("load.closed", ("concurrency",)),
    "offline": ("load.offline", ("requests",)),
    "gamma": ("load.gamma", ("rate", "burstiness")),
    "ramp": ("load.ramp", ("rate", "rate_to")),
    "trace": ("load.trace", ("speed",)),
    "poisson": ("load.poisson", ("rate",)),
    "constant": ("load.constant", ("rate",)),
}


def label(load: Mapping[str, Any]) -> str:
    """The name of a load in English, as `label` of summary.json has it."""
    return str(load_name(load))


def stage_title(index: int, stage: Mapping[str, Any]) -> Message:
    """The name of a stage of summary.json as a message: by its load, or by its label where that is all it has."""
    label = str(stage.get("label") or "")
    try:
        load = load_name(stage["load"])
    except KeyError:
        load = plain(label)
    if not label:
        return message("load.stage_number", number=index + 1)
    return message("load.stage", number=index + 1, load=load)
