"""Runs of kernels: the cases of a scenario, measured in the engine's interpreter, each line kept as it comes.

The bench is a child process. It prints a line before each case and one after it. Where it dies or hangs between the
two, that case is lost and the next process begins behind it, held to the limits that the first one measured.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.clock import monotonic_ns
from harness.errors import EXIT_DONE, EXIT_ENGINE, EngineError, InputError
from harness.execution.run_folder import RunOutcome, RunSpec, interrupted, note_death, open_folder
from harness.kernels.job import KernelPlan, kernel_plan
from harness.kernels.repeats import MEASURED, case_name, reason_fields, row_reason, varying_axes
from harness.kernels.result import LINES
from harness.messages import Message, message
from harness.results import store
from harness.results.progress import KERNELS, Progress, write_progress
from harness.scenario.engine import Engine
from harness.units import NS_PER_S

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
            **reason_fields(message("kernels.process_ended", reason=end["reason"])),
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
            yield {"event": "ended", "case": case, "reason": message("kernels.silent", wait_s=patience_s)}
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


def _ending(code: int) -> Message:
    if code < 0:
        with contextlib.suppress(ValueError):
            return message("kernels.died_of_signal", signal=signal.Signals(-code).name)
    return message("kernels.exit_code", status=code)


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


_KINDS = ("auto", "vllm", "vllm-ascend")
_STATUSES = {"skipped": "execution.skipped", "wrong": "execution.wrong", "failed": "execution.failed"}


def run_kernels(spec: RunSpec) -> RunOutcome:
    """Run a spec that has `kernels` into a new folder; raw lines stay there for `finish`.

    What was measured is kept when something ends the run.

    Raises:
        InputError: where the scenario asks for what cannot be; no folder is made.
        EngineError: before the first case: no interpreter, or none with a provider.
    """
    loaded = spec.loaded
    kind = loaded.scenario.engine.kind
    if kind not in _KINDS:
        raise InputError(message("execution.kernels_kind", path=str(loaded.path), kind=kind))
    plan = kernel_plan(loaded)
    open_folder(spec)
    _note(spec.folder, plan)
    try:
        _measure(spec, plan)
    except KeyboardInterrupt:
        return interrupted(spec.folder)
    except EngineError as fault:
        if not (spec.folder / store.RAW / store.BEGUN).exists():
            raise
        outcome = RunOutcome(EXIT_ENGINE, tuple(fault.messages))
        note_death(spec.folder, outcome)
        return outcome
    return RunOutcome(EXIT_DONE)


def _note(folder: Path, plan: KernelPlan) -> None:
    """Write the cases into run.json, before any runs."""
    run = store.read_run(folder)
    cases = [asdict(case) for case in plan.job.cases]
    run["kernels"] = {"cases": cases, "skipped": [_skipped(combination) for combination in plan.skipped]}
    store.write_json(folder, store.RUN, run)


def _skipped(combination: Any) -> dict[str, Any]:
    from kernels_bench.reasons import message_of  # noqa: PLC0415 - a room of its own

    return {**asdict(combination), "reason": str(combination.reason), "reason_message": message_of(combination.reason)}


def _measure(spec: RunSpec, plan: KernelPlan) -> None:
    """Run the cases, each line kept as it comes."""
    engine, kernels = spec.loaded.scenario.engine, spec.loaded.scenario.kernels
    assert kernels is not None
    log = spec.folder / "engine.log"
    place = BenchEnvironment(engine.python or sys.executable, _environment(engine), log, kernels.timeout)
    raw = spec.folder / store.RAW
    repeats = spec.loaded.scenario.repeats
    progress = _CaseProgress(spec, [asdict(case) for case in plan.job.cases], repeats, monotonic_ns())
    with (raw / LINES).open("w", encoding="utf-8") as file:
        for line in bench_lines(plan.job, place, repeats):
            (raw / store.BEGUN).touch()
            file.write(json.dumps(line) + "\n")
            file.flush()
            progress.report(line)


def _environment(engine: Engine) -> dict[str, str]:
    if engine.devices is None:
        return dict(engine.env)
    numbers = ",".join(str(number) for number in engine.devices)
    return {"ASCEND_RT_VISIBLE_DEVICES": numbers, "CUDA_VISIBLE_DEVICES": numbers, **engine.env}


@dataclass(frozen=True, slots=True)
class _CaseProgress:
    """Reports each case as it comes, in a line."""

    spec: RunSpec
    cases: list[dict[str, Any]]
    repeats: int
    begin_ns: int

    def report(self, line: Mapping[str, Any]) -> None:
        """Report a line of the bench as a message."""
        if line["event"] == "device":
            device = {"provider": line["provider"], "device": line["name"]}
            self.spec.on_progress(message("execution.kernels_begin", **device, count=len(self.cases)))
        elif line["event"] == "row":
            self._publish(line["repeat"] * len(self.cases) + line["case"] + 1)
            differing = varying_axes(dict(case["labels"]) for case in self.cases)
            name = case_name(dict(self.cases[line["case"]]["labels"]), line["path"], differing)
            case = {"case": line["case"] + 1, "cases": len(self.cases), "name": name, "outcome": _outcome(line)}
            if self.repeats == 1:
                self.spec.on_progress(message("execution.case_ends", **case))
            else:
                repeat = {"repeat": line["repeat"] + 1, "repeats": self.repeats}
                self.spec.on_progress(message("execution.case_of_repeat_ends", **repeat, **case))

    def _publish(self, done: int) -> None:
        """Hand on how far the run is; a case has several rows, one a path."""
        cases = len(self.cases) * self.repeats
        at_s = (monotonic_ns() - self.begin_ns) / NS_PER_S
        eta_s = at_s * (cases - done) / done
        name = self.spec.loaded.scenario.name
        progress = Progress(name, KERNELS, at_s, repeats=self.repeats, cases_done=done, cases=cases, eta_s=eta_s)
        write_progress(self.spec.folder, progress)
        self.spec.on_snapshot(progress)


def _outcome(line: Mapping[str, Any]) -> Message:
    if line["status"] != MEASURED:
        return message("execution.case_unmeasured", status=Message(_STATUSES[line["status"]]), reason=row_reason(line))
    medians = [
        message("execution.case_median", mode=mode, median_s=figures["median_s"])
        for mode, figures in line["modes"].items()
    ]
    return message("execution.case_measured", medians=medians)
