"""The page of a tuning study: one HTML file."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.messages import Message, Parameter, localized, message, stored
from harness.results.study import StudyFiles, feasible, read_study, value_of
from harness.units import significant
from reports import tuning_flags as flags
from reports import tuning_tables as tables
from reports.assets import page_script
from reports.glossary import TERMS
from reports.headline import Badge, Card, WarningGroup
from reports.page import PAGE, environment, moment
from reports.texts import listed, markup, paragraph, write_text
from reports.tuning_figures import draw_study

_FEW_TRIALS = 6
_MANY_FAILURES = 0.25


def write(folder: Path) -> Path:
    """Draw report.html into a study's result folder; its path.

    Raises:
        ResultError: there is no study.json, or it is broken.
    """
    return write_text(folder / PAGE, render(read_study(folder)))


def render(result: StudyFiles) -> str:
    """The page of a study as HTML."""
    return environment().get_template("tuning.html").render(_context(result))


def _context(result: StudyFiles) -> dict[str, Any]:
    study = result.content
    return {
        "result": result,
        "simulated": result.marked,
        "colours": None,
        "study": {"name": "study", "question": "", "kind": "", "engine": {}} | dict(study),
        "ended": moment(str(study.get("finished_utc") or "")),
        "notes": _notes(result),
        **page_script(),
        "answer": answer(result),
        "badges": list(badges(result)),
        "warnings": [WarningGroup("warning", step, [("", text)]) for text, step in study_warnings(result)],
        "use_title": _use_title(result),
        "cards": list(cards(result)),
        "gallery": draw_study(result),
        "terms": {name: TERMS[name] for name in _names(result) if name in TERMS},
        "heads": tables.trial_heads(result),
        "trials": tables.trial_rows(result),
        "failures": tables.failure_rows(result),
        "confirmation": list(tables.confirmation_rows(result)),
        "space": tables.space_rows(result),
        "flag_heads": flags.flag_heads(result),
        "flag_rows": flags.flag_rows(result),
        "flag_lead": _flag_lead(result),
        "topology_heads": tables.topology_heads(result),
        "topology_rows": tables.topology_rows(result),
        "topology_lead": _topology_lead(result),
        "facts": tables.fact_rows(result),
        "commands": list(commands(result)),
    }


def _use_title(result: StudyFiles) -> str:
    """What the configuration is that the page shows first: one to use only where it was confirmed."""
    if result.confirmation:
        return localized("page_tuning.use.title")
    return localized("page_tuning.use.so_far" if result.content.get("interrupted") else "page_tuning.use.unconfirmed")


def _topology_lead(result: StudyFiles) -> str:
    """What the table of topologies holds; "" where there is none."""
    topology = (result.content.get("study") or {}).get("topology")
    return localized("page_tuning.topology.lead", cards=topology.get("cards")) if topology else ""


def _flag_lead(result: StudyFiles) -> str:
    """The rule by which flags were removed, and what that took."""
    part = result.simplification
    if not part:
        return ""
    if not part.get("measurements"):
        return localized("page_tuning.flags.unmeasured")
    most = int(part.get("most_measurements") or 0)
    words = {"margin": float(part.get("margin") or 0), "measurements": int(part.get("measurements") or 0)}
    lead = localized("page_tuning.flags.lead", most=most, minutes=float(part.get("minutes") or 0), **words)
    return paragraph((lead, localized("page_tuning.flags.spent"))) if part.get("spent") else lead


def commands(result: StudyFiles) -> Iterator[tuple[str, str]]:
    """The files of the chosen configuration, by name; the command alone where there are no files."""
    files = result.content.get("files") or {}
    command = (result.content.get("winner") or {}).get("command")
    if command and not any((result.folder / str(name)).is_file() for name in files.values()):
        yield localized("page_tuning.use.command"), shlex.join(map(str, command))
    yield from ((str(name), text) for name, file in files.items() if (text := _text_of(result.folder, str(file))))


def _text_of(folder: Path, name: str) -> str:
    """The content of a file beside the page; "" where there is none, or where its name leads out of the folder."""
    place = folder / name
    if place.parent != folder or not place.is_file():
        return ""
    return place.read_text(encoding="utf-8", errors="replace")


def _names(result: StudyFiles) -> list[str]:
    return [str(objective["name"]) for objective in result.objectives]


def _notes(result: StudyFiles) -> list[Markup]:
    study = result.content
    inert = [
        markup(
            "page_tuning.study.inert", name=str(row.get("name")), reason=stored(row.get("reason"), str(row.get("why")))
        )
        for row in study.get("dead") or ()
    ]
    kept = zip_longest(study.get("notes") or (), study.get("note_messages") or ())
    return list(dict.fromkeys([*inert, *(markup(stored(note, str(text))) for text, note in kept)]))


def answer(result: StudyFiles) -> str:
    """The result of the study in a sentence or two."""
    name = str(result.objectives[0]["name"])
    best, default = result.best, result.default
    if best is None:
        return localized("page_tuning.answer.none", trials=len(result.trials))
    if result.chosen is not None:
        return _confirmed(result)
    words = {"trial": best.get("number"), "objective": tables.metric_name(name)}
    words["value"] = tables.value_text(name, value_of(best, name))
    if default is not None and math.isfinite(value_of(default, name)):
        base = tables.value_text(name, value_of(default, name))
        return paragraph((localized("page_tuning.answer.best_and_default", **words, base=base), _confirmed(result)))
    return paragraph((localized("page_tuning.answer.best", **words), _confirmed(result)))


def _confirmed(result: StudyFiles) -> str:
    confirmation = result.confirmation
    if not confirmation and result.content.get("interrupted"):
        return localized("page_tuning.answer.interrupted")
    if not confirmation:
        return localized("page_tuning.answer.unconfirmed")
    gain = flags.shown_gain(result)
    if result.chosen is None or not gain:
        gains = [tables.gain_message(row) for row in (confirmation.get("gains") or {}).values()]
        return localized("page_tuning.answer.keep_default", gains=gains)
    taken = result.chosen.get("number")
    words: dict[str, Parameter] = {"gain": tables.gain_message(gain)}
    words["objective"] = tables.metric_name(str(result.objectives[0]["name"]))
    settings = flags.setting_texts(flags.flags_of(result, kept=True))
    if settings:
        return localized("page_tuning.answer.minimal", flags=settings, **words)
    again = localized("page_tuning.answer.confirmed", trial=taken, **words)
    if result.best is None or result.best.get("number") == taken:
        return again
    return paragraph((again, localized("page_tuning.answer.not_the_best", trial=result.best.get("number"))))


def badges(result: StudyFiles) -> Iterator[Badge]:
    """Whether a winner was confirmed, and how many trials failed."""
    confirmation = result.confirmation
    if result.chosen is not None:
        yield Badge(localized("page_tuning.badges.confirmed"), "good", "#confirmation")
    elif confirmation:
        yield Badge(localized("page_tuning.badges.same"), "warn", "#confirmation")
    else:
        interrupted = result.content.get("interrupted")
        code = "page_tuning.badges.interrupted" if interrupted else "page_tuning.badges.unconfirmed"
        yield Badge(localized(code), "warn", "#confirmation")
    failed = _failed(result)
    if failed:
        trials = len(result.trials)
        text = localized("page_tuning.badges.failed", failed=failed, trials=trials, count=trials)
        yield Badge(text, "bad", "#failures")


def _failed(result: StudyFiles) -> int:
    return sum(bool(trial.get("failure")) for trial in result.trials)


def study_warnings(result: StudyFiles) -> Iterator[tuple[Message, Message]]:
    """Warnings about the study, each with the next step."""
    compared = [trial for trial in result.trials if feasible(trial) or trial.get("status") == "stopped"]
    drift = result.confirmation.get("drift")
    if drift:
        yield stored(result.confirmation.get("drift_message"), str(drift)), message("page_tuning.warnings.rest")
    yield from _unconfirmed(result)
    for row in result.content.get("topologies") or ():
        if row.get("note"):
            yield stored(row.get("note_message"), str(row["note"])), message("page_tuning.warnings.fill_cards")
    if len(compared) < _FEW_TRIALS:
        text = message("page_tuning.warnings.few_trials", trials=len(compared), count=len(compared))
        yield text, message("page_tuning.warnings.more_trials")
    if result.trials and _failed(result) > _MANY_FAILURES * len(result.trials):
        trials = len(result.trials)
        text = message("page_tuning.warnings.failed", failed=_failed(result), trials=trials, count=trials)
        yield text, message("page_tuning.warnings.see_causes")


def _unconfirmed(result: StudyFiles) -> Iterator[tuple[Message, Message]]:
    """The reason why the winner was not confirmed, as far as the study holds it, and the next step."""
    wanted = ((result.content.get("study") or {}).get("confirm") or {}).get("best")
    if result.confirmation:
        return
    if result.content.get("interrupted"):
        code = "page_tuning.warnings.interrupted_confirmation" if wanted else "page_tuning.warnings.interrupted"
        yield message(code), message("page_tuning.warnings.resume")
    elif not wanted:
        yield message("page_tuning.warnings.not_compared"), message("page_tuning.warnings.set_confirm")
    elif result.content.get("confirmation"):
        yield message("page_tuning.warnings.no_candidate"), message("page_tuning.warnings.more_trials")
    else:
        yield message("page_tuning.warnings.not_compared"), message("page_tuning.warnings.resume")


def cards(result: StudyFiles) -> Iterator[Card]:
    """The key figures: best, default, and what they took."""
    for objective in result.objectives[:2]:
        name = str(objective["name"])
        best = "page_tuning.cards.best_single" if result.confirmation else "page_tuning.cards.best"
        if objective is result.objectives[0] and result.chosen is not None and flags.shown_gain(result).get("after"):
            yield from _gain_cards(name, flags.shown_gain(result))
            continue
        winner = (("page_tuning.cards.winner", result.chosen),) if result.chosen is not result.best else ()
        for code, trial in ((best, result.best), *winner, ("page_tuning.cards.default", result.default)):
            value = value_of(trial, name)
            if trial is not None and math.isfinite(value):
                note = localized("page_tuning.confirmation.trial", trial=trial.get("number"))
                label = localized(code, objective=tables.metric_name(name))
                yield Card(name, label, *tables.value_parts(name, value), note)
    minutes = result.minutes
    confirming = float((result.content.get("confirmation") or {}).get("minutes") or 0)
    simplifying = float(result.simplification.get("minutes") or 0)
    parts = (("page_tuning.cards.confirming", confirming), ("page_tuning.cards.simplifying", simplifying))
    of_them = listed([localized(code, minutes=part) for code, part in parts if part])
    yield Card("trials", localized("page_tuning.trials.title"), str(len(result.trials)), "", _statuses(result.trials))
    label, unit = localized("page_tuning.cards.engine_time"), localized("page_tuning.cards.minutes")
    yield Card("minutes", label, significant(minutes) if minutes else "–", unit, of_them)


def _gain_cards(name: str, gain: Mapping[str, Any]) -> Iterator[Card]:
    """The winner and the default as they were measured in turns."""
    rounds = localized("page_tuning.cards.rounds", rounds=gain.get("rounds"), count=gain.get("rounds"))
    for code, key in (("page_tuning.cards.winner", "after"), ("page_tuning.cards.default", "before")):
        label = localized(code, objective=tables.metric_name(name))
        yield Card(name, label, *tables.value_parts(name, float(gain[key])), rounds)


_STATUSES = {
    "complete": "page_tuning.counts.complete",
    "stopped": "page_tuning.counts.stopped",
    "failed": "page_tuning.counts.failed",
}


def _statuses(trials: Sequence[Any]) -> str:
    counts: dict[str, int] = {}
    for trial in trials:
        counts[str(trial.get("status"))] = counts.get(str(trial.get("status")), 0) + 1
    return listed([_status_count(status, trials) for status, trials in counts.items()])


def _status_count(status: str, trials: int) -> str:
    if status in _STATUSES:
        return localized(_STATUSES[status], trials=trials)
    return localized("page_tuning.counts.other", trials=trials, status=status)
