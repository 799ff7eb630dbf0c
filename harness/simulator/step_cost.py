"""The time of one step, from the model's shape and the chip's peaks.

A roofline with named terms, all per device: reading the weights or multiplying by them
(`linear`), the output head, attention of decodes over their context and of prefill chunks,
all-reduce between cards, gaps between kernels; beside it the host, which launches kernels while
the device runs, and whose other work overlaps the step under asynchronous scheduling.
`TERMS` are the figures that were fitted to published results, see tests/simulator/test_anchors.py.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harness.simulator.chips import ChipSpec
from harness.simulator.engine_config import Settings
from harness.simulator.models import ModelShape
from harness.units import seconds_to_ns


@dataclass(frozen=True, slots=True)
class Terms:
    """Shares of the chip's peaks that are reached, and times that no peak explains.

    Times in seconds: `launch_s` the host's work to launch one layer's kernels one by one, `piece_s` the
    same where graphs cover all but attention, `gap_s` what the device loses between the kernels of a
    layer, `reduce_s` to launch an all-reduce, `link_s` what that takes before bytes flow, `step_s`
    and `request_s` the host's other work for a step and for each request in it. `piece_s` and
    `request_s` are estimates: no published figure shows them alone.
    """

    matmul: float = 0.53
    weights: float = 0.54
    attention: float = 0.37
    cache: float = 0.53
    link: float = 0.44
    launch_s: float = 633e-6
    piece_s: float = 450e-6
    gap_s: float = 95e-6
    reduce_s: float = 98e-6
    link_s: float = 45e-6
    step_s: float = 1.5e-3
    request_s: float = 25e-6


TERMS: Mapping[str, Terms] = {  # by family
    "A2": Terms(),
    "A3": Terms(link=0.345),
    "310P": Terms(weights=0.81, link=0.6, link_s=80e-6),
    "CPU": Terms(
        matmul=0.2, weights=0.8, attention=0.3, cache=0.8, launch_s=100e-6, piece_s=100e-6, gap_s=0.0,
        step_s=1.5e-3, request_s=45e-6,
    ),
}  # fmt: skip


def terms_for(settings: Settings) -> Terms:
    """The terms of the chip's family; attention's shares are those that the settings give, where they do."""
    fitted = TERMS[settings.device.family]
    return replace(
        fitted,
        cache=settings.cache_efficiency or fitted.cache,
        attention=settings.attention_efficiency or fitted.attention,
    )


@dataclass(frozen=True, slots=True)
class StepTime:
    """Where the time of one step goes, in seconds a term; `total_s` is the step.

    Those up to `gap_s` follow each other on the device, and so does `draft_s`, the drafting of the next tokens;
    `launch_s` and `host_s` run beside it.
    """

    linear_s: float
    head_s: float
    decode_attention_s: float
    prefill_attention_s: float
    communication_s: float
    gap_s: float
    launch_s: float
    host_s: float
    total_s: float
    draft_s: float = 0.0


class StepTimes(Protocol):
    """How long a step takes."""

    def duration_ns(
        self, decodes: int, context: int, prefills: Sequence[tuple[int, int]], drafts: int = 0, exchanged: int = 0
    ) -> int:
        """Nanoseconds of a step."""

    def adapters_ns(self, adapters: int) -> int:
        """Nanoseconds that so many LoRA adapters add to a step."""


class StepCost:
    """The time of steps of one engine; `duration_ns` is what the engines ask."""

    def __init__(self, settings: Settings, terms: Terms | None = None) -> None:
        self._settings = settings
        self._model: ModelShape = settings.shape
        self._chip: ChipSpec = settings.device
        self._terms = terms or terms_for(settings)
        self._tp = settings.tensor_parallel_size
        self._weight_bytes = weight_bytes(settings)
        self._active_parameters, self._dense_parameters = self._model.active_parameters, self._model.dense_parameters
        self._peak = self._chip.peak * (2 if self._weight_bytes == 1 else 1)
        self._sizes = settings.cudagraph_capture_sizes
        self._speculation = settings.speculation
        self._spread = expert_ranks(settings)
        self._imbalance = settings.expert_imbalance if settings.enable_expert_parallel else 1.0
        self._decode_tokens: dict[int, tuple[float, float, float]] = {}
        per_token = self._model.kv_bytes(self._tp, kv_element_bytes(settings))
        heads = self._model.heads / self._tp * (self._model.head_dim + self._model.rope_dim)
        self._flops_per_pair = 4.0 * self._model.layers * heads
        self._read_s = per_token / (self._chip.bandwidth * self._terms.cache)
        self._pair_s = self._flops_per_pair / (self._chip.peak * self._terms.attention)
        self._context_s = max(self._read_s, self._pair_s)

    def duration_ns(
        self, decodes: int, context: int, prefills: Sequence[tuple[int, int]], drafts: int = 0, exchanged: int = 0
    ) -> int:
        """Nanoseconds of a step: `decodes` requests over `context` cached tokens, and prefill chunks.

        A chunk is (new tokens, tokens before them). The decodes verify `drafts` draft tokens in all. Where experts are
        spread over ranks that step together, `exchanged` are the tokens of all these ranks. Never 0.
        """
        if prefills or self._speculation is not None or exchanged:
            return max(1, seconds_to_ns(self.terms_of(decodes, context, prefills, drafts, exchanged).total_s))
        base = self._decode_tokens.get(decodes)
        if base is None:
            parts = self.terms_of(decodes, 0, ())
            busy = parts.linear_s + parts.head_s + parts.communication_s + parts.gap_s
            base = self._decode_tokens[decodes] = (busy, parts.launch_s, parts.host_s)
        busy, launch, host = base
        total = self._total_s(busy + self._context_s * (context + decodes), launch, host)
        return max(1, round(total * 1e9))

    def adapters_ns(self, adapters: int) -> int:
        """Nanoseconds that a step takes longer for so many LoRA adapters in it.

        Their weights are read; to launch two small products a matrix widens the gaps of a layer by half, an estimate.
        """
        if not adapters:
            return 0
        read_s = adapters * adapter_bytes(self._settings) / (self._chip.bandwidth * self._terms.weights)
        return seconds_to_ns(read_s + 0.5 * self._model.layers * self._terms.gap_s)

    def terms_of(
        self, decodes: int, context: int, prefills: Sequence[tuple[int, int]], drafts: int = 0, exchanged: int = 0
    ) -> StepTime:
        """The same step, term by term."""
        requests = decodes + len(prefills)
        tokens = decodes + drafts + sum(new for new, _ in prefills)
        padded, launch_s = self._launch(tokens, mixed=bool(prefills))
        linear_s = self._linear_s(padded, exchanged)
        head_s = self._head_s(requests + drafts)
        decode_s = self._decode_s(decodes, context, drafts)
        prefill_s = sum(self._prefill_s(new, before) for new, before in prefills)
        link_s = self._communication_s(padded)
        gap_s = self._model.layers * self._terms.gap_s
        host_s = self._terms.step_s + self._terms.request_s * requests
        draft_s = self._draft_s(requests, context + decodes, tokens)
        busy = linear_s + head_s + decode_s + prefill_s + link_s + gap_s + draft_s
        total = self._total_s(busy, launch_s, host_s)
        return StepTime(linear_s, head_s, decode_s, prefill_s, link_s, gap_s, launch_s, host_s, total, draft_s)

    def _decode_s(self, decodes: int, context: int, drafts: int) -> float:
        """The cache is read once for all tokens of a request; each of them is multiplied with it."""
        if not decodes:
            return 0.0
        width = 1 + drafts / decodes
        return max(self._read_s, self._pair_s * width) * (context + decodes)

    def _draft_s(self, requests: int, context: int, tokens: int) -> float:
        """Drafting by a layer of its own: it takes all of the step's tokens once, and then one a request.

        Each of these passes is as long as a layer of the model, and has an output head.
        """
        speculation, layers = self._speculation, self._model.layers
        if speculation is None or not speculation.has_layer:
            return 0.0
        read_s, gap_s = self._context_s * context / layers, self._terms.gap_s
        first, other = ((self._linear_s(count) + self._communication_s(count)) / layers for count in (tokens, requests))
        each_s = self._head_s(requests) + read_s + gap_s
        return first + (speculation.tokens - 1) * other + speculation.tokens * each_s

    def _total_s(self, busy_s: float, launch_s: float, host_s: float) -> float:
        """Launches run beside the device; the host's other work does so only under asynchronous scheduling."""
        if self._settings.async_scheduling:
            return max(busy_s, launch_s + host_s)
        return max(busy_s, launch_s) + host_s

    def _launch(self, tokens: int, *, mixed: bool) -> tuple[int, float]:
        """Tokens after padding to a captured size, and the host's time to launch the step."""
        mode, terms, layers = self._settings.cudagraph_mode, self._terms, self._model.layers
        place = bisect.bisect_left(self._sizes, tokens)
        reduce_s = 2 * terms.reduce_s if self._tp > 1 else 0.0
        captured = mode != "NONE" and place < len(self._sizes) and not (mixed and mode == "FULL_DECODE_ONLY")
        if not captured:
            return tokens, layers * (terms.launch_s + reduce_s)
        full = mode == "FULL" or (not mixed and mode in ("FULL_DECODE_ONLY", "FULL_AND_PIECEWISE"))
        return self._sizes[place], 0.0 if full else layers * (terms.piece_s + reduce_s)

    def _linear_s(self, tokens: int, exchanged: int = 0) -> float:
        if self._spread > 1:
            dense = self._dense_parameters
            dense_s = self._roofline_s(2.0 * dense * tokens / self._tp, dense * self._weight_bytes / self._tp)
            return dense_s + self._experts_s(max(tokens, exchanged))
        model = self._model
        flops = 2.0 * self._active_parameters * tokens / self._tp
        touched = float(self._dense_parameters)
        if model.experts:
            missed = (1 - model.experts_per_token / model.experts) ** tokens
            touched += model.expert_layers * model.expert_parameters * model.experts * (1 - missed)
        return self._roofline_s(flops, touched * self._weight_bytes / self._tp)

    def _experts_s(self, tokens: int) -> float:
        """Experts spread over ranks: the busiest has more than its share of the tokens of all."""
        model, spread = self._model, self._spread
        parameters = model.expert_layers * model.expert_parameters
        flops = 2.0 * parameters * model.experts_per_token * tokens / spread * self._imbalance
        missed = (1 - model.experts_per_token / model.experts) ** tokens
        return self._roofline_s(flops, parameters * model.experts / spread * (1 - missed) * self._weight_bytes)

    def _head_s(self, rows: int) -> float:
        parameters = self._model.embedding_parameters / self._tp
        return self._roofline_s(2.0 * parameters * rows, parameters * 2)

    def _roofline_s(self, flops: float, read_bytes: float) -> float:
        compute = flops / (self._peak * self._terms.matmul)
        return max(compute, read_bytes / (self._chip.bandwidth * self._terms.weights))

    def _prefill_s(self, new: int, before: int) -> float:
        pairs = new * (before + (new + 1) / 2)
        compute = self._flops_per_pair * pairs / (self._chip.peak * self._terms.attention)
        return max(compute, self._context_s * 0.1 * before)

    def _communication_s(self, tokens: int) -> float:
        exchanging = self._model.expert_layers if self._spread > 1 else 0
        exchange_s = exchanging * self._exchange_s(tokens) if exchanging else 0.0
        if self._tp == 1:
            return exchange_s
        moved = tokens * self._model.hidden * 2 * 2 * (self._tp - 1) / self._tp
        bandwidth = self._chip.link_of(self._tp) * self._terms.link
        reduces = 2 * self._model.layers - exchanging
        return reduces * (self._terms.link_s + moved / bandwidth) + exchange_s

    def _exchange_s(self, tokens: int) -> float:
        """Tokens go to the ranks of their experts, and come back: two all-to-all a layer, for the busiest rank."""
        model, spread = self._model, self._spread
        copies = min(model.experts_per_token, spread) * (spread - 1) / spread
        moved = tokens / self._tp * copies * model.hidden * 2 * self._imbalance
        bandwidth = self._chip.link_of(min(spread, 8)) * self._terms.link
        return 2 * (self._terms.link_s + moved / bandwidth)


