"""How does a person at a terminal see that a run goes on, without disturbing it?

On a terminal one line is kept up to date, twice a second; elsewhere (CI) only the lines that
`say` gets appear.
"""

import sys
from collections.abc import Callable
from typing import Any


class Progress:
    """Progress of one run, summed over its workers; use as a context."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._samples: dict[int, dict[str, Any]] = {}
        self._status: Any = None
        self._text = ""

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - only for a terminal

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, line: str) -> None:
        """A line to keep."""
        self._samples.clear()
        self._text = line
        self._say(line)
        if self._status is not None:
            self._status.update(line)

    def on_sample(self, worker: int, sample: dict[str, Any]) -> None:
        """What a worker counts now."""
        self._samples[worker] = sample
        if self._status is not None:
            counts = {
                name: sum(s[name] for s in self._samples.values()) for name in ("sent", "in_flight", "done", "failed")
            }
            shown = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
            self._status.update(f"{self._text} · {shown}")
