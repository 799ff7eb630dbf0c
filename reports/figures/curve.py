"""Latency against load: a curve over stages, or a ladder of percentiles where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from harness.units import format_duration
from reports.figures.labels import BEFORE, BESIDE, Box, Labels
from reports.figures.style import (
    SMALL,
    Head,
    Scale,
    across,
    open_end,
    over,
    panel,
    paper,
    scale_of,
    set_scale,
    ticks,
    width_of,
)
from reports.loads import short_duration
from reports.palette import ACCENT, BAD, INK, LIMIT, MUTED, SURFACE, stage_colour
from reports.rows import groups_of, rows_of

_TALL = (SMALL[0], 268)


@dataclass(frozen=True, slots=True)
class Limit:
    """An SLO limit on one statistic of a metric, in seconds, such as p99 of ttft_user."""

    metric: str
    statistic: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """The knee: between which rates the limits stop holding, or more load stops bringing more; and its name's code."""

    held: float
    broken: float
    code: str = "figures.curve.limits_break"


def limit_name(limit: Limit) -> str:
    """A limit as a figure writes it, such as `p99 limit 5 s`."""
    return localized("figures.limit", statistic=limit.statistic, limit=short_duration(limit.seconds))


@dataclass(frozen=True, slots=True)
class Throughput:
    """One metric over stages.

    `points` has a row a stage and repeat: rate, done, stage, short, loop, valid, p50, p50_low, p50_high, p50_open,
    tail, tail_low, tail_high, tail_open (s), `done` being the rate of answers where `rate` was offered (else NaN), the
    tail the statistic of that name, `loop` what may be joined by a line, and an interval that is open one without an
    upper end. `across` names the rate's axis; where it is empty the rate is the number of the stage, and stages stand
    side by side. `upward` is the metric's name, to which the other axis adds the unit of its ticks.
    """

    points: pd.DataFrame
    tail: str
    across: str
    limits: Sequence[Limit] = ()
    capacity: Capacity | None = None
    upward: str = ""

    @property
    def scale(self) -> Scale:
        """The axis of times; its unit is that of every title and tick."""
        values = self.points[["p50", "tail", "tail_high"]].to_numpy(dtype=np.float64).ravel()
        near = [limit.seconds for limit in self.limits if limit.seconds < 4 * np.nanmax(values, initial=0)]
        return scale_of(values, times=True, beside=near).higher(1.25)  # room for the names of the points


def throughput_latency(shown: Throughput, head: Head) -> Figure:
    """p50 and a tail against a rate, a point a stage and repeat; a stroke where the answers' own rate is another."""
    figure = paper(_TALL, head)
    axes = panel(figure, (40, 46 if shown.capacity else 30, 36, 44))
    points, scale = shown.points, shown.scale
    set_scale(axes, "y", scale)
    _set_across(axes, shown)
    labels = Labels(axes, room=34)
    if shown.upward:
        over(axes, localized("figures.axis", name=shown.upward, unit=scale.unit), lift=18 if shown.capacity else 0)
    if shown.capacity is not None:
        _draw_capacity(axes, shown.capacity)
    if shown.across:
        labels.reserve(*_draw_answered(axes, points))
    for column in ("p50", "tail"):
        for line in _draw_line(axes, points, column, "p50" if column == "p50" else shown.tail):
            labels.avoid_line(line)
        labels.reserve_points(rows_of(points.dropna(subset=[column]), "rate", column))
    kept = [limit for limit in shown.limits if limit.seconds <= scale.high]
    for limit in kept:
        labels.avoid_level(limit.seconds)
    for limit in kept:
        axes.axhline(limit.seconds, color=LIMIT, linewidth=1.3, dashes=(5, 3), zorder=1)
        labels.name_line(limit.seconds, limit_name(limit), LIMIT)
    _name_lines(labels, shown)
    if shown.across:
        _name_points(labels, points)
    return figure


