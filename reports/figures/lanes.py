"""Swim lanes: a lane for each request in flight, its phases one after another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from harness.messages import localized
from reports.figures.style import Floats, crosses
from reports.palette import ACCENT, MUTED, QUEUE

_TALLEST, _LOWEST = 300, 84
PHASES = ("figures.lanes.waiting", "figures.lanes.prefill", "figures.lanes.decoding")
LOOKS = {PHASES[0]: (MUTED, 0.3), PHASES[1]: (QUEUE, 0.52), PHASES[2]: (ACCENT, 0.82)}  # colour, share of the lane


@dataclass(frozen=True, slots=True)
class Lanes:
    """One panel of requests: its name, and a frame of lane, due_s, sent_s, first_s, done_s and failed.

    A time that never came is NaN.
    """

    name: str
    frame: pd.DataFrame

    @property
    def count(self) -> int:
        """The number of lanes."""
        return int(self.frame["lane"].max()) + 1 if len(self.frame) else 1

    @property
    def height(self) -> int:
        """Height of the panel: a lane is between two and nine pixels high."""
        return int(max(_LOWEST, min(_TALLEST, 9 * self.count)))

    @property
    def key(self) -> Sequence[tuple[str, str]]:
        """The meaning of the colours."""
        return [(localized(code), colour) for code, (colour, _) in LOOKS.items()]


def draw_lanes(axes: Axes, lanes: Lanes) -> None:
    """Every request as a bar of three phases, thicker as it comes nearer to its end; failures end in a cross."""
    axes.set_ylim(lanes.count - 0.4, -0.6)
    frame = lanes.frame
    edges = [frame[name].to_numpy(dtype=np.float64) for name in ("due_s", "sent_s", "first_s", "done_s")]
    lane, failed = frame["lane"].to_numpy(dtype=np.float64), frame["failed"].to_numpy(dtype=bool)
    stop = np.where(np.isfinite(edges[2]), edges[2], edges[3])
    pitch = axes.bbox.height / lanes.count
    phases = ((edges[0], edges[1]), (edges[1], stop), (edges[2], edges[3]))
    for (colour, share), (start, end) in zip(LOOKS.values(), phases, strict=True):
        _bars(axes, (start, end, lane), colour, pitch * share)
    crosses(axes, edges[3][failed], lane[failed])


def _bars(axes: Axes, bars: tuple[Floats, Floats, Floats], colour: str, width: float) -> None:
    """Level lines from start to end, as one path."""
    start, end, height = (column[np.isfinite(bars[0]) & (bars[1] > bars[0])] for column in bars)
    points = np.stack([np.column_stack([start, height]), np.column_stack([end, height])], axis=1).reshape(-1, 2)
    codes = np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), len(start))
    if len(start):
        axes.add_artist(PathPatch(Outline(points, codes), edgecolor=colour, fill=False, linewidth=max(width, 0.8)))
