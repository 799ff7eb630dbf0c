"""Speculation: what the flags set, how many draft tokens are accepted, and what that does to a step and an answer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of, token_bytes
from harness.simulator.speculation import DEFAULT_RATES, Speculation
from harness.simulator.step_cost import StepCost
from harness.simulator.virtual_time import Arrival, simulate

MODEL = "Qwen/Qwen3-8B"
MTP = {"method": "mtp", "num_speculative_tokens": 3}


def settings_with(config, **flags):
    """The settings of an engine that speculates."""
    return settings_from_flags({"model": MODEL, "speculative_config": config, **flags})


@pytest.mark.parametrize(
    "flags",
    [
        {"speculative_config": MTP},
        {"speculative-config": json.dumps(MTP)},
        {"sc": {"method": "deepseek_mtp", "num_speculative_tokens": 3}},
        {"speculative_config.method": "mtp", "speculative_config.num_speculative_tokens": "3"},
        {"spec-method": "mtp", "spec-tokens": 3},
    ],
    ids=["mapping", "json", "short", "dotted", "spec flags"],
)
def test_every_spelling_of_vllm_sets_the_same(flags):
    """One mapping, JSON, its keys one by one, or the short flags."""
    speculation = settings_from_flags({"model": MODEL, **flags}).speculation

    assert speculation == Speculation("mtp", 3, DEFAULT_RATES["mtp"][:3])


@pytest.mark.parametrize(
    ("more", "flags", "rates"),
    [
        ({}, {}, (0.762, 0.616, 0.513)),
        ({"synthetic_acceptance_rates": [0.9, 0.5, 0.1]}, {}, (0.9, 0.5, 0.1)),
        ({"synthetic_acceptance_length": 2.25}, {}, (1.0, 0.25, 0.0)),
        ({"synthetic_acceptance_length": 2.25}, {"acceptance_rates": "0.8 0.4"}, (0.8, 0.4, 0.2)),
        ({}, {"acceptance_rates": [0.5]}, (0.5, 0.25, 0.125)),
        ({}, {"acceptance_rates": "[0.9, 0.45]"}, (0.9, 0.45, 0.225)),
    ],
    ids=["published", "synthetic rates", "synthetic length", "own", "one", "json"],
)
def test_rates_are_given_published_or_go_on_as_they_fell(more, flags, rates):
    """The synthetic keys as vLLM resolves them; the simulator's own flag over all; a short list goes on."""
    assert settings_with({**MTP, **more}, **flags).speculation.rates == pytest.approx(rates)


@pytest.mark.parametrize(
    ("config", "flags", "said"),
    [
        ({"method": "mpt", "num_speculative_tokens": 1}, {}, "did you mean 'mtp'"),
        ({"method": "mtp", "num_spec_tokens": 2}, {}, "'num_spec_tokens' is no key of it; did you mean 'num_"),
        ({"method": "eagle3"}, {}, "num_speculative_tokens: None is no whole number"),
        ({"method": "mtp", "num_speculative_tokens": 0}, {}, "0 is no whole number from 1 to 64"),
        ({**MTP, "synthetic_acceptance_length": 5}, {}, "5 is not between 1 and 4"),
        ({**MTP, "synthetic_acceptance_rates": [0.1, 0.9, 0.1]}, {}, "never rise by position"),
        (MTP, {"acceptance_rates": "1.5"}, "[1.5] are not shares from 0 to 1"),
        (MTP, {"acceptance_rates": "much"}, "acceptance_rates: 'much' is not a list of numbers"),
        ("mtp", {}, "'mtp' is not a JSON object"),
        (None, {"acceptance_rates": [0.5]}, "nothing is drafted without speculative_config"),
    ],
)
def test_what_the_simulator_cannot_do_is_refused(config, flags, said):
    """In one line: what, where, and the nearest right value."""
    with pytest.raises(InputError) as refused:
        settings_with(config, **flags)

    assert said in str(refused.value)


@given(seed=st.integers(0, 2**32), position=st.integers(1, 10**6), verified=st.integers(1, 5))
def test_what_is_accepted_depends_on_request_and_place_alone(seed, position, verified):
    """The same every time, never more than was verified, and with fewer verified the same cut short."""
    accept = Speculation("mtp", 5, (0.9, 0.8, 0.5, 0.3, 0.2)).accept(seed)

    assert accept(position, verified) == min(accept(position, 5), verified) == accept(position, verified)


