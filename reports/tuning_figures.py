"""The figures of a tuning study."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.messages import localized
from harness.results.study import StudyFiles, feasible, value_of
from harness.scenario.study import unit_of
from harness.units import significant
from reports.figures import search
from reports.figures.search import Mark, Share, Spent
from reports.figures.style import Head, drawing
from reports.svg import Drawing, drawn
from reports.texts import paragraph
from reports.tuning_decision import decision_figure
from reports.tuning_flags import effects_drawing
from reports.tuning_tables import metric_name

_FEWEST_PREDICTED = 2  # predictions of the simulator that make a figure


@dataclass(frozen=True, slots=True)
class StudyGallery:
    """The figures of a study's page; None where there is nothing to draw."""

    history: Drawing | None = None
    front: Drawing | None = None
    importance: Drawing | None = None
    agreement: Drawing | None = None
    minutes: Drawing | None = None
    decision: Drawing | None = None
    effects: Drawing | None = None


def draw_study(result: StudyFiles) -> StudyGallery:
    """Every figure that the study has something for."""
    if not result.trials:
        return StudyGallery()
    with drawing():
        return StudyGallery(
            _history(result),
            _front(result),
            _importance(result),
            _agreement(result),
            _minutes(result),
            decision_figure(result),
            effects_drawing(result),
        )


def _head(result: StudyFiles, title: str, subtitle: str = "") -> Head:
    return Head(title, subtitle, simulated=result.marked)


def kind_of(result: StudyFiles, trial: Mapping[str, Any]) -> str:
    """The kind of mark that a trial has in a figure."""
    if trial.get("failure") is not None or not trial.get("values"):
        return "failed"
    if trial is result.best:
        return "best"
    if trial.get("origin") == "default":
        return "default"
    if trial.get("status") == "stopped":
        return "stopped"
    return "counts" if feasible(trial) else "broken"


def _tip(trial: Mapping[str, Any], *names: str) -> str:
    point = [f"{name} {value}" for name, value in (trial.get("point") or {}).items()]
    code = "page_tuning.tip.extrapolated" if trial.get("status") == "stopped" else "page_tuning.tip.value"
    values = [localized(code, objective=metric_name(name), value=value_of(trial, name)) for name in names]
    return localized(
        "page_tuning.tip.trial",
        trial=trial.get("number"),
        values=values,
        point=point or [localized("page_tuning.tip.default")],
    )


def _history(result: StudyFiles) -> Drawing:
    name, direction = str(result.objectives[0]["name"]), result.objectives[0].get("direction")
    marks = [
        Mark(float(trial.get("number") or 0), value_of(trial, name), _tip(trial, name), kind_of(result, trial))
        for trial in result.trials
    ]
    best = list(_best_so_far(result, name, maximise=direction != "minimise"))
    head = _head(
        result,
        localized("page_tuning.history.title", objective=_with_unit(name)),
        localized("page_tuning.history.less" if direction == "minimise" else "page_tuning.history.more"),
    )
    figure = search.history(marks, best, _with_unit(name), head)
    failed = sum(mark.kind == "failed" for mark in marks)
    words = localized("page_tuning.history.count", trials=len(marks), failed=failed, count=len(marks))
    if best:
        ends = {"first": best[0][1], "last": best[-1][1]}
        words = paragraph((words, localized("page_tuning.history.best", objective=metric_name(name), **ends)))
    return drawn(figure, "history", head, words, localized("page_tuning.history.caption"))


def _best_so_far(result: StudyFiles, name: str, *, maximise: bool) -> Iterator[tuple[float, float]]:
    best = math.nan
    for trial in result.trials:
        value = value_of(trial, name)
        better = value > best if maximise else value < best
        if feasible(trial) and math.isfinite(value) and (math.isnan(best) or better):
            best = value
            yield float(trial.get("number") or 0), best


