"""The ground truth: when each token really left the reference server."""

import json
import time
from array import array
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.units import NS_PER_S

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenSchedule:
    """When events are due: `first_ns` after the last byte of the request was read, then every `gap_ns`."""

    first_ns: int
    gap_ns: int
    per_event: int = 1  # tokens an event
    model: str = "reference-server"


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """What was sent, a row an answer in the order of their ends; times on the machine's monotonic clock.

    Row i owns `sent_ns[offsets[i]:offsets[i + 1]]`, when each event left by the kernel's stamp (without
    one: the moment before it was written); `read_ns` is when the last byte of its request had arrived
    (without a stamp: was read), `tokens` what it asked for,
    `ended` whether the answer was sent to its end. `cpu_ns` is the server's own CPU time,
    `held` the number of events a full socket did not take at once.
    """

    read_ns: Ints
    tokens: Ints
    ended: Ints
    offsets: Ints
    sent_ns: Ints
    schedule: TokenSchedule
    cpu_ns: int
    held: int

    def take(self, rows: Ints) -> "GroundTruth":
        """The log with these of its answers, in this order."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        columns = {name: getattr(self, name)[rows] for name in ("read_ns", "tokens", "ended")}
        return replace(self, **columns, offsets=offsets, sent_ns=self.sent_ns[places])

    @property
    def ttft_ns(self) -> Ints:
        """First write - request read, of each answer that began."""
        begun = np.diff(self.offsets) > 0
        return self.sent_ns[self.offsets[:-1][begun]] - self.read_ns[begun]

    @property
    def gap_ns(self) -> Ints:
        """Distances between the writes of one answer, pooled over all answers."""
        gaps = np.diff(self.sent_ns)
        borders = self.offsets[1:-1] - 1
        return np.delete(gaps, borders[(borders >= 0) & (borders < len(gaps))])

    @property
    def late_ns(self) -> Ints:
        """Write - grid, of every event."""
        counts = np.diff(self.offsets)
        step = np.arange(len(self.sent_ns)) - np.repeat(self.offsets[:-1], counts)
        due_ns = np.repeat(self.read_ns, counts) + self.schedule.first_ns + step * self.schedule.gap_ns
        return np.asarray(self.sent_ns - due_ns)


class GroundTruthLog:
    """The server's log: columns in memory, a row when an answer ends, made into `Sent` when asked for."""

    def __init__(self, schedule: TokenSchedule) -> None:
        self._schedule = schedule
        self._read_ns = array("q")
        self._tokens = array("q")
        self._ended = array("q")
        self._offsets = array("q", [0])
        self._sent_ns = array("q")
        self._cpu_ns = time.process_time_ns()
        self.held = 0

    @property
    def tokens(self) -> int:
        """Tokens of the answers sent to their end."""
        return sum(tokens for tokens, ended in zip(self._tokens, self._ended, strict=True) if ended)

    def __len__(self) -> int:
        return len(self._read_ns)

    def add(self, read_ns: int, tokens: int, sent_ns: "array[int]", *, ended: bool) -> None:
        """Log one answer that is over."""
        self._read_ns.append(read_ns)
        self._tokens.append(tokens)
        self._ended.append(ended)
        self._sent_ns.extend(sent_ns)
        self._offsets.append(len(self._sent_ns))

    def sent(self) -> GroundTruth:
        """All answers that are over, as columns."""
        kept = {
            "read_ns": self._read_ns,
            "tokens": self._tokens,
            "ended": self._ended,
            "offsets": self._offsets,
            "sent_ns": self._sent_ns,
        }
        columns = {name: np.array(values, dtype=np.int64) for name, values in kept.items()}
        cpu_ns = time.process_time_ns() - self._cpu_ns
        return GroundTruth(**columns, schedule=self._schedule, cpu_ns=cpu_ns, held=self.held)


def write(sent: GroundTruth, path: Path) -> None:
    """Keep what was sent in a .npz file; see `read`."""
    scalars = {"cpu_ns": sent.cpu_ns, "held": sent.held, "schedule": json.dumps(asdict(sent.schedule))}
    arrays: dict[str, Any] = {**scalars, **{name: getattr(sent, name) for name in _COLUMNS}}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def read(path: Path) -> GroundTruth:
    """What a reference server logged to a .npz file."""
    with np.load(path) as kept:
        columns = {name: kept[name] for name in _COLUMNS}
        schedule = TokenSchedule(**json.loads(str(kept["schedule"])))
        return GroundTruth(**columns, schedule=schedule, cpu_ns=int(kept["cpu_ns"]), held=int(kept["held"]))


def summary(sent: GroundTruth) -> dict[str, Any]:
    """What was sent in numbers: times in seconds, `token_rate` from the first request to the last write."""
    span_ns = int(sent.sent_ns.max() - sent.read_ns.min()) if len(sent.sent_ns) else 0
    events = len(sent.sent_ns)
    tokens = int(sent.tokens[sent.ended == 1].sum())
    return {
        "answers": len(sent.read_ns),
        "left": int((sent.ended == 0).sum()),
        "events": events,
        "tokens": tokens,
        "token_rate": tokens * NS_PER_S / span_ns if span_ns else 0.0,
        "held": sent.held,
        "cpu_s": sent.cpu_ns / NS_PER_S,
        "cpu_s_per_event": sent.cpu_ns / NS_PER_S / events if events else 0.0,
        "ttft": _spread(sent.ttft_ns),
        "gap": _spread(sent.gap_ns),
        "late": _spread(sent.late_ns),
    }


def _spread(times_ns: Ints) -> dict[str, float]:
    if not len(times_ns):
        return {}
    p50, p90, p99 = np.percentile(times_ns, [50, 90, 99])
    values = {"mean": times_ns.mean(), "p50": p50, "p90": p90, "p99": p99, "max": times_ns.max()}
    return {name: float(value) / NS_PER_S for name, value in values.items()}


_COLUMNS = ("read_ns", "tokens", "ended", "offsets", "sent_ns")
