"""The right answer: attention in float32, spelled out, on the very same paged cache."""

import torch
from torch import Tensor

from kernels_bench.cases import Case, blocks_of
from kernels_bench.providers.inputs import Inputs, Step
from kernels_bench.verify import Errors

MOST_SCORES = 1 << 26  # elements of one block of scores: 256 MiB in float32


def expected(case: Case, inputs: Inputs, index: int) -> Tensor:
    """What launch `index` has to write, in float32.

    Attention: [tokens, heads, head_size], or kv_lora_rank wide for MLA. `kv_write`: keys and values as rows,
    [2, tokens, kv_heads, head_size].
    """
    step = inputs.steps[index]
    if case.phase == "kv_write":
        return torch.stack([step.key.float(), step.value.float()])
    starts = step.query_start.tolist()
    parts = [_sequence(case, inputs, step, row, slice(starts[row], starts[row + 1])) for row in range(case.batch)]
    return torch.cat(parts)


def _sequence(case: Case, inputs: Inputs, step: Step, row: int, own: slice) -> Tensor:
    """Output of one sequence: softmax(scale × Q Kᵀ + causal mask) V, some queries at a time."""
    length = case.kv_lens[row]
    key, value = _dense(case, inputs, step.block_table[row], length)
    query = step.query[own].float()
    if step.query_rope is not None:
        query = torch.cat([query, step.query_rope[own].float()], dim=-1)
    count = query.shape[0]
    rows = max(1, MOST_SCORES // (case.heads * length))
    outputs = []
    for first in range(0, count, rows):
        part = query[first : first + rows]
        seen = length - count + 1 + first + torch.arange(part.shape[0], device=query.device)
        outputs.append(_attend(part, key, value, seen, case.scale))
    return torch.cat(outputs)


def _attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Query [q, heads, d] against key [kv, kv_heads, d] and value [kv, kv_heads, e]; row i sees `seen[i]` positions."""
    grouped = query.unflatten(1, (key.shape[1], -1))
    scores = torch.einsum("qkgd,skd->kgqs", grouped, key) * scale
    hidden = torch.arange(key.shape[0], device=query.device)[None, :] >= seen[:, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return torch.einsum("kgqs,ske->qkge", weights, value).flatten(1, 2)


def _dense(case: Case, inputs: Inputs, table: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values of one sequence in float32, out of its blocks; for MLA [kv, 1, rank + rope] and [kv, 1, rank]."""
    blocks = table[: blocks_of(length, case.block_size)].long()
    parts = [cache[blocks].flatten(0, 1)[:length].float() for cache in (inputs.key_cache, inputs.value_cache)]
    return (torch.cat(parts, dim=-1), parts[0]) if case.is_mla else (parts[0], parts[1])


def compare(output: Tensor, right: Tensor) -> Errors:
    """How an output differs from its reference, each row of the last dimension by its own size.

    Rows of short sequences are much larger than those of long ones, which would hide behind them.

    Raises:
        ValueError: where the shapes differ.
    """
    if output.shape != right.shape:
        raise ValueError(f"the output has shape {tuple(output.shape)}; expected {tuple(right.shape)}")
    values = output.to(right.device, torch.float32)
    sizes = right.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    off = (values - right).abs()
    rows = off.square().mean(dim=-1, keepdim=True).sqrt() / sizes
    bad = int((~torch.isfinite(values)).sum())
    worst = (off / (sizes + right.abs())).max()
    return Errors(float(worst), float(rows.square().mean().sqrt()), bad, right.numel())
