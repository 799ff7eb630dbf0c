"""The tables of a study's page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.messages import Message, localized, stored
from harness.results.study import StudyFiles, feasible, measured_value, value_of
from harness.scenario.study import UNITS
from harness.units import format_duration, format_rate, significant
from reports.tables import Cell
from reports.texts import listed

_MINUTE_S = 60.0
_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_NAMES = {
    "throughput": "page_tuning.metric.throughput",
    "total_throughput": "page_tuning.metric.total_throughput",
    "request_rate": "page_tuning.metric.request_rate",
    "goodput": "page_tuning.metric.goodput",
    "capacity": "page_tuning.metric.capacity",
    "throughput_per_card": "page_tuning.metric.throughput_per_card",
    "total_throughput_per_card": "page_tuning.metric.total_throughput_per_card",
    "request_rate_per_card": "page_tuning.metric.request_rate_per_card",
    "goodput_per_card": "page_tuning.metric.goodput_per_card",
    "capacity_per_card": "page_tuning.metric.capacity_per_card",
}
_ORIGINS = {
    "default": "page_tuning.origin.default",
    "screened": "page_tuning.origin.screened",
    "spread": "page_tuning.origin.spread",
    "sampler": "page_tuning.origin.sampler",
    "model": "page_tuning.origin.model",
    "topology": "page_tuning.origin.topology",
}
_STATUSES = {
    "complete": "page_tuning.status.complete",
    "stopped": "page_tuning.status.stopped",
    "failed": "page_tuning.status.failed",
}
_FAILURES = {
    "configuration": "page_tuning.failures.configuration",
    "device": "page_tuning.failures.device",
    "out_of_memory_at_start": "page_tuning.failures.oom_start",
    "out_of_memory_at_capture": "page_tuning.failures.oom_capture",
    "out_of_memory_at_run": "page_tuning.failures.oom_run",
    "port": "page_tuning.failures.port",
    "timeout": "page_tuning.failures.timeout",
    "crash": "page_tuning.failures.crash",
    "slo_missed": "page_tuning.failures.slo_missed",
}
_BUDGETS = {
    "trials": "page_tuning.study.budget_trials",
    "minutes": "page_tuning.study.budget_minutes",
    "starts": "page_tuning.study.budget_starts",
}


def _named(name: str, codes: Mapping[str, str]) -> str:
    """A word of the study by its code; without one as it is, in words."""
    return localized(codes[name]) if name in codes else name.replace("_", " ")


def metric_name(name: str) -> str:
    """The name of a study's metric; its key, such as `ttft_p99`, where it has no name of its own."""
    return localized(_NAMES[name]) if name in _NAMES else name


def value_text(name: str, value: float) -> str:
    """A metric's value with its unit where it has one."""
    if not math.isfinite(value):
        return "–"
    if name.partition("_")[0] in _LATENCIES:
        return format_duration(value)
    return format_rate(value, UNITS[name]) if name in UNITS else significant(value)


def value_parts(name: str, value: float) -> tuple[str, str]:
    """A metric's value, and its unit."""
    number, _, unit = value_text(name, value).partition(" ")
    return number, unit


def trial_heads(result: StudyFiles) -> tuple[str | Cell, ...]:
    """The columns of the table of trials; those of parameters have names from outside."""
    named = (Cell(name, foreign=True) for name in parameters(result))
    objectives = (metric_name(str(objective["name"])) for objective in result.objectives)
    ends = (localized("page.result"), localized("page_tuning.trials.minutes"))
    return (localized("page_tuning.trials.trial"), *named, *objectives, *ends)


def parameters(result: StudyFiles) -> tuple[str, ...]:
    """The parameters that were searched, in the order of the study."""
    named = [str(parameter["name"]) for parameter in result.content.get("parameters") or ()]
    return tuple(dict.fromkeys([*named, *(name for trial in result.trials for name in trial.get("point") or {})]))


def trial_rows(result: StudyFiles) -> list[list[Cell]]:
    """Every trial: requested and effective settings, its values, its result, its minutes."""
    return [_trial_row(result, trial) for trial in result.trials]


def _trial_row(result: StudyFiles, trial: Mapping[str, Any]) -> list[Cell]:
    minutes = sum(float(value or 0) for value in (trial.get("minutes") or {}).values())
    names = [str(objective["name"]) for objective in result.objectives]
    return [
        Cell(str(trial.get("number")), _named(str(trial.get("origin") or ""), _ORIGINS)),
        *(_parameter_cell(trial, name) for name in parameters(result)),
        *(_value_cell(trial, name) for name in names),
        _outcome(result, trial),
        Cell(format_duration(minutes * _MINUTE_S) if minutes else "–"),
    ]


_VERDICTS = {
    "measured": "page_tuning.topology.tried",
    "skipped": "page_tuning.topology.skipped",
    "refused": "page_tuning.topology.refused",
    "failed": "page_tuning.topology.failed",
    "left": "page_tuning.topology.left",
}


