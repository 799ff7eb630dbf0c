"""Which figures does this result have?"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from reports import curves, spreads, timelines
from reports.data import Data
from reports.drawing import Drawing
from reports.figures.style import drawing


@dataclass(frozen=True, slots=True)
class Gallery:
    """All figures of a page; None or empty where there is nothing to draw."""

    hero: Drawing | None = None
    curves: Sequence[Drawing] = ()
    spreads: Sequence[Drawing] = ()
    load: Drawing | None = None
    server: Drawing | None = None
    devices: Drawing | None = None
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


def draw_all(data: Data) -> Gallery:
    """Every figure that the files have something for."""
    if not len(data.places):
        return Gallery()
    with drawing(), _without_collecting():
        return Gallery(
            hero=curves.hero(data),
            curves=tuple(curves.further_curves(data)),
            spreads=tuple(spreads.spreads(data)),
            load=timelines.load(data),
            server=timelines.server(data),
            devices=timelines.devices(data),
            client=timelines.client(data),
        )
