"""What did the flags of an engine really become?

Told by the engine where it tells: `vllm:cache_config_info` of its /metrics, then its log. Where it
does not, by stated rules. Names are those of the flags, in snake case.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.engines.bootlog import BootFacts

# Labels of vllm:cache_config_info that say something of the engine, by the flag's name.
_CACHE_NAMES = {
    "block_size": "block_size",
    "cache_dtype": "kv_cache_dtype",
    "enable_prefix_caching": "enable_prefix_caching",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "kv_cache_size_tokens": "kv_cache_size_tokens",
    "num_gpu_blocks": "num_gpu_blocks",
    "num_gpu_blocks_override": "num_gpu_blocks_override",
    "prefix_caching_hash_algo": "prefix_caching_hash_algo",
    "sliding_window": "sliding_window",
    "swap_space": "swap_space",
    "cpu_offload_gb": "cpu_offload_gb",
}
_CONFIG_NAMES = {"max_seq_len": "max_model_len", "chunked_prefill_enabled": "enable_chunked_prefill"}
ASCEND_BLOCK = 128  # tokens; the one block size of its attention kernels on A2 and A3


@dataclass(frozen=True, slots=True)
class Rule:
    """A flag that an engine is known to rewrite: the value it becomes from the flags asked, None where it stands."""

    flag: str
    becomes: Callable[[Mapping[str, Any]], Any]


def _ascend_block(asked: Mapping[str, Any]) -> int | None:
    """vllm-ascend's refresh_block_size: 128 unless prefix caching and chunked prefill are both off."""
    kept = asked.get("enable_prefix_caching") is False and asked.get("enable_chunked_prefill") is False
    return None if kept and asked.get("block_size") else ASCEND_BLOCK


RULES: Mapping[str, tuple[Rule, ...]] = {"vllm-ascend": (Rule("block_size", _ascend_block),)}


def effective(
    kind: str, asked: Mapping[str, Any], cache: Mapping[str, Any], facts: BootFacts, additional_keys: frozenset[str]
) -> dict[str, Any]:
    """Flags by name with the values in force, for an engine of a kind that was asked for `asked`.

    `cache` are the labels of vllm:cache_config_info, `additional_keys` the keys of
    additional_config that the plug-in reads (empty where that is not known): others have no effect.
    """
    by_rules = {rule.flag: rule.becomes(asked) for rule in RULES.get(kind, ())}
    told = by_rules | dict(_from_log(facts)) | dict(_from_cache(cache)) | _additional(asked, additional_keys)
    return {name: value for name, value in told.items() if value is not None}


def _from_cache(cache: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for label, name in _CACHE_NAMES.items():
        if cache.get(label) is not None:
            yield name, cache[label]


def _from_log(facts: BootFacts) -> Iterator[tuple[str, Any]]:
    for name, value in (facts.config or {}).items():
        yield _CONFIG_NAMES.get(name, name), value
    said = {
        "block_size": facts.block_size_forced,
        "max_model_len": facts.max_model_len,
        "max_num_batched_tokens": facts.max_num_batched_tokens,
        "kv_cache_size_tokens": facts.kv_cache_tokens,
        "num_gpu_blocks": facts.blocks,
        "version": facts.version,
        "plugin": facts.plugin,
    }
    yield from ((name, value) for name, value in said.items() if value is not None)


def _additional(asked: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """additional_config without the keys that nobody reads."""
    given = asked.get("additional_config")
    if not isinstance(given, Mapping) or not known:
        return {}
    return {"additional_config": {key: value for key, value in given.items() if key in known}}
