"""Labels of a figure that never lie on each other, on a mark, or outside of the paper.

All boxes are in SVG units from the lower left corner of the paper. A label takes the first place around its point that
is free; where there is none it is left out, and hovering over the point still shows its name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes

from reports.figures.style import TYPE, width_of

HEIGHT = TYPE + 2.0
_BOLD = 1.08  # bold letters are that much wider
_BELOW = 3.0  # of a letter below its baseline
_STEPS = (14.0,)  # how much farther from its point a label may stand
AFTER, BEFORE, BESIDE = "after", "before", "beside"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Box") -> bool:
        """Whether both have an area in common."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def within(self, other: "Box") -> bool:
        """Whether all of it lies in the other."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


def text_box(text: str, x: float, y: float, side: str, *, bold: bool = False) -> Box:
    """The box of a text whose baseline begins (`left`), has its middle (`center`) or ends (`right`) at x, y."""
    width = width_of(text) * (_BOLD if bold else 1.0)
    left = x - {"left": 0.0, "center": width / 2, "right": width}[side]
    return Box(left, y - _BELOW, left + width, y - _BELOW + HEIGHT)


class Labels:
    """The labels of one panel: what is taken, and the next that fits."""

    def __init__(self, axes: Axes, *, room: float = 0.0) -> None:
        """Labels stay within the panel and the `room` at its right, and on the paper."""
        self._axes = axes
        bounds, (width, height) = axes.bbox, axes.figure.bbox.size
        self.bounds = Box(
            max(2.0, bounds.x0),
            max(2.0, bounds.y0),
            min(width - 2, bounds.x1 + room),
            min(height - 2, bounds.y1),
        )
        self.taken: list[Box] = []

    def reserve(self, *boxes: Box) -> None:
        """Keep these boxes free of labels."""
        self.taken += boxes

    def reserve_points(self, points: Iterable[tuple[float, float]], radius: float = 5.0) -> None:
        """Keep marks at these places (of the axes' own scales) free of labels."""
        for x, y in points:
            at_x, at_y = self.at(x, y)
            self.taken.append(Box(at_x - radius, at_y - radius, at_x + radius, at_y + radius))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place of the axes' own scales in SVG units."""
        place = self._axes.transData.transform((x, y))
        return float(place[0]), float(place[1])

    def place(
        self, text: str, x: float, y: float, colour: str, *, bold: bool = False, first: str = AFTER
    ) -> Box | None:
        """Write a label near a point of the axes' own scales; its box, or None where there is no room for it.

        `first` is where it is tried first: above to the right (AFTER) or left (BEFORE), or BESIDE it.
        """
        at_x, at_y = self.at(x, y)
        for label_x, label_y, side in _around(at_x, at_y, first):
            box = text_box(text, label_x, label_y, side, bold=bold)
            if box.within(self.bounds) and not any(box.meets(other) for other in self.taken):
                self.taken.append(box)
                self._write(text, (label_x, label_y), side, colour, bold=bold)
                return box
        return None

    def name_line(self, value: float, text: str, colour: str, *, bold: bool = True) -> None:
        """The name of a line across the panel: at its left or right end, above or below, where it is free."""
        y = self.at(1.0, value)[1]
        ends = (("left", self._axes.bbox.x0 + 3), ("right", self._axes.bbox.x1 - 3))
        places = [(x, y + rise, side) for rise in (4.0, -12.0, -12.0 - HEIGHT) for side, x in ends]
        boxes = [text_box(text, x, baseline, side, bold=bold) for x, baseline, side in places]
        free = [place for place, box in enumerate(boxes) if not any(box.meets(other) for other in self.taken)]
        inside = [place for place in free if boxes[place].within(self.bounds)]
        width = self.bounds.right - self.bounds.left
        level = [place for place in free if boxes[place].top <= self.bounds.top]
        wide = boxes[0].right - boxes[0].left > width  # such a name is written all the same
        for chosen in (inside or (level if wide else []))[:1]:
            x, baseline, side = places[chosen]
            self.taken.append(boxes[chosen])
            self._write(text, (x, baseline), side, colour, bold=bold)

    def _write(self, text: str, at: tuple[float, float], side: str, colour: str, *, bold: bool) -> None:
        weight = "bold" if bold else "normal"
        self._axes.annotate(text, at, xycoords="figure pixels", ha=side, va="baseline", color=colour,
                            fontweight=weight, annotation_clip=False, zorder=6)  # fmt: skip


def _around(x: float, y: float, first: str) -> list[tuple[float, float, str]]:
    """Places around a point for the baseline of a label, and which end of it lies there: near ones first."""
    above = [(x + 4, y + 8, "left"), (x, y + 9, "center"), (x - 4, y + 8, "right")]
    beside = [(x + 9, y - 4, "left"), (x - 9, y - 4, "right")]
    below = [(x + 4, y - 17, "left"), (x, y - 17, "center"), (x - 4, y - 17, "right")]
    near = {AFTER: above + beside, BEFORE: above[::-1] + beside, BESIDE: beside + above}[first] + below
    far = [(at, up + step * (1 if up > y else -1), side) for step in _STEPS for at, up, side in above + below]
    return near + far
