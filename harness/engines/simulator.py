"""The simulator as an engine: `harness serve-sim` in a process of its own."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness.engines.api_client import ControlClient, pick_model
from harness.engines.base import RunningEngine
from harness.engines.engine_log import BootFacts
from harness.engines.flag_resolution import ResolvedFlags, resolve_by_simulator, started_configuration
from harness.engines.process import EngineProcess
from harness.errors import EngineError, InputError
from harness.messages import message
from harness.scenario.models import Engine
from harness.simulator.chips import DEFAULT_CHIP, chip_named, read_calibration

_READY_S = 60.0


def refuse_flags(resolved: ResolvedFlags) -> None:
    """Refuse flags that the simulator would not start with.

    Raises:
        InputError: where a flag is unknown or its value is wrong.
        EngineError: where the engine cannot start with them, for want of memory for one.
    """
    if resolved.value_errors:
        raise InputError(*resolved.value_errors)
    if resolved.refusal is not None:
        raise EngineError(message("engines.refused", reason=resolved.refusal))


@asynccontextmanager
async def start_simulator(engine: Engine, log: Path) -> AsyncIterator[RunningEngine]:
    """Start `harness serve-sim` with the scenario's engine flags, and stop it at the end.

    Raises:
        EngineError: where it refuses its flags or does not come up.
    """
    model_words = [] if engine.model is None else ["--model", engine.model]
    address = ["--host", engine.host, "--port", str(engine.port or 0), "--until-stdin-closes"]
    resolved = resolve_by_simulator(engine.model, calibrated_flags(engine))
    args = resolved.args
    command = [sys.executable, "-m", "harness", "serve-sim", *address, *model_words, *resolved.words]
    refuse_flags(resolved)
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
    """The engine's flags over those of its `calibration`.

    Raises:
        InputError: where that is no result of kernels measured on such a chip.
    """
    if engine.calibration is None:
        return engine.args
    chip = chip_named(str(engine.args.get("chip", DEFAULT_CHIP)))
    return {**read_calibration(Path(engine.calibration), chip).flags, **engine.args}
