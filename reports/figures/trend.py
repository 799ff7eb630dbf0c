"""One measure from run to run."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from harness.units import format_duration, significant
from reports.figures.style import SMALL, Head, panel, paper, scale_of, set_scale, ticks
from reports.palette import ACCENT, BAD, stage_colour
from reports.rows import groups_of, rows_of

_MARKS = {"worse": (BAD, "v"), "better": (ACCENT, "^")}  # told by shape too


def trend_lines(frame: pd.DataFrame, runs: int, head: Head, *, times: bool) -> Figure:
    """A line a stage over the runs; a triangle where a change was shown, up for better and down for worse."""
    figure = paper(SMALL, head)
    axes = panel(figure, (46, 16, 18, 38))
    set_scale(axes, "y", scale_of(frame["value"].to_numpy(dtype=np.float64), times=times))
    axes.set_xlim(0.7, runs + 0.3)
    step = max(1, round(runs / 8))
    places = list(range(1, runs + 1, step))
    ticks(axes, "x", places, [f"{place}" for place in places])
    for stage, rows in groups_of(frame, "stage"):
        _draw(axes, stage, rows, times=times)
    return figure


def _draw(axes: Axes, stage: int, rows: pd.DataFrame, *, times: bool) -> None:
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
