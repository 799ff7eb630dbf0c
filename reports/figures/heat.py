"""Latency over time: cells of time and latency, the fuller the stronger, with the median on top."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from reports.figures.style import Floats, Scale, set_scale
from reports.palette import HEAT, INK, MUTED


@dataclass(frozen=True, slots=True)
class Grid:
    """Values counted in cells: `counts` by time and value, `at_s` and `value_s` the edges (one more than cells)."""

    counts: NDArray[np.int64]
    at_s: Floats
    value_s: Floats

    @property
    def most(self) -> int:
        """The count of the fullest cell."""
        return int(self.counts.max(initial=0))

    def percentile(self, share: float) -> Floats:
        """The value that a share of each column stays under, even within a cell; NaN where a column is thin."""
        reached = np.cumsum(self.counts, axis=1)
        whole = reached[:, -1]
        wanted = share * whole
        cell = np.minimum((reached < wanted[:, None]).sum(axis=1), self.counts.shape[1] - 1)
        column = np.arange(len(whole))
        inside = self.counts[column, cell]
        part = (wanted - (reached[column, cell] - inside)) / np.maximum(inside, 1)
        low, high = np.log(self.value_s[cell]), np.log(self.value_s[cell + 1])
        return np.where(whole >= _THIN, np.exp(low + part * (high - low)), np.nan)


_THIN = 5  # values: fewer have no percentile worth a line


@dataclass(frozen=True, slots=True)
class Heat:
    """One panel of cells: its name, its grid, and the scale of its values."""

    name: str
    grid: Grid
    scale: Scale
    height: int = 168


def draw_heat(axes: Axes, heat: Heat) -> None:
    """Five strengths, by the logarithm of a cell's count; p50 as a line, p95 as a thinner one."""
    grid = heat.grid
    set_scale(axes, "y", heat.scale)
    level = levels(grid)
    for strength, colour in enumerate(HEAT, 1):
        _cells(axes, grid, level == strength, colour)
    middle = (grid.at_s[:-1] + grid.at_s[1:]) / 2
    axes.plot(middle, grid.percentile(0.5), color=INK, linewidth=1.6, zorder=4)
    axes.plot(middle, grid.percentile(0.95), color=INK, linewidth=0.9, dashes=(3, 2), zorder=4)
    _legend(axes, grid.most)


def levels(grid: Grid) -> NDArray[np.int64]:
    """The strength of each cell: 0 where it is empty, 1 to 5 by the logarithm of its count."""
    share = np.log(np.maximum(grid.counts, 1)) / max(np.log(max(grid.most, 1)), 1e-9)
    return np.where(grid.counts > 0, 1 + np.minimum((share * len(HEAT)).astype(np.int64), len(HEAT) - 1), 0)


def _cells(axes: Axes, grid: Grid, chosen: NDArray[np.bool_], colour: str) -> None:
    """Cells of one strength as level lines of a cell's height, neighbours in a row as one line."""
    change = np.diff(np.pad(chosen.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    (first, row), (last, same) = np.nonzero(change.T == 1)[::-1], np.nonzero(change.T == -1)[::-1]
    if not len(row) or not np.array_equal(row, same):
        return
    middle = np.sqrt(grid.value_s[:-1] * grid.value_s[1:])[row]
    ends = np.stack([np.column_stack([grid.at_s[first], middle]), np.column_stack([grid.at_s[last], middle])], axis=1)
    codes = np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), len(row))
    width = axes.bbox.height / (len(grid.value_s) - 1) + 0.4
    axes.add_artist(PathPatch(Outline(ends.reshape(-1, 2), codes), edgecolor=colour, fill=False, linewidth=width))


def _legend(axes: Axes, most: int) -> None:
    """The five strengths at the panel's upper right, with the counts at their ends."""
    width, height = axes.bbox.size
    top = 1 + 5 / height
    for place, colour in enumerate(HEAT):
        left = 1 - (44 + 14 * (len(HEAT) - place)) / width
        axes.add_artist(Rectangle((left, top), 13 / width, 10 / height, transform=axes.transAxes, color=colour,
                                  linewidth=0, clip_on=False))  # fmt: skip
    for text, right in (("1", 44 + 14 * len(HEAT) + 6), (f"{most:,}", 0)):
        axes.text(1 - right / width if right else 1 - 36 / width, top, text, transform=axes.transAxes,
                  ha="right" if right else "left", color=MUTED)  # fmt: skip
