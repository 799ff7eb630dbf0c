"""The documented limits of an NPU's operators, one rule a function. Without torch.

A limit that is broken on the device may end the whole process, not the call alone, so that every rule is held before
anything is launched. Of two limits for blocks the stricter one is taken. Heads of 128 and 192 are documented for layout
TND; the plug-in serves 64 and 256 with it, so that any aligned width is let through, and a refusal by the operator
costs its case.
"""

from collections.abc import Callable, Mapping

from kernels_bench.cases import ATTENTION_PHASES, ELEMENT_BYTES, Case
from kernels_bench.reasons import Reason, reason

Rule = Callable[[Case], Reason | None]

HALVES = ("float16", "bfloat16")
MOST_SEQUENCES = 4096  # of the TND layout
MOST_HEADS = 256
MOST_GROUP = 64  # query heads of one KV head
WIDEST_HEAD = 512  # exclusive: 512 is kept for the compressed cache of MLA
MOST_KV_DECODING = 262_144
MOST_KV = 20_000_000
MOST_BLOCK = 512
MOST_MLA_BLOCK = 1024
WIDEST_TOKEN = 65_535  # KV heads × head size of a cache with one row a token
CUBE = 16  # side of the matrix unit's tile: blocks of half-precision values are whole tiles
ALIGNED_BYTES = 16
PREFILL_BLOCK = 128
MLA_HEADS = (1, 2, 4, 8, 16, 32, 64, 128)
MLA_WIDTHS = (512, 64)  # compressed part, rope part
ATB_WIDEST_HEAD = 576
ATB_WIDE_HEAD = 256  # of wider heads a block holds at most 128 tokens
ATB_WIDE_BLOCK = 128
ATB_MLA_BLOCK = 128
ATB_MLA_SEQUENCES = 8192


def half(case: Case) -> Reason | None:
    """Operands of attention are float16 or bfloat16."""
    return (
        None
        if case.dtype in HALVES
        else reason(
            "bench.dtype_taken", "{dtype}: the operator takes {known:and}", dtype=case.dtype, known=list(HALVES)
        )
    )


def grouped(case: Case) -> Reason | None:
    """KV heads divide the heads; at most 64 heads share one, and there are at most 256."""
    if case.heads > MOST_HEADS:
        return reason("bench.heads_most", "{heads} heads: at most {most}", heads=case.heads, most=MOST_HEADS)
    if case.heads % case.kv_heads:
        return reason(
            "bench.heads_undivided",
            "{kv_heads} KV heads do not divide {heads} heads",
            kv_heads=case.kv_heads,
            heads=case.heads,
        )
    group = case.heads // case.kv_heads
    return (
        reason("bench.group_most", "{group} heads share a KV head: at most {most}", group=group, most=MOST_GROUP)
        if group > MOST_GROUP
        else None
    )


def head_aligned(case: Case) -> Reason | None:
    """A head's row is a multiple of 16 bytes."""
    row_bytes = case.head_size * ELEMENT_BYTES[case.dtype]
    return (
        reason(
            "bench.head_unaligned",
            "head size {size}: {row_bytes} bytes, no multiple of 16",
            size=case.head_size,
            row_bytes=row_bytes,
        )
        if row_bytes % ALIGNED_BYTES
        else None
    )


def fused_head(case: Case) -> Reason | None:
    """Heads are narrower than 512: for those the plug-in takes other operators."""
    return (
        reason("bench.head_below", "head size {size}: below {most} in TND", size=case.head_size, most=WIDEST_HEAD)
        if case.head_size >= WIDEST_HEAD
        else None
    )


def few_sequences(case: Case) -> Reason | None:
    """At most 4096 sequences in one call of layout TND."""
    return (
        reason(
            "bench.sequences_most_tnd",
            "{sequences} sequences: at most {most} in TND",
            sequences=case.batch,
            most=MOST_SEQUENCES,
        )
        if case.batch > MOST_SEQUENCES
        else None
    )


def kv_length(case: Case) -> Reason | None:
    """At most 262,144 KV positions where all queries are of one token, 20 million elsewhere."""
    most = MOST_KV_DECODING if max(case.query_lens) == 1 else MOST_KV
    longest = max(case.kv_lens)
    return (
        reason("bench.kv_most", "{longest} KV positions: at most {most}", longest=longest, most=most)
        if longest > most
        else None
    )


def fused_block(case: Case) -> Reason | None:
    """Blocks are multiples of 16 tokens where all queries are of one token, of 128 elsewhere; at most 512."""
    step = CUBE if max(case.query_lens) == 1 else PREFILL_BLOCK
    if case.block_size % step or case.block_size > MOST_BLOCK:
        return reason(
            "bench.block_in_phase",
            "block size {size}: a multiple of {step}, at most {most}, in {phase}",
            size=case.block_size,
            step=step,
            most=MOST_BLOCK,
            phase=case.phase,
        )
    return None


