"""What a comparison of requests shows beside its verdicts: percentile curves of both sides, and what each costs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.analysis.metrics import latencies
from harness.analysis.steady_state import is_open
from harness.comparison.comparison import Comparison
from harness.comparison.engines import EngineDifference
from harness.comparison.measures import stage_rows
from harness.comparison.repeats import Side
from harness.comparison.served import SERVED
from harness.messages import Message, localized
from harness.scenario.deployment import DECODE
from harness.scenario.metrics import USER_VIEW
from harness.statistics.intervals import Floats
from harness.units import format_change, format_duration, format_share, significant
from reports.figures.distributions import Spread, percentile_curves
from reports.figures.style import Head, drawing, scale_of
from reports.frames import percentile_frame
from reports.glossary import name_of
from reports.loads import column_title, load_text, short_labels
from reports.palette import stage_variables
from reports.rows import frame_of_rows
from reports.selection import ResultOptions, Selection, candidate_of, decision_text, selections
from reports.svg import Drawing, drawn
from reports.tables import Cell

METRICS = ("ttft", "tpot", "e2e")
_COST = "cost_per_million_output_tokens"
_COLUMNS = {
    "npu_token_rate": "page_decision.head_npu",
    "user_token_rate": "page_decision.head_user",
    _COST: "page_decision.head_cost",
    "kwh_per_million_output_tokens": "page_decision.head_energy",
}
_NO_INTERVALS = frame_of_rows([], ("stage", "share", "low", "high", "open"))


def overlays(comparison: Comparison) -> Iterator[Drawing]:
    """A figure a latency with the percentile curves of both sides; nothing where a side has no records."""
    stages = sorted({row.stage for row in comparison.judged})
    loads = comparison.new.repeats[0].run.get("stages") or ()
    names = dict(enumerate(short_labels(loads)))
    for metric in METRICS:
        sides = [_values(side, stages, metric) for side in (comparison.base, comparison.new)]
        if all(sides):
            own = USER_VIEW.get(metric, metric) if any(is_open(str(load.get("kind"))) for load in loads) else metric
            yield _overlay(comparison, own, sides, {stage: names.get(stage, str(stage + 1)) for stage in stages})


def _values(side: Side, stages: Sequence[int], metric: str) -> dict[int, Floats]:
    """The latencies of the requests that count, by stage, all repeats together, in the view of its load (s)."""
    values: dict[int, list[Floats]] = {}
    for repeat in side.repeats:
        for stage in stages:
            rows = stage_rows(repeat, stage)
            if rows is None:
                continue
            kind = str(rows.stage.load.get("kind"))
            own = USER_VIEW.get(metric, metric) if is_open(kind) else metric
            times = latencies(rows.stage.requests, stream=rows.stage.stream)[own]
            values.setdefault(stage, []).append(times[rows.counted & ~np.isnan(times)])
    joined = {stage: np.concatenate(parts) for stage, parts in values.items()}
    return {stage: column for stage, column in joined.items() if len(column)}


def _overlay(comparison: Comparison, metric: str, sides: Sequence[dict[int, Floats]], names: dict[int, str]) -> Drawing:
    base, new = (percentile_frame(side) for side in sides)
    scale = scale_of(np.concatenate([base["value"], new["value"]]), times=True)
    title = localized("page_compare.overlay", metric=name_of(metric))
    head = Head(title, localized("page_compare.overlay_subtitle"), simulated=comparison.simulated)
    upward = localized("figures.axis", name=name_of(metric), unit=scale.unit)
    series = [
        localized(code, stage=names[stage], values=[format_duration(float(np.quantile(side[stage], q))) for q in _QS])
        for code, side in zip(("page_compare.overlay_base", "page_compare.overlay_new"), sides, strict=True)
        for stage in side
    ]
    spread = Spread(new, base, _NO_INTERVALS, names, upward=upward)
    with drawing():
        figure = percentile_curves(spread, scale, head)
        return drawn(figure, f"overlay-{metric}", head, localized("figures.percentiles", series=series))


_QS = (0.5, 0.9, 0.99)


def compared_results(comparison: Comparison) -> list[ResultOptions]:
    """The runs of both sides as results that may stand in one decision."""
    sides = (("page_compare.base", comparison.base), ("page_compare.new", comparison.new))
    return [
        candidate_of(_name(localized(code), run.name, alone=len(side.runs) == 1), run.run, run.summary)
        for code, side in sides
        for run in side.runs
    ]


def _name(side: str, run: str, *, alone: bool) -> str:
    """A side; of one with several runs, with the run."""
    return side if alone else localized("page_compare.side_run", side=side, run=run)


def decision_of(comparison: Comparison) -> Selection | None:
    """The decision between the sides where they may stand in one; None where nothing of them can be judged."""
    return next(iter(selections(compared_results(comparison))), None) if _may_decide(comparison) else None


def decision_words(comparison: Comparison) -> Message | None:
    """That decision in words, without a figure."""
    may = comparison.kind is SERVED and _may_decide(comparison)
    return decision_text(compared_results(comparison)) if may else None


def _may_decide(comparison: Comparison) -> bool:
    return comparison.is_valid and len(comparison.unjudged) < len(comparison.judged)


def efficiency_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Of each stage that both sides have: `stage`, `label`, and both sides' efficiency, by the first run of each."""
    base, new = (candidate_of("", side.runs[0].run, side.runs[0].summary) for side in (comparison.base, comparison.new))
    first = {int(stage.get("index") or 0): stage for stage in reversed(base.choice.stages)}
    rows = []
    for stage in new.choice.stages:
        index = int(stage.get("index") or 0)
        if index in first and not stage.get("repeat"):
            sides = {"base": first[index]["efficiency"], "new": stage["efficiency"]}
            rows.append({"stage": index, "label": stage.get("label"), **sides})
    return rows