def topology_heads(result: StudyFiles) -> tuple[str, ...]:
    """The columns of the table of topologies."""
    objective = metric_name(str(result.objectives[0]["name"]))
    measured = localized("page_tuning.topology.measured", objective=objective)
    name, cards = localized("page_tuning.topology.name"), localized("page_tuning.topology.cards")
    return name, cards, measured, localized("page_tuning.topology.predicted"), localized("page.result")


def topology_rows(result: StudyFiles) -> list[list[Cell]]:
    """Every topology of the study, the best first."""
    rows = result.content.get("topologies") or ()
    return [_topology_row(str(result.objectives[0]["name"]), row, best=place == 0) for place, row in enumerate(rows)]


def _topology_row(name: str, row: Mapping[str, Any], *, best: bool) -> list[Cell]:
    values = (row.get("value"), row.get("predicted"))
    measured, predicted = ("–" if value is None else value_text(name, float(value)) for value in values)
    tried = row.get("verdict") == "measured"
    outcome = localized("page_tuning.topology.best") if best and tried else _named(str(row.get("verdict")), _VERDICTS)
    why = localized(stored(row.get("reason"), str(row.get("why")))) if row.get("why") else ""
    trial = localized("page_tuning.confirmation.trial", trial=row.get("trial")) if row.get("trial") is not None else why
    return [Cell(str(row.get("name")), foreign=True), Cell(str(row.get("cards"))), Cell(measured), Cell(predicted),
            Cell(outcome, trial)]  # fmt: skip


def _value_cell(trial: Mapping[str, Any], name: str) -> Cell:
    """A trial's value; of one that was stopped early what it had shown, and below it what that was taken to become."""
    text = value_text(name, value_of(trial, name))
    if trial.get("status") != "stopped":
        return Cell(text)
    below = localized("page_tuning.trials.extrapolated", value=text) if math.isfinite(value_of(trial, name)) else ""
    return Cell(value_text(name, measured_value(trial, name)), below)


def _parameter_cell(trial: Mapping[str, Any], name: str) -> Cell:
    """The requested value, and below it the effective one where that differs."""
    point, effective = trial.get("point") or {}, trial.get("effective") or {}
    became = effective.get(name)
    if name not in point:
        if became is None:
            return Cell("–", foreign=True)
        return Cell(str(became), localized("page_tuning.trials.by_default"), foreign=True)
    changed = became is not None and str(became) != str(point[name])
    return Cell(
        str(point[name]), localized("page_tuning.trials.became", value=str(became)) if changed else "", foreign=True
    )


def _outcome(result: StudyFiles, trial: Mapping[str, Any]) -> Cell:
    failure = trial.get("failure")
    if failure:
        kind = _named(str(failure.get("kind", "failed")), _FAILURES | _STATUSES)
        return Cell(kind, failure_words(failure), "bad", quoted=not failure.get("message"))
    broken = {name: value for name, value in (trial.get("violations") or {}).items() if (value or 0) > 0}
    if broken:
        over = listed([_over(name, value) for name, value in broken.items()], "parts")
        return Cell(localized("page_tuning.trials.limit_broken"), over, "bad")
    if trial.get("status") == "stopped":
        return Cell(localized("page_tuning.trials.stopped_early"), localized("page_tuning.trials.could_not_win"))
    answer = localized(stored(trial.get("answer_message"), str(trial.get("answer") or "")))
    if trial is result.chosen or (trial is result.best and not result.confirmation):
        code = "page_tuning.trials.winner" if trial is result.chosen else "page_tuning.trials.best"
        return Cell(localized(code), answer, tone="good")
    if not feasible(trial):
        return Cell(_named(str(trial.get("status") or "–"), _STATUSES), answer)
    code = "page_tuning.trials.best_single" if trial is result.best else "page_tuning.trials.measured"
    return Cell(localized(code), answer)


def _over(name: str, violation: float) -> str:
    if violation < 1e6:
        return localized("page_tuning.trials.over", metric=metric_name(name), share=violation)
    return localized("page_tuning.trials.unbounded", metric=metric_name(name))


def failure_words(failure: Mapping[str, Any]) -> str:
    """What was said of a failure: the engine's own words, or ours in the current language."""
    line = str(failure.get("line") or "")
    return localized(stored(failure["message"], line)) if failure.get("message") else line


