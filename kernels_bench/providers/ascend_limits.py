"""The documented limits of an NPU's operators, one rule a function. Without torch.

A limit that is broken on the device may end the whole process, not the call alone, so that every rule is held before
anything is launched. Of two limits for blocks the stricter one is taken. Heads of 128 and 192 are documented for layout
TND; the plug-in serves 64 and 256 with it, so that any aligned width is let through, and a refusal by the operator
costs its case.
"""

from collections.abc import Callable, Mapping

from kernels_bench.cases import ATTENTION_PHASES, ELEMENT_BYTES, Case

Rule = Callable[[Case], str | None]

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


def half(case: Case) -> str | None:
    """Operands of attention are float16 or bfloat16."""
    return None if case.dtype in HALVES else f"{case.dtype}: the operator takes {' and '.join(HALVES)}"


def grouped(case: Case) -> str | None:
    """KV heads divide the heads; at most 64 heads share one, and there are at most 256."""
    if case.heads > MOST_HEADS:
        return f"{case.heads} heads: at most {MOST_HEADS}"
    if case.heads % case.kv_heads:
        return f"{case.kv_heads} KV heads do not divide {case.heads} heads"
    group = case.heads // case.kv_heads
    return f"{group} heads share a KV head: at most {MOST_GROUP}" if group > MOST_GROUP else None


def head_aligned(case: Case) -> str | None:
    """A head's row is a multiple of 16 bytes."""
    row_bytes = case.head_size * ELEMENT_BYTES[case.dtype]
    return f"head size {case.head_size}: {row_bytes} bytes, no multiple of 16" if row_bytes % ALIGNED_BYTES else None


def fused_head(case: Case) -> str | None:
    """Heads are narrower than 512: for those the plug-in takes other operators."""
    return f"head size {case.head_size}: below {WIDEST_HEAD} in TND" if case.head_size >= WIDEST_HEAD else None


def few_sequences(case: Case) -> str | None:
    """At most 4096 sequences in one call of layout TND."""
    return f"{case.batch} sequences: at most {MOST_SEQUENCES} in TND" if case.batch > MOST_SEQUENCES else None


def kv_length(case: Case) -> str | None:
    """At most 262,144 KV positions where all queries are of one token, 20 million elsewhere."""
    most = MOST_KV_DECODING if max(case.query_lens) == 1 else MOST_KV
    longest = max(case.kv_lens)
    return f"{longest} KV positions: at most {most}" if longest > most else None


def fused_block(case: Case) -> str | None:
    """Blocks are multiples of 16 tokens where all queries are of one token, of 128 elsewhere; at most 512."""
    step = CUBE if max(case.query_lens) == 1 else PREFILL_BLOCK
    if case.block_size % step or case.block_size > MOST_BLOCK:
        return f"block size {case.block_size}: a multiple of {step}, at most {MOST_BLOCK}, in {case.phase}"
    return None


def row_of_token(case: Case) -> str | None:
    """Keys of one token in the cache are at most 65,535 wide: the block's rows are tokens."""
    width = case.kv_heads * case.head_size
    return f"{width} values a token in the cache: at most {WIDEST_TOKEN}" if width > WIDEST_TOKEN else None


def whole_tiles(case: Case) -> str | None:
    """Blocks are multiples of 16 tokens."""
    return f"block size {case.block_size}: no multiple of {CUBE}" if case.block_size % CUBE else None


def atb_head(case: Case) -> str | None:
    """Heads are at most 576 wide; beyond 256 a block holds at most 128 tokens."""
    if case.head_size > ATB_WIDEST_HEAD:
        return f"head size {case.head_size}: at most {ATB_WIDEST_HEAD}"
    if case.head_size > ATB_WIDE_HEAD and case.block_size > ATB_WIDE_BLOCK:
        return f"block size {case.block_size}: at most {ATB_WIDE_BLOCK} for heads wider than {ATB_WIDE_HEAD}"
    return None


def mla_shape(case: Case) -> str | None:
    """The compressed part is 512 wide, the rope part 64, and there is one KV head."""
    if (case.kv_lora_rank, case.rope_size) != MLA_WIDTHS:
        return f"cached parts of {case.kv_lora_rank} and {case.rope_size}: {MLA_WIDTHS[0]} and {MLA_WIDTHS[1]} only"
    return None if case.kv_heads == 1 else f"{case.kv_heads} KV heads: MLA has 1"


def mla_heads(case: Case) -> str | None:
    """Query heads are a power of two up to 128: the plug-in pads others."""
    return None if case.heads in MLA_HEADS else f"{case.heads} heads: 1, 2, 4 .. 128 only"


def mla_block(case: Case) -> str | None:
    """Blocks are multiples of 16 tokens, at most 1024."""
    if case.block_size % CUBE or case.block_size > MOST_MLA_BLOCK:
        return f"block size {case.block_size}: a multiple of {CUBE}, at most {MOST_MLA_BLOCK}"
    return None


def atb_mla_block(case: Case) -> str | None:
    """Blocks are at most 128 tokens."""
    return None if case.block_size <= ATB_MLA_BLOCK else f"block size {case.block_size}: at most {ATB_MLA_BLOCK}"


def atb_mla_sequences(case: Case) -> str | None:
    """At most 8192 sequences."""
    return f"{case.batch} sequences: at most {ATB_MLA_SEQUENCES}" if case.batch > ATB_MLA_SEQUENCES else None


def plain_cache(case: Case) -> str | None:
    """The MLA cache is written by an operator that also normalises and rotates: not a plain write."""
    return "the cache of MLA is written together with its norm and rope, not by this operator" if case.is_mla else None


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


def broken_limit(case: Case, path: str) -> str | None:
    """The first limit of a path that a case breaks, in one line; None where it breaks none."""
    phases, rules = LIMITS[path]
    if case.phase not in phases:
        return f"{path} does not compute {case.phase}"
    return next((reason for rule in rules if (reason := rule(case))), None)
