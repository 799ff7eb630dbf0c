"""The counters of a server's /metrics, as values by source and name.

The source `server` has what holds of all engines together, `server/0` what engine 0 shows of itself. Values that are
not numbers, or impossible for their name, are left out: /metrics is text from outside.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

SUM = "sum"  # of counts: several engines have together what each has
SHARE = "share"  # of one engine's own size, from 0 to 1: several engines have a mean and a maximum, and no sum
SERVER = "server"
MAXIMUM = ":max"  # ends the name of the highest share of several engines
MOST_ENGINES = 32  # whose own values are kept; beyond, only what they have together
CACHE_CONFIG = "vllm:cache_config_info"
START_TIME = "process_start_time_seconds"  # of the process that answers: a later one is another process
_LARGEST = 1e18  # of a count: more tokens than any server has made


class MetricSeries(NamedTuple):
    """What a name of /metrics means: the name it is kept under, and how the engines' values are joined."""

    name: str
    join: str


# vLLM's names (v1/metrics/loggers.py), each with those it had in earlier releases. Where a server shows both, the
# first is read: they are one number.
_RENAMED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("vllm:num_requests_running", SUM): (),
    ("vllm:num_requests_waiting", SUM): (),
    ("vllm:kv_cache_usage_perc", SHARE): ("vllm:gpu_cache_usage_perc",),
    ("vllm:num_preemptions_total", SUM): ("vllm:num_preemptions",),
    ("vllm:prefix_cache_queries_total", SUM): (
        "vllm:prefix_cache_queries",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_queries",
    ),
    ("vllm:prefix_cache_hits_total", SUM): (
        "vllm:prefix_cache_hits",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits",
    ),
    ("vllm:prompt_tokens_total", SUM): ("vllm:prompt_tokens",),
    ("vllm:generation_tokens_total", SUM): ("vllm:generation_tokens",),
}
SERIES: Mapping[str, MetricSeries] = {
    known: MetricSeries(name, join) for (name, join), earlier in _RENAMED.items() for known in (name, *earlier)
}
"""Every name that is read, with its meaning; of one meaning the newest name first."""

_RANK = {name: rank for rank, name in enumerate(SERIES)}
_JOINS = {series.name: series.join for series in SERIES.values()}
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


def read_metrics(text: str) -> dict[str, dict[str, float]]:
    """The watched values by source and name: of the server, and of each engine where there are several."""
    samples = list(parse_samples(text, (*SERIES, START_TIME)))
    engines: dict[str, dict[str, float]] = {}
    for (name, engine), values in _by_engine(samples).items():
        # One engine's series of one name differ in labels such as the model: its counts add up, its share is one.
        joined = sum(values) if _JOINS[name] == SUM else max(values)
        engines.setdefault(engine, {})[name] = joined
    if not engines:
        return {}
    single = {f"{SERVER}/{engine}": values for engine, values in sorted(engines.items())}
    kept = single if 1 < len(engines) <= MOST_ENGINES else {}
    starts = [value for name, _, value in samples if name == START_TIME]
    start = {START_TIME: max(starts)} if starts else {}
    return {SERVER: _all_engines(list(engines.values())) | start, **kept}


def _by_engine(samples: Iterable[tuple[str, Labels, float]]) -> dict[tuple[str, str], list[float]]:
    """The values of each name and engine, from the newest of the names that are there."""
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for known, labels, value in samples:
        if known in SERIES and 0 <= value <= (_LARGEST if SERIES[known].join == SUM else 1.0):
            identity = repr(sorted(labels.items()))
            rows.setdefault(known, {})[_engine(labels), identity] = value  # the last of the same series holds
    values: dict[tuple[str, str], list[float]] = {}
    names: set[str] = set()
    for known in sorted(rows, key=_RANK.__getitem__):
        name = SERIES[known].name
        if name not in names:
            names.add(name)
            for (engine, _), value in rows[known].items():
                values.setdefault((name, engine), []).append(value)
    return values


def _engine(labels: Labels) -> str:
    """Which engine a series is of: vLLM's own label, else what else tells it from others, as a router's `server`."""
    if "engine" in labels:
        return labels["engine"]
    return ",".join(value for name, value in sorted(labels.items()) if name != "model_name")


def _all_engines(engines: list[dict[str, float]]) -> dict[str, float]:
    joined: dict[str, float] = {}
    for name, join in _JOINS.items():
        values = [engine[name] for engine in engines if name in engine]
        if not values:
            continue
        joined[name] = sum(values) if join == SUM else math.fsum(values) / len(values)
        if join == SHARE and len(values) > 1:
            joined[name + MAXIMUM] = max(values)
    return joined


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
