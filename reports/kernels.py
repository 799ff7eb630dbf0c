"""Figures and tables of a kernel bench, from its summary."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.kernels.repeats import MEASURED, case_name, row_reason, varying_axes
from harness.kernels.result import row_name
from harness.messages import Message, localized, message, stored
from harness.messages.message import PLAIN
from harness.units import format_count, format_duration, format_rate, format_share
from reports.figures.kernels import KernelLine, Roof, Spot, against_block, against_length, roofline
from reports.figures.style import Head, drawing
from reports.headline import interval
from reports.svg import Drawing, drawn
from reports.tables import Cell
from reports.texts import listed, paragraph

Row = Mapping[str, Any]
_PHASES = {
    "decode": "page_kernels.phase_decode",
    "prefill": "page_kernels.phase_prefill",
    "chunked_prefill": "page_kernels.phase_chunked_prefill",
    "kv_write": "page_kernels.phase_kv_write",
    "verify": "page_kernels.phase_verify",
    "mixed": "page_kernels.phase_mixed",
    "step": "page_kernels.phase_step",
    "mla_decode": "page_kernels.phase_mla_decode",
    "mla_prefill": "page_kernels.phase_mla_prefill",
}
_MODES = {"cold": "page_kernels.cold", "hot": "page_kernels.hot", "graph": "page_kernels.graph"}
_MARKS = {
    "noisy": "page_kernels.noisy",
    "drifting": "page_kernels.drifting",
    "faster-later": "page_kernels.faster_later",
    "slower-later": "page_kernels.slower_later",
    "launch-bound": "page_kernels.launch_bound",
    "partly-cached": "page_kernels.partly_cached",
    "crowded": "page_kernels.crowded",
    "throttled": "page_kernels.throttled",
}
_STATUSES = {
    "measured": "page_kernels.status_measured",
    "skipped": "page_kernels.status_skipped",
    "wrong": "page_kernels.status_wrong",
    "failed": "page_kernels.status_failed",
}
_BOUNDS = {"compute": "page_kernels.bound_compute", "memory": "page_kernels.bound_memory"}
_MOST_LINES = 6  # in one small figure
COLOURS = 8  # phases, batches or cases: the most kinds of lines or dots of any figure
_NAMED = 17  # letters of a line's name


def heads() -> list[str]:
    """The columns of `measured_rows`."""
    return [
        localized("page_kernels.case"),
        localized("page_kernels.mode"),
        localized("page_kernels.time"),
        "n",
        localized("page_kernels.host_launch"),
        localized("page_kernels.bytes"),
        "FLOP/s",
        localized("page_kernels.of_limit"),
        localized("page_kernels.marks"),
    ]


def lost_heads() -> list[str]:
    """The columns of `lost_rows`."""
    return [localized("page_kernels.case"), localized("page_kernels.status"), localized("page_kernels.why")]


def _named(name: str, codes: Mapping[str, str]) -> str:
    """A word of the bench by its code, as it is where it has none."""
    return localized(codes[name]) if name in codes else name


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
    """`Chunked prefill`, `KV write`."""
    return _named(phase, _PHASES)


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
    head = Head(localized("page_kernels.roofline"), localized("page_kernels.roofline_subtitle"))
    colours = {colour_of(number, len(phases)): phase_name(phase) for number, phase in enumerate(phases)}
    names = {colour: name for colour, name in colours.items() if any(spot.colour == colour for spot in spots)}
    total = localized("page_kernels.roofline_cases", cases=len(spots), roofs=[roof.name for roof in roofs])
    shares = [
        localized("page_kernels.roofline_case", name=row_name(row), share=_fraction(mode_of(row)[1]))
        for row in rows[:8]
    ]
    text = paragraph((total, listed(shares, "parts")))
    yield drawn(roofline(spots, roofs, names, head), "roofline", head, text, localized("page_kernels.roofline_caption"))


def _roof_name(source: str) -> str:
    return localized("page_kernels.roof_measured" if source == "measured" else "page_kernels.roof_sheet")


def _fraction(figures: Mapping[str, Any]) -> float | None:
    fraction = figures["limits"].get("measured", {}).get("fraction")
    return None if fraction is None else float(fraction)


def _lengths(rows: Sequence[Row], cases: Sequence[Mapping[str, Any]]) -> Iterator[Drawing]:
    """A figure for each phase and path: the other axes at their last value, so that a line is one thing."""
    for number, (key, group) in enumerate(_grouped(rows, ("phase", "model", "dtype"))):
        size = max(int(row["labels"]["block_size"]) for row in group)
        same = [row for row in group if row["labels"]["block_size"] == size and "batch" in row["labels"]]
        same = [row for row in same if len(set(cases[row["case"]]["kv_lens"])) == 1]
        lines = list(_lines(same, lambda row: float(cases[row["case"]]["kv_lens"][0])))
        if any(len(line.x) > 1 for line in lines):
            head = Head(
                localized("page_kernels.by_length", phase=phase_name(key[0])),
                localized("page_kernels.by_length_subtitle", model=key[1], dtype=key[2], size=size, path=key[3]),
            )
            yield drawn(against_length(lines, head), f"length-{number}", head, _length_words(lines))


def _blocks(rows: Sequence[Row]) -> Iterator[Drawing]:
    """A figure for each phase and path that was measured at more than one block size."""
    for number, (key, group) in enumerate(_grouped(rows, ("phase", "model", "dtype"))):
        sizes = sorted({int(row["labels"]["block_size"]) for row in group})
        if len(sizes) < 2:
            continue
        lines = list(_relative(group, sizes))
        head = Head(
            localized("page_kernels.by_block", phase=phase_name(key[0])),
            localized("page_kernels.by_block_subtitle", model=key[1], path=key[3]),
        )
        if lines:
            figure = against_block(lines, sizes, head)
            caption = localized("page_kernels.by_block_caption")
            yield drawn(figure, f"block-{number}", head, _block_words(lines, sizes), caption)


def _grouped(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[tuple[str, ...], list[Row]]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (*(str(row["labels"][name]) for name in names), str(row["path"]))
        groups.setdefault(key, []).append(row)
    return list(groups.items())


def _lines(rows: Sequence[Row], place: Any) -> Iterator[KernelLine]:
    """A line a batch, points ordered along x."""
    batches = sorted({int(row["labels"]["batch"]) for row in rows})[:_MOST_LINES]
    for number, batch in enumerate(batches):
        own = {place(row): row for row in rows if row["labels"]["batch"] == batch}
        x = sorted(own)
        colour = colour_of(number, len(batches))
        yield _line(
            localized("page_kernels.batch", batch=batch), colour, x, [mode_of(own[at])[1] for at in x], [1.0] * len(x)
        )


def _relative(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[KernelLine]:
    """A line a case, times of its block sizes over the shortest of them."""
    cases: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        same = tuple((name, value) for name, value in row["labels"].items() if name != "block_size")
        cases.setdefault(same, {})[int(row["labels"]["block_size"])] = row
    several = [own for own in cases.values() if len(own) > 1][:_MOST_LINES]
    for number, by_size in enumerate(several):
        modes = [mode_of(by_size[size])[1] for size in sizes if size in by_size]
        best = min(figures["median_s"] for figures in modes)
        labels = next(iter(by_size.values()))["labels"]
        name = f"{labels.get('batch', '')} × {labels.get('kv_tokens', labels.get('step', ''))}"
        x = [float(place) for place, size in enumerate(sizes) if size in by_size]
        short = name if len(name) <= _NAMED else f"{name[: _NAMED - 1]}…"
        yield _line(short, colour_of(number, len(several)), x, modes, [best] * len(x))


def _line(
    name: str, number: int, x: Sequence[float], rows: Sequence[Mapping[str, Any]], unit: Sequence[float]
) -> KernelLine:
    nothing = (np.nan, np.nan)
    ends = np.asarray([figures["ci95_s"] or nothing for figures in rows], dtype=np.float64).reshape(-1, 2)
    y = np.asarray([figures["median_s"] for figures in rows])
    over = np.asarray(unit)
    return KernelLine(name, number, np.asarray(x), y / over, ends[:, 0] / over, ends[:, 1] / over)


def _length_words(lines: Sequence[KernelLine]) -> str:
    """The times of a figure over KV length, as its alternative text."""
    series = []
    for line in lines:
        pairs = zip(line.x.tolist(), line.y.tolist(), strict=True)
        points = [localized("page_kernels.point_length", value_s=y, tokens=f"{x:g}") for x, y in pairs]
        series.append(localized("page_kernels.series", name=line.name, points=points))
    return listed(series, "parts")


def _block_words(lines: Sequence[KernelLine], sizes: Sequence[int]) -> str:
    """The ratios of a figure over block sizes, as its alternative text."""
    series = []
    for line in lines:
        pairs = zip(line.x.tolist(), line.y.tolist(), strict=True)
        points = [localized("page_kernels.point_block", value=y, size=sizes[int(x)]) for x, y in pairs]
        series.append(localized("page_kernels.series", name=line.name, points=points))
    return listed(series, "parts")


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
        Cell(_named(mode, _MODES)),
        Cell(format_duration(figures["median_s"]), interval(figures["ci95_s"])),
        Cell(format_count(figures["n"])),
        Cell(format_duration(figures["launch_s"])),
        Cell(format_rate(figures["bytes_per_s"] / 1e9, "GB/s")),
        Cell(format_rate(figures["flops_per_s"] / 1e9, "GFLOP/s") if row["work"]["flops"] else "–"),
        Cell(shares[0] if shares else "–", listed(list(_bounds(held, shares)), "parts")),
        Cell(_mark_names(marks) or "–", tone="bad" if marks else "plain"),
    ]


def _mark_names(marks: Sequence[str]) -> str:
    return listed([_named(mark, _MARKS) for mark in marks])


def _case(row: Row, differing: Collection[str]) -> Cell:
    return Cell(localized(case_name(row["labels"], "", differing)), str(row["path"]), quoted=True)


def _bounds(held: Sequence[tuple[str, Mapping[str, Any]]], shares: Sequence[str]) -> Iterator[str]:
    """The resource that limits a kernel, and the share of the data sheet's limit that it reached."""
    if held:
        yield _named(held[0][1]["bound"], _BOUNDS)
    if len(shares) > 1:
        yield localized("page_kernels.data_sheet_share", share=shares[1])


def _refusal(row: Row, mode: str, text: str) -> Message:
    return stored((row.get("refused_modes_messages") or {}).get(mode), text)


def lost_rows(rows: Sequence[Row]) -> list[list[Cell]]:
    """The table of what was skipped, wrong or failed; of what was measured the modes that could not be."""
    differing = varying_axes(row["labels"] for row in rows)
    lost = [(row, row["status"], row_reason(row)) for row in rows if row["status"] != MEASURED]
    modes = [
        (row, "skipped", message("page_kernels.mode_refused", mode=mode, reason=_refusal(row, mode, reason)))
        for row in rows
        if row["status"] == MEASURED
        for mode, reason in row.get("refused_modes", {}).items()
    ]
    return [
        [
            _case(row, differing),
            Cell(_named(status, _STATUSES), tone="plain" if status == "skipped" else "bad"),
            Cell(localized(reason), foreign=reason.code == PLAIN),
        ]
        for row, status, reason in (*lost, *modes)
    ]
