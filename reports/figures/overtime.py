"""Panels over one axis of time, stages and their windows marked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from reports.figures.curve import Limit, limit_name
from reports.figures.heat import Heat, draw_heat
from reports.figures.lanes import Lanes, draw_lanes
from reports.figures.style import (
    WIDE,
    Head,
    Scale,
    bands,
    crosses,
    dots,
    limit_line,
    panel,
    paper,
    scale_of,
    set_scale,
    ticks,
    width_of,
)
from reports.loads import trimmed
from reports.palette import ACCENT, MUTED, STALL, WARM, WINDOW, stage_colour
from reports.rows import groups_of, rows_of

_HEAD, _FOOT, _GAP, _LEFT, _RIGHT = 44, 46, 34, 54, 14


@dataclass(frozen=True, slots=True)
class SeriesLine:
    """One value over time: a frame of at_s and value, its name and colour, whether it is filled to zero, or dashed."""

    name: str
    frame: pd.DataFrame
    colour: str = ACCENT
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One panel of lines that share a scale: its name with the unit, the least its top shows, the unit's size.

    `keyed` says that the lines are named in the panel, and not by a key beside the figure.
    """

    name: str
    lines: Sequence[SeriesLine]
    at_least: float = 1.0
    size: float = 1.0
    keyed: bool = True


@dataclass(frozen=True, slots=True)
class Points:
    """One panel of single requests: a frame of at_s, value (of the metric), kind and place; limits that apply."""

    name: str
    frame: pd.DataFrame
    metric: str
    limits: Sequence[Limit] = field(default_factory=tuple)


AnyStrip = Strip | Points | Lanes | Heat