def _set_across(axes: Axes, shown: Throughput) -> None:
    points = shown.points
    if not shown.across:
        axes.set_xlim(-0.5, float(points["rate"].max()) + 0.5)
        stages = dict(rows_of(points, "stage", "short"))
        room = axes.bbox.width / (len(stages) + 0.2)
        fits = max(map(width_of, stages.values())) <= room
        ticks(axes, "x", list(stages), list(stages.values()) if fits else [str(stage + 1) for stage in stages])
        if not fits:
            across(axes, localized("page.stages.stage"))
        return
    rates = points[["rate", "done"]].to_numpy(dtype=np.float64).ravel()
    set_scale(axes, "x", scale_of(rates[np.isfinite(rates)], times=False, allow_log=False))
    across(axes, shown.across)


def _draw_line(axes: Axes, points: pd.DataFrame, column: str, name: str) -> list[list[tuple[float, float]]]:
    """One statistic over all stages: the medians of valid repeats joined within a loop, every repeat a point.

    The lines and intervals drawn, as places.
    """
    lines = []
    is_tail = column == "tail"
    width, colour = (1.6, INK) if is_tail else (1.1, MUTED)
    for _, loop in points[points["valid"]].groupby("loop", sort=False):
        middle = loop.groupby("stage", sort=False)[["rate", column]].median()
        axes.plot(middle["rate"], middle[column], color=colour, linewidth=width, zorder=2)
        lines.append(list(rows_of(middle, "rate", column)))
    columns = ("rate", "stage", "short", "valid", column, f"{column}_low", f"{column}_high", f"{column}_open")
    for rate, stage, short, valid, value, low, high, is_open in rows_of(points, *columns):
        own = stage_colour(stage)
        if low < high:
            lines.append([(rate, low), (rate, high)])
        axes.plot([rate] * 2, [low, high], color=own, linewidth=2.2, alpha=0.45, solid_capstyle="round", zorder=3)
        if is_open is True:
            open_end(axes, rate, high, own)
        tip = _tip("figures.curve.tip", stage=short, statistic=name, value_s=value)
        if not valid:
            axes.plot([rate], [value], marker="x", color=BAD, markersize=6, markeredgewidth=1.6, zorder=4, gid=tip)
            continue
        axes.plot([rate], [value], marker="o", markersize=7, color=own if is_tail else SURFACE,
                  markeredgecolor=own, markeredgewidth=1.6, zorder=4, gid=tip)  # fmt: skip
    return lines


