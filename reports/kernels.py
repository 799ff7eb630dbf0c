"""What do the figures and tables of a kernel bench show, taken from its summary?"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.kernels.repeats import MEASURED, case_name, varying_axes
from harness.kernels.result import row_name
from harness.units import format_count, format_duration, format_rate, format_share, significant
from reports.drawing import Drawing, drawn
from reports.figures.kernels import Line, Roof, Spot, against_block, against_length, roofline
from reports.figures.style import Head, drawing
from reports.headline import interval
from reports.tables import Cell

Row = Mapping[str, Any]
HEADS = (
    "Case",
    "Mode",
    "Time a launch",
    "n",
    "Host launch",
    "Bytes/s",
    "FLOP/s",
    "Of the limit",
    "Marks",
)
LOST_HEADS = ("Case", "Status", "Why")
_MOST_LINES = 6  # in one small figure
COLOURS = 8  # phases, batches or cases: the most kinds of lines or dots of any figure
_NAMED = 17  # letters of a line's name


def draw_all(summary: Mapping[str, Any], run: Mapping[str, Any]) -> list[Drawing]:
    """Roofline, time against KV length for each phase and path, and the effect of block size; only what there is."""
    rows = [row for row in summary["kernels"]["rows"] if row["status"] == MEASURED and row["modes"]]
    cases = run["kernels"]["cases"]
    with drawing():
        return [*_roofline(rows, summary), *_lengths(rows, cases), *_blocks(rows)]


def phases_of(rows: Sequence[Row]) -> list[str]:
    """Phases in the order of the rows: the place is a phase's colour."""
    return list(dict.fromkeys(str(row["labels"]["phase"]) for row in rows))


def colour_of(number: int, count: int) -> int:
    """The colour of one of `count` kinds, as far from the next as `COLOURS` allow."""
    return round(number * (COLOURS - 1) / max(count - 1, 1)) if count <= COLOURS else number % COLOURS


