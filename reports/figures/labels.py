"""Labels of a figure that never lie on each other, on a mark, or outside of the paper, nor on a line where they can.

All boxes are in SVG units from the lower left corner of the paper. A label takes the first place around its point that
is free of other labels, marks and lines. Where lines run through every place it stands on the fewest, and the halo
that page.css gives it keeps its letters readable; where labels or marks take every place it is left out, and hovering
over the point still shows its name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes

from reports.figures.style import TYPE, width_of

HEIGHT = TYPE + 2.0
_BOLD = 1.08  # bold letters are that much wider
_BELOW = 3.0  # of a letter below its baseline
_STEPS = (7.0, 14.0, 20.0, 26.0)  # how much farther from its point a label may stand
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

    def is_crossed_by(self, start: "Point", end: "Point") -> bool:
        """Whether a straight line between two points has a part within it."""
        entry, leave = 0.0, 1.0
        sides = ((start[0], end[0], self.left, self.right), (start[1], end[1], self.bottom, self.top))
        for begin, finish, low, high in sides:
            if begin == finish:
                if not low < begin < high:
                    return False
                continue
            near, far = sorted(((low - begin) / (finish - begin), (high - begin) / (finish - begin)))
            entry, leave = max(entry, near), min(leave, far)
        return entry < leave


Point = tuple[float, float]


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
        self.lines: list[tuple[Point, Point]] = []

    def reserve(self, *boxes: Box) -> None:
        """Keep these boxes free of labels."""
        self.taken += boxes

    def reserve_points(self, points: Iterable[tuple[float, float]], radius: float = 5.0) -> None:
        """Keep marks at these places (of the axes' own scales) free of labels."""
        for x, y in points:
            at_x, at_y = self.at(x, y)
            self.taken.append(Box(at_x - radius, at_y - radius, at_x + radius, at_y + radius))

    def avoid_line(self, points: Iterable[Point]) -> None:
        """Keep labels off the straight lines between these places (of the axes' own scales) where there is room."""
        self.lines += pairwise([self.at(x, y) for x, y in points])

    def avoid_level(self, value: float) -> None:
        """Keep labels off a line across the panel where there is room."""
        y = self.at(1.0, value)[1]
        self.lines.append(((self._axes.bbox.x0, y), (self._axes.bbox.x1, y)))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A place of the axes' own scales in SVG units."""
        place = self._axes.transData.transform((x, y))
        return float(place[0]), float(place[1])

    def place(
        self, text: str | Sequence[str], x: float, y: float, colour: str, *, bold: bool = False, first: str = AFTER
    ) -> Box | None:
        """Write a label near a point of the axes' own scales; its box, or None where there is no room for it.

        Of several texts the first that has room off all lines is written. `first` is where each is tried first: above
        to the right (AFTER) or left (BEFORE), or BESIDE it.
        """
        at = self.at(x, y)
        texts = [name for name in ([text] if isinstance(text, str) else text) if name]
        places = {name: self._around(name, at, first, bold=bold) for name in texts}
        for crossed in (False, True):
            for name in texts:
                chosen = self._best([box for box, _, _ in places[name]], crossed=crossed)
                if chosen is not None:
                    box, baseline, side = places[name][chosen]
                    self.taken.append(box)
                    self._write(name, baseline, side, colour, bold=bold)
                    return box
        return None

    def _around(self, text: str, at: Point, first: str, *, bold: bool) -> list[tuple[Box, Point, str]]:
        """Places within the bounds around a point, pushed in from the sides: the box, where it is written, its end."""
        places = []
        for x, y, side in _around(*at, first):
            box = text_box(text, x, y, side, bold=bold)
            push = max(0.0, self.bounds.left - box.left) - max(0.0, box.right - self.bounds.right)
            pushed = text_box(text, x + push, y, side, bold=bold)
            if abs(push) <= (box.right - box.left) / 2 and pushed.within(self.bounds):
                places.append((pushed, (x + push, y), side))
        return places

    def name_line(self, value: float, text: str, colour: str, *, bold: bool = True) -> None:
        """The name of a line across the panel: at its left or right end, above or below, where it is free."""
        y = self.at(1.0, value)[1]
        left, right = self._axes.bbox.x0 + 3, self._axes.bbox.x1 - 3
        ends = (("left", left), ("right", right), ("center", (left + right) / 2))
        places = [(x, y + rise, side) for rise in (4.0, -12.0, -12.0 - HEIGHT) for side, x in ends]
        boxes = [text_box(text, x, baseline, side, bold=bold) for x, baseline, side in places]
        inside = [place for place, box in enumerate(boxes) if box.within(self.bounds)]
        level = [place for place, box in enumerate(boxes) if box.top <= self.bounds.top]
        wide = (
            boxes[0].right - boxes[0].left > self.bounds.right - self.bounds.left
        )  # such a name is written all the same
        known = inside or (level if wide else [])
        chosen = self._best([boxes[place] for place in known], crossed=True)
        if chosen is not None:
            x, baseline, side = places[known[chosen]]
            self.taken.append(boxes[known[chosen]])
            self._write(text, (x, baseline), side, colour, bold=bold)

    def _best(self, boxes: Sequence[Box], *, crossed: bool) -> int | None:
        """The place of the first box that is free and off all lines; where lines may cross it, of that with fewest."""
        free = [place for place, box in enumerate(boxes) if not any(map(box.meets, self.taken))]
        counted = {place: sum(boxes[place].is_crossed_by(*line) for line in self.lines) for place in free}
        best = min(free, key=counted.__getitem__, default=None)
        return best if crossed or (best is not None and not counted[best]) else None

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
