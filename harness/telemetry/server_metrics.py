"""The counters of a server's /metrics, as values by source and name.

The source `server` has what holds of all engines together, `server/0` what engine 0 shows of itself. Of several
processes `server/NAME` is one with a single engine, `server/NAME/0` engine 0 of one with several. Values that are not
numbers, or impossible for their name, are left out: /metrics is text from outside.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from harness.units import NS_PER_S

SUM = "sum"  # of counts: several engines have together what each has
SHARE = "share"  # of one engine's own size, from 0 to 1: several engines have a mean and a maximum, and no sum
SERVER = "server"
MAXIMUM = ":max"  # ends the name of the highest share of several engines
MOST_ENGINES = 64  # whose own values are kept; beyond, only what they have together
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
KV_USE = "vllm:kv_cache_usage_perc"
PREEMPTIONS = "vllm:num_preemptions_total"
PROMPT, GENERATION = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
FINISHED = "vllm:request_success_total"
DRAFTS = "vllm:spec_decode_num_drafts_total"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens_total"
ACCEPTED_TOKENS = "vllm:spec_decode_num_accepted_tokens_total"
ACCEPTED_AT = "vllm:spec_decode_num_accepted_tokens_per_pos_total"  # with `:` and the position, from 0
CACHE_CONFIG = "vllm:cache_config_info"
START_TIME = "process_start_time_seconds"  # of the process that answers: a later one is another process
_LARGEST = 1e18  # of a count: more tokens than any server has made


class MetricSeries(NamedTuple):
    """What a name of /metrics means: the name it is kept under, and how the engines' values are joined.

    `by` is the label whose values are kept apart, each under a name of its own (`NAME:VALUE`).
    """

    name: str
    join: str
    by: str = ""


# vLLM's names (v1/metrics/loggers.py), each with those it had in earlier releases. Where a server shows both, the
# first is read: they are one number.
_RENAMED: Mapping[tuple[str, str], tuple[str, ...]] = {
    (RUNNING, SUM): (),
    (WAITING, SUM): (),
    (KV_USE, SHARE): ("vllm:gpu_cache_usage_perc",),
    (PREEMPTIONS, SUM): ("vllm:num_preemptions",),
    (QUERIES, SUM): (
        "vllm:prefix_cache_queries",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries",
    ),
    (HITS, SUM): (
        "vllm:prefix_cache_hits",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits",
    ),
    (PROMPT, SUM): ("vllm:prompt_tokens",),
    (GENERATION, SUM): ("vllm:generation_tokens",),
}
# Names of one release each: requests, speculation, and what KV connectors of distributed/kv_transfer tell of transfers
# (NIXL and the Mooncake store as histograms, offloading as counters).
_COUNTED = (
    FINISHED,
    "vllm:external_prefix_cache_queries_total",
    "vllm:external_prefix_cache_hits_total",
    DRAFTS,
    DRAFT_TOKENS,
    ACCEPTED_TOKENS,
    "vllm:nixl_xfer_time_seconds_sum",
    "vllm:nixl_xfer_time_seconds_count",
    "vllm:nixl_bytes_transferred_sum",
    "vllm:nixl_num_failed_transfers_total",
    "vllm:mooncake_store_operation_time_seconds_sum",
    "vllm:mooncake_store_operation_time_seconds_count",
    "vllm:mooncake_store_operation_bytes_total",
    "vllm:kv_offload_load_time_total",
    "vllm:kv_offload_load_bytes_total",
    "vllm:kv_offload_load_size_count",
    "vllm:kv_offload_store_time_total",
    "vllm:kv_offload_store_bytes_total",
    "vllm:kv_offload_store_size_count",
    "vllm:kv_offload_total_time_total",
    "vllm:kv_offload_total_bytes_total",
    "vllm:kv_offload_size_count",
)
_BY_LABEL = {
    "vllm:num_requests_waiting_by_reason": "reason",
    "vllm:num_requests_kv_fetch_by_stage": "stage",
    ACCEPTED_AT: "position",
}
SERIES: Mapping[str, MetricSeries] = {
    **{known: MetricSeries(name, join) for (name, join), earlier in _RENAMED.items() for known in (name, *earlier)},
    **{name: MetricSeries(name, SUM) for name in _COUNTED},
    **{name: MetricSeries(name, SUM, label) for name, label in _BY_LABEL.items()},
}
"""Every name that is read, with its meaning; of one meaning the newest name first."""

_RANK = {name: rank for rank, name in enumerate(SERIES)}
_OWN_LABELS = frozenset({"model_name", "finished_reason", "operation", "status", "transfer_type", *_BY_LABEL.values()})
"""Labels that tell series of one engine apart, and no engines."""
_LABEL_VALUE = re.compile(r"[A-Za-z0-9_]{1,32}")
_MOST_VALUES = 64  # of a label that are kept apart: more positions than anyone drafts
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LONGEST_LINE = 4096  # of one sample; vLLM's longest, its cache configuration, has about 1000 characters
_MOST_SAMPLES = 4096

Labels = Mapping[str, str]


def parse_samples(text: str, names: Iterable[str]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample of these names whose value is a finite number.

    Each line goes to prometheus_client alone, which gives up a whole page for one malformed line; and only lines of
    these names, as it takes 80 times as long as our search for them.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - 40 ms, for runs only

    for match in islice(_samples_of(frozenset(names)).finditer(text), _MOST_SAMPLES):
        line = match.group().strip()
        if len(line) > _LONGEST_LINE or not line.rpartition("}")[2].isascii():
            continue
        with contextlib.suppress(ValueError, IndexError):
            for family in text_string_to_metric_families(line):
                for sample in family.samples:
                    if math.isfinite(sample.value):
                        yield sample.name, sample.labels, float(sample.value)


@cache
def _samples_of(names: frozenset[str]) -> re.Pattern[str]:
    """Lines of samples of these names."""
    return re.compile(rf"^[ \t]*(?:{'|'.join(map(re.escape, sorted(names)))})(?![A-Za-z0-9_:]).*$", re.MULTILINE)


def read_metrics(text: str, process: str = "") -> dict[str, dict[str, float]]:
    """The watched values by source and name: of the server, and of each engine where there are several.

    Of one `process` of several, only those of its engines: what all have together is `JoinedProcesses`.
    """
    samples = list(parse_samples(text, (*SERIES, START_TIME)))
    engines: dict[str, dict[str, float]] = {}
    for (name, engine), values in _by_engine(samples).items():
        # One engine's series of one name differ in labels such as the model: its counts add up, its share is one.
        joined = sum(values) if join_of(name) == SUM else max(values)
        engines.setdefault(engine, {})[name] = joined
    if not engines:
        return {}
    starts = [value for name, _, value in samples if name == START_TIME]
    start = {START_TIME: max(starts)} if starts else {}
    source = f"{SERVER}/{process}" if process else SERVER
    single = {f"{source}/{engine}": values for engine, values in sorted(engines.items(), key=_numbered)}
    kept = single if 1 < len(engines) <= MOST_ENGINES else {}
    if process and kept:
        return kept | ({source: start} if start else {})
    return {source: join_engines(list(engines.values())) | start, **kept}


def _numbered(item: tuple[str, Any]) -> tuple[int, str]:
    """The order of engines: by number where they are numbered."""
    return len(item[0]) if item[0].isdigit() else 0, item[0]


def join_of(name: str) -> str:
    """How the values of a name that is kept are joined over engines."""
    known = SERIES.get(name) or SERIES.get(name.rpartition(":")[0])
    return SUM if known is None else known.join


def is_counter(name: str) -> bool:
    """Whether a name that is kept only ever grows."""
    whole = name if name in SERIES else name.rpartition(":")[0]
    return whole.endswith(("_total", "_sum", "_count"))


def _by_engine(samples: Iterable[tuple[str, Labels, float]]) -> dict[tuple[str, str], list[float]]:
    """The values of each name and engine, from the newest of the names that are there."""
    rows: dict[str, dict[tuple[str, str, str], float]] = {}
    apart: dict[str, set[str]] = {}
    for known, labels, value in samples:
        series = SERIES.get(known)
        if series is None or not 0 <= value <= (_LARGEST if series.join == SUM else 1.0):
            continue
        name, names_apart = _name_of(series, labels), apart.setdefault(known, set())
        if name and (name in names_apart or len(names_apart) < _MOST_VALUES):
            names_apart.add(name)
            identity = repr(sorted(labels.items()))
            rows.setdefault(known, {})[name, _engine(labels), identity] = value  # the last of the same series holds
    values: dict[tuple[str, str], list[float]] = {}
    names: set[str] = set()
    for known in sorted(rows, key=_RANK.__getitem__):
        own = SERIES[known].name
        if own not in names:
            names.add(own)
            for (name, engine, _), value in rows[known].items():
                values.setdefault((name, engine), []).append(value)
    return values


def _name_of(series: MetricSeries, labels: Labels) -> str:
    """The name that a sample is kept under; empty where its label has no value that can stand in one."""
    if not series.by:
        return series.name
    value = labels.get(series.by, "")
    return f"{series.name}:{value}" if _LABEL_VALUE.fullmatch(value) else ""


def _engine(labels: Labels) -> str:
    """Which engine a series is of: vLLM's own label, else what else tells it from others, as a router's `server`."""
    if "engine" in labels:
        return labels["engine"]
    return ",".join(value for name, value in sorted(labels.items()) if name not in _OWN_LABELS)


def join_engines(engines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What engines have together: counts added, of shares their mean and their maximum."""
    joined: dict[str, float] = {}
    for name in dict.fromkeys(name for engine in engines for name in engine):
        values = [engine[name] for engine in engines if name in engine]
        share = join_of(name) == SHARE
        joined[name] = math.fsum(values) / len(values) if share else sum(values)
        if share and len(values) > 1:
            joined[name + MAXIMUM] = max(values)
    return joined


