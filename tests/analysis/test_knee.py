"""The knee of a run: where more load brings little, and where limits stop holding."""

import pytest

from harness.analysis.knee import knee, saturation


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([(1, 1.0), (2, 2.0), (4, 4.0)], None),
        ([(1, 1.0), (2, 1.9), (4, 2.2), (8, 2.3)], (1.9, 2.2)),
        ([(4, 100.0), (1, 30.0), (2, 60.0), (8, 90.0)], (100.0, 102.0)),
        ([(1, 1.0), (2, 1.0)], None),
        ([(1, float("nan")), (2, 1.0), (4, 1.0)], None),
    ],
)
def test_a_sweep_without_limits_has_its_knee_where_more_load_brings_little(loads, expected):
    """The first step that brings less than half of what the first load brought for as much."""
    assert saturation(loads) == expected


def test_a_knee_over_offered_rates_stands_at_what_was_offered():
    """Between the two loads that were offered, and not between what came of them."""
    loads = [(1, 1.0), (2, 1.9), (4, 2.2), (8, 2.3)]

    assert saturation(loads, {1: 1.1, 2: 2.1, 4: 3.9, 8: 8.0}) == (2.1, 3.9)


def stage(index, rate, met):
    """A stage of an open loop with a limit."""
    load = {"kind": "poisson", "rate": rate}
    return {"index": index, "load": load, "offered_rate": rate, "slo": {"ttft_p99": {}}, "slo_met": met}


def test_with_limits_the_knee_lies_between_the_last_stage_that_holds_and_the_next():
    """A stage whose queue grew does not hold, and a single repeat that misses a limit breaks its stage."""
    stages = [stage(1, 4.0, True), stage(0, 2.0, True), stage(2, 8.0, False)]

    assert knee(stages, set()) == {"by": "limits", "rate": "offered_rate", "held": 4.0, "broken": 8.0}
    assert knee(stages, {1}) == {"by": "limits", "rate": "offered_rate", "held": 2.0, "broken": 4.0}
    assert knee([*stages, stage(0, 2.0, False)], set()) is None
