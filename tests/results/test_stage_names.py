"""A stage has one number, from 1, and one name, wherever a person reads of it."""

import pytest

from harness.results.stage_names import in_column, label, name_of, stage_name


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"kind": "poisson", "rate": 2.0}, "poisson 2 req/s"),
        ({"kind": "constant", "rate": 0.5, "max_concurrency": 8}, "constant 0.5 req/s, at most 8 in flight"),
        ({"kind": "closed", "concurrency": 64}, "closed loop, concurrency 64"),
        ({"kind": "gamma", "rate": 2.0, "burstiness": 0.25}, "gamma 2 req/s, burstiness 0.25"),
        ({"kind": "ramp", "rate": 1.0, "rate_to": 4.0}, "ramp 1 to 4 req/s"),
        ({"kind": "trace", "speed": 2.0}, "trace, speed 2"),
        ({"kind": "trace"}, "trace, speed 1"),
    ],
)
def test_a_load_is_named_in_the_scenarios_own_numbers(load, words):
    """A label has the kind and its numbers."""
    assert label(load) == words


def test_a_stage_is_named_by_its_number_from_one_and_its_load() -> None:
    """Files count from 0, people from 1; a repeat stands behind, the first one is not said."""
    assert stage_name(0, "poisson 2 req/s") == "stage 1 (poisson 2 req/s)"
    assert stage_name(2, "poisson 2 req/s", 1) == "stage 3 (poisson 2 req/s), repeat 2"
    assert stage_name(1) == "stage 2"
    assert in_column(1, "closed loop, concurrency 4") == "2: closed loop, concurrency 4"
    assert (
        name_of({"index": 1, "repeat": 2, "label": "closed loop, concurrency 4"})
        == "stage 2 (closed loop, concurrency 4), repeat 3"
    )


def test_a_packages_arrivals_are_named_by_their_rate_or_their_keys():
    """Not every process has a rate, and none is left without a name."""
    assert label({"kind": "bursts", "rate": 4.0, "options": {"rate": 4.0, "size": 8}}) == "bursts 4 req/s"
    assert label({"kind": "tides", "options": {"period": 8, "phase": None}}) == "tides, period 8"
