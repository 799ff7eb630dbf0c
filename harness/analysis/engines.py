"""Each engine of a stage: what ran, waited and was counted there, how evenly the load lay, and which one lags.

An engine is one scheduler with a KV cache: a process, or one of its data-parallel ranks. Its state is what it showed in
/metrics within the part of the stage's window that rates are of: of running and waiting requests and of the KV cache
mean and maximum; counts as the growth between the samples nearest to both ends, `span_s` apart.

NPU readings are means over the devices that the engine's process holds (of power the sum): device n is the n-th chip
that is watched, as the driver numbers them.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.efficiency import DEVICE
from harness.results.request_table import Samples
from harness.scenario.deployment import REPLICA
from harness.statistics.intervals import Floats
from harness.telemetry.log_counters import EP_IMBALANCE, TRANSFER_BYTES, TRANSFER_SECONDS, TRANSFERS
from harness.telemetry.server_metrics import (
    FINISHED,
    GENERATION,
    HITS,
    KV_USE,
    MAXIMUM,
    PREEMPTIONS,
    PROMPT,
    QUERIES,
    RUNNING,
    SERVER,
    WAITING,
)
from harness.units import NS_PER_S

# Requests that wait for their KV cache from elsewhere, by whichever of the two a release shows.
_DEFERRED = ("vllm:num_requests_waiting_by_reason:deferred", "vllm:num_requests_kv_fetch_by_stage:in_progress")
STORE = "vllm:mooncake_store_operation"
OFFLOAD = "vllm:kv_offload"
_BETWEEN = (  # of connectors that move KV from engine to engine: names of transfers, their seconds and bytes
    ("vllm:nixl_xfer_time_seconds_count", "vllm:nixl_xfer_time_seconds_sum", "vllm:nixl_bytes_transferred_sum"),
    (TRANSFERS, TRANSFER_SECONDS, TRANSFER_BYTES),
)
_STORED = (  # and of those that move it to a store and back
    (f"{STORE}_time_seconds_count", f"{STORE}_time_seconds_sum", f"{STORE}_bytes_total"),
    (f"{OFFLOAD}_load_size_count", f"{OFFLOAD}_load_time_total", f"{OFFLOAD}_load_bytes_total"),
    (f"{OFFLOAD}_store_size_count", f"{OFFLOAD}_store_time_total", f"{OFFLOAD}_store_bytes_total"),
    (f"{OFFLOAD}_size_count", f"{OFFLOAD}_total_time_total", f"{OFFLOAD}_total_bytes_total"),
)
_CONNECTORS = {"transfer": _BETWEEN, "store": _STORED}
_NPU = ("core_share", "memory_share", "watts")

Times = NDArray[np.int64]
Series = Mapping[tuple[str, str], tuple[Times, Floats]]
Span = tuple[int, int]  # of a window (ns)


def series_by_source(samples: Samples) -> Series:
    """Times and values of every sampled value by source and name, each in the order of time."""
    codes: dict[tuple[str, str], int] = {}
    pairs = zip(samples.source.tolist(), samples.name.tolist(), strict=True)
    numbers = np.fromiter((codes.setdefault(pair, len(codes)) for pair in pairs), dtype=np.int64, count=len(samples))
    order = np.lexsort((samples.at_ns, numbers))
    edges = np.searchsorted(numbers[order], np.arange(len(codes) + 1))
    at_ns, value = samples.at_ns[order], samples.value[order]
    return {pair: (at_ns[edges[i] : edges[i + 1]], value[edges[i] : edges[i + 1]]) for pair, i in codes.items()}


@dataclass(frozen=True, slots=True)
class EngineName:
    """An engine by its name and the source of its samples; its process, with its role and the devices that it holds."""

    name: str
    source: str
    process: str = ""
    role: str = REPLICA
    devices: tuple[int, ...] | None = None


def engine_names(series: Iterable[tuple[str, str]], run: Mapping[str, Any]) -> list[EngineName]:
    """The engines that were sampled, in the order of run.json and of their numbers; one alone is called 0.

    `series` are the sources and names of what was sampled.
    """
    series = list(series)
    sources = list(dict.fromkeys(source for source, name in series if name in (RUNNING, GENERATION)))
    own = sorted((source for source in sources if source.startswith(f"{SERVER}/")), key=_natural)
    processes = list((run.get("engine") or {}).get("processes") or ())
    names = [
        EngineName(
            source.removeprefix(f"{SERVER}/"),
            source,
            str(process["name"]),
            str(process.get("role") or REPLICA),
            None if process.get("devices") is None else tuple(process["devices"]),
        )
        for process in processes
        for source in own
        if _is_of(source, str(process["name"]), [str(each["name"]) for each in processes])
    ]
    if names:
        return names
    if own:
        return [EngineName(source.removeprefix(f"{SERVER}/"), source) for source in own]
    joined = any(source == SERVER and name.endswith(MAXIMUM) for source, name in series)  # of too many to be kept
    return [EngineName("0", SERVER)] if SERVER in sources and not joined else []


def _is_of(source: str, process: str, processes: Sequence[str]) -> bool:
    """Whether a source is an engine of a process: of several whose names it begins with, of the longest."""
    name = source.removeprefix(f"{SERVER}/")
    fitting = [each for each in processes if name == each or name.startswith(f"{each}/")]
    return bool(fitting) and max(fitting, key=len) == process


def _natural(source: str) -> list[tuple[int, int, str]]:
    """The order of names that end in numbers: 9 before 10."""
    parts = re.split(r"[-/.]", source)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a value was on average, and at most."""

    mean: float
    max: float


