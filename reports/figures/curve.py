"""Latency against load: a curve over stages, or a ladder of percentiles where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from harness.units import format_duration
from reports.figures.style import SMALL, Head, apart, limit_line, panel, paper, scale_of, set_scale, ticks
from reports.loads import short_duration
from reports.palette import ACCENT, INK, LIMIT, MUTED, SURFACE, stage_colour
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

    `points` has a row a stage and repeat: rate, done, stage, short, p50, p50_low, p50_high, tail,
    tail_low, tail_high (s), `done` being the rate of answers where `rate` was offered (else NaN),
    and the tail the statistic of that name. `across` names the rate's axis; where it is empty the
    rate is the number of the stage, and stages stand side by side.
    """

    points: pd.DataFrame
    tail: str
    across: str
    limits: Sequence[Limit] = ()
    capacity: Capacity | None = None


def throughput_latency(shown: Throughput, head: Head) -> Figure:
    """p50 and a tail against a rate, a point a stage and repeat; a stroke where the answers' own rate is another."""
    figure = paper(_TALL, head)
    axes = panel(figure, (40, 34 if shown.capacity else 22, 36, 44))
    points = shown.points
    values = points[["p50", "tail", "tail_high"]].to_numpy(dtype=np.float64).ravel()
    near = [limit.seconds for limit in shown.limits if limit.seconds < 4 * np.nanmax(values, initial=0)]
    scale = scale_of(np.append(values, near), times=True).higher(1.25)  # room for the names of the points
    set_scale(axes, "y", scale)
    _set_across(axes, shown)
    if shown.capacity is not None:
        _draw_capacity(axes, shown.capacity)
    if shown.across:
        _draw_answered(axes, points)
    _draw_line(axes, points, "p50", "p50")
    _draw_line(axes, points, "tail", shown.tail)
    _name_lines(axes, shown)
    if shown.across:
        _name_points(axes, points)
    for limit in shown.limits:
        if limit.seconds <= scale.high:
            limit_line(axes, limit.seconds, limit_name(limit))
    return figure


def _set_across(axes: Axes, shown: Throughput) -> None:
    points = shown.points
    if not shown.across:
        axes.set_xlim(-0.5, float(points["rate"].max()) + 0.5)
        stages = dict(rows_of(points, "stage", "short"))
        ticks(axes, "x", list(stages), list(stages.values()))
        return
    rates = points[["rate", "done"]].to_numpy(dtype=np.float64).ravel()
    set_scale(axes, "x", scale_of(rates[np.isfinite(rates)], times=False, allow_log=False))
    axes.text(1, -36 / axes.bbox.height, shown.across, transform=axes.transAxes, ha="right", color=MUTED)  # fmt: skip


def _draw_line(axes: Axes, points: pd.DataFrame, column: str, name: str) -> None:
    """One statistic over all stages: the medians of repeats joined, every repeat a point with its interval."""
    is_tail = column == "tail"
    middle = points.groupby("stage", sort=False)[["rate", column]].median()
    width, colour = (1.6, INK) if is_tail else (1.1, MUTED)
    axes.plot(middle["rate"], middle[column], color=colour, linewidth=width, zorder=2)
    columns = ("rate", "stage", "short", column, f"{column}_low", f"{column}_high")
    for rate, stage, short, value, low, high in rows_of(points, *columns):
        own = stage_colour(stage)
        axes.plot([rate] * 2, [low, high], color=own, linewidth=2.2, alpha=0.45, solid_capstyle="round", zorder=3)
        axes.plot([rate], [value], marker="o", markersize=7, color=own if is_tail else SURFACE,
                  markeredgecolor=own, markeredgewidth=1.6, zorder=4,
                  gid=_tip("figures.curve.tip", stage=short, statistic=name, value_s=value))  # fmt: skip


