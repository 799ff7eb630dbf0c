"""The page of a comparison, and its compare.md, compare.xml and compare.json."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml  # noqa: ICN001 - a name that says what it is; written here, never read

from harness.comparison.comparability import ChangedSetting
from harness.comparison.comparison import Comparison
from harness.comparison.describe import (
    allowed_text,
    change,
    describe_row,
    detectable_text,
    interval,
    name_of,
    percent_of,
    value_text,
    verdict_message,
)
from harness.comparison.judging import BETTER, NO_DIFFERENCE, NOT_JUDGED, UNDETERMINED, VERDICTS, WORSE, ComparisonRow
from harness.comparison.kernels import KERNELS
from harness.comparison.repeats import Side
from harness.comparison.served import SERVED
from harness.messages import Message, localized, message
from harness.units import format_count, format_share
from reports import ci_files, compare_figures
from reports.assets import page_script
from reports.ci_files import MARKS, plain, row_of, simulated_lines, warning_line
from reports.figures.changes import Bar, forest
from reports.figures.style import Head, drawing
from reports.glossary import TERMS
from reports.headline import Badge, WarningGroup
from reports.page import environment, moment
from reports.svg import Drawing, drawn
from reports.tables import Cell
from reports.texts import write_text

PAGE = "compare.html"
MOST_DRAWN = 40  # measurements of kernels in the figure; the table has all
_HEADS = (
    "page_compare.base_head",
    "page_compare.new_head",
    "page_compare.change",
    "page_compare.interval",
    "page_compare.can_see",
    "page_compare.allowed",
    "page_compare.verdict",
)
_SAID = ("ttft", "ttft_user", "tpot", "itl", "e2e", "e2e_user")
_TONES = {WORSE: "bad", BETTER: "good"}
_VERDICTS = {  # of the whole: its code and its tone
    BETTER: ("page_compare.verdict_better", "good"),
    WORSE: ("page_compare.verdict_worse", "bad"),
    NO_DIFFERENCE: ("page_compare.verdict_same", "plain"),
    UNDETERMINED: ("page_compare.verdict_undetermined", "plain"),
    NOT_JUDGED: ("page_compare.verdict_unknown", "plain"),
}
_BOTH = ("page_compare.verdict_both", "bad")


@dataclass(frozen=True, slots=True)
class KindPage:
    """What a page has its own way for a kind of result: codes of its words, its terms, and the rows of its figure."""

    first_head: str
    surroundings: tuple[str, str]
    figure: str
    fewest: str
    noise: str
    method: str
    caption: Callable[[str], str]
    drawn: Callable[[Sequence[ComparisonRow]], Sequence[ComparisonRow]]
    terms: Mapping[str, Any] = field(default_factory=dict)
    foreign_label: bool = False


def _largest(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The measurements that changed most, in their own order."""
    largest = sorted(rows, key=lambda row: -abs(row.effect.estimate) if row.effect else -math.inf)[:MOST_DRAWN]
    return sorted(largest, key=lambda row: row.stage)


KINDS = {
    SERVED.name: KindPage(
        first_head="page_compare.measure",
        surroundings=("page_compare.engine", "page_compare.model"),
        figure="page_compare.figure",
        fewest="page_compare.fewest_stage",
        noise="page_compare.noise_engine",
        method="page_compare.method_load",
        caption=lambda stage: localized("page_compare.measures_at", stage=stage),
        drawn=lambda rows: rows,
        terms={key: TERMS[key] for key in _SAID if key in TERMS},
    ),
    KERNELS.name: KindPage(
        first_head="page_compare.kernel",
        surroundings=("page_compare.provider", "page_compare.device"),
        figure="page_compare.figure_kernels",
        fewest="page_compare.fewest_kernel",
        noise="page_compare.noise_kernel",
        method="page_compare.method_kernels",
        caption=lambda _stage: localized("page_compare.kernel_times"),
        drawn=_largest,
        foreign_label=True,
    ),
}


def write(folder: Path, comparison: Comparison) -> Path:
    """Draw compare.html into a folder; its path."""
    return write_text(folder / PAGE, render(comparison))


