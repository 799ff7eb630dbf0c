"""Which figures does a tuning study have?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.results.study import StudyFiles, feasible, value_of
from harness.units import format_share, significant
from reports.drawing import Drawing, drawn
from reports.figures import search
from reports.figures.search import Mark, Share, Spent
from reports.figures.style import Head, drawing
from reports.tuning_tables import plain_unit

_FEWEST_SAID = 2  # points of what the twin said that make a figure


@dataclass(frozen=True, slots=True)
class StudyGallery:
    """The figures of a study's page; None where there is nothing to draw."""

    history: Drawing | None = None
    front: Drawing | None = None
    importance: Drawing | None = None
    agreement: Drawing | None = None
    minutes: Drawing | None = None


def draw_study(result: StudyFiles) -> StudyGallery:
    """Every figure that the study has something for."""
    if not result.trials:
        return StudyGallery()
    with drawing():
        return StudyGallery(_history(result), _front(result), _importance(result), _agreement(result), _minutes(result))


def _head(result: StudyFiles, title: str, subtitle: str = "") -> Head:
    return Head(title, subtitle, simulated=result.marked)


def kind_of(result: StudyFiles, trial: Mapping[str, Any]) -> str:
    """How a trial stands in a figure."""
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
    point = ", ".join(f"{name} {value}" for name, value in (trial.get("point") or {}).items())
    taken = " (extrapolated)" if trial.get("status") == "stopped" else ""
    values = ", ".join(f"{name} {significant(value_of(trial, name))}{taken}" for name in names)
    return f"trial {trial.get('number')}: {values} ({point or 'the default'})"


def _history(result: StudyFiles) -> Drawing:
    name, direction = str(result.objectives[0]["name"]), result.objectives[0].get("direction")
    marks = [
        Mark(float(trial.get("number") or 0), value_of(trial, name), _tip(trial, name), kind_of(result, trial))
        for trial in result.trials
    ]
    best = list(_best_so_far(result, name, maximise=direction != "minimise"))
    more = "more" if direction != "minimise" else "less"
    head = _head(
        result,
        f"{_with_unit(name)} of every trial",
        f"{more} is better; the line is the best so far that keeps every limit",
    )
    figure = search.history(marks, best, "", head)
    failed = sum(mark.kind == "failed" for mark in marks)
    said = f"{len(marks)} trials, {failed} failed."
    if best:
        said += f" The best {name} went from {significant(best[0][1])} to {significant(best[-1][1])}."
    return drawn(figure, "history", head, said, _HISTORY)


_HISTORY = (
    "Filled: measured in full; ringed grey: stopped early, since it could not win; ringed red: a limit is broken; "
    "crosses: failed, or never started; the diamond is the default, the large dot the best."
)


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
    one, other = (str(objective["name"]) for objective in result.objectives[:2])
    front = set(result.told.get("front") or ())
    marks = []
    for trial in result.trials:
        kind = "best" if trial.get("number") in front else kind_of(result, trial)
        if kind != "failed":
            marks.append(Mark(value_of(trial, one), value_of(trial, other), _tip(trial, one, other), kind))
    if not marks:
        return None
    chosen = [(mark.x, mark.y) for mark in marks if mark.kind == "best"]
    head = _head(result, "Pareto front", "large dots: no other trial is better in every objective")
    figure = search.plane(marks, chosen, (_with_unit(one), _with_unit(other)), head)
    said = f"{len(chosen)} of {len(marks)} trials are on the front of {one} and {other}."
    return drawn(figure, "front", head, said, _FRONT)


_FRONT = (
    "Large dots joined: the front. Ringed grey: stopped early, since it could not win; ringed red: a limit is broken; "
    "the diamond is the default. Hover over a dot for its configuration."
)


def _with_unit(name: str) -> str:
    """An objective's name with the unit of its values, where it has one."""
    unit = plain_unit(name)
    return f"{name}, {unit}" if unit else name


def _share(row: Mapping[str, Any]) -> Share:
    share, low, high, chance = (float(row.get(key) or 0) for key in ("share", "low", "high", "chance"))
    return Share(str(row.get("name")), share, low, high, chance, bool(row.get("shown")))


def _importance(result: StudyFiles) -> Drawing | None:
    rows = [_share(row) for row in result.told.get("importance") or ()]
    if not rows:
        return None
    head = _head(result, "Importance", "share of the variance that each parameter explains alone")
    said = "; ".join(
        f"{row.name} {format_share(row.share)}{'' if row.shown else ', not told from chance'}" for row in rows
    )
    return drawn(search.shares(rows, head), "importance", head, f"{said}.", _IMPORTANCE)


_IMPORTANCE = (
    "Bars with 90 % intervals; the dashed mark is what a parameter without any effect stays below in 95 of 100 "
    "studies. Grey: not told from chance by these trials."
)


def _agreement(result: StudyFiles) -> Drawing | None:
    name = str(result.objectives[0]["name"])
    said = [(trial, (trial.get("twin") or {}).get(name)) for trial in result.trials]
    marks = [
        Mark(float(told), value_of(trial, name), _tip(trial, name), kind_of(result, trial))
        for trial, told in said
        if isinstance(told, int | float) and math.isfinite(value_of(trial, name))
    ]
    if len(marks) < _FEWEST_SAID:
        return None
    head = _head(result, "Predicted and measured", f"{name}; only the order counts")
    words = agreement_words(result.told.get("screening") or {}, len(marks))
    return drawn(search.agreement(marks, head), "agreement", head, words, words)


def agreement_words(screening: Mapping[str, Any], count: int) -> str:
    """How well the twin ordered the trials, with its interval."""
    tau, low, high = (screening.get(key) for key in ("tau", "low", "high"))
    if tau is None or low is None or high is None:
        return f"{screening.get('pairs', count)} trials are too few to tell whether the twin orders them rightly."
    kept = "it was listened to to the end" if screening.get("trusted", True) else "it was no longer listened to"
    interval = f"95 % CI {significant(low, 2)} to {significant(high, 2)}"
    return (
        f"Kendall's rank correlation {significant(tau, 2)} ({interval}) over {screening.get('pairs')} engines; {kept}."
    )


def _minutes(result: StudyFiles) -> Drawing | None:
    rows = [
        Spent(str(trial.get("number")), *(float((trial.get("minutes") or {}).get(part) or 0) for part in _PARTS))
        for trial in result.trials
    ]
    if not any(row.start + row.load + row.other > 0 for row in rows):
        return None
    totals = spent(rows)
    head = _head(result, "Where each minute went", f"minutes a trial; {significant(sum(totals.values()))} in all")
    said = ", ".join(f"{significant(total)} minutes {what}" for what, total in totals.items())
    return drawn(search.minutes(rows, head), "minutes", head, f"{said}.", f"{said}.")


_PARTS = ("start", "load", "other")


def spent(rows: Sequence[Spent]) -> dict[str, float]:
    """The minutes of all trials by what they went into."""
    return {
        "starting engines": sum(row.start for row in rows),
        "under load": sum(row.load for row in rows),
        "otherwise": sum(row.other for row in rows),
    }
