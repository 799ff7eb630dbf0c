"""Is the twin believed as far as its order agrees with what was measured, and no further?"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tuning.screening import Screened, agreement, kendall_tau, ordered
from harness.tuning.types import MINIMISE, Limit, Objective

numbers = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=20)


def counted(pairs):
    """Kendall's τ-b by its definition."""
    alike = different = ties_x = ties_y = 0
    for i, (x, y) in enumerate(pairs):
        for other_x, other_y in pairs[:i]:
            product = (x - other_x) * (y - other_y)
            alike, different = alike + (product > 0), different + (product < 0)
            ties_x, ties_y = ties_x + (x == other_x), ties_y + (y == other_y)
    all_pairs = len(pairs) * (len(pairs) - 1) // 2
    whole = (all_pairs - ties_x) * (all_pairs - ties_y)
    return (alike - different) / math.sqrt(whole) if whole else None


@given(numbers)
def test_tau_is_what_its_definition_counts(pairs):
    """Over pairs of pairs, with ties in either order."""
    tau, expected = kendall_tau([x for x, _ in pairs], [y for _, y in pairs]), counted(pairs)

    assert tau == (None if expected is None else pytest.approx(expected))


@given(numbers)
def test_the_interval_holds_tau(pairs):
    """And stays between -1 and 1."""
    found = agreement(pairs)

    if found.low is not None:
        assert -1 <= found.low <= max(found.tau, -0.999) + 1e-9
        assert min(found.tau, 0.999) - 1e-9 <= found.high <= 1


def test_few_trials_prove_nothing():
    """Below five the twin is believed, and that is said."""
    found = agreement([(1, 4), (2, 3), (3, 2), (4, 1)])

    assert found.trusted
    assert "too few" in found.words


def test_a_twin_that_misleads_is_dropped():
    """Its order is the reverse."""
    found = agreement([(n, -n) for n in range(8)])

    assert not found.trusted
    assert "dropped" in found.words
    assert found.tau == -1


def test_it_is_taken_up_again_only_when_it_clearly_helps():
    """Dropped at 0.1 or below, back at 0.35: not in and out around one value."""
    misleading = [(n, -n) for n in range(5)]
    better = misleading + [(10 + n, 10 + n) for n in range(3)]
    good = misleading + [(10 + n, 10 + n) for n in range(8)]

    assert agreement(better).tau > 0.1
    assert not agreement(better).trusted
    assert agreement(good).tau > 0.35
    assert agreement(good).trusted
    assert "it orders candidates" in agreement(good).words


def test_candidates_are_ordered_by_what_they_promise():
    """Within the limits by value, then by how little they break them, then what would not start."""
    limit = [Limit("ttft_p99", most=1.0)]
    seen = [
        Screened({}),
        Screened({"throughput": 900.0, "ttft_p99": 3.0}),
        Screened({"throughput": 100.0, "ttft_p99": 0.5}),
        Screened({"throughput": 800.0, "ttft_p99": 1.5}),
        Screened({"throughput": 200.0, "ttft_p99": 0.9}),
    ]

    assert ordered(seen, Objective("throughput"), limit) == [4, 2, 3, 1, 0]
    assert ordered(seen, Objective("ttft_p99", MINIMISE))[0] == 2