def render(comparison: Comparison) -> str:
    """The page of a comparison as HTML."""
    return environment().get_template("compare.html").render(_context(comparison))


def _context(comparison: Comparison) -> dict[str, Any]:
    page = KINDS[comparison.kind.name]
    return {
        "found": comparison,
        "simulated": comparison.simulated,
        "colours": compare_figures.colours(comparison),
        **page_script(),
        "title": localized("page_compare.title", base=comparison.base.name, new=comparison.new.name),
        "answer": localized(comparison.answer),
        "sees": "" if comparison.sensitivity is None else localized(comparison.sensitivity),
        "badges": list(badges(comparison)),
        "warnings": groups_of_warnings(comparison),
        "figure": _figure(comparison),
        "heads": heads(localized(page.first_head)),
        **compare_figures.beside(comparison),
        "engine_heads": compare_figures.engine_heads(),
        "engines": compare_figures.engine_rows(comparison),
        "judged": by_stage(comparison.judged),
        "shown": by_stage(comparison.shown),
        "changes": [_change_cells(setting) for setting in comparison.changes],
        "runs": [row for name, side in _sides(comparison) for row in _run_rows(name, side)],
        "gate": _gate_rows(comparison),
        "terms": page.terms,
        "run_heads": _run_heads(page),
        "page": page,
        "method": localized(page.method),
    }


def _change_cells(setting: ChangedSetting) -> tuple[Cell, Cell, Cell]:
    """A setting that differs; what has no name of its own has one of ours."""
    name = Cell(localized(setting.label), foreign=setting.kind in ("", "argument"))
    return name, Cell(setting.base, foreign=True), Cell(setting.new, foreign=True)


def heads(first: str) -> list[str]:
    """The columns of `cells`, below this name of the first."""
    return [first, *(localized(code) for code in _HEADS)]


def _run_heads(page: KindPage) -> list[str]:
    codes = ("page_compare.side", "page_compare.folder", "page.started", *page.surroundings, "page.result")
    return [localized(code) for code in codes]


def _sides(comparison: Comparison) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return (localized("page_compare.base"), comparison.base), (localized("page_compare.new"), comparison.new)


def groups_of_warnings(comparison: Comparison) -> list[WarningGroup]:
    """The warnings of a comparison."""
    return [WarningGroup(row.severity, row.next, [("", row.text)]) for row in comparison.warnings]


def badges(comparison: Comparison) -> Iterator[Badge]:
    """The verdict of the whole, and whether the gate holds."""
    code, tone = _VERDICTS.get(comparison.verdict, _BOTH)
    yield Badge(localized(code), tone, "#judged")
    if comparison.broken:
        yield Badge(localized("page_compare.gate_broken", count=len(comparison.broken)), "bad", "#judged")
    elif len(comparison.unjudged) == len(comparison.judged):
        yield Badge(localized("page_compare.gate_nothing"), "warn", "#judged")
    elif comparison.unjudged:
        text = localized("page_compare.gate_partly", untold=len(comparison.unjudged), judged=len(comparison.judged))
        yield Badge(text, "warn", "#judged")
    else:
        yield Badge(localized("page_compare.gate_held"), "good", "#judged")


def by_stage(rows: Sequence[ComparisonRow]) -> list[tuple[str, list[list[Cell]]]]:
    """Stages in their order, each with its rows as cells; of kernels, what stands under one label."""
    groups: dict[tuple[int | None, str], list[ComparisonRow]] = {}
    for row in rows:
        groups.setdefault((None if row.part else row.stage, row.label), []).append(row)
    return [(localized(own[0].title), [cells(row) for row in own]) for own in groups.values()]


def cells(row: ComparisonRow) -> list[Cell]:
    """One row, as `heads` names its cells."""
    counts = " / ".join(format_count(count) for count in row.counts)
    return [
        Cell(localized(row.part_name or name_of(row.measure)), f"n {counts}"),
        Cell(value_text(row.measure, row.base)),
        Cell(value_text(row.measure, row.new)),
        Cell(
            localized(change(row)),
            localized("page_compare.equal_work") if row.adjusted else "",
            tone=_TONES.get(row.verdict, "plain"),
        ),
        Cell(localized(interval(row))),
        Cell(detectable_text(row.detectable)),
        Cell(allowed_text(row.allowed)),
        Cell(localized(verdict_message(row)), tone=_TONES.get(row.verdict, "plain")),
    ]


