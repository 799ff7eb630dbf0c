"""The time of a step follows the terms it is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.engine_config import settings_from_flags
from harness.simulator.step_cost import StepCost, Terms, kv_element_bytes, weight_bytes

MODEL = "Qwen/Qwen3-8B"


def cost(**flags):
    """The step cost of an engine with these flags."""
    return StepCost(settings_from_flags({"model": MODEL, **flags}))


@given(decodes=st.integers(1, 300), context=st.integers(0, 10**6), asynchronous=st.booleans(), eager=st.booleans())
def test_both_ways_to_a_decode_steps_time_agree(decodes, context, asynchronous, eager):
    """The quick sum over remembered terms is the sum that `terms_of` shows."""
    priced = cost(async_scheduling=asynchronous, enforce_eager=eager, max_num_seqs=512)
    shown = priced.terms_of(decodes, context, ())

    assert priced.duration_ns(decodes, context, ()) == pytest.approx(shown.total_s * 1e9, abs=2)


def test_terms_add_up():
    """The device's terms follow each other; launches run beside them, and so does the host where it may."""
    shown = cost(tensor_parallel_size=4).terms_of(8, 8000, [(512, 100)])
    parts = (shown.linear_s, shown.head_s, shown.decode_attention_s, shown.prefill_attention_s,
             shown.communication_s, shown.gap_s)  # fmt: skip
    device = max(sum(parts), shown.launch_s)
    beside_s = shown.launch_s + shown.host_s
    waiting = cost(tensor_parallel_size=4, async_scheduling=False).terms_of(8, 8000, [(512, 100)])

    assert all(part > 0 for part in parts)
    assert shown.total_s == pytest.approx(max(sum(parts), beside_s))
    assert waiting.total_s == pytest.approx(device + shown.host_s)


def test_a_lone_decode_takes_as_long_as_reading_the_weights():
    """Of Qwen3-8B on one 910B: 16.4 GB at the reached share of 1.6 TB/s, and little else."""
    shown = cost().terms_of(1, 100, ())
    reading_s = 2 * (8.19e9 - 0.62e9) / (1.6e12 * Terms().weights)

    assert shown.linear_s + shown.head_s == pytest.approx(reading_s, rel=0.02)
    assert shown.total_s < 1.4 * reading_s


def test_batches_are_padded_to_captured_sizes():
    """17 and 24 decodes multiply as many rows; 25 take the next size; above the largest nothing is captured."""
    priced = cost(max_num_seqs=40, model="Qwen2.5-72B", tp=8)
    sizes = [priced.terms_of(count, 0, ()).communication_s for count in (17, 24, 25, 32)]
    launches = [priced.terms_of(count, 0, ()).launch_s for count in (40, 41)]

    assert sizes[0] == sizes[1] < sizes[2] == sizes[3]
    assert launches[0] == 0 < launches[1]


@pytest.mark.parametrize(
    ("flags", "captured"),
    [
        ({}, (False, True)),
        ({"enforce_eager": True}, (False, False)),
        ({"cudagraph_mode": "FULL"}, (True, True)),
        ({"cudagraph_mode": "FULL_DECODE_ONLY"}, (False, True)),
        ({"cudagraph_mode": "PIECEWISE"}, (False, False)),
    ],
)
def test_the_graph_mode_says_who_launches(flags, captured):
    """A full graph takes no launches: in a mixed step, in a decode step."""
    priced = cost(**flags)

    assert (priced.terms_of(3, 0, [(9, 0)]).launch_s == 0, priced.terms_of(3, 0, ()).launch_s == 0) == captured


def test_attention_grows_with_context_and_prefill_with_its_square():
    """Decode attention is linear in cached tokens; a chunk's in new times all tokens."""
    priced = cost()
    near, far = (priced.terms_of(4, context, ()).decode_attention_s for context in (1000, 100_000))
    short, long = (priced.terms_of(0, 0, [(new, 0)]).prefill_attention_s for new in (1000, 4000))

    assert far / near == pytest.approx(100, rel=0.01)
    assert long / short == pytest.approx(16, rel=0.01)


