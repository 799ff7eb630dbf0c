"""Sessions of a trace: which requests belong together, what each waits for, and for how long.

The keys of a row, beside those of Mooncake: `session` (or AIPerf's `session_id`), `id`, `parent` (an `id` of the same
session, or a list of them), and `delay`, the time of a tool between the last parent's answer and the request. A row
without `parent` follows the row of its session before it; one whose `parent` is null, or that is the first, begins by
itself at its `timestamp`. Parents stand before their children.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.messages import message
from harness.workload.data_files import missing_or, row_error
from harness.workload.prompts import Turn

_NAMES = ("session", "session_id")
_LONGEST_MS = 1e12
NO_PARENT = "workload.parent_left_out"
NO_TIME = "workload.session_without_time"
SAME_ID = "workload.id_left_out"


class SessionLink(NamedTuple):
    """A row's place in its session; `parents` are ids, None for the row before; `delay_ns` follows their answers."""

    session: str
    id: str | None
    parents: tuple[str, ...] | None
    delay_ns: int


class LinkedRow(NamedTuple):
    """What linking needs of a row: its time (ns, None where it has none), its link, and its place among the rows."""

    at_ns: int | None
    link: SessionLink | None
    place: int


@dataclass(slots=True)
class TraceSession:
    """The rows of one session in the order of the file: their places, the turns they wait for, and pauses (ns)."""

    at_ns: int
    places: list[int] = field(default_factory=list)
    parents: list[tuple[int, ...]] = field(default_factory=list)
    waits_ns: list[int] = field(default_factory=list)
    turns: dict[str, int] = field(default_factory=dict)

    def add(self, row: LinkedRow, parents: tuple[int, ...]) -> None:
        """Take a row in as the next turn."""
        assert row.link is not None
        offset_ns = 0 if row.at_ns is None else max(0, row.at_ns - self.at_ns)
        if row.link.id is not None:
            self.turns[row.link.id] = len(self.places)
        self.places.append(row.place)
        self.parents.append(parents)
        self.waits_ns.append(row.link.delay_ns if parents else offset_ns)


def link_of(path: Path, number: int, row: Mapping[str, Any], unit_ns: int) -> SessionLink | None:
    """What a row says of its session; None where it names none.

    Raises:
        InputError: with file, line and what was expected.
    """
    session = next((row[name] for name in _NAMES if row.get(name) is not None), None)
    if session is None:
        return None
    own = row.get("id")
    return SessionLink(
        str(session), None if own is None else str(own), _parents(row), _delay(path, number, row, unit_ns)
    )


def _parents(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "parent" not in row:
        return None
    parent = row["parent"]
    listed = parent if isinstance(parent, list) else [] if parent is None else [parent]
    return tuple(dict.fromkeys(str(name) for name in listed))


def _delay(path: Path, number: int, row: Mapping[str, Any], unit_ns: int) -> int:
    delay = row.get("delay")
    if delay is None:
        return 0
    if not isinstance(delay, int | float) or isinstance(delay, bool) or not 0 <= delay <= _LONGEST_MS:
        raise row_error(path, number, message("workload.expected_number", problem=missing_or(row, "delay")))
    return round(delay * unit_ns)


def linked(rows: Sequence[LinkedRow], left_out: Counter[str]) -> list[TraceSession]:
    """The sessions of some rows, in the order of their begins; `left_out` counts the rows that cannot be placed."""
    sessions: list[TraceSession] = []
    named: dict[str, TraceSession] = {}
    for row in rows:
        session = None if row.link is None else named.get(row.link.session)
        parents = _turns_of(row, session)
        if session is not None and row.link is not None and row.link.id in session.turns:
            left_out[SAME_ID] += 1
        elif parents is None:
            left_out[NO_PARENT] += 1
        elif session is not None and (parents or row.at_ns is not None):
            session.add(row, parents)
        elif row.at_ns is None or session is not None:
            left_out[NO_TIME] += 1
        else:
            begun = TraceSession(row.at_ns)
            begun.add(row if row.link else row._replace(link=SessionLink("", None, (), 0)), ())
            sessions.append(begun)
            if row.link is not None:
                named[row.link.session] = begun
    return sorted(sessions, key=lambda session: session.at_ns)


def _turns_of(row: LinkedRow, session: TraceSession | None) -> tuple[int, ...] | None:
    """The turns that a row waits for; None where one of them is not there."""
    link = row.link
    if link is None or (session is None and not link.parents):
        return ()
    if session is None:
        return None
    if link.parents is None:
        return (len(session.places) - 1,)
    turns = [session.turns.get(name) for name in link.parents]
    return None if None in turns else tuple(turn for turn in turns if turn is not None)


def turns_of(session: TraceSession, lengths: Sequence[tuple[int, int]]) -> tuple[Turn, ...]:
    """The turns of a session with their lengths (tokens of prompt and answer)."""
    rows = zip(lengths, session.parents, session.waits_ns, strict=True)
    return tuple(Turn(*tokens, wait_ns, parents) for tokens, parents, wait_ns in rows)
