"""The keys of summary.json that readers rely on, of a load and of kernels, and format 1 in the shape of format 2.

Sentences of format 1, which the version before messages wrote, stay as they are: messages without parameters that
read the same in every language. The lines of a kernel bench are checked here, too.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from harness.errors import ResultError
from harness.messages import message, plain
from harness.results.file_schemas import (
    WRITTEN_BY_RUN,
    Count,
    EngineSchema,
    Interval,
    Needs,
    Number,
    Object,
    Place,
    Positive,
    Time,
    VerdictSchema,
    hold_needed,
)
from harness.results.stage_schemas import StageSchema


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


class LengthSchema(Struct, frozen=True):
    """Prompts of one range of lengths (tokens): the objective's statistic (s), and whether it is met."""

    low: Count
    high: Count
    n: Count
    met: bool
    value_s: Number | None = None
    ci95: list[Number | None] | None = None


class ByLengthSchema(Struct, frozen=True):
    """An objective of the time to first token, judged for each prompt length."""

    objective: str
    limit_s: Number
    bins: list[LengthSchema]


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
    by_length: ByLengthSchema | None = None


_ROWS: Needs = {
    "measured": ("modes", "work", "throttled"),
    "skipped": ("reason",),
    "wrong": ("reason",),
    "failed": ("reason",),
}


class LimitShareSchema(Struct, frozen=True):
    """How near a measurement comes to one limit."""

    bound: str
    ideal_s: Number
    fraction: Number
    gap_s: Number


class ProcessFiguresSchema(Struct, frozen=True):
    """What one process measured of a case in a mode."""

    n: Count
    median_s: Positive
    ci95_s: Interval | None


class FiguresSchema(ProcessFiguresSchema, frozen=True):
    """What was measured of a case in a mode."""

    min_s: Number
    launch_s: Number
    bytes_per_s: Number
    flops_per_s: Number
    marks: list[str]
    limits: dict[str, LimitShareSchema]
    noise: Number | None = None
    stop: str | None = None
    repeats: list[ProcessFiguresSchema] | None = None
    between_runs: Number | None = None


class WorkSchema(Struct, frozen=True):
    """What a case computes and moves."""

    flops: Count
    read_bytes: Count
    write_bytes: Count


class ErrorsSchema(Struct, frozen=True):
    """How far results were off."""

    worst: Number | None
    typical: Number | None = None


class LabelsSchema(Struct, frozen=True):
    """The axes of a case."""

    phase: str
    model: str = ""
    dtype: str = ""
    block_size: Count | None = None
    batch: Count | None = None
    kv_tokens: Count | None = None


class KernelRowSchema(Struct, frozen=True):
    """A row of a kernel result."""

    case: int
    path: str
    status: str
    labels: LabelsSchema
    modes: dict[str, FiguresSchema]
    reason: str | None = None
    work: WorkSchema | None = None
    throttled: bool | None = None
    errors: ErrorsSchema | None = None
    repeats: Count = 1
    name: str | None = None
    name_message: Object | None = None
    reason_message: Object | None = None
    refused_modes: dict[str, str] = {}
    refused_modes_messages: dict[str, Object] = {}

    def __post_init__(self) -> None:
        hold_row(self)


def hold_row(row: Any) -> None:
    """A row has a known status, and what that needs."""
    if row.status not in _ROWS:
        raise ValueError(f"Unknown status {row.status!r}, not one of {', '.join(_ROWS)}")
    hold_needed(row.status, _ROWS, row)
    if row.status == "measured" and (row.case < 0 or not row.modes):
        raise ValueError("Object is measured and has no case or no `modes`")


class DeviceLimitsSchema(Struct, frozen=True):
    """What the device can do at most."""

    source: str
    bytes_per_s: Positive
    flops_per_s: dict[str, Positive]


