"""A study as a checked value: what may be set, what is to be best, and how much may be tried."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from harness.errors import suggestion
from harness.messages import message
from harness.scenario.base import (
    DURATION_SCHEMA,
    Duration,
    FileModel,
    Many,
    Name,
    NonEmptyText,
    duration_of,
    matching,
    refused,
)
from harness.scenario.error_messages import show
from harness.scenario.flags import Flag, Flags, Variables
from harness.scenario.metrics import LATENCIES
from harness.scenario.stages import LoadItem

PER_CARD = "_per_card"
_TOTALS = ("throughput", "total_throughput", "request_rate", "goodput")
RATES = (*_TOTALS, *(f"{name}{PER_CARD}" for name in _TOTALS))
"""Metrics of which more is better: of the whole, and divided by its cards."""
COSTS = ("cost", "failed", "preemptions")
"""Metrics without a time of which less is better."""
CAPACITY = "capacity"
CAPACITIES = (CAPACITY, f"{CAPACITY}{PER_CARD}")
_UNITS = {"throughput": "tokens/s", "total_throughput": "tokens/s"}
UNITS = {name: _UNITS.get(name.removesuffix(PER_CARD), "req/s") for name in (*RATES, *CAPACITIES)}
"""The unit of metrics that are rates; those of a card have the same."""
_LATENCY = re.compile(r"(ttft|tpot|e2e)_(p50|p90|p95|p99|mean|max)")
OBJECTIVES = (*RATES, *CAPACITIES, "cost", "ttft_p50", "ttft_p90", "ttft_p95", "ttft_p99", "tpot_p99", "e2e_p99")
_DEVICES = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_TARGET = r"(?:additional_config\.|env\.|load\.)?[A-Za-z_-][A-Za-z0-9_.-]*"

Scalar = bool | int | float | Annotated[str, Field(min_length=1)]


def is_latency(metric: str) -> bool:
    """Whether a metric is a time, such as ttft_p99."""
    return _LATENCY.fullmatch(metric) is not None or metric.rpartition("_")[0] in LATENCIES


def whole_of(metric: str) -> str:
    """The metric of all cards together that one of a card is made from; any other is itself."""
    return metric.removesuffix(PER_CARD)


def unit_of(metric: str) -> str:
    """The unit in which a metric's values are kept; empty where it has none."""
    return "s" if is_latency(metric) else UNITS.get(metric, "")


def _objective(name: str) -> str:
    if name not in OBJECTIVES and _LATENCY.fullmatch(name) is None:
        raise refused(message("scenario.unknown_objective", hint=suggestion(name, OBJECTIVES)))
    return name


def _metric(name: str) -> str:
    known = (*OBJECTIVES, *COSTS)
    if name in CAPACITIES or (name not in known and _LATENCY.fullmatch(name) is None):
        hint = suggestion(name, [metric for metric in known if metric not in CAPACITIES])
        raise refused(message("scenario.unknown_metric", hint=hint))
    return name


def _limit(value: Any) -> Any:
    return duration_of(value) if isinstance(value, str) else value


def _device_numbers(value: Any) -> Any:
    """`[0-3, 6]` as (0, 1, 2, 3, 6)."""
    if not isinstance(value, list):
        return value
    numbers: list[Any] = []
    for item in value:
        match = _DEVICES.fullmatch(str(item)) if isinstance(item, int | str) and not isinstance(item, bool) else None
        if match is None:
            raise refused(message("scenario.expected_devices", found=show(item)))
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first:
            raise refused(message("scenario.devices_reversed", devices=str(item), first=first, last=last))
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise refused(message("scenario.device_twice"))
    return numbers


def _ordered(ends: tuple[float, float] | None) -> None:
    if ends is not None and ends[0] > ends[1]:
        raise refused(message("scenario.range_reversed", low=ends[0], high=ends[1]))
    if ends is not None and ends[0] == ends[1]:
        raise refused(message("scenario.range_of_one", low=ends[0], high=ends[1]))


