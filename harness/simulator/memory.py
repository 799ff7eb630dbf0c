"""The memory of one device: how many blocks the KV cache gets, whether the engine starts at all, and the blocks' pool.

Following vllm-ascend: what is asked for is a share of the whole device; weights, the peak of a
profiling step and what lies outside the allocator are taken from it, and the rest is cache.
Captured graphs come afterwards, out of what the share leaves free: they may yet run out of memory.

Blocks of the cache are free, held or kept for prefix hits, by vLLM's rules. They are ints, 0 being the null block that
is never given out. Free blocks stand in a doubly linked queue: taken from its head; a freed block that is remembered
(its content may serve a later prefix) goes to the tail, any other to the head.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import EngineError
from harness.simulator.chips import GIB
from harness.simulator.engine_config import ASCEND_BLOCK_SIZE, Settings
from harness.simulator.step_cost import adapter_bytes, expert_ranks, kv_element_bytes, weight_bytes

MIB = 1 << 20
# Fitted to published starts of vllm-ascend on single 910B cards, see tests/simulator/test_memory.py.
ACTIVATION_FLOOR = 64 * MIB
OUTSIDE_ALLOCATOR = 184 * MIB
GRAPH_LAYER = 276 << 10  # a layer in one captured graph
PER_COMMUNICATOR = 400 * MIB
RESERVE = 150 * MIB  # what vllm-ascend leaves in the cache size that it suggests
CPU_BLOCK_SIZE = 32


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device, and the cache that follows. `num_blocks` counts the null block."""

    total: int
    free: int
    requested: int
    weights: int
    activation: int
    outside: int
    graphs: int
    cache: int
    block_bytes: int
    block_size: int
    num_blocks: int
    max_model_len: int

    @property
    def concurrency(self) -> float:
        """Requests of max_model_len that fit at the same time."""
        return self.num_blocks / -(-self.max_model_len // self.block_size)

    @property
    def cache_tokens(self) -> int:
        """Tokens of the cache as vLLM states them: that concurrency times max_model_len."""
        return int(self.concurrency * self.max_model_len)

    @property
    def suggested_cache(self) -> int:
        """The --kv-cache-memory that would fit into the requested memory, graphs included."""
        return self.requested - self.weights - self.activation - self.outside - self.graphs - RESERVE

    @property
    def largest_cache(self) -> int:
        """The same for all that is free on the device."""
        return self.suggested_cache + self.free - self.requested


def memory_of(settings: Settings) -> Memory:
    """The memory of an engine with these settings.

    Raises:
        EngineError: it would not start; in the engine's own words.
    """
    _check_model(settings)
    _check_batch(settings)
    chip = settings.device
    requested = int(chip.memory_bytes * settings.gpu_memory_utilization)
    _check_free(settings, requested)
    weights, activation, outside = _weights(settings), _activation(settings), _outside(settings)
    cache = settings.kv_cache_memory_bytes or requested - weights - activation - outside
    _check_cache(settings, cache, requested)
    _check_block_size(settings)
    block_bytes = settings.block_size * token_bytes(settings)
    override = settings.num_gpu_blocks_override
    blocks = override or cache // block_bytes
    length = settings.max_model_len or _fitting_length(settings, blocks)
    _check_length(settings, length, (override * block_bytes if override else cache) - block_bytes, block_bytes)
    memory = Memory(
        total=chip.memory_bytes, free=chip.memory_bytes - chip.idle_bytes, requested=requested,
        weights=weights, activation=activation, outside=outside, graphs=_graphs(settings), cache=cache,
        block_bytes=block_bytes, block_size=settings.block_size, num_blocks=blocks, max_model_len=length,
    )  # fmt: skip
    _check_capture(settings, memory)
    return memory


def token_bytes(settings: Settings) -> int:
    """Bytes of one token in the cache of one device, a drafting layer's among them."""
    size = settings.shape.kv_bytes(settings.tensor_parallel_size, kv_element_bytes(settings))
    speculation, layers = settings.speculation, settings.shape.layers
    return size + size // layers if speculation is not None and speculation.has_layer else size


def _check_model(settings: Settings) -> None:
    shape, tp = settings.shape, settings.tensor_parallel_size
    if shape.heads % tp:
        raise EngineError(
            f"Total number of attention heads ({shape.heads}) must be divisible by tensor parallel size ({tp})."
        )
    if settings.max_model_len > shape.max_position:
        raise EngineError(
            f"User-specified max_model_len ({settings.max_model_len}) is greater than the derived max_model_len"
            f" (max_position_embeddings={shape.max_position} or model_max_length=None in model's config.json)."
        )


def _check_batch(settings: Settings) -> None:
    tokens, requests, length = settings.max_num_batched_tokens, settings.max_num_seqs, settings.max_model_len
    if tokens < length and not settings.enable_chunked_prefill:
        raise EngineError(
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}). This effectively limits"
            " the maximum sequence length to max_num_batched_tokens and makes vLLM reject longer sequences."
            " Please increase max_num_batched_tokens or decrease max_model_len."
        )
    if tokens < requests:
        raise EngineError(
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({requests})."
        )
    active = settings.max_num_active_seqs
    if active is not None and active > requests:
        raise EngineError(f"max_num_active_seqs ({active}) cannot be greater than max_num_seqs ({requests}).")


