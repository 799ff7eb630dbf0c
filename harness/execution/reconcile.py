"""The step from the raw files of a run to its result: the outcome of every planned request, and the summary.

Works from files alone: right after a run, for a run that was killed, or a year later. The plan is joined with the
journal of every worker (what was sent and what came back), or with the notes of a program that generated offline, into
requests.parquet, events.parquet and timeline.json. Nothing is lost: scheduled = completed + failed + cancelled +
never sent.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.client.journal import read_sent, worker_journals
from harness.client.journal_decoding import INTEGERS, TEXTS, AskedForms, DecodedAnswers, decode_journal
from harness.engines import offline as offline_engine
from harness.errors import ResultError
from harness.kernels.result import write_kernel_result
from harness.messages import message
from harness.results import store, table_files
from harness.results.file_schemas import StageNoteSchema
from harness.results.request_table import (
    ASSUMED,
    CANCELLED,
    COLUMNS,
    COMPLETED,
    FAILED,
    MEASURED,
    MISSING,
    NEVER_SENT,
    PRIMING,
    TEXT_COLUMNS,
    WARMUP,
    Events,
    Requests,
    requests_from_columns,
)  # fmt: skip
from harness.results.store import convert, json_lines
from harness.scenario.request_kinds import Structured, Tools
from harness.workload.forms import FormCheck
from harness.workload.plan import StagePlan, load

LOST = "lost"  # sent, but the process that waited for the answer died
PARENT_FAILED = "parent_failed"  # never sent, as a request that it waits for failed
_TIMES = ("due_ns", "ready_ns", "sent_ns", "first_ns", "answer_ns", "last_ns", "done_ns")
_PHASE_OF_ROW = np.asarray([WARMUP, MEASURED, PRIMING], dtype=object)  # by `measured` of the journal
Columns = dict[str, NDArray[Any]]
Source = tuple[NDArray[np.void], DecodedAnswers]
"""The rows of the requests that one process sent, and the answers that came back to it."""


@dataclass(frozen=True, slots=True)
class StageStarts:
    """When stages really began and ended (by plan number), and when the run was stopped, in absolute ns.

    Only a stage that ends with a call, and not with its last answer, has its end noted.
    """

    begin_ns: dict[int, int]
    stopped_ns: int | None
    end_ns: dict[int, int] = field(default_factory=dict)

    @property
    def zero_ns(self) -> int:
        """The run's zero: the begin of its first stage."""
        return min(self.begin_ns.values(), default=0)


def read_stage_starts(raw: Path) -> StageStarts:
    """What the run noted as it went; a line that was cut by a kill is left out."""
    begin_ns: dict[int, int] = {}
    end_ns: dict[int, int] = {}
    stopped_ns = None
    for place, line in json_lines(raw / store.BEGUN):
        note = convert(place, line, StageNoteSchema)
        if note.number is not None and note.begin_ns is not None:
            begin_ns[note.number] = note.begin_ns
        if note.number is not None and note.end_ns is not None:
            end_ns[note.number] = note.end_ns
        stopped_ns = stopped_ns if note.stopped_ns is None else note.stopped_ns
    return StageStarts(begin_ns, stopped_ns, end_ns)


def reconcile(folder: Path) -> None:
    """Write requests.parquet, events.parquet and timeline.json from a run's raw files."""
    raw = folder / store.RAW
    from harness.execution.prefix_reuse import with_reusable_tokens  # noqa: PLC0415 - pydantic loads only where raw files are read

    requests, events, timeline = collect_records(raw, list(_sources(raw, _known_run(folder))))
    table_files.write_requests(folder, with_reusable_tokens(folder, requests))
    table_files.write_events(folder, requests.index, events)
    store.write_json(folder, store.TIMELINE, timeline)


def _known_run(folder: Path) -> Mapping[str, Any]:
    """run.json, empty where there is none: what was sent and came back is told without it."""
    return store.read_run(folder) if (folder / store.RUN).exists() else {}


