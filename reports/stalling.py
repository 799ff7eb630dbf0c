"""Pauses that all responses shared, what else happened then, and pauses of single requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.stalls import Pauses, PrefillWork, Stall, pauses, prefill_work
from harness.messages import localized
from harness.results.folder import number
from harness.results.request_table import MISSING
from harness.statistics.intervals import Floats
from harness.telemetry import server_metrics
from harness.units import NS_PER_S, format_count, format_duration, significant
from reports.data import Data
from reports.loads import column_title
from reports.rows import groups_of
from reports.tables import Cell
from reports.texts import listed, paragraph

SHOWN = 8  # rows of a table; the figure marks all
KV_FULL = 0.95
LATE_LOOP_S = 0.01  # of the client's own event loop: then the pause may be the client's
MARKED = 400  # bands in a figure
_HEADS = (
    "page.pauses.when",
    "page.stages.stage",
    "page.pauses.how_long",
    "page.pauses.streams",
    "page.pauses.also",
)
_SINGLE_HEADS = (
    "page.pauses.request",
    "page.stages.stage",
    "page.pauses.long_gaps",
    "page.pauses.longest",
    "page.pauses.at",
)


def heads() -> list[str]:
    """The columns of `stall_rows` and `interference_rows`."""
    return [localized(code) for code in _HEADS]


def single_heads() -> list[str]:
    """The columns of `single_rows`."""
    return [localized(code) for code in _SINGLE_HEADS]


@dataclass(frozen=True, slots=True)
class StagePauses:
    """The pauses of one stage, repeats together."""

    number: int
    pauses: Pauses


def stage_pauses(data: Data) -> list[StagePauses]:
    """Pauses of every stage whose answers came event by event."""
    if data.events is None or not data.streams:
        return []
    medians = {stage.get("index", 0): number((stage.get("chunk_gap") or {}).get("p50")) for stage in data.result.stages}
    place = data.latencies["place"].to_numpy()
    work = _work(data)
    parts = [(stage, np.isin(place, rows["place"].to_numpy())) for stage, rows in groups_of(data.places, "stage")]
    return [StagePauses(stage, pauses(data.events, mask, medians[stage], work)) for stage, mask in parts
            if np.isfinite(medians.get(stage, np.nan))]  # fmt: skip


def _work(data: Data) -> PrefillWork:
    rows = data.result.requests
    prompts = np.maximum(rows["input_tokens"].to_numpy(), rows["input_asked"].to_numpy())
    return prefill_work(rows["sent_ns"].to_numpy(), rows["first_ns"].to_numpy(), prompts)


def marks(stages: Sequence[StagePauses]) -> list[tuple[float, float]]:
    """Beginnings and ends (s) of the stalls, those that cost most where they are very many."""
    every = sorted((stall for stage in stages for stall in stage.pauses.stalls), key=lambda stall: -stall.lost_ns)
    return sorted((stall.start_ns / NS_PER_S, stall.end_ns / NS_PER_S) for stall in every[:MARKED])


def summary(stages: Sequence[StagePauses]) -> str:
    """The kinds of pause in a sentence each."""
    if not stages:
        return ""
    stalls = [stall for stage in stages for stall in stage.pauses.stalls]
    single = sum(len(stage.pauses.single.row) for stage in stages)
    requests = sum(len(np.unique(stage.pauses.single.row)) for stage in stages)
    prefills = _interference(stages)
    if not stalls and not single and not prefills:
        return localized("page.pauses.none")
    first = localized("page.pauses.no_stall")
    if stalls:
        first = localized("page.pauses.stalls_sum", stalls=len(stalls), total_s=_total_s(stalls))
    rest = localized("page.pauses.single_sum", gaps=single, requests=requests)
    return paragraph((first, prefills, rest))


def _total_s(stalls: Sequence[Stall]) -> float:
    return sum(stall.end_ns - stall.start_ns for stall in stalls) / NS_PER_S


def _interference(stages: Sequence[StagePauses]) -> str:
    """The pauses that the prefill of prompts explains; empty where there are none."""
    shared = [stall for stage in stages for stall in stage.pauses.interference]
    alone = sum(len(stage.pauses.interfered.row) for stage in stages)
    if not shared and not alone:
        return ""
    return localized("page.pauses.interference_sum", pauses=len(shared), total_s=_total_s(shared), gaps=alone)


def stall_rows(data: Data, stages: Sequence[StagePauses]) -> list[list[Cell]]:
    """The stalls that cost most, in the order of time."""
    return _worst(data, [(stage.number, stall) for stage in stages for stall in stage.pauses.stalls])


def interference_rows(data: Data, stages: Sequence[StagePauses]) -> list[list[Cell]]:
    """The shared pauses that prefill explains and that cost most, in the order of time."""
    return _worst(data, [(stage.number, stall) for stage in stages for stall in stage.pauses.interference])


def _worst(data: Data, every: Sequence[tuple[int, Stall]]) -> list[list[Cell]]:
    worst = sorted(sorted(every, key=lambda pair: -pair[1].lost_ns)[:SHOWN], key=lambda pair: pair[1].start_ns)
    return [_row(data, stage, stall) for stage, stall in worst]


def _row(data: Data, stage: int, stall: Stall) -> list[Cell]:
    return [
        Cell(_moment(stall.start_ns)),
        Cell(data.titles.get(stage, column_title(stage))),
        Cell(format_duration((stall.end_ns - stall.start_ns) / NS_PER_S)),
        Cell(localized("page.pauses.hit_of", hit=stall.hit, streams=stall.streams)),
        Cell(listed(causes(data, stall), "parts") or localized("page.pauses.nothing_sampled")),
    ]


def _moment(at_ns: int) -> str:
    """A time since the run began, to be found on the axis of the figures."""
    return f"{significant(at_ns / NS_PER_S, 4)} s"


def causes(data: Data, stall: Stall) -> list[str]:
    """What was sampled or recorded at the time of a stall that may explain it."""
    reasons = []
    prompts, tokens = _prefilling(data, stall)
    if prompts:
        reasons.append(localized("page.pauses.prefilling", prompts=prompts, tokens=tokens))
    risen = _around(data, "vllm:num_preemptions_total", stall)
    if len(risen) > 1 and risen[-1] > risen[0]:
        reasons.append(localized("page.pauses.preemptions", preemptions=float(risen[-1] - risen[0])))
    full = _around(data, f"vllm:kv_cache_usage_perc{server_metrics.MAXIMUM}", stall)  # of several engines
    full = full if len(full) else _around(data, "vllm:kv_cache_usage_perc", stall)
    if full.max(initial=0) >= KV_FULL:
        reasons.append(localized("page.pauses.kv_full", share=float(full.max())))
    late = _around(data, "loop_lag_s", stall, before=False)
    if late.max(initial=0) >= LATE_LOOP_S:
        reasons.append(localized("page.pauses.client_late", late_s=float(late.max())))
    return reasons


def _prefilling(data: Data, stall: Stall) -> tuple[int, int]:
    """Requests that were sent and had no token yet while a stall went on, and the tokens of their prompts."""
    rows = data.result.requests
    sent, first, done = (rows[name].to_numpy() for name in ("sent_ns", "first_ns", "done_ns"))
    over = np.where(first != MISSING, first, done)
    then = (sent != MISSING) & (sent < stall.end_ns) & (over > stall.start_ns)
    return int(then.sum()), int(np.maximum(rows["input_tokens"], rows["input_asked"])[then].clip(lower=0).sum())


def _around(data: Data, name: str, stall: Stall, *, before: bool = True) -> Floats:
    """Sampled values from the one before a stall (or its first) to the one after it."""
    samples = data.result.samples
    whole = ~samples["source"].astype(str).str.startswith(
        f"{server_metrics.SERVER}/"
    )  # an engine is part of its server
    own = samples[(samples["name"] == name) & whole]
    at_ns, value = own["at_ns"].to_numpy(), own["value"].to_numpy()
    order = np.argsort(at_ns, kind="stable")
    first = max(0, int(np.searchsorted(at_ns[order], stall.start_ns, side="right")) - before)
    last = int(np.searchsorted(at_ns[order], stall.end_ns, side="left")) + 1
    return np.asarray(value[order][first:last])


def single_rows(data: Data, stages: Sequence[StagePauses]) -> list[list[Cell]]:
    """The requests whose own long gaps took most time."""
    rows = [row for entry in stages for row in _slowest(entry)]
    worst = sorted(rows, key=lambda row: -row[0])[:SHOWN]
    index = data.result.requests["index"].to_numpy()
    return [
        [
            Cell(f"#{index[row]}"),
            Cell(data.titles.get(stage, column_title(stage))),
            Cell(format_count(count)),
            Cell(format_duration(longest_ns / NS_PER_S)),
            Cell(_moment(at_ns)),
        ]
        for _, stage, row, count, longest_ns, at_ns in worst
    ]


def _slowest(stage: StagePauses) -> list[tuple[float, int, int, int, int, int]]:
    """Of a stage's slowest answers: the time in long gaps (ns), stage, row, gaps, the longest gap and its start."""
    gaps = stage.pauses.single
    took_ns = gaps.end_ns - gaps.start_ns
    whole = np.bincount(gaps.row, weights=took_ns) if len(gaps.row) else np.zeros(0)
    rows = []
    for row in np.argsort(-whole, kind="stable")[:SHOWN].tolist():
        own = np.flatnonzero(gaps.row == row)
        if len(own):
            longest = own[np.argmax(took_ns[own])]
            rows.append(
                (float(whole[row]), stage.number, row, len(own), int(took_ns[longest]), int(gaps.start_ns[longest]))
            )
    return rows
