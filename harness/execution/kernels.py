"""From a scenario of kernels to a result folder: order, child, lines, files."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import EXIT_DONE, EXIT_ENGINE, EngineError, InputError
from harness.execution.run import RunOutcome, RunSpec, open_folder
from harness.execution.run_folder import interrupted
from harness.kernels import child
from harness.kernels.job import KernelPlan as KernelOrder
from harness.kernels.job import kernel_plan
from harness.kernels.repeats import MEASURED, case_name, varying_axes
from harness.kernels.result import LINES
from harness.results import store
from harness.scenario.models import Engine
from harness.units import format_duration

Say = Callable[[str], None]
_KINDS = ("auto", "vllm", "vllm-ascend")


def conduct_kernels(order: RunSpec) -> RunOutcome:
    """Run an order that has `kernels` into a new folder; raw lines stay there for `finish`.

    What was measured is kept when something ends the run.

    Raises:
        InputError: where the scenario asks for what cannot be; no folder is made.
        EngineError: before the first case: no interpreter, or none with a provider.
    """
    loaded = order.loaded
    kind = loaded.scenario.engine.kind
    if kind not in _KINDS:
        raise InputError(f"{loaded.path}: kernels run in an engine's interpreter; kind {kind} has none, expected auto")
    bench = kernel_plan(loaded)
    open_folder(order)
    _note(order.folder, bench)
    try:
        _measure(order, bench)
    except KeyboardInterrupt:
        return interrupted(order.folder)
    except EngineError as fault:
        if not (order.folder / store.RAW / store.BEGUN).exists():
            raise
        return RunOutcome(EXIT_ENGINE, tuple(fault.lines))
    return RunOutcome(EXIT_DONE)


def _note(folder: Path, bench: KernelOrder) -> None:
    """Write the cases into run.json, before any runs."""
    run = store.read_run(folder)
    cases = [asdict(case) for case in bench.job.cases]
    run["kernels"] = {"cases": cases, "skipped": [asdict(one) for one in bench.skipped]}
    store.write_json(folder, store.RUN, run)


def _measure(order: RunSpec, bench: KernelOrder) -> None:
    """Run the cases, each line kept as it comes."""
    engine, kernels = order.loaded.scenario.engine, order.loaded.scenario.kernels
    assert kernels is not None
    log = order.folder / "engine.log"
    place = child.BenchEnvironment(engine.python or sys.executable, _environment(engine), log, kernels.timeout)
    raw = order.folder / store.RAW
    repeats = order.loaded.scenario.repeats
    told = _Teller(order.say, [asdict(case) for case in bench.job.cases], repeats)
    with (raw / LINES).open("w", encoding="utf-8") as file:
        for line in child.bench_lines(bench.job, place, repeats):
            (raw / store.BEGUN).touch()
            file.write(json.dumps(line) + "\n")
            file.flush()
            told.tell(line)


def _environment(engine: Engine) -> dict[str, str]:
    if engine.devices is None:
        return dict(engine.env)
    numbers = ",".join(str(number) for number in engine.devices)
    return {"ASCEND_RT_VISIBLE_DEVICES": numbers, "CUDA_VISIBLE_DEVICES": numbers, **engine.env}


@dataclass(frozen=True, slots=True)
class _Teller:
    """Says what comes, a line a case."""

    say: Say
    cases: list[dict[str, Any]]
    repeats: int

    def tell(self, line: Mapping[str, Any]) -> None:
        """Say a line of the bench in words."""
        if line["event"] == "device":
            self.say(f"kernels: {line['provider']} on {line['name']}, {len(self.cases)} cases")
        elif line["event"] == "row":
            differing = varying_axes(dict(case["labels"]) for case in self.cases)
            name = case_name(dict(self.cases[line["case"]]["labels"]), line["path"], differing)
            repeat = f"repeat {line['repeat'] + 1}/{self.repeats}, " if self.repeats > 1 else ""
            self.say(f"{repeat}{line['case'] + 1}/{len(self.cases)} {name}: {_outcome(line)}")


def _outcome(line: Mapping[str, Any]) -> str:
    if line["status"] != MEASURED:
        return f"{line['status']}: {line['reason']}"
    return ", ".join(f"{mode} {format_duration(found['median_s'])}" for mode, found in line["modes"].items())
