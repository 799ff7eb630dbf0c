"""The keys of a kernel result that readers rely on: summary.json, and the lines of a bench."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from harness.results.file_schemas import (
    Count,
    Interval,
    Needs,
    Number,
    Object,
    Place,
    Positive,
    VerdictSchema,
    hold_needed,
)

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
    refused_modes: dict[str, str] = {}

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


class LineSchema(Struct, frozen=True):
    """Any line of a bench."""

    event: str


LINES_OF: dict[str, Any] = {"row": RowLineSchema, "device": DeviceLineSchema}