def _draw_answered(axes: Axes, points: pd.DataFrame) -> list[Box]:
    """The rate at which requests were answered, as a stroke at the height of the tail, tied to its point; their boxes.

    Each stage's repeats together: their strokes would only lie on each other.
    """
    boxes = []
    known = points.dropna(subset=["done", "tail"])
    middle = known.groupby(["stage", "short"], sort=False)[["rate", "done", "tail"]].median().reset_index()
    for rate, done, tail, stage, short in rows_of(middle, "rate", "done", "tail", "stage", "short"):
        own = stage_colour(stage)
        axes.plot([done, rate], [tail] * 2, color=own, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
        axes.plot([done], [tail], marker="|", markersize=13, markeredgewidth=2, color=own, zorder=3,
                  gid=_tip("figures.curve.tip_completed", stage=short, rate=done))  # fmt: skip
        (at, y), (other, _) = axes.transData.transform([(done, tail), (rate, tail)])
        boxes += [Box(min(at, other), y - 2, max(at, other), y + 2), Box(at - 3, y - 7, at + 3, y + 7)]
    return boxes


def _tip(code: str, **parameters: str | float) -> str:
    """The id of a mark, which becomes what hovering over it shows."""
    return f"tip:{localized(code, **parameters)}"


def _name_lines(labels: Labels, shown: Throughput) -> None:
    """The statistics' names beside the last points of the lines."""
    valid = shown.points[shown.points["valid"]]
    if not len(valid):
        return
    last = valid[valid["stage"] == valid["stage"].iloc[-1]]
    for name, column, colour in ((shown.tail, "tail", INK), ("p50", "p50", MUTED)):
        if last[column].notna().any():
            labels.place(name, float(last["rate"].median()), float(last[column].median()), colour, first=BESIDE)


def _name_points(labels: Labels, points: pd.DataFrame) -> None:
    """The requested load above the highest tail of each stage, or its number, where there is room for it."""
    for stage, rows in groups_of(points.dropna(subset=["tail"]), "stage"):
        short, rate, tail = max(rows_of(rows, "short", "rate", "tail"), key=lambda row: row[2])
        labels.place((short, f"#{stage + 1}"), rate, tail, stage_colour(stage), bold=True, first=BEFORE)


def _draw_capacity(axes: Axes, capacity: Capacity) -> None:
    """A bracket along the top: all is well up to its left end and no longer at its right one."""
    if not capacity.held < capacity.broken:
        return
    above = axes.get_xaxis_transform()
    height = axes.bbox.height
    low, edge, high = 1 + 4 / height, 1 + 9 / height, 1 + 13 / height
    x = [capacity.held, capacity.held, capacity.broken, capacity.broken]
    axes.plot(x, [low, edge, edge, low], transform=above, color=MUTED, linewidth=1, clip_on=False)
    name = localized(capacity.code)
    half = width_of(name) / 2 / axes.bbox.width * (axes.get_xlim()[1] - axes.get_xlim()[0])
    middle = min(max((capacity.held + capacity.broken) / 2, axes.get_xlim()[0] + half), axes.get_xlim()[1] - half)
    axes.text(middle, high, name, transform=above, ha="center", color=MUTED, fontsize=10)


def ladder_scale(rungs: pd.DataFrame, limits: Sequence[Limit]) -> Scale:
    """The axis of a ladder's times; `limits` are those that it draws."""
    values = rungs[["p50", "p90", "p99"]].to_numpy(dtype=np.float64).ravel()
    return scale_of(values, times=True, beside=[limit.seconds for limit in limits])


def ladder(rungs: pd.DataFrame, head: Head, limits: Sequence[Limit] = ()) -> Figure:
    """p50, p90 and p99 of every metric of a lone stage on one axis of time.

    `rungs` has a row a metric: columns metric, name, p50, p90, p99 (s).
    """
    figure = paper(_TALL, head)
    axes = panel(figure, (100, 24, 60, 46))
    own = [limit for limit in limits if limit.metric in set(rungs["metric"])]
    scale = ladder_scale(rungs, own)
    set_scale(axes, "x", scale)
    across(axes, localized("figures.axis", name=localized("figures.time"), unit=scale.unit))
    axes.set_ylim(len(rungs) - 0.4, -0.6)
    ticks(axes, "y", range(len(rungs)), list(rungs["name"]), colour=INK)
    axes.text(1 + 52 / axes.bbox.width, -0.72, "p99", transform=axes.get_yaxis_transform(), ha="right", color=MUTED)
    for at, row in enumerate(rows_of(rungs, "p50", "p90", "p99")):
        _draw_rung(axes, at, row)
    for limit in own:
        at = list(rungs["metric"]).index(limit.metric)
        axes.plot([limit.seconds] * 2, [at - 0.3, at + 0.3], color=LIMIT, linewidth=2)
        half = width_of(limit_name(limit)) / 2
        x = min(max(axes.transData.transform((limit.seconds, 0))[0], axes.bbox.x0 + half), axes.bbox.x1 - half)
        y = axes.transData.transform((1.0, at - 0.36))[1]
        axes.annotate(limit_name(limit), (x, y), xycoords="figure pixels", ha="center", color=LIMIT, fontsize=10,
                      annotation_clip=False)  # fmt: skip
    return figure


def _draw_rung(axes: Axes, at: int, row: tuple[float, ...]) -> None:
    axes.plot([row[0], row[2]], [at, at], color=ACCENT, linewidth=7, alpha=0.3, solid_capstyle="round")
    for value, size, fill in zip(row, (6, 6, 8), (SURFACE, ACCENT, ACCENT), strict=True):
        axes.plot([value], [at], marker="o", markersize=size, color=fill, markeredgecolor=ACCENT)
    axes.text(1 + 52 / axes.bbox.width, at, format_duration(row[2]), transform=axes.get_yaxis_transform(), ha="right",
              va="center_baseline", color=INK)  # fmt: skip
