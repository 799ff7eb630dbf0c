"""The blocks that requests hold in the KV cache: given, found by their content, remembered and freed.

The rules of vLLM V1 (`v1/core/kv_cache_manager.py`).
"""

import zlib
from collections.abc import Sequence

from harness.simulator.engine_config import DEFAULT_VERSION
from harness.simulator.memory import BlockPool
from harness.simulator.scheduler_types import Counters, Request, SchedulerLimits


class RequestBlocks:
    """The blocks of all requests of one scheduler, out of its pool."""

    def __init__(self, limits: SchedulerLimits, counters: Counters) -> None:
        self.limits, self.counters = limits, counters
        self.pool = BlockPool(limits.num_blocks, caching=limits.prefix_caching)
        new_rules = limits.engine_version != DEFAULT_VERSION
        self._drops_last = limits.drop_last_hit and not new_rules
        self._reach = int(limits.drop_last_hit and new_rules)  # tokens after a block that its hash covers

    def cached_prefix(self, request: Request) -> list[int]:
        """Remembered blocks of its first tokens; the last token is always computed anew."""
        cached: list[int] = []
        if not self.limits.prefix_caching:
            return cached
        for index in range((request.num_tokens - 1) // self.limits.block_size):
            block = self.pool.find(self._hash(request, index))
            if block is None:
                break
            cached.append(block)
        if cached and self._drops_last:
            cached.pop()
        return cached

    def hold(self, request: Request, cached: list[int], computed: int, slots: int) -> None:
        """Give a request the cached blocks of its prefix and new ones for the rest of so many tokens."""
        size = self.limits.block_size
        self.pool.hold(cached)
        request.blocks, request.remembered = cached, len(cached)
        request.computed, request.hit = computed, len(cached) * size
        self.give(request, -(-slots // size) - len(cached))
        request.next_full = (request.remembered + 1) * size

    def count_hits(self, request: Request) -> None:
        """Count what was found of a request's tokens; a second admission does not count."""
        if request.preemptions == 0:
            request.first_hit = request.hit
            if self.limits.prefix_caching:
                self.counters.prefix_queries += request.num_tokens
                self.counters.prefix_hits += request.hit

    def give(self, request: Request, count: int) -> None:
        """Give a request so many more blocks."""
        if count > 0:
            request.blocks.extend(self.pool.take(count))
        request.capacity = len(request.blocks) * self.limits.block_size

    def free(self, request: Request) -> None:
        """Take all its blocks from a request."""
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = request.capacity = request.remembered = request.drafts = 0
        request.running = False

    def remember(self, request: Request) -> None:
        """Put the blocks that this step fills into the prefix cache, already when they are scheduled."""
        size = self.limits.block_size
        if not self.limits.prefix_caching:
            request.next_full = self.limits.max_model_len + 1
            return
        full = min(request.computed, request.num_tokens - self._reach) // size  # of draft tokens nothing is remembered
        for index in range(request.remembered, full):
            self.pool.remember(request.blocks[index], self._hash(request, index))
        request.remembered = full
        request.next_full = (full + 1) * size

    def _hash(self, request: Request, index: int) -> int:
        """Hash of block `index` chained over all before it; ints only, so equal in every process."""
        hashes, size = request.hashes, self.limits.block_size
        for missing in range(len(hashes), index + 1):
            parent = hashes[-1] if hashes else 1 + zlib.crc32(request.adapter.encode())
            end = (missing + 1) * size + self._reach
            hashes.append(hash((parent, tuple(_tokens(request, missing * size, end)))) or 1)
        return hashes[index]


def _tokens(request: Request, start: int, end: int) -> Sequence[int]:
    prompt = request.prompt
    if end <= len(prompt):
        return prompt[start:end]
    split = max(start, len(prompt))
    return [*prompt[start:], *request.draw(split, end)]
