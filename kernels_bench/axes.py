"""Cases from the axes of a scenario, and which of them make no sense.

Every combination of values becomes a case or, with its reason, a skipped one: nothing falls out of the table.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from kernels_bench.cases import ATTENTION_PHASES, ELEMENT_BYTES, ORDERS, PHASES, Case, Label
from kernels_bench.presets import Shape, under_tensor_parallel


@dataclass(frozen=True, slots=True)
class KvLengths:
    """A value of the axis of KV lengths: its name in tables, and the lengths of a batch's sequences."""

    label: Label
    draw: Callable[[int], tuple[int, ...]]
    """The KV lengths of that many sequences, always the same ones."""


@dataclass(frozen=True, slots=True)
class StepMix:
    """A step that an engine really ran: its sequences' query and KV lengths, and how often such a step came."""

    label: str
    query_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Axes:
    """The values of each axis; the cases are their product, `steps` beside them."""

    shapes: Sequence[tuple[str, Shape]]
    """Named shapes, before tensor parallelism."""
    phases: Sequence[str] = ("decode",)
    batches: Sequence[int] = (1,)
    query_tokens: Sequence[int] = (512,)
    """Query length of a sequence that prefills; tokens of a sequence in a KV write."""
    kv_lengths: Sequence[KvLengths] = ()
    tensor_parallel_sizes: Sequence[int] = (1,)
    dtypes: Sequence[str] = ("bfloat16",)
    block_sizes: Sequence[int] = (128,)
    orders: Sequence[str] = ("scattered",)
    cache_bytes: int = 0
    """Size of the cache, from which follow its blocks; 0: as large as a cold measurement needs."""
    steps: Sequence[StepMix] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A combination that makes no case, and why."""

    labels: tuple[tuple[str, Label], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class _Point:
    """One combination: all that a case has but its lengths."""

    phase: str
    name: str
    shape: Shape
    parallel: int
    dtype: str
    block_size: int
    order: str


def expand(axes: Axes) -> list[Case | Skipped]:
    """Every combination of the axes, in their order, as a case or as a skipped one."""
    outcomes: list[Case | Skipped] = []
    for point in _points(axes):
        try:
            shape = under_tensor_parallel(point.shape, point.parallel)
        except ValueError as fault:
            outcomes.append(Skipped(_labels(point), str(fault)))
            continue
        for lengths, labels in _lengths(point, axes):
            outcomes.append(_case(point, shape, lengths, (*_labels(point), *labels), axes.cache_bytes))
    return outcomes


def _points(axes: Axes) -> Iterator[_Point]:
    product = itertools.product(
        axes.phases, axes.shapes, axes.tensor_parallel_sizes, axes.dtypes, axes.block_sizes, axes.orders
    )
    for phase, (name, shape), parallel, dtype, block_size, order in product:
        kind = "mla_decode" if phase == "decode" and shape.kv_lora_rank else phase
        yield _Point(kind, name, shape, parallel, dtype, block_size, order)
    shapes = itertools.product(axes.shapes, axes.tensor_parallel_sizes, axes.dtypes, axes.block_sizes, axes.orders)
    for (name, shape), parallel, dtype, block_size, order in shapes if axes.steps else ():
        yield _Point("steps", name, shape, parallel, dtype, block_size, order)


def _labels(point: _Point) -> tuple[tuple[str, Label], ...]:
    return (
        ("phase", point.phase),
        ("model", point.name),
        ("tensor_parallel_size", point.parallel),
        ("dtype", point.dtype),
        ("block_size", point.block_size),
        ("order", point.order),
    )


_Lengths = tuple[str, tuple[int, ...], tuple[int, ...]]


def _lengths(point: _Point, axes: Axes) -> Iterator[tuple[_Lengths, tuple[tuple[str, Label], ...]]]:
    """Phase, query lengths and KV lengths of each combination of the axes of lengths, with their labels."""
    if point.phase == "steps":
        for step in axes.steps:
            yield (_phase_of(step), step.query_lens, step.kv_lens), (("step", step.label), ("share", step.share))
        return
    queries = axes.query_tokens if point.phase in ("chunked_prefill", "mixed", "kv_write") else (1,)
    for batch, query, kv in itertools.product(axes.batches, queries, axes.kv_lengths):
        kv_lens = kv.draw(batch)
        labels: tuple[tuple[str, Label], ...] = (("batch", batch), ("kv_tokens", kv.label))
        if len(queries) > 1 or query != 1:
            labels = (*labels, ("query_tokens", query))
        yield (point.phase, _query_lens(point.phase, query, kv_lens), kv_lens), labels


def _query_lens(phase: str, query: int, kv_lens: tuple[int, ...]) -> tuple[int, ...]:
    """Query lengths of a phase; `mixed` has one sequence that prefills behind sequences that decode."""
    if phase in ("decode", "mla_decode"):
        return (1,) * len(kv_lens)
    if phase == "prefill":
        return kv_lens
    if phase == "mixed":
        return (*(1,) * (len(kv_lens) - 1), query)
    return (query,) * len(kv_lens)


def _phase_of(step: StepMix) -> str:
    """What an engine's step is called: all decode, all prefill from the start, or something between."""
    if all(query == 1 for query in step.query_lens):
        return "decode"
    if step.query_lens == step.kv_lens:
        return "prefill"
    return "mixed" if 1 in step.query_lens else "chunked_prefill"


