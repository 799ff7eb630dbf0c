"""The parts that all figures share: paper, type, axes and the way values are written.

Sizes are in SVG units, one a CSS pixel at the figure's own width. A small figure is as wide as a
phone, so that its type is read there as it is drawn; where there is more room the page draws the
figure larger, and its type (page.css) less so. Title and subtitle are text of the page, which
wraps. Axes are placed by hand: a layout engine draws every figure several times over.
"""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.transforms import Transform
from numpy.typing import NDArray

from harness.messages import localized
from harness.units import time_scale
from reports.loads import trimmed
from reports.palette import BAD, GRID, LIMIT, MUTED

Floats = NDArray[np.float64]

_CLOSE = 0.3  # of the largest value; what spans less than that is drawn without zero
_LEAST_MARGIN = 0.03  # of the largest value: less beside the values, and labels of three digits would all be the same
TYPE = 11  # of words in a figure
SMALL = (350, 228)
WIDE = 980
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts stay texts: the page's own type, selectable, small
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "axes.unicode_minus": True,
    "font.size": TYPE,
    "path.simplify": False,  # would drop the dots, which are lines of no length
    "svg.hashsalt": "report",  # the same file gives the same page
}


@contextmanager
def drawing() -> Iterator[None]:
    """Within it figures are made and written; matplotlib's settings are as before afterwards."""
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # The browser draws the texts; that matplotlib's own font lacks a letter does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@dataclass(frozen=True, slots=True)
class Head:
    """The title and subtitle that the page writes above a figure; `simulated` stands in the title itself."""

    title: str
    subtitle: str = ""
    simulated: bool = False

    @property
    def full_title(self) -> str:
        """The title, never without the word where a simulator answered."""
        return localized("figures.simulated", title=self.title) if self.simulated else self.title


def paper(size: tuple[int, int], head: Head) -> Figure:
    """A transparent figure; a simulated one is marked in the drawing, which may be copied out of the page."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    if head.simulated:
        figure.text(2 / width, 4 / height, "SIMULATED", color=MUTED, fontsize=10, fontweight="bold")
    return figure


def panel(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes without any lines of their own; `box` is left, top, right and bottom margin in SVG units.

    matplotlib's axes make four lines and two texts a tick, half the time of a page; `ticks` draws
    the one line and the one text that are seen.
    """
    width, height = figure.get_size_inches() * 72
    left, top, right, bottom = box
    place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(place, frameon=False)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.autoscale(enable=False)
    _lines_at(axes, [0.0], across=True, transform=axes.transAxes, colour=MUTED)
    return axes


def ticks(axes: Axes, which: str, places: Sequence[float], labels: Sequence[str], colour: str = MUTED) -> None:
    """Labels at these places, with quiet lines across the panel for y and small marks below it for x."""
    width, height = axes.bbox.size
    if which == "y":
        _lines_at(axes, places, across=True, transform=axes.get_yaxis_transform(), colour=GRID)
        for place, label in zip(places, labels, strict=True):
            axes.text(-7 / width, place, label, transform=axes.get_yaxis_transform(), ha="right", va="center_baseline",
                      color=colour)  # fmt: skip
        return
    _lines_at(axes, places, across=False, transform=axes.get_xaxis_transform(), colour=MUTED, ends=(-3.5 / height, 0))
    for place, label in zip(places, labels, strict=False):
        axes.text(place, -17 / height, label, transform=axes.get_xaxis_transform(), ha="center", va="baseline",
                  color=colour)  # fmt: skip


def width_of(text: str) -> float:
    """About how wide a text of a figure is, in SVG units: a Chinese letter is as wide as it is high."""
    return sum(TYPE if letter > _WIDE_FROM else _NARROW for letter in text)


_JOINT = re.compile(r"(?<=[_/:,=@. -])(?=[^_/:,=@. -])")


