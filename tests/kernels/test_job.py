"""Steps read from the tokens of a run are those that its engine ran."""

from dataclasses import replace

import numpy as np
import pytest

from harness.errors import ResultError
from harness.kernels.job import step_mixes
from harness.results import store, table_files
from harness.results.request_table import events_from, requests_from
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.step_cost import StepCost
from harness.simulator.virtual_time import Arrival, simulate
from harness.units import NS_PER_S
from tests.made_runs import answered, run_json
from tests.result_folder import Run, make_result

FLAGS = {"model": "Qwen2.5-7B", "chip": "910B3", "enable_prefix_caching": False}


class Recorded:
    """The cost of steps, with a note of every step that was asked for: the truth."""

    def __init__(self, settings):
        self._cost = StepCost(settings)
        self.steps = []

    def duration_ns(self, decodes, context, prefills, drafts=0):
        """As StepCost's."""
        self.steps.append((decodes, context, list(prefills)))
        return self._cost.duration_ns(decodes, context, prefills, drafts)


def served(folder, arrivals, *, concurrency=None, jitter_ns=0, budget=2048):
    """A result folder of what the twin answered, as a client that is late by up to `jitter_ns` saw it; the truth."""
    settings = settings_from_flags({**FLAGS, "max_num_batched_tokens": budget})
    cost = Recorded(settings)
    found = simulate(settings, arrivals, concurrency=concurrency, cost=cost)
    rng = np.random.default_rng(3)
    pairs = []
    for index, (arrival, times_ns, sent_ns) in enumerate(zip(arrivals, found.token_ns, found.sent_ns, strict=True)):
        late_ns = times_ns + rng.integers(0, jitter_ns + 1, len(times_ns))
        fields = {"input_asked": len(arrival.prompt), "input_tokens": len(arrival.prompt), "cached_tokens": 0}
        pairs.append(
            answered(
                index, sent_ns / NS_PER_S, [float(at) / NS_PER_S for at in late_ns], sent=sent_ns / NS_PER_S, **fields
            )
        )
    folder.mkdir()
    engine = {"kind": "vllm", "effective": {"max_num_batched_tokens": budget}}
    store.write_json(folder, store.RUN, run_json([], engine=engine))
    requests = requests_from(record for record, _ in pairs)
    table_files.write_requests(folder, requests)
    table_files.write_events(folder, requests.index, events_from([events for _, events in pairs]))
    return cost.steps


def chats(count, rate, seed, longest=3000):
    """Arrivals at this rate with prompts of hundreds of tokens and answers of tens to hundreds."""
    rng = np.random.default_rng(seed)
    due_s = np.cumsum(rng.exponential(1 / rate, count))
    prompts = np.clip(rng.lognormal(np.log(600), 0.7, count), 20, longest).astype(int)
    answers = rng.integers(20, 200, count)
    return [
        Arrival(int(at * NS_PER_S), [place % 997] * int(prompt), int(answer))
        for place, (at, prompt, answer) in enumerate(zip(due_s, prompts, answers, strict=True))
    ]


def shape(sequences, tokens, kv, prefills):
    """What a histogram of steps comes to, on average a step."""
    return {"sequences": sequences, "tokens": tokens, "kv": kv, "prefills": prefills}


def true_shape(steps):
    """Of the steps that the twin ran."""
    return shape(
        np.mean([decodes + len(prefills) for decodes, _, prefills in steps]),
        np.mean([decodes + sum(new for new, _ in prefills) for decodes, _, prefills in steps]),
        np.mean([context + decodes + sum(new + old for new, old in prefills) for decodes, context, prefills in steps]),
        np.mean([bool(prefills) for _, _, prefills in steps]),
    )


def read_shape(mixes):
    """Of the steps that were read from the tokens, by their shares."""
    shares = np.asarray([mix.share for mix in mixes])
    return shape(
        np.average([len(mix.kv_lens) for mix in mixes], weights=shares),
        np.average([sum(mix.query_lens) for mix in mixes], weights=shares),
        np.average([sum(mix.kv_lens) for mix in mixes], weights=shares),
        np.average([max(mix.query_lens) > 1 for mix in mixes], weights=shares),
    )