def gauge_of(series: Series, source: str, name: str, span: Span) -> Gauge | None:
    """A sampled value over a window (ns); None where it was not sampled within it."""
    at_ns, value = series.get((source, name), _NOTHING)
    inside = value[(at_ns >= span[0]) & (at_ns <= span[1])]
    return Gauge(float(inside.mean()), float(inside.max())) if len(inside) else None


_NOTHING: tuple[Times, Floats] = (np.zeros(0, dtype=np.int64), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Growth:
    """By how much a counter grew, and in how many seconds."""

    value: float
    span_s: float


def growth_of(series: Series, source: str, name: str, span: Span) -> Growth | None:
    """The growth of a counter between the samples nearest to both ends of a window (ns).

    None where there are no two such samples, or it fell: it was another process's.
    """
    at_ns, value = series.get((source, name), _NOTHING)
    places = counted_within(at_ns, value, span)
    if places is None:
        return None
    first, last = places
    return Growth(float(value[last] - value[first]), (int(at_ns[last]) - int(at_ns[first])) / NS_PER_S)


def counted_within(at_ns: Times, values: Floats, span: Span) -> tuple[int, int] | None:
    """The places of a counter's samples nearest to both ends of a window (ns).

    None where there are no two such samples, or it fell between them: it was another process's.
    """
    if len(at_ns) < 2:
        return None
    first, last = (_nearest(at_ns, at) for at in span)
    return None if last <= first or (np.diff(values[first : last + 1]) < 0).any() else (first, last)


def _nearest(at_ns: Times, when_ns: int) -> int:
    after = int(np.clip(np.searchsorted(at_ns, when_ns), 1, len(at_ns) - 1))
    return after if at_ns[after] - when_ns < when_ns - at_ns[after - 1] else after - 1


@dataclass(frozen=True, slots=True)
class EngineActivity:
    """One engine over a stage: see the module. Counts are None where they are not known; `kv` by where KV went."""

    engine: EngineName
    running: Gauge | None
    waiting: Gauge | None
    kv_use: Gauge | None
    deferred: float | None
    counts: Mapping[str, float | None]
    span_s: float | None
    kv: Mapping[str, Mapping[str, float]]
    ep_imbalance: float | None
    npu: Mapping[str, float]
    cpu_cores: float | None

    @property
    def queued(self) -> float | None:
        """Requests that waited for the engine on average; those that wait for their KV from elsewhere do not."""
        return None if self.waiting is None else max(0.0, self.waiting.mean - (self.deferred or 0.0))

    @property
    def hit_rate(self) -> float | None:
        """The share of prompt tokens looked up that the prefix cache had."""
        queries, hits = self.counts["prefix_queries"], self.counts["prefix_hits"]
        return None if not queries or hits is None else hits / queries

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it, under a stage's `engines`."""
        known = {"running": self.running, "waiting": self.waiting, "kv_use": self.kv_use}
        shown: dict[str, Any] = {
            "name": self.engine.name,
            "process": self.engine.process or None,
            "role": self.engine.role,
            "devices": None if self.engine.devices is None else list(self.engine.devices),
            **{name: None if gauge is None else asdict(gauge) for name, gauge in known.items()},
            **{name: _whole(value) for name, value in self.counts.items() if not name.startswith("prefix_")},
            "span_s": self.span_s,
            "prefix_hit_rate": self.hit_rate,
            **{f"kv_{where}": dict(moved) for where, moved in self.kv.items()},
        }
        further = {"ep_imbalance": self.ep_imbalance, "npu": dict(self.npu) or None, "cpu_cores": self.cpu_cores}
        return shown | {name: value for name, value in further.items() if value is not None}


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


_COUNTS = {
    "preemptions": PREEMPTIONS,
    "requests": FINISHED,
    "prompt_tokens": PROMPT,
    "generation_tokens": GENERATION,
    "prefix_queries": QUERIES,
    "prefix_hits": HITS,
}


def engine_activities(series: Series, run: Mapping[str, Any], span: Span) -> tuple[EngineActivity, ...]:
    """Every engine that was sampled within a window (ns)."""
    loads = [_load(series, engine, span) for engine in engine_names(series, run)]
    return tuple(load for load in loads if load.running is not None or load.span_s is not None)


def _load(series: Series, engine: EngineName, span: Span) -> EngineActivity:
    growths = {short: growth_of(series, engine.source, name, span) for short, name in _COUNTS.items()}
    spans = [growth.span_s for growth in growths.values() if growth is not None]
    running, waiting, kv_use, experts = (
        gauge_of(series, engine.source, name, span) for name in (RUNNING, WAITING, KV_USE, EP_IMBALANCE)
    )
    deferred = next(filter(None, (gauge_of(series, engine.source, name, span) for name in _DEFERRED)), None)
    cpu = gauge_of(series, f"engine/{engine.process}", "engine_cpu_cores", span) if engine.process else None
    moved = {name: _moved(series, engine.source, names, span) for name, names in _CONNECTORS.items()}
    return EngineActivity(
        engine,
        running,
        waiting,
        kv_use,
        None if deferred is None else deferred.mean,
        {short: None if growth is None else growth.value for short, growth in growths.items()},
        max(spans, default=None),
        {where: kept for where, kept in moved.items() if kept},
        None if experts is None else experts.mean,
        dict(_npu(series, engine.devices or (), span)),
        None if cpu is None else cpu.mean,
    )


def _moved(series: Series, source: str, connectors: Sequence[tuple[str, str, str]], span: Span) -> dict[str, float]:
    """How often KV was moved, the seconds that took, and the bytes, as far as each is told; all connectors together."""
    moved: dict[str, float] = {}
    for names in connectors:
        for short, name in zip(("count", "seconds", "bytes"), names, strict=True):
            if (growth := growth_of(series, source, name, span)) is not None:
                moved[short] = moved.get(short, 0.0) + growth.value
    return {short: value for short, value in moved.items() if any(moved.values())}


def _npu(series: Series, devices: Sequence[int], span: Span) -> Iterator[tuple[str, float]]:
    """Means over the devices of a process of what was sampled of each; power is their sum."""
    every = sorted({source for source, _ in series if source.startswith(DEVICE)}, key=_natural)
    chips = [every[number] for number in devices if number < len(every)]
    for name in _NPU:
        means = [gauge.mean for chip in chips if (gauge := gauge_of(series, chip, name, span)) is not None]
        if means:
            yield name, math.fsum(means) if name == "watts" else math.fsum(means) / len(means)
