"""The attention shapes of well-known models, on one device of a tensor-parallel group."""

from collections.abc import Mapping
from dataclasses import dataclass

from kernels_bench.reasons import reason


@dataclass(frozen=True, slots=True)
class Shape:
    """Attention of one layer: `head_size` is a query head's width; MLA fields are 0 elsewhere."""

    heads: int
    kv_heads: int
    head_size: int
    kv_lora_rank: int = 0
    rope_size: int = 0


# From each model's config.json: num_attention_heads, num_key_value_heads, head_dim; for MLA the head is
# qk_nope_head_dim + qk_rope_head_dim wide, and kv_lora_rank and qk_rope_head_dim are what is cached.
PRESETS: Mapping[str, Shape] = {
    "Qwen2.5-0.5B": Shape(14, 2, 64),
    "Qwen2.5-7B": Shape(28, 4, 128),
    "Qwen2.5-14B": Shape(40, 8, 128),
    "Qwen2.5-32B": Shape(40, 8, 128),
    "Qwen2.5-72B": Shape(64, 8, 128),
    "Qwen3-8B": Shape(32, 8, 128),
    "Qwen3-32B": Shape(64, 8, 128),
    "Llama-3-8B": Shape(32, 8, 128),
    "DeepSeek-V2-Lite": Shape(16, 1, 192, kv_lora_rank=512, rope_size=64),
    "DeepSeek-V3": Shape(128, 1, 192, kv_lora_rank=512, rope_size=64),
}


def under_tensor_parallel(shape: Shape, size: int) -> Shape:
    """The shape on one of `size` devices: query heads are divided; KV heads, too, until one is left, then copied.

    Raises:
        ValueError: where the heads cannot be divided so.
    """
    if size < 1 or shape.heads % size:
        fitting = [size for size in range(1, shape.heads + 1) if shape.heads % size == 0]
        sentence = "{heads} heads cannot be divided over {size} devices; expected one of {fitting:list}"
        raise ValueError(reason("bench.heads_over_devices", sentence, heads=shape.heads, size=size, fitting=fitting))
    if shape.kv_heads % size and size % shape.kv_heads:
        sentence = "{kv_heads} KV heads can neither be divided over {size} devices nor copied to them"
        raise ValueError(reason("bench.kv_heads_over_devices", sentence, kv_heads=shape.kv_heads, size=size))
    kv_heads = max(1, shape.kv_heads // size)
    return Shape(shape.heads // size, kv_heads, shape.head_size, shape.kv_lora_rank, shape.rope_size)
