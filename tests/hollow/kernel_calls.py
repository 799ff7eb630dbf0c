"""The line that each path of the kernel bench leaves in the call log, for the cases of tests/hollow/kernels.py.

Operators, shapes, types, placement, lists and numbers are those that the plug-in gives.
"""

import re

# Sequences of 5, 200 and 300 tokens hold 1 + 2 + 3 blocks of 128, the other phases' 4, 3, 3 and 3; a cached token is
# 2 KV heads of 128 wide. Absent arguments of an operator are 0 in the log, `most` is what an open window looks like.
MASK, MOST = "i8[2048,2048]", "2147483647, 2147483647"


def zeros(count):
    """So many arguments that are not given, and a comma behind."""
    return "0, " * count


def fused(query, cache, ends, kv, table, kv_form="[{0}], [{0}]"):
    """The call of the first fused operator, as the log has it."""
    blocks = f"i32{table}, " if table else "0, "
    return (
        f"aclnnFusedInferAttentionScoreV3(bf16{query}, {kv_form.format('bf16' + cache)}, 0, {MASK}, {ends}, {kv}, "
        f'{zeros(7)}{blocks}{zeros(12)}8, {MOST}, "TND", 2, 3, 0, 128, {zeros(4)}bf16{query}, bf16[1])'
    )


def fused_v2(query, cache, ends, kv, table):
    """The call of the second."""
    return (
        f"aclnnFusedInferAttentionScoreV4(bf16{query}, [bf16{cache}], [bf16{cache}], 0, {MASK}, {ends}, {kv}, "
        f'{zeros(7)}i32{table}, {zeros(14)}8, {MOST}, "TND", 2, 3, 0, 128, {zeros(5)}bf16{query}, bf16[1])'
    )


ATTENTION = {
    "decode": ("[3,8,128]", "[6,128,256]", "[1,2,3]", "[5,200,300]", "[3,3]"),
    "prefill": ("[135,8,128]", "[3,128,256]", "[5,135]", "[5,130]", "[2,2]"),
    "chunked_prefill": ("[71,8,128]", "[4,128,256]", "[7,71]", "[300,128]", "[2,3]"),
    "mixed": ("[10,8,128]", "[3,128,256]", "[1,10]", "[129,20]", "[2,2]"),
}
CACHE, NEW, FILLED = "bf16[6,128,2,128]", "bf16[6,2,128]", "bf16[3,128,2,128]"
PAGED = (
    f"atb::PagedAttention(bf16[3,8,128], {CACHE}, {CACHE}, i32[3,3], cpu:i32[3]) -> (bf16[3,8,128])"
    " heads=8 kv_heads=2 scale=0.0883883"
)
LATENT, ROPE = "[bf16[4,1,128,512]]", "bf16[4,1,128,64]"
CALLED = {
    **{f"fia-{phase}": fused(*shapes) for phase, shapes in ATTENTION.items()},
    **{f"fia_v2-{phase}": fused_v2(*shapes) for phase, shapes in ATTENTION.items()},
    "fia_dense-prefill": fused("[135,8,128]", "[135,2,128]", "[5,135]", "[5,135]", ""),
    "pa-decode": PAGED,
    "pa_workspace-decode": PAGED,
    "mla_fia_v2-mla_decode": (
        f"aclnnFusedInferAttentionScoreV4(bf16[2,16,1,512], {LATENT}, {LATENT}, {zeros(3)}[100,260], {zeros(7)}"
        f"i32[2,3], {zeros(9)}bf16[2,16,1,64], {ROPE}, {zeros(3)}16, {MOST}, "
        f'"BNSD_NBSD", 1, 0, 0, 128, {zeros(5)}bf16[16,2,1,512], bf16[1])'
    ),
    "mla_atb-mla_decode": (
        "AtbMLA(bf16[2,16,512], bf16[2,16,64], bf16[4,128,1,512], bf16[4,128,1,64], i32[2,3], cpu:i32[2], "
        f"{zeros(4)}16, 1, 0, 0, 1, bf16[2,16,512], 0)"
    ),
    "scatter_pa-kv_write": (
        f'aclnnScatterPaKvCache({NEW}, {FILLED}, i32[6], {NEW}, {FILLED}, {zeros(3)}"Norm", "None", [1,1], [0,0])'
    ),
    "reshape_and_cache-kv_write": (
        f"atb::ReshapeAndCache({NEW}, {NEW}, {FILLED}, {FILLED}, i32[6]) -> ({FILLED}, {FILLED})"
    ),
}


def form(line):
    """A call without what differs from model to model: sizes, lengths and head counts.

    The last argument of fused attention is left out, too: an output that nobody wants has no elements in the
    plug-in's eager calls and one in those of its graphs and of the bench.
    """
    call = line.partition(" floats=")[0]
    call = re.sub(r"\[[\d,]+\]", "[]", call)
    call = re.sub(r"\d+, 2147483647", "heads, 2147483647", call)
    call = re.sub(r'"TND", \d+', '"TND", heads', call)
    return call.rpartition(", ")[0] if "FusedInferAttention" in call else call
