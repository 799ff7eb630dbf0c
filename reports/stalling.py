"""Pauses as tables and sentences: those of all responses, those that prefill explains, those of single requests."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.analysis.stalls import stall_blocks
from harness.messages import localized
from harness.results.folder import number
from harness.results.request_table import Samples
from harness.units import NS_PER_S, format_count, format_duration, significant
from reports import frames
from reports.data import Data
from reports.loads import column_title
from reports.tables import Cell
from reports.texts import listed, paragraph

SHOWN = 8  # rows of a table; the figure marks all
MARKED = 400  # bands in a figure

StagePauses = Mapping[str, Any]  # of summary.json

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


def stage_pauses(data: Data) -> Sequence[StagePauses]:
    """The pauses of each stage, as summary.json has them; computed where an earlier version wrote it."""
    blocks: Sequence[StagePauses] | None = data.result.summary.get("stalls")
    return _computed(data) if blocks is None else blocks


def _computed(data: Data) -> Sequence[StagePauses]:
    if data.events is None or not data.streams:
        return []
    medians = {stage.get("index", 0): number((stage.get("chunk_gap") or {}).get("p50")) for stage in data.result.stages}
    known = {stage: median_s for stage, median_s in medians.items() if np.isfinite(median_s)}
    rows = data.result.samples
    source, name = (rows[column].astype(str).to_numpy(dtype=object) for column in ("source", "name"))
    samples = Samples(rows["at_ns"].to_numpy(), source, name, rows["value"].to_numpy())
    return stall_blocks(frames.request_columns(data.result), data.events, samples, known)


def marks(blocks: Sequence[StagePauses]) -> list[tuple[float, float]]:
    """Beginnings and ends (s) of the stalls, those that cost most where they are very many."""
    costliest = _costliest(blocks, "server")[:MARKED]
    return sorted((stall["start_ns"] / NS_PER_S, stall["end_ns"] / NS_PER_S) for _, stall in costliest)


def pause_spans(blocks: Sequence[StagePauses]) -> list[tuple[float, float, str, str]]:
    """The listed pauses of many streams in the order of time: begin and end (s), what each is, and its causes."""
    kinds = (("server", "page.pauses.stall_kind"), ("prefill", "page.pauses.interference_kind"))
    pauses = [
        (
            pause["start_ns"] / NS_PER_S,
            pause["end_ns"] / NS_PER_S,
            localized(code),
            listed([localized("page.pauses.hit_streams", **_hit(pause)), *causes(pause.get("beside") or {})], "parts"),
        )
        for kind, code in kinds
        for _, pause in _costliest(blocks, kind)
    ]
    return sorted(pauses)


def _hit(pause: StagePauses) -> dict[str, Any]:
    return {name: pause[name] for name in ("hit", "streams")}


def _costliest(blocks: Sequence[StagePauses], kind: str) -> list[tuple[int, StagePauses]]:
    """The listed pauses of a kind with their stages, those that cost most first."""
    pairs = [(block["stage"], pause) for block in blocks for pause in block[kind]["listed"]]
    return sorted(pairs, key=lambda pair: -pair[1]["lost_s"])


def summary(blocks: Sequence[StagePauses]) -> str:
    """The kinds of pause in a sentence each."""
    if not blocks:
        return ""
    stalls, total_s = _sum(blocks, "server", "count"), _sum(blocks, "server", "total_s")
    gaps, requests = _sum(blocks, "requests", "gaps"), _sum(blocks, "requests", "requests")
    prefills = _interference(blocks)
    if not stalls and not gaps and not prefills:
        return localized("page.pauses.none")
    first = localized("page.pauses.no_stall")
    if stalls:
        first = localized("page.pauses.stalls_sum", stalls=stalls, total_s=total_s)
    rest = localized("page.pauses.single_sum", gaps=gaps, requests=requests)
    return paragraph((first, prefills, rest))


def _sum(blocks: Sequence[StagePauses], kind: str, key: str) -> Any:
    return sum(block[kind][key] for block in blocks)


def _interference(blocks: Sequence[StagePauses]) -> str:
    """The pauses that the prefill of prompts explains; empty where there are none."""
    shared, total_s, alone = (_sum(blocks, "prefill", key) for key in ("count", "total_s", "gaps"))
    if not shared and not alone:
        return ""
    return localized("page.pauses.interference_sum", pauses=shared, total_s=total_s, gaps=alone)


def stall_rows(data: Data, blocks: Sequence[StagePauses]) -> list[list[Cell]]:
    """The stalls that cost most, in the order of time."""
    return _worst(data, _costliest(blocks, "server"))


def interference_rows(data: Data, blocks: Sequence[StagePauses]) -> list[list[Cell]]:
    """The shared pauses that prefill explains and that cost most, in the order of time."""
    return _worst(data, _costliest(blocks, "prefill"))


def _worst(data: Data, costliest: Sequence[tuple[int, StagePauses]]) -> list[list[Cell]]:
    worst = sorted(costliest[:SHOWN], key=lambda pair: pair[1]["start_ns"])
    return [_row(data, stage, stall) for stage, stall in worst]


def _row(data: Data, stage: int, stall: StagePauses) -> list[Cell]:
    return [
        Cell(_moment(stall["start_ns"])),
        Cell(data.titles.get(stage, column_title(stage))),
        Cell(format_duration((stall["end_ns"] - stall["start_ns"]) / NS_PER_S)),
        Cell(localized("page.pauses.hit_of", hit=stall["hit"], streams=stall["streams"])),
        Cell(listed(causes(stall.get("beside") or {}), "parts") or localized("page.pauses.nothing_sampled")),
    ]


def _moment(at_ns: int) -> str:
    """A time since the run began, to be found on the axis of the figures."""
    return f"{significant(at_ns / NS_PER_S, 4)} s"


def causes(beside: Mapping[str, Any]) -> list[str]:
    """Possible causes of a pause, from samples and records of its time."""
    causes_of = (
        ("page.pauses.prefilling", {"prompts": "prompts", "tokens": "prompt_tokens"}),
        ("page.pauses.preemptions", {"preemptions": "preemptions"}),
        ("page.pauses.kv_full", {"share": "kv_cache_usage"}),
        ("page.pauses.client_late", {"late_s": "loop_lag_s"}),
    )
    return [
        localized(code, **{name: beside[key] for name, key in keys.items()})
        for code, keys in causes_of
        if all(key in beside for key in keys.values())
    ]


def single_rows(data: Data, blocks: Sequence[StagePauses]) -> list[list[Cell]]:
    """The requests whose own long gaps took most time."""
    pairs = [(block["stage"], row) for block in blocks for row in block["requests"]["listed"]]
    return [
        [
            Cell(f"#{row['index']}"),
            Cell(data.titles.get(stage, column_title(stage))),
            Cell(format_count(row["gaps"])),
            Cell(format_duration(row["longest_s"])),
            Cell(_moment(row["start_ns"])),
        ]
        for stage, row in sorted(pairs, key=lambda pair: -pair[1]["total_s"])[:SHOWN]
    ]
