"""How is a server used that somebody else started?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from harness.engines.api_client import Control, pick_model
from harness.engines.base import Serving
from harness.engines.boot_log import BootFacts
from harness.engines.flag_resolution import Resolved, started
from harness.engines.server_identity import look
from harness.errors import EngineError
from harness.scenario.models import Engine


@asynccontextmanager
async def attach(engine: Engine, log: Path) -> AsyncIterator[Serving]:  # noqa: ARG001 - its log is its owner's
    """Use the server at `engine.url`; it is neither started nor stopped.

    Raises:
        EngineError: where it cannot be reached or does not have the model.
    """
    assert engine.url is not None
    async with Control(engine.url, engine) as control:
        served = await control.models()
        if served is None and engine.model is None:
            raise EngineError(
                f"{engine.url}: has no list of models (/v1/models); expected --model with the one to load"
            )
        model = str(engine.model) if served is None else pick_model(engine.model, served, engine.url)
        cache = await control.effective()
        await control.introduce()
        listeners = await asyncio.get_running_loop().run_in_executor(None, look, engine.url)
        simulated = control.simulated or listeners.simulated
    configuration = replace(started({}, Resolved({}), BootFacts(), cache), resolution={})
    marks = {"models_listed": False} if served is None else {}
    if engine.tls.insecure:
        marks["certificate_checked"] = False
    yield Serving(
        "attach",
        engine.url,
        model,
        simulated,
        reach=engine,
        configuration=configuration,
        marks=marks,
        hollow=listeners.hollow,
        listeners=listeners,
    )