def verdict_name(verdict: str) -> str:
    """The name of the verdict on a measure in the current language."""
    return localized(VERDICTS[verdict])


def _figure(comparison: Comparison) -> Drawing | None:
    page = KINDS[comparison.kind.name]
    rows = page.drawn(comparison.judged)
    bars = list(_bars(rows))
    if all(bar.change is None for bar in bars):
        return None
    subtitle = localized("page_compare.figure_subtitle")
    if len(rows) < len(comparison.judged):
        subtitle = localized("page_compare.figure_subtitle_some", shown=len(rows))
    head = Head(localized(page.figure), subtitle, simulated=comparison.simulated)
    words = localized("page_compare.figure_description", rows=[_words(row) for row in rows])
    caption = localized("page_compare.figure_caption", smallest=allowed_text(comparison.gate.smallest))
    with drawing():
        return drawn(forest(bars, head), "forest", head, words, caption)


def _words(row: ComparisonRow) -> str:
    """A row of the figure in its alternative text."""
    name = row.place
    if not row.part:
        name = message("page_compare.measure_at", measure=name_of(row.measure), stage=row.place)
    return localized("page_compare.figure_row", name=name, change=change(row), verdict=VERDICTS[row.verdict])


def _bars(rows: Sequence[ComparisonRow]) -> Iterator[Bar]:
    title: Message | None = None
    for row in rows:
        if row.title != title:
            title = row.title
            yield Bar(localized(title))
        name = _short(localized(row.part_name)) if row.part_name else localized(name_of(row.measure))
        tone = _TONES.get(row.verdict, "plain")
        if row.ratio is None or row.low is None or row.high is None:
            yield Bar(name, verdict=verdict_name(row.verdict), tone=tone)
            continue
        percent, low, high = (percent_of(row, value) for value in (row.ratio, row.low, row.high))
        allowed = None if row.allowed is None else 100 * row.allowed * (-1 if row.measure.more_is_better else 1)
        verdict = localized("page_compare.worse_broken") if row.broken else verdict_name(row.verdict)
        yield Bar(name, percent, low, high, verdict, allowed, tone)


def _short(part: str) -> str:
    """A kernel's measurement as a figure has room for it."""
    return part.replace(" tokens", "").replace("block size", "block")


def _run_rows(name: str, side: Side) -> Iterator[list[Cell]]:
    for run in side.runs:
        valid = bool((run.summary.get("verdict") or {}).get("valid"))
        yield [
            Cell(name),
            Cell(run.name, foreign=True),
            Cell(moment(str(run.run.get("started_utc") or "")) or "–"),
            *(Cell(str(word or "–"), foreign=True) for word in side.kind.surroundings(run)),
            Cell(localized("page.valid_cell" if valid else "page.invalid_cell"), tone="plain" if valid else "bad"),
        ]


def _gate_rows(comparison: Comparison) -> list[tuple[str, str]]:
    gate, page = comparison.gate, KINDS[comparison.kind.name]
    return [
        (localized(page.fewest), format_count(gate.samples)),
        (localized("page_compare.confidence"), format_share(gate.confidence)),
        (localized("page_compare.smallest"), allowed_text(gate.smallest)),
        *([(localized(page.noise), format_share(gate.between_runs))] if gate.between_runs is not None else ()),
        *(
            (localized("page_compare.allowance", measure=key), allowed_text(allowed))
            for key, allowed in gate.gate.items()
        ),
    ]


MARKDOWN, JUNIT, JSON = "compare.md", "compare.xml", "compare.json"
FORMAT = 1


