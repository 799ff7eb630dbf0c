"""Distributions of latencies of each stage: percentile curves; latency by prompt length and by turn."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.breakdowns import TURN, breakdowns
from harness.analysis.slo import weakness
from harness.messages import localized
from harness.results.folder import frame_of
from harness.results.request_table import MISSING
from harness.units import format_duration
from reports import frames
from reports.curves import limit_words
from reports.data import Data, limits_of
from reports.figures.distributions import Spread, Violin, percentile_curves, percentile_place, shape_figure
from reports.figures.style import scale_of
from reports.frames import cell_of
from reports.glossary import name_of
from reports.readout import curves_readout, requests_readout
from reports.rows import frame_of_rows, groups_of, rows_of
from reports.svg import Drawing, drawn
from reports.tables import Cell, verdict_cell
from reports.texts import listed, paragraph

BIN_COLUMNS = ("stage", "x", "low_x", "high_x", "n", "median", "low", "high")


def shapes(data: Data) -> Iterator[Drawing]:
    """The first token and the pace by prompt length; the first token by turn, where there are conversations."""
    blocks = _breakdowns(data)
    for by, metric in dict.fromkeys((block["by"], block["metric"]) for block in blocks):
        rows = [
            {"stage": block["stage"], **_bin(row)}
            for block in blocks
            if (block["by"], block["metric"]) == (by, metric)
            for row in block["bins"]
        ]
        yield _drawn(data, "turn" if by == TURN else "length", metric, frame_of_rows(rows, BIN_COLUMNS))


def length_heads(data: Data) -> list[str]:
    """The heads of the verdict by prompt length, whose third names the statistic that the limit is on."""
    verdict = data.result.summary["by_length"]
    metric, statistic = str(verdict["objective"]).rsplit("_", 1)
    limit = localized("page.by_length.limit", limit_s=verdict["limit_s"])
    names = [localized("page.by_length.tokens"), localized("page.by_length.requests")]
    return [*names, f"{statistic} {name_of(metric)}", localized("page.by_length.interval"), limit]


def length_rows(data: Data) -> list[list[Cell]]:
    """A row for each doubling of the prompt length, with whether the limit holds there; empty without a verdict."""
    return [
        [
            Cell(f"{row['low']:,}–{row['high']:,}"),
            Cell(str(row["n"])),
            Cell("∞" if row.get("value_s") is None else format_duration(row["value_s"])),
            Cell(_interval(row.get("ci95"))),
            verdict_cell(row["met"], _weakness(data, row)),
        ]
        for row in (data.result.summary.get("by_length") or {}).get("bins", ())
    ]


def _weakness(data: Data, row: Mapping[str, Any]) -> str:
    """Why the verdict on one range of lengths is no proof; an end of an interval is None where it is infinite."""
    verdict = data.result.summary["by_length"]
    if row.get("value_s") is None:
        return ""
    ends = row.get("ci95")
    pair = None if ends is None else [math.inf if end is None else end for end in ends]
    return weakness(str(verdict["objective"]).rpartition("_")[2], pair, verdict["limit_s"])


def _interval(ends: Sequence[float | None] | None) -> str:
    if ends is None:
        return "–"
    return "–".join("∞" if end is None else format_duration(end) for end in ends)


def _breakdowns(data: Data) -> Sequence[Mapping[str, Any]]:
    """The breakdowns of summary.json; computed where an earlier version wrote it."""
    blocks: Sequence[Mapping[str, Any]] | None = data.result.summary.get("breakdowns")
    if blocks is not None:
        return blocks
    counted = data.latencies["in_window"].to_numpy()
    return breakdowns(frames.request_columns(data.result), counted, stream=data.streams, open_loop=data.is_open)


def _bin(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row.get("ci95") or (np.nan, np.nan)
    ends = {"low_x": row["low"], "high_x": row["high"], "low": low, "high": high}
    return {"x": row["middle"], "n": row["n"], "median": row["p50"], **ends}


def shape_points(data: Data, by: str, metric: str) -> pd.DataFrame:
    """Requests that count: columns stage, x (prompt tokens, or the turn from 1), value (s), index."""
    rows, inside = data.result.requests, data.latencies["in_window"].to_numpy()
    stage = rows["stage"].to_numpy()
    tokens = rows["input_tokens"].to_numpy()
    x = rows["turn"].to_numpy() + 1 if by == "turn" else np.where(tokens != MISSING, tokens, rows["input_asked"])
    value = data.latencies[metric].to_numpy(dtype=np.float64)
    known = inside & np.isfinite(value) & (x > 0)
    own = {"stage": stage[known], "x": x[known].astype(np.float64), "value": value[known]}
    return frame_of({**own, "index": rows["index"].to_numpy()[known]})


def _drawn(data: Data, by: str, metric: str, bins: pd.DataFrame) -> Drawing:
    points = shape_points(data, by, metric)
    alone = _alone(points)
    scale = scale_of(points["value"].to_numpy(dtype=np.float64), times=True)
    by_turn = by == "turn"
    title = "figures.shape.by_turn" if by_turn else "figures.shape.by_length"
    head = data.head(localized(title, metric=name_of(metric)), localized("figures.shape.subtitle", unit=scale.unit))
    limits = [limit for limit in limits_of(data) if limit.metric == metric]
    shape = Violin(alone, bins, by_turn=by_turn, names=data.names, limits=limits,
                   upward=localized("figures.axis", name=name_of(metric), unit=scale.unit))  # fmt: skip
    figure = shape_figure(shape, scale, head)
    caption = localized("figures.shape.turns" if by_turn else "figures.shape.lengths")
    shape_drawing = drawn(figure, f"{by}-{metric}", head, _words(data, by, bins), caption)
    return replace(shape_drawing, readout=requests_readout(figure.axes[0], alone, metric))


def _alone(points: pd.DataFrame) -> pd.DataFrame:
    """The points, those of one stage that would lie on the same spot once."""
    x, y = (np.log(points[name].to_numpy(dtype=np.float64).clip(1e-9)) for name in ("x", "value"))
    spots = frame_of({"x": cell_of(x, 360), "y": cell_of(y, 90), "stage": points["stage"].to_numpy()})
    alone: pd.DataFrame = points[~spots.duplicated().to_numpy()]
    return alone


def _words(data: Data, by: str, bins: pd.DataFrame) -> str:
    """The medians of the first and the last bin of each stage."""
    parts = []
    for stage, own in groups_of(bins, "stage"):
        ends = own.iloc[[0, -1]] if len(own) > 1 else own
        values = [_point(by, x, median) for x, median in rows_of(ends, "x", "median")]
        parts.append(localized("figures.percentiles_of", name=str(data.names.get(stage, stage)), values=values))
    return localized("figures.shape.description", series=parts)


def _point(by: str, x: float, median_s: float) -> str:
    if by == "turn":
        return localized("figures.shape.at_turn", median_s=median_s, turn=round(x))
    return localized("figures.shape.at_length", median_s=median_s, tokens=x)


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
    upward = localized("figures.axis", name=_TITLES[metric], unit=scale.unit)
    spread = Spread(curves, others, _interval_frame(data, metric), data.names, limits, upward)
    figure = percentile_curves(spread, scale, head)
    words = [localized("figures.percentiles", series=_percentile_words(data, metric)), *limit_words(limits)]
    if len(others):
        series = _percentile_words(data, metric.removesuffix("_user"))
        words.append(localized("figures.percentiles_from_sent", series=series))
    places = np.array([percentile_place(share) for share in curves["share"].tolist()])
    readout = curves_readout(figure.axes[0], curves, places)
    return replace(drawn(figure, f"spread-{metric}", head, paragraph(words)), readout=readout)


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
    """The summary's intervals of p50, p90 and p99: columns stage, share, low, high, open; none of a repeated stage."""
    own = data.metrics[data.metrics["metric"] == metric]
    single = own[~own["stage"].duplicated(keep=False)]
    rows = [
        {"stage": stage, "share": share, "low": low, "high": high, "open": is_open}
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        for stage, low, high, is_open in rows_of(single, "stage", *(f"{name}_{end}" for end in ("low", "high", "open")))
        if low == low  # noqa: PLR0124 - nan, which is no interval, is unequal to itself
    ]
    return frame_of_rows(rows, ("stage", "share", "low", "high", "open"))