def _check_free(settings: Settings, requested: int) -> None:
    total = settings.device.memory_bytes
    free = total - settings.device.idle_bytes
    if requested > free and settings.kv_cache_memory_bytes is None:
        raise EngineError(
            f"Free memory on device ({_gib(free)}/{_gib(total)} GiB) on startup is less than desired GPU memory"
            f" utilization ({settings.gpu_memory_utilization}, {_gib(requested)} GiB). Decrease GPU memory"
            " utilization or reduce GPU memory used by other processes."
        )


def _check_cache(settings: Settings, cache: int, requested: int) -> None:
    if cache > 0:
        return
    raise EngineError(
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the"
        f" engine. ({_gib(requested)} GiB requested; {_gib(_weights(settings))} GiB for weights,"
        f" {_gib(_activation(settings))} GiB for peak activation, {_gib(_outside(settings))} GiB for non-torch memory)"
    )


def _check_block_size(settings: Settings) -> None:
    """Sizes that pass the flags and die in the worker: not a multiple of what the kernels take."""
    kernels = ASCEND_BLOCK_SIZE if settings.device.is_ascend else CPU_BLOCK_SIZE
    if settings.block_size % kernels:
        raise EngineError(
            f"No common block size for {settings.block_size}. (prepare_kernel_block_sizes; the attention kernels"
            f" take multiples of {kernels})"
        )


