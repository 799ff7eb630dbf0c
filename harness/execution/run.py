"""The one orchestrator: a scenario becomes a result folder of raw files, by the strategy of its kind of work.

The strategies are `serve` (requests to a server), `virtual` (requests to the simulator in virtual time), `offline`
(calls of `LLM.generate`) and `kernels`. Each writes what it measures to files at once; `reconcile.finish` makes the
result of them.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.clock import REAL_TIME, VIRTUAL_TIME
from harness.engines import auto_kind, resolve_clock, resolve_kind
from harness.engines.simulator import KIND as SIMULATOR
from harness.errors import HarnessError, InputError
from harness.execution.kernels import run_kernels
from harness.execution.offline import run_offline
from harness.execution.run_folder import RunOutcome, RunSpec, open_folder
from harness.execution.serve import run_served
from harness.execution.virtual import run_virtual
from harness.messages import Message, message
from harness.results import store
from harness.scenario.engine import DEPLOYMENT

__all__ = ["RunOutcome", "RunSpec", "drop_if_empty", "execute", "execute_async", "has_begun", "open_folder", "run_load"]

_CLOCKS = {VIRTUAL_TIME: "execution.clock_virtual", REAL_TIME: "execution.clock_real"}


def execute(spec: RunSpec) -> RunOutcome:
    """Run a scenario into a new folder of raw files; no event loop may be running in this thread.

    Raises:
        HarnessError: where the engine does not come up; a folder without a request is removed again.
    """
    with _without_remains(spec):
        if spec.loaded.scenario.kernels is not None:
            return run_kernels(spec)
        open_folder(spec)
        return asyncio.run(run_load(spec))


async def execute_async(spec: RunSpec) -> RunOutcome:
    """The same on the event loop that is running; kernels are measured by a thread beside it.

    Raises:
        HarnessError: where the engine does not come up; a folder without a request is removed again.
    """
    with _without_remains(spec):
        if spec.loaded.scenario.kernels is not None:
            return await asyncio.to_thread(run_kernels, spec)
        open_folder(spec)
        return await run_load(spec)


async def run_load(spec: RunSpec) -> RunOutcome:
    """Run the stages of a scenario whose folder is open.

    Raises:
        HarnessError: where the engine does not come up or cannot do what the scenario asks.
    """
    kind, reason = resolve_kind(spec.loaded.scenario.engine)
    spec.on_progress(message("execution.engine_kind", kind=kind, reason=reason))
    if spec.loaded.scenario.is_offline:
        return await run_offline(spec, kind)
    if kind in (SIMULATOR, DEPLOYMENT):
        engine = spec.loaded.scenario.engine
        clock, why = resolve_clock(engine, auto_kind(engine))
        spec.on_progress(message("execution.clock", clock=Message(_CLOCKS[clock]), reason=why))
        if clock == VIRTUAL_TIME:
            return await run_virtual(spec)
    return await run_served(spec, kind)


def has_begun(folder: Path) -> bool:
    """Whether a run sent anything, so that there is something to report."""
    return (folder / store.RAW / store.BEGUN).exists()


@contextlib.contextmanager
def _without_remains(spec: RunSpec) -> Iterator[None]:
    """Where a run fails before its first request, its folder goes, and a wrong value is named by where it stands."""
    belongs_to_another = (spec.folder / store.RUN).exists() or (spec.folder / store.RAW).exists()
    try:
        yield
    except (HarnessError, KeyboardInterrupt, asyncio.CancelledError) as fault:
        if not belongs_to_another and not has_begun(spec.folder):
            drop_if_empty(spec.folder)
        if isinstance(fault, InputError):
            raise InputError(*map(spec.loaded.located, fault.messages)) from None
        raise


def drop_if_empty(folder: Path) -> None:
    """Remove what a run that never began left, but for an engine's log; an empty parent goes as well."""
    if not folder.is_dir():  # it could not be made: a file may stand in its place
        return
    shutil.rmtree(folder / store.RAW, ignore_errors=True)
    (folder / store.RUN).unlink(missing_ok=True)
    for log in folder.glob("engine*.log"):
        if not log.stat().st_size:
            log.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
        with contextlib.suppress(OSError):  # not empty: other results live there
            Path("results").rmdir()
