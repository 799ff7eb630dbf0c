"""What a command hands to the terminal: its outcome, and the progress of a run while it lasts.

Where stderr is a terminal one line is kept up to date, twice a second; elsewhere (CI) only lines appear.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import EXIT_DONE
from harness.messages import Message, localized

if TYPE_CHECKING:  # it loads what `harness --help` has no time for
    from harness.results.progress import Progress

_WIDEST = 10_000  # columns: lines are broken by the terminal, if at all
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


class ProgressDisplay:
    """Progress of one run, summed over its workers; use as a context."""

    def __init__(self, log: OutputLog) -> None:
        self._log = log
        self._status: Any = None
        self._text = ""

    def __enter__(self) -> "ProgressDisplay":
        if sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - only for a terminal

            self._status = Console(stderr=True).status(localized("cli.starting"))
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, line: OutputLine) -> None:
        """A line to keep."""
        self._text = text_of(line)
        self._log(line)
        if self._status is not None:
            self._status.update(self._text)

    def on_snapshot(self, progress: "Progress") -> None:
        """What the run is doing now."""
        if self._status is not None and progress.stage is not None:
            stage = progress.stage
            counts = {"sent": stage.sent, "in_flight": stage.in_flight, "done": stage.answered, "failed": stage.failed}
            self._status.update(localized("cli.progress", stage=self._text, **counts))
