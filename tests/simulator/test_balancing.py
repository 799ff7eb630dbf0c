"""Who gets a request: vLLM's rules among data-parallel ranks."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.balancing import PUBLISHED_S, RankBalancer
from tests.virtual_loop import run_virtually


@dataclass
class Counts:
    """A rank with counts that a test sets."""

    name: int
    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    unfinished: int = 0
    chosen: list[int] = field(default_factory=list)

    def state(self):
        """The counts themselves."""
        return self


def published(ranks, choices):
    """The ranks that so many requests go to, once the coordinator has published."""

    async def main():
        balancer = RankBalancer(ranks)
        balancer.on_change()
        await asyncio.sleep(PUBLISHED_S)
        return [balancer.choose() for _ in range(choices)]

    return run_virtually(main)


def vllm_choices(counts, inflight, choices):
    """The choices of vLLM 0.32 with one client (`DPLBAsyncMPClient.get_core_engine_for_request`), written down anew."""
    lb_engines, inflight = [list(row) for row in counts], list(inflight)
    start, made = 0, []
    for _ in range(choices):
        least, found = float("inf"), 0
        for i in range(len(lb_engines)):
            idx = (start + i) % len(lb_engines)
            waiting, running, usage = lb_engines[idx]
            score = max(inflight[idx], waiting + running)
            if waiting:
                score += waiting * 6.0 * max(0.0, usage - 0.5)
            if score < least:
                least, found = score, idx
        lb_engines[found][0] += 1
        start = (start + 1) % len(lb_engines)
        made.append(found)
    return made


ROW = st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.integers(0, 20))


@given(rows=st.lists(ROW, min_size=2, max_size=6), choices=st.integers(1, 12))
def test_requests_go_where_vllm_sends_them(rows, choices):
    """On any counts, in flight and use of the caches: the choices are those of vLLM's loop."""
    ranks = [Counts(number, *row) for number, row in enumerate(rows)]

    assert published(ranks, choices) == vllm_choices([row[:3] for row in rows], [row[3] for row in rows], choices)


def test_equal_ranks_take_turns():
    """A burst to idle ranks goes round, though nothing is published in between."""
    assert published([Counts(number) for number in range(3)], 7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_queue_before_a_full_cache_weighs_more():
    """Two waiting at a full cache count as eight; at a half full one as two."""
    full, busy = Counts(0, waiting=2, kv_usage=1.0), Counts(1, running=5)

    assert published([full, busy], 1) == [1]
    full.kv_usage = 0.5
    assert published([full, busy], 1) == [0]


@pytest.mark.parametrize(("pause_s", "chosen"), [(0.05, 0), (0.11, 1)])
def test_counts_are_published_every_100_ms(pause_s, chosen):
    """What a rank counts is known only once it is published, 100 ms after the last time."""

    async def main():
        ranks = [Counts(0), Counts(1, running=1)]
        balancer = RankBalancer(ranks)
        balancer.on_change()
        await asyncio.sleep(0.001)
        ranks[0].running = 9
        balancer.on_change()
        await asyncio.sleep(pause_s)
        return balancer.choose()

    assert run_virtually(main) == chosen
