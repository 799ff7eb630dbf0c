"""The decision view: throughput per NPU against tokens/s a user, with the Pareto front and the region of the SLO."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.labels import HEIGHT, Box, Labels, Point, text_box
from reports.figures.style import SMALL, Head, Scale, across, close_scale, over, panel, paper, set_scale
from reports.palette import BAD, INK, LIMIT, SURFACE, WINDOW

KEPT, BROKEN, LEFT_OUT = "kept", "broken", "left_out"
_SIZE = (SMALL[0], 286)


@dataclass(frozen=True, slots=True)
class Place:
    """One option: tokens/s a user (x) with its interval (NaN where there is none), throughput per NPU (y).

    `kind` says whether its limits are kept (also where there are none), broken, or whether it is left out of the
    front; `line` names the configuration whose places are joined, in the order of `load`, "" for none.
    """

    x: float
    y: float
    label: str
    tip: str
    colour: str
    kind: str = KEPT
    x_low: float = math.nan
    x_high: float = math.nan
    on_front: bool = False
    chosen: bool = False
    line: str = ""
    short: str = ""  # in place of the label where that has no room


@dataclass(frozen=True, slots=True)
class Plane:
    """What the figure shows: its places, the titles of both axes, and from where the limits are kept, if anywhere."""

    places: Sequence[Place]
    across: str
    upward: str
    edge: float | None = None
    edge_name: str = ""


def decision_plane(plane: Plane, head: Head) -> Figure:
    """All options; the staircase is the front: below and left of it every option is beaten in both."""
    figure = paper(_SIZE, head)
    axes = panel(figure, (46, 32, 16, 46))
    x, y = (_scale(plane, name) for name in ("x", "y"))
    set_scale(axes, "x", x)
    set_scale(axes, "y", y if y.low else y.higher(1.08))  # room for the names of the points
    over(axes, plane.upward)
    across(axes, plane.across)
    labels = Labels(axes)
    _draw_region(axes, plane, labels)
    for line in (*_draw_lines(axes, plane.places), *_draw_front(axes, plane.places)):
        labels.avoid_line(line)
    for place in plane.places:
        _draw_place(axes, place)
    labels.reserve_points((place.x, place.y) for place in plane.places)
    for place in plane.places:
        if place.x_low < place.x_high:
            labels.avoid_line([(place.x_low, place.y), (place.x_high, place.y)])
    for place in sorted(plane.places, key=lambda p: (not p.chosen, not p.on_front, p.kind != KEPT)):
        bold = place.chosen or place.on_front
        labels.place((place.label, place.short), place.x, place.y, place.colour, bold=bold)
    return figure


def _scale(plane: Plane, name: str) -> Scale:
    values = [getattr(place, name) for place in plane.places]
    if name == "x":
        values += [end for place in plane.places for end in (place.x_high,) if end < 2 * place.x]
        values += [plane.edge] if plane.edge is not None and plane.edge < 2 * max(values, default=0.0) else []
    return close_scale(np.asarray(values, dtype=np.float64))


def _draw_region(axes: Axes, plane: Plane, labels: Labels) -> None:
    """The region in which the limits are kept, named in the corner where it is widest."""
    if plane.edge is None:
        return
    high = axes.get_xlim()[1]
    bounds = labels.bounds
    if plane.edge < high:
        axes.axvspan(max(plane.edge, axes.get_xlim()[0]), high, color=WINDOW, zorder=0.2, linewidth=0)
        labels.avoid_line([(plane.edge, end) for end in axes.get_ylim()])
        axes.axvline(plane.edge, color=LIMIT, linewidth=1.3, dashes=(5, 3), zorder=1)
    at_x = min(max(labels.at(plane.edge, 0)[0], bounds.left), bounds.right)
    right = text_box(plane.edge_name, at_x + 4, bounds.bottom + 6, "left", bold=True)
    side, x = ("left", at_x + 4) if right.within(bounds) else ("right", at_x - 4)
    box = text_box(plane.edge_name, x, bounds.bottom + 6, side, bold=True)
    axes.annotate(plane.edge_name, (x, bounds.bottom + 6), xycoords="figure pixels", ha=side, va="baseline",
                  color=LIMIT, fontweight="bold", zorder=6)  # fmt: skip
    labels.reserve(box, Box(at_x - 1, bounds.bottom, at_x + 1, bounds.bottom + HEIGHT))


def _draw_lines(axes: Axes, places: Sequence[Place]) -> list[list[Point]]:
    """Places of one configuration joined in their order, those left out are not; the lines drawn."""
    lines = []
    for line in dict.fromkeys(place.line for place in places if place.line):
        own = [place for place in places if place.line == line and place.kind != LEFT_OUT]
        if len(own) > 1:
            lines.append([(place.x, place.y) for place in own])
            axes.plot(*zip(*lines[-1], strict=True), color=own[0].colour, linewidth=1.1, alpha=0.6, zorder=2)
    return lines


def _draw_front(axes: Axes, places: Sequence[Place]) -> list[list[Point]]:
    """The staircase from the axis on the left down to the one below, if there is a front."""
    front = sorted(((place.x, place.y) for place in places if place.on_front), key=lambda at: (at[0], -at[1]))
    if not front:
        return []
    corners = [(0.0, front[0][1])]
    for x, y in front:
        corners += [(corners[-1][0], y), (x, y)]
    corners.append((corners[-1][0], 0.0))
    axes.plot(*zip(*corners, strict=True), color=INK, linewidth=1.3, alpha=0.75, zorder=2.5)
    return [corners]


def _draw_place(axes: Axes, place: Place) -> None:
    if math.isfinite(place.x_low) and math.isfinite(place.x_high):
        axes.plot([place.x_low, place.x_high], [place.y] * 2, color=place.colour, linewidth=2.2, alpha=0.45,
                  solid_capstyle="round", zorder=3)  # fmt: skip
    tip = f"tip:{place.tip}"
    if place.kind == LEFT_OUT:
        axes.plot([place.x], [place.y], marker="x", color=BAD, markersize=6, markeredgewidth=1.6, zorder=4, gid=tip)
        return
    if place.chosen:
        axes.plot([place.x], [place.y], marker="o", markersize=15, color=INK, markerfacecolor="none",
                  markeredgewidth=1.6, zorder=3.5)  # fmt: skip
    axes.plot([place.x], [place.y], marker="o", markersize=8, color=place.colour if place.kind == KEPT else SURFACE,
              markeredgecolor=place.colour, markeredgewidth=1.7, zorder=4, gid=tip)  # fmt: skip
