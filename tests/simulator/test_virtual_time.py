"""The engine keeps the same times in virtual and in real time."""

import asyncio

import numpy as np
import pytest

from harness.errors import InputError
from harness.simulator.engine import SimulatedEngine, limits_of
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from harness.simulator.request_parsing import answer_tokens
from harness.simulator.scheduler_types import Request
from harness.simulator.step_cost import StepCost
from harness.simulator.virtual_time import Arrival, simulate, simulate_in_turn

MS = 1_000_000
FLAGS = {"model": "Qwen/Qwen2.5-7B-Instruct", "max_num_batched_tokens": 512, "max_num_seqs": 16, "max_model_len": 2048}


def arrivals_of(seed, count=40, gap_ms=15):
    """Random arrivals, some with a shared prefix, bursts and pauses among them."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(0, 1000, 300).tolist()
    at_ms = np.cumsum(rng.choice([0, 1, gap_ms, 40 * gap_ms], count, p=[0.3, 0.3, 0.35, 0.05]))
    made = []
    for at in at_ms:
        own = rng.integers(0, 1000, int(rng.integers(1, 900))).tolist()
        made.append(
            Arrival(int(at) * MS + 17, [*prefix, *own] if rng.random() < 0.5 else own, int(rng.integers(1, 250)))
        )
    return made


class Played:
    """A clock and an alarm that jump, and requests that come while it jumps."""

    def __init__(self, settings, arrivals):
        memory = memory_of(settings)
        self.at_ns = 0
        self.engine = SimulatedEngine(
            limits_of(settings, memory.num_blocks, memory.max_model_len), StepCost(settings), lambda: self.at_ns
        )
        self.times = [[] for _ in arrivals]
        vocab = settings.shape.vocab
        self.coming = [
            (
                arrival.at_ns,
                place,
                Request(str(place), arrival.prompt, arrival.max_tokens, answer_tokens(arrival.prompt, vocab)),
            )
            for place, arrival in enumerate(arrivals)
        ]

    async def until(self, due_ns):
        """Jump to `due_ns`, by way of the arrivals before it."""
        while self.coming and self.coming[0][0] <= due_ns:
            self._come()
        self.at_ns = due_ns

    def _come(self):
        self.at_ns, place, request = self.coming.pop(0)
        self.engine.submit(request, lambda: self.times[place].append(self.at_ns))

    async def play(self):
        """Serve all arrivals."""
        task = asyncio.create_task(self.engine.run_by(self))
        while True:
            await self.engine.idle.wait()
            if not self.coming:
                break
            self._come()
            while self.coming and self.coming[0][0] == self.at_ns:
                self._come()
            await asyncio.sleep(0)
        task.cancel()


@pytest.mark.parametrize("flags", [{}, {"num_gpu_blocks_override": 25}, {"enable_prefix_caching": False}])
@pytest.mark.parametrize("seed", range(4))
def test_both_clocks_give_every_token_the_same_time(seed, flags):
    """The server's engine, played on a jumping clock, and `simulate` agree to the nanosecond."""
    settings = settings_from_flags({**FLAGS, **flags})
    arrivals = arrivals_of(seed)
    played = Played(settings, arrivals)
    asyncio.run(played.play())
    simulated = simulate(settings, arrivals)

    assert [times.tolist() for times in simulated.token_ns] == played.times
    assert simulated.preemptions.sum() == played.engine.scheduler.counters.preemptions
    assert ("num_gpu_blocks_override" in flags) <= (simulated.preemptions.sum() > 0)


def test_every_request_gets_its_tokens_in_order():
    """As many as asked, after its arrival, each later than the one before."""
    arrivals = arrivals_of(9)
    simulated = simulate(settings_from_flags(FLAGS), arrivals)

    assert simulated.output_tokens == sum(arrival.max_tokens for arrival in arrivals)
    for arrival, times in zip(arrivals, simulated.token_ns, strict=True):
        assert len(times) == arrival.max_tokens
        assert times[0] > arrival.at_ns
        assert (np.diff(times) > 0).all()


def test_a_closed_loop_keeps_its_concurrency():
    """Three users send the next request at the end of the one before; nobody waits without need."""
    arrivals = [Arrival(0, [number] * 40, 5 + number) for number in range(9)]
    simulated = simulate(settings_from_flags(FLAGS), arrivals, concurrency=3)
    ends = sorted(times[-1] for times in simulated.token_ns)

    assert simulated.running.max() == 3
    assert simulated.sent_ns[:3].tolist() == [0, 0, 0]
    assert sorted(simulated.sent_ns[3:].tolist()) == ends[:6]


def test_an_open_loop_sends_when_due():
    """However busy the engine is."""
    arrivals = arrivals_of(3)

    assert simulate(settings_from_flags(FLAGS), arrivals).sent_ns.tolist() == [a.at_ns for a in arrivals]


def test_an_idle_engine_starts_when_a_request_comes():
    """The first token of a lone request takes one step, however late it comes."""
    settings = settings_from_flags(FLAGS)
    early, late = (simulate(settings, [Arrival(at_ns, [1] * 100, 1)]) for at_ns in (0, 3_600_000 * MS))
    step_ns = StepCost(settings).duration_ns(0, 0, [(100, 0)])

    assert early.token_ns[0].tolist() == [step_ns]
    assert late.token_ns[0].tolist() == [3_600_000 * MS + step_ns]
    assert late.step_ns.size == 1


def test_a_full_cache_costs_time():
    """Fewer blocks, same arrivals: preemptions, and a later end."""
    arrivals = [Arrival(0, [number] * 500, 200) for number in range(12)]
    roomy = simulate(settings_from_flags(FLAGS), arrivals)
    tight = simulate(settings_from_flags({**FLAGS, "num_gpu_blocks_override": 40}), arrivals)

    assert roomy.preemptions.sum() == 0
    assert tight.preemptions.sum() > 0
    assert tight.step_ns[-1] > roomy.step_ns[-1]


def test_a_prompt_beyond_the_context_is_refused():
    """With its place, its length and what fits."""
    with pytest.raises(InputError, match=r"request 1: a prompt of 2048 tokens .* expected 1 to 2047"):
        simulate(settings_from_flags(FLAGS), [Arrival(0, [1], 1), Arrival(0, [1] * 2048, 1)])


def test_batches_follow_each_other_on_a_warm_cache():
    """The first is served as alone, the next begins where it ends and finds the same prompts in the cache."""
    settings = settings_from_flags(FLAGS)
    batch = [Arrival(0, [*range(40 * place, 40 * place + 400)], 20) for place in range(3)]
    first, second = simulate_in_turn(settings, [batch, batch])
    alone = simulate(settings, batch)

    assert first.step_ns.tolist() == alone.step_ns.tolist()
    assert first.cached_tokens.sum() < second.cached_tokens.sum()
    assert set(second.sent_ns) == {first.step_ns[-1]}
    assert second.step_ns[-1] - first.step_ns[-1] < first.step_ns[-1]
