"""What do a server's counters say, in numbers that can be laid beside the requests?

Pure: the text of /metrics (Prometheus exposition format) becomes values by source and name. The
source `server` has what holds of all engines together, `server/0` what engine 0 says of itself.
What is no number, or none that its name can have, is left out: /metrics is foreign text.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
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
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABELS = re.compile(r'\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\}')
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_ESCAPED = re.compile(r"\\(.)")

Labels = Mapping[str, str]


def parse_samples(text: str, names: Iterable[str] | None = None) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample line (of these names) whose value is a finite number.

    A time or an exemplar after the value is not read.
    """
    wanted = None if names is None else frozenset(names)
    for line in map(str.strip, text.split("\n")):
        match = _NAME.match(line)
        if match is None or (wanted is not None and match.group() not in wanted):
            continue
        labels = _LABELS.match(line, match.end())
        rest = line[labels.end() if labels else match.end() :].split(None, 1)
        value = _finite(rest[0]) if rest else None
        if value is not None:
            found = {name: _plain_text(raw) for name, raw in _LABEL.findall(labels.group(1) if labels else "")}
            yield match.group(), found, value


def _finite(text: str) -> float | None:
    """The number that a text is, None where it is none, or one without a size."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def _plain_text(raw: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match.group(1) == "n" else match.group(1), raw)


def read_metrics(text: str) -> dict[str, dict[str, float]]:
    """The watched values by source and name: of the server, and of each engine where there are several."""
    engines: dict[str, dict[str, float]] = {}
    for (name, engine), values in _by_engine(text).items():
        # One engine's series of one name differ in labels such as the model: its counts add up, its share is one.
        joined = sum(values) if _JOINS[name] == SUM else max(values)
        engines.setdefault(engine, {})[name] = joined
    if not engines:
        return {}
    own = {f"{SERVER}/{engine}": values for engine, values in sorted(engines.items())}
    kept = own if 1 < len(engines) <= MOST_ENGINES else {}
    began = [value for _, _, value in parse_samples(text, (START_TIME,))]
    start = {START_TIME: max(began)} if began else {}
    return {SERVER: _together(list(engines.values())) | start, **kept}


_JOINS = {series.name: series.join for series in SERIES.values()}


def _by_engine(text: str) -> dict[tuple[str, str], list[float]]:
    """The values of each name and engine, from the newest of the names that are there."""
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for known, labels, value in parse_samples(text, SERIES):
        if 0 <= value <= (_LARGEST if SERIES[known].join == SUM else 1.0):
            identity = repr(sorted(labels.items()))
            rows.setdefault(known, {})[_engine(labels), identity] = value  # the last of the same series holds
    found: dict[tuple[str, str], list[float]] = {}
    read_names: set[str] = set()
    for known in sorted(rows, key=_RANK.__getitem__):
        name = SERIES[known].name
        if name not in read_names:
            read_names.add(name)
            for (engine, _), value in rows[known].items():
                found.setdefault((name, engine), []).append(value)
    return found


def _engine(labels: Labels) -> str:
    """Which engine a series is of: vLLM's own label, else what else tells it from others, as a router's `server`."""
    if "engine" in labels:
        return labels["engine"]
    return ",".join(value for name, value in sorted(labels.items()) if name != "model_name")


def _together(engines: list[dict[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, join in _JOINS.items():
        values = [engine[name] for engine in engines if name in engine]
        if not values:
            continue
        found[name] = sum(values) if join == SUM else math.fsum(values) / len(values)
        if join == SHARE and len(values) > 1:
            found[name + MAXIMUM] = max(values)
    return found


def cache_configs(text: str) -> dict[str, dict[str, Any]]:
    """By engine, the labels of `vllm:cache_config_info`: block_size, num_gpu_blocks and others, numbers as numbers."""
    return {
        labels.get("engine", ""): {key: _plain(value) for key, value in labels.items()}
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


def _plain(text: str) -> Any:
    if re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        return int(text)
    number = _finite(text)
    return {"True": True, "False": False, "None": None}.get(text, text) if number is None else number
