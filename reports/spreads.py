"""Distributions of the latencies of each stage."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from harness.messages import localized
from harness.units import format_duration
from reports import frames
from reports.curves import limit_words
from reports.data import Data, limits_of
from reports.drawing import Drawing, drawn
from reports.figures.percentiles import Spread, percentile_curves
from reports.figures.style import scale_of
from reports.rows import frame_of_rows, groups_of, rows_of
from reports.texts import listed, paragraph

_NOTHING = frames.percentile_frame({})


def spreads(data: Data) -> Iterator[Drawing]:
    """Percentile curves of every latency; in an open loop both views in one figure."""
    counted = data.latencies[data.latencies["in_window"]]
    stages = {s: counted[counted["place"].isin(rows["place"])] for s, rows in groups_of(data.places, "stage")}
    curves = {m: frames.percentile_frame({s: f[m].to_numpy() for s, f in stages.items()}) for m in frames.LATENCIES}
    if data.events is not None and data.streams:
        curves["itl"] = frames.gap_frame(frames.gaps_by_stage(data.events, data.latencies, data.places))
    for metric in ("ttft", "tpot", "itl", "e2e"):
        user = f"{metric}_user"
        if data.is_open and user in curves and len(curves[user]):
            yield _spread(data, user, curves[user], curves[metric])
        elif len(curves.get(metric, ())):
            yield _spread(data, metric, curves[metric], _NOTHING)


def _spread(data: Data, metric: str, curves: pd.DataFrame, others: pd.DataFrame) -> Drawing:
    scale = scale_of(np.concatenate([curves["value"], others["value"]]), times=True)
    limits = [limit for limit in limits_of(data) if limit.metric == metric]
    by = "figures.spread.by_gap" if metric == "itl" else "figures.spread.by_request"
    subtitle = [localized(by, unit=scale.unit), *([localized("figures.spread.views")] if len(others) else [])]
    head = data.head(_TITLES[metric], listed(subtitle, "parts"))
    figure = percentile_curves(Spread(curves, others, _interval_frame(data, metric), data.names, limits), scale, head)
    words = [localized("figures.percentiles", series=_percentile_words(data, metric)), *limit_words(limits)]
    if len(others):
        series = _percentile_words(data, metric.removesuffix("_user"))
        words.append(localized("figures.percentiles_from_sent", series=series))
    return drawn(figure, f"spread-{metric}", head, paragraph(words))


_TITLES = {"ttft": "TTFT", "ttft_user": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E", "e2e_user": "E2E"}


def _percentile_words(data: Data, metric: str) -> list[str]:
    own = data.metrics[data.metrics["metric"] == metric]
    return [
        localized(
            "figures.percentiles_of",
            name=str(data.names.get(stage, stage)),
            values=[format_duration(value) for value in values],
        )
        for stage, *values in rows_of(own, "stage", "p50", "p90", "p99")
    ]


def _interval_frame(data: Data, metric: str) -> pd.DataFrame:
    """The summary's intervals of p50, p90 and p99: columns stage, share, low, high; none of a repeated stage."""
    own = data.metrics[data.metrics["metric"] == metric]
    single = own[~own["stage"].duplicated(keep=False)]
    rows = [
        {"stage": stage, "share": share, "low": low, "high": high}
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        for stage, low, high in rows_of(single, "stage", f"{name}_low", f"{name}_high")
        if low == low  # noqa: PLR0124 - nan, which is no interval, is unequal to itself
    ]
    return frame_of_rows(rows, ("stage", "share", "low", "high"))
