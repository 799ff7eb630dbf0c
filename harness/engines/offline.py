"""Offline engines: programs that generate without a server, the files between, and what became of every request.

A program is vLLM's `LLM` in the interpreter that the scenario names, or the simulator in virtual time, run under the
guardian as a server would be. All files lie in the raw folder of a run, so that a run that is killed can still be
accounted for. A job and its prompts go out. The program waits for `GO`, makes the calls in order, and notes a JSON
line for whatever happens: `ready_ns`, `refused` (why it cannot begin), `call` with `begin_ns` or
`end_ns`, `call` with `place` and `done` (see `Done`), `at_ns` with `metrics` (Prometheus text), and
`finished`. The last line may be the harness's own: `ended`, where it was stopped or died. When a
stage begins and ends is noted beside that, where `read_begun` of `harness.execution.reconcile` looks for it. Times are
absolute monotonic nanoseconds.
"""

import contextlib
import json
import sys
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.client.journal import ROW
from harness.client.journal_decoding import INTEGERS, TEXTS, DecodedAnswers
from harness.clock import REAL_TIME, VIRTUAL_TIME
from harness.engines import offline_child
from harness.engines.base import RunningEngine
from harness.engines.flag_resolution import ResolvedFlags, resolve_by_simulator, started_configuration
from harness.engines.interpreter_probe import OFFLINE
from harness.engines.process import uses_stub_device
from harness.engines.simulator import KIND, calibrated_flags, flags_with_model, refuse_flags
from harness.engines.vllm import EngineWatch, check_flags, environment_of, guarded_process, within_ready_timeout
from harness.errors import InputError, ResultError, suggestion
from harness.messages import Message, message
from harness.results.file_schemas import OfflineNoteSchema
from harness.results.request_table import ANSWER_COLUMNS, CLIENT_COLUMNS, FROM_TOKEN_IDS, MISSING, SERVER_COLUMNS
from harness.results.store import BEGUN, convert, integers_in, read_arrays, read_json, write_json
from harness.scenario.engine import Engine
from harness.telemetry import server_metrics
from harness.workload import Workload
from harness.workload.plan import StagePlan
from harness.workload.prompts import Prompt, TextPrompt, TokenPrompt

JOB, PROMPTS, REQUESTS, NOTES, GO = "offline.json", "prompts.jsonl", "asked.npz", "notes.jsonl", "go"
_COLUMNS = ("call", "session", "input_asked", "output_asked")


@dataclass(frozen=True, slots=True)
class OfflineCall:
    """One call of `LLM.generate`: the stage that it belongs to, and how many requests it is given."""

    number: int  # of the stage's plan
    stage: int
    repeat: int
    measured: bool
    requests: int
    opens: bool  # whether the stage begins with it


class OfflineAnswer(NamedTuple):
    """One answer as it is noted: when it was whole, its first and last token (MISSING where not known), its counts.

    `at_ns` are the times of single tokens where these are known. `error` is empty, or why it failed.
    """

    done_ns: int
    first_ns: int
    last_ns: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    error: str = ""
    at_ns: Sequence[int] = ()


def calls_of(plans: Sequence[StagePlan]) -> Iterator[OfflineCall]:
    """The calls that offline stages make: the warm-up of one first, then what is measured."""
    for stage in plans:
        place = (stage.number, stage.stage_index, stage.repeat)
        if stage.warm:
            yield OfflineCall(*place, measured=False, requests=stage.warm, opens=True)
        yield OfflineCall(*place, measured=True, requests=stage.sessions or 0, opens=not stage.warm)


def write_job(raw: Path, plans: Sequence[StagePlan], workload: Workload, **settings: Any) -> None:
    """Write the job, with the program's other `settings`, and the prompts of all its calls."""
    requests = []
    encoder = msgspec.json.Encoder()
    with (raw / PROMPTS).open("wb") as file:
        for call, stage, ordinal in _ordinals(plans):
            session = workload.session(stage.session(ordinal))
            turn, prompt = session.turns[0], workload.prompt(session.index, 0)
            requests.append((call, session.index, prompt.input_tokens, turn.output_tokens))
            file.write(encoder.encode({"prompt": _as_json(prompt), "max_tokens": turn.output_tokens}) + b"\n")
    rows = np.asarray(requests, dtype=np.int64).reshape(-1, len(_COLUMNS))
    columns: dict[str, Any] = {name: rows[:, place] for place, name in enumerate(_COLUMNS)}
    np.savez(raw / REQUESTS, **columns)
    write_json(raw, JOB, {**settings, "calls": [asdict(call) for call in calls_of(plans)]})


def _ordinals(plans: Sequence[StagePlan]) -> Iterator[tuple[int, StagePlan, int]]:
    """Number of the call, plan and ordinal of every request, in the order of the calls."""
    call = -1
    for stage in plans:
        for ordinal in range(stage.taken or 0):
            call += ordinal in (0, stage.warm)
            yield call, stage, ordinal


