"""The engines of a run on its page: a table of each stage, and what each showed over time, a line an engine.

Lines of one role share panels. Engines keep their colour through all of them; a second eight are dashed. Of more than
sixteen of a role the lowest, the mean and the highest are drawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.engines import EngineName, engine_names
from harness.messages import localized
from harness.results.folder import frame_of, number
from harness.scenario.deployment import DECODE, PREFILL
from harness.telemetry.server_metrics import GENERATION, KV_USE, PREEMPTIONS, PROMPT, RUNNING, WAITING
from harness.units import NS_PER_S, format_bytes, format_count, format_duration, format_share, significant
from reports.data import Data
from reports.figures.overtime import SeriesLine, Strip, over_time
from reports.loads import load_text, stage_title
from reports.palette import ACCENT, ENGINE_COLOURS, MUTED, QUEUE, engine_colour, variable_of
from reports.svg import Drawing, drawn
from reports.tables import Cell
from reports.texts import listed, paragraph
from reports.timelines import MOST_SAMPLES, most_words, warm_frame

MOST_LINES = 2 * ENGINE_COLOURS  # of a panel: each colour once whole and once dashed
_ROLES = {PREFILL: "page.engines.prefill", DECODE: "page.engines.decode"}


@dataclass(frozen=True, slots=True)
class Key:
    """An engine in the key of the figure: its name, the variable of its colour, and whether its line is dashed."""

    name: str
    colour: str
    dashed: bool


def sampled_engines(data: Data) -> list[EngineName]:
    """The engines that were sampled; none where there is only one."""
    samples = data.result.samples
    pairs = samples[["source", "name"]].drop_duplicates()
    names = engine_names(
        list(zip(pairs["source"].astype(str), pairs["name"].astype(str), strict=True)), data.result.run
    )
    return names if len(names) > 1 else []


def engine_key(data: Data) -> list[Key]:
    """The engines in the order and colours of their lines; none where they are too many for lines of their own."""
    looks = _looks(sampled_engines(data))
    return [Key(name, variable_of(colour) or "", dashed) for name, (colour, dashed) in looks.items()]


def _looks(engines: Sequence[EngineName]) -> Mapping[str, tuple[str, bool]]:
    """Colour and dashes of the engines whose role is not too many."""
    few = [engine for engine in engines if _count(engines, engine.role) <= MOST_LINES]
    places = dict.fromkeys(dict.fromkeys(engine.role for engine in few), 0)
    looks = {}
    together = len(few) <= MOST_LINES
    for place, engine in enumerate(few):
        at = place if together else places[engine.role]
        places[engine.role] += 1
        looks[engine.name] = engine_colour(at % ENGINE_COLOURS), at // ENGINE_COLOURS % 2 == 1
    return looks


def _count(engines: Sequence[EngineName], role: str) -> int:
    return sum(engine.role == role for engine in engines)


def over_time_drawing(data: Data) -> Drawing | None:
    """What each engine showed over time; None where there are not several."""
    engines = sampled_engines(data)
    strips = [strip for role in dict.fromkeys(each.role for each in engines) for strip in _strips(data, engines, role)]
    if not strips:
        return None
    head = data.head(localized("page.engines.figure"))
    figure = over_time(strips, data.places, warm_frame(data), head)
    caption = localized("page.engines.caption")
    return drawn(figure, "engines-over-time", head, most_words(strips), caption, panels=strips)


_GAUGES = (
    (RUNNING, "page.engines.running_of", 1.0),
    (WAITING, "page.engines.waiting_of", 1.0),
    (KV_USE, "page.engines.kv_of", 0.01),
)


def _strips(data: Data, engines: Sequence[EngineName], role: str) -> Iterator[Strip]:
    own = [engine for engine in engines if engine.role == role]
    which = localized(_ROLES.get(role, "page.engines.all"))
    looks = _looks(engines)
    for name, code, size in _GAUGES:
        yield from _strip(localized(code, which=which), _series(data, own, name), looks, size)
    work, code = (PROMPT, "page.engines.prompts_of") if role == PREFILL else (GENERATION, "page.engines.tokens_of")
    yield from _strip(localized(code, which=which), _rates(_series(data, own, work)), looks)
    preempted = _rates(_series(data, own, PREEMPTIONS))
    if any(len(frame) and frame["value"].max() > 0 for frame in preempted.values()):
        yield from _strip(localized("page.engines.preemptions_of", which=which), preempted, looks)


def _strip(
    name: str, series: Mapping[str, pd.DataFrame], looks: Mapping[str, tuple[str, bool]], size: float = 1.0
) -> Iterator[Strip]:
    """A panel of a line an engine; of too many the lowest, the mean and the highest."""
    known = {engine: frame for engine, frame in series.items() if len(frame)}
    if not known:
        return
    if all(engine in looks for engine in known):
        lines = [SeriesLine(each, frame, looks[each][0], dashed=looks[each][1]) for each, frame in known.items()]
        yield Strip(name, lines, size=size, keyed=False)
        return
    joined = pd.concat(list(known.values())).groupby("at_s")["value"]
    ends = (
        ("page.engines.lowest", joined.min(), MUTED),
        ("page.engines.mean", joined.mean(), ACCENT),
        ("page.engines.highest", joined.max(), QUEUE),
    )
    frames = [
        (code, frame_of({"at_s": own.index.to_numpy(np.float64), "value": own}), colour) for code, own, colour in ends
    ]
    yield Strip(name, [SeriesLine(localized(code), frame, colour) for code, frame, colour in frames], size=size)


def _series(data: Data, engines: Sequence[EngineName], name: str) -> dict[str, pd.DataFrame]:
    """By engine the values of a name, thinned to the highest of each bin of time: columns at_s, value."""
    samples = data.result.samples
    rows = samples[samples["name"] == name]
    span_s = (rows["at_ns"].max() - rows["at_ns"].min()) / NS_PER_S if len(rows) else 0.0
    width = max(span_s / MOST_SAMPLES, 1.0)
    series = {}
    for engine in engines:
        own = rows[(rows["source"] == engine.source) & np.isfinite(rows["value"])]
        peaks = own["value"].groupby((own["at_ns"] / NS_PER_S / width).round()).max()
        series[engine.name] = frame_of({"at_s": peaks.index.to_numpy(np.float64) * width, "value": peaks.to_numpy()})
    return series


def _rates(series: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Counters as growth per second."""
    rates = {}
    for engine, frame in series.items():
        grown = frame["value"].diff().clip(lower=0) / frame["at_s"].diff()
        rates[engine] = frame.assign(value=grown).iloc[1:]
    return rates


