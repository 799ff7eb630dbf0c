"""Requests of an open loop: sent when they are due, and due at the same times for any number of workers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.numbers import Number
from benchmarks.runs import Ran, ran, scenario
from harness.selfcheck.reference_server.ground_truth import TokenSchedule
from harness.units import NS_PER_MS, NS_PER_S, format_count, format_duration

BEAT = TokenSchedule(first_ns=20 * NS_PER_MS, gap_ns=5 * NS_PER_MS)
LAG_LIMIT_S = 0.003


def poisson500(folder: Path) -> Iterator[Number]:
    """Poisson arrivals, 500 requests/s of 16 tokens for 20 s, with one, two and three workers."""
    name, load = "Poisson 500 req/s", "poisson: {rate: 500, duration: 20s}"
    found = {count: ran(scenario("poisson500", load, 16, count), BEAT, folder / str(count)) for count in (1, 2, 3)}
    lag_s = _send_lag_p99_s(found[1])
    yield Number(name, "send lag p99, one worker", "≤ 3 ms", format_duration(lag_s), lag_s <= LAG_LIMIT_S)
    ttft_s = float((found[1].requests.first_ns - found[1].requests.sent_ns).mean()) / NS_PER_S
    true_s = float(found[1].sent.ttft_ns.mean()) / NS_PER_S
    target = f"within 1 ms of the {format_duration(true_s)} sent"
    yield Number(name, "mean TTFT", target, format_duration(ttft_s), abs(ttft_s - true_s) <= 0.001)
    same = all(_same_schedule(found[1], other) for other in (found[2], found[3]))
    count = f"{format_count(len(found[1].requests))} due times {'the same' if same else 'differ'}"
    yield Number(name, "due times with 1, 2 and 3 workers", "the same", count, same)


def _send_lag_p99_s(found: Ran) -> float:
    lag_ns = found.requests.sent_ns - found.requests.ready_ns
    return float(np.percentile(lag_ns, 99)) / NS_PER_S


def _same_schedule(one: Ran, other: Ran) -> bool:
    same_hash = one.run["schedule_sha256"] == other.run["schedule_sha256"]
    return bool(same_hash and np.array_equal(one.requests.due_ns, other.requests.due_ns))