def lines_of(name: str, width: float) -> list[str]:
    """A name in lines of at most this width, broken where its words end; a word that is wider stands alone."""
    lines = [""]
    for word in _JOINT.split(name):
        if lines[-1] and width_of(lines[-1] + word) > width:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


_WIDE_FROM, _NARROW = "\u2e7f", 6.4


def over(axes: Axes, name: str, lift: float = 0.0) -> None:
    """The name of the y axis above its labels; the panel's top margin has to be 26 or more, and `lift` more."""
    left = (2 - axes.bbox.x0) / axes.bbox.width
    axes.text(left, 1 + (9 + lift) / axes.bbox.height, name, transform=axes.transAxes, color=MUTED)


def across(axes: Axes, name: str) -> None:
    """The name of the x axis below its labels; the panel's bottom margin has to be 44 or more."""
    axes.text(1, -36 / axes.bbox.height, name, transform=axes.transAxes, ha="right", color=MUTED)


def _lines_at(
    axes: Axes,
    places: Sequence[float],
    *,
    across: bool,
    transform: Transform,
    colour: str,
    ends: tuple[float, float] = (0, 1),
) -> None:
    """Straight lines at these places as one path, across the panel or upright."""
    pairs = [((ends[0], p), (ends[1], p)) if across else ((p, ends[0]), (p, ends[1])) for p in places]
    points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    codes = np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), len(pairs))
    drawn = PathPatch(
        Outline(points, codes), transform=transform, edgecolor=colour, fill=False, linewidth=0.8, zorder=0.5
    )
    drawn.set_clip_on(False)
    axes.add_artist(drawn)


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis: its range in the values' own unit, whether it is logarithmic, and the printed unit."""

    low: float
    high: float
    log: bool
    size: float = 1.0
    unit: str = ""
    parts: int = 5

    def higher(self, factor: float) -> "Scale":
        """The same scale with its upper end at so many times the height."""
        return replace(self, high=self.high * factor)

    @property
    def places(self) -> list[float]:
        """The places of ticks in the values' own unit."""
        if self.log:
            return list(_log_places(self.low / self.size, self.high / self.size, self.size))
        step = _step((self.high - self.low) / self.size / self.parts) * self.size
        return [step * i for i in range(math.ceil(self.low / step - 1e-9), int(self.high / step + 1e-9) + 1)]

    @property
    def labels(self) -> list[str]:
        """The labels of the ticks in the printed unit."""
        return [trimmed(place / self.size) for place in self.places]


def scale_of(values: Floats, *, times: bool, allow_log: bool = True, beside: Sequence[float] = ()) -> Scale:
    """A scale that holds the values: from zero, or logarithmic where they span a factor of 30.

    It holds what stands `beside` them as well, such as limits; the unit is that of the values.
    """
    finite = values[np.isfinite(values)]
    size, unit = time_scale(float(finite.max()) if len(finite) else max(beside, default=1.0)) if times else (1.0, "")
    finite = np.append(finite, beside)
    high = float(finite.max()) if len(finite) else 1.0
    above = finite[finite > 0]
    low = float(above.min()) if len(above) else high
    if allow_log and high > 30 * low > 0:
        return Scale(low * 0.85, high * 1.2, log=True, size=size, unit=unit)
    return Scale(0.0, high * 1.1 if high > 0 else 1.0, log=False, size=size, unit=unit)


def close_scale(values: Floats) -> Scale:
    """A scale around values that lie close together, which from zero would be one heap; else one from zero."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    span = high - low
    if not 0 < span < _CLOSE * high:
        return scale_of(values, times=False, allow_log=False)
    margin = max(0.4 * span, _LEAST_MARGIN * high)
    return Scale(low - margin, high + margin, log=False)


def set_scale(axes: Axes, which: str, scale: Scale) -> None:
    """Range, kind and ticks of one axis."""
    if scale.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(scale.low, scale.high)
    ticks(axes, which, scale.places, scale.labels)


def _log_places(low: float, high: float, size: float) -> Iterator[float]:
    """1, 2 and 5 of every decade, or the decades alone where there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    steps: tuple[int, ...] = (1, 2, 5) if span < 2.2 else (1, 3) if span < 3.2 else (1,)
    yield from (m * 10.0**d * size for d in decades for m in steps if low <= m * 10.0**d <= high)