def efficiency_table(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """The heads and rows of throughput per NPU, a user's rate, cost and energy on both sides; no rows of kernels."""
    rows = efficiency_rows(comparison)
    known = [name for name in _COLUMNS if any(row[side].get(name) is not None for row in rows for side in _SIDES)]
    heads = [localized("page.stages.stage"), *(localized(_COLUMNS[name]) for name in known)]
    stages = comparison.new.runs[0].summary.get("stages") or ()
    loads = {int(stage.get("index") or 0): load_text(stage) for stage in stages}
    cells = [
        [Cell(column_title(row["stage"], loads[row["stage"]])), *(_pair(row, name) for name in known)] for row in rows
    ]
    return heads, cells


_SIDES = ("base", "new")


def _pair(row: dict[str, Any], name: str) -> Cell:
    """Both sides' values, and below them how many times the base's the new one is."""
    base, new = (row[side].get(name) for side in _SIDES)
    units = [row[side].get("currency") or "" if name == _COST else "" for side in _SIDES]
    same = units[0] == units[1]
    each = ["–" if value is None else significant(value) for value in (base, new)]
    shown = " → ".join(each) + f" {units[0]}" if same else " → ".join(map(" ".join, zip(each, units, strict=True)))
    return Cell(shown.strip(), localized("page_compare.times", ratio=new / base) if base and new and same else "")


def colours(comparison: Comparison) -> dict[str, str]:
    """Colours of stages, and of both sides' runs in the decision."""
    sides = (comparison.base, comparison.new)
    stages = [stage for side in sides for repeat in side.repeats for stage in repeat.kind.load_stages(repeat)]
    count = max([0, *stages]) + 1
    count = max(count, sum(len(side.runs) for side in sides))
    return {"light": stage_variables(count, dark=False), "dark": stage_variables(count, dark=True)}


def beside(comparison: Comparison) -> dict[str, Any]:
    """What stands beside the verdicts of requests: percentile curves, throughput per NPU, cost, and the decision."""
    if comparison.kind is not SERVED:
        return {"overlays": (), "decision": None, "efficiency_heads": (), "efficiency": ()}
    heads, rows = efficiency_table(comparison)
    return {
        "overlays": list(overlays(comparison)),
        "decision": decision_of(comparison),
        "efficiency_heads": heads,
        "efficiency": rows if len(heads) > 1 else (),
    }


_ENGINE_COLUMNS = {
    "running": "page_compare.engine_running",
    "waiting": "page_compare.engine_waiting",
    "kv_use": "page_compare.engine_kv_use",
    "prompt_tokens": "page_compare.engine_prompts",
    "generation_tokens": "page_compare.engine_output",
    "preemptions": "page_compare.engine_preemptions",
}


def engine_heads() -> list[str]:
    """The columns of `engine_rows`."""
    return [localized("page_compare.engine_name"), *map(localized, _ENGINE_COLUMNS.values())]


def engine_rows(comparison: Comparison) -> list[tuple[str, list[list[Cell]]]]:
    """By stage the engines that both sides have: each value on both sides, and by how much it changed."""
    titles = {row.stage: localized(row.title) for row in (*comparison.judged, *comparison.shown)}
    stages: dict[int, list[list[Cell]]] = {}
    for change in comparison.engines:
        cells = [_engine_cell(change, quantity) for quantity in _ENGINE_COLUMNS]
        stages.setdefault(change.stage, []).append([Cell(change.name, foreign=True), *cells])
    return [(titles.get(stage, str(stage + 1)), rows) for stage, rows in stages.items()]


def _engine_cell(change: EngineDifference, quantity: str) -> Cell:
    if (change.role, quantity) == (DECODE, "prompt_tokens"):
        return Cell("–")  # the other side of the pair computes prompts
    sides = [
        "–" if value is None else format_share(value) if quantity == "kv_use" else significant(value)
        for value in (change.base.get(quantity), change.new.get(quantity))
    ]
    ratio = change.ratio(quantity)
    return Cell(f"{sides[0]} → {sides[1]}", "" if ratio is None else f"{format_change(100 * (ratio - 1))} %")
