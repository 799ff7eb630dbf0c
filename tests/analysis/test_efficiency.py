"""Throughput per NPU, tokens/s a user, cost and energy are what their formulas say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.efficiency import cost, efficiency, held_npus, judged_tpot, user_rate, with_efficiency
from harness.results.request_table import samples_from

STAGE = {
    "output_token_rate": 800.0,
    "total_token_rate": 4000.0,
    "tpot": {"p50": 0.02, "p99": 0.05, "ci95": {"p50": [0.016, 0.025]}},
    "energy": {"joules_per_output_token": 3.6},
}


def run_of(effective=None, **more):
    """run.json of an engine with these effective flags."""
    return {"engine": {"simulated": False, "effective": effective or {}}, **more}


def chips(*sources):
    """Samples of devices whose memory is full, and of one that idles."""
    rows = [(10, source, "memory_share", 0.9) for source in sources]
    return samples_from([*rows, (10, "device-9", "memory_share", 0.03)])


@pytest.mark.parametrize(
    ("effective", "count"),
    [
        ({"tensor_parallel_size": 4}, 4),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "data_parallel_size": 3}, 24),
        ({"data_parallel_size": 2, "prefill_context_parallel_size": 2}, 4),
    ],
)
def test_npus_are_the_product_of_the_parallel_sizes(effective, count):
    """TP x PP x DP, and prefill context parallel; a size that is not named is 1."""
    assert held_npus(run_of(effective, devices=[0])).as_dict() == {"count": count, "source": "parallel"}


def test_npus_are_else_the_devices_of_the_scenario_then_those_in_use():
    """An engine whose sizes are not known holds what the scenario gave it, or what telemetry saw in use."""
    seen = chips("device-0", "device-1", "device-1.1")

    assert held_npus(run_of(devices=[0, 3]), seen).as_dict() == {"count": 2, "source": "devices"}
    assert held_npus(run_of(), seen).as_dict() == {"count": 3, "source": "telemetry"}
    assert held_npus(run_of()).as_dict() == {"count": None, "source": "unknown"}


def test_no_devices_are_counted_for_a_simulator():
    """Chips of the machine that a simulator runs on are not its NPUs."""
    run = {"engine": {"simulated": True}}

    assert held_npus(run, chips("device-0")).count is None


def test_the_numbers_of_a_stage_by_hand():
    """Two NPUs at 800 tok/s, a price of 9 an hour each, 3.6 J a token."""
    found = efficiency(STAGE, held_npus(run_of({"tensor_parallel_size": 2})), 9.0)

    assert found.pop("user_token_rate_ci95") == pytest.approx([40.0, 62.5])
    assert found == pytest.approx(
        {
            "npu_token_rate": 400.0,
            "user_token_rate": 50.0,
            "user_token_rate_basis": "tpot_p50",
            "cost_per_million_output_tokens": 18 / 3600 / 800 * 1e6,
            "cost_per_million_tokens": 18 / 3600 / 4000 * 1e6,
            "kwh_per_million_output_tokens": 1.0,
        }
    )


def test_an_unknown_number_of_npus_has_no_cost():
    """The rate is then that of the whole engine; a price of one NPU says nothing of it."""
    found = efficiency(STAGE, held_npus(run_of()), 9.0)

    assert found["npu_token_rate"] == 800.0
    assert found["cost_per_million_output_tokens"] is None


def test_the_rate_of_a_user_is_of_the_statistic_that_is_limited():
    """With tpot_p99 limited it is that of the slowest one in a hundred; else of the median."""
    assert judged_tpot({"ttft_p90": 1.0, "tpot_p99": 0.1}) == "p99"
    assert judged_tpot({"ttft_p90": 1.0}) == "p50"
    assert user_rate(STAGE, "p99").value == 20.0
    assert user_rate(STAGE, "p99").ends is None


def test_answers_in_one_piece_give_tokens_by_their_whole_time():
    """Mean output tokens by mean e2e where no token has a time of its own."""
    stage = {"e2e": {"mean": 4.0}, "rates_window": {"requests": 5, "output_tokens": 1000}}

    assert user_rate(stage).value == 50.0
    assert user_rate(stage).basis == "output_tokens/e2e"
    assert user_rate({"e2e": {"mean": None}}) is None


def test_results_of_before_get_their_numbers_when_they_are_read():
    """A stage that has its numbers keeps them."""
    run = run_of({"tensor_parallel_size": 2}, slo={"tpot_p99": 0.1})
    first = with_efficiency([STAGE], held_npus(run), run)

    assert first[0]["efficiency"]["user_token_rate"] == 20.0
    assert with_efficiency(first, held_npus(run), run | {"slo": {}}) == first


@given(price=st.floats(0.01, 1e4), rate=st.floats(0.1, 1e6), count=st.integers(1, 64), hours=st.floats(0.1, 100))
def test_cost_is_what_is_paid_by_what_came_out(price, rate, count, hours):
    """Money over some hours by the millions of tokens of these hours, however long they last."""
    npus = held_npus(run_of({"tensor_parallel_size": count}))
    paid, millions = price * count * hours, rate * hours * 3600 / 1e6

    assert cost(npus, price, rate) == pytest.approx(paid / millions)
