"""What the live counters of a worker cost: CPU a token with them and without, in turn in one process.

The worker's own code (connections, load, journals) against a reference server. Short closed loops with and without
counters take turns as A B B A, so that whatever else the machine does touches both alike; the ratio is of medians.
Beside other work that is noisy: the time spent in the counters themselves, over all else of the same process, is not.
"""

import asyncio
import gc
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.numbers import Number
from benchmarks.runs import raise_file_limit
from harness.client import payload, transport
from harness.client.live_counters import LiveCounters
from harness.client.load import LoadContext, PreparedRequest, PreparedRequests, StageLoad
from harness.client.target import target_for
from harness.client.worker import RequestLog
from harness.clock import MonotonicClock
from harness.scenario.engine import Engine
from harness.scenario.stages import Stage
from harness.selfcheck.reference_server.ground_truth import TokenSchedule
from harness.selfcheck.selfcheck import started
from harness.units import NS_PER_MS, NS_PER_S, format_duration, format_share
from harness.workload import Session, Turn
from harness.workload.plan import StagePlan
from harness.workload.prompts import TokenPrompt

SCHEDULE = TokenSchedule(first_ns=50 * NS_PER_MS, gap_ns=10 * NS_PER_MS)
STREAMS = (100, 500, 1000)
TOKENS, SLICES = 400, 12  # four seconds a slice
LIMIT = 0.02


class _Timed:
    """Counters, and the CPU time spent in them."""

    def __init__(self, clock: MonotonicClock) -> None:
        self.reports: list[dict[str, Any]] = []
        self.inside_s = self.all_s = 0.0
        self._counters = LiveCounters(clock, lambda counts: self.reports.append(json.loads(json.dumps(counts))))
        self._counters._slice = self._timed(self._counters._slice)  # type: ignore[method-assign] # noqa: SLF001
        self.begin, self.end = self._timed(self._counters.begin), self._timed(self._counters.end)
        self.sent, self.over = self._timed(self._counters.sent), self._timed(self._counters.over)

    def _timed(self, call: Callable[..., None]) -> Callable[..., None]:
        def timed(*words: Any, **options: Any) -> None:
            before_s = time.process_time()
            call(*words, **options)
            self.inside_s += time.process_time() - before_s

        return timed


class _Nothing:
    """No counters."""

    def begin(self, number: int) -> None: ...
    def sent(self, request: Any, *, measured: bool) -> None: ...
    def over(self, request: Any) -> None: ...
    def end(self) -> None: ...


def live(folder: Path) -> Iterator[Number]:
    """The counters' share of the CPU of a token."""
    folder.mkdir(parents=True)
    raise_file_limit()
    for streams in STREAMS:
        with started(SCHEDULE, folder / f"truth{streams}.npz", life_s=600) as server:
            without, with_counters, timed = asyncio.run(_measure(server.url, streams, folder))
        ratio = statistics.median(with_counters) / statistics.median(without)
        spread = _interval(with_counters, without)
        shown = f"{format_share(ratio - 1)} ({spread[0] - 1:+.1%} to {spread[1] - 1:+.1%}), "
        shown += f"of {statistics.median(without) * 1e6:.2f} µs"
        yield Number(f"{streams} closed streams", "CPU a token, with live counters", "as is", shown, met=True)
        share = timed.inside_s / (timed.all_s - timed.inside_s)
        shown = (
            f"{format_share(share)} of {format_duration((timed.all_s - timed.inside_s) / (SLICES * streams * TOKENS))}"
        )
        yield Number(f"{streams} closed streams", "CPU in the live counters", "≤ 2 %", shown, share <= LIMIT)


def _interval(some: list[float], others: list[float]) -> tuple[float, float]:
    """95 % of the ratio of medians, by resampling slices."""
    draw = random.Random(1)
    ratios = sorted(
        statistics.median(draw.choices(some, k=len(some))) / statistics.median(draw.choices(others, k=len(others)))
        for _ in range(2000)
    )
    return ratios[50], ratios[-51]


async def _measure(url: str, streams: int, folder: Path) -> tuple[list[float], list[float], _Timed]:
    clock = MonotonicClock(asyncio.get_running_loop())
    target = target_for(url, Engine(kind="attach", url=url))
    client = transport.Client(target, clock, 60 * NS_PER_S)
    await client.resolve()
    (folder / f"{streams}").mkdir()
    log = RequestLog(folder / f"{streams}", 0, clock, lambda _counts: None)
    counters, nothing = _Timed(clock), _Nothing()
    options = payload.Options(SCHEDULE.model, "completions", stream=True, token_counts="usage", extra_body={})
    body = payload.body(TokenPrompt(np.arange(16, dtype=np.int32)), TOKENS, options)
    bytes_ = transport.post_bytes(target, payload.path("completions"), body)
    request = PreparedRequest(Session(0, (Turn(16, TOKENS),)), 0, bytes_, 16, TOKENS, measured=True)
    seqs = itertools.count()
    costs: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * SLICES + 1):
        counting = number % 4 in (1, 2)
        log.live = counters if counting else nothing  # type: ignore[assignment]
        cost = await _slice(clock, client, log, (number, streams, request, seqs))
        if number:  # the first opens the connections
            costs[counting].append(cost)
            counters.all_s += cost * streams * TOKENS if counting else 0.0
    await client.close()
    log.close()
    assert counters.reports[-1]["output_tokens"] == streams * TOKENS
    return costs[False], costs[True], counters


async def _slice(clock: MonotonicClock, client: transport.Client, log: RequestLog, words: Any) -> float:
    number, streams, request, seqs = words
    stage = Stage("closed", concurrency=streams, requests=streams)
    plan = StagePlan(number, 0, 0, stage, 0, 0, streams, 0, 0, None)
    prepared = PreparedRequests(iter(range(streams)), lambda _ordinal: request, clock)
    prepared.fill()
    await client.open(streams)
    load = StageLoad(plan, LoadContext(clock, client, log, prepared, lambda *_: request, seqs), streams)
    log.begin(plan, clock.now_ns())
    gc.collect()
    gc.disable()
    begun_s = time.process_time()
    try:
        await load.run(clock.now_ns(), [])
        log.flush()
        log.live.end()
    finally:
        gc.enable()
    return (time.process_time() - begun_s) / (streams * TOKENS)
