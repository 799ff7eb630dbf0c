"""The tables under the figures of a run.

Pure: a `ResultFiles` becomes pandas frames. Times are seconds since the run's zero unless a column
says otherwise; latencies are seconds, missing ones NaN, defined in harness.analysis.metrics.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.metrics import latencies
from harness.analysis.request_flow import mean_in_flight
from harness.analysis.steady_state import is_open
from harness.analysis.token_gaps import Gaps, gap_batches, streams, token_rates
from harness.messages import localized
from harness.results.folder import ResultFiles, frame_of, number
from harness.results.request_table import (
    COLUMNS,
    COMPLETED,
    FAILED,
    MEASURED,
    MISSING,
    PRIMING,
    WARMUP,
    Events,
    Requests,
    requests_from_columns,
)
from harness.scenario.stages import label, load_name
from harness.statistics.distributions import has_open_end
from harness.units import NS_PER_S
from reports.figures.heat import Grid
from reports.figures.style import Floats
from reports.loads import load_text, short_labels, stage_title
from reports.rows import frame_of_rows, groups_of, rows_of

BINS = 240  # of the time axis: a bin is about four pixels wide
STATISTICS = ("n", "mean", "std", "min", "p50", "p90", "p95", "p99", "max")
BOUNDED = ("mean", "p50", "p90", "p95", "p99")  # those that may have an interval
LATENCIES = ("ttft", "ttft_user", "tpot", "e2e", "e2e_user")
METRICS = ("ttft_user", "ttft", "tpot", "itl", "chunk_gap", "e2e_user", "e2e", "send_lag")

_PLACE_COLUMNS = (
    *("place", "stage", "repeat", "label", "load", "short", "is_open", "start_s", "stop_s", "end_s"),
    *("window_start_s", "window_end_s", "steady"),
)
_METRIC_COLUMNS = (
    *("stage", "repeat", "metric", "offered_rate", "request_rate", "output_token_rate", *STATISTICS),
    *(f"{name}_{end}" for name in BOUNDED for end in ("low", "high", "open")),
)


def place_frame(result: ResultFiles) -> pd.DataFrame:
    """One row a stage and repeat, in the order they ran.

    Columns: place, stage, repeat, label (English), load (in the page's language), short, is_open, start_s,
    stop_s, end_s, window_start_s, window_end_s (NaN where nothing was measured), steady (True, False or None).
    """
    summaries = {(s.get("index"), s.get("repeat", 0)): s for s in result.stages}
    loads = result.run.get("stages") or [s.get("load", {}) for s in result.stages]
    spans = rows_of(result.timeline, "stage", "repeat", "start_ns", "stop_ns", "end_ns")
    rows = [_place_row(place, span, summaries.get(span[:2], {}), loads) for place, span in enumerate(spans)]
    return frame_of_rows(rows, _PLACE_COLUMNS)


def _place_row(
    place: int, span: tuple[int, ...], summary: Mapping[str, Any], loads: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    stage, repeat, *times_ns = span
    start_s, stop_s, end_s = (time_ns / NS_PER_S for time_ns in times_ns)
    known = stage < len(loads)
    window = summary.get("window") or {}
    return {
        "place": place,
        "stage": stage,
        "repeat": repeat,
        "load": load_text(summary) if summary else localized(load_name(loads[stage])) if known else "",
        "label": summary.get("label") or (label(loads[stage]) if known else stage_title(stage)),
        "short": short_labels(loads)[stage] if known else stage_title(stage),
        "is_open": not known or is_open(str(loads[stage].get("kind"))),
        "start_s": start_s,
        "stop_s": stop_s,
        "end_s": end_s,
        "window_start_s": start_s + number(window.get("start_s")),
        "window_end_s": start_s + number(window.get("end_s")),
        "steady": window.get("steady"),
    }


def metric_frame(result: ResultFiles) -> pd.DataFrame:
    """One row a stage, repeat and metric of the summary: its statistics and the ends of their intervals.

    Columns: stage, repeat, metric, offered_rate, request_rate, output_token_rate, then `STATISTICS`, then for
    each statistic that may have one the interval as mean_low, mean_high, mean_open, p50_low, …; open where it
    reaches the largest value.
    """
    rows = [
        {
            "stage": stage.get("index", place),
            "repeat": stage.get("repeat", 0),
            "metric": metric,
            "offered_rate": rate_of(stage, "offered_rate"),
            "request_rate": number(stage.get("request_rate")),
            "output_token_rate": number(stage.get("output_token_rate")),
            **{name: number(statistics.get(name)) for name in STATISTICS},
            **_intervals(statistics.get("ci95") or {}),
            **{f"{name}_open": has_open_end(statistics, name) for name in BOUNDED},
        }
        for place, stage in enumerate(result.stages)
        for metric in METRICS
        if (statistics := stage.get(metric) or {}).get("n")
    ]
    return frame_of_rows(rows, _METRIC_COLUMNS)


def rate_of(stage: Mapping[str, Any], rate: str) -> float:
    """A rate of a stage of the summary; of an older one, which holds no offered rate, the requested one."""
    value = stage.get(rate)
    if value is None and rate == "offered_rate":
        value = (stage.get("load") or {}).get("rate", stage.get("request_rate"))
    return number(value)


def _intervals(ci95: Mapping[str, Sequence[float]]) -> dict[str, float]:
    ends = {name: ci95.get(name) or (None, None) for name in BOUNDED}
    return {f"{name}_{end}": number(ends[name][i]) for name in BOUNDED for i, end in enumerate(("low", "high"))}


def request_columns(result: ResultFiles) -> Requests:
    """The requests of a result as the columns that an analysis takes."""
    return requests_from_columns({name: result.requests[name].array for name in COLUMNS})


def latency_frame(result: ResultFiles, places: pd.DataFrame) -> pd.DataFrame:
    """One row a request: place, phase, status, times in seconds, latencies, and whether its metrics count.

    Columns: place (-1 for a stage that never began), phase, status, due_s, sent_s, scheduled_s (the server's own
    prefill time before the first token; NaN where it tells none), first_s, done_s, `LATENCIES` (of completed
    requests), in_window (measured, completed, and sent within its stage's window). Requests that prime a stage are not
    part of it: they have no times.
    """
    rows, columns = result.requests, request_columns(result)
    values = latencies(columns, stream=bool(result.run.get("stream", True)))
    completed = columns.status == COMPLETED
    place = _place_of(columns.stage, columns.repeat, places)
    primes = columns.phase == PRIMING
    sent_s = np.where(primes, np.nan, _seconds(columns.sent_ns))
    counts = completed & (columns.phase == MEASURED) & _within(place, sent_s, places)
    return frame_of(
        {
            "place": place,
            "phase": rows["phase"].array,
            "status": rows["status"].array,
            "due_s": np.where(primes, np.nan, _seconds(columns.due_ns)),
            "sent_s": sent_s,
            "scheduled_s": _seconds(columns.first_ns) - _seconds(columns.server_prefill_ns),
            "first_s": _seconds(columns.first_ns),
            "done_s": _seconds(columns.done_ns),
            **{name: np.where(completed, values[name], np.nan) for name in LATENCIES},
            "in_window": counts.astype(bool),
        }
    )


def _seconds(times_ns: NDArray[np.int64]) -> Floats:
    return np.where(times_ns == MISSING, np.nan, times_ns / NS_PER_S)


def _place_of(stages: NDArray[np.int64], repeats: NDArray[np.int64], places: pd.DataFrame) -> NDArray[np.int64]:
    """Each request's row in `places`; -1 where it has none."""
    positions = np.full(len(stages), -1, dtype=np.int64)
    for place, stage, repeat in rows_of(places, "place", "stage", "repeat"):
        positions[(stages == stage) & (repeats == repeat)] = place
    return positions


def _within(place: NDArray[np.int64], sent_s: Floats, places: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each request was sent within the window of its stage; a stage that was never summed up counts whole."""
    ends = [np.append(places[name].to_numpy(dtype=np.float64), np.nan) for name in ("window_start_s", "window_end_s")]
    return np.asarray((place >= 0) & ~((sent_s < ends[0][place]) | (sent_s > ends[1][place])))


def gaps_by_stage(events: Events, counted: pd.DataFrame, places: pd.DataFrame) -> dict[int, Gaps]:
    """Gaps between tokens (itl) of the counted requests of each stage, repeats together.

    `counted` is a `latency_frame` with a row for each of the events' rows.
    """
    inside, place = counted["in_window"].to_numpy(), counted["place"].to_numpy()
    return {
        stage: streams(events, inside & np.isin(place, rows["place"].to_numpy())).itl
        for stage, rows in groups_of(places, "stage")
    }


def percentile_grid(n: int) -> Floats:
    """Shares at which a percentile curve of n values is read.

    Even on a normal scale, from 1 % to where a single value decides.
    """
    normal = NormalDist()
    top = min(0.9995, max(0.5, 1 - 0.5 / max(n, 1)))
    return np.array([normal.cdf(z) for z in np.linspace(normal.inv_cdf(0.01), normal.inv_cdf(top), 90)])


def percentile_frame(values: Mapping[int, Floats]) -> pd.DataFrame:
    """Percentile curves of several stages: columns stage, share (0 to 1), value (s)."""
    known = {stage: column[np.isfinite(column)] for stage, column in values.items()}
    grids = {stage: percentile_grid(len(column)) for stage, column in known.items() if len(column)}
    return _curves([(stage, grid, np.quantile(known[stage], grid)) for stage, grid in grids.items()])


def gap_frame(gaps: Mapping[int, Gaps]) -> pd.DataFrame:
    """Percentile curves of gaps, as `percentile_frame`."""
    grids = {stage: percentile_grid(stage_gaps.short.n) for stage, stage_gaps in gaps.items() if stage_gaps.short.n}
    return _curves(
        [
            (stage, grid, np.array([gaps[stage].percentile(100 * share) for share in grid.tolist()], dtype=np.float64))
            for stage, grid in grids.items()
        ]
    )


def _curves(parts: Sequence[tuple[int, Floats, Floats]]) -> pd.DataFrame:
    none = np.zeros(0)
    return frame_of(
        {
            "stage": np.concatenate([none.astype(np.int64), *(np.full(len(grid), stage) for stage, grid, _ in parts)]),
            "share": np.concatenate([none, *(grid for _, grid, _ in parts)]),
            "value": np.concatenate([none, *(column for _, _, column in parts)]),
        }
    )


def load_frame(result: ResultFiles, places: pd.DataFrame, events: Events | None) -> pd.DataFrame:
    """Requests in flight, rates and failures over time, in `BINS` equal bins.

    Columns: at_s (middle of the bin), in_flight (sent and not over), waiting (due and not sent),
    token_rate (tokens received per second).
    """
    first_ns, last_ns = _run_span_ns(places)
    edges = np.linspace(first_ns, last_ns, BINS + 1)
    sent = result.requests[result.requests["sent_ns"] != MISSING]
    sent_ns, due_ns, done_ns = (sent[name].to_numpy() for name in ("sent_ns", "due_ns", "done_ns"))
    due_ns = np.where(due_ns == MISSING, sent_ns, due_ns)
    done_ns = np.where(done_ns == MISSING, last_ns, done_ns)
    return frame_of(
        {
            "at_s": (edges[:-1] + edges[1:]) / 2 / NS_PER_S,
            "in_flight": mean_in_flight(sent_ns, done_ns, edges),
            "waiting": mean_in_flight(due_ns, sent_ns, edges),
            "token_rate": np.zeros(BINS) if events is None else token_rates(events, first_ns, last_ns, BINS),
        }
    )


def _run_span_ns(places: pd.DataFrame) -> tuple[int, int]:
    first = min(0, round(float(places["start_s"].min()) * NS_PER_S))
    return first, max(round(float(places["end_s"].max()) * NS_PER_S), first + NS_PER_S)


def scatter_frame(counted: pd.DataFrame, metric: str, cells: tuple[int, int] = (420, 90)) -> pd.DataFrame:
    """Points of a metric over the time a request was due, those that would lie on the same spot drawn once.

    `counted` is a `latency_frame`. Columns: at_s, value, kind ("counted", "left out", "warmup",
    "failed"), place. A failed request has no value.
    """
    kind = np.where(counted["in_window"], "counted", "left out").astype(object)
    kind[(counted["phase"] == WARMUP).to_numpy()] = "warmup"
    kind[(counted["status"] == FAILED).to_numpy()] = "failed"
    at_s = counted["due_s"].fillna(counted["sent_s"])
    frame = frame_of({"at_s": at_s, "value": counted[metric], "kind": kind, "place": counted["place"]})
    shown: pd.DataFrame = frame[frame["at_s"].notna() & (frame["value"].gt(0) | (frame["kind"] == "failed"))]
    alone: pd.DataFrame = shown[~_spots(shown, cells).duplicated()]
    return alone


def _spots(frame: pd.DataFrame, cells: tuple[int, int]) -> pd.DataFrame:
    """The spot of the paper that each point falls on."""
    height = np.log10(frame["value"].where(frame["value"] > 0))
    parts = (("x", frame["at_s"], cells[0]), ("y", height, cells[1]))
    spots = {name: cell_of(values.to_numpy(dtype=np.float64), count) for name, values, count in parts}
    joined: pd.DataFrame = frame_of({**spots, "kind": frame["kind"].array, "place": frame["place"].array})
    joined.index = frame.index
    return joined


def cell_of(values: Floats, count: int) -> NDArray[np.int64]:
    """The number of the spot that each value falls on, of about `count` from the least to the most; -1 for none."""
    known = values[np.isfinite(values)]
    low, span = (known.min(), max(float(np.ptp(known)), 1e-9)) if len(known) else (0.0, 1.0)
    return np.where(np.isfinite(values), np.round((values - low) / span * count), -1).astype(np.int64)


def error_frame(result: ResultFiles, examples: int = 3) -> pd.DataFrame:
    """Failed requests by error name and HTTP status, most frequent first.

    Columns: error, http_status, count, stages (their numbers, from 1), first_s (when the first was due),
    messages (up to `examples` different ones).
    """
    failed = result.requests[result.requests["status"] == FAILED]
    rows: list[dict[str, Any]] = [
        {
            "error": str(error) or "unnamed",
            "http_status": int(http_status),
            "count": len(group),
            "stages": [stage + 1 for stage in sorted({int(stage) for stage in group["stage"]})],
            "first_s": float(_seconds(group["due_ns"].to_numpy()[:1])[0]),
            "messages": [str(message) for message in group["message"].unique()[:examples] if message],
        }
        for (error, http_status), group in failed.groupby(["error", "http_status"], observed=True, sort=False)
    ]
    ordered = sorted(rows, key=lambda row: -row["count"])
    return frame_of_rows(ordered, ("error", "http_status", "count", "stages", "first_s", "messages"))


def series_frame(result: ResultFiles, name: str) -> pd.DataFrame:
    """One sampled value over time: columns at_s, source, value."""
    own = result.samples[result.samples["name"] == name]
    series = frame_of({"at_s": own["at_ns"] / NS_PER_S, "source": own["source"].astype(str), "value": own["value"]})
    known: pd.DataFrame = series[np.isfinite(series["value"])]
    ordered: pd.DataFrame = known.sort_values("at_s", kind="stable")
    return ordered


GRID_COLUMNS, GRID_ROWS = 150, 28


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
    counts = np.zeros((GRID_COLUMNS, GRID_ROWS), dtype=np.int64)
    for batch in gap_batches(events, np.ones(len(events.offsets) - 1, dtype=bool)):
        several = int(batch.tokens.max()) > 1
        weights = batch.tokens if several else None
        gaps = batch.gaps / batch.tokens if several else batch.gaps
        counts += _counts(
            batch.at_ns / NS_PER_S, np.maximum(gaps, 1).astype(np.float32) / np.float32(NS_PER_S), edges, weights
        )
    return Grid(counts, *edges)


def _edges(span_s: tuple[float, float]) -> Floats:
    return np.linspace(span_s[0], max(span_s[1], span_s[0] + 1e-3), GRID_COLUMNS + 1)


def value_edges(low: float, high: float) -> Floats:
    """Edges of equal steps of a logarithm, from just under the lowest to just over the highest value."""
    return np.geomspace(low * 0.97, max(high, low * 1.2) * 1.03, GRID_ROWS + 1)


def _counts(
    at_s: Floats, value: NDArray[np.floating], edges: tuple[Floats, Floats], weights: NDArray[np.int32] | None = None
) -> NDArray[np.int64]:
    at_edges, value_edges_ = edges
    column = np.clip(((at_s - at_edges[0]) / (at_edges[1] - at_edges[0])).astype(np.int64), 0, GRID_COLUMNS - 1)
    low, step = np.log(value_edges_[0]), np.log(value_edges_[1] / value_edges_[0])
    row = np.clip(((np.log(value) - low) / step).astype(np.int64), 0, GRID_ROWS - 1)
    flat = np.bincount(column * GRID_ROWS + row, weights=weights, minlength=GRID_COLUMNS * GRID_ROWS)
    return flat.astype(np.int64).reshape(GRID_COLUMNS, GRID_ROWS)
