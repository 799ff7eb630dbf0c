"""What does it cost to go from one configuration to the next, and in which order is that least?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

SAME, CACHE, COMPILE, PARALLEL = "same", "cache", "compile", "parallel"
START_MINUTES: Mapping[str, float] = {SAME: 0.0, CACHE: 2.0, COMPILE: 4.0, PARALLEL: 6.0}
"""Assumed minutes of a start by class, in virtual time only: a real start is timed."""
_RANKS = (SAME, CACHE, COMPILE, PARALLEL)
# Not part of vLLM's compile hash: these change the cache and leave compiled graphs alone.
_CACHE_ONLY = {
    "gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "enable_prefix_caching",
    "num_gpu_blocks", "kv_cache_size_tokens", "watermark", "long_prefill_token_threshold", "seed", "async_scheduling",
    "scheduler_reserve_full_isl", "max_num_active_seqs", "prefix_caching_hash_algo", "stream_interval",
    "long_prefill_token_threshold_adaptive", "max_num_scheduled_tokens", "enable_prompt_tokens_details",
}  # fmt: skip
_LAYOUT = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "model", "quantization", "dtype")
Item = TypeVar("Item")


def restart_class(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> str:
    """How much of an engine has to be made anew: nothing, the cache, the compiled graphs, or its layout."""
    if before is None:
        return COMPILE
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if not changed:
        return SAME
    if changed & set(_LAYOUT):
        return PARALLEL
    return CACHE if changed <= _CACHE_ONLY else COMPILE


def rank(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> int:
    """The class as a number, dearer ones higher."""
    return _RANKS.index(restart_class(before, after))


def ordered(
    items: Sequence[Item], configuration: Callable[[Item], Mapping[str, Any]], before: Mapping[str, Any] | None
) -> list[Item]:
    """The items so that each start costs little after the one before: the cheapest next, the earlier among equals."""
    left, found = list(items), []
    while left:
        last = before
        place = min(range(len(left)), key=lambda i: (rank(last, configuration(left[i])), i))
        found.append(left.pop(place))
        before = configuration(found[-1])
    return found
