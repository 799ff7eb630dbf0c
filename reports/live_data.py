"""What the page's script draws from: panels over time, requests, the engine's state; arrays as base64 of their bytes.

Times are seconds since the run's zero, stamps of requests integer nanoseconds held as float64, which is exact up to
104 days; latencies are seconds, absent ones NaN.
"""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.messages import localized
from harness.results.request_table import FAILED, MISSING, STATUSES, WARMUP
from harness.telemetry import server_metrics
from harness.units import NS_PER_S
from reports import frames
from reports.data import Data, main_metric
from reports.figures.curve import limit_name
from reports.figures.heat import Heat, levels
from reports.figures.lanes import Lanes, phases_of
from reports.figures.overtime import Points, Strip, time_span
from reports.glossary import name_of
from reports.live_words import live_words
from reports.loads import stage_title
from reports.packing import packed
from reports.palette import stage_colour, variable_of
from reports.request_sample import RequestSample, sample_requests, slower_than
from reports.rows import rows_of
from reports.svg import Drawing

_STAMPS = ("due_ns", "ready_ns", "sent_ns", "first_ns", "last_ns", "done_ns")
_COUNTS = (
    *("index", "session", "turn", "input_asked", "input_tokens", "cached_tokens"),
    *("output_asked", "output_tokens", "events", "resends", "http_status"),
)
_SERVER_TIMES = ("server_queue_ns", "server_prefill_ns", "server_decode_ns")
_TOLD_COUNTS = ("reusable_tokens", "draft_steps", "draft_tokens", "accepted_tokens")
_STATE = {
    "running": server_metrics.RUNNING,
    "waiting": server_metrics.WAITING,
    "kv": server_metrics.KV_USE,
}
_MOST_SAMPLES = 4000  # of one series of the engine's state; of more, every k-th is held
_LONGEST_MESSAGE = 300


def run_data(data: Data, drawings: Sequence[Drawing | None], spans: Mapping[str, Any]) -> dict[str, Any]:
    """All of it as plain JSON; `drawings` are all of the page, `spans` those of warm-up, stalls, pauses."""
    metric = main_metric(data)
    sample = sample_requests(data.latencies, metric)
    low, high = time_span(data.places)
    return {
        "span": [low, high],
        "stages": _stages(data),
        **{name: [list(span) for span in marks] for name, marks in spans.items()},
        "metric": metric,
        "metrics": {name: name_of(name) for name in frames.LATENCIES},
        "requests": _requests(data, sample),
        "words": live_words(sample, phases_of(data.latencies)),
        "totals": {
            "all": sample.total,
            "failed": int((data.latencies["status"] == FAILED).sum()),
            "slow": int(sample.slow.sum()),
        },
        "state": {name: _state(data, sampled) for name, sampled in _STATE.items()},
        "figures": {
            drawing.name: [panel_data(panel) for panel in drawing.panels]
            for drawing in drawings
            if drawing is not None and drawing.panels
        },
        "readouts": {
            drawing.name: drawing.readout for drawing in drawings if drawing is not None and drawing.readout is not None
        },
    }


