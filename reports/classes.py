"""Classes of requests on a run's page: the figures of each, and what adapters cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.classes import COSTS, FORM, MODEL, PRIORITY, change_of
from harness.messages import localized
from harness.results.folder import ResultFiles, number
from harness.units import format_count, format_share, significant, time_scale
from reports.glossary import name_of
from reports.loads import column_title, load_text
from reports.tables import Cell

Stage = Mapping[str, Any]
_TITLES = {MODEL: "page.classes.by_model", PRIORITY: "page.classes.by_priority", FORM: "page.classes.by_form"}
_FORMS = {"": "page.classes.free", "structured": "page.classes.structured", "tools": "page.classes.tools"}
_LATENCIES = (("ttft_user", "ttft"), ("tpot",), ("e2e_user", "e2e"))


@dataclass(frozen=True, slots=True)
class KindTable:
    """A table with its title; the first cell of a row names it."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def class_tables(result: ResultFiles) -> list[KindTable]:
    """For each trait in which requests differ a table: a row for each of its values in each stage."""
    stages = [stage for stage in result.stages if stage.get("classes")]
    traits = dict.fromkeys(str(row["by"]) for stage in stages for row in stage["classes"])
    return [_class_table(stages, trait, many=len(stages) > 1) for trait in traits]


def _class_table(stages: Sequence[Stage], trait: str, *, many: bool) -> KindTable:
    rows = [(stage, row) for stage in stages for row in stage["classes"] if row["by"] == trait]
    views = [next((view for view in pair if any(row.get(view) for _, row in rows)), "") for pair in _LATENCIES]
    shown = [(view, name) for view in views if view for name in ("p50", "p99")]
    scales = {view: _scale(rows, view) for view in views if view}
    held = any(row.get("forms") for _, row in rows)
    heads = [
        *([localized("page.stages.stage")] if many else []),
        localized(_TITLES[trait]),
        localized("page.cards.completed"),
        localized("page.stages.failed"),
        *([localized("page.counts.forms")] if held else []),
        f"{localized('page.stages.output')} tokens/s",
        *(f"{name_of(view)} {name} {scales[view][1]}" for view, name in shown),
    ]
    return KindTable(
        localized("page.classes.title_of", trait=localized(_TITLES[trait])),
        heads,
        [
            [
                *([Cell(column_title(stage.get("index") or 0, load_text(stage)))] if many else []),
                _class_name(trait, row),
                Cell(format_count(row.get("completed"))),
                Cell(format_count(row.get("failed"))),
                *([Cell(_share(row))] if held else []),
                Cell(significant(number(row.get("output_token_rate")))),
                *(_time(row.get(view) or {}, name, scales[view][0]) for view, name in shown),
            ]
            for stage, row in rows
        ],
    )


def _scale(rows: Sequence[tuple[Stage, Stage]], view: str) -> tuple[float, str]:
    return time_scale(max((number((row.get(view) or {}).get("p99")) for _, row in rows if row.get(view)), default=0.0))


def _time(values: Stage, name: str, size: float) -> Cell:
    """A statistic in its column's unit, its interval under it."""
    pair = (values.get("ci95") or {}).get(name)
    below = "–".join(significant(end / size) for end in pair) if pair else ""
    return Cell(significant(number(values.get(name)) / size), below)


def _class_name(trait: str, row: Stage) -> Cell:
    if trait == FORM:
        return Cell(localized(_FORMS.get(str(row["name"]), "page.classes.free")))
    return Cell(str(row["name"]), foreign=trait == MODEL)


def _share(row: Stage) -> str:
    forms = row.get("forms") or {}
    return format_share(forms["kept"] / forms["held"]) if forms.get("held") else "–"


_COST_HEADS = {"ttft_p50": "TTFT p50", "tpot_p50": "TPOT p50"}


def cost_table(result: ResultFiles) -> KindTable | None:
    """What adapters cost: a row for each number of them, against the model alone; None where no load was run so."""
    rows = result.summary.get("adapters") or ()
    if not rows:
        return None
    loads = {stage.get("index"): stage for stage in result.stages}
    scales = {name: time_scale(max(number(row.get(name)) for row in rows)) for name in COSTS if name in _COST_HEADS}
    heads = [localized("page.stages.stage"), localized("page.classes.adapters")]
    for name in COSTS:
        unit = (
            f"{_COST_HEADS[name]} {scales[name][1]}"
            if name in scales
            else f"{localized('page.stages.output')} tokens/s"
        )
        heads += [unit, localized("page.classes.against_none")]
    return KindTable(localized("page.classes.cost"), heads, [_cost_row(row, loads, scales) for row in rows])


def _cost_row(row: Stage, loads: Mapping[Any, Stage], scales: Mapping[str, tuple[float, str]]) -> list[Cell]:
    stage = loads.get(row["stage"]) or {}
    cells = [Cell(column_title(row["stage"], load_text(stage))), Cell(format_count(row["adapters"]))]
    for name in COSTS:
        size = scales[name][0] if name in scales else 1.0
        cells += [Cell(significant(number(row.get(name)) / size)), Cell(localized(change_of(row, name)))]
    return cells
