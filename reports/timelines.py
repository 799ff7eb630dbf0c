"""Figures over time: the load and its responses, the server's own series, the client's health."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.messages import localized
from harness.results.folder import frame_of
from harness.results.request_table import WARMUP
from harness.telemetry import server_metrics
from harness.units import time_scale
from reports import frames
from reports.data import Data, limits_of, main_metric
from reports.figures.heat import Grid, Heat
from reports.figures.lanes import PHASES, SPLIT_PHASES, Lanes, phases_of
from reports.figures.overtime import Points, SeriesLine, Strip, over_time, unit_of
from reports.figures.style import Scale
from reports.frames import gap_grid, request_grid
from reports.glossary import name_of
from reports.lanes import counted, lane_frame, stride
from reports.palette import ACCENT, MUTED, QUEUE
from reports.svg import Drawing, drawn
from reports.texts import paragraph

_ENGINE = f"{server_metrics.SERVER}/"  # begins the sources that are one engine of several
MOST_SAMPLES = 600  # of a line; beyond, each bin of time shows its highest value, so that no peak is lost


def load(data: Data, stalls: Sequence[tuple[float, float]] = ()) -> Drawing:
    """Requests under way, tokens per second, and how long every request took to its first token."""
    load = frames.load_frame(data.result, data.places, data.events)
    metric = main_metric(data)
    points = frames.scatter_frame(data.latencies, metric)
    stages = data.places.set_index("place")["stage"]
    points = points.assign(stage=points["place"].map(stages).fillna(0))
    under_way = [SeriesLine(localized("figures.time.in_flight"), _line(load, "in_flight"), filled=True)]
    if data.is_open and float(load["waiting"].max()) > 0.5:
        under_way.append(SeriesLine(localized("figures.time.due_not_sent"), _line(load, "waiting"), QUEUE))
    limits = [limit for limit in limits_of(data) if limit.metric == metric]
    latency = localized("figures.time.latency", metric=name_of(metric), unit=unit_of(points["value"], limits))
    strips: list[Strip | Points] = [
        Strip(localized("figures.time.requests_in_flight"), under_way),
        Strip(localized("figures.time.token_rate"), [SeriesLine("tokens/s", _line(load, "token_rate"), filled=True)]),
        Points(latency, points, metric, limits),
    ]
    head = data.head(localized("figures.time.title"))
    figure = over_time(strips, data.places, warm_frame(data), head, stalls)
    words = localized(
        "figures.time.description",
        in_flight=float(load["in_flight"].max()),
        tokens=float(load["token_rate"].max()),
        failed=int((points["kind"] == "failed").sum()),
    )
    live = localized("figures.time.caption")
    with_panels = drawn(
        figure, "over-time", head, words, paragraph((live, localized("figures.time.once"))), panels=strips
    )
    return replace(with_panels, live_caption=live)


def _line(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame_of({"at_s": frame["at_s"], "value": frame[column]})


def warm_frame(data: Data) -> pd.DataFrame:
    """When warm-up went on, a row a stage that had one: columns start_s and end_s."""
    warm = data.latencies[(data.latencies["phase"] == WARMUP) & (data.latencies["place"] >= 0)]
    first = warm.groupby("place")["sent_s"].min().dropna()
    begun = data.places.set_index("place")["start_s"].reindex(first.index)
    last = warm.groupby("place")["sent_s"].max().reindex(first.index)
    end = np.where(begun > first, begun, last)  # a closed loop warms up within its stage
    return frame_of({"start_s": first.to_numpy(), "end_s": end})


def lanes(data: Data, stalls: Sequence[tuple[float, float]] = ()) -> Drawing | None:
    """Every request in its phases, over what the server, its NPUs and the host showed at the same time."""
    frame = lane_frame(data.latencies)
    if not len(frame):
        return None
    sent, _ = counted(data.latencies)
    own = [*server_strips(data), *device_strips(data)]
    strips: list[Strip | Points | Lanes | Heat] = [Lanes(localized("figures.lanes.name"), frame), *own]
    head = data.head(localized("figures.lanes.title"))
    figure = over_time(strips, data.places, warm_frame(data), head, stalls)
    shown = localized(
        "figures.lanes.description",
        shown=len(frame),
        sent=sent,
        lanes=int(frame["lane"].max()) + 1,
        failed=int(frame["failed"].sum()),
    )
    description = paragraph((shown, most_words(own))) if own else shown
    stalled = len(stalls) > 0
    phases = localized(_PHASES[phases_of(frame)])
    live = localized("figures.lanes.in_range", phases=phases)
    caption = _lanes_caption(_drawn_lanes(stride(sent), phases), stalled=stalled)
    with_panels = drawn(figure, "lanes", head, description, caption, panels=strips)
    return replace(with_panels, live_caption=_lanes_caption(live, stalled=stalled))


def _lanes_caption(first: str, *, stalled: bool) -> str:
    stalls = [localized("figures.stalls")] if stalled else []
    return paragraph([first, *stalls, localized("figures.lanes.below")])


_PHASES = {PHASES: "figures.lanes.phases", SPLIT_PHASES: "figures.lanes.split_phases"}


def _drawn_lanes(every: int, phases: str) -> str:
    """Which requests the drawing has; a page that is touched says so of what is in range (`live_caption`)."""
    if every == 1:
        return localized("figures.lanes.every", phases=phases)
    return localized("figures.lanes.some", every=every, phases=phases)


def heat(data: Data, stalls: Sequence[tuple[float, float]] = ()) -> Drawing | None:
    """TTFT and the gaps between tokens over time, as heat maps."""
    span_s = float(min(0.0, data.places["start_s"].min())), float(data.places["end_s"].max())
    metric = main_metric(data)
    grids = [(name_of(metric), request_grid(data.latencies, metric, span_s), _REQUESTS)]
    range_s = _gap_range(data)
    if data.events is not None and data.streams and range_s is not None:
        grids.append(("ITL", gap_grid(data.events, span_s, range_s), _GAPS))
    panels = [(name, grid, codes, _log_scale(grid)) for name, grid, codes in grids if grid is not None]
    if not panels:
        return None
    strips = [
        Heat(localized(title, metric=name, unit=scale.unit), grid, scale) for name, grid, (title, _), scale in panels
    ]
    head = data.head(localized("figures.heat.title"))
    figure = over_time(strips, data.places, warm_frame(data), head, stalls)
    words = paragraph(localized(most, metric=name, most=grid.most) for name, grid, (_, most), _ in panels)
    caption = [localized("figures.heat.caption"), *([localized("figures.stalls")] if len(stalls) else [])]
    return drawn(figure, "heat", head, words, paragraph(caption), panels=strips)


_REQUESTS = ("figures.heat.requests", "figures.heat.most_requests")  # of a panel: its name, and its fullest cell
_GAPS = ("figures.heat.gaps", "figures.heat.most_gaps")


def _log_scale(grid: Grid) -> Scale:
    low, high = float(grid.value_s[0]), float(grid.value_s[-1])
    size, unit = time_scale(high)
    return Scale(low, high, log=True, size=size, unit=unit)


def _gap_range(data: Data) -> tuple[float, float] | None:
    """From a tenth of the least median gap to the longest one, over all stages."""
    own = data.metrics[data.metrics["metric"] == "itl"]
    low, high = float(own["p50"].min()) / 10, float(own["max"].max())
    return (max(low, float(own["min"].min()), 1e-6), high) if len(own) and high > 0 else None


def server_strips(data: Data) -> list[Strip]:
    """The server's own series: queue, cache, preemptions."""
    gauges = (
        (localized("figures.series.running"), server_metrics.RUNNING),
        (localized("figures.series.waiting"), server_metrics.WAITING),
    )
    strips = (
        _gauges(data, localized("figures.series.requests"), gauges),
        _joined_share(data, localized("figures.series.kv_cache"), server_metrics.KV_USE),
        _counter(data, localized("figures.series.preemptions"), server_metrics.PREEMPTIONS),
        _ratio(data, localized("figures.series.accepted"), server_metrics.ACCEPTED_TOKENS, server_metrics.DRAFT_TOKENS),
    )
    return [strip for strip in strips if strip is not None]


