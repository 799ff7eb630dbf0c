"""Inputs of a kernel: fresh random tensors of a case on a paged cache, made from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kernels_bench.cases import Case, blocks_of

EDGE, BEHIND = 16.0, 64.0  # factors of values at the ends of a sequence, and behind its end


@dataclass(frozen=True, slots=True)
class Step:
    """One set of sequences on the shared cache: its blocks are its own, so that rotating over steps finds cold data.

    All tensors are contiguous and lie on the device.
    """

    query: Tensor
    """[tokens, heads, head_size]; for MLA [tokens, heads, kv_lora_rank]."""
    key: Tensor
    """[tokens, kv_heads, head_size]: keys of the query's own tokens, equal to what the cache holds at `slots` (for
    `kv_write`: what is to be written there). For MLA [tokens, 1, kv_lora_rank]."""
    value: Tensor
    """As key. For MLA [tokens, 1, rope_size]: the rope part."""
    block_table: Tensor
    """int32 [batch, max_blocks]; unused entries are 0."""
    slots: Tensor
    """int64 [tokens]: block × block size + offset of each query token, no number twice."""
    query_start: Tensor
    """int32 [batch + 1]: cumulative query lengths, from 0."""
    seq_lens: Tensor
    """int32 [batch]: KV lengths."""
    out: Tensor
    """As query, filled with NaN."""
    query_rope: Tensor | None = None
    """MLA only: [tokens, heads, rope_size]."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """A cache and the steps that share it.

    For `kv_write` the cache is filled with NaN, and the steps' keys and values are what shall stand in it.
    """

    key_cache: Tensor
    """[cache_blocks, block_size, kv_heads, head_size]; for MLA the compressed part, [.., 1, kv_lora_rank]."""
    value_cache: Tensor
    """As key_cache; for MLA the rope part, [.., 1, rope_size]."""
    steps: tuple[Step, ...]


def make(case: Case, seed: int, steps: int = 1) -> Inputs:
    """Random inputs of a case on the host: normal values, blocks in order or scattered over the whole cache.

    The same case, seed and number of steps give the same values everywhere.

    Raises:
        ValueError: where the steps need more blocks than the cache has.
    """
    if steps * case.used_blocks > case.cache_blocks:
        raise ValueError(f"{steps} steps of {case.used_blocks} blocks do not fit a cache of {case.cache_blocks}")
    generator = torch.Generator().manual_seed(seed)
    caches = _caches(case, generator)
    order = _block_order(case, generator)
    tensors = []
    for index in range(steps):
        blocks = order[index * case.used_blocks : (index + 1) * case.used_blocks]
        tensors.append(_step(case, blocks, caches, generator))
    return Inputs(*caches, tuple(tensors))


def moved(inputs: Inputs, device: str) -> Inputs:
    """The same inputs on a device; the very same tensors where they are there already.

    They are made on the host and copied, so that no kernel of the device under test has a part in them.
    """
    steps = tuple(Step(*(_to(getattr(step, part.name), device) for part in fields(Step))) for step in inputs.steps)
    return Inputs(inputs.key_cache.to(device), inputs.value_cache.to(device), steps)


def _to(tensor: Tensor | None, device: str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _caches(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    widths = (case.kv_lora_rank, case.rope_size) if case.is_mla else (case.head_size, case.head_size)
    heads = 1 if case.is_mla else case.kv_heads
    shapes = [(case.cache_blocks, case.block_size, heads, width) for width in widths]
    if case.phase == "kv_write":
        empty = [torch.full(shape, torch.nan, dtype=dtype_of(case)) for shape in shapes]
        return empty[0], empty[1]
    return _random(shapes[0], case, generator), _random(shapes[1], case, generator)


def _random(shape: Sequence[int], case: Case, generator: torch.Generator) -> Tensor:
    # Some rows at a time in float32, so that a large cache does not need three times its memory.
    filled = torch.empty(tuple(shape), dtype=dtype_of(case))
    rows = max(1, (1 << 22) // max(1, filled[0].numel()))
    for start in range(0, shape[0], rows):
        part = filled[start : start + rows]
        part.copy_(torch.randn(part.shape, generator=generator))
    return filled


def _block_order(case: Case, generator: torch.Generator) -> Tensor:
    if case.order == "contiguous":
        return torch.arange(case.cache_blocks)
    return torch.randperm(case.cache_blocks, generator=generator)


def _step(case: Case, blocks: Tensor, caches: tuple[Tensor, Tensor], generator: torch.Generator) -> Step:
    table = _block_table(case, blocks)
    slots = _slots(case, table)
    if not case.is_mla and case.phase != "kv_write":
        _stress_edges(case, table, caches[1])
    query = _random((case.tokens, case.heads, case.kv_lora_rank or case.head_size), case, generator)
    rope = (case.tokens, case.heads, case.rope_size)
    rows = [_rows(case, cache, slots, generator) for cache in caches]
    return Step(
        query=query,
        key=rows[0],
        value=rows[1],
        block_table=table,
        slots=slots,
        query_start=torch.tensor([0, *case.query_lens]).cumsum(0).to(torch.int32),
        seq_lens=torch.tensor(case.kv_lens, dtype=torch.int32),
        out=torch.full_like(query, torch.nan),
        query_rope=_random(rope, case, generator) if case.is_mla else None,
    )


def _rows(case: Case, cache: Tensor, slots: Tensor, generator: torch.Generator) -> Tensor:
    if case.phase == "kv_write":
        return _random((case.tokens, *cache.shape[2:]), case, generator)
    return cache.view(-1, *cache.shape[2:])[slots].contiguous()


def _stress_edges(case: Case, table: Tensor, values: Tensor) -> None:
    """Make values large at both ends of each sequence, and larger behind it, where nothing may be read.

    One position of n weighs 1/n in an output whose size is 1/sqrt(n): left out, or read beyond, it would hide in a
    long sequence. (In MLA values are keys, too: there the softmax would see nothing else.)
    """
    flat = values.view(-1, *values.shape[2:])
    for row, length in enumerate(case.kv_lens):
        ends = torch.tensor(sorted({0, length - 1}))
        behind = torch.arange(length, blocks_of(length, case.block_size) * case.block_size)
        for positions, factor in ((ends, EDGE), (behind, BEHIND)):
            slots = table[row, positions // case.block_size].long() * case.block_size + positions % case.block_size
            flat[slots] *= factor


def _block_table(case: Case, blocks: Tensor) -> Tensor:
    table = torch.zeros(case.batch, case.max_blocks, dtype=torch.int32)
    taken = 0
    for row, length in enumerate(case.kv_lens):
        count = blocks_of(length, case.block_size)
        table[row, :count] = blocks[taken : taken + count]
        taken += count
    return table


def _slots(case: Case, table: Tensor) -> Tensor:
    parts = []
    for row, (query, length) in enumerate(zip(case.query_lens, case.kv_lens, strict=True)):
        positions = torch.arange(length - query, length)
        parts.append(table[row, positions // case.block_size].long() * case.block_size + positions % case.block_size)
    return torch.cat(parts)


def dtype_of(case: Case) -> torch.dtype:
    """The torch dtype of a case's name for it."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[case.dtype]
