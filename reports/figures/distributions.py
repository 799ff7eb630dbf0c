"""Distributions of latencies: percentile curves of every stage, and latency against a property of the request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from reports.figures.curve import Limit, limit_name
from reports.figures.labels import Labels
from reports.figures.style import (
    SMALL,
    Head,
    Scale,
    across,
    apart,
    dots,
    open_end,
    over,
    panel,
    paper,
    scale_of,
    set_scale,
    ticks,
    uprights,
    width_of,
)
from reports.loads import short_duration, trimmed
from reports.palette import LIMIT, MUTED, SURFACE, stage_colour
from reports.rows import groups_of, rows_of

_TICKS = (1, 10, 50, 90, 99, 99.9)
_NORMAL = NormalDist()
_MOST_CURVES = 7  # more stage names at the right end would crowd: the page's key names them all


@dataclass(frozen=True, slots=True)
class Spread:
    """One latency of all stages.

    `curves` has columns stage, share (0 to 1), value (s); `others` the same for a second view of
    it, or no rows; `intervals` stage, share, low, high (s), open (without an upper end). `upward` names the y axis.
    """

    curves: pd.DataFrame
    others: pd.DataFrame
    intervals: pd.DataFrame
    names: Mapping[int, str] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    upward: str = ""


def percentile_curves(spread: Spread, scale: Scale, head: Head) -> Figure:
    """Latency that a share of requests stays under, a line a stage, with the intervals of p50, p90 and p99."""
    figure = paper((SMALL[0], 252), head)
    axes = panel(figure, (40, 30, _right_margin(spread.names), 44))
    set_scale(axes, "y", scale)
    over(axes, spread.upward)
    across(axes, localized("figures.spread.across"))
    top = max(float(spread.curves["share"].max()) if len(spread.curves) else 0.99, 0.99)
    axes.set_xlim(percentile_place(0.01), percentile_place(top) + 0.02)
    shown = [tick for tick in _TICKS if tick / 100 <= top + 1e-9]
    ticks(axes, "x", [percentile_place(tick / 100) for tick in shown], [f"p{trimmed(tick)}" for tick in shown])
    _draw_curves(axes, spread.others, width=1.1, dashes=(2.5, 2))
    _draw_curves(axes, spread.curves, width=1.7)
    _draw_intervals(axes, spread.intervals)
    _name_curves(axes, spread.curves, spread.names)
    labels = Labels(axes)
    for limit in spread.limits:
        _draw_limit(axes, labels, limit, scale)
    return figure


def _right_margin(names: Mapping[int, str]) -> float:
    """Room for the names at the right end of the lines."""
    longest = max(map(width_of, names.values()), default=0) if len(names) <= _MOST_CURVES else 0
    return min(16 + longest, 140)


def percentile_place(share: float) -> float:
    """The place of a share on the axis: even steps of a normal distribution, so both tails open up."""
    return _NORMAL.inv_cdf(min(max(share, 0.005), 0.9999))


def _draw_curves(axes: Axes, curves: pd.DataFrame, width: float, dashes: tuple[float, float] | None = None) -> None:
    for stage, rows in groups_of(curves, "stage"):
        places = [percentile_place(share) for share in rows["share"].tolist()]
        (line,) = axes.plot(places, rows["value"].to_numpy(), color=stage_colour(stage), linewidth=width, zorder=3)
        if dashes:
            line.set_dashes(dashes)


def _draw_intervals(axes: Axes, intervals: pd.DataFrame) -> None:
    """Bars side by side, so that stages do not hide one another."""
    stages = {stage: i for i, stage in enumerate(sorted(intervals["stage"].unique()))}
    for stage, share, low, high, is_open in rows_of(intervals, "stage", "share", "low", "high", "open"):
        if is_open is True:
            open_end(
                axes,
                percentile_place(share) + 0.05 * (stages[stage] - (len(stages) - 1) / 2),
                high,
                stage_colour(int(stage)),
            )
        place = percentile_place(share) + 0.05 * (stages[stage] - (len(stages) - 1) / 2)
        axes.plot([place] * 2, [low, high], color=stage_colour(int(stage)), linewidth=3, alpha=0.45,
                  solid_capstyle="round", zorder=2)  # fmt: skip


def _name_curves(axes: Axes, curves: pd.DataFrame, names: Mapping[int, str]) -> None:
    """Each line's name at its right end, moved apart where ends lie close."""
    ends = [
        (stage, percentile_place(rows["share"].iloc[-1]), rows["value"].iloc[-1])
        for stage, rows in groups_of(curves, "stage")
    ]
    if not 0 < len(ends) <= _MOST_CURVES:
        return
    at = axes.transAxes.inverted().transform(axes.transData.transform([end[1:] for end in ends]))
    for (stage, _, _), y in zip(ends, apart(list(at[:, 1]), 0.08, 0.0, 1.0), strict=True):
        axes.text(1.02, y, names.get(stage, str(stage)), transform=axes.transAxes, va="center_baseline",
                  color=stage_colour(stage), fontweight="bold")  # fmt: skip


