"""Latencies counted by size and by stretch of the run."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.token_gaps import gap_batches
from harness.results.request_table import Events
from harness.units import NS_PER_S
from reports.figures.heat import Grid
from reports.figures.style import Floats

COLUMNS, CELLS = 150, 28


def request_grid(latencies: pd.DataFrame, metric: str, span_s: tuple[float, float]) -> Grid | None:
    """A latency of completed requests by the time each was due; None where fewer than two have one."""
    at_s = latencies["due_s"].fillna(latencies["sent_s"]).to_numpy(dtype=np.float64)
    value = latencies[metric].to_numpy(dtype=np.float64)
    known = np.isfinite(at_s) & np.isfinite(value) & (value > 0)
    if known.sum() < 2:
        return None
    edges = _edges(span_s), value_edges(float(value[known].min()), float(value[known].max()))
    counts = _counts(at_s[known], value[known], edges)
    return Grid(counts, *edges)


def gap_grid(events: Events, span_s: tuple[float, float], range_s: tuple[float, float]) -> Grid:
    """Gaps between tokens (itl) by the time each ended; those beyond the range (s) count in the outermost cells."""
    edges = _edges(span_s), value_edges(*range_s)
    counts = np.zeros((COLUMNS, CELLS), dtype=np.int64)
    for batch in gap_batches(events, np.ones(len(events.offsets) - 1, dtype=bool)):
        several = int(batch.tokens.max()) > 1
        weights = batch.tokens if several else None
        gaps = batch.gaps / batch.tokens if several else batch.gaps
        counts += _counts(
            batch.at_ns / NS_PER_S, np.maximum(gaps, 1).astype(np.float32) / np.float32(NS_PER_S), edges, weights
        )
    return Grid(counts, *edges)


def _edges(span_s: tuple[float, float]) -> Floats:
    return np.linspace(span_s[0], max(span_s[1], span_s[0] + 1e-3), COLUMNS + 1)


def value_edges(low: float, high: float) -> Floats:
    """Edges of equal steps of a logarithm, from just under the lowest to just over the highest value."""
    return np.geomspace(low * 0.97, max(high, low * 1.2) * 1.03, CELLS + 1)


def _counts(
    at_s: Floats, value: NDArray[np.floating], edges: tuple[Floats, Floats], weights: NDArray[np.int32] | None = None
) -> NDArray[np.int64]:
    at_edges, value_edges_ = edges
    column = np.clip(((at_s - at_edges[0]) / (at_edges[1] - at_edges[0])).astype(np.int64), 0, COLUMNS - 1)
    low, step = np.log(value_edges_[0]), np.log(value_edges_[1] / value_edges_[0])
    row = np.clip(((np.log(value) - low) / step).astype(np.int64), 0, CELLS - 1)
    flat = np.bincount(column * CELLS + row, weights=weights, minlength=COLUMNS * CELLS)
    return flat.astype(np.int64).reshape(COLUMNS, CELLS)
