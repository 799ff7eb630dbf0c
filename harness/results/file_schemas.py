"""The keys of the files of a run that readers rely on: results, then the raw files of a run under way.

Only what is relied upon is held: files of earlier and later versions have fewer and more keys.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from harness.messages import message

WRITTEN_BY_RUN = message("results.written_by_run")
Object = dict[str, Any]
Plain = str | int | float | bool | None

Time = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Place = Annotated[int, Meta(ge=0, le=10**6)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Number = Annotated[float, Meta(ge=-1e24, le=1e24)]
Positive = Annotated[float, Meta(gt=0, le=1e24)]
Interval = Annotated[list[Number], Meta(min_length=2, max_length=2)]
Needs = dict[str, tuple[str, ...]]


def hold_needed(kind: str, needed: Needs, given: Struct) -> None:
    """Refuse an object of a kind that lacks what its kind needs; called as it is checked."""
    for key in needed.get(kind, ()):
        if getattr(given, key) is None:
            raise ValueError(f"Object of kind {kind!r} is missing `{key}`")


class TimelineRowSchema(Struct, frozen=True):
    """A row of timeline.json."""

    stage: Place
    repeat: Place
    start_ns: Time
    stop_ns: Time
    end_ns: Time


_LOADS: Needs = {
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate", "burstiness"),
    "ramp": ("rate", "rate_to"),
    "closed": ("concurrency",),
    "offline": ("requests",),
}


class LoadSchema(Struct, frozen=True):
    """What a stage asked for."""

    kind: str
    rate: Number | None = None
    rate_to: Number | None = None
    burstiness: Number | None = None
    speed: Number | None = None
    concurrency: Count | None = None
    max_concurrency: Count | None = None
    adapters: Count | None = None
    requests: Count | None = None
    duration_s: Number | None = None

    def __post_init__(self) -> None:
        hold_needed(self.kind, _LOADS, self)


class ProcessSchema(Struct, frozen=True):
    """A process of several that served together, of run.json."""

    name: str
    role: str | None = None
    kind: str | None = None
    devices: list[Count] | None = None
    simulated: bool | None = None
    effective: Object | None = None


class EngineSchema(Struct, frozen=True):
    """The engine of run.json."""

    kind: str | None = None
    model: str | None = None
    simulated: bool | None = None
    clock: str | None = None
    hollow: bool | None = None
    url: str | None = None
    requested: Object | None = msgspec.field(name="asked", default=None)
    effective: Object | None = None
    command: list[Any] | None = None
    sources: Object | None = None
    changed: Any = None
    processes: list[ProcessSchema] | None = None


class SelfcheckSchema(Struct, frozen=True):
    """What the client's own check had found."""

    floor_ttft_s: Number | None = None
    floor_gap_p99_s: Number | None = None
    ceiling_tokens_per_s: Number | None = None


class ClientSchema(Struct, frozen=True):
    """The client of run.json."""

    version: str | None = None
    selfcheck: SelfcheckSchema | None = None


class EnvironmentSchema(Struct, frozen=True):
    """The machine of run.json."""

    packages: Object | None = None
    npu: list[Any] | None = None


class CaseSchema(Struct, frozen=True):
    """A case of kernels, or a combination that makes none, with its axes by name or as pairs."""

    labels: dict[str, Plain] | list[tuple[str, Plain]]
    kv_lens: list[Count] = []
    reason: str | None = None


class KernelCasesSchema(Struct, frozen=True):
    """The kernels of run.json."""

    cases: list[CaseSchema]
    skipped: list[CaseSchema]


class RunSchema(Struct, frozen=True):
    """run.json."""

    format: int
    name: str
    question: str
    stages: list[LoadSchema]
    engine: EngineSchema | None = None
    client: ClientSchema | None = None
    slo: dict[str, Number] | None = None
    price_per_hour: Number | None = None
    currency: str | None = None
    devices: list[int] | None = None
    repeats: Annotated[int, Meta(ge=1, le=10**6)] = 1
    notes: list[str | dict[str, Any]] | None = None
    stream: bool = True
    scenario_text: str = ""
    payload_sha256: str | None = None
    schedule_sha256: str | None = None
    started_utc: str | None = None
    endpoint: str | None = None
    rerun: str | None = None
    seed: int | None = None
    environment: EnvironmentSchema | None = None
    overrides: list[Any] | None = None
    dataset: dict[str, int] | None = None
    prefix: Object | None = None
    interrupted: bool = False
    kernels: KernelCasesSchema | msgspec.UnsetType = msgspec.UNSET


class MessageSchema(Struct, frozen=True):
    """A message: the code of a sentence of the catalogues, and what fills it."""

    code: str
    parameters: Object


class WarningSchema(Struct, frozen=True):
    """A warning of a verdict: its messages, and their English sentences (`text`, `next_text`)."""

    code: str
    severity: str
    text: str
    next_text: str
    message: MessageSchema
    next: MessageSchema
    stage: Place | None = None
    repeat: Place | None = None


class VerdictSchema(Struct, frozen=True):
    """The verdict of summary.json."""

    valid: bool
    warnings: list[WarningSchema]
    interrupted: bool = False


class StageNoteSchema(Struct, frozen=True):
    """A line of begun.jsonl."""

    number: Place | None = None
    begin_ns: Time | None = None
    end_ns: Time | None = None
    stopped_ns: Time | None = None

    def __post_init__(self) -> None:
        if self.number is None and (self.begin_ns is not None or self.end_ns is not None):
            raise ValueError("Object missing required field `number`")


class PlanHeadSchema(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What plan.npz says of a stage beside its due times."""

    number: Place
    stage_index: Place
    repeat: Place
    stage: Object
    first_session: Count
    warm: Count
    sessions: Count | None
    measured_ns: Time
    warm_ns: Time


class ReachSchema(Struct, frozen=True):
    """How the job's server is reached, as far as secrets go."""

    headers: Object | None = None
    api_key_env: str | None = None


class JobSchema(Struct, frozen=True):
    """job.json."""

    reach: ReachSchema | None = None


class OfflineCallSchema(Struct, frozen=True):
    """A call of offline.json."""

    number: Place
    stage: Place
    repeat: Place
    measured: bool
    requests: Count
    opens: bool


class OfflineJobSchema(Struct, frozen=True):
    """offline.json."""

    calls: list[OfflineCallSchema]


class OfflineNoteSchema(Struct, frozen=True):
    """A line of notes.jsonl."""

    call: Place | None = None
    place: Place | None = None
    begin_ns: Time | None = None
    done: list[Any] | None = None
    ended: str | None = None
    at_ns: Time | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        for first, others in (("begin_ns", ("call",)), ("done", ("call", "place")), ("ended", ("at_ns", "message"))):
            for key in others if getattr(self, first) is not None else ():
                if getattr(self, key) is None:
                    raise ValueError(f"Object with `{first}` is missing `{key}`")