def adapter_bytes(settings: Settings) -> int:
    """Bytes on one device of one LoRA slot of the largest rank, as vLLM lays it out (`lora/layers`).

    Of matrices that are split by columns the first factor is whole, of those that are split by rows the second.
    """
    shape, tp = settings.shape, settings.tensor_parallel_size
    columns = shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    attention = 3 * shape.hidden + columns / tp + shape.heads * shape.head_dim / tp + shape.hidden
    plain = (shape.layers - shape.expert_layers) * _inner_elements(shape.hidden, shape.inner, tp)
    routed = shape.expert_layers * shape.experts * _inner_elements(shape.hidden, shape.expert_width, tp)
    elements = settings.max_lora_rank * (shape.layers * attention + plain + routed)
    return int(elements * (4 if settings.dtype == "float32" else 2))


def _inner_elements(hidden: int, inner: int, tp: int) -> float:
    """Elements a unit of rank of the adapters of gate, up and down."""
    return 2 * (hidden + inner / tp) + inner / tp + hidden


def expert_ranks(settings: Settings) -> int:
    """Devices over which the experts of a layer are spread, 1 where each device or its tensor group has all."""
    if not settings.shape.experts or not (settings.enable_expert_parallel or settings.data_parallel_size > 1):
        return 1
    return settings.tensor_parallel_size * settings.data_parallel_size


def weight_bytes(settings: Settings) -> float:
    """Bytes of one weight: 2, or what the model's or the flag's quantisation says."""
    marks = f"{settings.model} {settings.quantization}".lower()
    if "w4a8" in marks or "int4" in marks or "awq" in marks or "gptq" in marks:
        return 0.5
    if "w8a8" in marks or "int8" in marks or "fp8" in marks:
        return 1.0
    return 4.0 if settings.dtype == "float32" else 2.0


def kv_element_bytes(settings: Settings) -> int:
    """Bytes of one element of the KV cache."""
    if settings.kv_cache_dtype.startswith(("fp8", "int8")):
        return 1
    return 4 if settings.dtype == "float32" and settings.kv_cache_dtype == "auto" else 2
