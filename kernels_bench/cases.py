"""What is measured: one case is one call of an attention or cache operator, with its work counted by formula."""

from dataclasses import dataclass
from typing import NamedTuple

ATTENTION_PHASES = ("decode", "prefill", "chunked_prefill", "mixed")
PHASES = (*ATTENTION_PHASES, "mla_decode", "kv_write")
ORDERS = ("contiguous", "scattered")
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK_TABLE_BYTES = 4  # block tables are int32 in every provider
Label = str | int | float


class Work(NamedTuple):
    """What one call must at least compute and move."""

    flops: int
    """Floating-point operations: a multiplication with its addition counts two; the softmax is left out."""
    read_bytes: int
    """Bytes that have to be read once."""
    write_bytes: int
    """Bytes that have to be written once."""

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    @property
    def intensity(self) -> float:
        """FLOPs a byte: where the case lies on the roofline's axis."""
        return self.flops / self.moved_bytes if self.moved_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One call on a paged cache of `num_blocks` blocks.

    `query_lens` and `kv_lens` have one number a sequence. A sequence's KV length counts the query's own tokens, so
    that query token i of q sees the KV positions 0 .. kv - q + i (causal, aligned at the right).

    Phases: `decode` (every query length 1), `prefill` (query length equal to KV length), `chunked_prefill` (query of
    several tokens behind a cached context), `mixed` (decodes and prefills in one call), `mla_decode` (one token each
    against the compressed cache of multi-head latent attention, absorbed form), `kv_write` (new tokens put into the
    cache, no attention).

    For MLA `kv_heads` is 1, `kv_lora_rank` and `rope_size` are the widths of the two cached parts, and `head_size` is
    the width of a query head before absorption, which sets the softmax scale. Elsewhere both are 0.
    """

    phase: str
    query_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    heads: int
    kv_heads: int
    head_size: int
    dtype: str = "bfloat16"
    block_size: int = 128
    order: str = "scattered"
    num_blocks: int = 0
    """Blocks of the cache, of which the sequences use some; 0: exactly as many as one set of sequences needs."""
    kv_lora_rank: int = 0
    rope_size: int = 0
    labels: tuple[tuple[str, Label], ...] = ()
    """The axis values that made this case, in the order of the axes: the columns of the tables."""

    @property
    def batch(self) -> int:
        """Sequences."""
        return len(self.query_lens)

    @property
    def tokens(self) -> int:
        """Query tokens of all sequences: the first dimension of query and output."""
        return sum(self.query_lens)

    @property
    def scale(self) -> float:
        """The softmax scale, 1 / sqrt(head size)."""
        return float(self.head_size**-0.5)

    @property
    def max_blocks(self) -> int:
        """Blocks of the longest sequence: the second dimension of the block table."""
        return max(blocks_of(length, self.block_size) for length in self.kv_lens)

    @property
    def used_blocks(self) -> int:
        """Blocks that one set of these sequences holds."""
        return sum(blocks_of(length, self.block_size) for length in self.kv_lens)

    @property
    def cache_blocks(self) -> int:
        """Blocks of the whole cache."""
        return max(self.num_blocks, self.used_blocks)

    @property
    def token_cache_bytes(self) -> int:
        """Bytes that one token takes in the cache: 2 × KV heads × head size × element, or the MLA widths × element."""
        width = self.kv_lora_rank + self.rope_size if self.is_mla else 2 * self.kv_heads * self.head_size
        return width * ELEMENT_BYTES[self.dtype]

    @property
    def cache_bytes(self) -> int:
        """Bytes of the whole cache."""
        return self.cache_blocks * self.block_size * self.token_cache_bytes

    @property
    def is_mla(self) -> bool:
        """Whether the cache holds the compressed form of multi-head latent attention."""
        return self.kv_lora_rank > 0

    @property
    def work(self) -> Work:
        """What the call must at least compute and move: see `attention_work`, `mla_work`, `write_work`."""
        if self.phase == "kv_write":
            return write_work(self)
        return mla_work(self) if self.is_mla else attention_work(self)


def blocks_of(length: int, block_size: int) -> int:
    """Blocks that a sequence of a length takes: ceil(length / block size)."""
    return -(-length // block_size)


def visible_pairs(query_lens: tuple[int, ...], kv_lens: tuple[int, ...]) -> int:
    """Pairs of a query token and a KV position that it may see, under the causal mask aligned at the right.

    A sequence of q query tokens and k KV positions has q × (k - q) + q × (q + 1) / 2 of them.
    """
    return sum(q * (k - q) + q * (q + 1) // 2 for q, k in zip(query_lens, kv_lens, strict=True))


def attention_work(case: Case) -> Work:
    """Attention with grouped heads, counted as an ideal kernel would do it.

    FLOPs = 4 × heads × head size × visible pairs (query·key and weights·value, two operations each).
    Read = cached keys and values of every sequence once + the query + the block table; written = the output.
    A kernel that computes the masked half of a prefill, too, does more than this, and is rated by this all the same.
    """
    element = ELEMENT_BYTES[case.dtype]
    query_bytes = case.tokens * case.heads * case.head_size * element
    table_bytes = case.used_blocks * BLOCK_TABLE_BYTES
    return Work(
        flops=4 * case.heads * case.head_size * visible_pairs(case.query_lens, case.kv_lens),
        read_bytes=sum(case.kv_lens) * case.token_cache_bytes + query_bytes + table_bytes,
        write_bytes=query_bytes,
    )


def mla_work(case: Case) -> Work:
    """Decode of multi-head latent attention in its absorbed form: all heads share one compressed KV head.

    FLOPs = 2 × heads × (2 × kv_lora_rank + rope size) × visible pairs: scores over both cached parts, values over the
    first. Read = both parts of every sequence once + the query + the block table; written = heads × kv_lora_rank.
    """
    element = ELEMENT_BYTES[case.dtype]
    table_bytes = case.used_blocks * BLOCK_TABLE_BYTES
    query_width = case.kv_lora_rank + case.rope_size
    return Work(
        flops=2 * case.heads * (query_width + case.kv_lora_rank) * visible_pairs(case.query_lens, case.kv_lens),
        read_bytes=sum(case.kv_lens) * case.token_cache_bytes
        + case.tokens * case.heads * query_width * element
        + table_bytes,
        write_bytes=case.tokens * case.heads * case.kv_lora_rank * element,
    )


def write_work(case: Case) -> Work:
    """New tokens put into the cache: no FLOPs; each token's key and value are read once and written once."""
    token_bytes = case.tokens * case.token_cache_bytes
    return Work(flops=0, read_bytes=token_bytes + case.tokens * 8, write_bytes=token_bytes)
