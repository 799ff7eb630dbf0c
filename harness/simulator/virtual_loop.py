"""An event loop in virtual time: its clock jumps to the next timer instead of waiting for it.

What runs on it takes as long as its computing takes, however long it lasts by its clock. Time stands still while
anything is ready to run. Nothing real may be awaited on it but calls from other threads (`call_soon_threadsafe`).
"""

import asyncio
import selectors
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.units import NS_PER_S

# Timers lie on whole nanoseconds: those of one run together, and none of the next with them.
_RESOLUTION_S = 0.6e-9


@dataclass(slots=True)
class _VirtualTime:
    """Whole nanoseconds from 0, the sum of the waits of a loop; `look` says what is ready, without waiting."""

    look: Callable[[float], list[Any]]
    now_ns: int = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        """What is ready; where nothing is, the time passes that the loop was ready to wait."""
        ready = self.look(0)
        if not ready and timeout is None:
            raise ValueError("nothing is ready and no timer is set: this would wait for ever")
        if not ready and timeout is not None:
            self.now_ns += round(timeout * NS_PER_S)
        return ready

    def now_s(self) -> float:
        """The same in seconds."""
        return self.now_ns / NS_PER_S


def virtual_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose time begins at 0 and is the sum of its waits."""
    selector = selectors.DefaultSelector()
    loop = asyncio.SelectorEventLoop(selector)
    time = _VirtualTime(selector.select)
    selector.select = time.select  # type: ignore[method-assign]
    loop.time = time.now_s  # type: ignore[method-assign]
    loop._clock_resolution = _RESOLUTION_S  # type: ignore[attr-defined] # noqa: SLF001 - that of a real clock is coarser
    return loop


class VirtualSleeper:
    """Sleeps to absolute times (ns) of the loop that runs; a `Sleeper` of the simulated engine."""

    async def until(self, due_ns: int) -> None:
        """Return at exactly `due_ns`."""
        loop = asyncio.get_running_loop()
        rung = loop.create_future()
        loop.call_at(due_ns / NS_PER_S, rung.set_result, None)
        await rung
