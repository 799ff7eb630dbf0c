"""A scenario as a checked value: its engine, objectives, warm-up, and the whole."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from harness.errors import suggestion
from harness.messages import message
from harness.scenario.base import DURATION_SCHEMA, Duration, FileModel, Name, ends_once, refused, with_keys
from harness.scenario.engine import Engine
from harness.scenario.kernels import Kernels
from harness.scenario.metrics import LATENCIES
from harness.scenario.request_kinds import POOLED
from harness.scenario.stages import OFFLINE, LoadItem, Stage, expand
from harness.scenario.workload import WorkloadSpec

_STATISTIC = r"p\d{1,2}(?:\.\d{1,3})?|mean|max"
_SLO_KEY = re.compile(rf"(?P<metric>{'|'.join(LATENCIES)})_(?P<statistic>{_STATISTIC})")


def _slo_key(key: str) -> str:
    if _SLO_KEY.fullmatch(key) is None:
        meant = re.search(rf"(?:{_STATISTIC})$", key)
        statistic = "p99" if meant is None else meant.group()
        hint = suggestion(key, [f"{metric}_{statistic}" for metric in LATENCIES])
        raise refused(message("scenario.unknown_objective", hint=hint))
    return key


def split_objective(key: str) -> tuple[str, str]:
    """Metric and statistic of an SLO key: `ttft_p99` is ("ttft", "p99")."""
    match = _SLO_KEY.fullmatch(key)
    assert match is not None, key
    return match.group("metric"), match.group("statistic")


SloKey = Annotated[str, AfterValidator(_slo_key)]
Slo = Annotated[
    dict[SloKey, Duration],
    with_keys(rf"({'|'.join(LATENCIES)})_({_STATISTIC.replace('?:', '')})", DURATION_SCHEMA),
]


class Warmup(FileModel):
    """Load before the first measured stage, recorded and marked but not counted."""

    requests: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """How many requests; instead of duration."""
    duration: Duration | None = None
    """How long, such as 10s; instead of requests."""

    @model_validator(mode="after")
    def _one_end(self) -> "Warmup":
        ends_once(self.requests, self.duration)
        return self


class Scenario(FileModel):
    """One question to an engine: what work, how much of it, and what is good enough."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["workload", "load"], "properties": {"kernels": {"type": "null"}}},
                {
                    "required": ["kernels"],
                    "properties": {"workload": {"type": "null"}, "load": {"type": "null"}},
                },
            ]
        }
    )

    name: Name
    """A short name of the scenario, such as long-context; result folders are named after it."""
    question: Annotated[str, Field(min_length=1, max_length=300)]
    """The question that the run answers; the first line of the report."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """The seed of everything random: the same seed sends the same requests at the same times."""
    engine: Engine = Engine()
    """Which engine serves, and how it is started or reached."""
    endpoint: Literal["completions", "chat", "responses", "embeddings", "rerank", "score"] = "completions"
    """Which API is used; completions and embeddings send token ids: lengths are exact without a tokenizer."""
    stream: bool = True
    """Whether answers come token by token."""
    token_counts: Literal["usage", "token_ids", "assumed"] = "usage"  # noqa: S105 - tokens of text
    """Where the number of tokens of an event comes from."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """More keys for the body of each request, such as temperature."""
    workload: WorkloadSpec | None = None
    """What is sent: prompts, answers and how they share."""
    load: Annotated[tuple[LoadItem, ...], Field(min_length=1, strict=False)] | None = None
    """When it is sent: stages, run in order, each measured on its own."""
    kernels: Kernels | None = None
    """Microbenchmarks of attention kernels, in place of workload and load."""
    warmup: Warmup | None = None
    """Load before the first measured stage, recorded but not counted."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """How many times the stages are run, or kernels measured, each time in a fresh process."""
    timeout: Duration = 600.0
    """How long one request may take."""
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """How many processes send; chosen by the number of cores by default."""
    slo: Slo = Field(default_factory=dict)
    """What is good enough: limits by metric and statistic, such as ttft_p99: 5s."""
    price_per_hour: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    """What one NPU costs for an hour; gives the cost of a million tokens."""
    currency: Annotated[str, Field(min_length=1, max_length=12)] | None = None
    """The currency of price_per_hour, such as CNY; costs are shown in it."""

    @model_validator(mode="after")
    def _one_purpose(self) -> "Scenario":
        if self.kernels is not None and (self.workload is not None or self.load is not None):
            other = "load" if self.workload is None else "workload"
            raise refused(message("scenario.kernels_and_load", other=other))
        if self.kernels is None and (self.workload is None or self.load is None):
            missing = "workload" if self.workload is None else "load"
            raise refused(message("scenario.purpose_missing", missing=missing))
        return self

    @model_validator(mode="after")
    def _trace_has_times(self) -> "Scenario":
        kind = None if self.workload is None else self.workload.kind
        if kind not in (None, "trace") and any(stage.kind == "trace" for stage in self.stages):
            raise refused(message("scenario.trace_needs_times", kind=kind))
        return self

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of `load`, lists multiplied out."""
        return expand(self.load or ())

    @property
    def streams(self) -> bool:
        """Whether answers come token by token; those of embeddings, rerank and score have none."""
        return self.stream and self.endpoint not in POOLED

    @property
    def is_offline(self) -> bool:
        """Whether requests go to the engine's own `LLM.generate`, and not to a server."""
        return any(stage.kind == OFFLINE for stage in self.stages)