def row_of_token(case: Case) -> Reason | None:
    """Keys of one token in the cache are at most 65,535 wide: the block's rows are tokens."""
    width = case.kv_heads * case.head_size
    return (
        reason(
            "bench.token_width_most",
            "{width} values a token in the cache: at most {most}",
            width=width,
            most=WIDEST_TOKEN,
        )
        if width > WIDEST_TOKEN
        else None
    )


def whole_tiles(case: Case) -> Reason | None:
    """Blocks are multiples of 16 tokens."""
    return (
        reason("bench.block_no_multiple", "block size {size}: no multiple of {step}", size=case.block_size, step=CUBE)
        if case.block_size % CUBE
        else None
    )


def atb_head(case: Case) -> Reason | None:
    """Heads are at most 576 wide; beyond 256 a block holds at most 128 tokens."""
    if case.head_size > ATB_WIDEST_HEAD:
        return reason("bench.head_most", "head size {size}: at most {most}", size=case.head_size, most=ATB_WIDEST_HEAD)
    if case.head_size > ATB_WIDE_HEAD and case.block_size > ATB_WIDE_BLOCK:
        return reason(
            "bench.block_most_wide",
            "block size {size}: at most {most} for heads wider than {width}",
            size=case.block_size,
            most=ATB_WIDE_BLOCK,
            width=ATB_WIDE_HEAD,
        )
    return None


def mla_shape(case: Case) -> Reason | None:
    """The compressed part is 512 wide, the rope part 64, and there is one KV head."""
    if (case.kv_lora_rank, case.rope_size) != MLA_WIDTHS:
        return reason(
            "bench.mla_parts",
            "cached parts of {rank} and {rope}: {only_rank} and {only_rope} only",
            rank=case.kv_lora_rank,
            rope=case.rope_size,
            only_rank=MLA_WIDTHS[0],
            only_rope=MLA_WIDTHS[1],
        )
    return (
        None
        if case.kv_heads == 1
        else reason("bench.mla_kv_heads", "{kv_heads} KV heads: MLA has 1", kv_heads=case.kv_heads)
    )


def mla_heads(case: Case) -> Reason | None:
    """Query heads are a power of two up to 128: the plug-in pads others."""
    return (
        None
        if case.heads in MLA_HEADS
        else reason("bench.mla_heads", "{heads} heads: 1, 2, 4 .. 128 only", heads=case.heads)
    )


def mla_block(case: Case) -> Reason | None:
    """Blocks are multiples of 16 tokens, at most 1024."""
    if case.block_size % CUBE or case.block_size > MOST_MLA_BLOCK:
        return reason(
            "bench.block_multiple_most",
            "block size {size}: a multiple of {step}, at most {most}",
            size=case.block_size,
            step=CUBE,
            most=MOST_MLA_BLOCK,
        )
    return None


def atb_mla_block(case: Case) -> Reason | None:
    """Blocks are at most 128 tokens."""
    return (
        None
        if case.block_size <= ATB_MLA_BLOCK
        else reason("bench.block_most", "block size {size}: at most {most}", size=case.block_size, most=ATB_MLA_BLOCK)
    )


def atb_mla_sequences(case: Case) -> Reason | None:
    """At most 8192 sequences."""
    return (
        reason(
            "bench.sequences_most",
            "{sequences} sequences: at most {most}",
            sequences=case.batch,
            most=ATB_MLA_SEQUENCES,
        )
        if case.batch > ATB_MLA_SEQUENCES
        else None
    )


def plain_cache(case: Case) -> Reason | None:
    """The MLA cache is written by an operator that also normalises and rotates: not a plain write."""
    return (
        reason("bench.mla_write", "the cache of MLA is written together with its norm and rope, not by this operator")
        if case.is_mla
        else None
    )


DENSE = (half, grouped, head_aligned, fused_head, few_sequences, kv_length)
PAGED = (*DENSE, fused_block, row_of_token)
ATB_DECODE = (half, grouped, head_aligned, atb_head, whole_tiles)

LIMITS: Mapping[str, tuple[tuple[str, ...], tuple[Rule, ...]]] = {
    "fia": (ATTENTION_PHASES, PAGED),
    "fia_dense": (("prefill",), DENSE),
    "fia_v2": (ATTENTION_PHASES, PAGED),
    "pa": (("decode",), ATB_DECODE),
    "pa_workspace": (("decode",), ATB_DECODE),
    "mla_fia_v2": (("mla_decode",), (half, mla_shape, mla_heads, mla_block, few_sequences, kv_length)),
    "mla_atb": (("mla_decode",), (half, mla_shape, mla_heads, whole_tiles, atb_mla_block, atb_mla_sequences)),
    "scatter_pa": (("kv_write",), (plain_cache, head_aligned)),
    "reshape_and_cache": (("kv_write",), (plain_cache, half, head_aligned)),
}
"""Of each path: the phases that it computes, and its rules."""


def broken_limit(case: Case, path: str) -> Reason | None:
    """The first limit of a path that a case breaks, in one line; None where it breaks none."""
    phases, rules = LIMITS[path]
    if case.phase not in phases:
        return reason("bench.phase_not_computed", "{path} does not compute {phase}", path=path, phase=case.phase)
    return next((broken for rule in rules if (broken := rule(case))), None)
