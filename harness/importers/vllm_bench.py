"""What does a result of `vllm bench serve --save-result` say, in our words?

Its lists are seconds (`--save-detailed` keeps them), its statistics milliseconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ResultError
from harness.importers.foreign_summary import ERRORED, Benchmark, Foreign, Told, load_of, ns_of
from harness.results.request_table import ASSUMED, COMPLETED, FAILED, FROM_USAGE, MEASURED, MISSING, Record
from harness.statistics.distributions import distribution
from harness.units import NS_PER_S

TOOL = "vllm bench serve"
_LISTS = ("start_times", "ttfts", "itls", "output_lens", "input_lens", "errors")
_METRICS = {"ttft": "ttft", "tpot": "tpot", "chunk_gap": "itl", "e2e": "e2el"}
_STATISTICS = {"mean": "mean", "std": "std", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
_NOTES = (
    "When requests were due is not in a file of vllm bench: latencies from the due time are absent",
    "The itl of vllm bench is the gap between events, here called chunk_gap",
)
_SPREAD = "How many tokens each event carried is not in the file: they are spread evenly over the events of an answer"


def vllm_bench(objects: Sequence[Mapping[str, Any]], path: Path) -> Foreign:
    """The file as ours: each object is a stage.

    Raises:
        ResultError: where a value is not of the form that vLLM writes.
    """
    first = objects[0]
    try:
        benchmarks = [_benchmark(one) for one in objects]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise ResultError(f"{path}: not as `vllm bench serve` writes it ({type(fault).__name__}: {fault})") from None
    detailed = all(one.requests for one in benchmarks)
    return Foreign(
        tool=TOOL,
        model=first.get("model_id"),
        started_utc=_moment(str(first.get("date") or "")),
        endpoint="chat" if "chat" in str(first.get("endpoint_type") or first.get("backend")) else "completions",
        simulated=any(bool(one.get("simulated")) for one in objects),
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


def _benchmark(found: Mapping[str, Any]) -> Benchmark:
    asked = found.get("request_rate", "inf")
    rate = None if asked in ("inf", None) or float(asked) == float("inf") else float(asked)
    count = int(found.get("num_prompts") or found["completed"])
    load = load_of(rate, float(found.get("burstiness") or 1.0), int(found.get("max_concurrency") or count), count)
    if rate is not None and found.get("max_concurrency"):
        load["max_concurrency"] = int(found["max_concurrency"])
    return Benchmark(load, _requests(found, closed=rate is None), _statistics(found))


def _requests(found: Mapping[str, Any], *, closed: bool) -> list[Told]:
    """The single requests, where the file holds all of what they need."""
    lists = [found.get(name) for name in _LISTS]
    if not all(isinstance(one, list) for one in lists) or len({len(one or ()) for one in lists}) != 1 or not lists[0]:
        return []
    latencies = found.get("latencies") or []
    known = latencies if len(latencies) == len(lists[0]) else [None] * len(lists[0])
    zero_s = min(lists[0])
    told = [
        _told(dict(zip(_LISTS, one, strict=True)), latency, zero_s, closed=closed)
        for *one, latency in zip(*(one or () for one in lists), known, strict=True)
    ]
    return sorted(told, key=lambda one: one.record.sent_ns)


def _told(one: Mapping[str, Any], latency: float | None, zero_s: float, *, closed: bool) -> Told:
    sent_ns = ns_of(float(one["start_times"]), zero_s)
    failed = bool(one["errors"])
    gaps = [] if failed else [float(one["ttfts"]), *map(float, one["itls"])]
    times = (sent_ns + np.rint(np.cumsum(gaps) * NS_PER_S)).astype(np.int64).tolist()
    count = 0 if failed else int(one["output_lens"])
    tokens = _spread(count, len(times))
    last_ns = times[-1] if times else MISSING
    record = Record(
        index=0, stage=0, repeat=0, phase=MEASURED, session=0, turn=0, worker=0,
        due_ns=sent_ns if closed else MISSING, ready_ns=sent_ns, sent_ns=sent_ns,
        first_ns=times[0] if times else MISSING, last_ns=last_ns,
        done_ns=max(last_ns, sent_ns + round((latency or 0.0) * NS_PER_S)),
        input_asked=int(one["input_lens"]), output_asked=MISSING, output_tokens=count,
        first_tokens=tokens[0] if tokens else 0, events=len(times),
        counted_by=FROM_USAGE if count == len(times) else ASSUMED,
        status=FAILED if failed else COMPLETED, error=ERRORED if failed else "",
        message=str(one["errors"]).strip().splitlines()[-1][:300] if failed else "",
    )  # fmt: skip
    return Told(record, times, tokens)


def _spread(tokens: int, events: int) -> list[int]:
    """One token for the first event, the rest evenly over the others."""
    if events < 2:
        return [tokens] * events
    steps = (tokens - 1) * np.arange(events) // (events - 1)
    return [1, *np.diff(steps).tolist()] if tokens else [0] * events


def _statistics(found: Mapping[str, Any]) -> dict[str, Any]:
    completed, failed = int(found["completed"]), int(found.get("failed") or 0)
    sent = completed + failed
    counts = {"scheduled": sent, "sent": sent, "completed": completed, "failed": failed, "in_window": completed}
    tokens = int(found.get("total_output_tokens") or 0)
    numbers = {"ttft": completed, "tpot": completed, "chunk_gap": max(0, tokens - completed), "e2e": completed}
    known = {name: _milliseconds(found, theirs, numbers[name]) for name, theirs in _METRICS.items()}
    if found.get("latencies") and len(found["latencies"]) == completed:
        known["e2e"] = _exact([float(value) for value in found["latencies"]])
    return {
        "window_s": float(found["duration"]),
        "requests": counts,
        "input_tokens": int(found.get("total_input_tokens") or 0),
        "output_tokens": tokens,
        "request_rate": found.get("request_throughput"),
        "output_token_rate": found.get("output_throughput"),
        "total_token_rate": found.get("total_token_throughput"),
        "goodput": found.get("request_goodput"),
        "concurrency_max": found.get("max_concurrent_requests"),
        **{name: values for name, values in known.items() if values},
    }


def _milliseconds(found: Mapping[str, Any], metric: str, number: int) -> dict[str, Any]:
    values = {ours: found.get(f"{theirs}_{metric}_ms") for ours, theirs in _STATISTICS.items()}
    known = {name: float(value) / 1000 for name, value in values.items() if value is not None}
    return {"n": number, **known} if known else {}


def _exact(latencies: list[float]) -> dict[str, Any]:
    found = distribution(np.asarray(latencies))
    return {"n": found.n, **{name: getattr(found, name) for name in ("mean", "std", "min", "max", *_PERCENTILES)}}


_PERCENTILES = ("p50", "p90", "p95", "p99")