def collect_records(raw: Path, sources: Sequence[Source]) -> tuple[Requests, Events, list[dict[str, int]]]:
    """Every planned request, their token events, and a span for every stage that began, from what each source knows.

    What was sent and is not answered yet counts as lost, so that a load under way can be looked at as well.
    """
    plans, turns = load(raw / "plan.npz")
    begun = read_stage_starts(raw)
    parts = [_part(*source) for source in enumerate(sources)]
    sent = [columns for columns, _ in parts]
    unsent = _never_sent(plans, turns, begun, sent)
    columns = {name: np.concatenate([*(part[name] for part in sent), unsent[name]]) for name in COLUMNS[1:]}
    for name in _TIMES:
        columns[name] = np.where(columns[name] == MISSING, MISSING, columns[name] - begun.zero_ns)
    order = _order(columns)
    columns = {name: values[order] for name, values in columns.items()}
    columns["index"] = np.arange(len(order))
    events = _events([decoded for _, decoded in parts], begun, order)
    return requests_from_columns(columns), events, _timeline(plans, begun, columns)


def _sources(raw: Path, run: Mapping[str, Any]) -> Iterator[Source]:
    """What was sent and what came back, by each worker, or by the program that generated offline."""
    for sent, answers in worker_journals(raw):
        rows = read_sent(sent)
        yield rows, matched_answers(rows, decode_journal(answers, _forms(rows, run)), answers)
    offline = offline_engine.read_answers(raw)
    if offline is not None:
        yield offline


def _forms(rows: NDArray[np.void], run: Mapping[str, Any]) -> AskedForms | None:
    """The forms that a run's answers were asked for, as run.json has them; None where there were none."""
    names = tuple(str(each.get("form") or "") for each in run.get("classes") or ())
    if not any(names):
        return None
    structured, tools = run.get("structured"), run.get("tools")
    check = FormCheck(
        None if structured is None else Structured.model_validate(structured, strict=False),
        None if tools is None else Tools.model_validate(tools, strict=False),
    )
    return AskedForms(names, rows["request_class"].astype(np.int64), check)


def matched_answers(rows: NDArray[np.void], decoded: DecodedAnswers, path: Path) -> DecodedAnswers:
    """The answers in a journal, if each is to a request that its process sent, and none has two.

    Raises:
        ResultError: the two do not belong together.
    """
    seq = decoded.integers["seq"]
    if len(seq) and (seq.min() < 0 or seq.max() >= len(rows) or len(np.unique(seq)) < len(seq)):
        raise ResultError(message("execution.journals_differ", path=str(path)))
    return decoded


def _part(number: int, source: Source) -> tuple[Columns, tuple[Columns, DecodedAnswers]]:
    """One worker's requests as columns, and its decoded answers with the row that each belongs to."""
    rows, decoded = source
    size = len(rows)
    columns: Columns = {name: np.full(size, MISSING, dtype=np.int64) for name in (*INTEGERS, "reusable_tokens")}
    columns |= {name: np.full(size, "", dtype=object) for name in TEXTS}
    columns["counted_by"][:] = ASSUMED
    for name in (
        "stage",
        "repeat",
        "turn",
        "input_asked",
        "output_asked",
        "session",
        "due_ns",
        "ready_ns",
        "sent_ns",
        "request_class",
        "sent_bytes",
    ):
        columns[name] = rows[name].astype(np.int64)
    columns["worker"] = np.full(size, number, dtype=np.int64)
    columns["phase"] = _PHASE_OF_ROW[rows["measured"]]
    for name in ("output_tokens", "first_tokens", "events", "resends"):
        columns[name][:] = 0
    at = decoded.integers["seq"]
    for name in INTEGERS:
        columns[name][at] = decoded.integers[name]
    for name in TEXTS:
        columns[name][at] = decoded.texts[name]
    columns["status"] = _status(columns, at)
    return columns, (columns, decoded)


def _status(columns: Columns, answered: NDArray[np.int64]) -> NDArray[np.object_]:
    status = np.full(len(columns["stage"]), CANCELLED, dtype=object)
    unanswered = np.ones(len(status), dtype=bool)
    unanswered[answered] = False
    columns["error"][unanswered] = LOST
    error = columns["error"]
    status[error == ""] = COMPLETED
    status[(error != "") & (error != CANCELLED) & ~unanswered] = FAILED
    return status


