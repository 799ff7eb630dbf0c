"""Clocks: the one monotonic clock, alarms to absolute times, and the relation of other clocks to it.

One monotonic clock (CLOCK_MONOTONIC, the same in every process of a machine) in integer
nanoseconds. Wall time appears once, in run.json; and the kernel's stamps of what arrives are of it, so
that `StampClock` has to relate the two. The load code reads time and sets alarms
only through a `Clock`, so that tests run it in virtual time.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from harness.units import NS_PER_S

monotonic_ns = time.monotonic_ns
VIRTUAL_TIME, REAL_TIME = "virtual", "real"  # whose time a simulated engine keeps: computed, or waited for

_CLOCK_MONOTONIC = 1
_TFD_FLAGS = 0o2004000  # TFD_NONBLOCK | TFD_CLOEXEC
_TFD_ABSTIME = 1
REFRESH_NS = 20_000_000
_TRIES = 5
_STEP_NS = 50_000  # the clocks part by a fraction of that between two looks, however the wall clock is disciplined


class Alarm(Protocol):
    """One call at one absolute time, set again as often as needed."""

    def set(self, due_ns: int) -> None:
        """Ring at `due_ns`, or at once where that has passed; an earlier setting is dropped."""

    def close(self) -> None:
        """Never ring again."""


class Clock(Protocol):
    """Now, and calls at absolute times; all in nanoseconds of one monotonic clock."""

    def now_ns(self) -> int:
        """The present time."""

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `callback` on the event loop at `due_ns`, to about a millisecond."""

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """An alarm that runs `callback` as exactly as this clock can."""


class LoopClock:
    """The event loop's own time: what a test's virtual loop says it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        """The loop's time in nanoseconds."""
        return round(self._loop.time() * NS_PER_S)

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `callback` when the loop's time reaches `due_ns`."""
        return self._loop.call_at(due_ns / NS_PER_S, callback)

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """An alarm on the loop's timers."""
        return _LoopAlarm(self, callback)


class MonotonicClock:
    """The machine's monotonic clock; uvloop's own time has only millisecond steps."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now_ns = time.monotonic_ns  # bound directly: it is read at every socket read

    def call_at(self, due_ns: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Run `callback` at `due_ns`, to the loop's timer resolution (1 ms under uvloop)."""
        return self._loop.call_later(max(0, due_ns - self.now_ns()) / NS_PER_S, callback)

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """An alarm on a kernel timer where there is one (about 50 µs), else on the loop's timers."""
        if sys.platform == "linux":
            return _KernelAlarm(self._loop, callback)
        return _LoopAlarm(self, callback)


class _LoopAlarm:
    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due_ns: int) -> None:
        self.close()
        self._handle = self._clock.call_at(due_ns, self._callback)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class KernelTimer:
    """A Linux timerfd (timerfd_create(2)): its descriptor can be read once its time has come, until it is set again.

    Raises:
        OSError: where the kernel gives no timer.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._set = self._libc.timerfd_settime
        self._spec = (ctypes.c_long * 4)()  # itimerspec: interval s, ns; first expiry s, ns
        self._place = ctypes.byref(self._spec)

    def set(self, due_ns: int) -> None:
        """Ring at `due_ns`, or at once where that has passed."""
        self._spec[2], self._spec[3] = divmod(max(due_ns, 1), NS_PER_S)
        self._set(self.fd, _TFD_ABSTIME, self._place, None)

    def ring_in(self, span_ns: int) -> None:
        """Ring after so many ns (below a second); with 0 not at all."""
        self._spec[2], self._spec[3] = 0, span_ns
        self._set(self.fd, 0, self._place, None)

    def close(self) -> None:
        """Never ring again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _KernelAlarm:
    """A kernel timer read by the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._timer = KernelTimer()
        self.set = self._timer.set
        self._loop = loop
        self._callback = callback
        loop.add_reader(self._timer.fd, self._ring)

    def _ring(self) -> None:
        try:
            os.read(self._timer.fd, 8)
        except BlockingIOError:  # set again between its ringing and this call
            return
        self._callback()

    def close(self) -> None:
        if self._timer.fd >= 0:
            self._loop.remove_reader(self._timer.fd)
            self._timer.close()


class StampClock:
    """Turns the kernel's stamps (realtime) into monotonic nanoseconds.

    `bound_ns` is how far the relation of the two clocks was uncertain at worst, `stepped_ns` the largest
    change of it between two looks: a clock that was set in the middle of a run.
    """

    def __init__(self) -> None:
        self.offset_ns, self.bound_ns = _relation()
        self.stepped_ns = 0
        self._looked_ns = time.monotonic_ns()

    def refresh(self) -> None:
        """Look again at how the two clocks stand; called every few hundredths of a second while load runs."""
        self._looked_ns = time.monotonic_ns()
        offset_ns, bound_ns = _relation()
        change_ns = abs(offset_ns - self.offset_ns)
        if change_ns > bound_ns + _STEP_NS:
            self.stepped_ns = max(self.stepped_ns, change_ns)
        self.offset_ns = offset_ns
        self.bound_ns = max(self.bound_ns, bound_ns)

    def refresh_if_old(self) -> None:
        """Look again where the last look is more than `REFRESH_NS` old."""
        if time.monotonic_ns() - self._looked_ns > REFRESH_NS:
            self.refresh()


def _relation() -> tuple[int, int]:
    """Realtime less monotonic, in ns, and half the time that reading both took: the best of a few tries."""
    best = (0, 1 << 62)
    for _ in range(_TRIES):
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        best = min(best, (wall_ns - (before_ns + after_ns) // 2, (after_ns - before_ns + 1) // 2), key=lambda it: it[1])
    return best


def utc_now() -> datetime:
    """Wall time, for run.json and folder names only; never for a latency."""
    return datetime.now(timezone.utc)