def _front(result: StudyFiles) -> Drawing | None:
    if len(result.objectives) < 2:
        return None
    first, second = (str(objective["name"]) for objective in result.objectives[:2])
    front = set(result.content.get("front") or ())
    marks = []
    for trial in result.trials:
        kind = "best" if trial.get("number") in front else kind_of(result, trial)
        if kind != "failed":
            marks.append(Mark(value_of(trial, first), value_of(trial, second), _tip(trial, first, second), kind))
    if not marks:
        return None
    chosen = [(mark.x, mark.y) for mark in marks if mark.kind == "best"]
    head = _head(result, localized("page_tuning.front.title"), localized("page_tuning.front.subtitle"))
    figure = search.plane(marks, chosen, (_with_unit(first), _with_unit(second)), head)
    words = localized(
        "page_tuning.front.description",
        front=len(chosen),
        trials=len(marks),
        count=len(chosen),
        first=metric_name(first),
        second=metric_name(second),
    )
    return drawn(figure, "front", head, words, localized("page_tuning.front.caption"))


def _with_unit(name: str) -> str:
    """An objective's name with the unit of its values, where it has one."""
    unit = unit_of(name)
    return localized("page_tuning.with_unit", objective=metric_name(name), unit=unit) if unit else metric_name(name)


def _share(row: Mapping[str, Any]) -> Share:
    share, low, high, chance = (float(row.get(key) or 0) for key in ("share", "low", "high", "chance"))
    return Share(str(row.get("name")), share, low, high, chance, bool(row.get("shown")))


def _importance(result: StudyFiles) -> Drawing | None:
    rows = [_share(row) for row in result.content.get("importance") or ()]
    if not rows:
        return None
    head = _head(result, localized("page_tuning.importance.figure"), localized("page_tuning.importance.subtitle"))
    texts = [
        localized(
            "page_tuning.importance.row" if row.shown else "page_tuning.importance.row_noise",
            name=row.name,
            share=row.share,
        )
        for row in rows
    ]
    words = localized("page_tuning.importance.description", rows=texts)
    return drawn(search.shares(rows, head), "importance", head, words, localized("page_tuning.importance.caption"))


def _agreement(result: StudyFiles) -> Drawing | None:
    name = str(result.objectives[0]["name"])
    predictions = [(trial, (trial.get("twin") or {}).get(name)) for trial in result.trials]
    marks = [
        Mark(float(predicted), value_of(trial, name), _tip(trial, name), kind_of(result, trial))
        for trial, predicted in predictions
        if isinstance(predicted, int | float) and math.isfinite(value_of(trial, name))
    ]
    if len(marks) < _FEWEST_PREDICTED:
        return None
    subtitle = localized("page_tuning.agreement.subtitle", objective=metric_name(name))
    head = _head(result, localized("page_tuning.agreement.title"), subtitle)
    words = agreement_words(result.content.get("screening") or {}, len(marks))
    return drawn(search.agreement(marks, head), "agreement", head, words, words)


def agreement_words(screening: Mapping[str, Any], count: int) -> str:
    """The agreement of the simulator's order of the trials with the measured one, with its interval."""
    tau, low, high = (screening.get(key) for key in ("tau", "low", "high"))
    if tau is None or low is None or high is None:
        pairs = screening.get("pairs", count)
        return localized("page_tuning.agreement.too_few", pairs=pairs, count=pairs)
    trusted = screening.get("trusted", True)
    code = "page_tuning.agreement.trusted" if trusted else "page_tuning.agreement.distrusted"
    ends = {name: significant(value, 2) for name, value in (("tau", tau), ("low", low), ("high", high))}
    return localized(code, pairs=screening.get("pairs"), **ends)


def _minutes(result: StudyFiles) -> Drawing | None:
    rows = [
        Spent(str(trial.get("number")), *(float((trial.get("minutes") or {}).get(part) or 0) for part in _PARTS))
        for trial in result.trials
    ]
    if not any(row.start + row.load + row.other > 0 for row in rows):
        return None
    totals = spent(rows)
    subtitle = localized("page_tuning.time.subtitle", total=sum(totals.values()))
    head = _head(result, localized("page_tuning.time.heading"), subtitle)
    words = localized("page_tuning.time.description", **totals)
    return drawn(search.minutes(rows, head), "minutes", head, words, words)


_PARTS = ("start", "load", "other")


def spent(rows: Sequence[Spent]) -> dict[str, float]:
    """The minutes of all trials by what they went into."""
    return {
        "start": sum(row.start for row in rows),
        "load": sum(row.load for row in rows),
        "other": sum(row.other for row in rows),
    }
