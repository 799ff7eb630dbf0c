"""Signals to end: the first stops and reports what there is, the second leaves at once.

Ctrl-C (SIGINT), SIGTERM and a closed terminal (SIGHUP) mean the same at every moment of a command. While an event
loop runs, `Interrupts` hears them; while files are written, `writing`; at any other time they raise
KeyboardInterrupt, as Ctrl-C does.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from harness.errors import EXIT_ENGINE, EXIT_INPUT
from harness.messages import Message, message

if TYPE_CHECKING:  # loaded where a loop runs: it takes a third of the time of `harness --help`
    import asyncio

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = message("safety.interrupted")
NOTHING = message("safety.interrupted_before_load")

_heard: list[int] = []  # a process has one set of signals; the first decides how its exit is told
T = TypeVar("T")


def shell_exit_code(code: int) -> int:
    """The exit status of an outcome: after a signal 128 + its number, as in a shell, unless something else failed."""
    return 128 + _heard[0] if _heard and code not in (EXIT_INPUT, EXIT_ENGINE) else code


def was_interrupted() -> bool:
    """Whether a signal to end was heard since the command began."""
    return bool(_heard)


def signal_name() -> str:
    """The name of the first signal that was heard; Ctrl-C where it was none that we know of."""
    return signal.Signals(_heard[0]).name if _heard and _heard[0] != signal.SIGINT else "Ctrl-C"


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """For the time of a whole command: every signal to end raises KeyboardInterrupt where nothing else hears it."""
    _heard.clear()
    with _handled(_raise):
        yield


@contextlib.contextmanager
def writing(log: Callable[[Message], None]) -> Iterator[None]:
    """While results are written: the first signal is only noted, since what is left takes seconds; the next leaves."""

    def handler(number: int, _frame: FrameType | None) -> None:
        if _counts(number):
            if len(_heard) > 1:
                raise KeyboardInterrupt
            log(message("safety.interrupted_while_writing"))

    with _handled(handler):
        yield


def _raise(number: int, _frame: FrameType | None) -> None:
    if _counts(number):
        raise KeyboardInterrupt


def _counts(number: int) -> bool:
    """Note a signal; whether it is one more. A closed terminal is told twice: by the kernel and by the shell."""
    if number == signal.SIGHUP:
        _leave_dead_terminal()
        if number in _heard:
            return False
    _heard.append(number)
    return True


def _leave_dead_terminal() -> None:
    """Nothing can be written to a terminal that is gone: what is left to say goes nowhere, and harms nothing."""
    import termios  # noqa: PLC0415 - absent where there is no SIGHUP

    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as fault:
            if fault.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals so, and then as before; a SIGHUP that is ignored (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    chosen = [number for number in ENDING if number != signal.SIGHUP or before[number] is not signal.SIG_IGN]
    for number in chosen:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in chosen:
            signal.signal(number, before[number])


class Interrupts:
    """Counts signals to end during a run; use as a context on a running event loop.

    The first calls `on_first` where one is set, else ends the run as the second does: by cancelling the task that
    made this, once. What that task does on its way out is bounded, and no further signal breaks it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.on_first: Callable[[], None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving = False
        self._reacted = 0
        self._handled = _handled(self._hear)

    def __enter__(self) -> "Interrupts":
        import asyncio  # noqa: PLC0415 - see above

        self._task, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        self._handled.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handled.__exit__(None, None, None)

    def leave(self) -> None:
        """From now on signals are only counted: all is measured, and what is left is to be closed and written."""
        self._leaving = True

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if _counts(number) and self._loop is not None:
            self.count += 1
            self._loop.call_soon_threadsafe(self._react)

    def _react(self) -> None:
        self._reacted += 1
        if self._leaving:
            return
        if self._reacted == 1 and self.on_first is not None:
            self.on_first()
        elif self._task is not None:
            self._leaving = True
            self._task.cancel()


def completed(loop: "asyncio.AbstractEventLoop", job: Awaitable[T], *, breakable: bool = True) -> tuple[T, bool]:
    """Run a job on a loop to its end; what it gave, and whether a signal came meanwhile.

    Raises:
        KeyboardInterrupt: after a signal that cancelled it; one that is not breakable is only told.
    """
    import asyncio  # noqa: PLC0415 - see above

    interrupts = Interrupts()

    async def heard_of() -> T:
        with interrupts:
            if not breakable:
                interrupts.leave()
            return await job

    try:
        return loop.run_until_complete(heard_of()), interrupts.count > 0
    except asyncio.CancelledError:
        if interrupts.count:
            raise KeyboardInterrupt from None
        raise
