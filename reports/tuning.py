"""How does a tuning study become one HTML file?"""

import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.results.study import StudyFiles, feasible, read_study, value_of
from harness.units import significant
from reports import tuning_tables as tables
from reports.glossary import TERMS
from reports.headline import Card
from reports.page import PAGE, environment, moment, policy, script
from reports.tuning_figures import draw_study
from reports.verdict import Badge, WarningGroup
from reports.writing import write_text

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
    told = result.told
    return {
        "result": result,
        "simulated": result.marked,
        "colours": None,
        "told": {"name": "study", "question": "", "kind": "", "engine": {}} | dict(told),
        "ended": moment(str(told.get("finished_utc") or "")),
        "notes": _notes(result),
        "policy": policy(),
        "script": Markup(script()),  # noqa: S704 - a file of ours
        "answer": answer(result),
        "badges": list(badges(result)),
        "warnings": [WarningGroup("warning", next_, (("", text),)) for text, next_ in study_warnings(result)],
        "cards": list(cards(result)),
        "gallery": draw_study(result),
        "terms": {name: TERMS[name] for name in _names(result) if name in TERMS},
        "heads": tables.trial_heads(result),
        "trials": tables.trial_rows(result),
        "failures": tables.failure_rows(result),
        "confirmation": list(tables.confirmation_rows(result)),
        "space": tables.space_rows(result),
        "facts": tables.fact_rows(result),
        "commands": list(commands(result)),
    }


def commands(result: StudyFiles) -> Iterator[tuple[str, str]]:
    """What to take away, by the name of the file that holds it; the command alone where there are no files."""
    files = result.told.get("files") or {}
    command = (result.told.get("winner") or {}).get("command")
    if command and not any((result.folder / str(name)).is_file() for name in files.values()):
        yield "Command", shlex.join(map(str, command))
    yield from ((str(name), text) for name, told in files.items() if (text := _text_of(result.folder, str(told))))


def _text_of(folder: Path, name: str) -> str:
    """What a file beside the page holds; "" where there is none, or where its name leads elsewhere."""
    place = folder / name
    if place.parent != folder or not place.is_file():
        return ""
    return place.read_text(encoding="utf-8", errors="replace")


def _names(result: StudyFiles) -> list[str]:
    return [str(objective["name"]) for objective in result.objectives]


def _notes(result: StudyFiles) -> list[str]:
    told = result.told
    dead = [f"{one.get('name')} changes nothing here: {one.get('why')}" for one in told.get("dead") or ()]
    return list(dict.fromkeys([*dead, *map(str, told.get("notes") or ())]))


def answer(result: StudyFiles) -> str:
    """What the study found, in a sentence or two."""
    name = str(result.objectives[0]["name"])
    best, default = result.best, result.default
    if best is None:
        return f"No trial kept every limit: none of {len(result.trials)} may be taken."
    found = f"Trial {best.get('number')} reached {name} {tables.value_text(name, value_of(best, name))}"
    if default is not None and math.isfinite(value_of(default, name)):
        found += f", the default {tables.value_text(name, value_of(default, name))}"
    return f"{found}. {_confirmed(result)}"


def _confirmed(result: StudyFiles) -> str:
    told = result.confirmation
    if not told and result.told.get("interrupted"):
        return "The study was interrupted before that was confirmed: a single run each, the best of many, is no proof."
    if not told:
        return "That was not confirmed: a single run each, the best of many, is no proof."
    gain = (told.get("gains") or {}).get(str(told.get("choice") or 0))
    if result.chosen is None or gain is None:
        words = "; ".join(str(one.get("words")) for one in (told.get("gains") or {}).values())
        return f"Run again in turns with the default, none was shown to be better ({words}): keep the default."
    taken = result.chosen.get("number")
    again = f"Run again in turns with the default, trial {taken} was better by {gain['words']}."
    if result.best is None or result.best.get("number") == taken:
        return again
    return f"{again} It is the winner, not trial {result.best.get('number')}, whose single run was best."


def badges(result: StudyFiles) -> Iterator[Badge]:
    """Whether a winner was confirmed, and how many trials failed."""
    told = result.confirmation
    if result.chosen is not None:
        yield Badge("Winner confirmed", "good", "#confirmation")
    elif told:
        yield Badge("No difference shown", "warn", "#confirmation")
    else:
        yield Badge("Interrupted" if result.told.get("interrupted") else "Not confirmed", "warn", "#confirmation")
    failed = _failed(result)
    if failed:
        yield Badge(f"{failed} of {len(result.trials)} trials failed", "bad", "#failures")


def _failed(result: StudyFiles) -> int:
    return sum(bool(trial.get("failure")) for trial in result.trials)


def study_warnings(result: StudyFiles) -> Iterator[tuple[str, str]]:
    """What stands between these numbers and a decision, each with what to do next."""
    compared = [trial for trial in result.trials if feasible(trial) or trial.get("status") == "stopped"]
    drift = result.confirmation.get("drift")
    if drift:
        yield str(drift), "run the confirmation again on a machine at rest"
    yield from _unconfirmed(result)
    if len(compared) < _FEW_TRIALS:
        yield f"only {len(compared)} trials kept the limits, or served until they could not win", "give it more trials"
    if result.trials and _failed(result) > _MANY_FAILURES * len(result.trials):
        yield (
            f"{_failed(result)} of {len(result.trials)} trials failed",
            "look at their causes below, and narrow the space",
        )


def _unconfirmed(result: StudyFiles) -> Iterator[tuple[str, str]]:
    """Why the winner was not confirmed, as far as the study tells it, and what confirms it."""
    wanted = ((result.told.get("study") or {}).get("confirm") or {}).get("best")
    if result.confirmation:
        return
    if result.told.get("interrupted"):
        yield f"the study was interrupted before {'the confirmation' if wanted else 'its end'}", "go on with --resume"
    elif not wanted:
        yield "the winner was not held against the default again", "set confirm.best to 1 or more"
    elif result.told.get("confirmation"):
        yield "there was no trial to hold against the default again", "give it more trials"
    else:
        yield "the winner was not held against the default again", "go on with --resume"


def cards(result: StudyFiles) -> Iterator[Card]:
    """The key figures: best, default, and what they took."""
    for objective in result.objectives[:2]:
        name = str(objective["name"])
        best = "best single run" if result.confirmation else "best"
        winner = (("winner", result.chosen),) if result.chosen is not result.best else ()
        for label, trial in ((best, result.best), *winner, ("default", result.default)):
            value = value_of(trial, name)
            if math.isfinite(value):
                note = f"trial {(trial or {}).get('number')}"
                yield Card(name, f"{name}, {label}", *tables.value_parts(name, value), note)
    minutes = result.minutes
    confirming = float((result.told.get("confirmation") or {}).get("minutes") or 0)
    of_them = f"{significant(confirming)} of them to confirm" if confirming else ""
    yield Card("trials", "Trials", str(len(result.trials)), "", _statuses(result.trials))
    yield Card("minutes", "Engine time", significant(minutes) if minutes else "–", "minutes", of_them)


def _statuses(trials: Sequence[Any]) -> str:
    counts: dict[str, int] = {}
    for trial in trials:
        counts[str(trial.get("status"))] = counts.get(str(trial.get("status")), 0) + 1
    return ", ".join(f"{count} {status}" for status, count in counts.items())
