"""Points are drawn within their ranges, conditions hold, and places and values are each other's inverse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tuning import space as spaces
from harness.tuning.space import Space, evaluate_expression, expression_names
from harness.tuning.types import TunableParameter

NUMBERS = TunableParameter("max_num_seqs", "int", 8, 512, 1, log=True)
SHARE = TunableParameter("gpu_memory_utilization", "float", 0.8, 0.95, 0.01)
SWITCH = TunableParameter("enable_chunked_prefill", "choice", values=(True, False))
HANGING = TunableParameter(
    "long_prefill_token_threshold", "choice", values=(0, 512), when={"enable_chunked_prefill": (True,)}
)
LOAD = TunableParameter("load.concurrency", "choice", values=(4, 8))
SPACE = Space((NUMBERS, SHARE, SWITCH, HANGING))


@given(st.sampled_from([NUMBERS, SHARE, SWITCH, HANGING]), st.floats(0, 1))
def test_a_value_is_found_again_at_its_place(parameter, share):
    """The value at the place of a value is that value."""
    value = spaces.value_at(parameter, share)

    assert spaces.value_at(parameter, min(spaces.share_of(parameter, value) + 1e-9, 1.0)) == value


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_drawn_points_lie_within_their_ranges(seed, count):
    """Every number is in its range, every choice one of its values, and no point stands twice."""
    points = spaces.latin_hypercube(SPACE, count, np.random.default_rng(seed))

    assert all(8 <= point["max_num_seqs"] <= 512 for point in points)
    assert all(0.8 <= point["gpu_memory_utilization"] <= 0.95 for point in points)
    assert len({spaces.point_key(point) for point in points}) == len(points)


@given(st.integers(0, 2**32))
def test_a_parameter_whose_condition_fails_is_not_in_the_point(seed):
    """It is there exactly where chunked prefill is on, also among neighbours."""
    rng = np.random.default_rng(seed)
    points = spaces.latin_hypercube(SPACE, 10, rng)
    points += spaces.neighbours(SPACE, points[0], 10, rng)

    assert all(("long_prefill_token_threshold" in point) == point["enable_chunked_prefill"] for point in points)


def test_neighbours_differ_in_one_or_two_parameters():
    """What was moved is little, what hangs on it may come or go."""
    rng = np.random.default_rng(1)
    plain = Space((NUMBERS, SHARE, SWITCH))
    point = {"max_num_seqs": 64, "gpu_memory_utilization": 0.9, "enable_chunked_prefill": True}
    changes = [sum(one[name] != point[name] for name in point) for one in spaces.neighbours(plain, point, 50, rng)]

    assert set(changes) == {1, 2}


def test_steps_differ_in_one_range_by_a_tenth_or_a_fifth():
    """Up and down, as far as the range goes; a switch has no steps, and the point itself is none."""
    plain = Space((NUMBERS, SHARE, SWITCH))
    point = {"max_num_seqs": 8, "gpu_memory_utilization": 0.9, "enable_chunked_prefill": True}
    found = spaces.axis_steps(plain, point)
    numbers = sorted(one["max_num_seqs"] for one in found if one["max_num_seqs"] != 8)

    assert all(sum(one[name] != point[name] for name in point) == 1 for one in found)
    assert {one["enable_chunked_prefill"] for one in found} == {True}
    assert len(numbers) == 2
    assert 8 < numbers[0] < numbers[1] < 32


def test_rows_are_spread_out():
    """Those asked for come first, then each time the one farthest from all that are taken; no more than there are."""
    rows = np.asarray([[0.0], [0.1], [1.0], [0.5]])

    assert spaces.farthest_points(rows, (0,), 3) == [0, 2, 3]
    assert spaces.farthest_points(rows, (1, 1), 2) == [1, 2]
    assert sorted(spaces.farthest_points(rows, (0, 3), 9)) == [0, 1, 2, 3]


def test_derived_values_follow_the_point():
    """Arithmetic and tables are looked up with the values of the point and those that are fixed."""
    space = Space(
        (NUMBERS,),
        {"max_model_len": 4096},
        {
            "max_num_batched_tokens": "max(max_num_seqs, max_model_len)",
            "env.MODE": {"max_num_seqs": {"8": "a", "9": "b"}},
        },
    )

    assert space.values({"max_num_seqs": 8}) == {
        "max_model_len": 4096, "max_num_seqs": 8, "max_num_batched_tokens": 4096, "env.MODE": "a",
    }  # fmt: skip
    with pytest.raises(ValueError, match="its table has no max_num_seqs 16"):
        space.values({"max_num_seqs": 16})


def test_what_is_like_is_near_in_numbers():
    """A step of a range is nearer than its other end; two words are equally far."""
    rows = spaces.encode(
        SPACE,
        [
            {"max_num_seqs": number, "gpu_memory_utilization": 0.9, "enable_chunked_prefill": False}
            for number in (8, 16, 512)
        ],
    )
    gaps = np.linalg.norm(rows - rows[0], axis=1)

    assert gaps[0] == 0
    assert gaps[1] < 0.2 < 0.9 < gaps[2]


def test_loads_are_swept_and_engines_are_not():
    """A sweep holds every choice of the load; parameters of the engine are not in it."""
    assert spaces.load_sweep(Space((NUMBERS, LOAD)), 4) == [{"load.concurrency": 4}, {"load.concurrency": 8}]
    assert spaces.load_sweep(SPACE, 4) == [{}]


def test_a_default_outside_the_range_is_named_as_it_is():
    """A point that said the nearest number would be another configuration's; the search goes on from the nearest."""
    assert spaces.default_value(NUMBERS, 1024) == 1024
    assert spaces.nearest_value(NUMBERS, 1024) == 512
    assert spaces.nearest_point(SPACE, {"max_num_seqs": 1024, "other": 3}) == {"max_num_seqs": 512}
    assert (spaces.encode(SPACE, [{"max_num_seqs": 1024}]) == spaces.encode(SPACE, [{"max_num_seqs": 512}])).all()
    assert spaces.default_value(SHARE, 0.92) == pytest.approx(0.92)
    assert spaces.default_value(SWITCH, engine_value=False) is False


