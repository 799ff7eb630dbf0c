"""Kernels: time against KV length, against block size, and under the roofline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.messages import localized
from reports.figures.style import (
    SMALL,
    WIDE,
    Floats,
    Head,
    Scale,
    apart,
    over,
    panel,
    paper,
    scale_of,
    set_scale,
    ticks,
    uprights,
    width_of,
)
from reports.palette import INK, LIMIT, MUTED, stage_colour

_RIGHT = 112  # the most room for the names of lines


@dataclass(frozen=True, slots=True)
class KernelLine:
    """Points of one series with their 95 % intervals (nan where there is none); `colour` is its number in the key."""

    name: str
    colour: int
    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class Roof:
    """A limit: bytes and FLOPs a second, and what it is called."""

    name: str
    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True, slots=True)
class Spot:
    """A case under the roof: FLOPs a byte, FLOPs a second, and the colour of its phase."""

    intensity: float
    flops_per_s: float
    colour: int


def against_length(lines: Sequence[KernelLine], head: Head) -> Figure:
    """Time of a launch against KV tokens a sequence, a line a batch."""
    figure = paper(SMALL, head)
    axes = panel(figure, (48, 32, _room(lines), 42))
    set_scale(axes, "x", scale_of(np.concatenate([line.x for line in lines]), times=False))
    scale = scale_of(_ends(lines), times=True)
    set_scale(axes, "y", scale)
    _draw(axes, lines)
    over(axes, localized("figures.axis", name=localized("figures.kernels.time_axis"), unit=scale.unit))
    _name_below(axes, localized("figures.kernels.length_axis"))
    return figure


def _name_below(axes: Axes, name: str) -> None:
    """The name of the x axis, below its numbers at the right."""
    axes.text(1, -34 / axes.bbox.height, name, transform=axes.transAxes, ha="right", color=MUTED)


def _room(lines: Sequence[KernelLine]) -> float:
    """The right margin for the names of lines."""
    return min(18 + max((width_of(line.name) for line in lines), default=0), _RIGHT)


def against_block(lines: Sequence[KernelLine], sizes: Sequence[int], head: Head) -> Figure:
    """Time relative to the best block size of the same case; x is the place in `sizes`."""
    figure = paper(SMALL, head)
    axes = panel(figure, (48, 32, _room(lines), 42))
    over(axes, localized("figures.kernels.relative_axis"))
    axes.set_xlim(-0.3, len(sizes) - 0.7)
    ticks(axes, "x", [float(place) for place in range(len(sizes))], [str(size) for size in sizes])
    set_scale(axes, "y", scale_of(_ends(lines), times=False, allow_log=False))
    _draw(axes, lines)
    _name_below(axes, localized("figures.kernels.block_axis"))
    return figure


def _ends(lines: Sequence[KernelLine]) -> Floats:
    return np.concatenate([np.concatenate([line.y, line.low, line.high]) for line in lines])


def _draw(axes: Axes, lines: Sequence[KernelLine]) -> None:
    for line in lines:
        colour = stage_colour(line.colour)
        axes.plot(line.x, line.y, color=colour, linewidth=1.5, marker="o", markersize=4, zorder=3, clip_on=False)
        uprights(axes, line.x, line.low, line.high, colour)
    height = axes.bbox.height
    ends = [axes.transData.transform((line.x[-1], line.y[-1]))[1] - axes.bbox.y0 for line in lines]
    for line, place in zip(lines, apart(ends, 13, 0, height), strict=True):
        axes.text(1 + 8 / axes.bbox.width, place / height, line.name, transform=axes.transAxes, va="center_baseline",
                  color=stage_colour(line.colour))  # fmt: skip


def roofline(spots: Sequence[Spot], roofs: Sequence[Roof], names: Mapping[int, str], head: Head) -> Figure:
    """FLOPs a second over FLOPs a byte, every case a dot, every limit a roof; both axes logarithmic."""
    figure = paper((WIDE, 310), head)
    axes = panel(figure, (64, 34, 150, 40))
    x = np.asarray([spot.intensity for spot in spots])
    ridge = [roof.flops_per_s / roof.bytes_per_s for roof in roofs]
    y = np.asarray([spot.flops_per_s for spot in spots] + [roof.flops_per_s for roof in roofs])
    low, high = min([*x, *ridge]) / 2, max([*x, *ridge]) * 3
    size, unit = _flops_unit(float(y.max()))
    set_scale(axes, "x", Scale(low, high, log=True))
    set_scale(axes, "y", Scale(float(y.min()) / 2, float(y.max()) * 2, log=True, size=size, unit=unit))
    for number, roof in enumerate(roofs):
        _draw_roof(axes, roof, (low, high), number)
    _name_roofs(axes, roofs)
    for spot in spots:
        filled = stage_colour(spot.colour)
        axes.plot([spot.intensity], [spot.flops_per_s], marker="o", markersize=6, alpha=0.8, color=filled, zorder=3)
    for place, (colour, name) in enumerate(reversed(list(names.items()))):
        axes.text(1 + 12 / axes.bbox.width, (6 + 18 * place) / axes.bbox.height, f"● {name}",
                  transform=axes.transAxes, color=stage_colour(colour))  # fmt: skip
    axes.text(
        1,
        -34 / axes.bbox.height,
        localized("figures.kernels.intensity_axis"),
        transform=axes.transAxes,
        ha="right",
        color=MUTED,
    )
    over(axes, localized("figures.axis", name=localized("figures.kernels.work_axis"), unit=unit))
    return figure


def _flops_unit(most: float) -> tuple[float, str]:
    return (1e12, "TFLOP/s") if most >= 1e12 else (1e9, "GFLOP/s")


def _draw_roof(axes: Axes, roof: Roof, span: tuple[float, float], number: int) -> None:
    ridge = roof.flops_per_s / roof.bytes_per_s
    x = [span[0], min(max(ridge, span[0]), span[1]), span[1]]
    y = [min(roof.flops_per_s, at * roof.bytes_per_s) for at in x]
    (line,) = axes.plot(x, y, color=LIMIT if number else INK, linewidth=1.4, zorder=2)
    line.set_dashes((5, 3) if number else (1, 0))


def _name_roofs(axes: Axes, roofs: Sequence[Roof]) -> None:
    """Names right of the lines' ends, where no dot can lie under them."""
    width, height = axes.bbox.size
    ends = [axes.transData.transform((1.0, roof.flops_per_s))[1] - axes.bbox.y0 for roof in roofs]
    for number, place in enumerate(apart(ends, 13, 0, height)):
        axes.text(1 + 8 / width, place / height, roofs[number].name, transform=axes.transAxes, va="center_baseline",
                  color=LIMIT if number else INK)  # fmt: skip
