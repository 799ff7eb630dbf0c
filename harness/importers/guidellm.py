"""benchmarks.json of guidellm, in our words.

Each benchmark is a stage, each of its requests one of ours; times are seconds of a wall clock.
Of a stream it keeps the first and the last token only. Names differ between its versions.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.errors import ResultError
from harness.importers.foreign_summary import ERRORED, Benchmark, Foreign, ForeignRequest, load_of, ns_of
from harness.messages import message
from harness.results.request_table import CANCELLED, COMPLETED, FAILED, FROM_USAGE, MEASURED, MISSING, Record

TOOL = "guidellm"
_STATUSES = {"successful": COMPLETED, "errored": FAILED, "incomplete": CANCELLED}
_SCHEDULED = ("constant", "poisson", "trace", "async")
_METRICS = {
    "ttft": ("time_to_first_token_ms", 1000.0),
    "tpot": ("inter_token_latency_ms", 1000.0),
    "e2e": ("request_latency", 1.0),
}
_RATES = {
    "request_rate": "requests_per_second",
    "output_token_rate": "output_tokens_per_second",
    "total_token_rate": "tokens_per_second",
}
_NOTES = (
    message("importers.guidellm_gaps"),
    message("importers.guidellm_clock"),
)


def guidellm(document: Mapping[str, Any], path: Path) -> Foreign:
    """The file as ours.

    Raises:
        ResultError: where a value is not of the form that guidellm writes.
    """
    try:
        benchmarks = [_benchmark(item) for item in document["benchmarks"]]
        model = _first_text(document, "model")
        started_utc = _moment(document["benchmarks"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as fault:
        reason = f"{type(fault).__name__}: {fault}"
        raise ResultError(message("importers.not_as_written", path=str(path), tool=TOOL, reason=reason)) from None
    if not benchmarks:
        raise ResultError(message("importers.no_benchmark", path=str(path)))
    endpoint = "chat" if "chat" in (_first_text(document, "request_format") or "") else "completions"
    return Foreign(TOOL, model, started_utc, endpoint, simulated=False, benchmarks=benchmarks, notes=_NOTES)


def _first_text(document: Mapping[str, Any], name: str) -> str | None:
    """The first value of that name, such as the model's, where some part of the file has one."""
    return next((str(value) for value in _named(document, name, 0) if isinstance(value, str) and value), None)


