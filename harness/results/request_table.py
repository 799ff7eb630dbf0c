"""The record of a request, and the tables of requests, token events and samples.

A `Record` is one flat row; a failure is a field of it, not an exception. `Requests` and
`Events` hold the same as columns (numpy arrays of one length), for analysis. All times are
integer nanoseconds since the run's zero; `MISSING` stands where something never happened.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any

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
PRIMING = "priming"
PHASES = (WARMUP, MEASURED, PRIMING)

FROM_TOKEN_IDS = "token_ids"  # noqa: S105 - a source of counts, not a secret
FROM_USAGE = "usage"
ASSUMED = "assumed"  # the total is the server's, spread over the events with content
FROM_EVENTS = "events"  # no total was told: each event with content counts as one token
COUNTS = (FROM_TOKEN_IDS, FROM_USAGE, ASSUMED, FROM_EVENTS)  # the best evidence first


CLIENT, SERVER, WORKLOAD, KIND, ANSWER = "client", "server", "workload", "kind", "answer"
_NEEDED: Any = object()


def _column(meaning: str, default: Any = _NEEDED, *, unit: str = "", always: bool = False, of: str = "") -> Any:
    """A field of a record.

    `unit` is ns, tokens or empty; `always`: each row has a value, and a file with an empty cell is refused. `of` says
    who knows it, of columns that earlier results do not have: the `client` of its own lateness (nobody where none
    stood between), the `server` of the request in its own metrics, the `workload` of what it sends, the `kind` of
    request, the `answer` of what such a kind brings back.
    """
    metadata = {"meaning": meaning, "unit": unit, "always": always, "of": of}
    return field(metadata=metadata) if default is _NEEDED else field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Record:
    """One request of a run, from its due time to its end: the one table of its fields.

    `Requests`, the columns of requests.parquet, what a reader refuses and the DataFrames follow from it; a field that
    is added here is added there. Texts are str, all others int, `MISSING` where there is no value.
    """

    index: int = _column("its place among all requests of the run, from 0", always=True)
    stage: int = _column("the stage that it belongs to, from 0", always=True)
    repeat: int = _column("the pass through the stages, from 0", always=True)
    phase: str = _column("warmup, measured, or priming: sent before the stage to fill the prefix cache")
    session: int = _column("the session that it belongs to, from 0 in the workload")
    turn: int = _column("its place in the session, from 0")
    worker: int = _column("the client process that sent it")
    due_ns: int = _column("when the arrival process wanted it", unit="ns")
    ready_ns: int = _column("when it was free to go: due, or later behind max_concurrency", MISSING, unit="ns")
    sent_ns: int = _column("when its bytes were handed to the transport", MISSING, unit="ns")
    first_ns: int = _column("the arrival of the first event that carried a token", MISSING, unit="ns")
    last_ns: int = _column("the arrival of the last event that carried a token", MISSING, unit="ns")
    done_ns: int = _column("the end of the answer, or the failure", MISSING, unit="ns")
    connect_ns: int = _column("time spent opening a connection for it, 0 where one was open", MISSING, unit="ns")
    sent_bound_ns: int = _column("it left at most so much later than sent_ns", MISSING, unit="ns", of=CLIENT)
    first_bound_ns: int = _column(
        "the first token arrived at most so much earlier than first_ns", MISSING, unit="ns", of=CLIENT
    )
    late_ns: int = _column("from the arrival of its bytes to their read, at worst", MISSING, unit="ns", of=CLIENT)
    blurred: int = _column("token events that were read late, together with a later one", MISSING, of=CLIENT)
    resends: int = _column("sent again because the server had closed an idle connection", 0)
    input_asked: int = _column("the prompt's length as it was made", MISSING, unit="tokens")
    input_tokens: int = _column("the prompt's length as the server counts it", MISSING, unit="tokens")
    cached_tokens: int = _column("of these, found in the prefix cache, where the server says", MISSING, unit="tokens")
    reusable_tokens: int = _column(
        "of these, in full blocks that earlier requests of the run left: an unbounded prefix cache would find them",
        MISSING,
        unit="tokens",
        of=WORKLOAD,
    )
    image_tokens: int = _column("of these, of images, where the server says", MISSING, unit="tokens", of=ANSWER)
    sent_bytes: int = _column("the size of the request, headers and images included", MISSING, of=KIND)
    request_class: int = _column("its class, a place in `classes` of run.json, from 0", MISSING, of=KIND)
    output_asked: int = _column("the answer's length as it was asked for", MISSING, unit="tokens")
    output_tokens: int = _column("the answer's length", 0, unit="tokens", always=True)
    first_tokens: int = _column("tokens in the first token event", 0, unit="tokens")
    events: int = _column("events that carried a token", 0, always=True)
    answer_ns: int = _column(
        "the arrival of the first token that is no reasoning; first_ns where nothing is", MISSING, unit="ns", of=ANSWER
    )
    reasoning_tokens: int = _column("of the answer's tokens, those of reasoning", MISSING, unit="tokens", of=ANSWER)
    documents: int = _column("documents that were embedded or scored", MISSING, of=ANSWER)
    valid: int = _column("1 where the answer keeps the form that was asked for, 0 where not", MISSING, of=ANSWER)
    counted_by: str = _column("how tokens were counted: token_ids, usage, assumed or events", ASSUMED)
    server_queue_ns: int = _column("from its arrival in the engine to its first step", MISSING, unit="ns", of=SERVER)
    server_prefill_ns: int = _column("from that step's begin to the first token", MISSING, unit="ns", of=SERVER)
    server_decode_ns: int = _column("from the first token to the last", MISSING, unit="ns", of=SERVER)
    draft_steps: int = _column("steps in which drafted tokens were verified", MISSING, of=SERVER)
    draft_tokens: int = _column("tokens that were drafted for it", MISSING, unit="tokens", of=SERVER)
    accepted_tokens: int = _column("of these, accepted", MISSING, unit="tokens", of=SERVER)
    status: str = _column("completed, failed, cancelled or never_sent", NEVER_SENT)
    http_status: int = _column("the status line's code", MISSING)
    error: str = _column("a short stable name, such as refused or timeout", "")
    message: str = _column("the server's or the system's own words, cut to a line", "")


_FIELDS = fields(Record)
COLUMNS = tuple(column.name for column in _FIELDS)
TEXT_COLUMNS = frozenset(column.name for column in _FIELDS if column.type in (str, "str"))
CLIENT_COLUMNS = tuple(column.name for column in _FIELDS if column.metadata["of"] == CLIENT)
SERVER_COLUMNS = tuple(column.name for column in _FIELDS if column.metadata["of"] == SERVER)
ANSWER_COLUMNS = tuple(column.name for column in _FIELDS if column.metadata["of"] == ANSWER)
LATER_COLUMNS = tuple(column.name for column in _FIELDS if column.metadata["of"])
ALWAYS_COLUMNS = frozenset(column.name for column in _FIELDS if column.metadata["always"])


def _count(requests: "Requests") -> int:
    return len(requests.index)


def _take(requests: "Requests", chosen: NDArray[Any]) -> "Requests":
    """The rows that a mask or an array of row numbers chooses."""
    return Requests(**{name: getattr(requests, name)[chosen] for name in COLUMNS})


if TYPE_CHECKING:  # the columns are generated, and known to no type checker

    class Requests:
        """Records as columns, one row a request, ordered by index; see `Record` for the meanings.

        Integer columns are int64 arrays with `MISSING` where there is no value; the text columns are object arrays
        of str.
        """

        def __init__(self, **columns: NDArray[Any]) -> None: ...

        def __getattr__(self, name: str) -> NDArray[Any]: ...

        def __len__(self) -> int: ...

        def take(self, chosen: NDArray[Any]) -> "Requests":
            """The rows that a mask or an array of row numbers chooses."""
else:
    Requests = make_dataclass(
        "Requests",
        [(name, np.ndarray) for name in COLUMNS],
        namespace={"__len__": _count, "take": _take, "__module__": __name__},
        frozen=True,
        slots=True,
    )
    Requests.__doc__ = "Records as columns, one row a request, ordered by index; see `Record` for the meanings."


def requests_from(records: Iterable[Record]) -> Requests:
    """Columns of some records, ordered by index."""
    rows = sorted(records, key=lambda record: record.index)
    return requests_from_columns({name: [getattr(row, name) for row in rows] for name in COLUMNS})


def requests_from_columns(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Requests:
    """Columns of plain values as typed arrays; `LATER_COLUMNS` may be absent, and are MISSING then."""
    unknown = np.full(len(columns["index"]), MISSING, dtype=np.int64)
    columns = {**dict.fromkeys(LATER_COLUMNS, unknown), **columns}
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
