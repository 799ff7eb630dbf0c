"""The cost of the commands beside the load: time to answer, time around a run, memory."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.numbers import Number
from benchmarks.runs import command, ran, scenario, watched
from harness.selfcheck.reference_server.ground_truth import TokenSchedule
from harness.units import NS_PER_MS, format_count, format_duration

BEAT = TokenSchedule(first_ns=50 * NS_PER_MS, gap_ns=10 * NS_PER_MS)
MEMORY_LIMIT_BYTES = 400e6
HELP_LIMIT_S = 0.3
OVERHEAD_LIMIT_S = 3.0


def memory1m(folder: Path) -> Iterator[Number]:
    """A million tokens recorded, report included."""
    found = ran(scenario("memory1m", "closed: {concurrency: 500, requests: 10000}", 100), BEAT, folder)
    tokens = int(found.requests.output_tokens.sum())
    what = f"peak memory of all client processes, {format_count(tokens)} tokens"
    measured = f"{found.peak_bytes / 1e6:.0f} MB"
    yield Number("memory", what, "< 400 MB", measured, tokens >= 1_000_000 and found.peak_bytes < MEMORY_LIMIT_BYTES)
    yield _overhead(f"{format_count(tokens)} tokens", found.wall_s, found.load_s)


def help_(folder: Path) -> Iterator[Number]:
    """`harness --help`, the median of five."""
    folder.mkdir(parents=True)
    wall_s = statistics.median(watched([*command(), "--help"], folder / "said.txt")[0] for _ in range(5))
    yield Number("harness --help", "time", "< 0.3 s", format_duration(wall_s), wall_s < HELP_LIMIT_S)


def overhead(folder: Path) -> Iterator[Number]:
    """`harness run` of five seconds of gentle load: what it adds, from start to page."""
    found = ran(scenario("overhead", "poisson: {rate: 20, duration: 5s}", 16), BEAT, folder)
    yield _overhead(f"{format_count(len(found.requests))} requests", found.wall_s, found.load_s)


def _overhead(what: str, wall_s: float, load_s: float) -> Number:
    added_s = wall_s - load_s
    shown = f"{format_duration(added_s)} (the load itself: {format_duration(load_s)})"
    return Number("harness run", f"time added, {what}", "< 3 s", shown, added_s < OVERHEAD_LIMIT_S)
