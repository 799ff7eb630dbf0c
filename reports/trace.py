"""trace.json: a run for Perfetto or chrome://tracing.

The JSON form of Chrome's trace events: each stage is a process, each lane that it needs a thread,
each request a slice in one of them, with what it did within (queued, prefill, decode); beside it
counters of what was running, waiting and in the KV cache, by the client's records and by the
server's own metrics. Times are microseconds since the first that is known: Perfetto drops what
lies before zero. `otherData` holds the run's own zero.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.messages import localized
from harness.results.folder import ResultFiles
from harness.results.request_table import COMPLETED, MISSING
from harness.scenario.stages import load_name
from harness.telemetry import server_metrics
from reports.lanes import lanes_of
from reports.loads import stage_title
from reports.rows import groups_of, rows_of
from reports.texts import write_text

TRACE = "trace.json"
CLIENT, SERVER, FIRST_STAGE = 1, 2, 10  # process numbers, in the order in which they are shown
_LANES = 100_000  # lanes of a process begin at so many times its number: two threads of one number are one to some
_GAUGES = {  # a counter is shown as its name and its series, one after the other
    server_metrics.RUNNING: ("figures.series.running", "figures.trace.series", 1.0),
    server_metrics.WAITING: ("figures.series.waiting", "figures.trace.series", 1.0),
    server_metrics.KV_USE: ("figures.trace.kv_cache", "figures.trace.in_use", 100.0),
    server_metrics.KV_USE + server_metrics.MAXIMUM: ("figures.trace.kv_cache_most", "figures.trace.in_use", 100.0),
}
_COLUMNS = (
    *("index", "stage", "repeat", "phase", "status", "error", "due_ns", "sent_ns", "first_ns", "last_ns", "done_ns"),
    *("input_tokens", "output_tokens", "turn"),
)
Event = dict[str, Any]


def write(result: ResultFiles) -> Path:
    """Write trace.json into the result folder; its path."""
    zero_ns = zero_of(result)
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in events(result, zero_ns))
    about = {"name": result.run.get("name"), "simulated": result.simulated, "run_zero_us": _us(-zero_ns)}
    text = f'{{"displayTimeUnit":"ms","otherData":{json.dumps(about)},"traceEvents":[\n{lines}\n]}}\n'
    return write_text(result.folder / TRACE, text)


def zero_of(result: ResultFiles) -> int:
    """The earliest time of a request or sample (ns since the run's zero), where that is before zero."""
    sent = result.requests[result.requests["sent_ns"] != MISSING]
    due = sent.loc[sent["due_ns"] != MISSING, "due_ns"]
    return int(min([0, *sent["sent_ns"], *due, *result.samples["at_ns"]]))


def events(result: ResultFiles, zero_ns: int = 0) -> Iterator[Event]:
    """All trace events of a result, times in microseconds since `zero_ns`."""
    yield from _names(result)
    yield from _slices(result.requests, zero_ns)
    yield from _in_flight(result.requests, zero_ns)
    yield from _sampled(result.samples, zero_ns)


def _names(result: ResultFiles) -> Iterator[Event]:
    mark = " (SIMULATED)" if result.simulated else ""
    stages = result.run.get("stages") or ()
    processes = {
        CLIENT: localized("figures.trace.requests_in_flight", mark=mark),
        SERVER: localized("figures.trace.server", mark=mark),
    }
    processes |= {
        FIRST_STAGE + i: f"{stage_title(i, localized(load_name(load)))}{mark}" for i, load in enumerate(stages)
    }
    for pid, name in processes.items():
        yield _named("process_name", pid, 0, {"name": name})
        yield _named("process_sort_index", pid, 0, {"sort_index": pid})


def _named(what: str, pid: int, tid: int, arguments: Mapping[str, Any]) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "ts": 0, "name": what, "args": arguments}


def _us(time_ns: int) -> float:
    return time_ns / 1000


