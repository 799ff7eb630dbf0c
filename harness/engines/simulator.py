"""How is the embedded engine run: as a process of its own, like any other?"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from harness.engines.base import Serving, flags_of
from harness.engines.control import Control, pick_model
from harness.engines.process import EngineProcess
from harness.scenario.models import Engine

_READY_S = 60.0


@asynccontextmanager
async def simulate(engine: Engine, log: Path) -> AsyncIterator[Serving]:
    """Start `harness serve-sim` with the scenario's engine flags, and stop it at the end.

    Raises:
        EngineError: where it refuses its flags or does not come up.
    """
    asked = [] if engine.model is None else ["--model", engine.model]
    place = ["--host", engine.host, "--port", str(engine.port or 0), "--until-stdin-closes"]
    command = [sys.executable, "-m", "harness", "serve-sim", *place, *asked, *flags_of(engine.args)]
    process = EngineProcess(command, log, engine.env)
    await process.start()
    try:
        url = await process.first_line(min(_READY_S, engine.ready_timeout))
        async with Control(url) as control:
            model = pick_model(engine.model, await control.models(), url)
            effective = await control.effective()
        yield Serving(
            "simulator",
            url,
            model,
            simulated=True,
            command=tuple(command),
            effective=effective,
            ending=process.ending,
            pid=process.pid,
        )
    finally:
        await process.stop()