@pytest.mark.parametrize("method", sorted(DEFAULT_RATES))
def test_the_shares_accepted_are_the_rates(method):
    """Over many draws each position is accepted as often as its rate says (six standard errors)."""
    rates = DEFAULT_RATES[method][:4]
    accept = Speculation(method, 4, rates).accept(7)
    counts = np.array([accept(position, 4) for position in range(20_000)])

    for place, rate in enumerate(rates):
        assert abs((counts > place).mean() - rate) < 6 * np.sqrt(rate * (1 - rate) / len(counts))


def test_a_served_load_gains_what_the_rates_promise():
    """The tokens of a step come at one time, and a decode gains 1 + the sum of the rates on average."""
    arrivals = [Arrival(0, list(range(place, place + 40)), 400) for place in range(16)]
    done = simulate(settings_with(MTP), arrivals)
    steps = [len(np.unique(times[1:])) for times in done.token_ns]

    assert all(len(times) == 400 for times in done.token_ns)
    assert 399 * 16 / sum(steps) == pytest.approx(1 + sum(DEFAULT_RATES["mtp"][:3]), rel=0.03)


def test_nothing_accepted_costs_time_and_gains_nothing():
    """With rates of 0 every token takes a step, and each is longer than without speculation."""
    arrivals = [Arrival(0, [1, 2, 3, 4], 50)]
    plain = simulate(settings_from_flags({"model": MODEL}), arrivals)
    vain = simulate(settings_with(MTP, acceptance_rates=[0]), arrivals)

    assert len(np.unique(vain.token_ns[0])) == 50
    assert vain.token_ns[0][-1] > plain.token_ns[0][-1]


def test_verifying_reads_the_cache_once_and_multiplies_for_each_token():
    """Of few decodes over a long context: the cache is read as without drafts; products and head grow with tokens."""
    priced = StepCost(settings_with({"method": "ngram", "num_speculative_tokens": 3}))
    plain, wide = priced.terms_of(4, 100_000, ()), priced.terms_of(4, 100_000, (), 12)
    many, wider = priced.terms_of(400, 1000, ()), priced.terms_of(400, 1000, (), 1200)

    assert wide.decode_attention_s == plain.decode_attention_s
    assert wider.linear_s > 2 * many.linear_s
    assert wider.head_s > 2 * many.head_s
    assert wider.draft_s == 0


def test_a_drafting_layer_costs_a_layer_and_a_head_for_each_draft_token():
    """Where reading the weights bounds all, each draft token takes a layer's share of the step and an output head."""
    settings = settings_with(MTP)
    priced = StepCost(settings)
    shown = priced.terms_of(8, 8000, (), 24)
    device_s = shown.linear_s + shown.decode_attention_s + shown.gap_s

    assert shown.draft_s == pytest.approx(3 * (device_s / settings.shape.layers + shown.head_s))


def test_a_drafting_layer_takes_memory():
    """One layer more of weights and of cache; n-grams take none."""
    plain, ngram, mtp = (
        settings_from_flags({"model": MODEL, **flags})
        for flags in ({}, {"spec_method": "ngram", "spec_tokens": 2}, {"speculative_config": MTP})
    )
    layers = plain.shape.layers

    assert token_bytes(ngram) == token_bytes(plain)
    assert token_bytes(mtp) == token_bytes(plain) * (layers + 1) // layers
    assert memory_of(mtp).weights > memory_of(plain).weights
    assert memory_of(mtp).num_blocks < memory_of(plain).num_blocks


def test_graphs_and_asynchronous_scheduling_follow_vllm():
    """Captured sizes reach the width of a decode with drafts; n-grams end asynchronous scheduling, in vLLM's words."""
    mtp, ngram = (settings_with({**MTP, "method": method}, max_num_seqs=16) for method in ("mtp", "ngram"))

    assert max(mtp.cudagraph_capture_sizes) == 64
    assert mtp.async_scheduling
    assert not ngram.async_scheduling
    assert "Async scheduling not supported with ngram-based speculative decoding" in ngram.notes[-1]
