"""The keys of summary.json of a load that readers rely on, over those of its stages."""

from typing import Literal

from msgspec import Struct

from harness.results.file_schemas import Count, EngineSchema, Interval, Number, Place, StageSchema, Time, VerdictSchema


class TokensSchema(Struct, frozen=True):
    """Tokens requested and counted."""

    input_asked: Count | None = None
    input_counted: Count | None = None
    input_mismatched: Count | None = None
    output_asked: Count | None = None
    output_counted: Count | None = None
    output_mismatched: Count | None = None
    counted_by: dict[str, Count] | None = None


class KneeSchema(Struct, frozen=True):
    """Between which rates limits stop holding, or more load stops bringing more."""

    by: Literal["limits", "saturation"]
    held: Number
    broken: Number
    rate: str


class SharedPauseSchema(Struct, frozen=True):
    """A pause of at least half of the streams: since the run's zero, and what was recorded beside it."""

    start_ns: Time
    end_ns: Time
    hit: Count
    streams: Count
    lost_s: Number | None = None
    beside: dict[str, Number] | None = None


class SharedPausesSchema(Struct, frozen=True):
    """Such pauses of a stage, those that cost most listed; of those that prefill explains, single long gaps too."""

    count: Count
    total_s: Number
    listed: list[SharedPauseSchema]
    gaps: Count = 0


class SlowRequestSchema(Struct, frozen=True):
    """A request with long gaps of its own."""

    index: Count
    gaps: Count
    longest_s: Number
    start_ns: Time
    total_s: Number


class SlowRequestsSchema(Struct, frozen=True):
    """Long gaps of single requests, the slowest requests listed."""

    gaps: Count
    requests: Count
    listed: list[SlowRequestSchema]


class StallsSchema(Struct, frozen=True):
    """The pauses of a stage."""

    stage: Place
    server: SharedPausesSchema
    prefill: SharedPausesSchema
    requests: SlowRequestsSchema
    threshold_s: Number | None = None


class BinSchema(Struct, frozen=True):
    """Requests alike in what a latency is broken down by, and the median of that latency (s)."""

    low: Number
    high: Number
    middle: Number
    n: Count
    p50: Number
    ci95: Interval | None = None


class BreakdownSchema(Struct, frozen=True):
    """A stage's latency by prompt length or turn."""

    stage: Place
    by: str
    metric: str
    bins: list[BinSchema]


class SummarySchema(Struct, frozen=True):
    """summary.json of a load."""

    verdict: VerdictSchema
    answer: str
    simulated: bool = False
    engine: EngineSchema | None = None
    tokens: TokensSchema | None = None
    knee: KneeSchema | None = None
    stages: list[StageSchema] | None = None
    stalls: list[StallsSchema] | None = None
    breakdowns: list[BreakdownSchema] | None = None
