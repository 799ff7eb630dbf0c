"""The reference server as a process of its own, started and ended by what measures against it."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.errors import EngineError
from harness.messages import message
from harness.selfcheck.reference_server.ground_truth import TokenSchedule
from harness.units import NS_PER_S

_END_S = 30.0  # to write its log


@dataclass(frozen=True, slots=True)
class ReferenceServer:
    """A reference server that listens: where, and its process."""

    url: str
    pid: int


@contextmanager
def started(schedule: TokenSchedule, log: Path, *, life_s: float = 3600.0) -> Iterator[ReferenceServer]:
    """A reference server in a process of its own, which at the end of the context has written `log`.

    `ground_truth.read` reads the log. The server stays on the last of the cores that this process may
    use, because a server woken by its client tends to be put on the client's core, and would read a
    burst of requests only when all are sent. It ends with this process, however that dies, because it holds its stdin.

    Raises:
        EngineError: where it does not come up.
    """
    if not hasattr(select, "epoll"):
        raise EngineError(message("selfcheck.needs_epoll"))
    process = subprocess.Popen(
        _command(schedule, log, life_s),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(harness.__file__).parent.parent,  # found there even where the package is not installed
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().decode().strip()
        if not url:
            raise EngineError(message("selfcheck.did_not_start"))
        yield ReferenceServer(url, process.pid)
    finally:
        process.stdin.close()
        _wait(process)
        process.stdout.close()


def _command(schedule: TokenSchedule, log: Path, life_s: float) -> list[str]:
    return [
        *(sys.executable, "-m", "harness.selfcheck.reference_server", "--tied"),
        *("--first", str(schedule.first_ns / NS_PER_S), "--gap", str(schedule.gap_ns / NS_PER_S)),
        *("--chunk-tokens", str(schedule.per_event), "--model", schedule.model),
        *("--life", str(life_s), "--log", str(log.resolve())),
        *("--core", str(max(os.sched_getaffinity(0)))),
    ]


def _wait(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
