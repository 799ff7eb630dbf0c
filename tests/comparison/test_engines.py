"""Engines of two results are matched by their names, and never by their place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reports.compare_page as page
from harness.cli.compare import lines_of
from harness.comparison.comparison import compare
from harness.comparison.engines import QUANTITIES, engine_changes, unlike_engines
from harness.comparison.repeats import Repeat, Side
from harness.comparison.served import SERVED, device_of
from harness.comparison.sides import read_side
from harness.messages import localized
from harness.scenario.gate import DEFAULT_GATE
from tests.result_folder import Run, make_result


def side(*repeats):
    """A side of one stage: by engine its running requests and its tokens in two seconds, of each repeat."""
    stages = [
        {
            "engines": [
                {
                    "name": name,
                    "role": "decode",
                    "running": {"mean": n, "max": n},
                    "generation_tokens": t,
                    "span_s": 2.0,
                }
                for name, (n, t) in engines.items()
            ]
        }
        for engines in repeats
    ]
    return Side("x", [Repeat("x", i, {}, {}, {0: stage}, lambda: None, SERVED) for i, stage in enumerate(stages)])


def test_engines_are_compared_by_name_over_the_repeats():
    """Whatever their order; values are means over the repeats, counts are rates."""
    base = side({"a": (1, 10), "b": (2, 20)}, {"b": (4, 40), "a": (3, 30)})
    (first, second) = engine_changes(base, side({"b": (6, 60), "a": (4, 40)}))

    assert (first.name, first.ratio("running"), first.base["generation_tokens"]) == ("a", 2.0, 10.0)
    assert (second.name, second.ratio("running"), second.new["generation_tokens"]) == ("b", 2.0, 30.0)
    assert first.ratio("kv_use") is None
    assert set(first.as_dict()) == {"stage", "engine", "role", *QUANTITIES}


def test_engines_of_one_side_are_told_and_matched_with_none():
    """Four ranks against two: the two that both have are compared, and a line names the others."""
    base, new = (side({str(i): (1, 10) for i in range(count)}) for count in (4, 2))
    (warning,) = unlike_engines(base, new)

    assert [change.name for change in engine_changes(base, new)] == ["0", "1"]
    assert str(warning.text) == ("BASE has 4 engines and NEW 2: on one side alone, and matched with none: 2 and 3.")
    assert list(unlike_engines(base, base)) == []


def test_the_engine_that_changed_most_is_not_named_where_their_number_differs(tmp_path):
    """Two ranks in place of three take a larger share each: that says nothing of one of them."""
    sides = [read_side(make_result(tmp_path / str(n), Run(loads=(2.0,), duration_s=60, engines=n))) for n in (2, 3)]
    lines = [line if isinstance(line, str) else localized(line) for line in lines_of(compare(*sides, DEFAULT_GATE))]

    assert any("BASE has 2 engines and NEW 3" in line for line in lines)
    assert not any("changed most" in line for line in lines)


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ({"effective": {"chip": "910B3"}}, "910B3"),
        (
            {"processes": [{"effective": {"chip": "910B3"}}, {"effective": {"chip": "910B3"}}, {"effective": {}}]},
            "910B3",
        ),
        ({"processes": [{"effective": {"chip": "910C"}}, {"effective": {"chip": "910B3"}}]}, "910B3 + 910C"),
        ({}, "simulated"),
    ],
)
def test_the_device_of_a_simulated_deployment_is_the_chips_of_its_processes(engine, device):
    """So that it compares with one engine on the same chip, and not with a deployment on another."""
    assert device_of(Repeat("x", 0, {"engine": {"simulated": True, **engine}}, {}, {}, lambda: None, SERVED)) == device


def test_a_single_engine_and_older_results_have_nothing_to_compare():
    """One engine is the server; a summary of before has no engines."""
    one, old = side({"0": (1, 10)}), side({})

    assert (engine_changes(one, one), engine_changes(old, old)) == ([], [])
    assert [*unlike_engines(one, one), *unlike_engines(old, side({"0": (1, 1), "1": (1, 1)}))] == []


names = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 9), st.integers(1, 99)), max_size=6)


@given(names, names)
def test_a_comparison_turned_round_has_turned_ratios(base, new):
    """The same engines, each with its ratio the other way."""
    there, back = engine_changes(side(base), side(new)), engine_changes(side(new), side(base))

    assert {change.name for change in there} == {change.name for change in back}
    ratios = {change.name: change.ratio("running") for change in back}
    assert [change.ratio("running") * ratios[change.name] for change in there] == pytest.approx([1.0] * len(there))


def test_the_page_the_file_and_the_terminal_have_the_engines(tmp_path):
    """A table of both sides, an entry an engine, and a line with the one that changed most."""
    run = Run(loads=(2.0,), duration_s=60, engines=3)
    sides = [read_side(make_result(tmp_path / slow, Run(**{**vars_of(run), "slow": slow}))) for slow in ("0", "1")]
    comparison = compare(*sides, DEFAULT_GATE)
    text, content = page.render(comparison), page.as_dict(comparison)
    lines = [line if isinstance(line, str) else localized(line) for line in lines_of(comparison)]

    assert 'id="engines"' in text
    assert [row["engine"] for row in content["engines"]] == ["0", "1", "2"]
    assert content["engines"][0]["running"]["ratio"] < 0.6
    assert json.loads(json.dumps(content["engines"], allow_nan=False)) == content["engines"]
    assert any("of 3 engines" in line and "changed most" in line for line in lines)


def vars_of(run):
    """The fields of a run."""
    return {name: getattr(run, name) for name in run.__slots__}
