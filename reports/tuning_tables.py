"""Which tables does a study's page have?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.results.study import StudyFiles, feasible, measured_value, value_of
from harness.units import format_duration, format_rate, format_share, significant
from reports.tables import Cell

_MINUTE_S = 60.0
_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_RATES = {
    "throughput": "tokens/s",
    "total_throughput": "tokens/s",
    "request_rate": "req/s",
    "goodput": "req/s",
    "capacity": "req/s",
}


def value_text(name: str, value: float) -> str:
    """A metric's value with its unit where it has one."""
    if not math.isfinite(value):
        return "–"
    if name.partition("_")[0] in _LATENCIES:
        return format_duration(value)
    return format_rate(value, _RATES[name]) if name in _RATES else significant(value)


def plain_unit(name: str) -> str:
    """The unit in which a metric's values are kept; empty where it has none."""
    return "s" if name.partition("_")[0] in _LATENCIES else _RATES.get(name, "")


def value_parts(name: str, value: float) -> tuple[str, str]:
    """A metric's value, and its unit."""
    number, _, unit = value_text(name, value).partition(" ")
    return number, unit


def trial_heads(result: StudyFiles) -> tuple[str | Cell, ...]:
    """The columns of the table of trials; those of parameters have names from outside."""
    named = (Cell(name, foreign=True) for name in parameters(result))
    return ("Trial", *named, *(str(one["name"]) for one in result.objectives), "Result", "Minutes")


def parameters(result: StudyFiles) -> tuple[str, ...]:
    """The parameters that were searched, in the order of the study."""
    named = [str(one["name"]) for one in result.told.get("parameters") or ()]
    return tuple(dict.fromkeys([*named, *(name for trial in result.trials for name in trial.get("point") or {})]))


def trial_rows(result: StudyFiles) -> list[list[Cell]]:
    """Every trial: what was asked and what that became, its values, its result, its minutes."""
    return [_trial_row(result, trial) for trial in result.trials]


def _trial_row(result: StudyFiles, trial: Mapping[str, Any]) -> list[Cell]:
    minutes = sum(float(value or 0) for value in (trial.get("minutes") or {}).values())
    names = [str(one["name"]) for one in result.objectives]
    return [
        Cell(str(trial.get("number")), str(trial.get("origin") or "")),
        *(_asked(trial, name) for name in parameters(result)),
        *(_value_cell(trial, name) for name in names),
        _outcome(result, trial),
        Cell(format_duration(minutes * _MINUTE_S) if minutes else "–"),
    ]


def _value_cell(trial: Mapping[str, Any], name: str) -> Cell:
    """A trial's value; of one that was stopped early what it had shown, and below it what that was taken to become."""
    told = value_text(name, value_of(trial, name))
    if trial.get("status") != "stopped":
        return Cell(told)
    return Cell(value_text(name, measured_value(trial, name)), f"extrapolated: {told}" if told != "–" else "")


def _asked(trial: Mapping[str, Any], name: str) -> Cell:
    """The asked value, and below it what it became where that differs."""
    point, effective = trial.get("point") or {}, trial.get("effective") or {}
    became = effective.get(name)
    if name not in point:
        return Cell("–" if became is None else str(became), "" if became is None else "by default", foreign=True)
    changed = became is not None and str(became) != str(point[name])
    return Cell(str(point[name]), f"became {became}" if changed else "", foreign=True)


def _outcome(result: StudyFiles, trial: Mapping[str, Any]) -> Cell:
    failure = trial.get("failure")
    if failure:
        kind = str(failure.get("kind", "failed")).replace("_", " ")
        return Cell(kind, str(failure.get("line") or ""), "bad", quoted=True)
    broken = {name: value for name, value in (trial.get("violations") or {}).items() if (value or 0) > 0}
    if broken:
        return Cell("limit broken", "; ".join(_over(name, value) for name, value in broken.items()), "bad")
    if trial.get("status") == "stopped":
        return Cell("stopped early", "could not win")
    answer = str(trial.get("answer") or "")
    if trial is result.chosen or (trial is result.best and not result.confirmation):
        return Cell("best" if trial is not result.chosen else "winner", answer, tone="good")
    measured = "best single run" if trial is result.best else "measured"
    return Cell(measured if feasible(trial) else str(trial.get("status") or "–"), answer)


