"""What does a run look like in Perfetto or chrome://tracing?

The JSON form of Chrome's trace events: each request is a slice in one of the lanes that its stage
needs, with what it did within (queued, prefill, decode); beside it counters of what was running,
waiting and in the KV cache, by the client's records and by the server's own metrics. Times are
microseconds since the run's zero.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.records import COMPLETED, MISSING
from reports.folder import Result
from reports.lanes import lanes_of
from reports.loads import short_labels
from reports.rows import groups_of, rows_of
from reports.writing import write_text

TRACE = "trace.json"
CLIENT, SERVER, FIRST_STAGE = 1, 2, 10  # process numbers, in the order in which they are shown
_GAUGES = {
    "vllm:num_requests_running": ("running", 1.0),
    "vllm:num_requests_waiting": ("waiting", 1.0),
    "vllm:kv_cache_usage_perc": ("KV cache in use, %", 100.0),
}
_COLUMNS = (
    *("index", "stage", "repeat", "phase", "status", "error", "due_ns", "sent_ns", "first_ns", "last_ns", "done_ns"),
    *("input_tokens", "output_tokens", "turn"),
)
Event = dict[str, Any]


def write(result: Result) -> Path:
    """Write trace.json into the result folder; its path."""
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events(result))
    other = json.dumps({"name": result.run.get("name"), "simulated": result.simulated})
    text = f'{{"displayTimeUnit":"ms","otherData":{other},"traceEvents":[\n{lines}\n]}}\n'
    return write_text(result.folder / TRACE, text)


def events(result: Result) -> Iterator[Event]:
    """All trace events of a result."""
    yield from _names(result)
    yield from _slices(result.requests)
    yield from _in_flight(result.requests)
    yield from _sampled(result.samples)


def _names(result: Result) -> Iterator[Event]:
    mark = " (SIMULATED)" if result.simulated else ""
    stages = result.run.get("stages") or ()
    processes = {CLIENT: f"requests in flight{mark}", SERVER: f"server{mark}"}
    labels = short_labels(stages)
    processes |= {FIRST_STAGE + i: f"stage {i + 1}: {labels[i]}{mark}" for i in range(len(stages))}
    for pid, name in processes.items():
        yield {"ph": "M", "pid": pid, "tid": 0, "ts": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": pid, "tid": 0, "ts": 0, "name": "process_sort_index", "args": {"sort_index": pid}}


def _us(time_ns: int) -> float:
    return time_ns / 1000


def _slices(requests: pd.DataFrame) -> Iterator[Event]:
    """Each request that was sent as nested asynchronous slices; the lane within its stage is their id."""
    sent: pd.DataFrame = requests[requests["sent_ns"] != MISSING]
    begun = np.minimum(sent["due_ns"].where(sent["due_ns"] != MISSING, sent["sent_ns"]), sent["sent_ns"])
    ends = sent[["sent_ns", "last_ns", "done_ns"]].max(axis=1)
    ordered = sent.assign(begun_ns=begun, end_ns=ends).sort_values("begun_ns", kind="stable")
    for _, stage in groups_of(ordered, "stage"):
        lanes = lanes_of(stage["begun_ns"].tolist(), stage["end_ns"].tolist())
        for lane, row in zip(lanes, rows_of(stage, "begun_ns", "end_ns", *_COLUMNS), strict=True):
            yield from _request(dict(zip(_COLUMNS, row[2:], strict=True)), lane, row[0], row[1])


def _request(one: Mapping[str, Any], lane: int, begun_ns: int, end_ns: int) -> Iterator[Event]:
    common = {"cat": "request", "id": f"{one['stage']}.{lane}", "pid": FIRST_STAGE + one["stage"], "tid": lane}
    name = f"request {one['index']}" + ("" if one["status"] == COMPLETED else f" {one['status']}")
    told = {key: one[key] for key in ("phase", "status", "error", "turn", "input_tokens", "output_tokens", "repeat")}
    known = {key: value for key, value in told.items() if value not in (MISSING, "")}
    yield {"ph": "b", **common, "name": name, "ts": _us(begun_ns), "args": known}
    for part, start_ns, stop_ns in _parts(one, begun_ns, end_ns):
        yield {"ph": "b", **common, "name": part, "ts": _us(start_ns)}
        yield {"ph": "e", **common, "name": part, "ts": _us(stop_ns)}
    yield {"ph": "e", **common, "name": name, "ts": _us(end_ns)}


def _parts(one: Mapping[str, Any], begun_ns: int, end_ns: int) -> Iterator[tuple[str, int, int]]:
    """What a request did one after another: waited to be sent, waited for its first token, got the others."""
    if one["sent_ns"] > begun_ns:
        yield "queued", begun_ns, one["sent_ns"]
    if one["first_ns"] == MISSING:
        yield "waiting for an answer", one["sent_ns"], end_ns
        return
    yield "prefill", one["sent_ns"], one["first_ns"]
    if one["last_ns"] > one["first_ns"]:
        yield "decode", one["first_ns"], one["last_ns"]


def _in_flight(requests: pd.DataFrame) -> Iterator[Event]:
    """The client's count of requests that were sent and are not over, at each change."""
    sent = requests[requests["sent_ns"] != MISSING]
    ends = sent[["sent_ns", "last_ns", "done_ns"]].max(axis=1)
    times = np.concatenate([sent["sent_ns"].to_numpy(), ends.to_numpy()])
    steps = np.repeat([1, -1], len(sent))
    order = np.lexsort((steps, times))
    counts = np.cumsum(steps[order])
    for at_ns, count in zip(times[order].tolist(), counts.tolist(), strict=True):
        yield {"ph": "C", "pid": CLIENT, "tid": 0, "name": "in flight", "ts": _us(at_ns), "args": {"requests": count}}


def _sampled(samples: pd.DataFrame) -> Iterator[Event]:
    """The server's own gauges."""
    for metric, (name, factor) in _GAUGES.items():
        own = samples[(samples["name"] == metric) & np.isfinite(samples["value"])]
        for at_ns, value in rows_of(own, "at_ns", "value"):
            yield {"ph": "C", "pid": SERVER, "tid": 0, "name": name, "ts": _us(at_ns), "args": {name: value * factor}}