class Dimension(FileModel):
    """What one parameter may be: a range of numbers, a choice, or what follows from others."""

    int_: Annotated[tuple[int, int], Field(strict=False)] | None = Field(default=None, alias="int")
    """The least and the largest whole number, both included, such as [8, 512]."""
    float_: Annotated[tuple[float, float], Field(strict=False)] | None = Field(default=None, alias="float")
    """The least and the largest number, both included, such as [0.8, 0.95]."""
    choice: Many[Scalar] | None = None
    """The values it may have."""
    derive: NonEmptyText | dict[str, dict[str, Scalar]] | None = None
    """What it follows from: arithmetic over other parameters such as "max_num_seqs * 16", or a table
    {parameter: {value: its value}}."""
    log: bool = False
    """Whether a range is searched by factors, not by differences."""
    step: Annotated[float, Field(gt=0)] | None = None
    """The distance between values of a range; 1 for whole numbers, none for others by default."""
    when: dict[str, Scalar | Many[Scalar]] = Field(default_factory=dict)
    """Other parameters and the values they must have for this one to be there."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        given = [name for name in ("int_", "float_", "choice", "derive") if getattr(self, name) is not None]
        if len(given) != 1:
            raise refused(message("scenario.expected_dimension"))
        _ordered(self.int_)
        _ordered(self.float_)
        ends = self.int_ or self.float_
        if ends is None and (self.log or self.step is not None):
            raise refused(message("scenario.log_without_range"))
        if self.log and ends is not None and ends[0] <= 0:
            raise refused(message("scenario.log_from_zero", low=ends[0]))
        if self.int_ is not None and self.step is not None and self.step != round(self.step):
            raise refused(message("scenario.step_not_whole", step=self.step))
        if self.choice is not None and len(set(map(repr, self.choice))) < len(self.choice):
            raise refused(message("scenario.choice_twice"))
        return self


def _dimension_kind(data: Any) -> str:
    if isinstance(data, dict | Dimension):
        return "dimension mapping"
    return "value list" if isinstance(data, list | tuple) else "one value"


SpaceItem = Annotated[
    Annotated[Dimension, Tag("dimension mapping")]
    | Annotated[tuple[Scalar, ...], Field(min_length=1, strict=False), Tag("value list")]
    | Annotated[Scalar, Tag("one value")],
    Discriminator(_dimension_kind),
]
ParameterTarget = Annotated[str, AfterValidator(matching(_TARGET, message("scenario.expected_target")))]


class WeightedScenario(FileModel):
    """One of several scenarios that a study serves."""

    file: NonEmptyText
    """The scenario file, looked up from the study's folder."""
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """How much it counts, relative to the others."""


def _scenario_kind(data: Any) -> str:
    return "file list" if isinstance(data, list | tuple) else "a file"


class EngineChange(FileModel):
    """What a study changes of its scenario's engine."""

    kind: Literal["auto", "simulator", "vllm-ascend", "vllm"] | None = None
    """What serves."""
    model: NonEmptyText | None = None
    """The model's name."""
    python: NonEmptyText | None = None
    """The interpreter that has vLLM installed."""
    args: Flags = Field(default_factory=dict)
    """Flags of `vllm serve` that hold for every trial."""
    env: Variables = Field(default_factory=dict)
    """Environment variables that hold for every trial."""
    ready_timeout: Duration | None = None
    """How long the engine may take until it answers."""


class Budget(FileModel):
    """How much may be tried; what is reached first ends the study."""

    trials: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many trials, the default configuration included; 20 where nothing else is given."""
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """How many minutes of engine time, starts included."""
    starts: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many engine starts."""


class Confirm(FileModel):
    """How the winner is confirmed against the default."""

    best: Annotated[int, Field(ge=0, le=20)] = 2
    """How many of the best are run again; 0 confirms nothing."""
    repeats: Annotated[int, Field(ge=2, le=100)] = 5
    """How many times each, in turns with the default, on arrivals of their own."""


