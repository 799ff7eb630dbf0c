"""Cases from the axes of a scenario, and which of them make no sense.

Every combination of values becomes a case or, with its reason, a skipped one: nothing falls out of the table.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from kernels_bench.cases import ATTENTION_PHASES, ELEMENT_BYTES, ORDERS, PHASES, Case, Label
from kernels_bench.presets import Shape, under_tensor_parallel
from kernels_bench.reasons import Reason, reason


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
    reason: Reason


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
            outcomes.append(Skipped(_labels(point), fault.args[0]))
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
    unfit = problem(case)
    return Skipped(labels, unfit) if unfit else _in_cache(case, cache_bytes)


def _in_cache(case: Case, cache_bytes: int) -> Case | Skipped:
    """The case on a cache of that size; skipped where its sequences do not fit."""
    blocks = cache_bytes // (case.block_size * case.token_cache_bytes)
    if cache_bytes and blocks < case.used_blocks:
        gib = case.used_blocks * case.block_size * case.token_cache_bytes / (1 << 30)
        sentence = "needs {needed} blocks; the cache has {blocks}: expected a cache of at least {gib} GiB"
        fit = reason("bench.cache_too_small", sentence, needed=case.used_blocks, blocks=blocks, gib=float(f"{gib:.3g}"))
        return Skipped(case.labels, fit)
    return replace(case, num_blocks=blocks)


def problem(case: Case) -> Reason | None:
    """Why no kernel could run this case, whatever it is; None where one might."""
    checks = (
        (case.phase not in PHASES, _none_of("phase", case.phase, PHASES)),
        (case.dtype not in ELEMENT_BYTES, _none_of("dtype", case.dtype, ELEMENT_BYTES)),
        (case.order not in ORDERS, _none_of("order", case.order, ORDERS)),
        (case.head_size < 1, reason("bench.head_least", "head size {size}: expected at least 1", size=case.head_size)),
        (
            case.kv_heads < 1,
            reason("bench.kv_heads_least", "{kv_heads} KV heads: expected at least 1", kv_heads=case.kv_heads),
        ),
        (
            case.block_size < 1,
            reason("bench.block_least", "block size {size}: expected at least 1", size=case.block_size),
        ),
        (
            not case.query_lens or len(case.query_lens) != len(case.kv_lens),
            reason("bench.lengths_uneven", "a query length and a KV length a sequence"),
        ),
    )
    return next((why for bad, why in checks if bad), None) or _shape_problem(case)


def _none_of(axis: str, word: str, known: Iterable[str]) -> Reason:
    return reason(
        "bench.none_of", "{axis} {word:quote} is none of {known:list}", axis=axis, word=word, known=list(known)
    )


def _undivided(case: Case) -> Reason:
    """KV heads that do not divide the heads, and the divisors next to them."""
    divisors = [divisor for divisor in range(1, case.heads + 1) if case.heads % divisor == 0]
    below = [divisor for divisor in divisors if divisor < case.kv_heads][-1:]
    near = [*below, *[divisor for divisor in divisors if divisor > case.kv_heads][:1]]
    sentence = "{kv_heads} KV heads do not divide {heads} heads; expected {near:or}"
    return reason("bench.heads_undivided_near", sentence, kv_heads=case.kv_heads, heads=case.heads, near=near or ["1"])


def _shape_problem(case: Case) -> Reason | None:
    if case.heads < 1 or case.heads % case.kv_heads:
        return _undivided(case)
    if min(case.query_lens) < 1:
        return reason("bench.query_empty", "a query of no tokens")
    for query, kv in zip(case.query_lens, case.kv_lens, strict=True):
        if query > kv:
            sentence = "a query of {query} tokens is longer than its KV of {kv}; expected query_tokens of at most {kv}"
            return reason("bench.query_longer", sentence, query=query, kv=kv)
    if case.is_mla and case.phase in ATTENTION_PHASES:
        sentence = "{phase} of multi-head latent attention runs as plain attention after up-projection"
        return reason("bench.mla_as_plain", sentence, phase=case.phase)
    fitting = case.is_mla == (case.phase == "mla_decode") or case.phase == "kv_write"
    return None if fitting else reason("bench.no_mla_shape", "no MLA shape")
