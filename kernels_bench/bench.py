"""A case from beginning to end: taken or refused, made, checked, and only then timed.

Every outcome is a row. A case that fails costs itself and nothing else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from kernels_bench.axes import problem
from kernels_bench.cases import Case
from kernels_bench.job import Job
from kernels_bench.marks import CROWDED, throttled
from kernels_bench.providers.base import HOLLOW, Device, Launch, Path, Prepared, Provider
from kernels_bench.reasons import Reason, Why, message_of, reason
from kernels_bench.roofline import Limits, distance
from kernels_bench.timing import Series, sample
from kernels_bench.verify import verdict
from kernels_bench.waits import waited_share, waits

if TYPE_CHECKING:
    from kernels_bench.providers.inputs import Inputs

MEASURED, SKIPPED, WRONG, FAILED = "measured", "skipped", "wrong", "failed"
COLD_CACHES = 2  # bytes that a cold rotation touches, in last-level caches: all are evicted before their turn
MOST_STEPS = 512
MOST_STEP_SHARE = 4  # steps beside the first take at most a quarter of the free memory
_FULL = ("out of memory", "cannot allocate memory", "can't allocate memory", "not enough memory")
COPIES = 2  # a provider may keep the cache in a layout of its own beside ours


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cases of a run share."""

    job: Job
    provider: Provider
    device: Device
    limits: tuple[Limits, ...]


Row = dict[str, Any]


def limits_of(job: Job, provider: Provider, device: Device) -> tuple[Limits, ...]:
    """What the device is held to: a copy and products measured now (or before, in the same run), and its data sheet."""
    folded = device.name.lower()
    sheet = [limits for name, limits in job.chips if name.lower() in folded]
    if device.facts.get(HOLLOW):
        return tuple(sheet[:1])  # a copy on a stand-in measures nothing
    if job.measured is None:
        from kernels_bench.providers.limits import measure  # noqa: PLC0415 - needs torch

        measured = measure(provider, [case.dtype for case in job.cases])
    else:
        measured = job.measured
    return (measured, *sheet[:1])


def rows(bench: Bench) -> Iterator[Row]:
    """First the row of whatever is refused; then for each case left a `begin` line, and a row for each path.

    A process that goes on where another one died says nothing of what was refused: that one did.
    """
    taken: dict[int, list[Path]] = {}
    paths = bench.provider.paths()
    for index, case in enumerate(bench.job.cases[bench.job.begin :], bench.job.begin):
        if index in bench.job.without:
            continue
        for path, refusal in _choices(bench, case, paths):
            if path is not None and not refusal:
                taken.setdefault(index, []).append(path)
            elif not bench.job.begin:
                yield _row(index, path.name if path else "", SKIPPED, refusal)
    for index, chosen in taken.items():
        yield {"event": "begin", "case": index}
        for path in chosen:
            yield _run(bench, index, path)


def _choices(bench: Bench, case: Case, paths: Sequence[Path]) -> Iterator[tuple[Path | None, Why | None]]:
    """The paths that compute a case's phase, each with why it is refused, if it is."""
    wanted = bench.job.paths
    usable = [path for path in paths if case.phase in path.phases and (not wanted or path.name in wanted)]
    if not usable:
        yield None, _no_path(bench.provider.name, case.phase, wanted)
    for path in usable:
        yield path, path.missing or problem(case) or bench.provider.refuse(case, path.name)


def _no_path(provider: str, phase: str, wanted: Sequence[str]) -> Reason:
    if wanted:
        sentence = "none of the paths {paths:list} computes {phase}"
        return reason("bench.no_path_of", sentence, paths=list(wanted), phase=phase)
    return reason("bench.no_path", "{provider} has no path for {phase}", provider=provider, phase=phase)


def strange_path(provider: Provider, wanted: Sequence[str]) -> str | None:
    """What is wrong with the first of these paths that the provider does not know; None where it knows all."""
    known = [path.name for path in provider.paths()]
    strange = next((name for name in wanted if name not in known), None)
    if strange is None:
        return None
    near = difflib.get_close_matches(strange, known, 1)
    expected = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    return f"kernels.paths: {provider.name} has no {strange!r}; {expected}"