class Simplify(FileModel):
    """How flags that gain nothing are removed from a confirmed winner."""

    margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    """The loss that counts as none, as a share: a flag is removed where the 95 % interval of what is left without
    it stays above 1 - margin."""
    repeats: Annotated[int, Field(ge=3, le=100)] = 5
    """How many rounds each of its measurements has at first; twice as many where these decide nothing."""
    measurements: Annotated[int, Field(ge=1, le=100_000)] = 80
    """The most loads that may be measured for it, each on an engine of its own; what is untested then is kept."""


class Screening(FileModel):
    """How the simulated engine ranks candidates before any is started."""

    points: Annotated[int, Field(ge=0, le=100_000)] = 64
    """How many candidates it runs in virtual time; 0 turns it off."""
    requests: Annotated[int, Field(ge=10, le=1_000_000)] | None = None
    """The most requests of one such run; as many as a trial's by default."""
    least_tau: Annotated[float, Field(ge=-1, le=1)] = 0.3
    """The agreement with the trials (Kendall's tau) below which it is no longer listened to."""


class StopEarly(FileModel):
    """When a trial that cannot win is ended inside its load."""

    error: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """How often, at most, a trial as good as the best may be stopped."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """By which share a trial may be worse than the best and still not be stopped."""


NO_SPLIT = "none"
_SPLIT = re.compile(r"([1-9]\d{0,2}):([1-9]\d{0,2})")
CardCount = Annotated[int, Field(ge=1, le=4096)]


def _split(value: Any) -> str:
    text = str(value)
    if text != NO_SPLIT and _SPLIT.fullmatch(text) is None:
        raise refused(message("scenario.expected_split", found=show(value)))
    return text


class Topology(FileModel):
    """How engines may lie on cards; searched before the flags, which are then searched on the best of them."""

    cards: CardCount
    """How many cards there are; a topology that needs fewer gets its share of the load."""
    tensor_parallel: Many[CardCount] = (1,)
    """How many cards one engine may have."""
    data_parallel: Literal["auto"] | Many[CardCount] = "auto"
    """How many such engines there may be; auto is as many as the cards hold."""
    prefill_decode: Many[Annotated[str, BeforeValidator(_split)]] = (NO_SPLIT,)
    """How many engines prefill to how many decode, such as 1:3; none for engines that do both."""
    connector: NonEmptyText = "MooncakeConnectorV1"
    """The KV connector between the two, as vLLM or vllm-ascend names it."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """By which share a topology may be predicted worse than the best by the simulator and still be measured."""

    @property
    def engine_counts(self) -> tuple[int, ...] | None:
        """The numbers of engines to try; None where the cards decide."""
        return None if isinstance(self.data_parallel, str) else self.data_parallel

    @property
    def splits(self) -> tuple[tuple[int, int], ...]:
        """The parts of prefill and decode; (0, 0) for engines that do both."""
        matches = (_SPLIT.fullmatch(text) for text in self.prefill_decode)
        return tuple((0, 0) if match is None else (int(match[1]), int(match[2])) for match in matches)


ObjectiveLimits = Annotated[
    dict[Annotated[str, AfterValidator(_metric)], Annotated[float, BeforeValidator(_limit), Field(ge=0)]],
    WithJsonSchema({"type": "object", "additionalProperties": DURATION_SCHEMA}),
]


class Study(FileModel):
    """One search: which configuration serves a scenario best."""

    name: Name
    """A short name of the study; result folders are named after it."""
    question: Annotated[str, Field(min_length=1, max_length=300)]
    """The question that the study answers; the first line of the report."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """The seed of everything random."""
    scenario: Annotated[
        Annotated[NonEmptyText, Tag("a file")]
        | Annotated[tuple[WeightedScenario, ...], Field(min_length=1, strict=False), Tag("file list")],
        Discriminator(_scenario_kind),
    ]
    """The scenario file, from the study's folder; or several, each with file and weight."""
    engine: EngineChange = EngineChange()
    """What is changed of the scenario's engine for every trial."""
    load: LoadItem | None = None
    """The load that trials are measured under; the scenario's last stage by default."""
    space: Annotated[dict[ParameterTarget, SpaceItem], Field(default_factory=dict)]
    """What may be set: flags by name, additional_config.KEY, env.NAME or load.KEY; a value alone is fixed."""
    topology: Topology | None = None
    """How engines may lie on cards: searched first; the objective is then one of a card."""
    defaults: bool = True
    """Whether block_size, max_num_seqs, gpu_memory_utilization and max_num_batched_tokens are searched, too."""
    dead: Literal["drop", "unlock"] = "drop"
    """What to do with a parameter that changes nothing: drop it, or unlock it by what holds it."""
    objective: Annotated[
        tuple[Annotated[str, AfterValidator(_objective)], ...],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        Field(min_length=1, strict=False),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = ("goodput",)
    """What is to be best, such as [throughput] or [throughput, ttft_p99]; several give a Pareto front."""
    constraints: ObjectiveLimits = Field(default_factory=dict)
    """Limits to keep: latencies, cost and failed at most, rates at least."""
    hold_slo: bool = True
    """Whether the scenario's SLO is kept as well, where the objective is not made from it."""
    price: Annotated[float, Field(gt=0)] = 1.0
    """What a device costs an hour; objective cost is the price of a million output tokens."""
    budget: Budget = Budget()
    """How much may be tried."""
    confirm: Confirm = Confirm()
    """How the winner is confirmed."""
    simplify: Simplify | None = Simplify()
    """How flags that gain nothing are removed from the winner; null keeps all of them."""
    screening: Screening = Screening()
    """How candidates are ranked before they are started."""
    stop_early: StopEarly | None = StopEarly()
    """When a trial that cannot win is ended; nothing to run all in full."""
    storage: NonEmptyText | None = None
    """Where trials are kept: an address such as postgresql://host/db; a file in the result folder by default."""
    devices: (
        Annotated[
            tuple[int, ...],
            BeforeValidator(_device_numbers),
            Field(min_length=1, strict=False),
            WithJsonSchema({"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1}),
        ]
        | None
    ) = None
    """The devices that workers may lease, such as [0-7]."""
    devices_per_trial: Annotated[int, Field(ge=1, le=4096)] = 1
    """How many devices one trial takes."""

    @model_validator(mode="after")
    def _something_to_set(self) -> "Study":
        if self.topology is None and not self.defaults and not any(_searched(item) for item in self.space.values()):
            raise refused(message("scenario.space_empty"))
        if len(set(self.objective)) < len(self.objective):
            raise refused(message("scenario.objective_twice"))
        if self.topology is not None and not self.objective[0].endswith(PER_CARD):
            per_card = [name for name in OBJECTIVES if name.endswith(PER_CARD)]
            hint = suggestion(f"{self.objective[0]}{PER_CARD}", per_card)
            raise refused(message("scenario.objective_of_topology", objective=self.objective[0], hint=hint))
        if self.devices is not None and self.cards > len(self.devices):
            raise refused(message("scenario.devices_too_few", per_trial=self.cards, devices=len(self.devices)))
        return self

    @property
    def seeks_capacity(self) -> bool:
        """Whether each trial searches the highest rate that keeps the SLO."""
        return self.objective[0] in CAPACITIES and len(self.objective) == 1

    @property
    def cards(self) -> int:
        """How many devices a trial leases."""
        return self.devices_per_trial if self.topology is None else self.topology.cards

    @property
    def files(self) -> tuple[WeightedScenario, ...]:
        """Its scenarios with their weights."""
        if isinstance(self.scenario, str):
            return (WeightedScenario(file=self.scenario),)
        return self.scenario


def _searched(item: Any) -> bool:
    return isinstance(item, tuple) or (isinstance(item, Dimension) and item.derive is None)


STUDY_KEYS = ("scenario", "space", "objective", "budget")
"""Keys that a study has and a scenario has not."""

__all__ = [
    "CAPACITIES", "CAPACITY", "COSTS", "OBJECTIVES", "RATES", "STUDY_KEYS", "Budget", "Confirm", "Dimension",
    "EngineChange", "Flag", "Screening", "SpaceItem", "StopEarly", "Study", "Topology", "WeightedScenario",
    "is_latency", "whole_of",
]  # fmt: skip
