"""Energy is the integral of power over the cards in use, and absent where that is not known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.steady_state import Window
from harness.analysis.summary import summarize
from harness.results.request_table import samples_from
from harness.telemetry.energy import energy_of
from tests.made_runs import answered, columns, ns, run_json, span_row

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
