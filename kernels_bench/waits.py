"""How long threads waited for a core that another process had, by the scheduler's own account.

Threads that wait at a barrier for one that has no core make a kernel of 30 µs take 8 ms, and every time alike: spread
alone does not tell.
"""

from collections.abc import Mapping
from pathlib import Path

_THREADS = Path("/proc/self/task")


def waits(threads: Path = _THREADS) -> Mapping[str, int]:
    """Nanoseconds that each thread of this process was ready to run and did not, so far; empty where none is told."""
    return {schedstat.parent.name: _waited_ns(schedstat) for schedstat in threads.glob("*/schedstat")}


def _waited_ns(account: Path) -> int:
    """The second of three numbers: time on a core, time waiting for one, turns (Linux, scheduler/sched-stats.rst)."""
    try:
        return int(account.read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # a thread that ended, or a system that counts nothing


def waited_share(before: Mapping[str, int], after: Mapping[str, int], spent_ns: int) -> float:
    """Of the time between two looks, what the thread that waited most spent waiting: the others wait for it."""
    longest = max((waited - before.get(thread, 0) for thread, waited in after.items()), default=0)
    return longest / spent_ns if spent_ns > 0 else 0.0
