"""The record of a request, and the tables of requests, token events and samples.

A `Record` is one flat row; a failure is a field of it, not an exception. `Requests` and
`Events` hold the same as columns (numpy arrays of one length), for analysis. All times are
integer nanoseconds since the run's zero; `MISSING` stands where something never happened.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = -1

COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
NEVER_SENT = "never_sent"
STATUSES = (COMPLETED, FAILED, CANCELLED, NEVER_SENT)

WARMUP = "warmup"
MEASURED = "measured"
PHASES = (WARMUP, MEASURED)

FROM_TOKEN_IDS = "token_ids"  # noqa: S105 - a source of counts, not a secret
FROM_USAGE = "usage"
ASSUMED = "assumed"  # the total is the server's, spread over the events with content
FROM_EVENTS = "events"  # no total was told: each event with content counts as one token
COUNTS = (FROM_TOKEN_IDS, FROM_USAGE, ASSUMED, FROM_EVENTS)  # the best evidence first


@dataclass(frozen=True, slots=True)
class Record:
    """One request of a run, from its due time to its end.

    `due_ns` is when the arrival process wanted it, `ready_ns` when it was free to go (due, or
    later where it waited for a slot of `max_concurrency`), `sent_ns` when its bytes were handed
    to the transport, `first_ns`/`last_ns` the arrival of the first and last event that carried a
    token, `done_ns` the end of the answer (or the failure).
    """

    index: int
    stage: int
    repeat: int
    phase: str
    session: int
    turn: int
    worker: int
    due_ns: int
    ready_ns: int = MISSING
    sent_ns: int = MISSING
    first_ns: int = MISSING
    last_ns: int = MISSING
    done_ns: int = MISSING
    connect_ns: int = MISSING  # time spent opening a connection for it, 0 where one was open
    sent_bound_ns: int = MISSING  # the request left at most so much later than sent_ns; unknown without kernel stamps
    first_bound_ns: int = MISSING  # the first token arrived at most so much earlier than first_ns
    late_ns: int = MISSING  # from the arrival of an answer's bytes to their read, at worst
    blurred: int = MISSING  # token events that were read late, together with a later one
    resends: int = 0  # sent again because the server had closed an idle connection
    input_asked: int = MISSING
    input_tokens: int = MISSING  # the server's own count
    cached_tokens: int = MISSING  # of these, found in the prefix cache, where the server says
    output_asked: int = MISSING
    output_tokens: int = 0
    first_tokens: int = 0  # tokens in the first token event
    events: int = 0  # events that carried a token
    counted_by: str = ASSUMED  # token_ids, usage, assumed or events; see above
    status: str = NEVER_SENT
    http_status: int = MISSING
    error: str = ""  # short stable name, such as "refused" or "timeout"
    message: str = ""  # the server's or the system's own words, cut to a line


@dataclass(frozen=True, slots=True)
class Requests:
    """Records as columns, one row a request, ordered by index; see `Record` for the meanings.

    Integer columns are int64 arrays with `MISSING` where there is no value; the text columns
    (phase, counted_by, status, error, message) are object arrays of str.
    """

    index: NDArray[np.int64]
    stage: NDArray[np.int64]
    repeat: NDArray[np.int64]
    phase: NDArray[np.object_]
    session: NDArray[np.int64]
    turn: NDArray[np.int64]
    worker: NDArray[np.int64]
    due_ns: NDArray[np.int64]
    ready_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    connect_ns: NDArray[np.int64]
    sent_bound_ns: NDArray[np.int64]
    first_bound_ns: NDArray[np.int64]
    late_ns: NDArray[np.int64]
    blurred: NDArray[np.int64]
    resends: NDArray[np.int64]
    input_asked: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    output_asked: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    first_tokens: NDArray[np.int64]
    events: NDArray[np.int64]
    counted_by: NDArray[np.object_]
    status: NDArray[np.object_]
    http_status: NDArray[np.int64]
    error: NDArray[np.object_]
    message: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, chosen: NDArray[Any]) -> "Requests":
        """The rows that a mask or an array of row numbers chooses."""
        return Requests(**{name: getattr(self, name)[chosen] for name in COLUMNS})


COLUMNS = tuple(field.name for field in fields(Requests))
CLIENT_COLUMNS = ("sent_bound_ns", "first_bound_ns", "late_ns", "blurred")
"""What the client knows of its own lateness: not in results of before, nor where no client stood between."""
TEXT_COLUMNS = frozenset({"phase", "counted_by", "status", "error", "message"})


def requests_from(records: Iterable[Record]) -> Requests:
    """Columns of some records, ordered by index."""
    rows = sorted(records, key=lambda record: record.index)
    return requests_from_columns({name: [getattr(row, name) for row in rows] for name in COLUMNS})


def requests_from_columns(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Requests:
    """Columns of plain values as typed arrays; `CLIENT_COLUMNS` may be absent, and are MISSING then."""
    unknown = np.full(len(columns["index"]), MISSING, dtype=np.int64)
    columns = {**dict.fromkeys(CLIENT_COLUMNS, unknown), **columns}
    return Requests(
        **{name: np.asarray(columns[name], dtype=object if name in TEXT_COLUMNS else np.int64) for name in COLUMNS}
    )


@dataclass(frozen=True, slots=True)
class Events:
    """Token events of the same requests: row i owns `at_ns[offsets[i]:offsets[i + 1]]`.

    `at_ns` is the arrival of each event that carried tokens (ns since the run's zero, int64,
    in order), `tokens` how many it carried (int32). `offsets` has one entry more than rows.
    """

    offsets: NDArray[np.int64]
    at_ns: NDArray[np.int64]
    tokens: NDArray[np.int32]

    def of(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Arrival times and token counts of one row."""
        start, end = self.offsets[row], self.offsets[row + 1]
        return self.at_ns[start:end], self.tokens[start:end]

    def take(self, chosen: NDArray[Any]) -> "Events":
        """The rows that a mask or an array of row numbers chooses."""
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        counts = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        flat = np.repeat(self.offsets[:-1][rows], counts) + within
        return Events(offsets, self.at_ns[flat], self.tokens[flat])


