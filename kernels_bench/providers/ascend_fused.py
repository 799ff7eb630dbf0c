"""Calls of the fused attention of an Ascend NPU: paged or dense, first and second version.

Calls go through the `.out` overloads with outputs and workspaces made beforehand, as in the plug-in's graph mode,
so that a launch allocates nothing and poison in the output shows what was not written. The operator, its shapes and
its numbers are the same in eager mode.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels_bench.cases import Case
from kernels_bench.providers import ascend_arguments as arguments
from kernels_bench.providers.base import Launch, Prepared
from kernels_bench.providers.inputs import Inputs, Step

MASK_SIDE = 2048  # the one size that the operator takes with a causal sparse mode


def causal_mask(device: str) -> Tensor:
    """Ones above the diagonal, int8 [2048, 2048]: what a query token may not see."""
    # Made on the host: the device's own triu would be one more operator to trust.
    return torch.triu(torch.ones(MASK_SIDE, MASK_SIDE), diagonal=1).to(torch.int8).to(device)


def rows_of_tokens(cache: Tensor) -> Tensor:
    """A cache [blocks, block size, KV heads, head size] seen as [blocks, block size, KV heads × head size]."""
    return cache.view(cache.shape[0], cache.shape[1], -1)


def prepare(npu: Any, case: Case, inputs: Inputs, mask: Tensor) -> Prepared:
    """Calls of the first version on the paged cache."""
    operator = npu.npu_fused_infer_attention_score.out
    query_workspace = npu._npu_fused_infer_attention_score_get_max_workspace  # noqa: SLF001 - its public name
    given = {**arguments.fused(case), **_paged(inputs), "atten_mask": mask}
    calls = [{**given, "query": step.query, "block_table": step.block_table} for step in inputs.steps]
    return _prepared(operator, query_workspace, calls, inputs)


def prepare_dense(npu: Any, case: Case, inputs: Inputs, mask: Tensor) -> Prepared:
    """Calls of the first version on the query's own keys and values, as where no sequence has a cached context."""
    operator = npu.npu_fused_infer_attention_score.out
    query_workspace = npu._npu_fused_infer_attention_score_get_max_workspace  # noqa: SLF001 - its public name
    given = {**arguments.fused_dense(case), "atten_mask": mask, "block_table": None}
    calls = [{**given, "query": step.query, "key": step.key, "value": step.value} for step in inputs.steps]
    return _prepared(operator, query_workspace, calls, inputs)


def prepare_v2(npu: Any, case: Case, inputs: Inputs, mask: Tensor) -> Prepared:
    """Calls of the second version on the paged cache."""
    operator = npu.npu_fused_infer_attention_score_v2.out
    query_workspace = npu._npu_fused_infer_attention_score_v2_get_max_workspace  # noqa: SLF001 - its public name
    given = {**arguments.fused_v2(case), **_paged(inputs), "atten_mask": mask}
    calls = [{**given, "query": step.query, "block_table": step.block_table} for step in inputs.steps]
    return _prepared(operator, query_workspace, calls, inputs)


def prepare_mla(npu: Any, case: Case, inputs: Inputs) -> Prepared:
    """Calls of the second version for MLA decode; the output is [heads, sequences, 1, width]."""
    operator = npu.npu_fused_infer_attention_score_v2.out
    query_workspace = npu._npu_fused_infer_attention_score_v2_get_max_workspace  # noqa: SLF001 - its public name
    given = {**arguments.mla_fused(case), **_compressed(case, inputs), "atten_mask": None, "actual_seq_qlen": None}
    calls = [{**given, **_query_of_mla(step), "block_table": step.block_table} for step in inputs.steps]
    workspace = query_workspace(**calls[0])
    outs = [_poisoned(case, step) for step in inputs.steps]
    launches = [
        partial(operator, **call, workspace=workspace, out=[out, _no_lse(out)])
        for call, out in zip(calls, outs, strict=True)
    ]
    return Prepared(tuple(launches), lambda index: outs[index].squeeze(2).transpose(0, 1))


def _prepared(operator: Any, query_workspace: Any, calls: list[dict[str, Any]], inputs: Inputs) -> Prepared:
    # One workspace for all steps, which have the same shapes and lengths: launches on one stream do not overlap.
    workspace = query_workspace(**calls[0])
    launches: list[Launch] = [
        partial(operator, **call, workspace=workspace, out=[step.out, _no_lse(step.out)])
        for call, step in zip(calls, inputs.steps, strict=True)
    ]
    return Prepared(tuple(launches), lambda index: inputs.steps[index].out)


def _no_lse(out: Tensor) -> Tensor:
    """The second output, which is asked for with one element where nobody wants it."""
    return torch.empty(1, dtype=out.dtype, device=out.device)


def _paged(inputs: Inputs) -> dict[str, Tensor]:
    return {"key": rows_of_tokens(inputs.key_cache), "value": rows_of_tokens(inputs.value_cache)}


def _compressed(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Both cached parts as [blocks, 1, block size, width]; the compressed one is key and value."""
    latent = inputs.key_cache.view(-1, 1, case.block_size, case.kv_lora_rank)
    rope = inputs.value_cache.view(-1, 1, case.block_size, case.rope_size)
    return {"key": latent, "value": latent, "key_rope": rope}


def _query_of_mla(step: Step) -> dict[str, Tensor]:
    if step.query_rope is None:
        raise ValueError("MLA decode needs the rope part of its query")
    return {"query": step.query.unsqueeze(2), "query_rope": step.query_rope.unsqueeze(2)}


def _poisoned(case: Case, step: Step) -> Tensor:
    shape = (case.heads, case.tokens, 1, case.kv_lora_rank)
    return torch.full(shape, torch.nan, dtype=step.query.dtype).to(step.query.device)
