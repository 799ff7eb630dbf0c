"""vLLM's own CPU kernels, called as its CPU backend calls them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels_bench.cases import ATTENTION_PHASES, Case
from kernels_bench.providers import cpu_layouts, processor
from kernels_bench.providers.base import Device, Launch, Number, Path, Prepared, Sample, Unavailable
from kernels_bench.providers.clocks import clocked
from kernels_bench.providers.inputs import Inputs, Step, dtype_of
from kernels_bench.reasons import Reason, Why, reason

ATTENTION, WRITE, MLA = "cpu_attention_with_kv_cache", "cpu_attn_reshape_and_cache", "mla_decode_kvcache"
PHASES_OF = {ATTENTION: ATTENTION_PHASES, WRITE: ("kv_write",), MLA: ("mla_decode",)}
MLA_WIDTH = 576  # the one width of compressed cache that the decode kernel is built for
MLA_BLOCK = 16  # and its one block size


class VllmCpu:
    """The attention and cache operators of an installed vLLM for CPUs."""

    name = "vllm_cpu"
    torch_device = "cpu"

    def __init__(self, operators: Any, backend: Any) -> None:
        self._operators = operators  # vllm._custom_ops
        self._backend = backend  # vllm.v1.attention.backends.cpu_attn
        self._has_tiles = processor.ask_for_tiles()

    def device(self) -> Device:
        """The CPU, with the instruction set that attention uses in bfloat16."""
        properties = processor.device()
        isa = self._backend._get_attn_isa(torch.bfloat16, 128, 128)  # noqa: SLF001 - the backend's own choice
        return Device(
            properties.kind,
            properties.name,
            properties.memory_bytes,
            properties.cache_bytes,
            {**properties.facts, "isa": isa},
        )

    def paths(self) -> Sequence[Path]:
        """What the wheel was built with."""
        return [
            Path(name, phases, None if hasattr(torch.ops._C, name) else _without(name))  # noqa: SLF001 - torch's name for the default library
            for name, phases in PHASES_OF.items()
        ]

    def refuse(self, case: Case, path: str) -> Reason | None:
        """Head sizes and block sizes that the backend does not list."""
        if path == MLA:
            return _refuse_mla(case)
        if case.is_mla:
            return reason("bench.not_compressed", "the operator writes keys and values, not the compressed cache")
        backend = self._backend.CPUAttentionBackend
        sizes = backend.get_supported_head_sizes()
        if case.head_size not in sizes:
            return reason(
                "bench.head_sizes",
                "head size {size}: the backend has {sizes:list}",
                size=case.head_size,
                sizes=list(map(int, sizes)),
            )
        bases = [getattr(size, "base", size) for size in backend.get_supported_kernel_block_sizes()]
        if all(case.block_size % base for base in bases):
            return reason(
                "bench.block_multiples",
                "block size {size}: the backend takes multiples of {bases:list}",
                size=case.block_size,
                bases=list(map(int, bases)),
            )
        return self._refuse_isa(self._isa(case), path)

    def prepare(self, case: Case, path: str, inputs: Inputs) -> Prepared:
        """Caches in the kernel's own layout, filled by its own write, and the metadata of each step."""
        if path == MLA:
            return self._prepare_mla(case, inputs)
        keys, values = self._own_caches(case)
        if path == WRITE:
            launches = [functools.partial(self._write, case, step, keys, values) for step in inputs.steps]
            return Prepared(tuple(launches), functools.partial(_written, self._isa(case), inputs, keys, values))
        self._fill(case, inputs, keys, values)
        return Prepared(
            tuple(self._attention(case, step, keys, values) for step in inputs.steps),
            lambda index: inputs.steps[index].out,
        )

    def synchronize(self) -> None:
        """Nothing: the operators return when they are done."""

    def time(self, batch: Sequence[Launch]) -> Sample:
        """By the clock."""
        return clocked(batch, self.synchronize)

    def graph(self, launches: Sequence[Launch]) -> Sequence[Launch] | Why:  # noqa: ARG002 - none on a CPU
        """A CPU has none."""
        return reason("bench.cpu_no_graphs", "a CPU has no graphs")

    def telemetry(self) -> Mapping[str, Number]:
        """The clock, where the system tells it."""
        return processor.telemetry()

    def _isa(self, case: Case) -> str:
        return str(self._backend._get_attn_isa(dtype_of(case), case.block_size, case.head_size))  # noqa: SLF001 - the backend's own choice

    def _refuse_isa(self, isa: str, path: str) -> Reason | None:
        if isa == "amx" and not self._has_tiles:
            return reason(
                "bench.no_amx",
                "amx: the system does not let this process use AMX tiles, without which the kernel would end it",
            )
        if path == WRITE and not cpu_layouts.is_known(isa):
            return reason(
                "bench.layout_unknown",
                "how {isa} lays out its cache is not known here, so that what was written cannot be checked",
                isa=isa,
            )
        return None

    def _own_caches(self, case: Case) -> tuple[Tensor, Tensor]:
        """As the backend cuts them: keys and values side by side within a block, [blocks, kv_heads, 2 × size, head]."""
        shape = (case.cache_blocks, case.kv_heads, 2 * case.block_size, case.head_size)
        keys, values = torch.full(shape, torch.nan, dtype=dtype_of(case)).chunk(2, dim=2)
        return keys, values

    def _fill(self, case: Case, inputs: Inputs, keys: Tensor, values: Tensor) -> None:
        """Bring the whole cache into the kernel's layout, what lies behind the ends of sequences included."""
        slots = torch.arange(case.cache_blocks * case.block_size)
        rows = [cache.flatten(0, 1) for cache in (inputs.key_cache, inputs.value_cache)]
        self._operators.cpu_attn_reshape_and_cache(*rows, keys, values, slots, self._isa(case))

    def _write(self, case: Case, step: Step, keys: Tensor, values: Tensor) -> None:
        self._operators.cpu_attn_reshape_and_cache(step.key, step.value, keys, values, step.slots, self._isa(case))

    def _attention(self, case: Case, step: Step, keys: Tensor, values: Tensor) -> Launch:
        plan = self._operators.cpu_attn_get_scheduler_metadata(
            num_reqs=case.batch,
            num_heads=case.heads,
            num_kv_heads=case.kv_heads,
            head_dim=case.head_size,
            seq_lens=step.seq_lens,
            dtype=dtype_of(case),
            query_start_loc=step.query_start,
            causal=True,
            sliding_window_size=-1,
            isa=self._isa(case),
            enable_kv_split=True,
        )
        return functools.partial(
            self._operators.cpu_attention_with_kv_cache,
            query=step.query,
            key_cache=keys,
            value_cache=values,
            output=step.out,
            query_start_loc=step.query_start,
            seq_lens=step.seq_lens,
            scale=case.scale,
            causal=True,
            alibi_slopes=None,
            sliding_window=-1,
            block_table=step.block_table,
            softcap=0,
            scheduler_metadata=plan,
            s_aux=None,
        )

    def _prepare_mla(self, case: Case, inputs: Inputs) -> Prepared:
        """The operator takes both parts of the cache, and of the query, in one tensor each."""
        cache = torch.cat([inputs.key_cache, inputs.value_cache], dim=-1).squeeze(2)
        decode = self._operators.mla_decode_kvcache_cpu
        launches = []
        for step in inputs.steps:
            assert step.query_rope is not None
            query = torch.cat([step.query, step.query_rope], dim=-1)
            launches.append(
                functools.partial(decode, step.out, query, cache, case.scale, step.block_table, step.seq_lens)
            )
        return Prepared(tuple(launches), lambda index: inputs.steps[index].out)


