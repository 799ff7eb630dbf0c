"""The index page of several results: which configuration to run, all results in one table, and their trends."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from harness.analysis.decision import Option
from harness.comparison.describe import change, name_of, unit_of
from harness.comparison.history import History, HistoryEntry, histories
from harness.comparison.judging import SINGLE_RUNS, VERDICTS, WORSE
from harness.comparison.kernels import KERNELS
from harness.comparison.measures import in_view
from harness.comparison.served import SERVED
from harness.messages import localized, stored
from harness.results import store
from harness.results.study import STUDY, StudyFiles, read_study
from harness.scenario.metrics import FAILED_SHARE, Measure, measure_of
from harness.units import format_count, format_rate, significant
from reports import tuning
from reports.assets import page_script
from reports.decision import cost_text, limits_cell
from reports.figures.changes import trend_lines
from reports.figures.style import Head, drawing, scale_of
from reports.loads import short_labels
from reports.page import PAGE, environment, moment
from reports.palette import stage_variables
from reports.rows import frame_of_rows
from reports.selection import MEASURED, SIMULATED, SOURCES, STUB, ResultOptions, candidate_of, selections, unlike_work
from reports.svg import Drawing, drawn
from reports.tables import Cell
from reports.texts import listed, markup, write_text

INDEX = "index.html"
SHOWN = ("ttft_p50", "ttft_p99", "tpot_mean", "e2e_mean", "output_token_rate", "failed_share")
POINTS = ("run", "stage", "value", "verdict")


def write(folders: Sequence[Path]) -> Path:
    """Draw index.html beside all runs and studies where they lie in one folder, else in the current one; its path."""
    parents = {folder.resolve().parent for folder in folders}
    place = parents.pop() if len(parents) == 1 else Path.cwd()
    shown = Path(os.path.relpath(place))
    path = (shown if len(str(shown)) < len(str(place)) else place) / INDEX
    studies = [folder for folder in folders if (folder / STUDY).exists() and not (folder / store.RUN).exists()]
    runs = [folder for folder in folders if folder not in studies]
    return write_text(path, render(histories(runs), place, [read_study(folder) for folder in studies]))


def render(groups: Sequence[History], place: Path, studies: Sequence[StudyFiles] = ()) -> str:
    """The index as HTML; links are relative to `place`."""
    return environment().get_template("history.html").render(_context(groups, place, studies))


def _context(groups: Sequence[History], place: Path, studies: Sequence[StudyFiles]) -> dict[str, Any]:
    entries = [(history, entry) for history in groups for entry in history.entries]
    candidates = [_candidate(entry, place) for _, entry in entries]
    chosen = selections(candidates)
    reason = None if chosen else unlike_work(candidates)
    most = max((stage for history in groups for stage in _stages(history)), default=0) + 1
    colours = max([most, *(len(selection.names) for selection in chosen)])
    rows = [*(_row(entry, place) for _, entry in entries), *(_study_row(study, place) for study in studies)]
    sources = {row[_SOURCE].text for row in rows}
    return {
        "histories": [_shown(history, number) for number, history in enumerate(groups) if len(history.entries) > 1],
        "count": len(rows),
        "selections": chosen,
        "no_decision": "" if reason is None else localized(reason),
        "heads": [localized(code) for code in _HEADS],
        "rows": sorted(rows, key=lambda row: row[_STARTED].text, reverse=True),
        "changes": [change for change in map(_changed, groups) if change is not None],
        "no_change": _no_change(groups),
        "several_runs": any(len(history.entries) > 1 for history in groups),
        "simulated": bool(rows) and localized(SOURCES[MEASURED]) not in sources,
        **page_script(),
        "colours": {"light": stage_variables(colours, dark=False), "dark": stage_variables(colours, dark=True)},
    }


_HEADS = (
    "page_index.result",
    "page_index.source",
    "page_index.load",
    "page_index.npus",
    "page_decision.head_npu",
    "page_decision.head_user",
    "page.stages.goodput",
    "page_decision.head_cost",
    "page.stages.limits",
    "page_index.validity",
    "page_history.change",
    "page.started",
    "page_index.scenario",
    "page_index.model",
    "page_history.version",
    "page_history.answer",
)
_SOURCE, _STARTED = 1, 11  # their places in a row


def _candidate(entry: HistoryEntry, place: Path) -> ResultOptions:
    return candidate_of(_name(entry.folder, place), entry.run, entry.summary)


def _name(folder: Path, place: Path) -> str:
    return os.path.relpath(folder.resolve(), place)


def _row(entry: HistoryEntry, place: Path) -> list[Cell]:
    """One run by the option that stands for it, as `_HEADS` names its cells."""
    candidate = _candidate(entry, place)
    best = candidate.best
    stage = next((s for s in candidate.choice.stages if best and str(s.get("index") or 0) == best.key), {})
    valid = bool((entry.summary.get("verdict") or {}).get("valid"))
    answer = localized(stored(entry.summary.get("answer_message"), str(entry.summary.get("answer") or "")))
    changes = list(described_changes(entry))
    tone = "plain" if not changes else "bad" if any(verdict == WORSE for _, verdict in changes) else "good"
    return [
        Cell(candidate.name, foreign=True, link=quote(f"{candidate.name}/{PAGE}")),
        _source_cell(candidate.source),
        Cell(localized(best.name) if best else "–"),
        Cell(format_count(candidate.choice.npus.count) if best else "–"),
        *_rates(best, stage),
        limits_cell(best or next((option for option in candidate.choice.options if option.cut), None)),
        Cell(localized("page.valid_cell" if valid else "page.invalid_cell"), tone="plain" if valid else "bad"),
        Cell(listed([text for text, _ in changes], "parts") or _unjudged(entry) or "–", tone=tone),
        Cell(moment(str(entry.run.get("started_utc") or "")) or "–"),
        Cell(str(entry.run.get("name") or ""), foreign=True),
        Cell(str((entry.run.get("engine") or {}).get("model") or "–"), foreign=True),
        Cell(entry.version, foreign=True),
        Cell(answer or "–"),
    ]


def _unjudged(entry: HistoryEntry) -> str:
    """That a run was not judged against the one before, where that is so."""
    return localized("page.stages.not_met_surely") if entry.unjudged else ""


def _rates(best: Option | None, stage: Mapping[str, Any]) -> list[Cell]:
    """Throughput per NPU, a user's rate, goodput and cost of the option; where its NPUs are unknown, of the engine."""
    if best is None:
        return [Cell("–")] * 4
    unit = localized("page_decision.head_engine") if best.by_engine else ""
    goodput = stage.get("goodput")
    return [
        Cell(significant(best.npu_rate), unit),
        Cell(significant(best.user_rate)),
        Cell("–" if goodput is None else format_rate(goodput, "req/s")),
        Cell(cost_text(best)),
    ]


