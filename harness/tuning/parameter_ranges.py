"""Which values of the four parameters that matter everywhere suit this model and this device?"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import HarnessError
from harness.scenario.distributions import Count, at_most
from harness.scenario.models import Engine, Scenario
from harness.scenario.workload import Synthetic
from harness.simulator.engine_config import ASCEND_BLOCK_SIZE, settings_from_flags
from harness.simulator.memory import Memory, memory_of
from harness.tuning.types import Parameter, Value

MOST_REQUESTS = 512
FEWEST_REQUESTS = 8
MOST_BATCHED = 32768
FEWEST_BATCHED = 1024
SHARES = (0.70, 0.97)
"""Of gpu_memory_utilization, where the device is not known."""
_SHARE_STEP = 0.01
_MORE_THAN_FIT = 4  # times the requests that the cache holds: beyond, all that changes is waiting inside


def default_parameters(
    engine: Engine, kind: str, scenario: Scenario, fixed: Mapping[str, Value], users: int | None = None
) -> Iterator[Parameter]:
    """block_size, max_num_seqs, gpu_memory_utilization and max_num_batched_tokens for an engine.

    `users` is how many requests a closed load has under way at once; None where its arrivals set no bound.
    """
    args = {**engine.args, **fixed}
    memory = _memory(engine, args) if kind == "simulator" else None
    yield Parameter("block_size", "choice", values=block_sizes(kind, args))
    most = min(_most_requests(scenario, memory), float(max(users or MOST_REQUESTS, 2 * FEWEST_REQUESTS)))
    yield Parameter("max_num_seqs", "int", FEWEST_REQUESTS, most, 1.0, log=True)
    low, high = _shares(args, memory)
    yield Parameter("gpu_memory_utilization", "float", low, high, _SHARE_STEP)
    yield Parameter("max_num_batched_tokens", "int", *_batched(args, memory), 1.0, log=True)


def block_sizes(kind: str, args: Mapping[str, Any]) -> tuple[Value, ...]:
    """Block sizes that kernels are known to take: on Ascend multiples of 128, elsewhere from 16 on."""
    on_ascend = kind == "vllm-ascend" or (kind == "simulator" and not str(args.get("chip", "")).startswith("cpu"))
    return (ASCEND_BLOCK_SIZE, 2 * ASCEND_BLOCK_SIZE, 4 * ASCEND_BLOCK_SIZE) if on_ascend else (16, 32, 64, 128)


def _memory(engine: Engine, args: Mapping[str, Any]) -> Memory | None:
    """The memory of the base configuration on the simulated device; None where it would not start."""
    try:
        return memory_of(settings_from_flags(_flags(engine, args)))
    except HarnessError:
        return None


def _flags(engine: Engine, args: Mapping[str, Any]) -> dict[str, Any]:
    return {**args, **({} if engine.model is None else {"model": engine.model})}


def _most_requests(scenario: Scenario, memory: Memory | None) -> float:
    """As many as the cache holds a few times over, at typical lengths; a power of two up to 512."""
    work = scenario.workload
    if memory is None or not isinstance(work, Synthetic):
        return float(MOST_REQUESTS)
    length = max(1, (_middle(work.input_tokens) + _middle(work.output_tokens)))
    fitting = _MORE_THAN_FIT * memory.cache_tokens / length
    power = 2.0 ** math.ceil(math.log2(max(fitting, 2 * FEWEST_REQUESTS)))
    return min(power, float(MOST_REQUESTS))


def _middle(count: Count) -> int:
    return max(1, at_most(count) // 2)


def _shares(args: Mapping[str, Any], memory: Memory | None) -> tuple[float, float]:
    """From what weights and one long request need, up to what is free on an idle device."""
    if memory is None or "num_gpu_blocks_override" in args or "kv_cache_memory_bytes" in args:
        return SHARES
    longest = -(-memory.max_model_len // memory.block_size) * memory.block_bytes
    needed = memory.weights + memory.activation + memory.outside + longest + memory.block_bytes
    low = math.ceil(needed / memory.total * 100) / 100
    high = math.floor(memory.free / memory.total * 100) / 100
    return (min(max(low, 0.5), high - _SHARE_STEP), high) if low < high else SHARES


def _batched(args: Mapping[str, Any], memory: Memory | None) -> tuple[float, float]:
    """Up to four whole prompts a step; without chunked prefill a step must hold the longest prompt."""
    length = int(args.get("max_model_len") or 0) or (memory.max_model_len if memory else 8192)
    low = float(FEWEST_BATCHED) if args.get("enable_chunked_prefill") is not False else float(length)
    return low, float(max(min(MOST_BATCHED, 4 * length), 2 * low))
