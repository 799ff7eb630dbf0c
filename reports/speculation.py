"""Speculation on a page: what was accepted of drafts, by position and stage, and what a step and a token took."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.speculation import LENGTH, RATE
from harness.messages import localized
from harness.units import format_count, format_duration, format_share, significant
from reports.data import Data
from reports.figures.style import SMALL, Head, Scale, across, apart, over, panel, paper, set_scale, ticks, width_of
from reports.loads import column_title, load_text
from reports.palette import SURFACE, stage_colour
from reports.rows import frame_of_rows, groups_of, rows_of
from reports.svg import Drawing, drawn
from reports.tables import Cell

_NONE = Cell("–")
_COLUMNS = ("stage", "position", "share")
_HEADS = (
    *("page.stages.stage", "page.speculation.drafts", "page.speculation.rate", "page.speculation.length"),
    *("page.speculation.step", "page.speculation.token"),
)
_MOST_TICKS = 16


def heads() -> list[str]:
    """The heads of `rows`."""
    return [localized(code) for code in _HEADS]


def rows(stages: Sequence[Mapping[str, Any]]) -> list[list[Cell]]:
    """A row for each stage that speculated and, where there are several, for each of its engines; else no rows."""
    return [row for stage in stages if stage.get("speculation") for row in _stage_rows(stage)]


def _stage_rows(stage: Mapping[str, Any]) -> Iterator[list[Cell]]:
    own = stage["speculation"]
    title = column_title(stage.get("index") or 0, load_text(stage))
    repeat = localized("page.stages.repeat", number=stage["repeat"] + 1) if stage.get("repeat") else ""
    times = [_time(stage, metric) for metric in ("chunk_gap", "tpot")]
    yield [Cell(title, repeat), *_counts(own), *times]
    for name, engine in (own.get("engines") or {}).items():
        yield [Cell(title, localized("page.speculation.engine", name=name)), *_counts(engine), _NONE, _NONE]


def _counts(own: Mapping[str, Any]) -> list[Cell]:
    """Drafts, and the two ratios with their intervals and what single requests had."""
    return [
        Cell(format_count(own.get("drafts"))),
        _ratio(own, RATE, format_share),
        _ratio(own, LENGTH, significant),
    ]


def _ratio(own: Mapping[str, Any], name: str, text_of: Any) -> Cell:
    value, ends = own.get(name), (own.get("ci95") or {}).get(name)
    if value is None:
        return _NONE
    return Cell(text_of(value), "–".join(map(text_of, ends)) if ends else _over_requests(own, name, text_of))


def _over_requests(own: Mapping[str, Any], name: str, text_of: Any) -> str:
    """From which to which single requests went, where the server tells of them."""
    quantiles = ((own.get("requests") or {}).get("quantiles") or {}).get(name)
    if not quantiles:
        return ""
    return localized("page.speculation.requests", low=text_of(quantiles["p10"]), high=text_of(quantiles["p90"]))


def _time(stage: Mapping[str, Any], metric: str) -> Cell:
    value = (stage.get(metric) or {}).get("p50")
    return _NONE if value is None else Cell(format_duration(value))


def position_frame(stages: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Columns stage, position (from 1) and share, repeats of a stage together."""
    sums: dict[int, np.ndarray[Any, Any]] = {}
    drafts: dict[int, int] = {}
    for stage in stages:
        own, index = stage.get("speculation") or {}, int(stage.get("index") or 0)
        shares = np.asarray(own.get("by_position") or [], dtype=np.float64)
        if len(shares) and len(sums.get(index, shares)) == len(shares):
            sums[index] = sums.get(index, 0.0) + shares * own["drafts"]
            drafts[index] = drafts.get(index, 0) + own["drafts"]
    points = [
        {"stage": index, "position": place, "share": float(total) / drafts[index]}
        for index, totals in sums.items()
        for place, total in enumerate(totals, 1)
    ]
    return frame_of_rows(points, _COLUMNS)


def by_position(data: Data) -> Drawing | None:
    """The figure of acceptance by position; None where no engine speculated."""
    frame = position_frame(data.result.stages)
    if not len(frame):
        return None
    head = data.head(localized("figures.acceptance.title"), localized("figures.acceptance.subtitle"))
    names = {stage: str(data.names.get(stage, stage)) for stage, _ in groups_of(frame, "stage")}
    series = [
        localized("figures.percentiles_of", name=names[stage], values=[format_share(share) for share in own["share"]])
        for stage, own in groups_of(frame, "stage")
    ]
    words = localized("figures.acceptance.description", series=series)
    caption = localized("figures.acceptance.caption")
    return drawn(acceptance_figure(frame, names, head), "acceptance", head, words, caption)


def acceptance_figure(frame: pd.DataFrame, names: Mapping[int, str], head: Head) -> Figure:
    """A line a stage over the places of a draft, in per cent of the drafts, side by side where they would hide."""
    figure = paper(SMALL, head)
    right = 18 + (max(map(width_of, names.values()), default=0) if len(names) > 1 else 0)
    axes = panel(figure, (44, 30, min(right, 140), 44))
    set_scale(axes, "y", Scale(0.0, 1.0, log=False, size=0.01, unit="%"))
    over(axes, localized("figures.acceptance.upward"))
    across(axes, localized("figures.acceptance.across"))
    most = int(frame["position"].max())
    axes.set_xlim(0.6, most + 0.4)
    shown = range(1, most + 1, max(1, -(-most // _MOST_TICKS)))
    ticks(axes, "x", list(shown), [str(place) for place in shown])
    stages = [stage for stage, _ in groups_of(frame, "stage")]
    for stage, own in groups_of(frame, "stage"):
        shift = (stages.index(stage) - (len(stages) - 1) / 2) * 0.06
        places, shares = own["position"].to_numpy(dtype=np.float64) + shift, own["share"].to_numpy()
        axes.plot(places, shares, color=stage_colour(stage), linewidth=1.7, zorder=3)
        for place, position, share in zip(places, own["position"].tolist(), shares.tolist(), strict=True):
            tip = localized("figures.acceptance.tip", name=names[stage], position=position, share=share)
            axes.plot([place], [share], marker="o", markersize=5, color=SURFACE, markeredgecolor=stage_colour(stage),
                      markeredgewidth=1.5, zorder=4, gid=f"tip:{tip}")  # fmt: skip
    _name_ends(axes, frame, names)
    return figure


def _name_ends(axes: Any, frame: pd.DataFrame, names: Mapping[int, str]) -> None:
    """The names of the stages at the right, in the order of their last places, apart from one another."""
    if len(names) < 2:
        return
    ends = [(stage, *next(rows_of(own.iloc[[-1]], "position", "share"))) for stage, own in groups_of(frame, "stage")]
    at = apart([share for _, _, share in ends], 0.09, 0.0, 1.0)
    for (stage, _, _), y in zip(ends, at, strict=True):
        axes.text(1.02, y, names[stage], transform=axes.transAxes, va="center_baseline", color=stage_colour(stage),
                  fontweight="bold")  # fmt: skip
