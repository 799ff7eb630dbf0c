"""The kernels of a scenario: microbenchmarks of attention, with axes, shapes, and how well to measure."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from harness.messages import message
from harness.plugins import KERNEL_PROVIDERS, installed, load_plugin
from harness.scenario.base import Duration, FileModel, NonEmptyText, OneOrMany, refused
from harness.scenario.workload import CountSpec

PROVIDERS = ("auto", "torch_npu", "vllm_cpu", "torch_reference")
PHASES = ("decode", "prefill", "chunked_prefill", "mixed", "mla_decode", "kv_write")

Phase = Literal["decode", "prefill", "chunked_prefill", "mixed", "mla_decode", "kv_write"]
Some = Annotated[int, Field(ge=1, le=1_048_576)]
Heads = Annotated[int, Field(ge=1, le=1024)]


def _provider(value: Any, check_built_in: ValidatorFunctionWrapHandler) -> Any:
    """A built-in provider, or one that a package brings."""
    return value if isinstance(value, str) and value in installed(KERNEL_PROVIDERS) else check_built_in(value)


class Kernels(FileModel):
    """Microbenchmarks of attention and cache kernels; every list is an axis, the cases are their product."""

    provider: Annotated[
        SerializeAsAny[Literal["auto", "torch_npu", "vllm_cpu", "torch_reference"]], WrapValidator(_provider)
    ] = "auto"
    """Whose kernels: auto takes torch_npu where there is an NPU, else vLLM's for CPUs, else plain torch."""
    provider_options: dict[str, Any] = Field(default_factory=dict)
    """Keys of a provider that a package brings."""
    paths: OneOrMany[NonEmptyText] = ()
    """Operators of the provider to run, such as fia or pa; all that compute a phase by default."""
    phase: OneOrMany[Phase] = "decode"
    """What the engine's step does: decode, prefill, chunked_prefill, mixed, mla_decode, or kv_write."""
    model: OneOrMany[NonEmptyText] = ()
    """Models whose attention shapes are taken, such as Qwen2.5-7B; or give heads, kv_heads and head_size."""
    tensor_parallel_size: OneOrMany[Some] = 1
    """Devices that a model's heads are divided over; one device's part is measured."""
    heads: Heads | None = None
    """Query heads, in place of a model."""
    kv_heads: Heads | None = None
    """KV heads, in place of a model."""
    head_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Width of a head, in place of a model."""
    batch: OneOrMany[Some] = (1, 8, 32)
    """Sequences in the step."""
    query_tokens: OneOrMany[Some] = 512
    """New tokens of a sequence that prefills behind its context, or is written; not for decode and prefill."""
    kv_tokens: OneOrMany[CountSpec] = (512, 2048, 8192)
    """Tokens of a sequence in the cache, new ones included: numbers, or distributions for ragged batches."""
    dtype: OneOrMany[Literal["float32", "bfloat16", "float16"]] = "bfloat16"
    """The type of queries, keys and values."""
    block_size: OneOrMany[Annotated[int, Field(ge=1, le=4096)]] = 128
    """Tokens of a block of the cache."""
    order: OneOrMany[Literal["contiguous", "scattered"]] = "scattered"
    """Where a sequence's blocks lie: one after another, or at random over the whole cache."""
    cache_gib: Annotated[float, Field(gt=0, le=4096)] | None = None
    """Size of the cache in GiB; as large as a cold measurement needs by default."""
    steps_of: NonEmptyText | None = None
    """A result folder: the batches that its engine ran become cases, beside those of the axes."""
    steps: Annotated[int, Field(ge=1, le=64)] = 8
    """How many of that folder's steps."""
    modes: OneOrMany[Literal["cold", "hot", "graph"]] = ("cold", "hot")
    """Data out of memory, data out of the cache, and replays of captured graphs with cold data."""
    graph_updates: bool = False
    """Whether a graph's replay includes setting its lengths anew, as an engine does on an NPU."""
    noise: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Half width of the median's 95 % interval that is good enough, relative to the median."""
    min_samples: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Samples to take at least."""
    max_samples: Annotated[int, Field(ge=1, le=100_000)] = 300
    """Samples to take at most."""
    time: Duration = 2.0
    """How long to sample one case in one mode at most, such as 2s."""
    timeout: Duration = 300.0
    """How long one case may take with all that belongs to it, before it is given up."""

    @field_validator("provider_options")
    @classmethod
    def _of_its_provider(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        provider = info.data.get("provider", "auto")
        if provider in PROVIDERS and options:
            raise refused(message("plugins.options_of_built_in", kind=provider))
        if provider not in PROVIDERS:
            load_plugin(KERNEL_PROVIDERS, provider).options.model_validate(options, context=info.context)
        return options

    @model_validator(mode="after")
    def _one_shape(self) -> "Kernels":
        given = [value is not None for value in (self.heads, self.kv_heads, self.head_size)]
        if any(given) and not all(given):
            raise refused(message("scenario.heads_incomplete"))
        if any(given) and self.model:
            raise refused(message("scenario.model_and_heads"))
        if self.min_samples > self.max_samples:
            raise refused(message("scenario.samples_reversed", least=self.min_samples, most=self.max_samples))
        return self