def over_time(
    strips: Sequence[AnyStrip],
    places: pd.DataFrame,
    warm: pd.DataFrame,
    head: Head,
    stalls: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Panels above one another, the same seconds at the same place.

    `places` is `frames.place_frame`; `warm` has columns start_s and end_s of warm-up; `stalls` are
    the beginnings and ends of pauses of the server, marked in every panel.
    """
    heights = [_height(strip) for strip in strips]
    figure = paper((WIDE, _HEAD + sum(heights) + _GAP * (len(strips) - 1) + _FOOT), head)
    span = time_span(places)
    top = _HEAD
    total = figure.get_figheight() * 72
    for strip, height in zip(strips, heights, strict=True):
        axes = panel(figure, (_LEFT, top, _RIGHT, total - top - height))
        axes.set_xlim(span)
        _mark(axes, places, warm, named=top == _HEAD)
        _mark_stalls(axes, stalls, named=top == _HEAD)
        _draw(axes, strip)
        axes.text((2 - _LEFT) / axes.bbox.width, 1 + 7 / height, strip.name, transform=axes.transAxes, color=MUTED)
        _time_axis(axes, span, last=strip is strips[-1])
        top += height + _GAP
    return figure


def _height(strip: AnyStrip) -> int:
    if isinstance(strip, Lanes | Heat):
        return strip.height
    return 150 if isinstance(strip, Points) else 96


def _draw(axes: Axes, strip: AnyStrip) -> None:
    if isinstance(strip, Points):
        _points(axes, strip)
    elif isinstance(strip, Lanes):
        draw_lanes(axes, strip)
        _key(axes, strip.key)
    elif isinstance(strip, Heat):
        draw_heat(axes, strip)
    else:
        _lines(axes, strip)


def _mark_stalls(axes: Axes, stalls: Sequence[tuple[float, float]], *, named: bool) -> None:
    """Pauses of the server as pale upright bands, however short; each has a mark above the first panel."""
    least_s = 1.2 * (axes.get_xlim()[1] - axes.get_xlim()[0]) / axes.bbox.width
    bands(axes, [(start_s, max(end_s, start_s + least_s)) for start_s, end_s in stalls], STALL)
    if not named or not stalls:
        return
    tops = np.asarray([(start + end) / 2 for start, end in stalls])
    axes.plot(tops, np.ones(len(tops)), transform=axes.get_xaxis_transform(), linestyle="none", marker="v",
              color=STALL, markersize=4, clip_on=False)  # fmt: skip


def time_span(places: pd.DataFrame) -> tuple[float, float]:
    """The run's first and last second, that all panels over time have as their range."""
    first, last = min(0.0, float(places["start_s"].min())), float(places["end_s"].max())
    return first, max(last, first + 1e-3)


def _time_axis(axes: Axes, span: tuple[float, float], *, last: bool) -> None:
    places = Scale(0.0, span[1], log=False, parts=9).places
    ticks(axes, "x", places, [trimmed(place) for place in places] if last else [])
    if last:
        axes.text(1, -36 / axes.bbox.height, localized("figures.time.axis"), transform=axes.transAxes, ha="right",
                  color=MUTED)  # fmt: skip


def _mark(axes: Axes, places: pd.DataFrame, warm: pd.DataFrame, *, named: bool) -> None:
    """Windows shaded, warm-up hatched; the stages' names stand once, above the first panel."""
    for start_s, end_s in rows_of(warm, "start_s", "end_s"):
        axes.axvspan(start_s, end_s, facecolor="none", edgecolor=WARM, hatch="////", linewidth=0, alpha=0.6)
    for start_s, end_s in rows_of(places, "window_start_s", "window_end_s"):
        if math.isfinite(start_s) and math.isfinite(end_s):
            axes.axvspan(start_s, end_s, color=WINDOW, linewidth=0)
    if named:
        _name_stages(axes, places)


def _name_stages(axes: Axes, places: pd.DataFrame) -> None:
    free_from_s, width_s = -math.inf, axes.get_xlim()[1] - axes.get_xlim()[0]
    above = 1 + 24 / axes.bbox.height
    for stage, short, start_s, end_s in rows_of(places, "stage", "short", "start_s", "end_s"):
        colour = stage_colour(stage)
        axes.plot([start_s, end_s], [above, above], transform=axes.get_xaxis_transform(), color=colour, linewidth=3,
                  solid_capstyle="butt", clip_on=False)  # fmt: skip
        if start_s < free_from_s:
            continue
        free_from_s = start_s + (1.02 * width_of(short) + 8) / axes.bbox.width * width_s
        axes.annotate(short, (start_s, above), xycoords=("data", "axes fraction"), xytext=(0, 4),
                      textcoords="offset points", color=colour, fontweight="bold",
                      annotation_clip=False)  # fmt: skip


def _lines(axes: Axes, strip: Strip) -> None:
    values = np.concatenate([line.frame["value"].to_numpy(dtype=np.float64) for line in strip.lines] or [np.zeros(0)])
    high = max(strip.at_least, float(values.max(initial=0.0)) * 1.08)
    set_scale(axes, "y", Scale(0.0, high * 1.001, log=False, size=strip.size))
    for line in strip.lines:
        at, value = line.frame["at_s"], line.frame["value"]
        if line.filled:
            axes.fill_between(at, value, color=line.colour, alpha=0.22, linewidth=0)
        axes.plot(at, value, color=line.colour, linewidth=1.3, linestyle=(0, (4, 2)) if line.dashed else "-")
    if len(strip.lines) > 1 and strip.keyed:
        _key(axes, [(line.name, line.colour) for line in strip.lines])


def _key(axes: Axes, entries: Sequence[tuple[str, str]]) -> None:
    """Names of the lines at the panel's upper right, in their colours."""
    shift = 0.0
    for name, colour in reversed(entries):
        axes.text(1 - shift / axes.bbox.width, 1 + 7 / axes.bbox.height, name, transform=axes.transAxes, ha="right",
                  color=colour, fontweight="bold")  # fmt: skip
        shift += 1.04 * width_of(name) + 12


def _points(axes: Axes, strip: Points) -> None:
    """Single requests: counted ones in their stage's colour, others pale, failures crossed on the top edge."""
    frame = strip.frame
    values = frame["value"].to_numpy(dtype=np.float64)
    scale = scale_of(np.append(values, [limit.seconds for limit in strip.limits]), times=True)
    set_scale(axes, "y", scale)
    counted, failed = frame["kind"] == "counted", frame["kind"] == "failed"
    pale = frame[~counted & ~failed]
    dots(axes, pale["at_s"].to_numpy(), pale["value"].to_numpy(), MUTED, 2.4)
    for stage, rows in groups_of(frame[counted], "stage"):
        dots(axes, rows["at_s"].to_numpy(), rows["value"].to_numpy(), stage_colour(stage), 3.4)
    edge = scale.high / 1.07 if scale.log else scale.high * 0.96
    crosses(axes, frame[failed]["at_s"].to_numpy(), np.full(int(failed.sum()), edge))
    for limit in strip.limits:
        limit_line(axes, limit.seconds, limit_name(limit))


def unit_of(values: pd.Series, limits: Sequence[Limit]) -> str:
    """The unit that a panel of times will be printed in."""
    return scale_of(np.append(values.to_numpy(dtype=np.float64), [limit.seconds for limit in limits]), times=True).unit
