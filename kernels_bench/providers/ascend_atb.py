"""Calls of the operators of the older library ATB: paged attention, MLA decode, and the cache writes."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels_bench.cases import Case
from kernels_bench.providers import ascend_arguments as arguments
from kernels_bench.providers.base import Prepared
from kernels_bench.providers.inputs import Inputs, Step


def prepare_paged(npu: Any, case: Case, inputs: Inputs, *, own_workspace: bool) -> Prepared:
    """Calls of `_npu_paged_attention`, each asking for a workspace, or all with one that was made beforehand."""
    calls = [_paged_call(case, inputs, step) for step in inputs.steps]
    if own_workspace:
        workspace = npu._npu_paged_attention_get_workspace(**calls[0])  # noqa: SLF001 - its public name
        calls = [{**call, "workspace": workspace} for call in calls]
    operator = npu._npu_paged_attention  # noqa: SLF001 - its public name
    launches = tuple(partial(operator, **call) for call in calls)
    return Prepared(launches, lambda index: inputs.steps[index].out)


def prepare_mla(npu: Any, case: Case, inputs: Inputs) -> Prepared:
    """Calls of `atb.npu_multi_head_latent_attention`."""
    cache = {"ctkv": inputs.key_cache, "k_rope": inputs.value_cache}
    launches = tuple(
        partial(
            npu.atb.npu_multi_head_latent_attention,
            q_nope=step.query,
            q_rope=step.query_rope,
            block_tables=step.block_table,
            output=step.out,
            **cache,
            **arguments.mla_atb(case),
        )
        for step in inputs.steps
    )
    return Prepared(launches, lambda index: inputs.steps[index].out)


def prepare_scatter(npu: Any, case: Case, inputs: Inputs) -> Prepared:
    """Calls of `npu_scatter_pa_kv_cache`; its own default is another cache layout than the plug-in's."""
    operator = partial(npu.npu_scatter_pa_kv_cache, cache_mode="Norm")
    launches = tuple(partial(operator, slot_mapping=slots, **_written(inputs, step)) for step, slots in _slots(inputs))
    return Prepared(launches, partial(_rows_written, case, inputs))


def prepare_reshape(npu: Any, case: Case, inputs: Inputs) -> Prepared:
    """Calls of `_npu_reshape_and_cache`."""
    operator = npu._npu_reshape_and_cache  # noqa: SLF001 - its public name
    launches = tuple(partial(operator, slot_indices=slots, **_written(inputs, step)) for step, slots in _slots(inputs))
    return Prepared(launches, partial(_rows_written, case, inputs))


def _paged_call(case: Case, inputs: Inputs, step: Step) -> dict[str, Any]:
    return {
        "query": step.query,
        "key_cache": inputs.key_cache,
        "value_cache": inputs.value_cache,
        "block_table": step.block_table,
        "context_lens": torch.tensor(case.kv_lens, dtype=torch.int32),  # on the host: the operator plans with it
        "out": step.out,
        **arguments.paged(case),
    }


def _written(inputs: Inputs, step: Step) -> dict[str, Tensor]:
    caches = {"key_cache": inputs.key_cache, "value_cache": inputs.value_cache}
    return {"key": step.key, "value": step.value, **caches}


def _slots(inputs: Inputs) -> list[tuple[Step, Tensor]]:
    """The steps with their slots in int32, the type of the plug-in's slot mapping."""
    return [(step, step.slots.cpu().to(torch.int32).to(step.slots.device)) for step in inputs.steps]


def _rows_written(case: Case, inputs: Inputs, index: int) -> Tensor:
    slots = inputs.steps[index].slots
    caches = (inputs.key_cache, inputs.value_cache)
    return torch.stack([cache.view(-1, case.kv_heads, case.head_size)[slots] for cache in caches])
