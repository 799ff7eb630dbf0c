"""What the simulated engine writes in vLLM's formats: the log lines of its start, and its /metrics page (0.32)."""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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


_FIRST_S = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_BETWEEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_LONG_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_LATE_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.1, 1)
_TRANSFER_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)
_TRANSFER_BYTES = tuple(2 ** (10 + power) for power in range(1, 25, 2))
_STAGES = ("waiting_to_start", "in_progress", "completed_waiting")
_REASONS = ("stop", "length", "abort", "error", "repetition")
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(slots=True)
class Histogram:
    """Counts of observations up to each bound."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times


def _tokens_histogram() -> Histogram:
    return Histogram(tuple(m * 10**e for e in range(6) for m in (1, 2, 5)))


@dataclass(slots=True)
class Metrics:
    """Counters and histograms of one engine since its start. Times in seconds.

    Two are the simulator's own: `late_s`, how long after a step's due end it was taken up, and
    `written_s`, how long after that end its last token was written.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REASONS, 0))
    ttft_s: Histogram = field(default_factory=lambda: Histogram(_FIRST_S))
    itl_s: Histogram = field(default_factory=lambda: Histogram(_BETWEEN_S))
    tpot_s: Histogram = field(default_factory=lambda: Histogram(_BETWEEN_S))
    e2e_s: Histogram = field(default_factory=lambda: Histogram(_LONG_S))
    queue_s: Histogram = field(default_factory=lambda: Histogram(_LONG_S))
    prefill_s: Histogram = field(default_factory=lambda: Histogram(_LONG_S))
    decode_s: Histogram = field(default_factory=lambda: Histogram(_LONG_S))
    step_tokens: Histogram = field(default_factory=lambda: Histogram(_STEP_TOKENS))
    late_s: Histogram = field(default_factory=lambda: Histogram(_LATE_S))
    written_s: Histogram = field(default_factory=lambda: Histogram(_LATE_S))
    prompt_lengths: Histogram = field(default_factory=_tokens_histogram)
    generation_lengths: Histogram = field(default_factory=_tokens_histogram)
    transfer_s: Histogram = field(default_factory=lambda: Histogram(_TRANSFER_S))
    transfer_bytes: Histogram = field(default_factory=lambda: Histogram(_TRANSFER_BYTES))


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine is at this moment, beside its counters."""

    running: int
    waiting: int
    kv_usage: float
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    drafts: int = 0
    draft_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()  # empty without speculation
    fetching: tuple[int, int, int] | None = None  # KV caches: to be fetched, on their way, here; None: none ever are


def exposition(engines: Sequence[tuple[Metrics, EngineState]], *, model: str, cache: Mapping[str, Any]) -> str:
    """The text of /metrics of a server's engines; `cache` gives the labels of vllm:cache_config_info."""
    samples: dict[str, list[str]] = {}  # by the line that declares their name
    for number, (metrics, state) in enumerate(engines):
        for line in _lines(metrics, state, (number, model), cache):
            if line.startswith("#"):
                own = samples.setdefault(line, [])
            else:
                own.append(line)
    return "".join(f"{line}\n" for declared, lines in samples.items() for line in (declared, *lines))


def _lines(metrics: Metrics, state: EngineState, named: tuple[int, str], cache: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one engine, each name declared before its samples."""
    engine, model = named
    base = f'engine="{engine}",model_name="{_escaped(model)}"'
    yield from _gauges(state, base)
    yield from _counters(metrics, state, base)
    yield from _speculation(state, base)
    yield from _histograms(metrics, base, transfers=state.fetching is not None)
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in cache.items())
    yield "# TYPE vllm:cache_config_info gauge"
    yield f'vllm:cache_config_info{{{labels},engine="{engine}"}} 1.0'


def _gauges(state: EngineState, base: str) -> Iterator[str]:
    values = {
        "vllm:num_requests_running": state.running,
        "vllm:num_requests_waiting": state.waiting,
        "vllm:kv_cache_usage_perc": state.kv_usage,
    }
    for name, value in values.items():
        yield f"# TYPE {name} gauge"
        yield f"{name}{{{base}}} {float(value)}"
    if state.fetching is not None:
        yield "# TYPE vllm:num_requests_kv_fetch_by_stage gauge"
        for stage, count in zip(_STAGES, state.fetching, strict=True):
            yield f'vllm:num_requests_kv_fetch_by_stage{{{base},stage="{stage}"}} {float(count)}'


def _counters(metrics: Metrics, state: EngineState, base: str) -> Iterator[str]:
    values = {
        "vllm:prompt_tokens": metrics.prompt_tokens,
        "vllm:prompt_tokens_cached": metrics.cached_tokens,
        "vllm:generation_tokens": metrics.generation_tokens,
        "vllm:num_preemptions": state.preemptions,
        "vllm:prefix_cache_queries": state.prefix_queries,
        "vllm:prefix_cache_hits": state.prefix_hits,
    }
    for name, value in values.items():
        yield f"# TYPE {name}_total counter"
        yield f"{name}_total{{{base}}} {float(value)}"
    yield "# TYPE vllm:request_success_total counter"
    for reason, count in metrics.finished.items():
        yield f'vllm:request_success_total{{{base},finished_reason="{reason}"}} {float(count)}'


def _speculation(state: EngineState, base: str) -> Iterator[str]:
    """Counters that vLLM shows with speculation only."""
    if not state.accepted_by_position:
        return
    values = {
        "drafts": state.drafts,
        "draft_tokens": state.draft_tokens,
        "accepted_tokens": sum(state.accepted_by_position),
    }
    for name, value in values.items():
        yield f"# TYPE vllm:spec_decode_num_{name}_total counter"
        yield f"vllm:spec_decode_num_{name}_total{{{base}}} {float(value)}"
    by_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    yield f"# TYPE {by_position} counter"
    for position, count in enumerate(state.accepted_by_position):
        yield f'{by_position}{{{base},position="{position}"}} {float(count)}'


def _histograms(metrics: Metrics, base: str, *, transfers: bool) -> Iterator[str]:
    moved = {"vllm:nixl_xfer_time_seconds": metrics.transfer_s, "vllm:nixl_bytes_transferred": metrics.transfer_bytes}
    named = {
        "vllm:time_to_first_token_seconds": metrics.ttft_s,
        "vllm:inter_token_latency_seconds": metrics.itl_s,
        "vllm:request_time_per_output_token_seconds": metrics.tpot_s,
        "vllm:e2e_request_latency_seconds": metrics.e2e_s,
        "vllm:request_queue_time_seconds": metrics.queue_s,
        "vllm:request_prefill_time_seconds": metrics.prefill_s,
        "vllm:request_decode_time_seconds": metrics.decode_s,
        "vllm:iteration_tokens_total": metrics.step_tokens,
        "npu_harness:step_late_seconds": metrics.late_s,
        "npu_harness:step_written_seconds": metrics.written_s,
        "vllm:request_prompt_tokens": metrics.prompt_lengths,
        "vllm:request_generation_tokens": metrics.generation_lengths,
        **(moved if transfers else {}),
    }
    for name, histogram in named.items():
        yield f"# TYPE {name} histogram"
        seen = 0
        for bound, count in zip([*histogram.bounds, None], histogram.counts, strict=True):
            seen += count
            label = "+Inf" if bound is None else float(bound)
            yield f'{name}_bucket{{{base},le="{label}"}} {float(seen)}'
        yield f"{name}_count{{{base}}} {float(seen)}"
        yield f"{name}_sum{{{base}}} {histogram.total}"


def _escaped(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
