"""Latency against load: the first figure of a run's page and its sisters."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from harness.analysis.answer import LIMITS, SATURATION, knee
from harness.analysis.warnings import is_invalid, warnings_of
from harness.messages import localized
from harness.units import format_duration
from reports.data import Data, limits_of
from reports.figures.curve import Capacity, Limit, Throughput, ladder, ladder_scale, throughput_latency
from reports.glossary import name_of
from reports.headline import grew, judged_statistic
from reports.loads import same_level
from reports.rows import rows_of
from reports.svg import Drawing, drawn
from reports.texts import paragraph

RUNGS = ("ttft_user", "ttft", "tpot", "itl", "e2e_user", "e2e")
CLOSED_RUNGS = ("ttft", "tpot", "itl", "e2e")  # in a closed loop a request is due when it is sent


def hero(data: Data) -> Drawing | None:
    """The first figure: latency against throughput over stages, or the ladder of a lone stage."""
    if data.places["stage"].nunique() < 2:
        return _ladder(data)
    metric = _hero_metric(data)
    return curve(data, metric) if metric else None


def _hero_metric(data: Data) -> str | None:
    """The metric of the first limit, else the first token in the user's view."""
    known = set(data.metrics["metric"])
    wanted = [*(limit.metric for limit in limits_of(data)), "ttft_user" if data.is_open else "ttft", "e2e_user", "e2e"]
    return next((metric for metric in wanted if metric in known), None)


def further_curves(data: Data) -> Iterator[Drawing]:
    """The other metrics against throughput, where there are stages to compare."""
    if data.places["stage"].nunique() < 2:
        return
    user = "_user" if data.is_open else ""
    for metric in (f"ttft{user}", "tpot", f"e2e{user}"):
        if metric != _hero_metric(data) and metric in set(data.metrics["metric"]):
            yield curve(data, metric)


def curve(data: Data, metric: str) -> Drawing:
    """One metric against the rate offered (closed: reached), or side by side where all stages ask for the same rate."""
    offered = bool(data.places["is_open"].all())  # stages of both kinds have only what they reached in common
    rate = "offered_rate" if offered else "output_token_rate"
    by_stage = same_level(data.result.run.get("stages") or ())
    tail = judged_statistic(data.result, metric)
    table = _points(data, metric, "stage" if by_stage else rate, tail)
    limits = [limit for limit in limits_of(data) if limit.metric == metric]
    bracket = _capacity(data, rate) if not by_stage and (limits or metric == _hero_metric(data)) else None
    axis = "figures.curve.requests_offered" if offered else "figures.curve.tokens_reached"
    shown = Throughput(table, tail, "" if by_stage else localized(axis), limits, bracket, name_of(metric))
    head = data.head(
        _title(metric, by_stage=by_stage, is_open=offered),
        localized("figures.curve.subtitle", unit=shown.scale.unit, tail=tail),
    )
    figure = throughput_latency(shown, head)
    points = [
        localized("figures.curve.point", stage=short, p50_s=p50, tail_s=high)
        for short, p50, high in rows_of(table, "short", "p50", "tail")
    ]
    description = localized("figures.curve.description", tail=tail, points=points)
    unit = "req/s" if offered else "tokens/s"
    texts = [description, *limit_words(limits), *([_knee_words(bracket, unit)] if bracket else [])]
    return drawn(figure, f"curve-{metric}", head, paragraph(texts), _caption(table, by_stage=by_stage, is_open=offered))


def _title(metric: str, *, by_stage: bool, is_open: bool) -> str:
    name = name_of(metric)
    if by_stage:
        return localized("figures.curve.by_stage", metric=name)
    if is_open:
        return localized("figures.curve.by_offered", metric=name)
    return localized("figures.curve.by_throughput", metric=name)


def _caption(table: pd.DataFrame, *, by_stage: bool, is_open: bool) -> str:
    kind = "figures.curve.side_by_side" if by_stage else "figures.curve.offered" if is_open else "figures.curve.reached"
    notes = {
        "figures.curve.two_loops": len(set(table["loop"])) > 1,
        "figures.curve.not_valid": not table["valid"].all(),
        "figures.curve.open_interval": bool((table["tail_open"].eq(True) | table["p50_open"].eq(True)).any()),
    }
    return paragraph([localized(kind), *(localized(code) for code, is_so in notes.items() if is_so)])


def _points(data: Data, metric: str, rate: str, tail: str) -> pd.DataFrame:
    """One metric of every stage, with the columns that `Throughput` names.

    `done` is the rate of answers beside an offered one, else NaN.
    """
    rows = data.metrics[data.metrics["metric"] == metric]
    ends = {f"tail_{end}": rows.get(f"{tail}_{end}", np.nan) for end in ("low", "high", "open")}
    kinds = dict(rows_of(data.places, "stage", "is_open"))
    kept = warnings_of(data.result.summary)
    valid = [not is_invalid(kept, stage, repeat) for stage, repeat in rows_of(rows, "stage", "repeat")]
    done = rows["request_rate"] if rate == "offered_rate" else np.nan
    table = rows.assign(rate=rows[rate], done=done, short=rows["stage"].map(data.names), tail=rows[tail], valid=valid,
                        loop=rows["stage"].map(kinds), **ends)  # fmt: skip
    known: pd.DataFrame = table.dropna(subset=["rate", "p50"])
    return known


_KNEES = {LIMITS: "figures.curve.limits_break", SATURATION: "figures.curve.saturates"}


def _capacity(data: Data, rate: str) -> Capacity | None:
    """The knee where it is of this rate: that of summary.json, or of a result of before by the same function."""
    summary = data.result.summary
    own = summary["knee"] if "knee" in summary else knee(data.result.stages, grew(data.result))
    return Capacity(own["held"], own["broken"], _KNEES[own["by"]]) if own and own["rate"] == rate else None


def _knee_words(knee: Capacity, unit: str) -> str:
    """The knee as a sentence of an alternative text."""
    if knee.code == "figures.curve.saturates":
        return localized("figures.curve.saturates_description", held=knee.held, broken=knee.broken, unit=unit)
    return localized("figures.curve.limits_break_description", held=knee.held, broken=knee.broken, unit=unit)


def limit_words(limits: Sequence[Limit]) -> list[str]:
    """The limits as sentences of an alternative text."""
    code = "figures.curve.limit_description"
    return [localized(code, statistic=limit.statistic, limit_s=limit.seconds) for limit in limits]


def _ladder(data: Data) -> Drawing | None:
    """Percentiles of a lone stage: one stage has no curve, which the caption says."""
    wanted = [m for m in (RUNGS if data.is_open else CLOSED_RUNGS) if m in set(data.metrics["metric"])]
    table = data.metrics.groupby("metric")[["p50", "p90", "p99"]].median().reindex(wanted).dropna()
    if not len(table):
        return None
    rungs = table.reset_index().assign(name=[name_of(metric) for metric in table.index])
    limits = [limit for limit in limits_of(data) if limit.metric in wanted]
    unit = ladder_scale(rungs, limits).unit
    head = data.head(localized("figures.ladder.title"), localized("figures.ladder.subtitle", unit=unit))
    figure = ladder(rungs, head, limits)
    series = [
        localized("figures.percentiles_of", name=name, values=[format_duration(value) for value in values])
        for name, *values in rows_of(rungs, "name", "p50", "p90", "p99")
    ]
    words = localized("figures.percentiles", series=series)
    return drawn(figure, "ladder", head, words, localized("figures.ladder.caption"))