def open_provider(options: Mapping[str, object]) -> VllmCpu:  # noqa: ARG001 - there is one CPU
    """With the vLLM of this interpreter.

    Raises:
        Unavailable: it has none, or not one for CPUs.
    """
    try:
        from vllm import _custom_ops  # noqa: PLC0415 - takes seconds, and only this provider needs it
        from vllm.platforms import current_platform  # noqa: PLC0415 - likewise
        from vllm.v1.attention.backends import cpu_attn  # noqa: PLC0415 - likewise
    except (ImportError, AttributeError, RuntimeError) as fault:
        raise Unavailable(f"vLLM's CPU backend cannot be imported: {str(fault).splitlines()[0]}") from None
    if not current_platform.is_cpu():
        raise Unavailable("the installed vLLM is not built for CPUs")
    current_platform.import_kernels()
    if not hasattr(torch.ops._C, ATTENTION):  # noqa: SLF001 - torch's name for the default library
        raise Unavailable(f"the installed vLLM has no operator {ATTENTION}")
    return VllmCpu(_custom_ops, cpu_attn)


def _without(name: str) -> Reason:
    return reason("bench.vllm_without", "this vLLM has no {name}", name=name)


def _refuse_mla(case: Case) -> Reason | None:
    if case.kv_lora_rank + case.rope_size != MLA_WIDTH:
        return reason(
            "bench.compressed_width",
            "a compressed cache {width} wide: the kernel is built for {only}",
            width=case.kv_lora_rank + case.rope_size,
            only=MLA_WIDTH,
        )
    return (
        None
        if case.block_size == MLA_BLOCK
        else reason(
            "bench.block_only", "block size {size}: the kernel has {only} only", size=case.block_size, only=MLA_BLOCK
        )
    )


def _written(isa: str, inputs: Inputs, keys: Tensor, values: Tensor, index: int) -> Tensor:
    """What stands at a step's slots."""
    return cpu_layouts.rows_at(isa, keys, values, inputs.steps[index].slots)
