"""What a run is doing now: a value that callbacks get twice a second, and the file in which other processes read it.

The figures are those of a display: quantiles are off by at most 1 % (harness/statistics/log_histogram.py), and tokens
are counted from what has been read so far. The numbers of the result are made from whole answers at the end.
"""

import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import psutil

from harness.results.store import RAW
from harness.safety.redaction import redact_tree

PROGRESS = "progress.json"  # in RAW: it goes when the result is there
STARTING, PREPARING, LOADING, KERNELS, REPORTING = "starting", "preparing", "loading", "kernels", "reporting"
PHASES = (STARTING, PREPARING, LOADING, KERNELS, REPORTING)
"""The engine starts; a stage is prepared; a stage runs; cases of kernels run; the result is made and drawn."""
WARMUP, MEASURING, DRAINING, STOPPING, ENDED = "warmup", "measuring", "draining", "stopping", "ended"
STATES = (WARMUP, MEASURING, DRAINING, STOPPING, ENDED)
"""Of a stage: nothing counts yet; requests are sent; all are sent and some answers are awaited; the user stopped it and
what is in flight ends; it is over."""


@dataclass(frozen=True, slots=True)
class LiveLatency:
    """A latency so far, in seconds, each quantile right to 1 %; None where nothing was measured yet."""

    n: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine's own /metrics showed last, summed over its engines; None where it does not say.

    `running` and `waiting` are requests, `kv_usage` is a share from 0 to 1 (the highest of several engines). `fullest`
    is the engine that most requests wait for, or whose cache is fullest, with the first two of its own; empty where
    there are not several.
    """

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    fullest: str = ""
    fullest_running: float | None = None
    fullest_waiting: float | None = None


@dataclass(frozen=True, slots=True)
class StageProgress:
    """One stage of one repeat so far.

    `number` is its place in the run and `index` its place in the scenario, both from 0. `sent` to `in_flight` count
    all requests, `answered_in_warmup` those that do not count; rates (per second), `output_tokens` and latencies are
    of those after the warm-up. `offered_rate` is what was due (None in a closed loop), `request_rate` what was answered
    until `counted_s`, when its workers last counted; a stage under way has no rate before 3 s were measured, in which a
    few arrivals would decide it.
    `share` of the stage is done (0 to 1), and `remaining_s` are left to its last send; None where nobody can know.
    `requests` is how many are planned.
    """

    number: int
    index: int
    repeat: int
    load: Mapping[str, Any]
    state: str = WARMUP
    elapsed_s: float = 0.0
    counted_s: float = 0.0
    planned_s: float | None = None
    remaining_s: float | None = None
    share: float | None = None
    requests: int | None = None
    sent: int = 0
    answered: int = 0
    answered_in_warmup: int = 0
    failed: int = 0
    cancelled: int = 0
    in_flight: int = 0
    output_tokens: int = 0
    offered_rate: float | None = None
    request_rate: float | None = None
    output_token_rate: float | None = None
    ttft: LiveLatency = LiveLatency()
    itl: LiveLatency = LiveLatency()


@dataclass(frozen=True, slots=True)
class Progress:
    """A run at one moment.

    `phase` is one of `PHASES`, `at_s` counts from the run's begin. `stage` is the one under way and `ended` those
    before it, of `stages` in all (repeats counted). `log_line` is the last line of the engine's own log while it
    starts. `eta_s` is about how long the whole still takes; None where nobody can know. Where a simulator keeps virtual
    time, `at_s` and `eta_s` are seconds of who watches, and those of stages virtual. Of kernels, `cases_done` of
    `cases` are measured.
    """

    name: str
    phase: str
    at_s: float = 0.0
    simulated: bool = False
    engine_kind: str = ""
    model: str = ""
    stages: int = 0
    repeats: int = 1
    stage: StageProgress | None = None
    ended: tuple[StageProgress, ...] = ()
    engine: EngineLoad | None = None
    log_line: str = ""
    eta_s: float | None = None
    cases_done: int = 0
    cases: int = 0


RATES, QUEUE_PARTS = 20, 10  # of a trend
_QUEUE_POINTS, _QUEUE_EVERY_S = 3600, 1.0


@dataclass(slots=True)
class StageTrend:
    """How the stage under way went: tokens between snapshots, and what ran and waited in the engine."""

    _number: int = -1
    _tokens: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATES + 1))
    _queue: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_QUEUE_POINTS))

    def add(self, stage: StageProgress | None, engine: EngineLoad | None = None) -> None:
        """Take in a snapshot; another stage begins anew."""
        if stage is None:
            return
        if stage.number != self._number:
            self._number = stage.number
            self._tokens.clear()
            self._queue.clear()
        if engine is not None and (not self._queue or stage.elapsed_s - self._queue[-1][0] >= _QUEUE_EVERY_S):
            self._queue.append((stage.elapsed_s, engine.running or 0.0, engine.waiting or 0.0))
        if not self._tokens or stage.counted_s > self._tokens[-1][0]:
            self._tokens.append((stage.counted_s, stage.output_tokens))

    def token_rates(self) -> list[float]:
        """Tokens a second from one of the last snapshots to the next."""
        return [max(0, after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(self._tokens)]

    def queue(self) -> tuple[list[float], list[float]]:
        """Requests that ran, and that waited: means of up to `QUEUE_PARTS` equal parts of the stage so far."""
        parts, points = min(QUEUE_PARTS, len(self._queue)), list(self._queue)
        edges = [len(points) * part // max(1, parts) for part in range(parts + 1)]
        running, waiting = (
            [fmean(point[place] for point in points[start:end]) for start, end in pairwise(edges)] for place in (1, 2)
        )
        return running, waiting


SEARCHING, CONFIRMING = "searching", "confirming"
MEASURED_AGAIN = "again"


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """A study at one moment.

    `phase` is `searching` while trials are tried, `confirming` while the best and the default are measured again in
    turns, then `reporting`. `trial` is the number of the one under way (None: the next is chosen, or the default is
    measured again), `origin` says who proposed it and `point` what is set. `done` trials of `trials` (None: a budget
    of time) have ended, `stopped` of them early and `failed` without a value. `best` and `default` are values of the
    objective, `turns_done` of about `turns` are measured again. `run` is what the engine of the trial does, where a
    real one serves.
    """

    name: str
    phase: str = SEARCHING
    at_s: float = 0.0
    engine_kind: str = ""
    simulated: bool = False
    objective: str = ""
    trial: int | None = None
    origin: str = ""
    point: Mapping[str, Any] = field(default_factory=dict)
    done: int = 0
    trials: int | None = None
    stopped: int = 0
    failed: int = 0
    best: float | None = None
    best_trial: int | None = None
    default: float | None = None
    turns_done: int = 0
    turns: int = 0
    eta_s: float | None = None
    run: Progress | None = None


@dataclass(frozen=True, slots=True)
class ProgressFile:
    """What progress.json holds: the progress of a run or a study, and the process that writes it."""

    progress: Progress | None = None
    study: StudyProgress | None = None
    pid: int = 0
    process_started: float = 0.0  # as psutil has it, in seconds since 1970: a later process of this number is another
    host: str = ""
    format: int = field(default=1)

    def is_alive(self) -> bool:
        """Whether the process that wrote it still runs; one of another host is taken to."""
        if self.host != socket.gethostname():
            return True
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.process_started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def write_progress(folder: Path, progress: Progress) -> None:
    """Write the progress of the run in a folder, so that a reader finds a whole file; nothing where raw/ is gone."""
    raw = folder / RAW
    if not raw.is_dir():
        return
    _write(raw, progress, None)


def write_study_progress(folder: Path, progress: StudyProgress) -> None:
    """Write the progress of the study in a folder; `end_study_progress` removes it."""
    _write(folder, None, progress)


def end_study_progress(folder: Path) -> None:
    """A study that has ended has no progress."""
    (folder / PROGRESS).unlink(missing_ok=True)


def _write(folder: Path, progress: Progress | None, study: StudyProgress | None) -> None:
    process = psutil.Process()
    whole = ProgressFile(progress, study, process.pid, process.create_time(), socket.gethostname())
    beside = folder / f"{PROGRESS}.new"
    beside.write_bytes(msgspec.json.encode(redact_tree(msgspec.to_builtins(whole))))
    beside.replace(folder / PROGRESS)


def read_progress(folder: Path) -> ProgressFile | None:
    """The progress of the run or study in a folder as it was last written; None where none can be read."""
    study = (folder / PROGRESS).exists()
    try:
        kept = (folder / PROGRESS if study else folder / RAW / PROGRESS).read_bytes()
        whole = msgspec.json.decode(kept, type=ProgressFile)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return whole if (whole.study if study else whole.progress) is not None else None
