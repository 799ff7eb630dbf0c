"""The job of a scenario's `kernels`: cases, limits of known chips, the stopping rule, and steps taken from a result.

A result folder does not hold the engine's own schedule. But a request gets a token from every step between its first
and its last, and each step that brings a first token has prefilled the rest of a prompt; the chunks before it went with
the steps before. So the times of tokens are the steps. A sample of them is taken: steps with a prefill at even ranks of
their new tokens, steps without at even ranks of the cached ones, each with the share of all steps that it stands for.
Checked against the steps of the embedded engine: 32 of them have its mean sequences, new tokens and cached tokens a
step, and its share of prefills, to within 5 %.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError, ResultError, suggestion
from harness.messages import message, message_from
from harness.results import store, table_files
from harness.results.request_table import Events, Requests
from harness.scenario.base import many
from harness.scenario.kernels import Kernels
from harness.scenario.loader import LoadedScenario
from harness.scenario.workload import CountSpec, LogNormalItem, NormalItem, UniformItem, bounds
from harness.simulator.chips import CHIPS
from harness.statistics.intervals import Floats
from harness.workload.lengths import token_lengths

if TYPE_CHECKING:  # a package of its own
    from kernels_bench.axes import StepMix

CHUNK = 2048  # tokens that one step computes at most, where the folder does not tell: the engine's default budget
SAME_STEP = 0.25  # of the median gap between two tokens of a request: what comes closer came of one step
PREFILL_PART = 4  # at least one step of this many is one with a prefill, where there are any
Times = NDArray[np.int64]


def step_mixes(folder: Path, count: int) -> list[StepMix]:
    """`count` steps of a result folder, each with its sequences and the share of all steps that it stands for.

    Raises:
        ResultError: the folder is no result, or none of its requests received two tokens.
    """
    run, requests, events = store.read_run(folder), table_files.read_requests(folder), table_files.read_events(folder)
    if not (requests.last_ns > requests.first_ns).any():
        raise ResultError(message("kernels.no_steps", folder=str(folder)))
    trail = _trail(requests, events, _budget(run))
    return [_mix(trail, number, at_ns, share) for number, (at_ns, share) in enumerate(sorted(_picks(trail, count)))]


def _budget(run: Mapping[str, Any]) -> int:
    effective = (run.get("engine") or {}).get("effective") or {}
    tokens = effective.get("max_num_batched_tokens")
    return tokens if isinstance(tokens, int) and tokens > 0 else CHUNK


@dataclass(frozen=True, slots=True)
class _Prefill:
    """A chunk of a prompt: when the step that computed it ended, whose it is, its tokens and those up to its end."""

    at_ns: int
    row: int
    query: int
    kv: int


@dataclass(frozen=True, slots=True)
class _Trail:
    """What a run left: requests that received tokens, their prompts, every event by time, and chunks by time."""

    first_ns: Times
    last_ns: Times
    prompts: Times
    at_ns: Times
    row: Times
    tokens: Times
    prefills: tuple[_Prefill, ...]
    near_ns: int


def _trail(requests: Requests, events: Events, budget: int) -> _Trail:
    rows = np.repeat(np.arange(len(requests.first_ns)), np.diff(events.offsets))
    order = np.argsort(events.at_ns, kind="stable")
    at_ns = events.at_ns[order]
    gaps = np.diff(events.at_ns)[np.diff(rows) == 0]
    near_ns = max(1, int(SAME_STEP * float(np.median(gaps[gaps > 0]))) if (gaps > 0).any() else 1)
    prompts = np.maximum(1, np.where(requests.input_tokens > 0, requests.input_tokens, requests.input_asked))
    chunks = sorted(_chunks(requests, prompts, at_ns, (budget, near_ns)), key=lambda chunk: chunk.at_ns)
    return _Trail(
        requests.first_ns,
        requests.last_ns,
        prompts,
        at_ns,
        rows[order],
        events.tokens[order].astype(np.int64),
        tuple(chunks),
        near_ns,
    )


def _chunks(requests: Requests, prompts: Times, at_ns: Times, size: tuple[int, int]) -> Iterator[_Prefill]:
    """The chunks of every prompt: the last ends with its first token, those before with the steps before."""
    budget, near_ns = size
    for row in np.flatnonzero(requests.first_ns >= 0).tolist():
        end_ns, kv = int(requests.first_ns[row]), int(prompts[row])
        begin = min(max(0, int(requests.cached_tokens[row])), kv - 1)
        while kv > begin:
            query = (kv - begin - 1) % budget + 1 if kv == prompts[row] else budget
            yield _Prefill(end_ns, row, query, kv)
            kv -= query
            before = int(np.searchsorted(at_ns, end_ns - near_ns)) - 1
            if before < 0 or at_ns[before] < requests.sent_ns[row]:
                break
            end_ns = int(at_ns[before])


def _picks(trail: _Trail, count: int) -> Iterator[tuple[int, float]]:
    """Times of the steps that are taken, each with its share of all steps."""
    weight, prefilled, load = _told(trail)
    strata = [kind for kind in (prefilled, ~prefilled) if kind.any()]
    shares = [float(weight[kind].sum() / weight.sum()) for kind in strata]
    counts = [count]
    if len(strata) == 2:
        least = max(count // PREFILL_PART, round(count * shares[0]))
        counts = [min(max(least, 1), max(count - 1, 1)), max(count - min(max(least, 1), max(count - 1, 1)), 0)]
    for kind, share, taken in zip(strata, shares, counts, strict=True):
        places = np.flatnonzero(kind)[np.argsort(load[kind], kind="stable")]
        passed = np.cumsum(weight[places]) / weight[places].sum()
        for number in range(taken):
            place = places[min(int(np.searchsorted(passed, (number + 0.5) / taken)), len(places) - 1)]
            yield int(trail.at_ns[place]), share / taken


def _told(trail: _Trail) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Of each event: what part of a step it is, whether that step prefilled, and its tokens: new ones, or cached."""
    got = trail.first_ns >= 0
    first, last = np.sort(trail.first_ns[got]), np.sort(trail.last_ns[got])
    by_first, by_last = np.argsort(trail.first_ns[got]), np.argsort(trail.last_ns[got])
    prompts = trail.prompts[got]
    answers = np.bincount(trail.row, weights=trail.tokens, minlength=len(trail.first_ns))[got]
    begun = np.searchsorted(first, trail.at_ns + trail.near_ns, side="right")
    ended = np.searchsorted(last, trail.at_ns - trail.near_ns)
    come = np.searchsorted(trail.at_ns, trail.at_ns - trail.near_ns)
    load = _upto(prompts[by_first], begun) - _upto((prompts + answers)[by_last], ended) + _upto(trail.tokens, come)
    chunks = np.asarray([prefill.at_ns for prefill in trail.prefills], dtype=np.int64)
    queries = np.asarray([prefill.query for prefill in trail.prefills], dtype=np.int64)
    ends = (np.searchsorted(chunks, trail.at_ns + trail.near_ns, side="right"),
            np.searchsorted(chunks, trail.at_ns - trail.near_ns))  # fmt: skip
    prefilled = ends[0] > ends[1]
    new = _upto(queries, ends[0]) - _upto(queries, ends[1])
    return 1 / np.maximum(1, begun - ended), prefilled, np.where(prefilled, new, load)