def _slices(requests: pd.DataFrame, zero_ns: int) -> Iterator[Event]:
    """Each request that was sent as nested slices, in a lane of its stage that is free."""
    sent: pd.DataFrame = requests[requests["sent_ns"] != MISSING]
    begun = np.minimum(sent["due_ns"].where(sent["due_ns"] != MISSING, sent["sent_ns"]), sent["sent_ns"])
    ends = sent[["sent_ns", "last_ns", "done_ns"]].max(axis=1)
    ordered = sent.assign(begun_ns=begun, end_ns=ends).sort_values("begun_ns", kind="stable")
    for number, stage in groups_of(ordered, "stage"):
        pid = FIRST_STAGE + int(number)
        lanes = lanes_of(stage["begun_ns"].tolist(), stage["end_ns"].tolist())
        for lane in range(max(lanes) + 1):
            yield _named(
                "thread_name", pid, pid * _LANES + lane, {"name": localized("figures.trace.lane", lane=lane + 1)}
            )
            yield _named("thread_sort_index", pid, pid * _LANES + lane, {"sort_index": lane})
        for lane, row in zip(lanes, rows_of(stage, "begun_ns", "end_ns", *_COLUMNS), strict=True):
            request = dict(zip(_COLUMNS, row[2:], strict=True))
            for event in _request(request, row[0], row[1]):
                yield {
                    **event,
                    "cat": "request",
                    "pid": pid,
                    "tid": pid * _LANES + lane,
                    "ts": _us(event["ts"] - zero_ns),
                }


def _request(request: Mapping[str, Any], begun_ns: int, end_ns: int) -> Iterator[Event]:
    """The slice of a request and those within, begins and ends in order, `ts` in ns."""
    name = localized("figures.trace.request", index=request["index"])
    if request["status"] != COMPLETED:
        name = localized("figures.trace.request_lost", index=request["index"], status=request["status"])
    fields = {
        key: request[key] for key in ("phase", "status", "error", "turn", "input_tokens", "output_tokens", "repeat")
    }
    known = {key: value for key, value in fields.items() if value not in (MISSING, "")}
    yield {"ph": "B", "name": name, "ts": begun_ns, "args": known}
    for part, start_ns, stop_ns in _parts(request, begun_ns, end_ns):
        yield {"ph": "B", "name": part, "ts": start_ns}
        yield {"ph": "E", "name": part, "ts": stop_ns}
    yield {"ph": "E", "name": name, "ts": end_ns}


def _parts(request: Mapping[str, Any], begun_ns: int, end_ns: int) -> Iterator[tuple[str, int, int]]:
    """The parts of a request in order: queued in the client, prefill up to the first token, decode."""
    if request["sent_ns"] > begun_ns:
        yield localized("figures.trace.queued"), begun_ns, request["sent_ns"]
    if request["first_ns"] == MISSING:
        yield localized("figures.trace.waiting"), request["sent_ns"], end_ns
        return
    yield localized("figures.trace.prefill"), request["sent_ns"], request["first_ns"]
    if request["last_ns"] > request["first_ns"]:
        yield localized("figures.trace.decode"), request["first_ns"], request["last_ns"]


def _in_flight(requests: pd.DataFrame, zero_ns: int) -> Iterator[Event]:
    """The client's count of requests that were sent and are not over, at each change."""
    sent = requests[requests["sent_ns"] != MISSING]
    ends = sent[["sent_ns", "last_ns", "done_ns"]].max(axis=1)
    times = np.concatenate([sent["sent_ns"].to_numpy(), ends.to_numpy()])
    steps = np.repeat([1, -1], len(sent))
    order = np.lexsort((steps, times))
    counts = np.cumsum(steps[order])
    for at_ns, count in zip(times[order].tolist(), counts.tolist(), strict=True):
        yield {
            "ph": "C",
            "pid": CLIENT,
            "tid": 0,
            "name": localized("figures.time.in_flight"),
            "ts": _us(at_ns - zero_ns),
            "args": {localized("figures.trace.series"): count},
        }


def _sampled(samples: pd.DataFrame, zero_ns: int) -> Iterator[Event]:
    """The server's own gauges, then those of each engine where there are several."""
    of_server = samples["source"].astype(str).str.startswith(server_metrics.SERVER)
    for source in samples["source"][of_server].astype(str).drop_duplicates().tolist():
        engine = source.removeprefix(server_metrics.SERVER).removeprefix("/")
        for metric, (name_code, series_code, factor) in _GAUGES.items():
            name, series = f"{localized(name_code)} {engine}".strip(), localized(series_code)
            known = (samples["name"] == metric) & (samples["source"] == source)
            own = samples[known & np.isfinite(samples["value"])]
            for at_ns, value in rows_of(own, "at_ns", "value"):
                reading = {series: value * factor}
                yield {"ph": "C", "pid": SERVER, "tid": 0, "name": name, "ts": _us(at_ns - zero_ns), "args": reading}