def phase_name(phase: str) -> str:
    """`chunked prefill`, `KV write`."""
    return " ".join("KV" if word == "kv" else word for word in phase.split("_"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def mode_of(row: Row) -> tuple[str, Mapping[str, Any]]:
    """The mode that figures show: cold where it was measured, else the first."""
    modes = row["modes"]
    name = "cold" if "cold" in modes else next(iter(modes))
    return name, modes[name]


def _roofline(rows: Sequence[Row], summary: Mapping[str, Any]) -> Iterator[Drawing]:
    phases = phases_of(rows)
    spots = []
    for row in rows:
        work, figures = row["work"], mode_of(row)[1]
        if work["flops"]:
            moved = work["read_bytes"] + work["write_bytes"]
            place = phases.index(row["labels"]["phase"])
            spots.append(Spot(work["flops"] / moved, figures["flops_per_s"], colour_of(place, len(phases))))
    roofs = [
        Roof(_roof_name(limits["source"]), limits["bytes_per_s"], max(limits["flops_per_s"].values()))
        for limits in summary["kernels"]["limits"]
        if limits["flops_per_s"]
    ]
    if not spots or not roofs:
        return
    head = Head("Under the roofline", "each dot a case; full line: copy and matrix product measured in this run")
    colours = {colour_of(number, len(phases)): phase_name(phase) for number, phase in enumerate(phases)}
    names = {colour: name for colour, name in colours.items() if any(spot.colour == colour for spot in spots)}
    said = f"{len(spots)} cases under {', '.join(roof.name for roof in roofs)}. " + "; ".join(
        f"{row_name(row)}: {format_share(_fraction(mode_of(row)[1]))} of the measured limit" for row in rows[:8]
    )
    caption = "A dot on the slope waits for memory, one under the flat roof for arithmetic; the distance up is the gap."
    yield drawn(roofline(spots, roofs, names, head), "roofline", head, said, caption)


def _roof_name(source: str) -> str:
    return "measured" if source == "measured" else "data sheet"


def _fraction(figures: Mapping[str, Any]) -> float | None:
    found = figures["limits"].get("measured", {}).get("fraction")
    return None if found is None else float(found)


def _lengths(rows: Sequence[Row], cases: Sequence[Mapping[str, Any]]) -> Iterator[Drawing]:
    """A figure for each phase and path: the other axes at their last value, so that a line is one thing."""
    for number, (key, group) in enumerate(_grouped(rows, ("phase", "model", "dtype"))):
        size = max(int(row["labels"]["block_size"]) for row in group)
        same = [row for row in group if row["labels"]["block_size"] == size and "batch" in row["labels"]]
        same = [row for row in same if len(set(cases[row["case"]]["kv_lens"])) == 1]
        lines = list(_lines(same, lambda row: float(cases[row["case"]]["kv_lens"][0])))
        if any(len(line.x) > 1 for line in lines):
            head = Head(
                f"{_capital(phase_name(key[0]))}: time by KV length",
                f"{key[1]}, {key[2]}, block size {size}, {key[3]}",
            )
            yield drawn(against_length(lines, head), f"length-{number}", head, _said(lines, "KV tokens", times=True))


def _blocks(rows: Sequence[Row]) -> Iterator[Drawing]:
    """A figure for each phase and path that was measured at more than one block size."""
    for number, (key, group) in enumerate(_grouped(rows, ("phase", "model", "dtype"))):
        sizes = sorted({int(row["labels"]["block_size"]) for row in group})
        if len(sizes) < 2:
            continue
        lines = list(_relative(group, sizes))
        head = Head(
            f"{_capital(phase_name(key[0]))}: effect of block size",
            f"times the best of each case; {key[1]}, {key[3]}",
        )
        if lines:
            figure = against_block(lines, sizes, head)
            yield drawn(figure, f"block-{number}", head, _said(lines, "of the sizes"), _BLOCKS)


_BLOCKS = "A line is a batch and its KV tokens; 1 is the time of its best block size."


def _grouped(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[tuple[str, ...], list[Row]]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (*(str(row["labels"][name]) for name in names), str(row["path"]))
        groups.setdefault(key, []).append(row)
    return list(groups.items())


def _lines(rows: Sequence[Row], place: Any) -> Iterator[Line]:
    """A line a batch, points ordered along x."""
    batches = sorted({int(row["labels"]["batch"]) for row in rows})[:_MOST_LINES]
    for number, batch in enumerate(batches):
        own = {place(row): row for row in rows if row["labels"]["batch"] == batch}
        x = sorted(own)
        colour = colour_of(number, len(batches))
        yield _line(f"batch {batch}", colour, x, [mode_of(own[at])[1] for at in x], [1.0] * len(x))


def _relative(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[Line]:
    """A line a case, times of its block sizes over the shortest of them."""
    cases: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        same = tuple((name, value) for name, value in row["labels"].items() if name != "block_size")
        cases.setdefault(same, {})[int(row["labels"]["block_size"])] = row
    several = [own for own in cases.values() if len(own) > 1][:_MOST_LINES]
    for number, by_size in enumerate(several):
        found = [mode_of(by_size[size])[1] for size in sizes if size in by_size]
        best = min(figures["median_s"] for figures in found)
        labels = next(iter(by_size.values()))["labels"]
        name = f"{labels.get('batch', '')} × {labels.get('kv_tokens', labels.get('step', ''))}"
        x = [float(place) for place, size in enumerate(sizes) if size in by_size]
        short = name if len(name) <= _NAMED else f"{name[: _NAMED - 1]}…"
        yield _line(short, colour_of(number, len(several)), x, found, [best] * len(x))


def _line(
    name: str, number: int, x: Sequence[float], found: Sequence[Mapping[str, Any]], unit: Sequence[float]
) -> Line:
    nothing = (np.nan, np.nan)
    ends = np.asarray([figures["ci95_s"] or nothing for figures in found], dtype=np.float64).reshape(-1, 2)
    y = np.asarray([figures["median_s"] for figures in found])
    over = np.asarray(unit)
    return Line(name, number, np.asarray(x), y / over, ends[:, 0] / over, ends[:, 1] / over)


def _said(lines: Sequence[Line], what: str, *, times: bool = False) -> str:
    """The numbers of a figure in words."""
    return "; ".join(
        f"{line.name}: "
        + ", ".join(
            f"{format_duration(y) if times else significant(y)} at {x:g} {what}"
            for x, y in zip(line.x, line.y, strict=True)
        )
        for line in lines
    )


def measured_rows(rows: Sequence[Row]) -> list[list[Cell]]:
    """The table of what was measured, a line for each case, path and mode."""
    differing = varying_axes(row["labels"] for row in rows)
    return [
        [_case(row, differing), *_cells(row, mode, figures)] for row in rows for mode, figures in row["modes"].items()
    ]


def _cells(row: Row, mode: str, figures: Mapping[str, Any]) -> list[Cell]:
    held = [(source, limits) for source, limits in figures["limits"].items()]
    shares = [f"{format_share(limits['fraction'])}" for _, limits in held]
    marks = [*figures["marks"], *(["throttled"] if row["throttled"] else [])]
    return [
        Cell(mode),
        Cell(format_duration(figures["median_s"]), interval(figures["ci95_s"])),
        Cell(format_count(figures["n"])),
        Cell(format_duration(figures["launch_s"])),
        Cell(format_rate(figures["bytes_per_s"] / 1e9, "GB/s")),
        Cell(format_rate(figures["flops_per_s"] / 1e9, "GFLOP/s") if row["work"]["flops"] else "–"),
        Cell(shares[0] if shares else "–", "; ".join(_bounds(held, shares))),
        Cell(", ".join(marks) or "–", tone="bad" if marks else "plain"),
    ]


def _case(row: Row, differing: Collection[str]) -> Cell:
    return Cell(case_name(row["labels"], "", differing), str(row["path"]), foreign=True)


def _bounds(held: Sequence[tuple[str, Mapping[str, Any]]], shares: Sequence[str]) -> Iterator[str]:
    """What the limit is one of, and how near the data sheet's one is."""
    if held:
        yield f"bound by {held[0][1]['bound']}"
    if len(shares) > 1:
        yield f"data sheet: {shares[1]}"


def lost_rows(rows: Sequence[Row]) -> list[list[Cell]]:
    """The table of what was skipped, wrong or failed; of what was measured the modes that could not be."""
    differing = varying_axes(row["labels"] for row in rows)
    lost = [(row, row["status"], row["reason"]) for row in rows if row["status"] != MEASURED]
    modes = [
        (row, "skipped", f"{mode}: {reason}")
        for row in rows
        if row["status"] == MEASURED
        for mode, reason in row.get("refused_modes", {}).items()
    ]
    return [
        [
            _case(row, differing),
            Cell(status, tone="plain" if status == "skipped" else "bad"),
            Cell(reason, foreign=True),
        ]
        for row, status, reason in (*lost, *modes)
    ]