def _as_json(prompt: Prompt) -> Any:
    if isinstance(prompt, TokenPrompt):
        return prompt.ids.tolist()
    assert isinstance(prompt, TextPrompt)  # an offline stage has no chat
    return prompt.text


class NotesReader:
    """The notes of a program, read as they grow."""

    def __init__(self, raw: Path) -> None:
        self._path = raw / NOTES
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """The lines that have come since, decoded; one that is not whole yet comes next time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(end)
        return list(_decoded_lines(whole))


def _decoded_lines(text: bytes) -> Iterator[dict[str, Any]]:
    """Every line that is JSON: one that a killed program left half written is not."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def append_note(raw: Path, **words: Any) -> None:
    """Add a line; a line that a killed program left half written is ended first."""
    with (raw / NOTES).open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(words) + "\n")


def read_answers(raw: Path) -> tuple[NDArray[np.void], DecodedAnswers] | None:
    """Every request that was handed to a call, as the journal has it (dtype ROW), and its answer; None without a job.

    A request whose call ended without its answer has the failure that was noted for that, or none
    where nobody was left to note it.
    """
    if not (raw / REQUESTS).exists():
        return None
    calls = [OfflineCall(**call) for call in read_json(raw, JOB)["calls"]]
    notes = _AllNotes(raw)
    requests = _requests(raw / REQUESTS, len(calls))
    rows = _rows(calls, requests, notes.begin_ns)
    return rows, _decoded(rows, notes.done_of(requests["call"][: len(rows)]), notes.ended)


def _requests(path: Path, calls: int) -> dict[str, NDArray[np.int64]]:
    arrays = read_arrays(path)
    requests = {name: integers_in(path, arrays, name) for name in _COLUMNS}
    if len({len(values) for values in requests.values()}) > 1:
        raise ResultError(message("engines.unlike_columns", path=str(path)))
    numbers = requests["call"]
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < calls:
        low, high = int(numbers.min()), int(numbers.max())
        raise ResultError(message("engines.call_numbers", path=str(path), low=low, high=high, last=calls - 1))
    return requests


class _AllNotes:
    """All notes of a program by what they are about."""

    def __init__(self, raw: Path) -> None:
        self.begin_ns: dict[int, int] = {}
        self.ended: Mapping[str, Any] | None = None
        self._done: dict[tuple[int, int], OfflineAnswer] = {}
        for line in NotesReader(raw).new():
            convert(str(raw / NOTES), line, OfflineNoteSchema)
            if "done" in line:
                self._done[line["call"], line["place"]] = convert(str(raw / NOTES), line["done"], OfflineAnswer)
            elif "begin_ns" in line:
                self.begin_ns[line["call"]] = line["begin_ns"]
            elif "ended" in line:
                self.ended = line

    def done_of(self, calls: NDArray[np.int64]) -> list[OfflineAnswer | None]:
        """The answer of each row, by the call it belongs to; its place there is that among the call's rows."""
        firsts = np.searchsorted(calls, calls)
        places = np.arange(len(calls)) - firsts
        return [self._done.get(key) for key in zip(calls.tolist(), places.tolist(), strict=True)]


def _rows(
    calls: Sequence[OfflineCall], requests: Mapping[str, NDArray[np.int64]], begin_ns: Mapping[int, int]
) -> NDArray[Any]:
    """Rows of the calls that began: in one instant all their requests were due, ready and sent."""
    number = requests["call"][np.isin(requests["call"], list(begin_ns))]
    rows = np.zeros(len(number), dtype=ROW)
    rows["written"] = 1
    for name in ("stage", "repeat", "measured"):
        rows[name] = np.asarray([getattr(call, name) for call in calls], dtype=np.int32)[number]
    for name in ("session", "input_asked", "output_asked"):
        rows[name] = requests[name][: len(rows)]
    for name in ("due_ns", "ready_ns", "sent_ns"):
        rows[name] = np.asarray([begin_ns.get(place, MISSING) for place in range(len(calls))], dtype=np.int64)[number]
    return rows


def _decoded(
    rows: NDArray[np.void], done: Sequence[OfflineAnswer | None], ended: Mapping[str, Any] | None
) -> DecodedAnswers:
    integers = {name: array("q") for name in INTEGERS}
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    at_ns, tokens = array("q"), array("i")
    for seq, answer in enumerate(done):
        if answer is None and ended is None:
            continue
        outcome = answer or OfflineAnswer(ended["at_ns"], MISSING, MISSING, MISSING, MISSING, 0, ended["ended"])  # type: ignore[index] # one of them is there
        events = _events(outcome)
        text_of_end = "" if answer or ended is None else ended["message"]
        for name, value in _integers(seq, int(rows["sent_ns"][seq]), outcome, len(events)).items():
            integers[name].append(value)
        for name, text in (("counted_by", FROM_TOKEN_IDS), ("error", outcome.error), ("message", text_of_end)):
            texts[name].append(text)
        at_ns.extend(at for at, _ in events)
        tokens.extend(count for _, count in events)
    return DecodedAnswers(
        {name: np.array(column, dtype=np.int64) for name, column in integers.items()},
        texts,
        np.array(at_ns, dtype=np.int64),
        np.array(tokens, dtype=np.int32),
    )


