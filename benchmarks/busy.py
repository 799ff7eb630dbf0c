"""Other work on this machine, on purpose: processes that burn a share of the cores, and stops of another process."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

_PERIOD_S = 0.02


def _burn(share: float, nice: int, life_s: float) -> None:
    if nice:
        os.nice(nice)
    parent, end = os.getppid(), time.monotonic() + life_s
    while time.monotonic() < end and os.getppid() == parent:
        begin = time.monotonic()
        while time.monotonic() - begin < share * _PERIOD_S:
            pass
        if share < 1:
            time.sleep(max(0.0, (1 - share) * _PERIOD_S))


@contextmanager
def burning(processes: int, share: float, *, nice: int = 0, life_s: float = 300.0) -> Iterator[None]:
    """Run `processes` that each use `share` of a core, until the context ends."""
    context = multiprocessing.get_context("fork")
    burners = [context.Process(target=_burn, args=(share, nice, life_s), daemon=True) for _ in range(processes)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def load_workers(command_pid: int) -> list[int]:
    """The load-generating processes of a running `harness run`."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(command_pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "harness.client.worker" in child.cmdline():
                    found.append(child.pid)
    return found


@contextmanager
def disturbing(pids: Callable[[], list[int]], stop_s: float, every_s: float) -> Iterator[None]:
    """Stop (SIGSTOP) the processes for `stop_s`, every `every_s`, until the context ends; they are running after it."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every_s):
            chosen = pids()
            for pid in chosen:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)
            over.wait(stop_s)
            for pid in chosen:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT)

    with meanwhile(work, over):
        yield


@contextmanager
def meanwhile(work: Callable[[], None], over: threading.Event) -> Iterator[None]:
    """Do `work` in a thread beside the context; `over` is set at its end, and the work has ended then."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