def _draw_answered(axes: Axes, points: pd.DataFrame) -> None:
    """The rate at which requests were answered, as a stroke at the height of the tail, tied to the point it belongs to.

    Each stage's repeats together: their strokes would only lie on each other.
    """
    known = points.dropna(subset=["done", "tail"])
    middle = known.groupby(["stage", "short"], sort=False)[["rate", "done", "tail"]].median().reset_index()
    for rate, done, tail, stage, short in rows_of(middle, "rate", "done", "tail", "stage", "short"):
        own = stage_colour(stage)
        axes.plot([done, rate], [tail] * 2, color=own, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
        axes.plot([done], [tail], marker="|", markersize=13, markeredgewidth=2, color=own, zorder=3,
                  gid=_tip("figures.curve.tip_completed", stage=short, rate=done))  # fmt: skip


def _tip(code: str, **parameters: str | float) -> str:
    """The id of a mark, which becomes what hovering over it shows."""
    return f"tip:{localized(code, **parameters)}"


def _name_lines(axes: Axes, shown: Throughput) -> None:
    """The statistics' names beside the last points, apart even where these lie on each other."""
    _, last = list(groups_of(shown.points, "stage"))[-1]
    rate, p50, tail = (float(last[name].median()) for name in ("rate", "p50", "tail"))
    at = axes.transAxes.inverted().transform(axes.transData.transform([(rate, p50), (rate, tail)]))
    x, ys = at[0][0] + 10 / axes.bbox.width, apart([at[0][1], at[1][1]], 16 / axes.bbox.height, 0.0, 1.0)
    for name, y, colour in zip(("p50", shown.tail), ys, (MUTED, INK), strict=True):
        axes.text(x, y, name, transform=axes.transAxes, color=colour, va="center_baseline")


def _name_points(axes: Axes, points: pd.DataFrame) -> None:
    """The requested load above the highest tail of each stage, where it does not lie on another name."""
    taken: list[tuple[float, float]] = []
    for stage, rows in groups_of(points.dropna(subset=["tail"]), "stage"):
        short, rate, tail = max(rows_of(rows, "short", "rate", "tail"), key=lambda row: row[2])
        x, y = axes.transData.transform((rate, tail))
        if any(abs(x - other[0]) < 46 and abs(y - other[1]) < 13 for other in taken):
            continue
        taken.append((x, y))
        at_edge = x - axes.bbox.x0 < 45
        axes.annotate(short, (rate, tail), xytext=(-4 if at_edge else 4, 9), textcoords="offset points",
                      ha="left" if at_edge else "right", color=stage_colour(stage),
                      fontweight="bold", annotation_clip=False)  # fmt: skip


def _draw_capacity(axes: Axes, capacity: Capacity) -> None:
    """A bracket along the top: all is well up to its left end and no longer at its right one."""
    if not capacity.held < capacity.broken:
        return
    over = axes.get_xaxis_transform()
    height = axes.bbox.height
    low, edge, high = 1 + 4 / height, 1 + 9 / height, 1 + 13 / height
    x = [capacity.held, capacity.held, capacity.broken, capacity.broken]
    axes.plot(x, [low, edge, edge, low], transform=over, color=MUTED, linewidth=1, clip_on=False)
    axes.text(
        (capacity.held + capacity.broken) / 2,
        high,
        localized(capacity.code),
        transform=over,
        ha="center",
        color=MUTED,
        fontsize=10,
    )


def ladder(rungs: pd.DataFrame, head: Head, limits: Sequence[Limit] = ()) -> Figure:
    """p50, p90 and p99 of every metric of a lone stage on one axis of time.

    `rungs` has a row a metric: columns metric, name, p50, p90, p99 (s).
    """
    figure = paper(_TALL, head)
    axes = panel(figure, (92, 18, 58, 36))
    values = rungs[["p50", "p90", "p99"]].to_numpy(dtype=np.float64).ravel()
    own = [limit for limit in limits if limit.metric in set(rungs["metric"])]
    set_scale(axes, "x", scale_of(np.append(values, [limit.seconds for limit in own]), times=True))
    axes.set_ylim(len(rungs) - 0.4, -0.6)
    ticks(axes, "y", range(len(rungs)), list(rungs["name"]), colour=INK)
    for at, row in enumerate(rows_of(rungs, "p50", "p90", "p99")):
        _draw_rung(axes, at, row)
    for limit in own:
        at = list(rungs["metric"]).index(limit.metric)
        axes.plot([limit.seconds] * 2, [at - 0.3, at + 0.3], color=LIMIT, linewidth=2)
        axes.text(limit.seconds, at - 0.36, limit_name(limit), ha="center",
                  color=LIMIT, fontsize=10)  # fmt: skip
    return figure


def _draw_rung(axes: Axes, at: int, row: tuple[float, ...]) -> None:
    axes.plot([row[0], row[2]], [at, at], color=ACCENT, linewidth=7, alpha=0.3, solid_capstyle="round")
    for value, size, fill in zip(row, (6, 6, 8), (SURFACE, ACCENT, ACCENT), strict=True):
        axes.plot([value], [at], marker="o", markersize=size, color=fill, markeredgecolor=ACCENT)
    axes.annotate(format_duration(row[2]), (row[2], at), xytext=(8, 0), textcoords="offset points",
                  va="center", color=INK, annotation_clip=False, zorder=6)  # fmt: skip
