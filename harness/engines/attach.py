"""How is a server used that somebody else started?"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from harness.engines.base import Serving
from harness.engines.bootlog import BootFacts
from harness.engines.control import Control, pick_model
from harness.engines.resolving import Resolved, started
from harness.scenario.models import Engine


@asynccontextmanager
async def attach(engine: Engine, log: Path) -> AsyncIterator[Serving]:  # noqa: ARG001 - its log is its owner's
    """Use the server at `engine.url`; it is neither started nor stopped.

    Raises:
        EngineError: where it cannot be reached or does not have the model.
    """
    assert engine.url is not None
    async with Control(engine.url, engine.api_key_env) as control:
        model = pick_model(engine.model, await control.models(), engine.url)
        cache = await control.effective()
        simulated = control.simulated
    configuration = replace(started({}, Resolved({}), BootFacts(), cache), resolution={})
    yield Serving("attach", engine.url, model, simulated, engine.api_key_env, configuration=configuration)
