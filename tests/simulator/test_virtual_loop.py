"""The virtual loop's time is the exact sum of its waits, and other threads reach it."""

import asyncio
import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clock import LoopClock
from harness.simulator.virtual_loop import VirtualSleeper
from tests.virtual_loop import run_virtually


@given(st.lists(st.integers(0, 10**14), min_size=1, max_size=20))
def test_timers_ring_at_exactly_their_nanosecond(due):
    """Whatever the times, up to a day, each sleep ends at the nanosecond that it was set to."""

    async def main():
        clock, rung = LoopClock(asyncio.get_running_loop()), []

        async def sleep(due_ns):
            await VirtualSleeper().until(due_ns)
            rung.append((due_ns, clock.now_ns()))

        await asyncio.gather(*map(sleep, due))
        return rung

    rung = run_virtually(main)
    assert [now for _, now in rung] == [asked for asked, _ in rung] == sorted(due)


def test_nothing_to_wait_for_is_a_fault():
    """A loop with no timer left and nothing ready would wait for ever, and says so."""
    with pytest.raises(ValueError, match="for ever"):
        run_virtually(lambda: asyncio.Event().wait())


def test_another_thread_reaches_it_while_it_runs():
    """A call from another thread is heard between two timers, as a signal's is."""

    async def main():
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        ticking = loop.create_task(tick())
        threading.Thread(target=loop.call_soon_threadsafe, args=(heard.set,)).start()
        await heard.wait()
        return ticking.cancel()

    async def tick():
        for _ in itertools.count():
            await asyncio.sleep(1)

    assert run_virtually(main)