@given(st.integers(0, 2**32 - 1))
def test_a_point_of_the_space_is_its_own_nearest(seed):
    """Whatever the space holds is stored as it was measured."""
    for point in spaces.latin_hypercube(SPACE, 5, np.random.default_rng(seed)):
        assert spaces.nearest_point(SPACE, point) == point


@given(st.integers(8, 512))
def test_a_number_between_the_round_ones_is_kept(number):
    """Optuna names any whole number of a range."""
    assert spaces.nearest_point(SPACE, {"max_num_seqs": number}) == {"max_num_seqs": number}


@pytest.mark.parametrize("value", [1024, 3])
def test_neighbours_of_what_lies_outside_are_inside(value):
    """No neighbour of the default takes over a value that the study does not search."""
    point = {"max_num_seqs": value, "gpu_memory_utilization": 0.9, "enable_chunked_prefill": False}
    near = spaces.neighbours(SPACE, point, 50, np.random.default_rng(0)) + spaces.axis_steps(SPACE, point)

    assert near
    assert all(8 <= neighbour["max_num_seqs"] <= 512 for neighbour in near)


def test_the_default_of_a_choice_is_what_runs():
    """The same value in whatever spelling, else the engine's number; no choice that the engine does not run with."""
    words = TunableParameter("dtype", "choice", values=("float16", "bfloat16"))
    numbers = TunableParameter("block_size", "choice", values=(16, 64, 128))

    assert spaces.default_value(words, "bfloat16") == "bfloat16"
    assert spaces.default_value(SWITCH, "false") is False
    assert spaces.default_value(numbers, 100) == 100
    assert [spaces.nearest_value(numbers, value) for value in (100, 32)] == [128, 16]
    assert spaces.share_of(numbers, 100) == spaces.share_of(numbers, 128)
    assert spaces.default_value(words, "float32") is None
    assert spaces.default_value(words, None) is None
    assert spaces.default_value(NUMBERS, None) is None


LEAF = st.integers(1, 9).map(str) | st.sampled_from(["a", "b"])
TERM = st.recursive(
    LEAF,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({' '.join(parts)})")
        | st.tuples(inner, inner).map(lambda pair: f"max({pair[0]}, {pair[1]})")
    ),
    max_leaves=8,
)


@given(TERM)
def test_arithmetic_is_that_of_python(text):
    """Sums, products and max come to what Python's own evaluation says."""
    values = {"a": 3, "b": 5}

    assert evaluate_expression(text, values) == eval(text, {"max": max}, values)


def test_what_an_expression_reads_is_known():
    """Functions are not parameters."""
    assert expression_names("min(a * 2, b // 3)") == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.b", "a[0]", "lambda: 1", "f(a)", "'x'", "a if b else 1", "1; 2", "", "a ** 9", "min()"],
)
def test_nothing_but_arithmetic_is_let_in(text):
    """Names of attributes, calls of anything else, texts and powers are refused before they run."""
    with pytest.raises(ValueError, match="is no arithmetic"):
        evaluate_expression(text, {"a": 1, "b": 1})


def test_a_division_by_zero_is_told():
    """It is a fault of the point, not of the program."""
    with pytest.raises(ValueError, match="has no value here"):
        evaluate_expression("1 // a", {"a": 0})
