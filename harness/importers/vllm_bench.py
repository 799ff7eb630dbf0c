"""A result of `vllm bench serve --save-result`, in our words.

Its lists are seconds (`--save-detailed` keeps them), its statistics milliseconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ResultError
from harness.importers.foreign_summary import ERRORED, Benchmark, Foreign, ForeignRequest, load_of, ns_of
from harness.messages import message
from harness.results.request_table import ASSUMED, COMPLETED, FAILED, FROM_USAGE, MEASURED, MISSING, Record
from harness.statistics.distributions import distribution
from harness.units import NS_PER_S

TOOL = "vllm bench serve"
_LISTS = ("start_times", "ttfts", "itls", "output_lens", "input_lens", "errors")
_METRICS = {"ttft": "ttft", "tpot": "tpot", "chunk_gap": "itl", "e2e": "e2el"}
_STATISTICS = {"mean": "mean", "std": "std", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
_NOTES = (
    message("importers.vllm_due"),
    message("importers.vllm_gaps"),
)
_SPREAD = message("importers.vllm_spread")


def vllm_bench(objects: Sequence[Mapping[str, Any]], path: Path) -> Foreign:
    """The file as ours: each object is a stage.

    Raises:
        ResultError: where a value is not of the form that vLLM writes.
    """
    first = objects[0]
    try:
        benchmarks = [_benchmark(item) for item in objects]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        reason = f"{type(fault).__name__}: {fault}"
        raise ResultError(message("importers.not_as_written", path=str(path), tool=TOOL, reason=reason)) from None
    detailed = all(item.requests for item in benchmarks)
    return Foreign(
        tool=TOOL,
        model=first.get("model_id"),
        started_utc=_moment(str(first.get("date") or "")),
        endpoint="chat" if "chat" in str(first.get("endpoint_type") or first.get("backend")) else "completions",
        simulated=any(bool(item.get("simulated")) for item in objects),
        benchmarks=benchmarks,
        notes=(*_NOTES, _SPREAD) if detailed else _NOTES,
    )


def _moment(date: str) -> str:
    """An ISO time of `20261122-173000`."""
    digits = date.replace("-", "")
    if len(digits) != 14 or not digits.isdigit():
        return ""
    d = digits
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:]}"


def _benchmark(result: Mapping[str, Any]) -> Benchmark:
    requested = result.get("request_rate", "inf")
    rate = None if requested in ("inf", None) or float(requested) == float("inf") else float(requested)
    count = int(result.get("num_prompts") or result["completed"])
    load = load_of(rate, float(result.get("burstiness") or 1.0), int(result.get("max_concurrency") or count), count)
    if rate is not None and result.get("max_concurrency"):
        load["max_concurrency"] = int(result["max_concurrency"])
    return Benchmark(load, _requests(result, closed=rate is None), _statistics(result))


def _requests(result: Mapping[str, Any], *, closed: bool) -> list[ForeignRequest]:
    """The single requests, where the file holds all of what they need."""
    lists = [result.get(name) for name in _LISTS]
    if (
        not all(isinstance(values, list) for values in lists)
        or len({len(values or ()) for values in lists}) != 1
        or not lists[0]
    ):
        return []
    latencies = result.get("latencies") or []
    known = latencies if len(latencies) == len(lists[0]) else [None] * len(lists[0])
    zero_s = min(lists[0])
    requests = [
        _request(dict(zip(_LISTS, values, strict=True)), latency, zero_s, closed=closed)
        for *values, latency in zip(*(values or () for values in lists), known, strict=True)
    ]
    return sorted(requests, key=lambda values: values.record.sent_ns)


def _request(row: Mapping[str, Any], latency: float | None, zero_s: float, *, closed: bool) -> ForeignRequest:
    sent_ns = ns_of(float(row["start_times"]), zero_s)
    failed = bool(row["errors"])
    gaps = [] if failed else [float(row["ttfts"]), *map(float, row["itls"])]
    times = (sent_ns + np.rint(np.cumsum(gaps) * NS_PER_S)).astype(np.int64).tolist()
    count = 0 if failed else int(row["output_lens"])
    tokens = _spread(count, len(times))
    last_ns = times[-1] if times else MISSING
    record = Record(
        index=0, stage=0, repeat=0, phase=MEASURED, session=0, turn=0, worker=0,
        due_ns=sent_ns if closed else MISSING, ready_ns=sent_ns, sent_ns=sent_ns,
        first_ns=times[0] if times else MISSING, last_ns=last_ns,
        done_ns=max(last_ns, sent_ns + round((latency or 0.0) * NS_PER_S)),
        input_asked=int(row["input_lens"]), output_asked=MISSING, output_tokens=count,
        first_tokens=tokens[0] if tokens else 0, events=len(times),
        counted_by=FROM_USAGE if count == len(times) else ASSUMED,
        status=FAILED if failed else COMPLETED, error=ERRORED if failed else "",
        message=str(row["errors"]).strip().splitlines()[-1][:300] if failed else "",
    )  # fmt: skip
    return ForeignRequest(record, times, tokens)


def _spread(tokens: int, events: int) -> list[int]:
    """One token for the first event, the rest evenly over the others."""
    if events < 2:
        return [tokens] * events
    steps = (tokens - 1) * np.arange(events) // (events - 1)
    return [1, *np.diff(steps).tolist()] if tokens else [0] * events


def _statistics(result: Mapping[str, Any]) -> dict[str, Any]:
    completed, failed = int(result["completed"]), int(result.get("failed") or 0)
    sent = completed + failed
    counts = {"scheduled": sent, "sent": sent, "completed": completed, "failed": failed, "in_window": completed}
    tokens = int(result.get("total_output_tokens") or 0)
    numbers = {"ttft": completed, "tpot": completed, "chunk_gap": max(0, tokens - completed), "e2e": completed}
    known = {name: _milliseconds(result, theirs, numbers[name]) for name, theirs in _METRICS.items()}
    if result.get("latencies") and len(result["latencies"]) == completed:
        known["e2e"] = _exact([float(value) for value in result["latencies"]])
    return {
        "window_s": float(result["duration"]),
        "requests": counts,
        "input_tokens": int(result.get("total_input_tokens") or 0),
        "output_tokens": tokens,
        "request_rate": result.get("request_throughput"),
        "output_token_rate": result.get("output_throughput"),
        "total_token_rate": result.get("total_token_throughput"),
        "goodput": result.get("request_goodput"),
        "concurrency_max": result.get("max_concurrent_requests"),
        **{name: values for name, values in known.items() if values},
    }


def _milliseconds(result: Mapping[str, Any], metric: str, number: int) -> dict[str, Any]:
    values = {ours: result.get(f"{theirs}_{metric}_ms") for ours, theirs in _STATISTICS.items()}
    known = {name: float(value) / 1000 for name, value in values.items() if value is not None}
    return {"n": number, **known} if known else {}


def _exact(latencies: list[float]) -> dict[str, Any]:
    exact = distribution(np.asarray(latencies))
    return {"n": exact.n, **{name: getattr(exact, name) for name in ("mean", "std", "min", "max", *_PERCENTILES)}}


_PERCENTILES = ("p50", "p90", "p95", "p99")
