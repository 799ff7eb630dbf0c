"""Does a derived value come to what plain arithmetic says, and is nothing else let in?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tuning.space import names_in, value_of

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

    assert value_of(text, values) == eval(text, {"max": max}, values)


def test_what_an_expression_reads_is_known():
    """Functions are not parameters."""
    assert names_in("min(a * 2, b // 3)") == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "a.b", "a[0]", "lambda: 1", "f(a)", "'x'", "a if b else 1", "1; 2", "", "a ** 9", "min()"],
)
def test_nothing_but_arithmetic_is_let_in(text):
    """Names of attributes, calls of anything else, texts and powers are refused before they run."""
    with pytest.raises(ValueError, match="is no arithmetic"):
        value_of(text, {"a": 1, "b": 1})


def test_a_division_by_zero_is_told():
    """It is a fault of the point, not of the program."""
    with pytest.raises(ValueError, match="has no value here"):
        value_of("1 // a", {"a": 0})
