"""Which job do the `kernels` of a scenario make: cases, limits of known chips, rules?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, suggestion
from harness.kernels.steps import step_mixes
from harness.scenario.distributions import Count, LogNormalItem, NormalItem, UniformItem, bounds
from harness.scenario.kernels import Kernels, many
from harness.scenario.loader import LoadedScenario
from harness.simulator.chips import CHIPS
from harness.workload.lengths import token_lengths

if TYPE_CHECKING:  # a room of its own, opened when kernels are asked for
    from kernels_bench.axes import KvLengths, Skipped
    from kernels_bench.job import Job
    from kernels_bench.presets import Shape

DEFAULT_MODEL = "Qwen2.5-7B"
MOST_REASONS = 5  # that are told where no case is left
_DEVICE_NAMES = {"A3": "910_93"}  # how the device calls itself, where that is not the chip's name


@dataclass(frozen=True, slots=True)
class Order:
    """What a scenario wants measured: the job, and the combinations that make no case."""

    job: Job
    skipped: tuple[Skipped, ...]


def order_of(loaded: LoadedScenario) -> Order:
    """The order of a scenario that has `kernels`.

    Raises:
        InputError: an unknown model, no combination that makes a case, or a result folder that is none.
    """
    from kernels_bench.axes import Axes, Skipped, expand  # noqa: PLC0415 - a room of its own
    from kernels_bench.cases import Case  # noqa: PLC0415 - likewise
    from kernels_bench.job import Job  # noqa: PLC0415 - likewise
    from kernels_bench.stopping import Rule  # noqa: PLC0415 - likewise

    kernels, seed = loaded.scenario.kernels, loaded.scenario.seed
    assert kernels is not None
    axes = Axes(
        shapes=_shapes(kernels),
        phases=_axis(kernels.phase),
        batches=_axis(kernels.batch),
        query_tokens=_axis(kernels.query_tokens),
        kv_lengths=[_kv_lengths(count, seed) for count in _axis(kernels.kv_tokens)],
        tensor_parallel_sizes=_axis(kernels.tensor_parallel_size),
        dtypes=_axis(kernels.dtype),
        block_sizes=_axis(kernels.block_size),
        orders=_axis(kernels.order),
        cache_bytes=round((kernels.cache_gib or 0) * (1 << 30)),
        steps=step_mixes(_folder(kernels.steps_of, loaded.path), kernels.steps) if kernels.steps_of else (),
    )
    made = expand(axes)
    cases = tuple(one for one in made if isinstance(one, Case))
    skipped = tuple(one for one in made if isinstance(one, Skipped))
    if not cases:
        reasons = dict.fromkeys(one.reason for one in skipped)
        told = (f"{loaded.path}: kernels: no combination makes a case: {reason}" for reason in reasons)
        raise InputError(*itertools.islice(told, MOST_REASONS))
    job = Job(
        cases=cases,
        provider=kernels.provider,
        options=_options(loaded),
        paths=_axis(kernels.paths),
        modes=_axis(kernels.modes),
        seed=seed % (1 << 62),
        rule=Rule(kernels.noise, kernels.min_samples, kernels.max_samples, max_time_s=kernels.time),
        chips=_chips(),
    )
    return Order(job, skipped)


def _axis(value: Any) -> Any:
    """The values of an axis, each once."""
    return tuple(dict.fromkeys(many(value)))


def _folder(written: str, scenario: Path) -> Path:
    """A folder as a shell would find it, or beside the scenario."""
    found = Path(written) if Path(written).exists() else scenario.parent / written
    if not found.is_dir():
        raise InputError(
            f"{scenario}: kernels.steps_of: {written}: no such folder; expected a result folder of `harness run`"
        )
    return found


def _shapes(kernels: Kernels) -> list[tuple[str, Shape]]:
    from kernels_bench.presets import PRESETS, Shape  # noqa: PLC0415 - a room of its own

    if kernels.heads and kernels.kv_heads and kernels.head_size:
        name = f"{kernels.heads}/{kernels.kv_heads} heads of {kernels.head_size}"
        return [(name, Shape(kernels.heads, kernels.kv_heads, kernels.head_size))]
    by_folded = {name.lower(): name for name in PRESETS}
    found = []
    for asked in _axis(kernels.model) or (DEFAULT_MODEL,):
        folded = asked.rsplit("/", 1)[-1].lower().removesuffix("-instruct")
        if folded not in by_folded:
            raise InputError(f"kernels.model: {asked!r} has no preset; {suggestion(folded, PRESETS)}, or give heads")
        found.append((by_folded[folded], PRESETS[by_folded[folded]]))
    return found


def _kv_lengths(count: Count, seed: int) -> KvLengths:
    from kernels_bench.axes import KvLengths  # noqa: PLC0415 - a room of its own

    if isinstance(count, int):
        fixed = count
        return KvLengths(fixed, lambda batch: (fixed,) * batch)
    drawn = token_lengths(count, seed, f"kernels.kv_tokens {count!r}")
    return KvLengths(_named(count), lambda batch: tuple(drawn.at(index) for index in range(batch)))


def _named(count: Count) -> str:
    """A distribution in a word of a table."""
    if isinstance(count, UniformItem):
        return f"{count.uniform[0]}–{count.uniform[1]} ragged"
    if isinstance(count, LogNormalItem):
        return f"~{count.lognormal.median:g} (sigma {count.lognormal.sigma:g}) ragged"
    if isinstance(count, NormalItem):
        return f"~{count.normal.mean:g} (sd {count.normal.sd:g}) ragged"
    return f"chosen of {bounds(count)[0]}–{bounds(count)[1]}"


def _options(loaded: LoadedScenario) -> Mapping[str, Any]:
    kernels = loaded.scenario.kernels
    return {"graph_updates": bool(kernels and kernels.graph_updates)}


def _chips() -> tuple[tuple[str, Any], ...]:
    """Data sheets of the chips that the harness knows, by a part of the name by which a device calls itself."""
    from kernels_bench.roofline import Limits  # noqa: PLC0415 - a room of its own

    return tuple(
        (
            _DEVICE_NAMES.get(chip.name, chip.name),
            Limits("chip", chip.bandwidth, {"float16": chip.peak, "bfloat16": chip.peak}),
        )
        for chip in CHIPS.values()
        if chip.is_ascend
    )
