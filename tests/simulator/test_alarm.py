"""The alarm never rings early, whatever clock it has."""

import asyncio
from pathlib import Path

import pytest

from harness import clock
from harness.clock import monotonic_ns
from harness.simulator.engine import EARLY_NS, TaskAlarm


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("ahead_ns", [-1_000_000, 0, 100_000, 3_000_000])
def test_it_rings_when_due(monkeypatch, platform, ahead_ns):
    """Not before the time, again and again, with the kernel's timer and with the loop's."""
    monkeypatch.setattr(clock.sys, "platform", platform)

    async def ring():
        early = []
        async with TaskAlarm() as alarm:
            for _ in range(3):
                due_ns = monotonic_ns() + ahead_ns
                await alarm.until(due_ns)
                early.append(due_ns - monotonic_ns())
        return early

    assert max(asyncio.run(ring())) <= EARLY_NS


def test_others_run_while_it_waits():
    """Even a time that has passed gives way to what is ready."""
    seen = []

    async def ring():
        async with TaskAlarm() as alarm:
            asyncio.get_running_loop().call_soon(seen.append, "ready")
            await alarm.until(0)

    asyncio.run(ring())

    assert seen == ["ready"]


def open_files():
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_cancelled_wait_leaves_no_timer():
    """The task ends, the descriptor is closed, and a late ring hurts nobody."""

    async def ring():
        async with TaskAlarm() as alarm:
            task = asyncio.create_task(alarm.until(monotonic_ns() + 3_600 * 10**9))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await alarm.until(monotonic_ns() + 500_000)
            before = open_files()
        return before - open_files()

    assert asyncio.run(ring()) == 1
