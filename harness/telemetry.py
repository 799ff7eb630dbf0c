"""What do a server's counters say, in numbers that can be laid beside the requests?

Pure: the text of /metrics (Prometheus exposition format) becomes values by name.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

# vLLM's names (v1/metrics/loggers.py): what is running, waiting, held and counted.
WATCHED = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)
CACHE_CONFIG = "vllm:cache_config_info"
_LINE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample line."""
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.fullmatch(line.strip())
        if match is not None:
            labels = dict(_LABEL.findall(match.group("labels") or ""))
            yield match.group("name"), labels, float(match.group("value"))


def watched(text: str) -> dict[str, float]:
    """The watched values, summed over engines where there are several."""
    found: dict[str, float] = {}
    for name, _, value in parse(text):
        if name in WATCHED:
            found[name] = found.get(name, 0.0) + value
    return found


def cache_config(text: str) -> Mapping[str, Any]:
    """The labels of `vllm:cache_config_info`: block_size, num_gpu_blocks and others, numbers as numbers."""
    for name, labels, _ in parse(text):
        if name == CACHE_CONFIG:
            return {key: _plain(value) for key, value in labels.items()}
    return {}


def _plain(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False, "None": None}.get(text, text)
