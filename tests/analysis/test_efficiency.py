"""Throughput per NPU, tokens/s a user, cost and energy are what their formulas say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.efficiency import cost, efficiency, energy_of, held_npus, judged_tpot, user_rate, with_efficiency
from harness.analysis.steady_state import Window
from harness.analysis.summary import summarize
from harness.results.request_table import samples_from
from tests.made_runs import answered, columns, ns, run_json, span_row

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


def test_a_deployment_holds_what_its_engines_hold_together():
    """Devices where they are known, else the ranks that are each process's own; a proxy has none."""
    ranks = {"tensor_parallel_size": 2, "data_parallel_size": 4}
    processes = [
        {"name": "a", "role": "replica", "effective": ranks},
        {"name": "b", "role": "replica", "asked": {"data_parallel_rank": 1}, "effective": ranks},
        {"name": "c", "role": "replica", "asked": {"data_parallel_size_local": 3}, "effective": ranks},
        {"name": "d", "role": "replica", "kind": "command", "devices": [4, 5, 6]},
        {"name": "proxy", "role": "proxy"},
    ]
    unknown = {"name": "e", "role": "replica", "kind": "command"}

    assert held_npus({"engine": {"processes": processes}}).as_dict() == {"count": 8 + 2 + 6 + 3, "source": "parallel"}
    assert held_npus({"engine": {"processes": [*processes, unknown]}}).count is None
    assert held_npus({"engine": {"processes": [{"kind": "attach"}]}, "devices": [0]}).count == 1


def test_no_devices_are_counted_for_a_simulator():
    """Chips of the machine that a simulator runs on are not its NPUs."""
    run = {"engine": {"simulated": True}}

    assert held_npus(run, chips("device-0")).count is None


def test_the_numbers_of_a_stage_by_hand():
    """Two NPUs at 800 tok/s, a price of 9 an hour each, 3.6 J a token."""
    found = efficiency(STAGE, held_npus(run_of({"tensor_parallel_size": 2})), 9.0)

    assert found.pop("currency") is None
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


TEN_S = Window(ns(0), ns(10), "whole stage", steady=True)


def power(source, watts, **shares):
    """Readings once a second of a device whose power at second t is `watts(t)`."""
    rows = [(ns(at), source, "watts", watts(at)) for at in range(11)]
    return rows + [(ns(at), source, name, share) for at in range(11) for name, share in shares.items()]


def test_constant_power_times_time_is_energy():
    """300 W for 10 s are 3,000 J; over 600 tokens 5 J each."""
    energy = energy_of(samples_from(power("device-0", lambda _: 300.0, memory_share=0.9)), TEN_S, 600)

    assert energy.as_dict() == {"joules_per_output_token": 5.0, "mean_watts": 300.0, "cards": ["device-0"]}


@given(st.floats(50, 400), st.floats(-20, 20))
def test_a_line_of_power_is_integrated_exactly(start, slope):
    """The trapezoidal rule is exact for power that changes linearly."""
    energy = energy_of(samples_from(power("device-0", lambda t: start + slope * t)), TEN_S, 1)

    assert energy.joules == pytest.approx(10 * start + 50 * slope)


def test_idle_cards_are_left_out_and_busy_ones_added():
    """Of three cards, one idle: the energy of the two that hold a model."""
    rows = power("device-0", lambda _: 300.0, memory_share=0.9)
    rows += power("device-1", lambda _: 200.0, memory_share=0.9)
    rows += power("device-2", lambda _: 90.0, memory_share=0.05, core_share=0.0)
    energy = energy_of(samples_from(rows), TEN_S, 100)

    assert (energy.mean_watts, energy.cards) == (500.0, ("device-0", "device-1"))


def test_a_second_chip_has_the_power_of_its_card():
    """Work on the second chip of an A3 card counts the power that is told at the first."""
    rows = power("device-0", lambda _: 180.0, memory_share=0.05)
    rows += [(ns(at), "device-0.1", "memory_share", 0.9) for at in range(11)]

    assert energy_of(samples_from(rows), TEN_S, 10).mean_watts == 180.0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(ns(at), "host", "host_cpu_share", 0.5) for at in range(11)],
        [(ns(at), "device-0", "memory_share", 0.9) for at in range(11)],
        [*power("device-0", lambda _: 300.0, memory_share=0.9), (ns(1), "device-1", "memory_share", 0.9)],
    ],
    ids=["nothing", "no device", "no power", "one of two without power"],
)
def test_energy_is_unknown_without_the_power_of_every_card_in_use(rows):
    """No number is better than one that leaves a card out."""
    assert energy_of(samples_from(rows), TEN_S, 10) is None


def test_a_long_gap_between_readings_makes_energy_unknown():
    """Two readings a minute apart do not tell what was between them."""
    rows = [(ns(0), "device-0", "watts", 300.0), (ns(60), "device-0", "watts", 300.0)]
    window = Window(ns(0), ns(60), "whole stage", steady=True)

    assert energy_of(samples_from(rows), window, 10) is None


def test_no_token_gives_power_but_no_energy_of_one():
    """A window without tokens is never divided by."""
    energy = energy_of(samples_from(power("device-0", lambda _: 300.0)), TEN_S, 0)

    assert energy.as_dict()["joules_per_output_token"] is None


def stage_with(rows, **engine):
    """The summary of a stage of 400 answers with these samples."""
    requests, events = columns([answered(i, i / 40, [i / 40 + 0.1 + 0.01 * k for k in range(5)]) for i in range(400)])
    run = run_json([{"kind": "constant", "rate": 40.0, "duration_s": 10.0}])
    run["engine"] |= engine
    return summarize(requests, events, samples_from(rows), [span_row(0, 10, 10.2)], run)


def test_a_stage_tells_its_energy_where_power_was_sampled():
    """Summary.json has `energy` with the key, and has none for a simulated engine or without power."""
    rows = power("device-0", lambda _: 300.0, memory_share=0.9)
    (stage,) = stage_with(rows)["stages"]

    assert stage["energy"]["joules_per_output_token"] == pytest.approx(300 / stage["output_token_rate"])
    assert "energy" not in stage_with(rows, simulated=True)["stages"][0]
    assert "energy" not in stage_with([])["stages"][0]


@pytest.mark.parametrize(
    ("name", "sampled", "value"),
    [
        ("device_throttled", "busy_clock_share", 0.7),
        ("device_shared", "processes", 2.0),
        ("device_unhealthy", "healthy", 0.0),
    ],
)
def test_an_unfit_device_is_a_warning(name, sampled, value):
    """A lowered clock under load, a second process, and poor health are told; a fit device raises no warning."""
    calm = power("device-0", lambda _: 300.0, memory_share=0.9, busy_clock_share=1.0, processes=1.0, healthy=1.0)
    told = [(at, source, key, value if key == sampled else old) for at, source, key, old in calm]

    def device_warnings(rows):
        found = stage_with(rows)["verdict"]["warnings"]
        return {warning["code"]: warning["severity"] for warning in found if warning["code"].startswith("device")}

    assert device_warnings(told) == {name: "warning"}
    assert device_warnings(calm) == {}


def test_another_users_device_is_not_ours_to_warning():
    """A card that the engine does not use may be shared and slow as it likes."""
    rows = power("device-0", lambda _: 300.0, memory_share=0.9, processes=1.0)
    rows += power("device-1", lambda _: 90.0, memory_share=0.04, processes=3.0, healthy=0.0)
    names = {warning["code"] for warning in stage_with(rows)["verdict"]["warnings"]}

    assert not any(name.startswith("device") for name in names)