@dataclass(frozen=True, slots=True)
class EngineTable:
    """The engines of one stage: its name, heads of columns, rows, and below them the imbalance of each role."""

    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]]


_Row = Mapping[str, Any]


def lead(data: Data) -> str:
    """What is found of the engines: which side of a pair is full, and which engines lag, each with its stages."""
    stages: dict[tuple[str, str], list[str]] = {}
    for stage in data.result.stages:
        for finding in _findings(stage):
            stages.setdefault(finding, []).append(load_text(stage))
    return paragraph(
        localized(code, stages=list(dict.fromkeys(own)), engine=engine) for (code, engine), own in stages.items()
    )


_SIDES = {
    "prefill": "page.engines.full_prefill",
    "decode": "page.engines.full_decode",
    "both": "page.engines.full_both",
    "neither": "page.engines.full_neither",
}


def _findings(stage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is found of a stage: a code, and the engine that it is of."""
    if stage.get("full_side") in _SIDES:
        yield _SIDES[stage["full_side"]], ""
    for lag in stage.get("lagging") or ():
        yield "page.engines.stuck" if lag.get("token_s") is None else "page.engines.lags_at", str(lag["engine"])


def engine_tables(data: Data) -> list[EngineTable]:
    """A table a stage that had several engines, of each repeat."""
    stages = [stage for stage in data.result.stages if len(stage.get("engines") or ()) > 1]
    return [_table(stage) for stage in stages]


def _table(stage: Mapping[str, Any]) -> EngineTable:
    engines: Sequence[_Row] = stage["engines"]
    columns = {code: [cell_of(engine) for engine in engines] for code, cell_of in _COLUMNS.items()}
    shown = {code: cells for code, cells in columns.items() if any(cell.text != _NOTHING for cell in cells)}
    lagging = {lag["engine"] for lag in stage.get("lagging") or ()}
    rows = [
        [_name(engine, lags=engine["name"] in lagging), *(cells[place] for cells in shown.values())]
        for place, engine in enumerate(engines)
    ]
    foot = [_imbalance(role, values, list(shown)) for role, values in (stage.get("imbalance") or {}).items()]
    label = stage_title(stage.get("index") or 0, load_text(stage), stage.get("repeat") or 0)
    return EngineTable(label, [localized("page.engines.engine"), *map(localized, shown)], rows, foot)


def _role(role: str) -> str:
    """The side of a pair that an engine is on; replicas are all alike."""
    return localized(_ROLES[role]) if role in _ROLES else ""


def _name(engine: _Row, *, lags: bool) -> Cell:
    devices = engine.get("devices")
    parts = [
        _role(str(engine.get("role"))),
        "" if not devices else localized("page.engines.devices", devices=[str(device) for device in devices]),
        localized("page.engines.lags") if lags else "",
    ]
    return Cell(str(engine["name"]), listed([part for part in parts if part], "list"), foreign=True)


_NOTHING = "–"
_FOREIGN = (DECODE, "prompt_tokens")  # a counter of prompts that the other side of the pair computed


def _gauge(name: str, *, share: bool = False) -> Any:
    def cell(engine: _Row) -> Cell:
        gauge = engine.get(name)
        if gauge is None:
            return Cell(_NOTHING)
        mean, most = (format_share(gauge[key]) if share else significant(gauge[key]) for key in ("mean", "max"))
        return Cell(mean, localized("page.engines.at_most", most=most))

    return cell


def _rate(name: str) -> Any:
    def cell(engine: _Row) -> Cell:
        count, span_s = engine.get(name), engine.get("span_s")
        if (engine.get("role"), name) == _FOREIGN:
            return Cell(_NOTHING)
        return Cell(_NOTHING) if count is None or not span_s else Cell(significant(number(count) / number(span_s)))

    return cell


def _count_of(name: str) -> Any:
    return lambda engine: Cell(_NOTHING if engine.get(name) is None else format_count(engine[name]))


def _hits(engine: _Row) -> Cell:
    return Cell(_NOTHING if engine.get("prefix_hit_rate") is None else format_share(engine["prefix_hit_rate"]))


def _moved(name: str) -> Any:
    def cell(engine: _Row) -> Cell:
        moved = engine.get(name) or {}
        count, seconds, size = (moved.get(key) for key in ("count", "seconds", "bytes"))
        each = format_duration(seconds / count) if count and seconds else _NOTHING
        total = "" if size is None else format_bytes(size)
        times = "" if not count else localized("page.engines.times", times=count)
        return Cell(each, listed([part for part in (times, total) if part], "list"))

    return cell


def _npu(engine: _Row) -> Cell:
    share = (engine.get("npu") or {}).get("core_share")
    return Cell(_NOTHING if share is None else format_share(share))


def _experts(engine: _Row) -> Cell:
    times = engine.get("ep_imbalance")
    return Cell(_NOTHING if times is None else significant(times))


_COLUMNS = {
    "page.engines.running": _gauge("running"),
    "page.engines.waiting": _gauge("waiting"),
    "page.engines.kv_use": _gauge("kv_use", share=True),
    "page.engines.prompt_rate": _rate("prompt_tokens"),
    "page.engines.output_rate": _rate("generation_tokens"),
    "page.engines.requests": _count_of("requests"),
    "page.engines.preemptions": _count_of("preemptions"),
    "page.engines.hits": _hits,
    "page.engines.kv_transfer": _moved("kv_transfer"),
    "page.engines.kv_store": _moved("kv_store"),
    "page.engines.experts": _experts,
    "page.engines.ai_cores": _npu,
}
_OF_IMBALANCE = {
    "page.engines.running": "running",
    "page.engines.waiting": "waiting",
    "page.engines.kv_use": "kv_use",
    "page.engines.prompt_rate": "prompt_tokens",
    "page.engines.output_rate": "generation_tokens",
}


def _imbalance(role: str, values: Mapping[str, float], columns: Sequence[str]) -> list[Cell]:
    """The maximum over the mean of each column of a role."""
    names = [_OF_IMBALANCE.get(code, "") for code in columns]
    shown = [None if (role, name) == _FOREIGN else values.get(name) for name in names]
    name = Cell(localized("page.engines.imbalance"), _role(role))
    return [name, *(Cell("" if value is None else f"{significant(value)}×") for value in shown)]