def test_experts_are_read_as_they_are_hit():
    """One token reads eight of 128 experts a layer, many tokens nearly all."""
    priced = StepCost(settings_from_flags({"model": "Qwen3-30B-A3B", "max_num_seqs": 256}))
    one, many = (priced.terms_of(count, 0, ()).linear_s for count in (1, 256))

    assert 8 < many / one < 20


def test_bytes_follow_the_quantisation():
    """Of weights from model or flag, of the cache from its own flag."""
    assert weight_bytes(settings_from_flags({"model": "Qwen3-32B-W8A8"})) == 1
    assert weight_bytes(settings_from_flags({"model": MODEL, "quantization": "w4a8"})) == 0.5
    assert weight_bytes(settings_from_flags({"model": MODEL, "dtype": "float32"})) == 4
    assert kv_element_bytes(settings_from_flags({"kv_cache_dtype": "int8_per_token_head"})) == 1
    assert kv_element_bytes(settings_from_flags({})) == 2


def test_two_cards_share_the_work_and_talk():
    """Half the weights each, and a term that one card does not have."""
    one, two = (cost(tensor_parallel_size=cards).terms_of(8, 0, ()) for cards in (1, 2))

    assert two.linear_s == pytest.approx(one.linear_s / 2)
    assert one.communication_s == 0 < two.communication_s


def test_adapters_in_a_batch_are_read_one_after_another():
    """None costs nothing; each more costs its bytes at the reached bandwidth, the first the launches, too."""
    settings = settings_from_flags({"model": MODEL, "enable_lora": True, "max_lora_rank": 64})
    none, one, two, three = (StepCost(settings).adapters_ns(count) for count in range(4))
    bytes_s = 36 * 2 * 64 * 75776 / (1.6e12 * Terms().weights)

    assert none == 0
    assert three - two == pytest.approx(two - one, abs=2) == pytest.approx(bytes_s * 1e9, abs=3)
    assert one - (two - one) == pytest.approx(36 * 0.5 * Terms().gap_s * 1e9, abs=2)


@pytest.mark.parametrize(
    "flags", [{"data_parallel_size": 4}, {"data_parallel_size": 4, "enable_expert_parallel": True}]
)
def test_experts_are_spread_over_all_ranks(flags):
    """Each of eight devices reads an eighth of the experts, and multiplies an eighth of all ranks' tokens."""
    model = {"model": "Qwen3-30B-A3B", "tensor_parallel_size": 2}
    alone, spread = (StepCost(settings_from_flags({**model, **more})) for more in ({}, flags))
    dense_s = alone.terms_of(1, 0, ()).linear_s - spread.terms_of(1, 0, ()).linear_s
    few, many = (spread.terms_of(16, 0, (), 0, exchanged).linear_s for exchanged in (64, 6400))

    assert dense_s > 0
    assert many > 2 * few
    assert spread.terms_of(16, 0, (), 0, 64).linear_s < alone.terms_of(64, 0, ()).linear_s


def test_imbalance_of_experts_makes_all_wait():
    """With a busiest rank of twice the mean, products of experts and the exchange take twice as long."""
    flags = {"model": "Qwen3-30B-A3B", "data_parallel_size": 4, "enable_expert_parallel": True, "enforce_eager": True}
    even, uneven = (StepCost(settings_from_flags({**flags, "expert_imbalance": more})) for more in (1, 2))
    terms = [priced.terms_of(0, 0, [(4096, 0)], 0, 16384) for priced in (even, uneven)]
    latency_s = 2 * 48 * Terms().link_s

    assert terms[1].communication_s - latency_s == pytest.approx(2 * (terms[0].communication_s - latency_s))
    assert terms[1].linear_s > 1.5 * terms[0].linear_s