def _check_length(settings: Settings, length: int, available: int, block_bytes: int) -> None:
    """The null block is never given out: `available` bytes are those of the other blocks."""
    needed = -(-length // settings.block_size) * block_bytes
    if needed <= available:
        return
    fits = max(0, available // block_bytes) * settings.block_size
    hint = f"Based on the available memory, the estimated maximum model length is {fits}. " if fits > 0 else ""
    raise EngineError(
        f"To serve at least one request with the model's max seq len ({length}), ({_gib(needed)} GiB KV cache is"
        f" needed, which is larger than the available KV cache memory ({_gib(available)} GiB). {hint}"
        "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
    )


def _check_capture(settings: Settings, memory: Memory) -> None:
    used = memory.weights + memory.activation + memory.outside + memory.cache
    left = memory.free - used
    if memory.graphs <= left or settings.num_gpu_blocks_override is not None:
        return
    raise EngineError(
        f"RuntimeError: NPU out of memory. Tried to allocate {memory.graphs // MIB}.00 MiB (NPU 0;"
        f" {_gib(memory.total)} GiB total capacity; {_gib(used)} GiB already allocated; {max(0, left) // MIB}.00 MiB"
        f" free) while capturing {len(settings.cudagraph_capture_sizes)} graphs;"
        " decrease gpu_memory_utilization or the number of cudagraph_capture_sizes"
    )


def _fitting_length(settings: Settings, blocks: int) -> int:
    length = min(settings.shape.max_position, (blocks - 1) * settings.block_size)
    if length < 1:
        raise EngineError(
            "Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token."
        )
    return length


def _gib(size: int) -> float:
    return round(size / GIB, 2)


def _weights(settings: Settings) -> int:
    """The model's, and the slots of LoRA adapters, which are there from the start, whatever is loaded into them."""
    slots = settings.max_loras * adapter_bytes(settings) if settings.enable_lora else 0
    shape = settings.shape
    vocabulary = shape.embedding_parameters * (1 if shape.tied else 2)
    linear = (shape.parameters - vocabulary) * weight_bytes(settings)
    ranks, tp = expert_ranks(settings), settings.tensor_parallel_size
    if ranks > 1:  # experts are spread over all ranks, the rest stands in each
        routed = shape.expert_layers * shape.experts * shape.expert_parameters * weight_bytes(settings)
        linear += routed * (tp / ranks - 1)
    speculation = settings.speculation
    if speculation is not None and speculation.has_layer:
        linear += linear / shape.layers
    return int((linear + vocabulary * 2) / settings.tensor_parallel_size) + slots


def _activation(settings: Settings) -> int:
    """Peak of a profiling step of max_num_batched_tokens: inner activations and two residuals."""
    shape = settings.shape
    width = max(shape.inner, shape.expert_width * max(1, shape.experts_per_token))
    a_token = 2 * (3 * width // settings.tensor_parallel_size + 2 * shape.hidden)
    return ACTIVATION_FLOOR + settings.max_num_batched_tokens * a_token


def _outside(settings: Settings) -> int:
    return OUTSIDE_ALLOCATOR + (PER_COMMUNICATOR if settings.tensor_parallel_size > 1 else 0)


def _graphs(settings: Settings) -> int:
    sets = 2 if settings.enable_lora else 1  # with adapters and without
    return sets * len(settings.cudagraph_capture_sizes) * settings.shape.layers * GRAPH_LAYER


def cache_labels(settings: Settings, memory: Memory) -> dict[str, Any]:
    """The labels of vllm:cache_config_info."""
    return {
        "block_size": settings.block_size,
        "cache_dtype": settings.kv_cache_dtype,
        "enable_prefix_caching": settings.enable_prefix_caching,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "kv_cache_memory_bytes": settings.kv_cache_memory_bytes,
        "kv_cache_max_concurrency": memory.concurrency,
        "kv_cache_size_tokens": memory.cache_tokens,
        "num_gpu_blocks": memory.num_blocks,
        "num_gpu_blocks_override": settings.num_gpu_blocks_override,
    }


NO_HASH = 0


class BlockPool:
    """Blocks 1 … count-1 with reference counts, a free queue and a map from content hash to block."""

    __slots__ = ("_cached", "_hashes", "_next", "_previous", "_refs", "caching", "count", "free")

    def __init__(self, count: int, *, caching: bool) -> None:
        self.count = count
        self.caching = caching
        self.free = count - 1
        self._refs = [0] * count
        self._hashes = [NO_HASH] * count
        # One ring through all free blocks; index 0, the null block, is its head and its tail.
        self._next = [*range(1, count), 0]
        self._previous = [count - 1, *range(count - 1)]
        self._cached: dict[int, int | dict[int, None]] = {}

    @property
    def usage(self) -> float:
        """Share of the usable blocks that requests hold, 0 to 1."""
        usable = self.count - 1
        return 1.0 - self.free / usable if usable else 0.0

    def find(self, content: int) -> int | None:
        """A block with that content hash, the first remembered where there are several."""
        cached = self._cached.get(content)
        return next(iter(cached)) if isinstance(cached, dict) else cached

    def evictable(self, blocks: Iterable[int]) -> int:
        """How many of these remembered blocks nobody holds, so that holding them uses up free ones."""
        refs = self._refs
        return sum(refs[block] == 0 for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Count one more holder of each; a block that was free leaves the queue."""
        for block in blocks:
            if self._refs[block] == 0:
                self._unlink(block)
            self._refs[block] += 1

    def take(self, count: int) -> list[int]:
        """The first `count` blocks of the free queue, forgotten and held once."""
        following, refs = self._next, self._refs
        taken = []
        block = following[0]
        for _ in range(count):
            taken.append(block)
            refs[block] = 1
            if self._hashes[block]:
                self._forget(block)
            block = following[block]
        following[0] = block
        self._previous[block] = 0
        self.free -= count
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one holder of each, last block first, so that tails are reused before heads."""
        refs, hashes = self._refs, self._hashes
        first: list[int] = []
        last: list[int] = []
        for block in reversed(blocks):
            refs[block] -= 1
            if refs[block] == 0:
                (last if hashes[block] else first).append(block)
        self._insert(first, after=0)
        self._insert(last, after=self._previous[0])

    def remember(self, block: int, content: int) -> None:
        """Let later requests find this full block by its content hash."""
        self._hashes[block] = content
        cached = self._cached.get(content)
        if cached is None:
            self._cached[content] = block
        elif isinstance(cached, dict):
            cached[block] = None
        else:
            self._cached[content] = {cached: None, block: None}

    def _forget(self, block: int) -> None:
        content = self._hashes[block]
        self._hashes[block] = NO_HASH
        cached = self._cached[content]
        if isinstance(cached, dict):
            del cached[block]
            if cached:
                return
        del self._cached[content]

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before] = after
        self._previous[after] = before
        self.free -= 1

    def _insert(self, blocks: Sequence[int], *, after: int) -> None:
        following, previous = self._next, self._previous
        end = following[after]
        for block in blocks:
            following[after] = block
            previous[block] = after
            after = block
        following[after] = end
        previous[end] = after
        self.free += len(blocks)
