"""What lies under the pointer of a drawing: its curves and requests at their places, in the drawing's own units."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from reports.figures.style import Floats
from reports.packing import packed
from reports.palette import stage_colour, variable_of
from reports.rows import groups_of


def curves_readout(axes: Axes, curves: pd.DataFrame, x: Floats) -> dict[str, Any]:
    """Percentile curves (`frames.percentile_frame`): a line a stage; `x` is each row's place on the axis."""
    lines = [
        {
            "stage": stage,
            "colour": variable_of(stage_colour(stage)),
            **_places(axes, x[(curves["stage"] == stage).to_numpy()], rows["value"].to_numpy()),
            "share": packed(rows["share"]),
            "value": packed(rows["value"]),
        }
        for stage, rows in groups_of(curves, "stage")
    ]
    return {"kind": "curves", "box": list(_box(axes)), "lines": lines}


def requests_readout(axes: Axes, points: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Single requests: columns x, value (of the metric) and index, the request's own."""
    places = _places(axes, points["x"].to_numpy(), points["value"].to_numpy())
    return {
        "kind": "requests",
        "metric": metric,
        "box": list(_box(axes)),
        **places,
        "index": packed(points["index"], "<i4"),
    }


def _places(axes: Axes, x: Floats, y: Floats) -> dict[str, Any]:
    """Places in the drawing, whose y runs downward."""
    at = np.asarray(axes.transData.transform(np.column_stack([x, y]))).reshape(-1, 2)
    return {"x": packed(at[:, 0], "<f4"), "y": packed(_height(axes) - at[:, 1], "<f4")}


def _box(axes: Axes) -> Iterator[float]:
    """Left, top, right and bottom of the panel."""
    box, height = axes.bbox, _height(axes)
    yield from (round(float(side), 2) for side in (box.x0, height - box.y1, box.x1, height - box.y0))


def _height(axes: Axes) -> float:
    figure = axes.figure
    return float(figure.bbox.height)
