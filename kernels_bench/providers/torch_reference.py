"""Plain torch on a paged cache, on a CPU or a GPU: a baseline that runs everywhere."""

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels_bench.cases import ATTENTION_PHASES, Case
from kernels_bench.providers import cuda, processor
from kernels_bench.providers.base import Device, Launch, Number, Path, Prepared, Sample, Unavailable
from kernels_bench.providers.clocks import clocked, evented
from kernels_bench.providers.inputs import Inputs, Step

PATHS = (
    Path("sdpa", (*ATTENTION_PHASES, "mla_decode")),
    Path("index_put", ("kv_write",)),
)


class TorchReference:
    """Gathers a sequence's blocks and calls torch's own attention; writes with one indexed assignment."""

    name = "torch_reference"

    def __init__(self, torch_device: str) -> None:
        self.torch_device = torch_device
        self._on_gpu = torch_device.startswith("cuda")

    def device(self) -> Device:
        """The CPU, or the GPU."""
        return cuda.device(self.torch_device) if self._on_gpu else processor.device()

    def paths(self) -> Sequence[Path]:
        """Both are always there."""
        return PATHS

    def refuse(self, case: Case, path: str) -> str | None:  # noqa: ARG002 - plain torch takes any shape
        """Nothing: plain torch takes any shape."""
        return None

    def prepare(self, case: Case, path: str, inputs: Inputs) -> Prepared:
        """Index tensors and masks; the gather itself is part of a launch."""
        if path == "index_put":
            launches = [functools.partial(_write, inputs, step) for step in inputs.steps]
            return Prepared(tuple(launches), functools.partial(_rows, inputs))
        attend = _together if len(set(case.query_lens)) == 1 and case.query_lens[0] == 1 else _one_by_one
        return Prepared(
            tuple(attend(case, inputs, step) for step in inputs.steps), lambda index: inputs.steps[index].out
        )

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if self._on_gpu:
            torch.cuda.synchronize(self.torch_device)

    def time(self, batch: Sequence[Launch]) -> Sample:
        """By events on a GPU, by the clock on a CPU."""
        return evented(batch, cuda.event, self.synchronize) if self._on_gpu else clocked(batch, self.synchronize)

    def graph(self, launches: Sequence[Launch]) -> Sequence[Launch] | str:
        """CUDA graphs, one a launch; not on a CPU."""
        return cuda.graphs(launches) if self._on_gpu else "a CPU has no graphs"

    def telemetry(self) -> Mapping[str, Number]:
        """As the device tells."""
        return cuda.telemetry(self.torch_device) if self._on_gpu else processor.telemetry()


def open_provider(options: Mapping[str, object]) -> TorchReference:
    """On `options["device"]`, such as `cuda:0`; else a GPU where there is one, else the CPU.

    Raises:
        Unavailable: a GPU is asked for and there is none.
    """
    device = str(options.get("device") or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable(f"torch {torch.__version__} finds no GPU for {device}")
    return TorchReference(device)


def _together(case: Case, inputs: Inputs, step: Step) -> Launch:
    """All sequences of a decode in one call, padded to the longest; query heads of a group are rows of one KV head."""
    positions = torch.arange(max(case.kv_lens), device=step.query.device)
    slots = _slots(case, step.block_table, positions)
    unseen = positions[None, :] >= step.seq_lens[:, None]
    mask = torch.zeros(unseen.shape, dtype=step.query.dtype, device=step.query.device)
    mask = mask.masked_fill(unseen, -torch.inf)[:, None, None, :]
    query = _whole_query(step).unflatten(1, (inputs.key_cache.shape[2], -1))
    out = step.out.unflatten(1, (inputs.key_cache.shape[2], -1))

    def launch() -> None:
        key, value = _gather(case, inputs, slots)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        out.copy_(scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=case.scale))

    return launch


def _one_by_one(case: Case, inputs: Inputs, step: Step) -> Launch:
    """Sequence by sequence: query [1, heads, q, d], causal with the mask aligned at the right."""
    device = step.query.device
    starts = step.query_start.tolist()
    query = _whole_query(step)
    parts = []
    for row, (count, length) in enumerate(zip(case.query_lens, case.kv_lens, strict=True)):
        slots = _slots(case, step.block_table[row : row + 1], torch.arange(length, device=device))
        own = slice(starts[row], starts[row] + count)
        seen = torch.arange(length - count + 1, length + 1, device=device)
        mask = None if count == length else torch.arange(length, device=device)[None, :] < seen[:, None]
        parts.append((query[own].transpose(0, 1)[None], slots, mask, step.out[own].transpose(0, 1)[None]))

    def launch() -> None:
        for query_part, slots, mask, out in parts:
            key, value = (part.transpose(1, 2) for part in _gather(case, inputs, slots))
            out.copy_(
                scaled_dot_product_attention(
                    query_part, key, value, mask, is_causal=mask is None, scale=case.scale, enable_gqa=True
                )
            )

    return launch


def _whole_query(step: Step) -> Tensor:
    return step.query if step.query_rope is None else torch.cat([step.query, step.query_rope], dim=-1)


def _slots(case: Case, table: Tensor, positions: Tensor) -> Tensor:
    """Slots [sequences, positions] in the flat cache."""
    blocks = table[:, (positions // case.block_size).clamp_max(table.shape[1] - 1)].long()
    return blocks * case.block_size + positions % case.block_size


def _gather(case: Case, inputs: Inputs, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [sequences, positions, kv_heads, width] of slots."""
    parts = [cache.view(-1, *cache.shape[2:])[slots] for cache in (inputs.key_cache, inputs.value_cache)]
    return (torch.cat(parts, dim=-1), parts[0]) if case.is_mla else (parts[0], parts[1])


def _write(inputs: Inputs, step: Step) -> None:
    inputs.key_cache.view(-1, *inputs.key_cache.shape[2:])[step.slots] = step.key
    inputs.value_cache.view(-1, *inputs.value_cache.shape[2:])[step.slots] = step.value


def _rows(inputs: Inputs, index: int) -> Tensor:
    slots = inputs.steps[index].slots
    caches = (inputs.key_cache, inputs.value_cache)
    return torch.stack([cache.view(-1, *cache.shape[2:])[slots] for cache in caches])
