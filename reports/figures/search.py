"""Figures of a study: its history, its front, parameter importance, simulator agreement, and the time spent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from reports.figures.style import (
    SMALL,
    WIDE,
    Head,
    across,
    crosses,
    lines_of,
    over,
    panel,
    paper,
    scale_of,
    set_scale,
    ticks,
)
from reports.palette import ACCENT, BAD, GRID, INK, MUTED, QUEUE, SURFACE, WARM

_ROW = 28
_NAMES = 166  # room for the names of rows


@dataclass(frozen=True, slots=True)
class Mark:
    """One trial: its place, its name on hovering, and whether it counts, was stopped early, or failed."""

    x: float
    y: float
    tip: str
    kind: str  # counts | stopped | failed | broken | best | default


_FILLS = {"counts": ACCENT, "best": ACCENT, "default": INK, "stopped": SURFACE, "broken": SURFACE}
_EDGES = {"counts": ACCENT, "best": INK, "default": INK, "stopped": MUTED, "broken": BAD}


def _mark(axes: Axes, mark: Mark) -> None:
    axes.plot(
        [mark.x],
        [mark.y],
        marker="D" if mark.kind == "default" else "o",
        markersize=10 if mark.kind == "best" else 7,
        color=_FILLS[mark.kind],
        markeredgecolor=_EDGES[mark.kind],
        markeredgewidth=1.7,
        zorder=4,
        clip_on=False,
        gid=f"tip:{mark.tip}",
    )


def history(marks: Sequence[Mark], best_so_far: Sequence[tuple[float, float]], upward: str, head: Head) -> Figure:
    """The value of every trial in its order, and the best that kept every limit so far; failures at the foot."""
    figure = paper((WIDE, 276), head)
    axes = panel(figure, (64, 30, 24, 44))
    over(axes, upward)
    values = np.asarray([mark.y for mark in marks if math.isfinite(mark.y)], dtype=np.float64)
    scale = scale_of(values, times=False)
    set_scale(axes, "y", scale)
    last = max((mark.x for mark in marks), default=1.0)
    axes.set_xlim(-0.6, last + 0.6)
    places = sorted({round(last * share / 10) for share in range(11)})
    ticks(axes, "x", places, [str(place) for place in places])
    across(axes, localized("page_tuning.history.axis"))
    if best_so_far:
        x, y = (np.asarray(column, dtype=np.float64) for column in zip(*best_so_far, strict=True))
        axes.step(np.append(x, last), np.append(y, y[-1]), where="post", color=MUTED, linewidth=1.4, zorder=2)
    failed = np.asarray([mark.x for mark in marks if mark.kind == "failed" or not math.isfinite(mark.y)])
    crosses(axes, failed, np.full(len(failed), scale.low))
    for mark in marks:
        if mark.kind != "failed" and math.isfinite(mark.y):
            _mark(axes, mark)
    return figure


def plane(marks: Sequence[Mark], front: Sequence[tuple[float, float]], names: tuple[str, str], head: Head) -> Figure:
    """Two objectives against each other, with the front joined in steps."""
    figure = paper((SMALL[0], 290), head)
    axes = panel(figure, (52, 32, 18, 46))
    known = [mark for mark in marks if math.isfinite(mark.x) and math.isfinite(mark.y)]
    for which, values in (("x", [mark.x for mark in known]), ("y", [mark.y for mark in known])):
        set_scale(axes, which, scale_of(np.asarray(values, dtype=np.float64), times=False, allow_log=False))
    across(axes, names[0])
    over(axes, names[1])
    if len(front) > 1:
        x, y = zip(*sorted(front), strict=True)
        axes.plot(x, y, color=MUTED, linewidth=1.3, zorder=2)
    for mark in known:
        _mark(axes, mark)
    return figure


def agreement(marks: Sequence[Mark], head: Head) -> Figure:
    """Measured against predicted values; on the diagonal both are the same."""
    figure = paper((SMALL[0], 290), head)
    axes = panel(figure, (52, 32, 18, 46))
    values = np.asarray([value for mark in marks for value in (mark.x, mark.y)], dtype=np.float64)
    scale = scale_of(values, times=False, allow_log=False)
    for which in ("x", "y"):
        set_scale(axes, which, scale)
    axes.plot([scale.low, scale.high], [scale.low, scale.high], color=GRID, linewidth=1.2, zorder=1)
    across(axes, localized("page_tuning.agreement.predicted"))
    over(axes, localized("page_tuning.agreement.measured"))
    for mark in marks:
        _mark(axes, mark)
    return figure


@dataclass(frozen=True, slots=True)
class Share:
    """A parameter's share of the variance with its interval, what chance would reach, and whether it is above that."""

    name: str
    share: float
    low: float
    high: float
    chance: float
    shown: bool