def write_companions(folder: Path, comparison: Comparison) -> None:
    """Write compare.md, compare.xml and compare.json into a folder."""
    write_text(folder / MARKDOWN, "\n".join(_lines(comparison)) + "\n")
    suite = localized("page_compare.suite", name=comparison.name) + (" (SIMULATED)" if comparison.simulated else "")
    write_text(folder / JUNIT, ci_files.document(suite, _cases(comparison)))
    write_text(folder / JSON, json.dumps(as_dict(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _lines(comparison: Comparison) -> Iterator[str]:
    if comparison.simulated:
        yield from simulated_lines()
    yield from (f"## {plain(comparison.question)}", "", f"**{plain(localized(comparison.answer))}**", "")
    yield from () if comparison.sensitivity is None else (plain(localized(comparison.sensitivity)), "")
    yield " · ".join(f"{MARKS[badge.tone]} {plain(badge.text)}".strip() for badge in badges(comparison))
    yield ""
    for warning in groups_of_warnings(comparison):
        yield warning_line(warning)
    yield from ("", *_table(comparison.judged), "")
    if (decision := compare_figures.decision_words(comparison)) is not None:
        yield from (f"**{plain(localized('page_decision.title'))}** · {plain(localized(decision))}", "")
    sides = localized("page_compare.sides", base=comparison.base.name, new=comparison.new.name)
    yield f"{plain(sides)} · {plain(localized('page.everything_in', file='compare.html'))}"


def _table(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    columns = heads(localized("page_compare.measure"))
    # Of kernels the first column is what they have in common.
    yield row_of([plain(head) for head in (localized("page.stages.stage"), *columns)])
    yield row_of([":--", ":--", *["--:"] * (len(columns) - 2), ":--"])
    for row in rows:
        yield row_of([plain(localized(row.title)), *(plain(cell.text) for cell in cells(row))])


def _cases(comparison: Comparison) -> Iterator[Xml.Element]:
    """A case a measure of the gate: it fails where the gate is broken, and is skipped where it cannot be judged."""
    for row in comparison.judged:
        case = ci_files.case_of(
            f"{comparison.name}.compare",
            localized("page_compare.measure_at", measure=row.measure.key, stage=row.place),
        )
        if row.broken:
            ci_files.fail(
                case,
                localized("page.warnings.at", place=describe_row(row), text=verdict_message(row)),
                "regression",
            )
        elif row.verdict == UNDETERMINED:
            Xml.SubElement(case, "skipped", message=localized(row.reason or verdict_message(row)))
        yield case


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The content of compare.json: seconds, rates per second, ratios; null where there is no number."""
    return {
        "format": FORMAT,
        "name": comparison.name,
        "simulated": comparison.simulated,
        "base": [run.name for run in comparison.base.runs],
        "new": [run.name for run in comparison.new.runs],
        "repeats": [len(comparison.base.repeats), len(comparison.new.repeats)],
        "answer": str(comparison.answer),
        "sees": str(comparison.sensitivity or ""),
        "exit_code": comparison.exit_code,
        "verdict": comparison.verdict,
        "gate_held": None if len(comparison.unjudged) == len(comparison.judged) else not comparison.broken,
        "warnings": [warning.as_dict() for warning in comparison.warnings],
        "measures": [_row(row) for row in (*comparison.judged, *comparison.shown)],
        "efficiency": compare_figures.efficiency_rows(comparison) if comparison.kind is SERVED else [],
        "engines": [engine.as_dict() for engine in comparison.engines],
        "changes": [{"name": changed.name, "base": changed.base, "new": changed.new} for changed in comparison.changes],
    }


def _row(row: ComparisonRow) -> dict[str, Any]:
    kind = "ratio" if row.measure.ratio else "difference"
    return {
        "stage": row.stage,
        "label": row.full_label,
        "measure": row.measure.key,
        "metric": row.measure.metric,
        "base": row.base,
        "new": row.new,
        "n": list(row.counts),
        kind: row.ratio,
        "interval": None if row.low is None or row.high is None else [row.low, row.high],
        "sees": row.detectable,
        "adjusted": row.adjusted,
        "verdict": row.verdict,
        "allowed": row.allowed,
        "gate_broken": row.broken,
        "reason": str(row.reason or ""),
    }
