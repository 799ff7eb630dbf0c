"""The bench's child process in the engine's interpreter, and what becomes of it if it dies or hangs on a case.

A process prints a line before each case and one after it. Where it dies between the two, that case is lost and the
next process begins behind it, held to the limits that the first one measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.errors import EngineError, InputError
from harness.messages import Message, message

if TYPE_CHECKING:  # a room of its own
    from kernels_bench.job import Job

MOST_DEATHS = 20  # beyond it the machine is at fault, not a case
STARTUP_S = 600.0  # a cold file system takes minutes to import torch and vLLM; limits are measured, too
STOP_S = 10.0
# The engine's own packages come first on the path: ours is added behind them.
_BOOT = (
    "import sys, runpy; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('kernels_bench', run_name='__main__', alter_sys=True)"
)
_ENDS = ("done", "fault", "ended")
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BenchEnvironment:
    """Where the bench runs: which interpreter, with what beside the inherited environment, and where it may talk."""

    python: str
    env: Mapping[str, str]
    log: Path
    case_s: float
    """How long to wait for the next line once cases run."""


def bench_lines(job: Job, place: BenchEnvironment, repeats: int = 1) -> Iterator[Line]:
    """The lines of a job: one `device` line, then a `row` for each repeat, case and path, lost cases included.

    Each repeat is a process of its own, held to the limits that the first one measured; a case on which a process
    died is not tried again.

    Raises:
        EngineError: where the interpreter or a provider is not there, or processes die one after another.
        InputError: where a path was asked for that the provider does not know.
    """
    device_reported = False
    for repeat in range(repeats):
        for line in _repeat_lines(job, place):
            if line["event"] == "device":
                job = replace(job, measured=_measured(line))
            elif not line["path"] and line["status"] == "failed":
                job = replace(job, without=(*job.without, line["case"]))
            if line["event"] == "row" or not device_reported:
                yield {**line, "repeat": repeat}
            device_reported = True


def _repeat_lines(job: Job, place: BenchEnvironment) -> Iterator[Line]:
    """The lines of one repeat; a `device` line from each of its processes."""
    for _ in range(MOST_DEATHS):
        end: Line = {}
        for line in _process_lines(job, place):
            if line["event"] in _ENDS:
                end = line
            elif line["event"] in ("device", "row"):
                yield line
            if line["event"] == "device":
                job = replace(job, measured=_measured(line))
        if end["event"] == "done":
            return
        case = _lost(end, place)
        yield {
            "event": "row",
            "case": case,
            "path": "",
            "status": "failed",
            "reason": str(message("kernels.process_ended", reason=end["reason"])),
        }
        job = replace(job, begin=case + 1)
        if job.begin >= len(job.cases):
            return
    raise EngineError(message("kernels.too_many_deaths", deaths=MOST_DEATHS, log=str(place.log)))


def _lost(end: Line, place: BenchEnvironment) -> int:
    """The case on which a process died; an EngineError where it was none, or where no provider is there."""
    if end["event"] == "fault" and end.get("asked"):
        raise InputError(end["reason"])
    if end["event"] == "fault":
        raise EngineError(_unavailable(place, end["reason"]))
    if end["case"] is None:
        raise EngineError(
            message("kernels.died_before_first_case", python=place.python, reason=end["reason"], log=str(place.log))
        )
    return int(end["case"])


def _measured(line: Line) -> Any:
    """What a process measured of its device; None where that computes nothing."""
    from kernels_bench.roofline import Limits  # noqa: PLC0415 - a room of its own

    return next((Limits(**limits) for limits in line["limits"] if limits["source"] == "measured"), None)


def _unavailable(place: BenchEnvironment, reason: str) -> Message:
    return message("kernels.no_kernels", python=place.python, reason=reason)


def _process_lines(job: Job, place: BenchEnvironment) -> Iterator[Line]:
    """Lines of one process; the last one is `done`, `fault`, or `ended` with how it ended."""
    from kernels_bench.job import tree_of  # noqa: PLC0415 - a room of its own

    with tempfile.TemporaryDirectory(prefix="harness-kernels-") as folder, place.log.open("ab") as log:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(tree_of(job)), encoding="utf-8")
        process = _started(place, path, log)
        coming: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_forward, args=(process, coming), daemon=True)
        reader.start()
        try:
            yield from _read(process, coming, place.case_s)
        finally:
            _stop(process)
            reader.join(STOP_S)


def _started(place: BenchEnvironment, job: Path, log: IO[bytes]) -> subprocess.Popen[str]:
    import kernels_bench  # noqa: PLC0415 - a room of its own: where it lies

    ours = str(Path(str(kernels_bench.__file__)).parent.parent)
    command = [place.python or sys.executable, "-c", _BOOT, ours, str(job), "--watched"]
    env = {**os.environ, "VLLM_NO_USAGE_STATS": "1", **place.env}
    try:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
        )
    except OSError as fault:
        raise EngineError(message("kernels.python_unusable", python=place.python, reason=str(fault.strerror))) from None


def _read(process: subprocess.Popen[str], coming: queue.Queue[str], case_s: float) -> Iterator[Line]:
    """Lines as they come; `ended` carries the case that was begun and has no row yet."""
    case: int | None = None
    patience_s = STARTUP_S
    while True:
        try:
            text = coming.get(timeout=patience_s)
        except queue.Empty:
            yield {"event": "ended", "case": case, "reason": str(message("kernels.silent", wait_s=patience_s))}
            return
        if not text:
            yield {"event": "ended", "case": case, "reason": _ending(process.wait())}
            return
        line: Line = json.loads(text)
        patience_s = case_s
        case = line["case"] if line["event"] == "begin" else case
        yield line
        if line["event"] in ("done", "fault"):
            return


def _forward(process: subprocess.Popen[str], coming: queue.Queue[str]) -> None:
    """Pass lines on until the process ends, by itself or stopped; then close its output."""
    assert process.stdout is not None
    with process.stdout:
        for text in process.stdout:
            coming.put(text)
    coming.put("")


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return str(message("kernels.died_of_signal", signal=signal.Signals(-code).name))
    return str(message("kernels.exit_code", status=code))


def _stop(process: subprocess.Popen[str]) -> None:
    """End the process we started, politely first."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
