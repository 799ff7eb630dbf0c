"""The capacity lies between rates that keep the SLO and rates that break it, and noise is admitted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tuning.capacity import (
    ABOVE,
    BELOW,
    CAPACITY,
    UNRESOLVED,
    CapacityAnswer,
    CapacitySearch,
    RateProbe,
    answer_from_metrics,
    bracket,
    find_capacity,
    keeps_slo,
    next_step,
    rate_probe,
)
from harness.tuning.types import Constraint
from tests.tuning.measurements import measured

SEARCH = CapacitySearch(start=4.0, least=0.25, most=256.0)


def found(search, probe):
    """The answer of a search in which `probe(rate)` gives a probe."""
    probes = []
    while isinstance(step := next_step(search, probes), float):
        assert search.least <= step <= search.most
        probes.append(probe(step))
    return step, probes


@settings(deadline=None)
@given(st.floats(0.3, 250.0), st.floats(0.3, 200.0))
def test_without_noise_the_capacity_lies_in_the_bracket(capacity, start):
    """Wherever it is and wherever one begins, in at most 16 loads."""
    search = CapacitySearch(start, least=0.25, most=256.0, probes=24)
    answer, probes = found(search, lambda rate: RateProbe(rate, rate / capacity - 1, 0.0))

    assert answer.kind == CAPACITY
    assert answer.low <= capacity * (1 + 1e-9)
    assert answer.high >= capacity * (1 - 1e-9)
    assert answer.high <= answer.low * 1.05 * (1 + 1e-9)
    assert answer.probes == len(probes)


def test_a_search_is_short():
    """From 4 to 37 requests/s within 5 %: nine loads."""
    answer, probes = found(SEARCH, lambda rate: RateProbe(rate, rate / 37 - 1, 0.0))

    assert answer.value == pytest.approx(37, rel=0.05)
    assert len(probes) <= 9


def test_what_is_too_fast_or_too_slow_to_be_found_is_said():
    """All rates keep the SLO, or none does."""
    above, _ = found(SEARCH, lambda rate: RateProbe(rate, -1.0, 0.0))
    below, _ = found(SEARCH, lambda rate: RateProbe(rate, math.inf, 0.0))

    assert (above.kind, above.low) == (ABOVE, 256.0)
    assert (below.kind, below.high, below.value) == (BELOW, 0.25, 0.0)
    assert str(above.message) == "at least 256 req/s, the highest rate tried"


def test_noise_that_hides_the_limit_is_admitted():
    """Between 8 and 12 nothing can be told: the answer says so, and how far it got from both sides."""
    answer, _ = found(SEARCH, lambda rate: RateProbe(rate, math.log(rate / 10), 0.6 if 8 < rate < 12 else 0.01))

    assert answer.kind == UNRESOLVED
    assert 7 <= answer.low <= 8 + 1e-9
    assert 12 <= answer.high <= 14
    assert str(answer.message).startswith("unresolved between ")


def test_noise_only_spends_the_budget_and_no_more():
    """Nothing decides anything: at most as many loads as were allowed."""
    answer, probes = found(SEARCH, lambda rate: RateProbe(rate, 0.0, 1.0))

    assert answer.kind == UNRESOLVED
    assert (answer.low, answer.high) == (None, None)
    assert len(probes) <= SEARCH.probes


def test_an_answer_under_noise_is_wrong_as_rarely_as_it_says():
    """200 searches, 1 % noise: nine of ten brackets hold the capacity."""
    rng = np.random.default_rng(11)
    answers = [
        found(
            CapacitySearch(8.0, 1.0, 64.0, probes=30),
            lambda rate: RateProbe(rate, rate / 20 - 1 + rng.normal(0, 0.01), 0.01),
        )[0]
        for _ in range(200)
    ]
    right = [one for one in answers if (one.low or 0) <= 20 <= (one.high or math.inf)]

    assert len(right) >= 0.9 * len(answers)
    assert sum(one.kind == CAPACITY for one in answers) > 20


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.sampled_from([-1.0, 0.0, 1.0])), max_size=12))
def test_contradictions_lie_inside_the_bracket(tries):
    """A higher rate that keeps the SLO makes a lower one that breaks it a doubt, never an end."""
    probes = [RateProbe(rate, excess, 0.1) for rate, excess in tries]
    low, high = bracket(probes)

    assert low < high
    assert isinstance(next_step(SEARCH, probes), float | CapacityAnswer)


def test_repeats_decide_what_one_load_could_not():
    """The error of a mean falls with the root of their number."""
    one = RateProbe(4.0, -0.06, 0.05)

    assert keeps_slo([one]) is None
    assert keeps_slo([one] * 4) is True


def test_a_percentile_needs_requests_enough():
    """None of 30 requests above is no proof for a p99; none of 600 is."""
    limit = [Constraint("ttft_p99", most=1.0)]
    few, many = (rate_probe(measured(range(1, n + 1), ttft=[0.5] * n), 2.0, limit) for n in (30, 600))

    assert keeps_slo([few]) is None
    assert keeps_slo([many]) is True


def test_a_broken_percentile_is_seen():
    """One of five above a limit for one of a hundred."""
    probe = rate_probe(
        measured(range(1, 201), ttft=[0.5, 0.5, 0.5, 0.5, 3.0] * 40), 2.0, [Constraint("ttft_p99", most=1.0)]
    )

    assert keeps_slo([probe]) is False


def test_means_come_with_the_error_of_their_series():
    """A mean at half of its limit is kept, whatever its percentiles."""
    rng = np.random.default_rng(2)
    tpot = rng.normal(0.05, 0.01, 200).tolist()
    probe = rate_probe(measured(range(1, 201), tpot=tpot, tpot_mean=0.05), 2.0, [Constraint("tpot_mean", most=0.1)])

    assert probe.excess == pytest.approx(-0.5)
    assert 0 < probe.error < 0.02


def test_of_several_limits_the_worst_counts():
    """TTFT holds, TPOT does not."""
    limits = [Constraint("ttft_p90", most=1.0), Constraint("tpot_p90", most=0.01)]

    assert keeps_slo([rate_probe(measured(range(1, 101)), 1.0, limits)]) is False


def test_without_limits_there_is_no_capacity():
    """The study's opening refuses that; here it is a mistake of ours."""
    with pytest.raises(ValueError, match="limits"):
        rate_probe(measured([1.0]), 1.0, [])


@pytest.mark.parametrize(
    ("late", "told"),
    [
        (0, "at least 32.0 req/s, the highest rate tried"),
        (40, "below 1.00 req/s, the lowest rate tried"),
        (4, "unresolved between – and – req/s: the noise does not allow a closer answer"),
    ],
)
def test_an_answer_is_kept_with_the_measurement(late, told):
    """In the words of the search, whether so many of forty answers are late at every rate; other loads have none."""
    load = measured(range(1, 41), ttft=[2.0] * late + [0.1] * (40 - late))
    answered = find_capacity(
        lambda _rate, _number: load, CapacitySearch(8.0, 1.0, 32.0), [Constraint("ttft_p90", most=1.0)]
    )

    assert str(answer_from_metrics(answered.metrics)) == told
    assert answer_from_metrics(load.metrics) is None