def _over(name: str, violation: float) -> str:
    return f"{name} {format_share(violation)} over" if violation < 1e6 else f"{name} has no end"


def failure_rows(result: StudyFiles) -> list[list[Cell]]:
    """Causes of failure with their counts, the trials, and the engine's own words."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for trial in result.trials:
        if trial.get("failure"):
            by_kind.setdefault(str(trial["failure"].get("kind")), []).append(trial)
    return [
        [
            Cell(kind.replace("_", " ")),
            Cell(str(len(found))),
            Cell(", ".join(str(trial.get("number")) for trial in found)),
            Cell(str(found[0]["failure"].get("line") or "–"), foreign=True),
        ]
        for kind, found in sorted(by_kind.items(), key=lambda pair: -len(pair[1]))
    ]


def confirmation_rows(result: StudyFiles) -> Iterator[list[Cell]]:
    """Who was run again, what it gained over the default, its worst run, and what it broke."""
    told = result.confirmation
    name = str(result.objectives[0]["name"])
    values: Mapping[str, Sequence[Any]] = told.get("values") or {}
    for who, entrant in enumerate(told.get("entrants") or ()):
        gain = (told.get("gains") or {}).get(str(who)) or {}
        broken = ", ".join((told.get("broken") or {}).get(str(who)) or ())
        number = entrant.get("trial")
        yield [
            Cell("default" if number is None else f"trial {number}", "chosen" if who == told.get("choice") else ""),
            Cell(str(gain.get("words") or "–"), tone="good" if gain.get("shown") else "plain"),
            Cell(value_text(name, _worst(result, values.get(str(who)) or ()))),
            Cell(str(len(values.get(str(who)) or ()))),
            Cell(f"broke {broken}" if broken else "", tone="bad" if broken else "plain"),
        ]


def _worst(result: StudyFiles, values: Sequence[Any]) -> float:
    """The worst value of some rounds; NaN where one of them has none."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    if not known or len(known) < len(values):
        return math.nan
    return max(known) if result.objectives[0].get("direction") == "minimise" else min(known)


def fact_rows(result: StudyFiles) -> list[tuple[str, str]]:
    """What the study was, in short."""
    told = result.told
    study = told.get("study") or {}
    budget = ", ".join(f"{value:g} {name}" for name, value in (study.get("budget") or {}).items() if value)
    limits = ", ".join(_limit_text(limit) for limit in told.get("limits") or ())
    rows = [
        ("objectives", ", ".join(f"{one['name']} ({one.get('direction', 'maximise')})" for one in result.objectives)),
        ("limits", limits),
        ("budget", budget),
        ("seed", str(study.get("seed", ""))),
        ("engine starts", str(result.starts)),
    ]
    return [(name, value) for name, value in rows if value]


def _limit_text(limit: Mapping[str, Any]) -> str:
    name = str(limit.get("name"))
    if limit.get("most") is not None:
        return f"{name} ≤ {value_text(name, float(limit['most']))}"
    return f"{name} ≥ {value_text(name, float(limit['least']))}" if limit.get("least") is not None else name


def space_rows(result: StudyFiles) -> list[list[Cell]]:
    """The parameters that were searched, their ranges, and the values of the default, the best and the chosen trial."""
    return [
        [
            Cell(str(one["name"]), foreign=True),
            Cell(_range_text(one), foreign=one.get("kind") == "choice"),
            *(Cell(_value_in(trial, str(one["name"])), foreign=True) for trial in (result.default, result.best)),
        ]
        for one in result.told.get("parameters") or ()
    ]


def _range_text(one: Mapping[str, Any]) -> str:
    if one.get("kind") == "choice":
        return ", ".join(map(str, one.get("values") or ()))
    return f"{one.get('low', 0):g} to {one.get('high', 0):g}{', by factors' if one.get('log') else ''}"


def _value_in(trial: Mapping[str, Any] | None, name: str) -> str:
    if trial is None:
        return "–"
    return str((trial.get("point") or {}).get(name, (trial.get("effective") or {}).get(name, "–")))