def failure_rows(result: StudyFiles) -> list[list[Cell]]:
    """Causes of failure with their counts, the trials, and the engine's own words."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for trial in result.trials:
        if trial.get("failure"):
            by_kind.setdefault(str(trial["failure"].get("kind")), []).append(trial)
    return [
        [
            Cell(_named(kind, _FAILURES)),
            Cell(str(len(trials))),
            Cell(", ".join(str(trial.get("number")) for trial in trials)),
            Cell(failure_words(trials[0]["failure"]) or "–", foreign=not trials[0]["failure"].get("message")),
        ]
        for kind, trials in sorted(by_kind.items(), key=lambda pair: -len(pair[1]))
    ]


def confirmation_rows(result: StudyFiles) -> Iterator[list[Cell]]:
    """The finalists that were run again: what each gained over the default, its worst run, and the limits it broke."""
    confirmation = result.confirmation
    name = str(result.objectives[0]["name"])
    values: Mapping[str, Sequence[Any]] = confirmation.get("values") or {}
    for place, finalist in enumerate(confirmation.get("entrants") or ()):
        gain = (confirmation.get("gains") or {}).get(str(place)) or {}
        broken = list((confirmation.get("broken") or {}).get(str(place)) or ())
        number = finalist.get("trial")
        yield [
            _entrant_cell(number, chosen=place == confirmation.get("choice")),
            Cell(localized(gain_message(gain)), tone="good" if gain.get("shown") else "plain"),
            Cell(value_text(name, _worst(result, values.get(str(place)) or ()))),
            Cell(str(len(values.get(str(place)) or ()))),
            Cell(
                localized("page_tuning.confirmation.broke", limits=broken) if broken else "",
                tone="bad" if broken else "plain",
            ),
        ]


def gain_message(gain: Mapping[str, Any]) -> Message:
    """The gain over the default, as the study words it."""
    return stored(gain.get("message"), str(gain.get("words") or "–"))


def _entrant_cell(trial: int | None, *, chosen: bool) -> Cell:
    name = localized("page_tuning.confirmation.default")
    if trial is not None:
        name = localized("page_tuning.confirmation.trial", trial=trial)
    return Cell(name, localized("page_tuning.confirmation.chosen") if chosen else "")


def _worst(result: StudyFiles, values: Sequence[Any]) -> float:
    """The worst value of some rounds; NaN where one of them has none."""
    known = [float(value) for value in values if isinstance(value, int | float)]
    if not known or len(known) < len(values):
        return math.nan
    return max(known) if result.objectives[0].get("direction") == "minimise" else min(known)


def fact_rows(result: StudyFiles) -> list[tuple[str, str]]:
    """Facts about the study: objectives, limits, budget, seed and engine starts."""
    contents = result.content
    study = contents.get("study") or {}
    budget = [_budget_text(name, value) for name, value in (study.get("budget") or {}).items() if value]
    limits = [_limit_text(limit) for limit in contents.get("limits") or ()]
    objectives = [_objective_text(objective) for objective in result.objectives]
    rows = [
        (localized("page_tuning.study.objectives"), listed(objectives)),
        (localized("page_tuning.study.limits"), listed(limits)),
        (localized("page_tuning.study.budget"), listed(budget)),
        (localized("page.again.seed"), str(study.get("seed", ""))),
        (localized("page_tuning.study.starts"), str(result.starts)),
    ]
    return [(name, value) for name, value in rows if value]


def _objective_text(objective: Mapping[str, Any]) -> str:
    minimise = objective.get("direction") == "minimise"
    code = "page_tuning.study.minimise" if minimise else "page_tuning.study.maximise"
    return localized(code, objective=metric_name(str(objective["name"])))


def _budget_text(name: str, value: float) -> str:
    if name in _BUDGETS:
        return localized(_BUDGETS[name], value=value, count=value)
    return localized("page_tuning.study.budget_other", value=value, name=name)


def _limit_text(limit: Mapping[str, Any]) -> str:
    name = str(limit.get("name"))
    if limit.get("most") is not None:
        return f"{name} ≤ {value_text(name, float(limit['most']))}"
    return f"{name} ≥ {value_text(name, float(limit['least']))}" if limit.get("least") is not None else name


def space_rows(result: StudyFiles) -> list[list[Cell]]:
    """The parameters that were searched, their ranges, and the values of the default, the best and the chosen trial."""
    return [
        [
            Cell(str(parameter["name"]), foreign=True),
            Cell(_range_text(parameter), foreign=parameter.get("kind") == "choice"),
            *(Cell(_value_in(trial, str(parameter["name"])), foreign=True) for trial in (result.default, result.best)),
        ]
        for parameter in result.content.get("parameters") or ()
    ]


def _range_text(parameter: Mapping[str, Any]) -> str:
    if parameter.get("kind") == "choice":
        return ", ".join(map(str, parameter.get("values") or ()))
    code = "page_tuning.study.log" if parameter.get("log") else "page_tuning.study.linear"
    return localized(code, low=float(parameter.get("low", 0)), high=float(parameter.get("high", 0)))


def _value_in(trial: Mapping[str, Any] | None, name: str) -> str:
    if trial is None:
        return "–"
    return str((trial.get("point") or {}).get(name, (trial.get("effective") or {}).get(name, "–")))
