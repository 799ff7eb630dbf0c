"""A finished study as lines of a terminal: what it came to, and a table of its best five trials and the default."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from harness.analysis.slo import VERDICTS
from harness.cli.result_lines import PLAIN, Output, TableColumn, in_tables
from harness.errors import displayable
from harness.messages import localized
from harness.results.study import StudyFiles, feasible, value_of
from harness.units import significant

BEST = 5
_NONE = "–"
TrialRow = Mapping[str, Any]


def study_lines(study: StudyFiles, output: Output = PLAIN) -> list[str]:
    """What a study came to, as it was printed at its end, and its table."""
    lines = [displayable(str(line)) for line in study.content.get("lines") or ()]
    return [*lines, *study_table(study, output)]


def study_table(study: StudyFiles, output: Output = PLAIN) -> list[str]:
    """The best five trials by the first objective, and the default: values, confirmed gain, what they set."""
    rows = _rows(study)
    if not rows:
        return []
    first = TableColumn(localized("cli.trial"), tuple(Text(str(row.get("number"))) for row in rows))
    return in_tables(first, list(_columns(study, rows)), output)


def _rows(study: StudyFiles) -> list[TrialRow]:
    objective = study.objectives[0]
    name, sign = str(objective["name"]), 1 if objective.get("direction") == "minimise" else -1
    default = study.default
    known = [
        trial
        for trial in study.trials
        if trial is not default and trial.get("status") == "complete" and feasible(trial) and trial.get("values")
    ]
    best = sorted(known, key=lambda trial: sign * value_of(trial, name))[:BEST]
    return [*best, *([] if default is None else [default])]


def _columns(study: StudyFiles, rows: Sequence[TrialRow]) -> Iterator[TableColumn]:
    notes = [_note(study, row) for row in rows]
    if any(notes):
        yield TableColumn("", tuple(Text(note, "bold green") for note in notes), right=False)
    for objective in study.objectives:
        name = str(objective["name"])
        values = [(row.get("values") or {}).get(name) for row in rows]
        yield TableColumn(displayable(name), tuple(Text(_shown(value)) for value in values))
    if any(any((row.get("violations") or {}).values()) for row in rows):
        yield TableColumn(localized("cli.table_limits"), tuple(map(_limits, rows)), right=False)
    names = list(dict.fromkeys(name for row in rows for name in row.get("point") or {}))
    for name in names:
        settings = [_setting(row, name) for row in rows]
        if len(set(settings)) > 1:
            yield TableColumn(displayable(name), tuple(Text(setting) for setting in settings))


def _note(study: StudyFiles, row: TrialRow) -> str:
    winner = study.content.get("winner") or {}
    if row is study.default:
        return localized("cli.default_row") if winner.get("trial") is not None else localized("cli.default_stays")
    if winner.get("trial") != row.get("number"):
        return ""
    if study.content.get("interrupted") and not study.confirmation:
        return localized("cli.best_so_far_row")
    removed = any(flag.get("kept") is False for flag in study.simplification.get("flags") or ())
    return localized("cli.winner_whole_row") if removed else localized("cli.winner_row")


def _limits(row: TrialRow) -> Text:
    missed = [name for name, by in (row.get("violations") or {}).items() if isinstance(by, dict) or (by or 0) > 0]
    if missed:
        return Text(
            localized("cli.table_missed", verdict=VERDICTS[False, ""], limits=list(map(displayable, missed))), "red"
        )
    return Text(localized(VERDICTS[True, ""]), "green")


def _setting(row: TrialRow, name: str) -> str:
    value = (row.get("point") or {}).get(name, (row.get("effective") or {}).get(name))
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else displayable(str(value))


def _shown(value: Any) -> str:
    return significant(float(value)) if isinstance(value, int | float) else _NONE
