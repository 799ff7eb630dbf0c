"""How does a task sleep to an absolute time more exactly than an event loop's milliseconds?"""

import asyncio
from types import TracebackType

from harness.clock import MonotonicClock, monotonic_ns

EARLY_NS = 50_000  # waking this little before the time is as good as at it


class Alarm:
    """A clock's alarm for one task: `async with Alarm() as alarm: await alarm.until(end_ns)`."""

    def __init__(self) -> None:
        self._rung: asyncio.Future[None] | None = None

    async def __aenter__(self) -> "Alarm":
        self._alarm = MonotonicClock(asyncio.get_running_loop()).alarm(self._ring)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.close()

    async def until(self, due_ns: int) -> None:
        """Return at `due_ns` of the monotonic clock; give way to other tasks once even where that has passed."""
        if due_ns - monotonic_ns() <= EARLY_NS:
            await asyncio.sleep(0)
            return
        self._rung = asyncio.get_running_loop().create_future()
        self._alarm.set(due_ns)
        await self._rung

    def _ring(self) -> None:
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(None)
