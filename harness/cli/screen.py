"""A block of lines that is kept up to date at the bottom of a terminal, and lines that appear above it.

Nothing is switched on that would have to be switched off: the cursor is never hidden and no key is held back, so that
the terminal is as it was however the process ends. The block is drawn over itself; where the terminal has become
narrower, its lines have been broken by the terminal since, and are counted so.
"""

import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # rich is loaded where a block is drawn
    from rich.text import Text

_ERASE_BELOW = "\x1b[J"
_ERASE_LINE = "\x1b[K"
_LEAST_COLUMNS = 20
_WIDEST = 10_000


def is_live(stream: TextIO, environment: "os._Environ[str] | dict[str, str]" = os.environ) -> bool:
    """Whether a block may be drawn: on a terminal that can move its cursor, and not in CI."""
    if environment.get("CI", "").lower() not in ("", "0", "false") or environment.get("TERM") in ("dumb", ""):
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


class Screen:
    """The bottom of a terminal; use as a context, which leaves nothing of the block behind."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console  # noqa: PLC0415 - only where a block is drawn

        self._stream = sys.stderr if stream is None else stream
        shown = Console(file=self._stream)
        colours: Any = shown.color_system
        # It makes texts for the stream, and never writes to it.
        self._console = Console(file=io.StringIO(), force_terminal=True, color_system=colours, width=_WIDEST)
        self._ascii_only = shown.options.ascii_only
        self._lock = threading.Lock()
        self._block: Sequence[Text] = ()
        self._drawn: list[int] = []  # columns of each line on the terminal
        self._before: dict[signal.Signals, Any] = {}
        self._stopped = False

    def __enter__(self) -> "Screen":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)}
            signal.signal(signal.SIGCONT, self._go_on)
            if self._before[signal.SIGTSTP] is signal.SIG_DFL:  # else no terminal can stop us
                signal.signal(signal.SIGTSTP, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._stopped = False
        self.draw(())

    @property
    def width(self) -> int:
        """Columns that a line may take: one is left free, where many terminals break a line."""
        return max(_LEAST_COLUMNS, self._size()[0]) - 1

    @property
    def ascii_only(self) -> bool:
        """Whether the terminal shows no line-drawing characters."""
        return self._ascii_only

    def draw(self, block: "Sequence[Text]") -> None:
        """Show a block in place of the last one."""
        with self._lock:
            self._block = block
            self._write("")

    def above(self, line: str) -> None:
        """Write a line that stays, above the block."""
        with self._lock:
            self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        """In one write: no half of it is ever seen."""
        if not self._in_front():
            if text:
                self._put(text)
            return
        columns, rows = self._size()
        back = self._back(columns)
        lines = list(self._block[: max(1, rows - 1)])
        over = bool(back and lines and not text)
        begin = _ERASE_LINE if over else ""
        shown = "".join(f"{begin}{self._rendered(line)}\n" for line in lines)
        if over:  # tmux keeps what is erased from the top of the screen on in its history, at every drawing
            self._put(f"{back}{shown}{_ERASE_BELOW}")
        elif back or text or shown:
            self._put(f"{back}{_ERASE_BELOW if back else ''}{text}{shown}")
        self._drawn = [line.cell_len for line in lines]

    def _back(self, columns: int) -> str:
        if not self._drawn:
            return ""
        rows = sum(max(1, -(-length // columns)) for length in self._drawn)
        return f"\r\x1b[{rows}A"

    def _rendered(self, line: "Text") -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return capture.get()

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # a terminal that is gone must not end what is being measured
            self._drawn = []

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = shutil.get_terminal_size()
        return size.columns or 80, size.lines or 24

    def _in_front(self) -> bool:
        """Whether the terminal is ours to draw on: a job in the background writes lines alone."""
        if self._stopped:
            return False
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell's lines will stand below the block, which is drawn anew when the job goes on."""
        self._stopped, self._drawn = True, []
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)

    def _go_on(self, _number: int, _frame: FrameType | None) -> None:
        """After fg or bg."""
        self._stopped, self._drawn = False, []
        if self._before.get(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._stop)
