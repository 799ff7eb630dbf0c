"""Latency against a property of the request: dots, and the medians of bins with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from reports.figures.curve import Limit, limit_name
from reports.figures.style import (
    SMALL,
    Head,
    Scale,
    apart,
    dots,
    limit_line,
    panel,
    paper,
    scale_of,
    set_scale,
    ticks,
    uprights,
    width_of,
)
from reports.palette import MUTED, SURFACE, stage_colour
from reports.rows import groups_of

_MOST_NAMES = 7


@dataclass(frozen=True, slots=True)
class Shape:
    """One latency against one property of requests.

    `points` has columns stage, x, value (s); `bins` stage, x, median, low, high. `by_turn`: x is the turn, in whole
    numbers; else it is prompt tokens, on a logarithmic axis where they span a factor of 30.
    """

    points: pd.DataFrame
    bins: pd.DataFrame
    by_turn: bool
    names: Mapping[int, str] = field(default_factory=dict)
    limits: Sequence[Limit] = ()


def shape_figure(shape: Shape, scale: Scale, head: Head) -> Figure:
    """Requests as pale dots, their medians as lines, a colour a stage."""
    figure = paper((SMALL[0], 250), head)
    longest = max(map(width_of, shape.names.values()), default=0) if len(shape.names) <= _MOST_NAMES else 0
    axes = panel(figure, (44, 14, min(18 + longest, 140), 44))
    set_scale(axes, "y", scale)
    _set_across(axes, shape)
    for stage, own in groups_of(shape.points, "stage"):
        dots(axes, own["x"].to_numpy(), own["value"].to_numpy(), stage_colour(stage), 2.4)
    ends = [_medians(axes, stage, own) for stage, own in groups_of(shape.bins, "stage")]
    _name_lines(axes, shape, ends)
    for limit in shape.limits:
        if limit.seconds <= scale.high:
            limit_line(axes, limit.seconds, limit_name(limit))
    return figure


def _set_across(axes: Axes, shape: Shape) -> None:
    x = shape.points["x"].to_numpy(dtype=np.float64)
    if shape.by_turn:
        most = int(x.max())
        axes.set_xlim(0.5, most + 0.5)
        shown = range(1, most + 1, max(1, most // 10))
        ticks(axes, "x", list(shown), [str(turn) for turn in shown])
    else:
        set_scale(axes, "x", scale_of(x, times=False))
    name = localized("figures.shape.turn" if shape.by_turn else "figures.shape.prompt_tokens")
    axes.text(1, -36 / axes.bbox.height, name, transform=axes.transAxes, ha="right", color=MUTED)


def _medians(axes: Axes, stage: int, own: pd.DataFrame) -> tuple[int, float, float]:
    colour = stage_colour(stage)
    axes.plot(own["x"], own["median"], color=colour, linewidth=1.7, zorder=4)
    x, median, low, high = (own[name].to_numpy(dtype=np.float64) for name in ("x", "median", "low", "high"))
    uprights(axes, x, low, high, colour)
    axes.plot(x, median, linestyle="none", marker="o", markersize=5, color=SURFACE, markeredgecolor=colour,
              markeredgewidth=1.5, zorder=5)  # fmt: skip
    return stage, float(own["x"].iloc[-1]), float(own["median"].iloc[-1])


def _name_lines(axes: Axes, shape: Shape, ends: Sequence[tuple[int, float, float]]) -> None:
    """Each line's name at the right, moved apart where ends lie close."""
    if not 0 < len(ends) <= _MOST_NAMES or len(shape.names) < 2:
        return
    at = axes.transAxes.inverted().transform(axes.transData.transform([end[1:] for end in ends]))
    for (stage, _, _), y in zip(ends, apart(list(at[:, 1]), 0.08, 0.0, 1.0), strict=True):
        axes.text(1.02, y, shape.names.get(stage, str(stage)), transform=axes.transAxes, va="center_baseline",
                  color=stage_colour(stage), fontweight="bold")  # fmt: skip
