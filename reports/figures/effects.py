"""The figure of what each flag of a winner is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from reports.figures.style import WIDE, Head, across, panel, paper, scale_of, set_scale, width_of
from reports.palette import ACCENT, GRID, INK, WARM

_ROW = 30
_COLOURS = {"best": ACCENT, "without": WARM, "default": INK}
_MARKERS = {"best": "o", "without": "o", "default": "D"}


@dataclass(frozen=True, slots=True)
class EffectRow:
    """One configuration: its name, its value with an interval (the ends are equal: none), and what hovering tells."""

    name: str
    value: float
    low: float
    high: float
    tip: str
    kind: str  # best | without | default


def effects(rows: Sequence[EffectRow], axis: str, head: Head, *, times: bool) -> Figure:
    """A row a configuration, from zero: a dot with its interval; the line is the best one's value."""
    left = max(width_of(row.name) for row in rows) + 18
    figure = paper((WIDE, 66 + _ROW * len(rows)), head)
    axes = panel(figure, (left, 18, 22, 46))
    scale = scale_of(np.asarray([row.high for row in rows], dtype=np.float64), times=times, allow_log=False)
    set_scale(axes, "x", scale)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    across(axes, axis if not scale.unit else f"{axis.partition(',')[0]}, {scale.unit}")
    axes.axvline(rows[0].value, color=GRID, linewidth=1.4, zorder=1)
    for place, row in enumerate(rows):
        colour = _COLOURS[row.kind]
        axes.text(-9 / axes.bbox.width, place, row.name, transform=axes.get_yaxis_transform(), ha="right", color=INK,
                  va="center_baseline")  # fmt: skip
        axes.plot([row.low, row.high], [place, place], color=colour, linewidth=3, alpha=0.45, solid_capstyle="round")
        axes.plot([row.value], [place], marker=_MARKERS[row.kind], markersize=8, color=colour, zorder=4, clip_on=False,
                  gid=f"tip:{row.tip}")  # fmt: skip
    return figure
