"""Changes of measures: between two sides with their intervals, and from run to run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from harness.units import format_duration, significant
from reports.figures.style import SMALL, WIDE, Head, across, over, panel, paper, scale_of, set_scale, ticks, width_of
from reports.palette import ACCENT, BAD, GRID, INK, LIMIT, MUTED, SURFACE, stage_colour
from reports.rows import groups_of, rows_of

ROW = 26  # height of a row
_LEFT, _RIGHT, _TOP, _BOTTOM = 190, 190, 10, 46
_WIDEST_LEFT = 420  # room for names longer than those of measures
_WIDEST = math.log(5.0)  # of new / base; intervals beyond end in an arrow
_LEAST = -99.9  # per cent; less than nothing has no logarithm
_ROUND = (-90, -80, -67, -50, -33, -20, -10, -5, -2, -1, 1, 2, 5, 10, 20, 50, 100, 200, 300, 400)  # per cent
_TICK_ROOM = 52.0  # SVG units from one tick to the next


@dataclass(frozen=True, slots=True)
class Bar:
    """One measure: its name, change and interval in per cent, verdict, and what the gate allows (signed), if anything.

    `tone` is good or bad where the difference is significant, else plain. A bar without numbers is the heading of
    those below it.
    """

    name: str
    change: float | None = None
    low: float = 0.0
    high: float = 0.0
    verdict: str = ""
    allowed: float | None = None
    tone: str = "plain"


def forest(bars: Sequence[Bar], head: Head) -> Figure:
    """A row a measure: a dot with its interval on an axis of the logarithm of new / base, no difference in the middle.

    Twice as much and half as much are equally far from the middle, which in per cent they are not.
    """
    height = _TOP + _BOTTOM + ROW * len(bars)
    figure = paper((WIDE, height), head)
    left = max([_LEFT, *(width_of(bar.name) + 16 for bar in bars if bar.change is not None)])
    axes = panel(figure, (min(left, _WIDEST_LEFT), _TOP, _RIGHT, _BOTTOM))
    reach = _reach(bars)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    shown = list(_ticks(reach, axes.bbox.width))
    places = [_place(percent) for percent in shown]
    ticks(axes, "x", places, [_signed(f"{percent:+g} %") if percent else "0" for percent in shown])
    across(axes, localized("figures.forest.axis"))
    for place in places:
        axes.plot([place, place], [-0.6, len(bars) - 0.4], color=INK if place == 0 else GRID, linewidth=0.9, zorder=1)
    for row, bar in enumerate(bars):
        _draw(axes, row, bar, reach)
    return figure


def _place(percent: float) -> float:
    """The place of a change on the axis: ln(new / base)."""
    return math.log1p(max(percent, _LEAST) / 100)


def _signed(text: str) -> str:
    """A number with a minus sign as wide as its plus sign."""
    return text.replace("-", "\u2212")


def _beyond(bar: Bar) -> str:
    """A change that lies beyond what is drawn, as a number."""
    return _signed(f"{bar.change or 0:+,.0f} %")


def _tip(bar: Bar) -> str:
    change, low, high = (f"{value or 0:+.1f}" for value in (bar.change, bar.low, bar.high))
    return localized("figures.forest.tip", name=bar.name, change=change, low=low, high=high)


def _reach(bars: Sequence[Bar]) -> float:
    ends = [abs(_place(end)) for bar in bars if bar.change is not None for end in (bar.low, bar.high, bar.change)]
    return min(_WIDEST, 1.12 * max([*ends, _place(2.0)]))


def _ticks(reach: float, width: float) -> Iterator[float]:
    """Round changes in per cent that are apart enough to be read, no change among them."""
    room = _TICK_ROOM * 2 * reach / width
    for sign in (-1, 1):
        last = math.inf
        for percent in sorted((p for p in _ROUND if p * sign > 0 and abs(_place(p)) <= reach), key=abs, reverse=True):
            at = abs(_place(percent))
            if last - at >= room and at >= room:
                last = at
                yield percent
    yield 0.0


def _draw(axes: Axes, row: int, bar: Bar, reach: float) -> None:
    width = axes.bbox.width
    place = axes.get_yaxis_transform()
    weight = "bold" if bar.change is None and not bar.verdict else "normal"
    axes.text((2 - axes.bbox.x0) / width, row, bar.name, transform=place, color=INK, va="center_baseline",
              fontweight=weight)  # fmt: skip
    colour = {"bad": BAD, "good": ACCENT}.get(bar.tone, MUTED)
    axes.text(1 + 12 / width, row, bar.verdict, transform=place, color=colour, va="center_baseline")
    if bar.change is None:
        return
    change, ends = _place(bar.change), (_place(bar.low), _place(bar.high))
    low, high = max(ends[0], -reach), min(ends[1], reach)
    # Where the number stands beside the arrow, the line ends before it.
    room = 2 * reach * (24 + width_of(_beyond(bar))) / width if abs(change) > reach else 0.0
    line = max(low, room - reach), min(high, reach - room)
    if line[0] < line[1]:  # else the whole interval lies beyond what is drawn
        axes.plot(line, [row, row], color=colour, linewidth=3, alpha=0.6, solid_capstyle="butt", zorder=2)
    for end, cut, mark in ((low, ends[0] < -reach, "<"), (high, ends[1] > reach, ">")):
        if cut:
            axes.plot([end], [row], marker=mark, color=colour, markersize=7, clip_on=False, zorder=3)
            if abs(change) > reach and (change > 0) == (end > 0):
                axes.text(end * (1 - 14 / width), row, _beyond(bar), color=colour,
                          ha="right" if end > 0 else "left", va="center_baseline", zorder=5)  # fmt: skip
    if bar.allowed is not None and abs(_place(bar.allowed)) < reach:
        axes.plot([_place(bar.allowed)] * 2, [row - 0.36, row + 0.36], color=LIMIT, linewidth=1.3, dashes=(3, 2),
                  zorder=2)  # fmt: skip
    if abs(change) <= reach:
        shown = bar.tone != "plain"
        axes.plot([change], [row], marker="o", markersize=8, color=colour if shown else SURFACE,
                  markeredgecolor=colour, markeredgewidth=1.8, zorder=4,
                  gid=f"tip:{_tip(bar)}")  # fmt: skip


_MARKS = {"worse": (BAD, "v"), "better": (ACCENT, "^")}  # by shape, too


def trend_lines(frame: pd.DataFrame, runs: int, head: Head, upward: str, *, times: bool) -> Figure:
    """A line a stage over the runs; a triangle where a change was shown, up for better and down for worse."""
    figure = paper(SMALL, head)
    axes = panel(figure, (46, 30, 18, 46))
    set_scale(axes, "y", scale_of(frame["value"].to_numpy(dtype=np.float64), times=times))
    over(axes, upward)
    across(axes, localized("page.run"))
    axes.set_xlim(0.7, runs + 0.3)
    step = max(1, round(runs / 8))
    places = list(range(1, runs + 1, step))
    ticks(axes, "x", places, [f"{place}" for place in places])
    for stage, rows in groups_of(frame, "stage"):
        _draw_trend(axes, stage, rows, times=times)
    return figure


def _draw_trend(axes: Axes, stage: int, rows: pd.DataFrame, *, times: bool) -> None:
    colour = stage_colour(stage)
    middle = rows.groupby("run")["value"].median()
    axes.plot(middle.index.to_numpy(), middle.to_numpy(), color=colour, linewidth=1.4, zorder=2)
    for run, value, verdict in rows_of(rows, "run", "value", "verdict"):
        text = format_duration(value) if times else significant(value)
        axes.plot(
            [run],
            [value],
            marker="o",
            markersize=5,
            color=colour,
            zorder=3,
            gid=f"tip:{localized('page_history.tip', run=run, value=text)}",
        )
        if verdict in _MARKS:
            tone, mark = _MARKS[verdict]
            axes.plot([run], [value], marker=mark, markersize=12, color=tone, markerfacecolor="none",
                      markeredgewidth=2, zorder=4)  # fmt: skip