def _stages(data: Data) -> list[dict[str, Any]]:
    names = ("place", "stage", "repeat", "load", "short", "start_s", "stop_s", "end_s")
    columns = (*names, "window_start_s", "window_end_s")
    rows = [dict(zip(columns, row, strict=True)) for row in rows_of(data.places, *columns)]
    return [
        row
        | {
            "name": stage_title(row["stage"], row["load"], row["repeat"]),
            "colour": variable_of(stage_colour(row["stage"])),
            "window_start_s": _known(row["window_start_s"]),
            "window_end_s": _known(row["window_end_s"]),
        }
        for row in rows
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _requests(data: Data, sample: RequestSample) -> dict[str, Any]:
    table = data.result.requests.iloc[sample.rows]
    own = data.latencies.iloc[sample.rows]
    texts, errors = _errors(table)
    return {
        "stamps": {name: packed(_stamps(table[name])) for name in _STAMPS},
        "counts": {name: packed(table[name], "<i4") for name in (*_COUNTS, *_told(table, _TOLD_COUNTS))},
        "server": {name: packed(_stamps(table[name])) for name in _told(table, _SERVER_TIMES)},
        "latencies": {name: packed(own[name]) for name in frames.LATENCIES},
        "place": packed(own["place"], "<i4"),
        "status": packed(table["status"].map(list(STATUSES).index), "<u1"),
        "warmup": packed(own["phase"] == WARMUP, "<u1"),
        "counted": packed(own["in_window"], "<u1"),
        "longest_gap": {name: packed(column) for name, column in _longest_gaps(data, sample.rows).items()},
        "slower_than": {name: packed(slower_than(data.latencies, name)[sample.rows], "<f4") for name in _ranked(data)},
        "slow": packed(sample.slow[sample.rows], "<u1"),
        "error": packed(errors, "<i4"),
        "texts": texts,
        "counted_by": _codes(table["counted_by"]),
    }


def _told(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Those of some columns that are filled: what not every server tells, or every run knows."""
    return [name for name in names if (table[name] != MISSING).any()]


def _ranked(data: Data) -> list[str]:
    """The latencies by which the record of a request tells how slow it was: its first token, its tokens, its end."""
    return list(dict.fromkeys([main_metric(data), "tpot", "e2e_user" if data.is_open else "e2e"]))


def _longest_gaps(data: Data, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The longest time between two token events of each request, and when it ended (s); NaN where there are none."""
    gaps = np.full((2, len(rows)), np.nan)
    if data.events is None:
        return {"seconds": gaps[0], "end_s": gaps[1]}
    for place, row in enumerate(rows.tolist()):
        at_ns, _ = data.events.of(row)
        if len(at_ns) > 1:
            between = np.diff(at_ns)
            longest = int(between.argmax())
            gaps[:, place] = between[longest] / NS_PER_S, at_ns[longest + 1] / NS_PER_S
    return {"seconds": gaps[0], "end_s": gaps[1]}


def _stamps(column: pd.Series) -> NDArray[np.float64]:
    values = column.to_numpy(dtype=np.float64)
    return np.where(values == MISSING, np.nan, values)


def _codes(column: pd.Series) -> dict[str, Any]:
    """A column of few different texts: the texts, and the number of each row's."""
    numbers, texts = pd.factorize(column.astype(str))
    return {"texts": list(texts), "rows": packed(numbers, "<u1")}


def _errors(table: pd.DataFrame) -> tuple[list[list[str]], NDArray[np.int64]]:
    """Different errors with their messages, and each row's number among them; -1 for none."""
    pairs = [(str(error), str(message)[:_LONGEST_MESSAGE]) for error, message in rows_of(table, "error", "message")]
    numbers = {pair: i for i, pair in enumerate(dict.fromkeys(pair for pair in pairs if any(pair)))}
    return [list(pair) for pair in numbers], np.array([numbers.get(pair, -1) for pair in pairs], dtype=np.int64)


def _state(data: Data, sampled: str) -> dict[str, Any] | None:
    """One of the server's gauges as it was sampled; of several servers those of the first."""
    frame = frames.series_frame(data.result, sampled)
    own = frame[~frame["source"].str.startswith(f"{server_metrics.SERVER}/")]
    if not len(own):
        return None
    values = own.groupby("at_s")["value"].sum()
    thin = values.iloc[:: -(-len(values) // _MOST_SAMPLES)]
    return {"at_s": packed(thin.index.to_numpy()), "value": packed(thin)}


@singledispatch
def panel_data(panel: Any) -> dict[str, Any]:
    """One panel over time as the script reads it."""
    raise TypeError(type(panel))


@panel_data.register
def _(panel: Strip) -> dict[str, Any]:
    lines = [
        {
            "name": line.name,
            "colour": variable_of(line.colour),
            "filled": line.filled,
            "dashed": line.dashed,
            "at_s": packed(line.frame["at_s"]),
            "value": packed(line.frame["value"]),
        }
        for line in panel.lines
    ]
    scale = {"size": panel.size, "at_least": panel.at_least}
    return {"kind": "lines", "name": panel.name, **scale, "keyed": panel.keyed, "lines": lines}


@panel_data.register
def _(panel: Points) -> dict[str, Any]:
    limits = [{"value": limit.seconds, "name": limit_name(limit)} for limit in panel.limits]
    return {"kind": "points", "name": panel.name, "metric": panel.metric, "limits": limits}


@panel_data.register
def _(panel: Lanes) -> dict[str, Any]:
    key = [
        {"name": localized(code), "colour": variable_of(colour), "share": share}
        for code, (colour, share) in panel.looks.items()
    ]
    return {"kind": "lanes", "name": panel.name, "height": panel.height, "key": key}


@panel_data.register
def _(panel: Heat) -> dict[str, Any]:
    grid = panel.grid
    return {
        "kind": "heat",
        "name": panel.name,
        "size": panel.scale.size,
        "at_s": packed(grid.at_s),
        "value_s": packed(grid.value_s),
        "counts": packed(grid.counts, "<i4"),
        "levels": packed(levels(grid), "<u1"),
        "p50": packed(grid.percentile(0.5)),
        "p95": packed(grid.percentile(0.95)),
    }