def device_strips(data: Data) -> list[Strip]:
    """Series of the NPUs and the host: utilization, memory, power, temperature."""
    strips = (
        _share(data, localized("figures.series.ai_cores"), "core_share"),
        _share(data, localized("figures.series.npu_memory"), "memory_share"),
        _share(data, localized("figures.series.npu_bandwidth"), "memory_bandwidth_share"),
        _gauges(data, localized("figures.series.npu_power"), ((localized("figures.series.power"), "watts"),)),
        _highest(data, localized("figures.series.npu_heat"), "celsius"),
        _share(data, localized("figures.series.host_cpu"), "host_cpu_share"),
    )
    return [strip for strip in strips if strip is not None]


def client(data: Data) -> Drawing | None:
    """The client's own health: its processors and how late its event loop was."""
    strips = [
        strip
        for strip in (
            _share(data, localized("figures.client.cpu"), "cpu_share"),
            _lag(data, "loop_lag_s"),
        )
        if strip is not None
    ]
    return _sampled(data, strips, localized("figures.client.title"), "client", localized("figures.client.caption"))


def _sampled(data: Data, strips: Sequence[Strip], title: str, name: str, caption: str) -> Drawing | None:
    if not strips:
        return None
    head = data.head(title)
    figure = over_time(strips, data.places, warm_frame(data), head)
    return drawn(figure, f"{name}-over-time", head, most_words(strips), caption, panels=strips)