STALE_NS = 5 * NS_PER_S  # of a reading, when the next one is five times overdue: what it shows is over


@dataclass(slots=True)
class JoinedProcesses:
    """What several processes have together, by what each showed last.

    A process that answers no more keeps what it had counted, so that no count falls; what it had running is left out.
    Of one that answers first after the others had been joined, only what it counts from then on is added.
    """

    _last: dict[str, tuple[int, tuple[Mapping[str, float], ...]]] = field(default_factory=dict)
    _before: dict[str, float] = field(default_factory=dict)  # by name, what late processes had counted before
    _begun: bool = False

    def add(self, at_ns: int, process: str, engines: Iterable[Mapping[str, float]]) -> None:
        """What each engine of a process showed at a time."""
        own = tuple({name: value for name, value in engine.items() if name != START_TIME} for engine in engines)
        if self._begun and process not in self._last:
            for engine in own:
                for name, value in engine.items():
                    if is_counter(name):
                        self._before[name] = self._before.get(name, 0.0) + value
        self._last[process] = at_ns, own

    @property
    def heard(self) -> frozenset[str]:
        """The processes that have shown anything."""
        return frozenset(self._last)

    def values(self, now_ns: int) -> dict[str, float]:
        """The values of all together at a time; empty where none has shown any."""
        self._begun = self._begun or bool(self._last)
        engines: list[Mapping[str, float]] = []
        for at_ns, own in self._last.values():
            stale = now_ns - at_ns > STALE_NS
            engines += [{n: v for n, v in engine.items() if not stale or is_counter(n)} for engine in own]
        joined = join_engines(engines)
        return {name: max(0.0, value - self._before.get(name, 0.0)) for name, value in joined.items()}


def cache_configs(text: str) -> dict[str, dict[str, Any]]:
    """By engine, the labels of `vllm:cache_config_info`: block_size, num_gpu_blocks and others, numbers as numbers."""
    return {
        labels.get("engine", ""): {key: _label_value(value) for key, value in labels.items()}
        for _, labels, _ in parse_samples(text, (CACHE_CONFIG,))
    }


def cache_config(text: str) -> Mapping[str, Any]:
    """The labels of the first engine's `vllm:cache_config_info`; of several engines also how many there are.

    Those have `data_parallel_size` and, by engine, `num_gpu_blocks_by_engine`: each has a cache of its own.
    """
    by_engine = cache_configs(text)
    first = next(iter(by_engine.values()), {})
    if len(by_engine) < 2:
        return first
    blocks = {engine: labels.get("num_gpu_blocks") for engine, labels in by_engine.items()}
    return {**first, "data_parallel_size": len(by_engine), "num_gpu_blocks_by_engine": blocks}


def _label_value(text: str) -> Any:
    """A label as the number, switch or None that it shows; text where it shows neither."""
    if re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return {"True": True, "False": False, "None": None}.get(text, text)