@pytest.mark.parametrize(
    ("load", "jitter_ns", "budget"),
    [
        ({"rate": 3.0}, 0, 2048),
        ({"rate": 12.0}, 0, 2048),
        ({"rate": 12.0}, 1_000_000, 2048),
        ({"rate": 8.0}, 0, 512),
        ({"rate": 1000.0, "concurrency": 24}, 1_000_000, 2048),
    ],
)
def test_steps_are_those_that_the_twin_ran(tmp_path, load, jitter_ns, budget):
    """Sequences, new tokens and cached tokens a step, and the share of prefills: of 32 steps within 5 %."""
    arrivals = chats(150, load["rate"], 5)
    steps = served(tmp_path / "r", arrivals, concurrency=load.get("concurrency"), jitter_ns=jitter_ns, budget=budget)

    assert read_shape(step_mixes(tmp_path / "r", 32)) == pytest.approx(true_shape(steps), rel=0.05)
    assert read_shape(step_mixes(tmp_path / "r", 8)) == pytest.approx(true_shape(steps), rel=0.2)


def test_a_step_has_the_tokens_that_had_come(tmp_path):
    """One request alone, 100 tokens in and 3 out: a prefill, and two decodes behind 101 and 102 tokens."""
    steps = served(tmp_path / "r", [Arrival(0, [1] * 100, 3)])
    mixes = step_mixes(tmp_path / "r", 6)

    assert steps == [(0, 0, [(100, 0)]), (1, 100, []), (1, 101, [])]
    assert {(mix.query_lens, mix.kv_lens) for mix in mixes} == {((100,), (100,)), ((1,), (101,)), ((1,), (102,))}
    assert sum(mix.share for mix in mixes if mix.query_lens == (100,)) == pytest.approx(1 / 3, abs=1e-3)


def test_a_long_prompt_went_in_chunks(tmp_path):
    """Beside a request that decodes, 1,200 tokens under a budget of 512 take three steps, the last the shortest."""
    served(tmp_path / "r", [Arrival(0, [1] * 10, 60), Arrival(NS_PER_S // 10, [2] * 1200, 4)], budget=512)
    prefills = {
        (mix.query_lens[-1], mix.kv_lens[-1])
        for mix in step_mixes(tmp_path / "r", 64)
        if max(mix.query_lens) > 1 and max(mix.kv_lens) > 100
    }

    assert len(prefills) == 3
    assert max(kv for _, kv in prefills) == 1200
    assert {query for query, _ in prefills} == {512, 176}


def test_what_was_in_the_prefix_cache_was_not_prefilled(tmp_path):
    """A prompt of which the server found most has only its rest as a query."""
    folder = make_result(tmp_path / "r", Run(loads=(4.0,), duration_s=10))
    requests = table_files.read_requests(folder)
    table_files.write_requests(folder, replace(requests, cached_tokens=np.maximum(0, requests.input_tokens - 7)))

    assert {max(mix.query_lens) for mix in step_mixes(folder, 16)} == {1, 7}


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_as_many_steps_as_asked(tmp_path, count):
    """Their shares are all there is, and no query is longer than what it sees."""
    mixes = step_mixes(make_result(tmp_path / "r", Run(loads=(4.0,), duration_s=10)), count)

    assert len(mixes) == count
    assert sum(mix.share for mix in mixes) == pytest.approx(1, abs=0.01) or count == 1
    assert all(1 <= query <= kv for mix in mixes for query, kv in zip(mix.query_lens, mix.kv_lens, strict=True))


def test_a_result_without_answers_has_no_steps(tmp_path):
    """One line that says what was expected."""
    folder = make_result(tmp_path / "r", Run(loads=(4.0,), duration_s=5, output=(1, 1)))

    with pytest.raises(ResultError, match="no request received two tokens; expected a result with answers"):
        step_mixes(folder, 4)
