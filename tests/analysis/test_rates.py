"""How far a rate may be off: intervals hold the true rate of simulated loads, and there is none where it is not one."""

from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.rates import rate_interval
from harness.analysis.steady_state import SENDING, WHOLE_CALL, WHOLE_STAGE, Window
from harness.statistics.intervals import Floats
from tests.analysis.test_summary import summed_up
from tests.made_runs import answered, ns, span_row

SECONDS, WARM_S, TOKENS = 100, 60, 100.0
WINDOW = Window(ns(WARM_S), ns(WARM_S + SECONDS), SENDING, steady=True)
RUNS = 100


def _queue(rng: np.random.Generator, rate: float, busy: float) -> tuple[Floats, Floats]:
    """Due times and ends (s) of a Poisson queue with one server that is so busy (Lindley's recursion, in one go)."""
    due = np.sort(rng.uniform(0, WARM_S + SECONDS, rng.poisson(rate * (WARM_S + SECONDS))))
    service = rng.lognormal(0, 0.5, len(due)) * busy / rate / np.exp(0.125)
    done = np.cumsum(service)
    return due, done + np.maximum.accumulate(due - done + service)


def _closed(rng: np.random.Generator, users: int) -> tuple[Floats, Floats]:
    """Of users that each wait for an answer of about 1 s; each takes a stream of its own."""
    ends = [np.cumsum(rng.lognormal(0, 0.5, 4 * (WARM_S + SECONDS)) / np.exp(0.125)) for _ in range(users)]
    starts = [np.concatenate([[0.0], own[:-1]]) for own in ends]
    return np.concatenate(starts), np.concatenate(ends)


def _interval(due_s, end_s, kind, window=WINDOW):
    inside = (end_s > window.rates_ns / 1e9) & (end_s <= window.end_ns / 1e9)
    due_ns, end_ns = ((times[inside] * 1e9).astype(np.int64) for times in (due_s, end_s))
    return rate_interval(due_ns, end_ns, np.full(len(end_ns), TOKENS), window, kind)


@pytest.mark.parametrize(
    ("kind", "rate", "load"),
    [("poisson", 4.0, 0.5), ("poisson", 4.0, 0.9), ("closed", 16.0, None)],
)
def test_an_interval_holds_the_true_rate(kind, rate, load):
    """In at least 93 of 100 runs, near capacity too, and it is no wider than two fifths of the rate."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(RUNS):
        times = _queue(rng, rate, load) if load else _closed(rng, round(rate))
        low, high = _interval(*times, kind)
        held += low <= rate * TOKENS <= high
        assert high - low < 0.8 * rate * TOKENS

    assert held >= 93


@pytest.mark.parametrize(
    ("kind", "window", "answers"),
    [
        ("poisson", WINDOW, 24),
        ("ramp", WINDOW, 400),
        ("trace", WINDOW, 400),
        ("offline", replace(WINDOW, method=WHOLE_CALL), 400),
        ("closed", replace(WINDOW, method=WHOLE_STAGE), 400),
        ("poisson", replace(WINDOW, filling=True), 400),
    ],
)
def test_there_is_no_interval_of_what_is_no_rate(kind, window, answers):
    """Of few answers, a load that changes by itself, a whole stage, or an engine that is still filling."""
    times = WARM_S + np.linspace(0.1, SECONDS, answers)

    assert _interval(times - 0.1, times, kind, window) is None
    assert _interval(times - 0.1, times, "poisson") is not None or answers == 24


def test_a_summary_has_the_intervals_of_its_rates():
    """Of even answers they are narrow and hold the rates; goodput has one where there are limits."""
    load = {"kind": "constant", "rate": 10.0, "duration_s": 40.0}
    pairs = [answered(i, i / 10, [i / 10 + 0.1, i / 10 + 0.12]) for i in range(400)]
    (stage,) = summed_up(pairs, [span_row(0, 40, 41)], [load], slo={"ttft_p90": 1.0})["stages"]
    (unlimited,) = summed_up(pairs, [span_row(0, 40, 41)], [load])["stages"]

    assert set(stage["rates_ci95"]) == {"request_rate", "output_token_rate", "goodput"}
    for name, (low, high) in stage["rates_ci95"].items():
        assert low <= stage[name] <= high
        assert high - low < 0.05 * stage[name]
    assert set(unlimited["rates_ci95"]) == {"request_rate", "output_token_rate"}