def events_from(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Events:
    """Events of some requests, each given as its arrival times and token counts."""
    offsets = np.cumsum([0, *(len(at) for at, _ in rows)], dtype=np.int64)
    at_ns = np.fromiter((t for at, _ in rows for t in at), dtype=np.int64, count=int(offsets[-1]))
    tokens = np.fromiter((n for _, ns in rows for n in ns), dtype=np.int32, count=int(offsets[-1]))
    return Events(offsets, at_ns, tokens)


@dataclass(frozen=True, slots=True)
class Samples:
    """What was watched during a run, in long form: one value of one name from one source at one time.

    `at_ns` int64 (ns since the run's zero), `source` and `name` object arrays of str (such as
    "client-0" and "cpu_share"), `value` float64; all of one length.
    """

    at_ns: NDArray[np.int64]
    source: NDArray[np.object_]
    name: NDArray[np.object_]
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at_ns)

    def take(self, chosen: NDArray[Any]) -> "Samples":
        """The rows that a mask or an array of row numbers chooses."""
        return Samples(self.at_ns[chosen], self.source[chosen], self.name[chosen], self.value[chosen])


def samples_from(rows: Iterable[tuple[int, str, str, float]]) -> Samples:
    """Samples of (at_ns, source, name, value) rows."""
    at_ns, source, name, value = zip(*rows, strict=True) if (rows := list(rows)) else ((), (), (), ())
    return Samples(
        np.asarray(at_ns, dtype=np.int64),
        np.asarray(source, dtype=object),
        np.asarray(name, dtype=object),
        np.asarray(value, dtype=np.float64),
    )