def _case(
    point: _Point, shape: Shape, lengths: _Lengths, labels: tuple[tuple[str, Label], ...], cache_bytes: int
) -> Case | Skipped:
    phase, query_lens, kv_lens = lengths
    if shape.kv_lora_rank and phase == "decode":
        phase = "mla_decode"
    case = Case(
        phase=phase,
        query_lens=query_lens,
        kv_lens=kv_lens,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        dtype=point.dtype,
        block_size=point.block_size,
        order=point.order,
        kv_lora_rank=shape.kv_lora_rank,
        rope_size=shape.rope_size,
        labels=labels,
    )
    reason = problem(case)
    return Skipped(labels, reason) if reason else _in_cache(case, cache_bytes)


def _in_cache(case: Case, cache_bytes: int) -> Case | Skipped:
    """The case on a cache of that size; skipped where its sequences do not fit."""
    blocks = cache_bytes // (case.block_size * case.token_cache_bytes)
    if cache_bytes and blocks < case.used_blocks:
        gib = case.used_blocks * case.block_size * case.token_cache_bytes / (1 << 30)
        more = f"expected a cache of at least {gib:.3g} GiB"
        return Skipped(case.labels, f"needs {case.used_blocks} blocks; the cache has {blocks}: {more}")
    return replace(case, num_blocks=blocks)


def problem(case: Case) -> str | None:
    """Why no kernel could run this case, whatever it is; None where one might."""
    checks = (
        (case.phase not in PHASES, f"phase {case.phase!r} is none of {', '.join(PHASES)}"),
        (case.dtype not in ELEMENT_BYTES, f"dtype {case.dtype!r} is none of {', '.join(ELEMENT_BYTES)}"),
        (case.order not in ORDERS, f"order {case.order!r} is none of {', '.join(ORDERS)}"),
        (case.head_size < 1, f"head size {case.head_size}: expected at least 1"),
        (case.kv_heads < 1, f"{case.kv_heads} KV heads: expected at least 1"),
        (case.block_size < 1, f"block size {case.block_size}: expected at least 1"),
        (not case.query_lens or len(case.query_lens) != len(case.kv_lens), "a query length and a KV length a sequence"),
    )
    reason = next((reason for bad, reason in checks if bad), None)
    return reason or _shape_problem(case)


def _nearest(whole: int, part: int) -> str:
    """The divisors next to a number that does not divide."""
    divisors = [divisor for divisor in range(1, whole + 1) if whole % divisor == 0]
    below = [divisor for divisor in divisors if divisor < part][-1:]
    near = [*below, *[divisor for divisor in divisors if divisor > part][:1]]
    return f"expected {' or '.join(map(str, near))}" if near else "expected at least 1 head"


def _shape_problem(case: Case) -> str | None:
    if case.heads < 1 or case.heads % case.kv_heads:
        return f"{case.kv_heads} KV heads do not divide {case.heads} heads; {_nearest(case.heads, case.kv_heads)}"
    if min(case.query_lens) < 1:
        return "a query of no tokens"
    for query, kv in zip(case.query_lens, case.kv_lens, strict=True):
        if query > kv:
            return f"a query of {query} tokens is longer than its KV of {kv}; expected query_tokens of at most {kv}"
    if case.is_mla and case.phase in ATTENTION_PHASES:
        return f"{case.phase} of multi-head latent attention runs as plain attention after up-projection"
    return None if case.is_mla == (case.phase == "mla_decode") or case.phase == "kv_write" else "no MLA shape"