def _step(rough: float) -> float:
    """The next round step above a rough one."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough), 10 * power)


def dots(axes: Axes, x: Floats, y: Floats, colour: str, size: float = 3.2) -> None:
    """Points as lines of no length with round ends: a sixth of the bytes of markers."""
    ends = np.repeat(np.column_stack([x, y]), 2, axis=0)
    codes = np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), len(x))
    cloud = PathPatch(Outline(ends, codes), edgecolor=colour, fill=False, linewidth=size, capstyle="round", alpha=0.55)
    axes.add_artist(cloud)


def bands(axes: Axes, spans: Sequence[tuple[float, float]], colour: str) -> None:
    """Pale bands over the panel's whole height, all as one path."""
    corners = np.array([[(a, 0), (b, 0), (b, 1), (a, 1), (a, 0)] for a, b in spans], dtype=np.float64).reshape(-1, 2)
    box = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY]
    outline = Outline(corners, np.tile(np.array(box, dtype=np.uint8), len(spans)))
    over = axes.get_xaxis_transform()
    axes.add_artist(PathPatch(outline, transform=over, facecolor=colour, alpha=0.16, linewidth=0, zorder=1.1))


def uprights(axes: Axes, x: Floats, low: Floats, high: Floats, colour: str) -> None:
    """Upright bars from low to high, such as intervals, all as one path; one without ends is left out."""
    known = np.isfinite(low) & np.isfinite(high)
    ends = np.stack([np.column_stack([x, low]), np.column_stack([x, high])], axis=1)[known].reshape(-1, 2)
    codes = np.tile(np.array([Outline.MOVETO, Outline.LINETO], dtype=np.uint8), int(known.sum()))
    bars = PathPatch(Outline(ends, codes), edgecolor=colour, fill=False, linewidth=3, alpha=0.45, capstyle="round")
    if known.any():
        axes.add_artist(bars)


def open_end(axes: Axes, x: float, high: float, colour: str) -> None:
    """The upper end of an interval that nothing bounds from above: an arrow."""
    axes.plot([x], [high], marker=(3, 0, 0), markersize=6, color=colour, alpha=0.7, zorder=3, clip_on=False)


def crosses(axes: Axes, x: Floats, y: Floats) -> None:
    """Failures: they differ from other points by shape, not by colour alone."""
    axes.plot(
        x, y, linestyle="none", marker="x", color=BAD, markersize=5.5, markeredgewidth=1.5, zorder=5, clip_on=False
    )


def limit_line(axes: Axes, value: float, text: str) -> None:
    """A dashed line for an SLO limit, named at its left end: above it, or below where the panel ends."""
    axes.axhline(value, color=LIMIT, linewidth=1.3, dashes=(5, 3), zorder=4)
    height = axes.bbox.height
    below = axes.transData.transform((0, value))[1] - axes.bbox.y0 > height - 16
    axes.annotate(text, (0, value), xycoords=("axes fraction", "data"), xytext=(3, -12 if below else 4),
                  textcoords="offset points", color=LIMIT, fontweight="bold", zorder=6)  # fmt: skip


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places pushed up or down until neighbours are `gap` apart, within low to high."""
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=np.float64)[order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    moved[-1:] = np.minimum(moved[-1:], high)
    for i in range(len(moved) - 2, -1, -1):
        moved[i] = min(moved[i], moved[i + 1] - gap)
    shifted = np.empty(len(moved))
    shifted[order] = np.maximum(moved, low) if len(moved) * gap <= high - low else moved
    return [float(place) for place in shifted]
