"""A load that is timed again is the load that would have been served at that pace."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.simulator.engine_config import settings_from_flags
from harness.simulator.step_cost import TERMS, StepCost
from harness.simulator.virtual_time import Arrival, simulate

FLAGS = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "max_model_len": 2048, "max_num_batched_tokens": 256}
ARRIVAL = st.tuples(st.integers(1, 700), st.integers(1, 40))
FACTOR = st.floats(0.3, 3.0)


def arrivals_of(lengths, gap_ns=0):
    """Requests with prompts of their own, so many tokens in and out, at equal distances."""
    return [Arrival(place * gap_ns, [place] * size, most) for place, (size, most) in enumerate(lengths)]


def slower(engine, compute, host):
    """A device whose arithmetic and host are so many times as slow."""
    terms = TERMS["A2"]
    return StepCost(engine, replace(terms, matmul=terms.matmul / compute, step_s=terms.step_s * host))


@settings(max_examples=40)
@given(st.lists(ARRIVAL, min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 8), FACTOR, FACTOR)
def test_a_closed_loop_timed_again_is_the_one_served_at_that_pace(lengths, users, seqs, compute, host):
    """To the nanosecond, tokens, sending and steps, also where a cache of few blocks makes requests start over."""
    engine = settings_from_flags({**FLAGS, "max_num_seqs": seqs, "num_gpu_blocks_override": 18})
    arrivals, pace = arrivals_of(lengths), slower(engine, compute, host)
    again = simulate(engine, arrivals, concurrency=users).at_pace(pace)
    served = simulate(engine, arrivals, concurrency=users, cost=pace)

    assert all(np.array_equal(one, other) for one, other in zip(again.token_ns, served.token_ns, strict=True))
    assert np.array_equal(again.sent_ns, served.sent_ns)
    assert np.array_equal(again.step_ns, served.step_ns)


def test_requests_that_come_by_the_clock_have_no_course():
    """How long a step takes decides what waits when it ends; all at once is as good as a closed loop."""
    engine = settings_from_flags(FLAGS)
    lengths = [(100, 5)] * 4

    assert simulate(engine, arrivals_of(lengths, gap_ns=1_000_000)).course is None
    assert simulate(engine, arrivals_of(lengths)).course is not None
