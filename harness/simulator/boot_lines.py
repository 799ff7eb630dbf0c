"""The log lines of the simulated engine's start, in vLLM's and vllm-ascend's formats."""

from collections.abc import Iterator

from harness.simulator.chips import GIB
from harness.simulator.engine_config import Settings
from harness.simulator.memory import Memory


def startup_lines(settings: Settings, memory: Memory) -> Iterator[str]:
    """The log of a start, line by line, without time stamps.

    The wording is that of vLLM 0.32 with vllm-ascend; "simulator" stands in the first line.
    """
    device = settings.device
    yield "npu-harness simulator: no device is used; what follows imitates the log of vLLM"
    yield f"Platform plugin {'ascend' if device.is_ascend else 'cpu'} is activated"
    yield f"Using max model len {memory.max_model_len}"
    yield from settings.notes
    yield f"Starting to load model {settings.model}..."
    yield f"Loading model weights took {memory.weights / GIB:.4f} GB"
    yield f"Available KV cache memory: {memory.cache / GIB:.2f} GiB"
    yield (
        f"{device.device} KV cache size: {memory.cache_tokens:,} tokens, Maximum concurrency for"
        f" {memory.max_model_len:,} tokens per request: {memory.concurrency:.2f}x"
    )
    if settings.num_gpu_blocks_override is not None:
        computed = memory.cache // memory.block_bytes
        yield f"Overriding num_gpu_blocks={computed} with num_gpu_blocks_override={memory.num_blocks}"
    if settings.cudagraph_capture_sizes:
        yield f"Graph capturing finished in {settings.start_seconds:.0f} secs, took {memory.graphs / GIB:.2f} GiB"
    if device.is_ascend:
        yield _summary(settings, memory)
    yield f"init engine (profile, create kv cache, warmup model) took {settings.start_seconds:.2f} s"


def _summary(settings: Settings, memory: Memory) -> str:
    """The memory summary that vllm-ascend writes after warming up."""

    def gib(size: int) -> str:
        return str(round(size / GIB, 2))

    fitting, largest = memory.suggested_cache, memory.largest_cache
    return (
        f"Free memory on device ({gib(memory.free)}/{gib(memory.total)} GiB) on startup. Desired GPU memory"
        f" utilization is ({settings.gpu_memory_utilization}, {gib(memory.requested)} GiB). Actual usage:"
        f" {gib(memory.weights)} GiB for weights, {gib(memory.activation)} GiB for peak activation,"
        f" {gib(memory.outside)} GiB for non-torch memory, {gib(memory.graphs)} GiB for NPU graph memory. Replace"
        f" gpu_memory_utilization with `--kv-cache-memory={fitting}` ({gib(fitting)} GiB)"
        f" to fit into requested memory, or `--kv-cache-memory={largest}` ({gib(largest)} GiB)"
        f" to fully utilize NPU free memory. Current KV cache memory: {gib(memory.cache)} GiB."
    )