def _never_sent(
    plans: tuple[StagePlan, ...], turns: NDArray[np.int64] | None, begun: StageStarts, sent: list[Columns]
) -> Columns:
    """The requests that were planned and never handed to the wire; those that prime are in no plan."""
    sent = [{name: values[part["phase"] != PRIMING] for name, values in part.items()} for part in sent]
    missing = _planned_count(plans, turns) != sum(_sent_of_known(plans, part) for part in sent)
    done = {
        key
        for part in (sent if missing else [])
        for key in zip(
            part["repeat"].tolist(),
            part["stage"].tolist(),
            part["session"].tolist(),
            part["turn"].tolist(),
            strict=True,
        )
    }
    rows = [row for row in _planned(plans, turns, begun) if row[:4] not in done] if missing else []
    columns: Columns = {name: np.full(len(rows), MISSING, dtype=np.int64) for name in COLUMNS}
    columns |= {name: np.full(len(rows), "", dtype=object) for name in TEXT_COLUMNS}
    for place, name in enumerate(("repeat", "stage", "session", "turn", "due_ns", "phase")):
        if rows:
            columns[name] = np.asarray([row[place] for row in rows], dtype=columns[name].dtype)
    for name in ("output_tokens", "first_tokens", "events", "resends"):
        columns[name][:] = 0
    columns["counted_by"][:] = ASSUMED
    columns["status"][:] = NEVER_SENT
    failed = _failures(sent) if rows and begun.stopped_ns is None else {}
    for place, row in enumerate(rows):
        if row[:3] in failed:
            columns["error"][place], columns["message"][place] = PARENT_FAILED, failed[row[:3]]
    return columns


def _failures(sent: list[Columns]) -> dict[tuple[int, int, int], str]:
    """By repeat, stage and session, its first request that failed: turn (from 0) and error."""
    failures: dict[tuple[int, int, int], str] = {}
    for part in sent:
        for row in np.flatnonzero(part["status"] == FAILED).tolist():
            key = (int(part["repeat"][row]), int(part["stage"][row]), int(part["session"][row]))
            failures.setdefault(key, f"turn {int(part['turn'][row])}: {part['error'][row]}")
    return failures


def _planned_count(plans: tuple[StagePlan, ...], turns: NDArray[np.int64] | None) -> int:
    return sum(plan.taken or 0 for plan in plans) if turns is None else int(turns.sum())


def _sent_of_known(plans: tuple[StagePlan, ...], part: Columns) -> int:
    """Requests sent in stages whose number of sessions was known beforehand."""
    known = {(plan.repeat, plan.stage_index) for plan in plans if plan.taken is not None}
    return sum(int(((part["repeat"] == repeat) & (part["stage"] == stage)).sum()) for repeat, stage in known)


def _planned(
    plans: tuple[StagePlan, ...], turns: NDArray[np.int64] | None, begun: StageStarts
) -> Iterator[tuple[int, int, int, int, int, str]]:
    """Every planned request: repeat, stage, session, turn, due (absolute ns or MISSING), phase."""
    place = 0
    for plan in plans:
        begin_ns = begun.begin_ns.get(plan.number)
        for ordinal in range(plan.taken or 0):
            known = plan.due_ns is not None and begin_ns is not None
            due_ns = begin_ns + int(plan.due_ns[ordinal]) if known else MISSING  # type: ignore[operator, index] # known says so
            phase = WARMUP if ordinal < plan.warm else MEASURED
            for turn in range(1 if turns is None else int(turns[place])):
                yield (
                    plan.repeat,
                    plan.stage_index,
                    plan.session(ordinal),
                    turn,
                    due_ns if turn == 0 else MISSING,
                    phase,
                )
            place += 1


def _order(columns: Columns) -> NDArray[np.int64]:
    """Rows by repeat, stage, due time, session and turn; what was never due comes last in its stage."""
    due = np.where(columns["due_ns"] == MISSING, np.iinfo(np.int64).max, columns["due_ns"])
    return np.lexsort((columns["turn"], columns["session"], due, columns["stage"], columns["repeat"]))


def _events(parts: list[tuple[Columns, DecodedAnswers]], begun: StageStarts, order: NDArray[np.int64]) -> Events:
    """Token events in the order of the requests."""
    total = len(order)
    counts, starts = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    base_row = base_event = 0
    for columns, decoded in parts:
        sizes = decoded.integers["events"]
        rows = base_row + decoded.integers["seq"]
        counts[rows] = sizes
        starts[rows] = base_event + np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else 0
        base_row += len(columns["stage"])
        base_event += len(decoded.at_ns)
    empty = [np.zeros(0, dtype=np.int64)]
    at_ns = np.concatenate([*(decoded.at_ns for _, decoded in parts), *empty]) - begun.zero_ns
    tokens = np.concatenate([*(decoded.tokens for _, decoded in parts), *empty]).astype(np.int32)
    counts, starts = counts[order], starts[order]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    flat = np.repeat(starts, counts) + np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return Events(offsets, at_ns[flat], tokens[flat])


