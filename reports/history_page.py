"""The index page of several results: trends, changes, links."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from harness.comparison.describe import change, name_of, unit_of
from harness.comparison.history import History, HistoryEntry, histories
from harness.comparison.judging import VERDICTS, WORSE
from harness.comparison.kernels import KERNELS
from harness.comparison.measures import in_view
from harness.comparison.served import SERVED
from harness.messages import localized, stored
from harness.scenario.metrics import FAILED_SHARE, Measure, measure_of
from reports.assets import page_script
from reports.figures.changes import trend_lines
from reports.figures.style import Head, drawing, scale_of
from reports.loads import short_labels
from reports.page import PAGE, environment, moment
from reports.palette import stage_variables
from reports.rows import frame_of_rows
from reports.svg import Drawing, drawn
from reports.texts import markup, write_text

INDEX = "index.html"
SHOWN = ("ttft_p50", "ttft_p99", "tpot_mean", "e2e_mean", "output_token_rate", "failed_share")
POINTS = ("run", "stage", "value", "verdict")


def write(folders: Sequence[Path]) -> Path:
    """Draw index.html in the folder that holds them all; its path."""
    place = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    shown = Path(os.path.relpath(place))
    path = (shown if len(str(shown)) < len(str(place)) else place) / INDEX
    return write_text(path, render(histories(folders), place))


def render(groups: Sequence[History], place: Path) -> str:
    """The index as HTML; links are relative to `place`."""
    return environment().get_template("history.html").render(_context(groups, place))


def _context(groups: Sequence[History], place: Path) -> dict[str, Any]:
    most = max((stage for history in groups for stage in _stages(history)), default=0) + 1
    runs = sum(len(history.entries) for history in groups)
    return {
        "histories": [_shown(history, number, place) for number, history in enumerate(groups)],
        "runs": runs,
        "simulated": any(history.simulated for history in groups),
        **page_script(),
        "colours": {"light": stage_variables(most, dark=False), "dark": stage_variables(most, dark=True)},
    }


def _stages(history: History) -> list[int]:
    """Stages that figures show, from 0."""
    repeats = [repeat for entry in history.entries for repeat in entry.side.repeats]
    return sorted({stage for repeat in repeats for stage in repeat.kind.load_stages(repeat)})


def _shown(history: History, number: int, place: Path) -> dict[str, Any]:
    loads = history.entries[-1].run.get("stages") or ()
    names = short_labels(loads)
    return {
        "id": f"history-{number}",
        "history": history,
        "figures": list(_figures(history, number)) if len(history.entries) > 1 else [],
        "stages": [(stage, names[stage]) for stage in _stages(history) if stage < len(names)],
        "entries": [_entry(entry, run, place) for run, entry in reversed(list(enumerate(history.entries, 1)))],
        "changed": _changed(history),
    }


def _changed(history: History) -> Markup | None:
    """At how many runs a change was found, and at which last; None where there is none."""
    runs = [run for run, entry in enumerate(history.entries, 1) if entry.changed]
    if not runs:
        return None
    verdicts = sorted({row.verdict for row in history.entries[runs[-1] - 1].changed})
    return markup(
        "page_history.changed_at",
        name=history.name,
        changed=len(runs),
        runs=len(history.entries),
        last=runs[-1],
        kinds=[VERDICTS[verdict] for verdict in verdicts],
    )


def _entry(entry: HistoryEntry, run: int, place: Path) -> dict[str, Any]:
    folder = os.path.relpath(entry.folder.resolve(), place)
    verdict = entry.summary.get("verdict") or {}
    return {
        "run": run,
        "name": folder,
        "link": quote(f"{folder}/{PAGE}"),
        "started": moment(str(entry.run.get("started_utc") or "")),
        "version": entry.version,
        "valid": bool(verdict.get("valid")),
        "answer": localized(stored(entry.summary.get("answer_message"), str(entry.summary.get("answer") or ""))),
        "changed": [(text, "bad" if verdict == WORSE else "good") for text, verdict in described_changes(entry)],
    }


def described_changes(entry: HistoryEntry) -> Iterator[tuple[str, str]]:
    """Each change in words, with its verdict."""
    return _CHANGES[entry.side.kind.name](entry)


def _kernel_changes(entry: HistoryEntry) -> Iterator[tuple[str, str]]:
    """Of kernels, which are many, only how many changed."""
    for verdict, count in Counter(row.verdict for row in entry.changed).items():
        yield localized("page_history.kernel_changes", verdict=VERDICTS[verdict], kernels=count), verdict


def _measure_changes(entry: HistoryEntry) -> Iterator[tuple[str, str]]:
    for row in entry.changed:
        text = localized(
            "page_history.change_of",
            verdict=VERDICTS[row.verdict],
            measure=name_of(row.measure),
            stage=row.place,
            change=change(row),
        )
        yield text, row.verdict


_CHANGES = {SERVED.name: _measure_changes, KERNELS.name: _kernel_changes}


def _unit(measure: Measure, frame: pd.DataFrame) -> str:
    if measure.metric == FAILED_SHARE:
        return "%"
    return scale_of(frame["value"].to_numpy(dtype="float64"), times=measure.is_latency).unit or unit_of(measure)


def _words(name: str, history: History, frame: pd.DataFrame) -> str:
    """The runs at which a measure changed, as the alternative text of its figure."""
    runs = frame.loc[frame["verdict"] != "", "run"].unique().tolist()
    if not runs:
        return localized("page_history.figure_no_change", measure=name, runs=len(history.entries))
    changes = [localized("page_history.run", run=run) for run in runs]
    return localized("page_history.figure", measure=name, runs=len(history.entries), changes=changes)


def _figures(history: History, number: int) -> Iterator[Drawing]:
    load = (history.entries[-1].run.get("stages") or [{}])[0]
    for key in SHOWN:
        measure, frame = in_view(measure_of(key), load), frame_of_rows(history.points(key), POINTS)
        if not len(frame) or not frame["value"].gt(0).any():
            continue
        if measure.metric == FAILED_SHARE:
            frame = frame.assign(value=100 * frame["value"])
        unit = _unit(measure, frame)
        name = localized(name_of(measure))
        by_run = localized("page_history.unit_by_run", unit=unit) if unit else localized("page_history.by_run")
        head = Head(name, by_run, simulated=history.simulated)
        text = _words(name, history, frame)
        upward = localized("figures.axis", name=name, unit=unit) if unit else name
        with drawing():
            figure = trend_lines(frame, len(history.entries), head, upward, times=measure.is_latency)
            yield drawn(figure, f"trend-{number}-{key}", head, text)