def _draw_limit(axes: Axes, labels: Labels, limit: Limit, scale: Scale) -> None:
    """The limit as a line with a mark at the percentile it binds; beyond the range it is only named."""
    if limit.seconds > scale.high:
        text = localized("figures.limit_above", statistic=limit.statistic, limit=short_duration(limit.seconds))
        labels.name_line(scale.high, text, MUTED, bold=False)
        return
    _draw_line(axes, labels, limit)
    if limit.statistic.startswith("p"):
        place = percentile_place(float(limit.statistic[1:]) / 100)
        axes.plot([place], [limit.seconds], marker="v", color=LIMIT, markersize=7, zorder=6, clip_on=False)


def _draw_line(axes: Axes, labels: Labels, limit: Limit) -> None:
    axes.axhline(limit.seconds, color=LIMIT, linewidth=1.3, dashes=(5, 3), zorder=4)
    labels.name_line(limit.seconds, limit_name(limit), LIMIT)


_MOST_MEDIANS = 7


@dataclass(frozen=True, slots=True)
class Violin:
    """One latency against one property of requests.

    `points` has columns stage, x, value (s); `bins` stage, x, median, low, high. `by_turn`: x is the turn, in whole
    numbers; else it is prompt tokens, on a logarithmic axis where they span a factor of 30.
    """

    points: pd.DataFrame
    bins: pd.DataFrame
    by_turn: bool
    names: Mapping[int, str] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    upward: str = ""


def shape_figure(shape: Violin, scale: Scale, head: Head) -> Figure:
    """Requests as pale dots, their medians as lines, a colour a stage."""
    figure = paper((SMALL[0], 262), head)
    longest = max(map(width_of, shape.names.values()), default=0) if len(shape.names) <= _MOST_MEDIANS else 0
    axes = panel(figure, (44, 30, min(18 + longest, 140), 44))
    set_scale(axes, "y", scale)
    over(axes, shape.upward)
    _set_across(axes, shape)
    for stage, own in groups_of(shape.points, "stage"):
        dots(axes, own["x"].to_numpy(), own["value"].to_numpy(), stage_colour(stage), 2.4)
    ends = [_medians(axes, stage, own) for stage, own in groups_of(shape.bins, "stage")]
    _name_lines(axes, shape, ends)
    labels = Labels(axes)
    for limit in shape.limits:
        if limit.seconds <= scale.high:
            _draw_line(axes, labels, limit)
    return figure


def _set_across(axes: Axes, shape: Violin) -> None:
    x = shape.points["x"].to_numpy(dtype=np.float64)
    if shape.by_turn:
        most = int(x.max())
        axes.set_xlim(0.5, most + 0.5)
        shown = range(1, most + 1, max(1, most // 10))
        ticks(axes, "x", list(shown), [str(turn) for turn in shown])
    else:
        set_scale(axes, "x", scale_of(x, times=False))
    name = localized("figures.shape.turn" if shape.by_turn else "figures.shape.prompt_tokens")
    across(axes, name)


def _medians(axes: Axes, stage: int, own: pd.DataFrame) -> tuple[int, float, float]:
    colour = stage_colour(stage)
    axes.plot(own["x"], own["median"], color=colour, linewidth=1.7, zorder=4)
    x, median, low, high = (own[name].to_numpy(dtype=np.float64) for name in ("x", "median", "low", "high"))
    uprights(axes, x, low, high, colour)
    axes.plot(x, median, linestyle="none", marker="o", markersize=5, color=SURFACE, markeredgecolor=colour,
              markeredgewidth=1.5, zorder=5)  # fmt: skip
    return stage, float(own["x"].iloc[-1]), float(own["median"].iloc[-1])


def _name_lines(axes: Axes, shape: Violin, ends: Sequence[tuple[int, float, float]]) -> None:
    """Each line's name at the right, moved apart where ends lie close."""
    if not 0 < len(ends) <= _MOST_MEDIANS or len(shape.names) < 2:
        return
    at = axes.transAxes.inverted().transform(axes.transData.transform([end[1:] for end in ends]))
    for (stage, _, _), y in zip(ends, apart(list(at[:, 1]), 0.08, 0.0, 1.0), strict=True):
        axes.text(1.02, y, shape.names.get(stage, str(stage)), transform=axes.transAxes, va="center_baseline",
                  color=stage_colour(stage), fontweight="bold")  # fmt: skip