def _events(done: OfflineAnswer) -> list[tuple[int, int]]:
    """Times and tokens: of single tokens where they are known, else all at the last one's."""
    if done.at_ns:
        return [(at, 1) for at in done.at_ns]
    return [(_last_ns(done), done.output_tokens)] if done.output_tokens else []


def _last_ns(done: OfflineAnswer) -> int:
    return done.done_ns if done.last_ns == MISSING else done.last_ns


def _integers(seq: int, sent_ns: int, done: OfflineAnswer, events: int) -> dict[str, int]:
    return {
        "seq": seq,
        "ready_ns": sent_ns,
        "sent_ns": sent_ns,
        "first_ns": done.first_ns,
        "last_ns": _last_ns(done) if events else MISSING,
        "done_ns": done.done_ns,
        "connect_ns": 0,
        "resends": 0,
        "input_tokens": done.input_tokens,
        "cached_tokens": done.cached_tokens,
        "output_tokens": done.output_tokens,
        "first_tokens": int(done.first_ns != MISSING),
        "events": events,
        "http_status": MISSING,
        # No client or API server stood between.
        **dict.fromkeys((*CLIENT_COLUMNS, *SERVER_COLUMNS, *ANSWER_COLUMNS), MISSING),
    }


_FILES = {
    "prompts": PROMPTS,
    "notes": NOTES,
    "go": GO,
    "begun": BEGUN,
}  # of the raw folder


@dataclass(frozen=True, slots=True)
class OfflineWork:
    """What to generate: the raw folder, the plans of offline stages, their workload, and sampling parameters."""

    raw: Path
    plans: Sequence[StagePlan]
    workload: Workload
    sampling: Mapping[str, Any]


@asynccontextmanager
async def start_offline(engine: Engine, kind: str, log: Path, work: OfflineWork) -> AsyncIterator[RunningEngine]:
    """Start a program that has the engine, yield when that is ready for `begin`, and end all of it.

    Raises:
        InputError: where a flag or a sampling parameter is not known.
        EngineError: where it does not come up; one line with what its log says of the reason.
    """
    program, resolved = await _program(engine, kind)
    place = [] if engine.model is None else ["--model", engine.model]
    write_job(
        work.raw,
        work.plans,
        work.workload,
        words=[*place, *resolved.words],
        flags=flags_with_model(engine.model, resolved.args),
        sampling=dict(work.sampling),
        watched=[*server_metrics.SERIES, server_metrics.CACHE_CONFIG],
        **{key: str((work.raw / name).resolve()) for key, name in _FILES.items()},
    )
    command = [*program, str((work.raw / JOB).resolve())]
    async with guarded_process(engine, kind, command, log) as (watch, group):
        cache = server_metrics.cache_config(await within_ready_timeout(_answering(work.raw, watch), engine, watch))
        simulated = kind == KIND
        yield RunningEngine(
            kind,
            "",
            engine.model or "",
            simulated=simulated,
            clock=VIRTUAL_TIME if simulated else REAL_TIME,
            command=tuple(command),
            configuration=started_configuration(resolved.args, resolved, watch.facts, cache),
            stub_device=not simulated and uses_stub_device(group),
            ending=watch.ending,
            pid=group,
        )


async def _program(engine: Engine, kind: str) -> tuple[list[str], ResolvedFlags]:
    """The command that holds an engine of a kind, and what its flags become."""
    if kind == KIND:
        resolved = resolve_by_simulator(engine.model, calibrated_flags(engine))
        refuse_flags(resolved)
        return [sys.executable, "-m", "harness.simulator.offline"], resolved
    python = engine.python or sys.executable
    resolved = await check_flags(engine, kind, python, environment_of(engine, kind), usage=OFFLINE)
    return [python, str(offline_child.__file__)], resolved


async def _answering(raw: Path, watch: EngineWatch) -> str:
    notes = NotesReader(raw)
    while True:
        for line in notes.new():
            if "refused" in line:
                raise InputError(*(_unknown(name, line["known"]) for name in line["refused"]))
            if "ready_ns" in line:
                watch.read()
                return str(line["metrics"])
        await watch.rest()


def _unknown(name: str, known: Sequence[str]) -> Message:
    return message("engines.no_such_sampling", name=name, suggestion=suggestion(name, list(known)))


def begin_calls(raw: Path) -> None:
    """Let a program that is ready make its calls."""
    (raw / GO).touch()
