"""What do readers rely upon in the raw files of a run: notes, plan and job?"""

from typing import Any

from msgspec import Struct

from harness.results.summary_schema import Count, Object, Place, Time


class Note(Struct, frozen=True):
    """A line of begun.jsonl."""

    number: Place | None = None
    begin_ns: Time | None = None
    end_ns: Time | None = None
    stopped_ns: Time | None = None

    def __post_init__(self) -> None:
        if self.number is None and (self.begin_ns is not None or self.end_ns is not None):
            raise ValueError("Object missing required field `number`")


class Head(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
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


class Reach(Struct, frozen=True):
    """How the job's server is reached, as far as secrets go."""

    headers: Object | None = None
    api_key_env: str | None = None


class Job(Struct, frozen=True):
    """job.json."""

    reach: Reach | None = None


class OfflineCall(Struct, frozen=True):
    """A call of offline.json."""

    number: Place
    stage: Place
    repeat: Place
    measured: bool
    requests: Count
    opens: bool


class OfflineJob(Struct, frozen=True):
    """offline.json."""

    calls: list[OfflineCall]


class OfflineNote(Struct, frozen=True):
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
