"""The numbers, lists and names with which an operator of an Ascend NPU is called. Pure, without torch.

Tensors are added by the modules that make the calls. Each function gives keywords as the serving plug-in
vllm-ascend gives them, so that what is timed here is what an engine launches.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from kernels_bench.cases import Case

Keywords = Mapping[str, Any]

CAUSAL = 3  # sparse_mode: the mask's diagonal is aligned at the right
NO_MASK = 0
DENSE_BLOCK = 128  # given and ignored where there is no block table
MLA_LAYOUT = "BNSD_NBSD"  # query [batch, heads, 1, width], output [heads, batch, 1, width]


def query_ends(case: Case) -> list[int]:
    """Where each sequence's query ends among all tokens: cumulative, without the 0."""
    return list(accumulate(case.query_lens))


def fused(case: Case) -> Keywords:
    """Arguments of `npu_fused_infer_attention_score` on a paged cache, layout TND.

    Query lengths are cumulative, KV lengths are not: the operator reads them so.
    """
    return {
        "num_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "scale": case.scale,
        "input_layout": "TND",
        "block_size": case.block_size,
        "actual_seq_lengths": query_ends(case),
        "actual_seq_lengths_kv": list(case.kv_lens),
        "sparse_mode": CAUSAL,
    }


def fused_dense(case: Case) -> Keywords:
    """The same without a cache: keys and values are the query's own tokens, and both lists are cumulative."""
    return {**fused(case), "block_size": DENSE_BLOCK, "actual_seq_lengths_kv": query_ends(case)}


def fused_v2(case: Case) -> Keywords:
    """Arguments of `npu_fused_infer_attention_score_v2`: the same by other names."""
    return {
        "num_query_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "softmax_scale": case.scale,
        "input_layout": "TND",
        "block_size": case.block_size,
        "actual_seq_qlen": query_ends(case),
        "actual_seq_kvlen": list(case.kv_lens),
        "sparse_mode": CAUSAL,
    }


def paged(case: Case) -> Keywords:
    """Arguments of `_npu_paged_attention`; the KV lengths are a tensor on the host."""
    return {"num_kv_heads": case.kv_heads, "num_heads": case.heads, "scale_value": case.scale}


def mla_fused(case: Case) -> Keywords:
    """Arguments of the second fused operator for MLA: one token a sequence, no mask."""
    return {
        "num_query_heads": case.heads,
        "num_key_value_heads": 1,
        "softmax_scale": case.scale,
        "input_layout": MLA_LAYOUT,
        "block_size": case.block_size,
        "actual_seq_kvlen": list(case.kv_lens),
        "sparse_mode": NO_MASK,
    }


def mla_atb(case: Case) -> Keywords:
    """Arguments of `atb.npu_multi_head_latent_attention`."""
    return {
        "context_lens": list(case.kv_lens),
        "q_headnum": case.heads,
        "qk_scale": case.scale,
        "kv_headnum": 1,
        "mask_type": "undefined",
        "calc_type": "calc_type_undefined",
        "cache_mode": "krope_ctkv",
    }
