"""How is a machine seen: which files, devices, commands and variables?

All reading goes through a `Probe`, so that a machine can also be one that was recorded.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed (output and errors), and its exit status; None where it could not be run to its end."""

    status: int | None
    text: str

    @property
    def good(self) -> bool:
        """Whether it ran and succeeded."""
        return self.status == 0


@dataclass(frozen=True, slots=True)
class Probe:
    """Eyes on a machine: run a command, read a file, list paths, find a program, try to open a device, variables."""

    run: Callable[[Sequence[str]], Answer]
    read: Callable[[str], str | None]
    paths: Callable[[str], list[str]]
    which: Callable[[str], str | None]
    may_open: Callable[[str], bool]
    env: Mapping[str, str]

    def program(self, name: str, *places: str) -> str | None:
        """A program on the search path or in one of the places it is known to be put."""
        return self.which(name) or next((place for place in places if self.paths(place)), None)

    def first_line(self, path: str) -> str | None:
        """The first line of a file; None where there is none."""
        lines = (self.read(path) or "").strip().splitlines()
        return lines[0].strip() if lines else None


def this_machine(more: Mapping[str, str] | None = None) -> Probe:
    """The machine that this runs on; its commands get the variables `more` beside those they inherit."""
    env = {**os.environ, **(more or {})}
    return Probe(
        run=partial(_run, env),
        read=_read,
        paths=lambda pattern: sorted(glob(pattern)),  # noqa: PTH207 - absolute patterns are not for Path.glob
        which=shutil.which,
        may_open=lambda path: os.access(path, os.R_OK | os.W_OK),
        env=env,
    )


def _run(env: Mapping[str, str], command: Sequence[str]) -> Answer:
    try:
        done = subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        return Answer(None, str(fault))
    return Answer(done.returncode, done.stdout.decode("utf-8", "replace"))


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