def _row(index: int, path: str, status: str, why: Why | None, **more: Any) -> Row:
    reasons = {"reason": None if why is None else str(why)} | (
        {"reason_message": kept} if (kept := message_of(why)) else {}
    )
    return {"event": "row", "case": index, "path": path, "status": status, **reasons, **more}


def _run(bench: Bench, index: int, path: Path) -> Row:
    """The row of one case on one path."""
    case = bench.job.cases[index]
    free = bench.provider.device().memory_bytes
    sized, steps = fit(case, bench.device.cache_bytes, free)
    if steps == 0:
        needed = needed_bytes(sized, 1)
        return _row(
            index,
            path.name,
            SKIPPED,
            reason(
                "bench.memory_short",
                "needs {needed_mib} MiB; {free_mib} MiB are free",
                needed_mib=needed >> 20,
                free_mib=free >> 20,
            ),
        )
    try:
        return _measured(bench, index, path, (sized, steps))
    except MemoryError:
        return _row(index, path.name, FAILED, reason("bench.out_of_memory", "out of memory"))
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as fault:  # torch's, its operators' and ours
        return _row(index, path.name, FAILED, _first_line(fault))


def _first_line(fault: Exception) -> Why:
    """The first line of an error that says something, short enough for a table."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    words = lines[0] if lines else type(fault).__name__
    full = any(sign in str(fault).lower() for sign in _FULL)
    words = words[:280]
    return reason("bench.out_of_memory_words", "out of memory: {words}", words=words) if full else words


def _measured(bench: Bench, index: int, path: Path, sizing: tuple[Case, int]) -> Row:
    from kernels_bench.providers import inputs  # noqa: PLC0415 - needs torch

    case, steps = sizing
    host = inputs.make(case, bench.job.seed + index, steps)
    there = inputs.moved(host, bench.provider.torch_device)
    prepared = bench.provider.prepare(case, path.name, there)
    more: Row = {"steps": steps, "cache_blocks": case.cache_blocks, "work": case.work._asdict()}
    wrong, errors = check(bench, case, prepared, host if bench.device.kind == "npu" else there)
    more["errors"] = errors
    if wrong:
        return _row(index, path.name, WRONG, wrong, **more)
    before, waits_before, began_ns = bench.provider.telemetry(), waits(), perf_counter_ns()
    series, refused = _series(bench, prepared)
    waited = waited_share(waits_before, waits(), perf_counter_ns() - began_ns)
    if not series:
        why = [reason("bench.mode_refused", "{mode}: {why}", mode=mode, why=why) for mode, why in refused.items()]
        return _row(index, path.name, SKIPPED, reason("bench.modes_refused", "{reasons:parts}", reasons=why), **more)
    after = bench.provider.telemetry()
    more |= {"before": dict(before), "after": dict(after), **_named("refused_modes", refused)}
    more |= {"throttled": throttled(before, after), "waited": waited}
    modes = {mode: mode_row(bench, case, times) for mode, times in series.items()}
    if not _is_cold(bench.device, case, steps) and "cold" in modes:
        modes["cold"]["marks"].append("partly-cached")
    if bench.device.kind == "cpu" and waited > CROWDED:
        for figures in modes.values():
            figures["marks"].append("crowded")
    return _row(index, path.name, MEASURED, None, **more, modes=modes)


def check(bench: Bench, case: Case, prepared: Prepared, inputs: Inputs) -> tuple[Reason | None, Row]:
    """Run the first and the last launch and compare each with the float32 reference; what is wrong, and the errors."""
    from kernels_bench.providers import reference  # noqa: PLC0415 - needs torch

    errors: Row = {}
    for index in dict.fromkeys((0, len(prepared.launches) - 1)):
        prepared.launches[index]()
        bench.provider.synchronize()
        difference = reference.compare(prepared.result(index), reference.expected(case, inputs, index))
        errors = {**asdict(difference)}
        wrong = verdict(difference, case.dtype)
        if wrong:
            return wrong, _finite(errors)
    # Right by accident, as memory that still holds an earlier answer, is not right.
    return (
        reason("bench.hollow", "a hollow CANN computes nothing") if bench.device.facts.get(HOLLOW) else None
    ), errors


def _finite(errors: Row) -> Row:
    """JSON has no infinities: an error that is none becomes null."""
    return {name: value if abs(value) < float("inf") else None for name, value in errors.items()}


def _series(bench: Bench, prepared: Prepared) -> tuple[dict[str, Series], Row]:
    """The series of each mode, and why a mode could not be."""
    series: dict[str, Series] = {}
    refused: Row = {}
    for mode in bench.job.modes:
        launches: Any = prepared.launches[:1] if mode == "hot" else prepared.launches
        if mode == "graph":
            launches = bench.provider.graph(list(prepared.launches))
        if isinstance(launches, str | Reason):
            refused[mode] = launches
        else:
            series[mode] = _sampled(bench, tuple(launches))
    return series, refused


def _sampled(bench: Bench, launches: tuple[Launch, ...]) -> Series:
    return sample(bench.provider, launches, bench.job.rule)


def mode_row(bench: Bench, case: Case, series: Series) -> Row:
    """A series in numbers: seconds a launch, achieved rates, distances from the limits, and its raw samples."""
    seconds = series.median_ns / 1e9
    interval = series.interval_ns
    work = case.work
    distances = (distance(work, case.dtype, seconds, limits) for limits in bench.limits)
    return {
        "n": len(series.samples),
        "median_s": seconds,
        "ci95_s": None if interval is None else [end / 1e9 for end in interval],
        "min_s": min(series.times_ns) / 1e9,
        "launch_s": series.launch_ns / 1e9,
        "stop": series.stop.reason,
        "noise": None if series.stop.noise == float("inf") else series.stop.noise,
        "marks": list(series.marks),
        "bytes_per_s": work.moved_bytes / seconds,
        "flops_per_s": work.flops / seconds,
        "limits": {known.source: {**asdict(known), "gap_s": known.gap_s} for known in distances if known is not None},
        "samples": [[batch.launches, batch.launch_ns, batch.wall_ns, batch.device_ns] for batch in series.samples],
    }


def needed_bytes(case: Case, steps: int) -> int:
    """Memory of a case: the cache and a copy of it in another layout, and query, keys and output of each step."""
    width = max(case.head_size, case.kv_lora_rank + case.rope_size)
    step = 4 * case.tokens * (case.heads + case.kv_heads) * width * 4
    return COPIES * case.cache_bytes + steps * step


def fit(case: Case, last_level_bytes: int, free_bytes: int) -> tuple[Case, int]:
    """The case on a cache for as many steps as make a rotation cold, and their number; 0: it does not fit.

    A rotation is cold where it touches `COLD_CACHES` times the last-level cache. A cache size that was asked for
    stands, and then holds as many steps as it can.
    """
    if needed_bytes(case, 1) > free_bytes:
        return case, 0
    step_bytes = max(1, case.used_blocks * case.block_size * case.token_cache_bytes)
    wanted = min(MOST_STEPS, -(-COLD_CACHES * last_level_bytes // step_bytes) + 1)
    if case.num_blocks:
        return case, max(1, min(wanted, case.num_blocks // case.used_blocks))
    spare = max(1, free_bytes // MOST_STEP_SHARE // max(1, needed_bytes(case, 1)))
    steps = max(1, min(wanted, spare))
    return replace(case, num_blocks=steps * case.used_blocks), steps


def _is_cold(device: Device, case: Case, steps: int) -> bool:
    touched = steps * case.used_blocks * case.block_size * case.token_cache_bytes
    return touched >= COLD_CACHES * device.cache_bytes


def _named(key: str, reasons: Mapping[str, Why]) -> Row:
    """Reasons by name, and beside them the messages of those that have one."""
    messages = {name: kept for name, why in reasons.items() if (kept := message_of(why))}
    return {
        key: {name: str(why) for name, why in reasons.items()},
        **({f"{key}_messages": messages} if messages else {}),
    }


def device_line(provider: Provider, device: Device, limits: tuple[Limits, ...]) -> Row:
    """The first line of a run: where it runs, what that can do, and what is missing."""
    missing = {path.name: path.missing for path in provider.paths() if path.missing}
    return {
        "event": "device",
        "provider": provider.name,
        **{key: value for key, value in asdict(device).items() if key != "facts"},
        "facts": dict(device.facts),
        **_named("missing", missing),
        "limits": [asdict(limit) for limit in limits],
    }
