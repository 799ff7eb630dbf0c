"""Does an engine run on a real CANN, or on a stand-in that computes nothing?"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

STAND_IN = "libcann_stub.so"


def is_hollow(group: int) -> bool:
    """Whether any process of a group has the stand-in's library mapped."""
    return any(map(has_stand_in, _members(group)))


def has_stand_in(pid: int) -> bool:
    """Whether a process has the stand-in's library mapped; of another user's process that is not known."""
    return STAND_IN in _maps(pid)


def _members(group: int) -> Iterator[int]:
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group:
                yield pid


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
