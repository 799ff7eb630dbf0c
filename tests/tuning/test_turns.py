"""The best few and the default take turns, so that neither luck nor drift decides."""

from hypothesis import given
from hypothesis import strategies as st

from harness.tuning.turns import confirmation_turns


def test_turns_mirror_each_other_on_fresh_arrivals():
    """ABBA, and all of a round under the same seed."""
    order = confirmation_turns([0, 2, 1], rounds=2, seed=100)

    assert [turn.who for turn in order] == [0, 2, 1, 1, 2, 0]
    assert [turn.seed for turn in order] == [100, 100, 100, 101, 101, 101]


@given(st.integers(1, 4), st.integers(1, 8))
def test_a_linear_drift_cancels(candidates, pairs):
    """Over an even number of rounds everybody's mean place is the same."""
    places = {who: [] for who in range(candidates + 1)}
    for place, turn in enumerate(confirmation_turns(range(candidates + 1), 2 * pairs, 0)):
        places[turn.who].append(place)

    assert len({sum(found) for found in places.values()}) == 1
