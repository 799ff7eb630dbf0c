"""Samples taken while a run goes on: the server's counters, the NPUs and the host."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from harness.analysis.warnings.client import PARENT, PAUSED, PAUSED_S
from harness.client.target import is_this_host
from harness.clock import monotonic_ns
from harness.engines import RunningEngine
from harness.engines.api_client import ControlClient
from harness.telemetry import server_metrics
from harness.telemetry.devices import npu_watches, watch_host
from harness.telemetry.environment import find_npu_smi, this_host
from harness.telemetry.npu_smi import Values
from harness.units import NS_PER_S

SCRAPE_S = 1.0
_BEAT_NS = 100_000_000


@dataclass(slots=True)
class Watched:
    """What is sampled while the run goes on; times absolute ns."""

    rows: list[tuple[int, str, str, float]] = field(default_factory=list)
    latest: dict[str, Values] = field(default_factory=dict)
    """By source of /metrics, its last values."""

    def add(self, at_ns: int, source: str, values: Values) -> None:
        """Keep the values that a source had at a time."""
        self.rows += [(at_ns, source, name, float(value)) for name, value in values.items()]

    def add_metrics(self, at_ns: int, text: str) -> bool:
        """Keep the values of a text of /metrics, of the server and of each of its engines; whether there were any."""
        values_by_source = server_metrics.read_metrics(text)
        for source, values in values_by_source.items():
            self.add(at_ns, source, values)
            self.latest[source] = values
        return bool(values_by_source)


@asynccontextmanager
async def watching(control: ControlClient | None, serving: RunningEngine, watched: Watched) -> AsyncIterator[None]:
    """Fill `watched` until the context ends; whatever was started for it has ended then. No control, no counters."""
    loop = asyncio.get_running_loop()
    jobs = [watch_host(watched.add, serving.pids)]
    if control is not None:
        jobs += [_scrape(control, watched), _beat(watched)]
    npu_smi = find_npu_smi(this_host())
    if npu_smi is not None and uses_npus_here(serving):
        jobs += npu_watches(watched.add, npu_smi)
    tasks = [loop.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome


def uses_npus_here(serving: RunningEngine) -> bool:
    """Whether this machine's NPUs are the engine's: neither a simulated engine's nor those of a server elsewhere."""
    here = serving.kind != "attach" or is_this_host(urlsplit(serving.url).hostname or "")
    return here and not serving.simulated


async def _beat(watched: Watched) -> None:
    """Note where this process did not run: it was stopped, or its machine had no time for it."""
    while True:
        due_ns = monotonic_ns() + _BEAT_NS
        await asyncio.sleep(_BEAT_NS / NS_PER_S)
        late_s = (monotonic_ns() - due_ns) / NS_PER_S
        if late_s >= PAUSED_S:
            watched.add(monotonic_ns(), PARENT, {PAUSED: late_s})


async def _scrape(control: ControlClient, watched: Watched) -> None:
    while True:
        text = await control.metrics()
        read = watched.add_metrics(monotonic_ns(), text)
        await asyncio.sleep(SCRAPE_S if read else 10 * SCRAPE_S)
