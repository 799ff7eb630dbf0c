"""A guardian process: it ends an engine when the harness cannot, because it was killed.

A program of its own, run by path with the standard library alone:

    python -I -S guardian.py GRACE_S COMMAND...

It starts the command in a new session, prints its process id, and waits. When its standard input
ends (the harness is gone, however it went), on SIGTERM, or when the command ends, it sends
SIGTERM to what is left, SIGKILL after the grace period, and exits with the command's status (128 + n after
signal n). Only the session it started and processes orphaned by it are ever signalled.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILLED_S = 10.0  # how long the kernel may take to free what was killed; device drivers are slow at it
_POLL_S = 0.05
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(argv: list[str]) -> int:
    """Guard one command until it, or whoever wants it, has ended; its exit status."""
    woken = _wake_on_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        leader = _start(argv[1:])
    except OSError as error:
        sys.stderr.write(f"{argv[1]} cannot be run ({error.strerror})\n")
        return 127
    _print_pid(leader.pid)
    _wait(leader, woken)
    _end(leader, float(argv[0]))
    status = leader.wait()
    return status if status >= 0 else 128 - status


def _wake_on_signals() -> int:
    """A file descriptor that becomes readable, with the signals' numbers, when one comes."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    for number in (*_ENDING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return woken


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        # This process has one thread; were it killed itself, the engine gets SIGTERM.
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - one thread, see above
    )


def _print_pid(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"{pid}\n".encode())


def _wait(leader: subprocess.Popen[bytes], woken: int) -> None:
    """Until the command has ended, or nobody wants it any more."""
    while not _ended(leader):
        readable, _, _ = select.select([0, woken], [], [])
        if 0 in readable and not os.read(0, 4096):
            return
        if woken in readable and set(os.read(woken, 4096)) & set(_ENDING):
            return


def _ended(leader: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, without reaping it: as a zombie it keeps its number, so no stranger gets it."""
    if not hasattr(os, "waitid"):
        return leader.poll() is not None
    return os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(leader: subprocess.Popen[bytes], grace_s: float) -> None:
    """Send SIGTERM to all that is left, and kill what has not gone after the grace period."""
    _signal_group(leader.pid, signal.SIGTERM)
    begin, signalled = time.monotonic(), set()
    while left := set(_left(leader)):
        waited_s = time.monotonic() - begin
        if waited_s > grace_s + _KILLED_S:
            return
        if waited_s > grace_s:
            _signal_group(leader.pid, signal.SIGKILL)
        for pid in _adopted(left, leader.pid):
            if waited_s > grace_s or pid not in signalled:
                _signal(pid, signal.SIGKILL if waited_s > grace_s else signal.SIGTERM)
                signalled.add(pid)
        time.sleep(_POLL_S)


def _left(leader: subprocess.Popen[bytes]) -> Iterator[int]:
    """Living processes of the leader's group, and orphans of it that this process has adopted."""
    if not Path("/proc/self/stat").exists():
        if leader.poll() is None:
            yield leader.pid
        return
    for pid, state, parent, group in _processes():
        if state in "ZX":
            if parent == os.getpid() and pid != leader.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        elif group == leader.pid or parent == os.getpid():
            yield pid


def _processes() -> Iterator[tuple[int, str, int, int]]:
    """Number, state, parent and group of every process."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - no Path for each of thousands of processes
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                words = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry), words[0], int(words[1]), int(words[2])


def _adopted(left: set[int], group: int) -> Iterator[int]:
    """Those that left the group: they are children of this process now, so their numbers are theirs."""
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) != group:
                yield pid


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