def _moment(benchmarks: Sequence[Mapping[str, Any]]) -> str:
    """When the first benchmark began, as an ISO time; empty where it does not say."""
    begun_s = benchmarks[0].get("start_time") if benchmarks else None
    return (
        "" if begun_s is None else datetime.fromtimestamp(float(begun_s), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    )


def _named(value: Any, name: str, depth: int) -> Iterator[Any]:
    if not isinstance(value, dict) or depth > 5:
        return
    for key, inner in value.items():
        if key == name:
            yield inner
        elif key != "requests":
            yield from _named(inner, name, depth + 1)
    for first in (value.get("benchmarks") or [])[:1]:
        yield from _named(first, name, depth + 1)


def _benchmark(item: Mapping[str, Any]) -> Benchmark:
    config = item.get("config") or item.get("args") or {}
    strategy = config.get("strategy") or {}
    groups = item.get("requests") or {}
    rows = [(status, row) for group, status in _STATUSES.items() for row in groups.get(group) or ()]
    kind = str(strategy.get("type_") or strategy.get("kind") or "")
    rate = float(strategy["rate"]) if kind in _SCHEDULED and strategy.get("rate") else None
    users = int(strategy.get("streams") or strategy.get("max_concurrency") or (1 if kind == "synchronous" else 0))
    load = load_of(rate, 1.0, users or len(rows), len(rows) or 1)
    if kind == "constant":
        load["kind"] = "constant"
    starts = [begun for _, row in rows if (begun := _start(row)) is not None]
    requests = [_request(row, status, min(starts), scheduled=rate is not None) for status, row in rows if starts]
    known = [row for row in requests if row is not None]
    return Benchmark(load, sorted(known, key=lambda row: row.record.sent_ns), _statistics(item))


def _times(row: Mapping[str, Any]) -> Mapping[str, Any]:
    info = row.get("info") or row.get("scheduler_info") or {}
    times: Mapping[str, Any] = info.get("timings") or info.get("request_timings") or {}
    return times


def _start(row: Mapping[str, Any]) -> float | None:
    times = _times(row)
    return next((times[name] for name in ("request_start", "resolve_start") if times.get(name) is not None), None)


def _request(row: Mapping[str, Any], status: str, zero_s: float, *, scheduled: bool) -> ForeignRequest | None:
    """One request; None for one that was never sent, or completed without a token."""
    times = _times(row)
    sent_s = _start(row)
    ends = (times.get(name) for name in ("request_end", "resolve_end"))
    end_s = next((end for end in ends if end is not None), None)
    if sent_s is None:
        return None
    first_s, last_s = (times.get(f"{which}_token_iteration", times.get(f"{which}_iteration")) for which in _ENDS)
    count = int(row.get("output_tokens") or 0)
    if status == COMPLETED and (first_s is None or not count):
        return None
    seen = [] if status != COMPLETED else [first_s, last_s][: 1 + (count > 1)]
    at_ns = [ns_of(time_s, zero_s) for time_s in seen]
    error = str((row.get("info") or {}).get("error") or "")
    record = Record(
        index=0, stage=0, repeat=0, phase=MEASURED, session=0, turn=0, worker=0,
        due_ns=ns_of(times.get("targeted_start") if scheduled else sent_s, zero_s),
        ready_ns=ns_of(sent_s, zero_s), sent_ns=ns_of(sent_s, zero_s),
        first_ns=at_ns[0] if at_ns else MISSING, last_ns=at_ns[-1] if at_ns else MISSING,
        done_ns=max(ns_of(end_s if end_s is not None else sent_s, zero_s), *at_ns, 0),
        input_asked=int(row["prompt_tokens"]) if row.get("prompt_tokens") is not None else MISSING,
        output_tokens=count if at_ns else 0, first_tokens=1 if at_ns else 0, events=len(at_ns),
        counted_by=FROM_USAGE, status=status, error=ERRORED if status == FAILED else "", message=error[:300],
    )  # fmt: skip
    return ForeignRequest(record, at_ns, [1, count - 1][: len(at_ns)])


_ENDS = ("first", "last")


def _statistics(item: Mapping[str, Any]) -> dict[str, Any]:
    metrics = item.get("metrics") or {}
    totals = metrics.get("request_totals") or {}
    completed, failed, cut = (int(totals.get(name) or 0) for name in _STATUSES)
    sent = completed + failed + cut
    known = {name: _latency(metrics.get(theirs) or {}, size) for name, (theirs, size) in _METRICS.items()}
    rates = {name: _good(metrics.get(theirs) or {}).get("mean") for name, theirs in _RATES.items()}
    counts = {"scheduled": sent, "sent": sent, "completed": completed, "failed": failed, "cancelled": cut}
    return {
        "window_s": item.get("duration"),
        "requests": counts,
        "input_tokens": int(_good(metrics.get("prompt_token_count") or {}).get("total_sum") or 0),
        "output_tokens": int(_good(metrics.get("output_token_count") or {}).get("total_sum") or 0),
        **rates,
        **{name: values for name, values in known.items() if values},
    }


def _good(split: Mapping[str, Any]) -> Mapping[str, Any]:
    successful: Mapping[str, Any] = split.get("successful") or {}
    return successful


def _latency(split: Mapping[str, Any], size: float) -> dict[str, Any]:
    own = _good(split)
    if not own.get("count"):
        return {}
    percentiles = own.get("percentiles") or {}
    values = {
        "mean": own.get("mean"), "std": own.get("std_dev"), "min": own.get("min"), "max": own.get("max"),
        **{name: percentiles.get(name) for name in ("p50", "p90", "p95", "p99")},
    }  # fmt: skip
    return {"n": int(own["count"]), **{name: value / size for name, value in values.items() if value is not None}}