def _upto(values: NDArray[Any], places: Times) -> Floats:
    """The sum of the first so many values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[places]


def _mix(trail: _Trail, number: int, at_ns: int, share: float) -> StepMix:
    from kernels_bench.axes import StepMix  # noqa: PLC0415 - a room of its own

    low_ns, high_ns = at_ns - trail.near_ns, at_ns + trail.near_ns
    chunks = {prefill.row: prefill for prefill in trail.prefills if low_ns <= prefill.at_ns <= high_ns}
    begun = (trail.first_ns >= 0) & (trail.first_ns <= high_ns) & (trail.last_ns >= low_ns)
    running = [row for row in np.flatnonzero(begun).tolist() if row not in chunks]
    come = trail.at_ns < low_ns
    before = np.bincount(trail.row[come], weights=trail.tokens[come], minlength=len(trail.first_ns))
    kv = [int(trail.prompts[row] + before[row]) for row in running] + [chunk.kv for chunk in chunks.values()]
    query = [1] * len(running) + [chunk.query for chunk in chunks.values()]
    return StepMix(f"step {number + 1}: {len(kv)} sequences", tuple(query), tuple(kv), round(share, 4))


if TYPE_CHECKING:  # a package of its own, imported when kernels are asked for
    from kernels_bench.axes import KvLengths, Skipped
    from kernels_bench.job import Job
    from kernels_bench.presets import Shape

DEFAULT_MODEL = "Qwen2.5-7B"
MOST_REASONS = 5  # that are told where no case is left
_DEVICE_NAMES = {"A3": "910_93"}  # how the device calls itself, where that is not the chip's name


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """What a scenario wants measured: the job, and the combinations that make no case."""

    job: Job
    skipped: tuple[Skipped, ...]


def kernel_plan(loaded: LoadedScenario) -> KernelPlan:
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
    expanded = expand(axes)
    cases = tuple(item for item in expanded if isinstance(item, Case))
    skipped = tuple(item for item in expanded if isinstance(item, Skipped))
    if not cases:
        reasons = {str(item.reason): message_from(item.reason.as_dict()) for item in skipped}
        lines = (message("kernels.no_case", path=str(loaded.path), reason=reason) for reason in reasons.values())
        raise InputError(*itertools.islice(lines, MOST_REASONS))
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
    return KernelPlan(job, skipped)


def _axis(value: Any) -> Any:
    """The values of an axis, each once."""
    return tuple(dict.fromkeys(many(value)))


def _folder(written: str, scenario: Path) -> Path:
    """A folder as a shell would find it, or beside the scenario."""
    path = Path(written) if Path(written).exists() else scenario.parent / written
    if not path.is_dir():
        raise InputError(message("kernels.no_result_folder", path=str(scenario), folder=written))
    return path


def _shapes(kernels: Kernels) -> list[tuple[str, Shape]]:
    from kernels_bench.presets import PRESETS, Shape  # noqa: PLC0415 - a room of its own

    if kernels.heads and kernels.kv_heads and kernels.head_size:
        name = f"{kernels.heads}/{kernels.kv_heads} heads of {kernels.head_size}"
        return [(name, Shape(kernels.heads, kernels.kv_heads, kernels.head_size))]
    by_folded = {name.lower(): name for name in PRESETS}
    shapes = []
    for model in _axis(kernels.model) or (DEFAULT_MODEL,):
        name = model.rsplit("/", 1)[-1].lower().removesuffix("-instruct")
        if name not in by_folded:
            raise InputError(message("kernels.unknown_model", model=model, hint=suggestion(name, PRESETS)))
        shapes.append((by_folded[name], PRESETS[by_folded[name]]))
    return shapes


def _kv_lengths(count: CountSpec, seed: int) -> KvLengths:
    from kernels_bench.axes import KvLengths  # noqa: PLC0415 - a room of its own

    if isinstance(count, int):
        fixed = count
        return KvLengths(fixed, lambda batch: (fixed,) * batch)
    drawn = token_lengths(count, seed, f"kernels.kv_tokens {count!r}")
    return KvLengths(_named(count), lambda batch: tuple(drawn.at(index) for index in range(batch)))


def _named(count: CountSpec) -> str:
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
    own = {} if kernels is None else kernels.provider_options
    return {"graph_updates": bool(kernels and kernels.graph_updates), **own}


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
