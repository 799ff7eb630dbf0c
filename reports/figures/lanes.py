"""Swim lanes: a lane for each request in flight, its phases one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from harness.messages import localized
from reports.figures.style import Floats, crosses
from reports.palette import ACCENT, MUTED, QUEUE, WARM

_TALLEST, _LOWEST = 300, 84
PHASES = ("figures.lanes.waiting", "figures.lanes.prefill", "figures.lanes.decoding")
SPLIT_PHASES = (PHASES[0], "figures.lanes.queued", "figures.lanes.prefilled", PHASES[2])
_LOOKS = {  # colour, share of the lane
    PHASES[0]: (MUTED, 0.3),
    PHASES[1]: (QUEUE, 0.52),
    SPLIT_PHASES[1]: (WARM, 0.42),
    SPLIT_PHASES[2]: (QUEUE, 0.6),
    PHASES[2]: (ACCENT, 0.82),
}


@dataclass(frozen=True, slots=True)
class Lanes:
    """One panel of requests: its name, and a frame of lane, due_s, sent_s, scheduled_s, first_s, done_s and failed.

    A time that never came, or that the server did not tell, is NaN.
    """

    name: str
    frame: pd.DataFrame

    @property
    def looks(self) -> Mapping[str, tuple[str, float]]:
        """Colour and share of the lane of each phase: queued and prefilled are apart where the server tells them."""
        return {code: _LOOKS[code] for code in phases_of(self.frame)}

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
        return [(localized(code), colour) for code, (colour, _) in self.looks.items()]


def phases_of(frame: pd.DataFrame) -> tuple[str, ...]:
    """The phases of requests, as codes; `frame` is of lanes or of latencies."""
    return SPLIT_PHASES if frame["scheduled_s"].notna().any() else PHASES


def draw_lanes(axes: Axes, lanes: Lanes) -> None:
    """Every request as a bar of its phases, thicker as it comes nearer to its end; failures end in a cross."""
    axes.set_ylim(lanes.count - 0.4, -0.6)
    frame = lanes.frame
    edges = [frame[name].to_numpy(dtype=np.float64) for name in ("due_s", "sent_s", "scheduled_s", "first_s", "done_s")]
    lane, failed = frame["lane"].to_numpy(dtype=np.float64), frame["failed"].to_numpy(dtype=bool)
    due, sent, scheduled, first, done = edges
    answered = np.where(np.isfinite(first), first, done)
    pitch = axes.bbox.height / lanes.count
    phases = [(due, sent), (sent, answered), (first, done)]
    if len(lanes.looks) == len(SPLIT_PHASES):
        phases[1:2] = [(sent, np.where(np.isfinite(scheduled), scheduled, answered)), (scheduled, first)]
    for (colour, share), (start, end) in zip(lanes.looks.values(), phases, strict=True):
        _bars(axes, (start, end, lane), colour, pitch * share)
    crosses(axes, done[failed], lane[failed])


def _bars(axes: Axes, bars: tuple[Floats, Floats, Floats], colour: str, width: float) -> None:
    """Level lines from start to end, as one path."""
    start, end, height = (column[np.isfinite(bars[0]) & (bars[1] > bars[0])] for column in bars)
    points = np.stack([np.column_stack([start, height]), np.column_stack([end, height])], axis=1).reshape(-1, 2)
    codes = np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), len(start))
    if len(start):
        axes.add_artist(PathPatch(Outline(points, codes), edgecolor=colour, fill=False, linewidth=max(width, 0.8)))
