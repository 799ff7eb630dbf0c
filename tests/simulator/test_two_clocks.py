"""The HTTP server in real time and the simulation in virtual time give the same times for the same trace.

The server answers a real client over a socket. Its steps are noted as they happen, and so is which
step first sees each request. A timer that wakes late lets a request join a step that in virtual time
had begun without it; so each arrival is moved by that error of the timer, which is noted too, and then
the virtual engine must give every token at exactly the nanosecond that the server meant. What the
client sees is later by the timer's error and the way through the socket, and never earlier.
"""

import asyncio
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from aiohttp import web

from harness.clock import monotonic_ns
from harness.execution.reconcile import read_stage_starts, reconcile
from harness.execution.run import RunSpec, open_folder, run_load
from harness.results import store, table_files
from harness.results.request_table import COMPLETED
from harness.scenario.loader import load_scenario
from harness.simulator.engine import EARLY_NS
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.server import application
from harness.simulator.service import service_of
from harness.simulator.virtual_time import Arrival, simulate

MODEL = "Qwen/Qwen2.5-7B-Instruct"
# Few places, a small budget and a cache for about three requests: they queue, are cut in chunks, and preempted.
FLAGS = {
    "model": MODEL,
    "max_model_len": 512,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 128,
    "num_gpu_blocks_override": 7,
}
AT_MS = (0, 0, 0, 0, 200, 420, 421, 700, 705, 1000, 1010, 3000)
SLOWEST_S = 0.5  # of the median token, from the end that its step was meant to have to the client's socket


@dataclass
class Noted:
    """What the server's engine did: steps begun, ended ones by start and end, and what it was handed."""

    begun: int = 0
    steps: list = field(default_factory=list)
    handed: list = field(default_factory=list)


def watch(engine):
    """Note what an engine does, without changing it."""
    noted = Noted()
    schedule, finished, submit = engine.scheduler.schedule, engine.finish, engine.submit

    def scheduling(**how):
        step = schedule(**how)
        noted.begun += bool(step.scheduled)
        return step

    def finishing(step, start_ns, end_ns):
        noted.steps.append((start_ns, end_ns, monotonic_ns(), step.tokens))
        finished(step, start_ns, end_ns)

    def submitting(request, feed):
        tokens = []
        noted.handed.append((request, monotonic_ns(), noted.begun, tokens))
        submit(request, lambda: (tokens.append(len(noted.steps) - 1), feed()))

    engine.scheduler.schedule, engine.finish, engine.submit = scheduling, finishing, submitting
    return noted


def moved(noted, came_ns, number):
    """When a request came for the virtual engine: as it did, moved to where the step that first saw it can see it."""
    start_ns = noted.steps[number][0]
    before_ns = noted.steps[number - 1][1] if number else 0
    if start_ns != before_ns:  # the engine was idle, and began when its task awoke
        return start_ns
    return min(max(came_ns, noted.steps[number - 1][0] + 1), start_ns)


async def served(folder):
    """What a server did that the harness's own client sent the trace to, what the client recorded, and its zero."""
    service = service_of(settings_from_flags(FLAGS))
    noted = watch(service.engine)
    runner = web.AppRunner(application(service), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    order = RunSpec(
        load_scenario(scenario(folder, f"http://127.0.0.1:{runner.addresses[0][1]}")),
        folder / "out",
        "",
        lambda _: None,
    )
    open_folder(order)
    try:
        await run_load(order)
    finally:
        await runner.cleanup()
    zero_ns = read_stage_starts(order.folder / store.RAW).zero_ns
    reconcile(order.folder)
    return noted, table_files.read_requests(order.folder), zero_ns


def scenario(folder, url):
    """A file that replays twelve requests, each with a length of answer of its own."""
    rows = [
        {
            "timestamp": at_ms,
            "input_length": (118, 190, 120, 60)[n % 4],
            "output_length": 24 + n,
            "hash_ids": [n % 4],
        }
        for n, at_ms in enumerate(AT_MS)
    ]
    (folder / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = {
        "name": "two-clocks",
        "question": "Do both clocks agree?",
        "engine": {"kind": "attach", "url": url},
        "workload": {"kind": "trace", "path": "trace.jsonl", "format": "mooncake"},
        "load": [{"trace": {"speed": 1}}],
        "workers": 1,
    }
    (folder / "two.yaml").write_text(json.dumps(told), encoding="utf-8")
    return folder / "two.yaml"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the server did (`noted`), the same in virtual time (`virtual`), and what the client saw (`seen`)."""
    noted, seen, zero_ns = asyncio.run(served(tmp_path_factory.mktemp("two")))
    arrivals = [
        Arrival(moved(noted, came_ns, number), list(request.prompt), request.max_tokens)
        for request, came_ns, number, _ in noted.handed
    ]
    virtual = simulate(settings_from_flags(FLAGS), arrivals)
    return SimpleNamespace(noted=noted, arrivals=arrivals, virtual=virtual, seen=seen, zero_ns=zero_ns)


def test_every_token_is_meant_for_the_same_nanosecond(both):
    """The same steps with the same tokens end at the same times, and give the same requests their tokens."""
    ends = np.asarray([end for _, end, _, _ in both.noted.steps])

    assert len(both.arrivals) == len(AT_MS)
    assert both.virtual.step_ns.tolist() == ends.tolist()
    assert both.virtual.tokens.tolist() == [tokens for *_, tokens in both.noted.steps]
    for (_, _, _, steps), times in zip(both.noted.handed, both.virtual.token_ns, strict=True):
        assert ends[steps].tolist() == times.tolist()


def test_the_trace_puts_the_scheduler_to_work(both):
    """Requests wait for a place, find a prefix, and are preempted; no step begins before the one before has ended."""
    starts = np.asarray([start for start, *_ in both.noted.steps])
    ends = np.asarray([end for _, end, *_ in both.noted.steps])

    assert both.virtual.waiting.max() > 0
    assert both.virtual.running.max() > 1
    assert both.virtual.preemptions.sum() > 0
    assert both.virtual.cached_tokens.sum() > 0
    assert (starts[1:] >= ends[:-1]).all()


def test_arrivals_are_moved_by_no_more_than_the_timer_was_late(both):
    """A request that came as long after the end of a step as this woke late counts as come at that end."""
    wakes = np.asarray([woke - end for _, end, woke, _ in both.noted.steps])
    for arrival, (_, came_ns, number, _) in zip(both.arrivals, both.noted.handed, strict=True):
        late_ns = wakes[number - 1] if number else 0
        idle = both.noted.steps[number][0] == arrival.at_ns

        assert idle or arrival.at_ns - came_ns <= EARLY_NS + 1
        assert came_ns - arrival.at_ns <= max(0, late_ns)


def test_the_client_sees_what_the_server_meant(both):
    """No token before its step's end, and the first and last of most soon after it."""
    meant = {arrival.max_tokens: times for arrival, times in zip(both.arrivals, both.virtual.token_ns, strict=True)}
    order = np.argsort(both.seen.output_tokens)
    late_ns = [
        getattr(both.seen, name)[order] + both.zero_ns - [meant[tokens][place] for tokens in sorted(meant)]
        for name, place in (("first_ns", 0), ("last_ns", -1))
    ]

    assert set(both.seen.status) == {COMPLETED}
    assert both.seen.output_tokens[order].tolist() == sorted(meant)
    assert np.min(late_ns) >= -EARLY_NS
    assert np.median(late_ns) < SLOWEST_S * 1e9
