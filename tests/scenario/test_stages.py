"""The stages and counts that a scenario's shorthand means."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from harness.scenario.stages import STAGE_KINDS, LoadItem, Stage, expand, stages_of
from harness.scenario.workload import (
    DATASET_FORMATS,
    TRACE_FORMATS,
    CountSpec,
    DatasetWorkload,
    TraceWorkload,
    at_most,
    bounds,
)
from harness.workload.arrivals import PROCESSES
from harness.workload.trace import FORMATS

ITEM = TypeAdapter(LoadItem)
COUNT = TypeAdapter(CountSpec)


def stages(item):
    """The stages of one item as a file would hold it."""
    return stages_of(ITEM.validate_python(item))


def test_a_list_makes_a_stage_of_each_value():
    """Rates vary slowest, durations fastest."""
    made = stages({"poisson": {"rate": [1, 2], "duration": ["10s", "20s"]}})

    assert [(stage.rate, stage.duration_s) for stage in made] == [(1, 10), (1, 20), (2, 10), (2, 20)]


@pytest.mark.parametrize(
    ("item", "stage"),
    [
        ({"closed": {"concurrency": 3, "requests": 5}}, Stage("closed", concurrency=3, requests=5)),
        ({"constant": {"rate": 2, "requests": 9}}, Stage("constant", rate=2.0, requests=9)),
        (
            {"gamma": {"rate": 2, "burstiness": 0.5, "duration": 4}},
            Stage("gamma", rate=2.0, burstiness=0.5, duration_s=4.0),
        ),
        (
            {"ramp": {"from": 0, "to": 8, "duration": "2m"}},
            Stage("ramp", rate=0.0, rate_to=8.0, duration_s=120.0),
        ),
        ({"trace": {}}, Stage("trace", speed=1.0)),
        ({"trace": {"speed": 2, "max_concurrency": 7}}, Stage("trace", speed=2.0, max_concurrency=7)),
    ],
)
def test_each_kind_gives_its_stage(item, stage):
    """Keys of a file become fields with units."""
    assert stages(item) == [stage]


def test_a_stage_shows_what_it_has_and_no_more():
    """Values that do not belong to a kind are left out of the summary."""
    assert Stage("closed", concurrency=3, requests=5).as_dict() == {"kind": "closed", "concurrency": 3, "requests": 5}


def test_only_a_closed_loop_waits_for_answers():
    """All other kinds send by the clock."""
    assert [Stage(kind).is_open for kind in ("closed", "constant", "poisson", "gamma", "ramp", "trace")] == [False] + [
        True
    ] * 5


def test_what_can_be_written_can_be_done():
    """Every open kind of load has its arrivals, and every format of a trace its reader."""
    assert {*PROCESSES, "closed", "trace", "offline"} == set(STAGE_KINDS)
    assert tuple(FORMATS) == TRACE_FORMATS


@pytest.mark.parametrize(
    ("part", "kind", "formats"),
    [(TraceWorkload, "trace", TRACE_FORMATS), (DatasetWorkload, "dataset", DATASET_FORMATS)],
)
def test_every_format_can_be_named(part, kind, formats):
    """The formats that are known may stand in a file."""
    named = [part.model_validate({"kind": kind, "path": "x", "format": name}).format for name in formats]

    assert named == list(formats)


def test_items_follow_one_another():
    """`load` is run from top to bottom."""
    items = [ITEM.validate_python({"constant": {"rate": [3, 1], "requests": 1}}), ITEM.validate_python({"trace": {}})]

    assert [(stage.kind, stage.rate) for stage in expand(tuple(items))] == [
        ("constant", 3),
        ("constant", 1),
        ("trace", None),
    ]


def test_the_load_of_a_stage_is_known_where_the_clock_decides():
    """Requests, or rate by duration with the mean rate of a ramp; unknown for traces and closed loops by time."""
    made = [
        Stage("poisson", rate=4.0, duration_s=10.0),
        Stage("ramp", rate=0.0, rate_to=8.0, duration_s=10.0),
        Stage("closed", concurrency=2, requests=7),
        Stage("closed", concurrency=2, duration_s=7.0),
        Stage("trace", speed=1.0),
    ]

    assert [stage.expected_requests for stage in made] == [40.0, 40.0, 7.0, None, None]


LIMITS = st.tuples(st.integers(1, 1000), st.integers(1, 1000)).map(sorted)


@given(LIMITS, st.floats(1, 2000), st.floats(0, 3))
def test_bounds_are_those_that_are_written(limits, middle, spread):
    """Every way to write a count knows its least and largest value."""
    low, high = limits
    written = [
        {"uniform": [low, high]},
        {"normal": {"mean": middle, "sd": spread, "min": low, "max": high}},
        {"lognormal": {"median": middle, "sigma": spread, "min": low, "max": high}},
        {"choice": {"values": [high, low]}},
    ]

    assert {bounds(COUNT.validate_python(count)) for count in written} == {(low, high)}
    assert {at_most(COUNT.validate_python(count)) for count in written} == {high}


@given(st.floats(1, 1e6), st.integers(1, 1000))
def test_without_a_largest_value_the_middle_stands_for_it(middle, low):
    """An unbounded distribution is taken at its middle, never below its least value."""
    counts = [
        {"normal": {"mean": middle, "sd": 1, "min": low}},
        {"lognormal": {"median": middle, "sigma": 1, "min": low}},
    ]
    read = [COUNT.validate_python(count) for count in counts]

    assert [bounds(count) for count in read] == [(low, None)] * 2
    assert [at_most(count) for count in read] == [max(low, round(middle))] * 2
    assert math.isfinite(at_most(read[0]))