def shares(rows: Sequence[Share], head: Head) -> Figure:
    """A bar a parameter with its interval; the dashed mark is what a parameter without effect would reach."""
    figure = paper((SMALL[0], 68 + _ROW * len(rows)), head)
    axes = panel(figure, (_NAMES, 14, 24, 46))
    across(axes, localized("page_tuning.importance.axis"))
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    ticks(axes, "x", [0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    for place, row in enumerate(rows):
        colour = ACCENT if row.shown else MUTED
        _name_row(axes, place, row.name)
        axes.barh(place, row.share, height=0.5, color=colour, alpha=0.45 if row.shown else 0.25, zorder=2)
        ends = {name: _per_cent(value) for name, value in (("share", row.share), ("low", row.low), ("high", row.high))}
        tip = localized("page_tuning.importance.tip", name=row.name, **ends)
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2, zorder=3, gid=f"tip:{tip}")
        axes.plot([row.chance] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=1.2, dashes=(3, 2), zorder=4)
    return figure


def _name_row(axes: Axes, place: int, name: str) -> None:
    """The name of a row at its left, in two lines where it is long."""
    lines = lines_of(name, _NAMES - 12)
    for number, line in enumerate(lines):
        y = place + (number - (len(lines) - 1) / 2) * 0.44
        axes.text(-8 / axes.bbox.width, y, line, transform=axes.get_yaxis_transform(), ha="right", color=INK,
                  va="center_baseline")  # fmt: skip


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"


@dataclass(frozen=True, slots=True)
class Spent:
    """Minutes of one trial: starting, under load, otherwise."""

    name: str
    start: float
    load: float
    other: float


_PARTS = (  # a field of `Spent`, its colour, the codes of its name and of what hovering over it shows
    ("start", QUEUE, "page_tuning.time.starting", "page_tuning.time.tip_starting"),
    ("load", ACCENT, "page_tuning.time.under_load", "page_tuning.time.tip_load"),
    ("other", WARM, "page_tuning.time.otherwise", "page_tuning.time.tip_other"),
)


def minutes(rows: Sequence[Spent], head: Head) -> Figure:
    """The minutes of every trial by what they went into, as columns."""
    figure = paper((WIDE, 218), head)
    axes = panel(figure, (64, 34, 24, 44))
    over(axes, localized("page_tuning.cards.minutes"))
    totals = np.asarray([row.start + row.load + row.other for row in rows], dtype=np.float64)
    set_scale(axes, "y", scale_of(totals, times=False, allow_log=False))
    axes.set_xlim(-0.6, max(len(rows) - 0.4, 0.6))
    step = max(1, len(rows) // 20)
    ticks(axes, "x", list(range(0, len(rows), step)), [rows[place].name for place in range(0, len(rows), step)])
    across(axes, localized("page_tuning.history.axis"))
    for place, row in enumerate(rows):
        foot = 0.0
        for part, colour, _, tip in _PARTS:
            height = getattr(row, part)
            axes.bar(place, height, bottom=foot, width=0.7, color=colour, alpha=0.75, zorder=2,
                     gid=f"tip:{localized(tip, trial=row.name, minutes=height)}")  # fmt: skip
            foot += height
    for number, (_, colour, name, _) in enumerate(_PARTS):
        axes.text(1 - (2 - number) * 96 / axes.bbox.width, 1 + 14 / axes.bbox.height, f"■ {localized(name)}",
                  transform=axes.transAxes, ha="right", color=colour)  # fmt: skip
    return figure
