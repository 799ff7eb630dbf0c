"""How does a comparison become one HTML file?"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.comparison.comparison import Comparison
from harness.comparison.describe import (
    allowed_text,
    change_text,
    interval_text,
    name_of,
    seen_text,
    value_text,
    verdict_text,
)
from harness.comparison.judging import BETTER, WORSE, Row
from harness.comparison.repeats import Side
from harness.messages import localized
from harness.units import format_count, format_share
from reports.drawing import Drawing, drawn
from reports.figures.forest import Bar, forest
from reports.figures.style import Head, drawing
from reports.glossary import TERMS
from reports.page import environment, moment, policy, script
from reports.tables import Cell
from reports.verdict import Badge, WarningGroup
from reports.writing import write_text

PAGE = "compare.html"
MOST_DRAWN = 40  # measurements of kernels in the figure; the table has all
HEADS = ("Measure", "Base", "New", "Change", "Interval", "Can see", "Allowed", "Verdict")
_ADJUSTED = "for equal work"
_SAID = ("ttft", "ttft_user", "tpot", "itl", "e2e", "e2e_user")
_RUN_WORDS = {False: ("Engine", "Model"), True: ("Provider", "Device")}
_TONES = {WORSE: "bad", BETTER: "good"}
_MARKS = {BETTER: "good", WORSE: "bad", "better and worse": "bad"}


def write(folder: Path, found: Comparison) -> Path:
    """Draw compare.html into a folder; its path."""
    return write_text(folder / PAGE, render(found))


def render(found: Comparison) -> str:
    """The page of a comparison as HTML."""
    return environment().get_template("compare.html").render(_context(found))


def _context(found: Comparison) -> dict[str, Any]:
    return {
        "found": found,
        "simulated": found.simulated,
        "colours": None,
        "policy": policy(),
        "script": Markup(script()),  # noqa: S704 - a file of ours
        "title": f"{found.base.name} and {found.new.name}",
        "badges": list(badges(found)),
        "warnings": [
            WarningGroup(warning.severity, localized(warning.next), (("", localized(warning.text)),))
            for warning in found.warnings
        ],
        "figure": _figure(found),
        "heads": ("Kernel", *HEADS[1:]) if found.is_kernels else HEADS,
        "judged": by_stage(found.judged),
        "shown": by_stage(found.shown),
        "changes": [tuple(Cell(text, foreign=True) for text in (one.name, one.base, one.new)) for one in found.changes],
        "runs": [row for name, side in (("base", found.base), ("new", found.new)) for row in _run_rows(name, side)],
        "gate": _gate_rows(found),
        "terms": {} if found.is_kernels else {key: TERMS[key] for key in _SAID if key in TERMS},
        "run_heads": ("Side", "Folder", "Started", *_RUN_WORDS[found.is_kernels], "Result"),
    }


def badges(found: Comparison) -> Iterator[Badge]:
    """The verdict of the whole, and whether the gate holds."""
    yield Badge(found.verdict.capitalize(), _MARKS.get(found.verdict, "plain"), "#judged")
    if found.broken:
        yield Badge(f"Gate broken by {len(found.broken)}", "bad", "#judged")
    elif len(found.untold) == len(found.judged):
        yield Badge("Nothing for the gate to judge", "warn", "#judged")
    elif found.untold:
        yield Badge(f"Gate held, {len(found.untold)} of {len(found.judged)} not judged", "warn", "#judged")
    else:
        yield Badge("Gate held", "good", "#judged")


def by_stage(rows: Sequence[Row]) -> list[tuple[str, list[list[Cell]]]]:
    """Stages in their order, each with its rows as cells; of kernels, what stands under one label."""
    groups: dict[tuple[int | None, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((None if row.part else row.stage, row.heading), []).append(row)
    return [(label, [cells(row) for row in own]) for (_, label), own in groups.items()]


def cells(row: Row) -> list[Cell]:
    """One row as `HEADS` names its cells."""
    counts = " / ".join(format_count(count) for count in row.counts)
    return [
        Cell(row.part or name_of(row.measure), f"n {counts}", foreign=bool(row.part)),
        Cell(value_text(row.measure, row.base)),
        Cell(value_text(row.measure, row.new)),
        Cell(change_text(row), _ADJUSTED if row.adjusted else "", tone=_TONES.get(row.verdict, "plain")),
        Cell(interval_text(row)),
        Cell(seen_text(row.sees)),
        Cell(allowed_text(row.allowed)),
        Cell(verdict_text(row), tone=_TONES.get(row.verdict, "plain")),
    ]


def _figure(found: Comparison) -> Drawing | None:
    rows = _drawn(found.judged) if found.is_kernels else found.judged
    bars = list(_bars(rows))
    if all(bar.change is None for bar in bars):
        return None
    more = f"; the {len(rows)} that changed most" if len(rows) < len(found.judged) else ""
    head = Head(_TITLES[found.is_kernels], f"dot and interval; dashed: what the gate allows{more}",
                simulated=found.simulated)  # fmt: skip
    said = "; ".join(
        f"{row.place if row.part else f'{name_of(row.measure)} at {row.place}'}: {change_text(row)}, {row.verdict}"
        for row in rows
    )
    with drawing():
        return drawn(
            forest(bars, head), "forest", head, f"{said}.", _CAPTION.format(smallest=allowed_text(found.gate.smallest))
        )


_TITLES = {False: "Change of each measure from base to new", True: "Change of each kernel's time from base to new"}


def _drawn(rows: Sequence[Row]) -> list[Row]:
    """The measurements of kernels that changed most, in their own order."""
    largest = sorted(rows, key=lambda row: -abs(row.effect.estimate) if row.effect else -math.inf)[:MOST_DRAWN]
    return sorted(largest, key=lambda row: row.stage)


_CAPTION = (
    "A filled dot is a difference that is shown: its interval lies wholly beyond {smallest} either way. Right of 0 is "
    "more: worse for times and failures, better for rates."
)


def _bars(rows: Sequence[Row]) -> Iterator[Bar]:
    stage: int | str | None = None
    for row in rows:
        heading = row.heading
        if heading != stage:
            stage = heading
            yield Bar(row.heading)
        name = _short(row.part) or name_of(row.measure)
        if row.ratio is None or row.low is None or row.high is None:
            yield Bar(name, verdict=row.verdict)
            continue
        change, low, high = (_percent(row, value) for value in (row.ratio, row.low, row.high))
        allowed = None if row.allowed is None else 100 * row.allowed * (-1 if row.measure.more_is_better else 1)
        yield Bar(name, change, low, high, "worse: gate broken" if row.broken else row.verdict, allowed)


def _short(part: str) -> str:
    """A kernel's measurement as a figure has room for it."""
    return part.replace(" tokens", "").replace("block size", "block")


