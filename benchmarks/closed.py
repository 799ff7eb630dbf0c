"""Closed loops of many streams: what the client saw beside what the server sent."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.numbers import Number
from benchmarks.runs import ran, scenario
from harness.selfcheck.exactness import HELD_LIMIT_SHARE, TTFT_LIMIT_S, TTFT_LIMIT_SHARE, Exactness
from harness.selfcheck.reference_server.ground_truth import TokenSchedule
from harness.units import NS_PER_MS, format_duration, format_rate, format_share

SCHEDULE = TokenSchedule(first_ns=50 * NS_PER_MS, gap_ns=10 * NS_PER_MS)
TOKENS = 100
GAP_LIMIT_S = 0.004
CPU_LIMIT_S = 7e-6


def closed1000(folder: Path) -> Iterator[Number]:
    """1000 closed streams of 100 tokens at 10 ms, five answers each: about 95,000 tokens/s."""
    load = "closed: {concurrency: 1000, requests: 5000}"
    found = ran(scenario("closed1000", load, TOKENS), SCHEDULE, folder).exactness(1000)
    name = "1000 closed streams"
    limit_s = max(TTFT_LIMIT_S, TTFT_LIMIT_SHARE * found.ttft_true_s)
    yield _ttft(name, "2 % or 1 ms", limit_s, found)
    gap = f"{format_duration(found.gap_p99_s)} ({_error(found.gap_error_s)})"
    target = f"within 4 ms of the {format_duration(found.gap_p99_true_s)} sent"
    yield Number(name, "chunk gap p99", target, gap, abs(found.gap_error_s) <= GAP_LIMIT_S)
    target = f"≥ 97 % of {format_rate(found.ceiling_rate, 'tokens/s')}"
    held = f"{format_share(found.held_share)} ({format_rate(found.token_rate, 'tokens/s')})"
    yield Number(name, "rate held", target, held, found.held_share >= HELD_LIMIT_SHARE)
    cpu = format_duration(found.cpu_s_per_token)
    yield Number(name, "client CPU a token, one worker", "≤ 7 µs", cpu, found.cpu_s_per_token <= CPU_LIMIT_S)
    wanted = 1000 * TOKENS / (0.050 + 0.010 * (TOKENS - 1))
    late = f"{format_rate(found.ceiling_rate, 'tokens/s')}; {format_duration(found.late_p50_s)} late (median)"
    target = f"≥ 97 % of {format_rate(wanted, 'tokens/s')}"
    yield Number(name, "(what the reference server itself kept)", target, late, found.ceiling_rate >= 0.97 * wanted)


def closed100(folder: Path) -> Iterator[Number]:
    """100 closed streams of 100 tokens at 10 ms, five answers each."""
    load = "closed: {concurrency: 100, requests: 500}"
    found = ran(scenario("closed100", load, TOKENS), SCHEDULE, folder).exactness(100)
    yield _ttft("100 closed streams", "1 ms", TTFT_LIMIT_S, found)


def _ttft(name: str, allowed: str, limit_s: float, found: Exactness) -> Number:
    target = f"within {allowed} of the {format_duration(found.ttft_true_s)} sent"
    measured = f"{format_duration(found.ttft_s)} ({_error(found.ttft_error_s)})"
    return Number(name, "mean TTFT", target, measured, abs(found.ttft_error_s) <= limit_s)


def _error(error_s: float) -> str:
    return f"{'' if error_s < 0 else '+'}{format_duration(error_s)}"
