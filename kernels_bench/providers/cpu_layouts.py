"""The layouts of a paged cache of vLLM's CPU kernels, by the instruction set they were chosen for.

All take keys and values as [blocks, kv_heads, block_size, head_size] and put their numbers there in an order of their
own. Read from vLLM's csrc/cpu/cpu_attn_vec.hpp, cpu_attn_vec16.hpp and cpu_attn_amx.hpp; that a layout stands here is
what lets a write be checked against what was to be written instead of against the kernels' own reading of it.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

TILE = 16  # tokens a group of keys, head elements a group of values: the columns of an AMX tile of 64 bytes
PAIR = 2  # numbers of 16 bits that one multiplication takes together

Rows = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _vector_rows(keys: Tensor, values: Tensor, block: Tensor, offset: Tensor) -> Tensor:
    """A block of keys lies as [head_size, block_size], of values as it is said."""
    blocks, heads, size, width = keys.shape
    key_rows = keys.view(blocks, heads, width, size)[block, :, :, offset]
    return torch.stack([key_rows, values[block, :, offset]])


def _tile_rows(keys: Tensor, values: Tensor, block: Tensor, offset: Tensor) -> Tensor:
    """Keys lie as [tokens / 16, head_size / 2, 16, 2], values as [head_size / 16, tokens / 2, 16, 2]."""
    blocks, heads, size, width = keys.shape
    key_tiles = keys.view(blocks, heads, size // TILE, width // PAIR, TILE, PAIR)
    value_tiles = values.view(blocks, heads, width // TILE, size // PAIR, TILE, PAIR)
    key_rows = key_tiles[block, :, offset // TILE, :, offset % TILE]
    value_rows = value_tiles[block, :, :, offset // PAIR, :, offset % PAIR]
    return torch.stack([key_rows.flatten(2), value_rows.flatten(2)])


_ROWS: Mapping[str, Rows] = {"vec": _vector_rows, "vec16": _vector_rows, "amx": _tile_rows}


def is_known(isa: str) -> bool:
    """Whether what that instruction set's kernels write can be read here."""
    return isa in _ROWS


def rows_at(isa: str, keys: Tensor, values: Tensor, slots: Tensor) -> Tensor:
    """Keys and values that stand at slots, as [2, tokens, kv_heads, head_size]."""
    size = keys.shape[2]
    return _ROWS[isa](keys, values, slots // size, slots % size)
