"""What does Ctrl-C mean: once, stop and report what there is; twice, leave at once?"""

import asyncio
import signal
from collections.abc import Callable


class Interrupts:
    """Counts interrupts (SIGINT, SIGTERM) during a run; use as a context on a running event loop.

    The first calls `on_first` where one is set, else ends the run as the second does: by
    cancelling the task that made this.
    """

    def __init__(self) -> None:
        self.count = 0
        self.on_first: Callable[[], None] | None = None
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> "Interrupts":
        self._task = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _interrupted(self) -> None:
        self.count += 1
        if self.count == 1 and self.on_first is not None:
            self.on_first()
        elif self._task is not None:
            self._task.cancel()
