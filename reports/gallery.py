"""All figures of one result."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from reports import curves, distributions, timelines
from reports.data import Data
from reports.figures.style import drawing
from reports.svg import Drawing


@dataclass(frozen=True, slots=True)
class Gallery:
    """All figures of a page; None or empty where there is nothing to draw."""

    hero: Drawing | None = None
    curves: Sequence[Drawing] = ()
    spreads: Sequence[Drawing] = ()
    shapes: Sequence[Drawing] = ()
    load: Drawing | None = None
    heat: Drawing | None = None
    lanes: Drawing | None = None
    client: Drawing | None = None


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Figures are webs of references; looking for rings in them while they grow takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def draw_all(data: Data, stalls: Sequence[tuple[float, float]] = ()) -> Gallery:
    """Every figure that the files have something for; `stalls` are marked in those over time."""
    if not len(data.places):
        return Gallery()
    with drawing(), _without_collecting():
        return Gallery(
            hero=curves.hero(data),
            curves=tuple(curves.further_curves(data)),
            spreads=tuple(distributions.spreads(data)),
            shapes=tuple(distributions.shapes(data)),
            load=timelines.load(data, stalls),
            heat=timelines.heat(data, stalls),
            lanes=timelines.lanes(data, stalls),
            client=timelines.client(data),
        )
