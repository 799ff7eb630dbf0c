"""How is the embedded engine run: as a process of its own, like any other?"""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness.engines.api_client import ControlClient, pick_model
from harness.engines.base import RunningEngine
from harness.engines.engine_log import BootFacts
from harness.engines.flag_resolution import resolve_by_simulator, started_configuration
from harness.engines.process import EngineProcess
from harness.errors import EngineError, InputError
from harness.scenario.models import Engine
from harness.simulator.chips import DEFAULT_CHIP, chip_named
from harness.simulator.kernel_calibration import read_calibration

_READY_S = 60.0


@asynccontextmanager
async def start_simulator(engine: Engine, log: Path) -> AsyncIterator[RunningEngine]:
    """Start `harness serve-sim` with the scenario's engine flags, and stop it at the end.

    Raises:
        EngineError: where it refuses its flags or does not come up.
    """
    asked = [] if engine.model is None else ["--model", engine.model]
    place = ["--host", engine.host, "--port", str(engine.port or 0), "--until-stdin-closes"]
    resolved = resolve_by_simulator(engine.model, calibrated_flags(engine))
    args = resolved.args
    command = [sys.executable, "-m", "harness", "serve-sim", *place, *asked, *resolved.words]
    if resolved.wrong:
        raise InputError(*resolved.wrong)
    if resolved.fault is not None:
        raise EngineError(f"engine: {resolved.fault}")
    process = EngineProcess(command, log, engine.env)
    await process.start()
    try:
        url = await process.first_line(min(_READY_S, engine.ready_timeout))
        async with ControlClient(url) as control:
            model = pick_model(engine.model, await control.models() or [], url)
            cache = await control.effective()
        yield RunningEngine(
            "simulator",
            url,
            model,
            simulated=True,
            command=tuple(command),
            configuration=started_configuration(args, resolved, BootFacts(), cache),
            ending=process.ending,
            pid=process.pid,
        )
    finally:
        await process.stop()


def calibrated_flags(engine: Engine) -> Mapping[str, Any]:
    """The engine's flags, behind what its `calibration` says of attention.

    Raises:
        InputError: where that is no result of kernels measured on such a chip.
    """
    if engine.calibration is None:
        return engine.args
    chip = chip_named(str(engine.args.get("chip", DEFAULT_CHIP)))
    return {**read_calibration(Path(engine.calibration), chip).flags, **engine.args}
