"""Classes of requests: drawn by weight, each trait by itself, the same for the same seed."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scenario.request_kinds import Adapters, Models, Priority, Structured
from harness.scenario.workload import SyntheticWorkload
from harness.workload.classes import FREE, PLAIN_MIX, STRUCTURED, RequestClass, request_mix

SESSIONS = 4000


def work(**keys):
    """A synthetic workload with some keys."""
    return SyntheticWorkload(kind="synthetic", input_tokens=8, output_tokens=8, **keys)


def drawn(mix, adapters=None, sessions=SESSIONS):
    """The classes of the first sessions."""
    classes = mix.classes
    return [classes[mix.of(session, adapters)] for session in range(sessions)]


def test_requests_that_are_all_alike_are_of_one_class():
    """A workload without such keys, or of a package, has the plain class, which run.json need not name."""
    assert PLAIN_MIX.classes == (RequestClass(),)
    assert {PLAIN_MIX.of(session) for session in range(50)} == {0}
    assert request_mix(work(), 3).as_dicts() == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.integers(0, 9), st.integers(0, 1000))
def test_adapters_are_named_by_their_weights(weights, base, seed):
    """In the long run each has its share, the model itself its own; what weighs nothing is never named."""
    if sum(weights) == 0:
        return
    names = tuple(f"a{place}" for place in range(len(weights)))
    mix = request_mix(work(adapters=Adapters(names=names, weights=tuple(map(float, weights)), base=float(base))), seed)
    counts = Counter(each.model for each in drawn(mix))
    total = sum(weights) + base

    for name, weight in zip(("", *names), (base, *weights), strict=True):
        assert counts[name] / SESSIONS == pytest.approx(weight / total, abs=0.04)
        assert weight or not counts[name]


def test_a_stage_leaves_the_last_adapters_out():
    """0 is the model alone, also where it has no weight; who named an adapter that is left keeps its order."""
    mix = request_mix(work(adapters=Adapters(names=("a", "b", "c"))), 5)

    assert {each.model for each in drawn(mix)} == {"a", "b", "c"}
    assert {each.model for each in drawn(mix, 2)} == {"a", "b"}
    assert {each.model for each in drawn(mix, 0)} == {""}


def test_traits_are_drawn_apart():
    """A priority or a form beside them does not move the models, and the shares are independent of each other."""
    models = Models(names=("m", "n"), weights=(3.0, 1.0))
    plain = request_mix(work(models=models), 7)
    keys = {"priority": Priority(values=(0, 10)), "structured": Structured(kind="json_schema", share=0.25)}
    mixed = request_mix(work(models=models, **keys), 7)
    classes = drawn(mixed)

    assert [each.model for each in drawn(plain)] == [each.model for each in classes]
    of_first = [each for each in classes if (each.model, each.priority) == ("m", 0)]
    assert len(of_first) / SESSIONS == pytest.approx(0.375, abs=0.03)
    assert Counter(each.form for each in of_first)[STRUCTURED] / len(of_first) == pytest.approx(0.25, abs=0.05)
    assert {each.form for each in classes} == {FREE, STRUCTURED}


def test_classes_stand_in_run_json_as_plain_values():
    """Each by its number; what it does not have is left out."""
    mix = request_mix(work(adapters=Adapters(names=("sql",), base=1.0), priority=Priority(values=(5,))), 1)

    assert mix.as_dicts() == [
        {"adapter": False, "priority": 5},
        {"model": "sql", "adapter": True, "priority": 5},
    ]
