"""A comparison shows percentile curves of both sides, what each costs, and changes on a logarithmic axis."""

import itertools
import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reports
from harness.comparison.comparison import compare
from harness.comparison.sides import read_side
from harness.results import store
from harness.scenario.gate import DEFAULT_GATE
from reports import ci_files, compare_figures
from reports.figures.changes import Bar, _place, forest
from reports.figures.style import Head, drawing
from tests.reports.test_history import CLOSED, made


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two and four NPUs under the same work."""
    place = tmp_path_factory.mktemp("compare")
    folders = [
        made(place, f"tp{tp}", CLOSED, effective={"tensor_parallel_size": tp}, price_per_hour=10.0) for tp in (2, 4)
    ]
    return compare(*map(read_side, folders), DEFAULT_GATE.model_copy(update={"between_runs": 0.01}), anyway=True)


def test_nothing_is_chosen_where_nothing_can_be_judged(comparison):
    """One run a side without a gate's own noise: no verdict, and no choice beside it."""
    unjudged = compare(comparison.base, comparison.new, DEFAULT_GATE, anyway=True)

    assert str(unjudged.answer).startswith("Undetermined")
    assert compare_figures.decision_of(unjudged) is None


def test_percentile_curves_of_both_sides_lie_over_each_other(comparison):
    """A figure a latency: a solid line a stage of the new side, a dashed one of the base, numbers in words."""
    figures = list(compare_figures.overlays(comparison))
    first = str(figures[0].svg)

    assert [figure.name for figure in figures] == ["overlay-ttft", "overlay-tpot", "overlay-e2e"]
    assert len(re.findall("stroke-dasharray: ?[1-9]", first)) >= 3
    assert "base, concurrency 1: " in first
    assert "new, concurrency 12: " in first


def test_cost_stands_beside_the_verdicts(comparison):
    """Twice the NPUs for the same tokens: half the throughput of one, and twice the cost."""
    heads, rows = compare_figures.efficiency_table(comparison)
    (kept, *_) = compare_figures.efficiency_rows(comparison)
    ratio = kept["new"]["cost_per_million_output_tokens"] / kept["base"]["cost_per_million_output_tokens"]

    assert heads[1:] == ["tokens/s per NPU", "tokens/s per user", "cost / M output tokens"]
    assert ratio == pytest.approx(2.0)
    assert [row[3].below for row in rows] == ["×2.00"] * 3
    assert [row[1].below for row in rows] == ["×0.500"] * 3


def test_the_sides_stand_in_one_decision(comparison):
    """Which side to run is said in a sentence; its figure has both."""
    selection = compare_figures.decision_of(comparison)

    assert list(selection.names) == ["base", "new"]
    assert str(selection.text).startswith("Choose base, closed loop, concurrency 12")


def test_a_simulated_side_is_in_no_decision_with_a_measured_one(tmp_path):
    """The comparison itself may be asked for; which configuration to run is not read from it."""
    folders = [made(tmp_path, f"r{simulated}", replace(CLOSED, simulated=simulated)) for simulated in (True, False)]
    for folder in folders:
        run = store.read_run(folder)
        run["engine"]["kind"] = "attach"
        store.write_json(folder, store.RUN, run)
    found = compare(*map(read_side, folders), DEFAULT_GATE, anyway=True)

    assert compare_figures.decision_of(found) is None


def test_the_page_and_the_json_hold_it(comparison, tmp_path):
    """Sections of percentiles, cost and decision; compare.json has the numbers of both sides."""
    page = reports.write_comparison(tmp_path, comparison).read_text()
    kept = json.loads((tmp_path / "compare.json").read_text())["efficiency"]

    text = ci_files.plain(str(compare_figures.decision_of(comparison).text))
    assert f"**Which configuration to run** · {text}" in (tmp_path / "compare.md").read_text().splitlines()
    for section in ("decision", "percentiles"):
        assert f'id="{section}"' in page
    assert [row["stage"] for row in kept] == [0, 1, 2]
    assert kept[0]["base"]["npu_token_rate"] == pytest.approx(2 * kept[0]["new"]["npu_token_rate"])


@given(ratio=st.floats(0.01, 100))
def test_twice_and_half_are_equally_far_from_no_change(ratio):
    """The axis is that of the logarithm of new / base."""
    assert _place(100 * (ratio - 1)) == pytest.approx(math.log(ratio), abs=1e-9)
    assert _place(100 * (ratio - 1)) == pytest.approx(-_place(100 * (1 / ratio - 1)), abs=1e-9)


@given(changes=st.lists(st.floats(-99, 5000), min_size=1, max_size=6))
def test_ticks_of_the_changes_keep_apart(changes):
    """However far the changes reach, no two labels of the axis meet, and no change is always among them."""
    bars = [Bar("p99 TTFT", change, change - 1, change + 1, "worse") for change in changes]
    with drawing():
        (axes,) = forest(bars, Head("x")).axes
    texts = [text for text in axes.texts if re.fullmatch(r"[+\u2212]\d+ %|0", text.get_text())]
    places = sorted(
        text.get_transform().transform(text.get_position())[0] for text in texts if text.get_ha() == "center"
    )

    assert "0" in [text.get_text() for text in texts]
    assert all(b - a >= 45 for a, b in itertools.pairwise(places))
