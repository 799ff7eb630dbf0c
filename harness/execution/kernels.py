"""Runs of kernels: the cases of a scenario, measured in the engine's interpreter, each line kept as it comes."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.clock import monotonic_ns
from harness.errors import EXIT_DONE, EXIT_ENGINE, EngineError, InputError
from harness.execution.run_folder import RunOutcome, RunSpec, interrupted, note_death, open_folder
from harness.kernels import child
from harness.kernels.job import KernelPlan, kernel_plan
from harness.kernels.repeats import MEASURED, case_name, varying_axes
from harness.kernels.result import LINES
from harness.messages import Message, message
from harness.results import store
from harness.results.progress import KERNELS, Progress, write_progress
from harness.scenario.models import Engine
from harness.units import NS_PER_S

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
    run["kernels"] = {"cases": cases, "skipped": [asdict(combination) for combination in plan.skipped]}
    store.write_json(folder, store.RUN, run)


def _measure(spec: RunSpec, plan: KernelPlan) -> None:
    """Run the cases, each line kept as it comes."""
    engine, kernels = spec.loaded.scenario.engine, spec.loaded.scenario.kernels
    assert kernels is not None
    log = spec.folder / "engine.log"
    place = child.BenchEnvironment(engine.python or sys.executable, _environment(engine), log, kernels.timeout)
    raw = spec.folder / store.RAW
    repeats = spec.loaded.scenario.repeats
    progress = _CaseProgress(spec, [asdict(case) for case in plan.job.cases], repeats, monotonic_ns())
    with (raw / LINES).open("w", encoding="utf-8") as file:
        for line in child.bench_lines(plan.job, place, repeats):
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
        return message("execution.case_unmeasured", status=Message(_STATUSES[line["status"]]), reason=line["reason"])
    medians = [
        message("execution.case_median", mode=mode, median_s=figures["median_s"])
        for mode, figures in line["modes"].items()
    ]
    return message("execution.case_measured", medians=medians)
