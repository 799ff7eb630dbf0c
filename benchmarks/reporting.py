"""The time and memory that a page takes when many requests were sent."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.numbers import Number
from benchmarks.runs import command, watched
from harness.results import store, table_files
from harness.results.request_table import (
    COLUMNS,
    COMPLETED,
    FROM_USAGE,
    MEASURED,
    Events,
    Requests,
    requests_from_columns,
)
from harness.units import NS_PER_S, format_bytes, format_count, format_duration

STAGE_S = 1000
EVENTS = 100
_PIECE = 20_000  # requests made at once


def report1m(folder: Path) -> Iterator[Number]:
    """`harness report` of a million requests with a hundred events each."""
    wall_s, peak_bytes = _reported(folder, 1_000_000)
    what = f"{format_count(1_000_000)} requests of {EVENTS} events"
    yield Number("harness report", f"time, {what}", "< 60 s", format_duration(wall_s), wall_s < 60)
    yield Number("harness report", f"peak memory, {what}", "< 3 GB", format_bytes(peak_bytes), peak_bytes < 3e9)


def report10k(folder: Path) -> Iterator[Number]:
    """`harness report` of ten thousand requests with a hundred events each."""
    wall_s, _ = _reported(folder, 10_000)
    yield Number("harness report", "time, 10,000 requests", "< 5 s", format_duration(wall_s), wall_s < 5)


def _reported(folder: Path, count: int) -> tuple[float, int]:
    made = make_folder(folder, count)
    return watched([*command(), "report", str(made)], folder / "said.txt")


def make_folder(folder: Path, count: int) -> Path:
    """A result folder of so many answered requests of an open loop, drawn from the seed 1."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    due_ns = np.sort(rng.integers(0, STAGE_S * NS_PER_S, count))
    first_ns = due_ns + 60_000 + (rng.lognormal(-1.5, 0.5, count) * NS_PER_S).astype(np.int64)
    at_ns = _events(first_ns, rng)
    requests = _requests(due_ns, first_ns, at_ns[EVENTS - 1 :: EVENTS], rng)
    events = Events(np.arange(count + 1) * EVENTS, at_ns, np.ones(count * EVENTS, dtype=np.int32))
    store.write_json(folder, store.RUN, _run(count / STAGE_S))
    table_files.write_requests(folder, requests)
    table_files.write_events(folder, requests.index, events)
    span = {"start_ns": 0, "stop_ns": STAGE_S * NS_PER_S, "end_ns": int(at_ns.max()) + 1}
    store.write_json(folder, store.TIMELINE, [{"stage": 0, "repeat": 0, **span}])
    return folder


def _events(first_ns: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Arrival times of all events, a piece of the requests at a time."""
    at_ns = np.empty(len(first_ns) * EVENTS, dtype=np.int64)
    for begin in range(0, len(first_ns), _PIECE):
        part = first_ns[begin : begin + _PIECE]
        gaps = 8_000_000 + rng.exponential(1e7, (len(part), EVENTS)).astype(np.int64)
        gaps[:, 0] = 0
        at_ns[begin * EVENTS : (begin + len(part)) * EVENTS] = (part[:, None] + np.cumsum(gaps, axis=1)).ravel()
    return at_ns


def _requests(
    due_ns: NDArray[np.int64], first_ns: NDArray[np.int64], last_ns: NDArray[np.int64], rng: np.random.Generator
) -> Requests:
    count = len(due_ns)
    asked = rng.integers(100, 2000, count)
    texts = {"phase": MEASURED, "counted_by": FROM_USAGE, "status": COMPLETED, "error": "", "message": ""}
    numbers = {"output_asked": EVENTS, "output_tokens": EVENTS, "first_tokens": 1, "events": EVENTS, "http_status": 200}
    return requests_from_columns(
        {
            **{name: np.zeros(count, dtype=np.int64) for name in COLUMNS},
            **{name: np.full(count, text, dtype=object) for name, text in texts.items()},
            **{name: np.full(count, number) for name, number in numbers.items()},
            "index": np.arange(count),
            "session": np.arange(count),
            "input_asked": asked,
            "input_tokens": asked,
            "due_ns": due_ns,
            "ready_ns": due_ns,
            "sent_ns": due_ns + 60_000,
            "first_ns": first_ns,
            "last_ns": last_ns,
            "done_ns": last_ns + 1,
        }
    )


def _run(rate: float) -> dict[str, object]:
    engine = {"kind": "vllm", "simulated": False, "model": "made", "effective": {}}
    load = {"kind": "poisson", "rate": rate, "duration_s": float(STAGE_S)}
    words: dict[str, object] = {
        "name": "made",
        "question": "How long does its page take?",
        "seed": 1,
        "repeats": 1,
        "stream": True,
    }
    words |= {"started_utc": "2026-01-01T00:00:00Z", "scenario_text": "", "rerun": ""}
    return {"format": 1, **words, "slo": {"ttft_p99": 5.0}, "engine": engine, "client": {}, "stages": [load]}