def _source_cell(source: str) -> Cell:
    name = localized(SOURCES[source])
    return Cell(name) if source == MEASURED else Cell(name.upper(), tone="marked")


def _study_row(study: StudyFiles, place: Path) -> list[Cell]:
    """One study: its page and what it answered."""
    name = _name(study.folder, place)
    content = study.content
    source = SIMULATED if study.simulated else STUB if study.marked else MEASURED
    nothing = [Cell("–")]
    return [
        Cell(name, localized("page_index.study"), foreign=True, link=quote(f"{name}/{PAGE}")),
        _source_cell(source),
        *nothing * 9,
        Cell(moment(str(content.get("finished_utc") or "")) or "–"),
        Cell(str(content.get("name") or ""), foreign=True),
        Cell(str((content.get("engine") or {}).get("model") or "–"), foreign=True),
        *nothing,
        Cell(tuning.answer(study)),
    ]


def _stages(history: History) -> list[int]:
    """Stages that figures show, from 0."""
    repeats = [repeat for entry in history.entries for repeat in entry.side.repeats]
    return sorted({stage for repeat in repeats for stage in repeat.kind.load_stages(repeat)})


def _shown(history: History, number: int) -> dict[str, Any]:
    loads = history.entries[-1].run.get("stages") or ()
    names = short_labels(loads)
    return {
        "id": f"history-{number}",
        "history": history,
        "figures": list(_figures(history, number)),
        "stages": [(stage, names[stage]) for stage in _stages(history) if stage < len(names)],
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


def _no_change(groups: Sequence[History]) -> str:
    """What is to be said where no change was shown: that there was none, or that runs could not be judged."""
    reasons = [entry.unjudged for history in groups for entry in history.entries[1:]]
    unjudged = [reason for reason in reasons if reason is not None]
    if not unjudged:
        return localized("page_history.no_change")
    if len(unjudged) < len(reasons):
        judged = len(reasons) - len(unjudged)
        return localized("page_history.some_judged", judged=judged, count=len(reasons), reason=unjudged[0])
    if SINGLE_RUNS in unjudged:
        return localized("page_history.single_runs")
    return localized("page_history.not_judged", reason=unjudged[0])


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