def most_words(strips: Sequence[Strip]) -> str:
    """The highest value of each strip, as the end of an alternative text."""
    series = [localized("figures.series.most", name=strip.name, most=_most(strip)) for strip in strips]
    return localized("figures.series.description", series=series)


def _most(strip: Strip) -> float:
    return max(float(line.frame["value"].max()) for line in strip.lines) / strip.size


def _gauges(data: Data, name: str, parts: Sequence[tuple[str, str]]) -> Strip | None:
    colours = (ACCENT, QUEUE, MUTED)
    series = [(label, _series(data, sampled, "sum")) for label, sampled in parts]
    lines = [
        SeriesLine(label, frame, colour, filled=colour == ACCENT)
        for (label, frame), colour in zip(series, colours, strict=False)
        if len(frame)
    ]
    return Strip(name, lines) if lines else None


def _share(data: Data, name: str, sampled: str) -> Strip | None:
    frame = _series(data, sampled, "max")
    return Strip(name, [SeriesLine(name, frame, filled=True)], at_least=1.0, size=0.01) if len(frame) else None


def _joined_share(data: Data, name: str, sampled: str) -> Strip | None:
    """A share of the server's; of several engines their mean and the highest, since shares have no sum."""
    highest = _series(data, sampled + server_metrics.MAXIMUM, "max")
    if not len(highest):
        return _share(data, name, sampled)
    mean = SeriesLine(localized("figures.series.mean_of_engines"), _series(data, sampled, "max"), filled=True)
    return Strip(name, [mean, SeriesLine(localized("figures.series.highest"), highest, QUEUE)], at_least=1.0, size=0.01)


def _highest(data: Data, name: str, sampled: str) -> Strip | None:
    frame = _series(data, sampled, "max")
    return Strip(name, [SeriesLine(name, frame)]) if len(frame) else None


def _lag(data: Data, sampled: str) -> Strip | None:
    frame = _series(data, sampled, "max")
    if not len(frame):
        return None
    size, unit = time_scale(max(float(frame["value"].max()), 1e-3))
    return Strip(localized("figures.client.lag", unit=unit), [SeriesLine("lag", frame)], at_least=size, size=size)


def _counter(data: Data, name: str, sampled: str) -> Strip | None:
    """A counter's growth per second; nothing where it never grew."""
    frame = _series(data, sampled, "sum")
    if len(frame) < 2 or frame["value"].iloc[-1] <= frame["value"].iloc[0]:
        return None
    grown = frame["value"].diff().clip(lower=0) / frame["at_s"].diff()
    return Strip(name, [SeriesLine(name, frame.assign(value=grown).iloc[1:], filled=True)])


def _ratio(data: Data, name: str, part: str, whole: str) -> Strip | None:
    """The growth of one counter by that of another, where the latter grew."""
    both = [_series(data, sampled, "sum") for sampled in (part, whole)]
    if any(len(frame) < 2 for frame in both) or len(both[0]) != len(both[1]):
        return None
    grown, base = (frame["value"].diff().to_numpy() for frame in both)
    known = np.flatnonzero(base > 0)
    if not len(known):
        return None
    at_s, shares = both[1]["at_s"].to_numpy()[known], (grown[known] / base[known]).clip(0, 1)
    return Strip(name, [SeriesLine(name, frame_of({"at_s": at_s, "value": shares}))], at_least=1.0, size=0.01)


def _series(data: Data, sampled: str, over_sources: str) -> pd.DataFrame:
    """One line from all sources of a sampled value, thinned to its peaks: columns at_s, value.

    Engines are not added to the server that they are.
    """
    known = frames.series_frame(data.result, sampled)
    frame: pd.DataFrame = known[~known["source"].str.startswith(_ENGINE)]
    if not len(frame):
        return frame
    width = _bin_width(frame, frame["source"].nunique())
    bins = (frame["at_s"] / width).round()
    peaks = frame["value"].groupby([bins, frame["source"]]).max()
    values = peaks.groupby(level=0).sum() if over_sources == "sum" else peaks.groupby(level=0).max()
    return frame_of({"at_s": values.index.to_numpy(dtype=np.float64) * width, "value": values.to_numpy()})


def _bin_width(frame: pd.DataFrame, sources: int) -> float:
    """Seconds between points: as sampled, or as far apart as leaves `MOST_SAMPLES` of them."""
    span = float(frame["at_s"].max() - frame["at_s"].min())
    sampled = span / max(1, len(frame) / sources - 1)
    return max(sampled, span / MOST_SAMPLES, 1e-3)