def _percent(row: Row, value: float) -> float:
    return 100 * (value - 1 if row.measure.ratio else value)


def _run_rows(name: str, side: Side) -> Iterator[list[Cell]]:
    for run in side.runs:
        valid = bool((run.summary.get("verdict") or {}).get("valid"))
        words = (run.engine.get("kind"), run.engine.get("model"))
        if side.is_kernels:
            words = (run.summary["kernels"]["provider"], run.summary["kernels"]["device"]["name"])
        yield [
            Cell(name),
            Cell(run.name, foreign=True),
            Cell(moment(str(run.run.get("started_utc") or "")) or "–"),
            *(Cell(str(word or "–"), foreign=True) for word in words),
            Cell("valid" if valid else "not valid", tone="plain" if valid else "bad"),
        ]


def _gate_rows(found: Comparison) -> list[tuple[str, str]]:
    gate = found.gate
    of = "kernel" if found.is_kernels else "engine"
    return [
        ("fewest samples a kernel" if found.is_kernels else "fewest requests a stage", format_count(gate.samples)),
        ("confidence over all measures", format_share(gate.confidence)),
        ("smallest difference worth telling", allowed_text(gate.smallest)),
        *(
            [(f"two runs of one {of} differ by", format_share(gate.between_runs))]
            if gate.between_runs is not None
            else ()
        ),
        *((f"{key} may be worse by", allowed_text(allowed)) for key, allowed in gate.gate.items()),
    ]
