"""What a command hands to the terminal: its outcome, and the progress of a run while it lasts.

Where stderr is a terminal a block is kept up to date, twice a second; elsewhere and in CI a few lines appear.
"""

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.cli.screen import Screen, is_live
from harness.errors import EXIT_DONE
from harness.messages import Message, localized

if TYPE_CHECKING:  # they load what `harness --help` has no time for
    from harness.cli.live_view import LiveBlock
    from harness.cli.plain_progress import PlainProgress
    from harness.results.progress import Progress, StudyProgress

_WIDEST = 10_000  # columns: lines are broken by the terminal, if at all
_BEGINS = ("workload.stage_begins", "workload.repeat_begins")
OutputLine = str | Message
OutputLog = Callable[[OutputLine], None]
"""What gets a line for stderr."""


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """How a command ended: lines for stdout, the exit code, and lines for stderr that explain it."""

    lines: Iterable[OutputLine]
    exit_code: int = EXIT_DONE
    errors: tuple[OutputLine, ...] = ()


def text_of(line: OutputLine) -> str:
    """A line in the language of the user."""
    return localized(line) if isinstance(line, Message) else line


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines in columns, those of `right` to the right; a Chinese character takes two columns."""
    from rich.console import Console  # noqa: PLC0415 - only where a table is shown
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in range(max(map(len, rows), default=0)):
        table.add_column(justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    if not rows:
        return []
    console = Console(width=_WIDEST, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def silent(_line: OutputLine) -> None:
    """The progress of a command with --quiet."""


_screens: "list[Screen]" = []  # the one that shows a block now, if any: lines to stderr go above it


def print_error(line: OutputLine) -> None:
    """Write a line to stderr, above the block that is shown there."""
    if _screens:
        _screens[-1].above(text_of(line))
    else:
        print(text_of(line), file=sys.stderr, flush=True)


class ProgressDisplay:
    """The progress of one run: a block on a terminal, a few lines elsewhere, nothing with --quiet; use as a context."""

    def __init__(self, log: OutputLog, *, quiet: bool = False) -> None:
        self._log: OutputLog = silent if quiet else log
        self._quiet = quiet
        self._stack = contextlib.ExitStack()
        self._lines: PlainProgress | None = None
        self._block: LiveBlock | None = None

    def __enter__(self) -> "ProgressDisplay":
        from harness.cli.plain_progress import PlainProgress  # noqa: PLC0415 - what `harness --help` has no time for

        live = not self._quiet and is_live(sys.stderr)
        self._lines = PlainProgress(self._log, often=not live)
        if live:
            from harness.cli.live_view import LiveBlock  # noqa: PLC0415 - rich, for a terminal alone

            screen = self._stack.enter_context(Screen())
            _screens.append(screen)
            self._stack.callback(_screens.remove, screen)
            self._block = LiveBlock(screen)
            self._stack.callback(self._block.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._block = None

    def show(self, line: OutputLine) -> None:
        """A line to keep; that a stage begins is told by the block, where there is one."""
        if self._block is None or not (isinstance(line, Message) and line.code in _BEGINS):
            self._log(line)

    def on_snapshot(self, progress: "Progress | StudyProgress") -> None:
        """What the run or the study is doing now."""
        if self._lines is not None:
            self._lines.show(progress)
        if self._block is not None:
            self._block.show(progress)
