"""Several simulated engines under a load in virtual time behave as one, two or a pair of them do."""

import numpy as np
import pytest

from harness.errors import EngineError
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.step_cost import StepCost
from harness.simulator.virtual_deployments import pair_of, ranks_of, simulate_deployment
from harness.simulator.virtual_time import Arrival, simulate

SETTINGS = settings_from_flags({"model": "Qwen/Qwen2.5-0.5B-Instruct", "max_model_len": 4096})
FEW = [Arrival(0, [place] * 200, 20) for place in range(4)]
APART = [Arrival(place * 2_000_000_000, [place] * 500, 8) for place in range(3)]


class Slow:
    """Steps that take a second each."""

    def duration_ns(self, decodes, context, prefills, drafts=0, exchanged=0):
        """A second."""
        return 1_000_000_000


def test_one_rank_serves_as_the_engine_alone_does():
    """All tokens at the same times, where requests come by the clock and none waits for another."""
    alone, served = simulate(SETTINGS, APART), simulate_deployment(ranks_of(SETTINGS, 1), APART)

    assert served.sent_ns.tolist() == [arrival.at_ns for arrival in APART]
    for own, other in zip(served.token_ns, alone.token_ns, strict=True):
        assert own.tolist() == other.tolist()


def test_a_closed_loop_keeps_its_users_under_way():
    """The next request comes when one is answered, and all are."""
    run = simulate_deployment(ranks_of(SETTINGS, 1), FEW, concurrency=1)
    ends = [times[-1] for times in run.token_ns]

    assert [len(times) for times in run.token_ns] == [20] * 4
    assert run.sent_ns.tolist() == [0, *ends[:3]]


def test_ranks_share_the_requests():
    """Two ranks with a request each take as long as one with one."""
    one = simulate_deployment(ranks_of(SETTINGS, 1), FEW[:1])
    two = simulate_deployment(ranks_of(SETTINGS, 2), FEW[:2])

    assert [times.tolist() for times in two.token_ns] == [one.token_ns[0].tolist()] * 2


def test_a_pair_answers_after_prefill_and_hand_over():
    """A step of the one that reads, the transfer, and a step for each token of the one that writes."""
    run = simulate_deployment(pair_of(SETTINGS, 1, 1, Slow()), FEW[:1])
    first, second = run.token_ns[0][:2]

    assert len(run.token_ns[0]) == 20
    assert 2.0 < first / 1e9 < 2.1
    assert second - first == 1_000_000_000


def test_an_own_step_time_is_taken():
    """Each of 20 tokens takes a step."""
    run = simulate_deployment(ranks_of(SETTINGS, 1, Slow()), FEW[:1])

    assert np.diff(run.token_ns[0]).tolist() == [1_000_000_000] * 19
    assert StepCost(SETTINGS).duration_ns(1, 100, ()) < 1_000_000_000


def test_nothing_to_serve_ends_at_once():
    """No arrivals, no tokens."""
    assert simulate_deployment(ranks_of(SETTINGS, 2), []).token_ns == ()


def test_engines_that_would_not_start_say_so():
    """In the engine's own words."""
    with pytest.raises(EngineError, match="must be divisible"):
        simulate_deployment(ranks_of(settings_from_flags({"tensor_parallel_size": 3}), 2), FEW)