class DeviceSchema(Struct, frozen=True):
    """Where kernels ran."""

    name: str
    kind: str
    cache_bytes: Count
    facts: Object
    memory_bytes: Count | None = None


class StatusCountsSchema(Struct, frozen=True):
    """How many cases ended how."""

    measured: Count
    skipped: Count
    wrong: Count
    failed: Count


class KernelsSchema(Struct, frozen=True):
    """The kernels of summary.json."""

    rows: list[KernelRowSchema]
    provider: str
    device: DeviceSchema
    counts: StatusCountsSchema
    limits: list[DeviceLimitsSchema]
    missing: dict[str, str]
    missing_messages: dict[str, Object] = {}
    repeats: Count = 1
    between_runs: Number | None = None


class KernelSummarySchema(Struct, frozen=True):
    """summary.json of kernels."""

    verdict: VerdictSchema
    answer: str
    kernels: KernelsSchema
    simulated: bool


class SampledFiguresSchema(FiguresSchema, frozen=True, kw_only=True):
    """What one process measured of a case in a mode, with each sample: launches, and its three times."""

    samples: list[tuple[Annotated[int, Meta(ge=1, le=2**62)], Count | None, Count | None, Count | None]]


class RowLineSchema(Struct, frozen=True, tag_field="event", tag="row"):
    """A line of a bench about a case."""

    case: Place
    path: str
    status: str
    repeat: Place = 0
    modes: dict[str, SampledFiguresSchema] = {}
    reason: str | None = None
    reason_message: Object | None = None
    work: WorkSchema | None = None
    throttled: bool = False
    errors: ErrorsSchema | None = None
    waited: Number = 0.0

    def __post_init__(self) -> None:
        hold_row(self)
        if self.status == "measured" and self.errors is None:
            raise ValueError("Object is measured and is missing `errors`")


class DeviceLineSchema(DeviceSchema, frozen=True, kw_only=True, tag_field="event", tag="device"):
    """The line of a bench about its device."""

    provider: str
    limits: list[DeviceLimitsSchema]
    missing: dict[str, str]
    missing_messages: dict[str, Object] = {}


class LineSchema(Struct, frozen=True):
    """Any line of a bench."""

    event: str


LINES_OF: dict[str, Any] = {"row": RowLineSchema, "device": DeviceLineSchema}


_SEVERITIES = {"doubt": "warning"}  # the others have kept their names


class _Warning1(Struct, frozen=True):
    text: str
    name: str = ""
    severity: str = "warning"
    next: str = ""
    stage: Place | None = None
    repeat: Place | None = None


class _Verdict1(Struct, frozen=True):
    doubts: list[_Warning1]


def in_format_2(path: str, summary: Any) -> Any:
    """The content of a summary.json in format 2; what is in it already, or is no summary, stays as it is.

    Raises:
        ResultError: where its verdict is not of format 1, with the place.
    """
    verdict = summary.get("verdict") if isinstance(summary, dict) else None
    if not isinstance(verdict, dict) or "doubts" not in verdict:
        return summary
    try:
        warnings = [_warning(warning) for warning in msgspec.convert(verdict, _Verdict1).doubts]
    except (msgspec.ValidationError, OverflowError, RecursionError) as fault:
        place = f"{path}: verdict"
        raise ResultError(
            message("results.not_as_expected", place=place, reason=str(fault), expected=WRITTEN_BY_RUN)
        ) from None
    kept = {key: value for key, value in verdict.items() if key != "doubts"}
    return summary | {"format": 2, "verdict": kept | {"warnings": warnings}}


def _warning(warning: _Warning1) -> dict[str, Any]:
    return {
        "code": warning.name or warning.text,
        "severity": _SEVERITIES.get(warning.severity, warning.severity),
        "stage": warning.stage,
        "repeat": warning.repeat,
        "message": plain(warning.text).as_dict(),
        "text": warning.text,
        "next": plain(warning.next).as_dict(),
        "next_text": warning.next,
    }