def _timeline(plans: tuple[StagePlan, ...], begun: StageStarts, columns: Columns) -> list[dict[str, int]]:
    """Measured start, end of sending and last answer of every stage that began, in ns since the zero."""
    return [_span(plan, begun, columns) for plan in plans if plan.number in begun.begin_ns]


def _span(plan: StagePlan, begun: StageStarts, columns: Columns) -> dict[str, int]:
    begin_ns = begun.begin_ns[plan.number] - begun.zero_ns
    own = (columns["stage"] == plan.stage_index) & (columns["repeat"] == plan.repeat)
    mine = own & (columns["phase"] != PRIMING)
    measured = mine & (columns["phase"] == MEASURED) & (columns["sent_ns"] != MISSING)
    start_ns = begin_ns + plan.measured_ns
    if not plan.stage.is_open and measured.any() and plan.warm:
        start_ns = int(columns["due_ns"][measured].min())
    elif not plan.stage.is_open:
        start_ns += plan.warm_ns
    stop_ns = int(columns["sent_ns"][measured].max()) if measured.any() else start_ns
    if plan.stage.duration_s is not None:
        stop_ns = start_ns + round(plan.stage.duration_s * 1e9)
    if begun.stopped_ns is not None:
        stop_ns = max(start_ns, min(stop_ns, begun.stopped_ns - begun.zero_ns))
    end_ns = int(columns["done_ns"][mine].max()) if mine.any() else stop_ns
    if plan.number in begun.end_ns:
        end_ns = begun.end_ns[plan.number] - begun.zero_ns
    return {
        "stage": plan.stage_index,
        "repeat": plan.repeat,
        "start_ns": start_ns,
        "stop_ns": stop_ns,
        "end_ns": max(stop_ns, end_ns),
    }


def finish(folder: Path, *, details: bool = True) -> dict[str, Any]:
    """Write the records (where they are still missing) and summary.json of a result folder; the summary.

    `details` is that of `summarize`: trials of a study leave them out.

    Raises:
        ResultError: where the folder holds neither records nor the raw files of a run.
    """
    run = store.read_run(folder)
    return _WRITERS[store.kind_of(run)](folder, run, details)


def _write_kernels(folder: Path, run: Mapping[str, Any], _details: bool) -> dict[str, Any]:  # noqa: FBT001 - as `_write_served`
    summary = write_kernel_result(folder, run)
    shutil.rmtree(folder / store.RAW, ignore_errors=True)
    return summary


def _write_served(folder: Path, run: Mapping[str, Any], details: bool) -> dict[str, Any]:  # noqa: FBT001 - by a table
    from harness.analysis.summary import summarize  # noqa: PLC0415 - loads only where a run is finished
    from harness.engines.attach import record_server_marks  # noqa: PLC0415 - likewise

    raw = folder / store.RAW
    if not (folder / store.REQUESTS).exists() or not (folder / store.EVENTS).exists():
        if not (raw / "plan.npz").exists():
            return _kept(folder)
        _know_secrets(raw)
        reconcile(folder)
        record_server_marks(folder)
        run = store.read_run(folder)
    timeline = store.read_json(folder, store.TIMELINE) if (folder / store.TIMELINE).exists() else []
    tables = table_files.read_requests(folder), table_files.read_events(folder), table_files.read_samples(folder)
    summary = summarize(*tables, timeline, run, details=details)
    store.write_json(folder, store.SUMMARY, summary)
    shutil.rmtree(raw, ignore_errors=True)
    return summary


_WRITERS = {store.REQUEST_RUN: _write_served, store.KERNEL_RUN: _write_kernels}


def _know_secrets(raw: Path) -> None:
    """Note the secrets that the requests carried, where this process has them too: a server may have repeated them."""
    from harness.client.target import know_again  # noqa: PLC0415 - pydantic loads only where raw files are read

    if (raw / "job.json").exists():
        know_again(store.read_json(raw, "job.json").get("reach") or {})


def _kept(folder: Path) -> dict[str, Any]:
    """The summary of a folder without records: another tool kept none, or they were not kept with it."""
    if not (folder / store.SUMMARY).exists():
        raise ResultError(message("execution.nothing_to_report", folder=str(folder)))
    summary: dict[str, Any] = store.read_json(folder, store.SUMMARY)
    return summary
