"""The page, summary.md, the terminal and the Python API show the acceptance that summary.json holds."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.api.result import draw
from harness.cli.result_lines import table_lines
from harness.comparison.judging import ALSO
from harness.comparison.measures import count_of, value_of
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.messages import language
from harness.results import store, table_files
from harness.scenario.loader import load_scenario
from harness.scenario.metrics import measure_of
from harness.telemetry.server_metrics import ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS
from reports import speculation

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


def ran(folder, rates, args=None, **more):
    """The folder of a run on a simulator that drafts two tokens and accepts these shares of them."""
    drafting = {"method": "mtp", "num_speculative_tokens": 2, "synthetic_acceptance_rates": rates}
    content = {
        "name": "drafts",
        "question": "What does it accept?",
        "engine": {"kind": "simulator", "model": MODEL, "args": {"speculative_config": drafting, **(args or {})}},
        "workload": {"kind": "synthetic", "text": "real", "input_tokens": 100, "output_tokens": 80},
        "load": [{"closed": {"concurrency": [2, 8], "requests": 120}}],
        **more,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "drafts.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    spec = RunSpec(load_scenario(path), folder / "out", "", lambda _: None)
    assert execute(spec).exit_code == 0
    finish(spec.folder)
    return spec.folder


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A run of two stages whose drafts are accepted by 70 % and 40 %, with its page."""
    folder = ran(tmp_path_factory.mktemp("speculation"), [0.7, 0.4])
    draw(folder)
    return folder


def test_the_simulators_rates_come_out_again(result):
    """What the engine was told to accept is what its counters, its stages and the answer say."""
    summary = store.read_json(result, store.SUMMARY)

    for stage in summary["stages"]:
        own = stage["speculation"]
        assert own["by_position"] == pytest.approx([0.7, 0.4], abs=0.03)
        assert own["mean_accepted_length"] == pytest.approx(2.1, abs=0.05)
        assert own["acceptance_rate"] == pytest.approx(0.55, abs=0.03)
    assert "of the drafted tokens" in summary["answer"].lower()
    own = [stage["speculation"] for stage in summary["stages"]]
    whole = sum(each["accepted_tokens"] for each in own) / sum(each["draft_tokens"] for each in own)
    assert f"{100 * whole:.1f} %" in summary["answer"]
    assert "at concurrency 2 and" in summary["answer"]


def test_page_and_summary_show_the_same_numbers(result):
    """A table row a stage, a figure by position with its words, a strip over time; the table in summary.md too."""
    page, markdown = ((result / name).read_text(encoding="utf-8") for name in ("report.html", "summary.md"))
    stages = store.read_json(result, store.SUMMARY)["stages"]

    for stage in stages:
        own = stage["speculation"]
        for text in (f"{own['drafts']:,}", f"{100 * own['acceptance_rate']:.1f} %"):
            assert text in page
            assert text in markdown
    assert 'id="speculation"' in page
    assert "Acceptance by position" in page
    assert "accepted of drafted tokens, %" in page
    rows = speculation.rows(stages)
    assert [len(row) for row in rows] == [len(speculation.heads())] * 2


def test_a_page_without_speculation_says_nothing_of_it(tmp_path):
    """No section, no columns, no rows where no engine drafts."""
    stages = [{"index": 0, "load": {"kind": "closed", "concurrency": 2}, "label": "x"}]

    assert speculation.rows(stages) == []
    assert not len(speculation.position_frame(stages))
    assert not any("accepted" in line for line in table_lines(stages))


def test_the_terminal_has_two_columns(result):
    """Accepted per cent and length, a row a stage, in both languages."""
    stages = store.read_json(result, store.SUMMARY)["stages"]
    lines = table_lines(stages)

    assert any("accepted" in line and "length" in line for line in lines)
    assert all(any(f"{own['speculation']['mean_accepted_length']:.2f}" in line for line in lines) for own in stages)
    with language("zh"):
        assert any("接受率" in line for line in table_lines(stages))


def test_python_gives_the_acceptance(result):
    """`Summary.stages[n].speculation`, as summary.json has it; None without speculation."""
    stage = harness.read_result(result).summary.stages[1]
    kept = store.read_json(result, store.SUMMARY)["stages"][1]["speculation"]

    assert isinstance(stage.speculation, harness.Acceptance)
    assert stage.speculation.acceptance_rate == kept["acceptance_rate"]
    assert stage.speculation.by_position == tuple(kept["by_position"])
    assert stage.speculation.ci95 == {name: tuple(ends) for name, ends in kept["ci95"].items()}


def test_a_comparison_reads_it_as_measures(result):
    """Both are shown of every comparison, may stand in a gate, and count drafts."""
    stage = store.read_json(result, store.SUMMARY)["stages"][0]

    for key in ("acceptance_rate", "mean_accepted_length"):
        measure = measure_of(key)
        assert key in ALSO
        assert measure.more_is_better
        assert value_of(measure, stage) == stage["speculation"][key]
        assert count_of(measure, stage) == stage["speculation"]["drafts"]
        assert value_of(measure, {}) is None


def test_a_worse_draft_model_is_found_by_a_comparison(tmp_path):
    """Of repeats, half the acceptance is worse, with an interval."""
    load = {"load": [{"closed": {"concurrency": 4, "requests": 60}}], "repeats": 3}
    base, new = (ran(tmp_path / name, rates, **load) for name, rates in (("a", [0.7, 0.4]), ("b", [0.4, 0.1])))
    comparison = harness.compare(base, new)
    rows = {row.measure.metric: row for row in comparison.shown}

    for metric in ("acceptance_rate", "mean_accepted_length"):
        assert rows[metric].verdict == "worse"
        assert rows[metric].low < rows[metric].ratio < rows[metric].high < 1
    assert rows["acceptance_rate"].ratio == pytest.approx(0.25 / 0.55, rel=0.1)


def test_requests_add_up_to_the_counters(tmp_path):
    """What the server says of each request is together what its counters say of all."""
    folder = ran(tmp_path, [0.7, 0.4], {"per_request_spec_decode_metrics": "summary"}, endpoint="chat")
    requests, samples = table_files.read_requests(folder), table_files.read_samples(folder)
    columns = {DRAFTS: "draft_steps", DRAFT_TOKENS: "draft_tokens", ACCEPTED_TOKENS: "accepted_tokens"}
    stage = store.read_json(folder, store.SUMMARY)["stages"][0]["speculation"]

    for name, column in columns.items():
        counted = samples.value[(samples.name == name) & (samples.source == "server")]
        assert getattr(requests, column).sum() == counted[-1]
    assert stage["requests"]["acceptance_rate"] == pytest.approx(stage["acceptance_rate"], abs=0.02)
    quantiles = stage["requests"]["quantiles"]["acceptance_rate"]
    assert quantiles["p10"] < stage["acceptance_rate"] < quantiles["p90"]


@given(
    st.lists(st.tuples(st.integers(1, 900), st.lists(st.floats(0, 1), min_size=3, max_size=3)), min_size=1, max_size=4)
)
def test_repeats_of_a_stage_are_one_line(repeats):
    """Of several repeats the figure shows all drafts together."""
    stages = [
        {"index": 0, "repeat": number, "speculation": {"drafts": drafts, "by_position": places}}
        for number, (drafts, places) in enumerate(repeats)
    ]
    shares = speculation.position_frame(stages)["share"].to_numpy()
    weights = [drafts for drafts, _ in repeats]

    assert shares == pytest.approx(np.average([places for _, places in repeats], axis=0, weights=weights))


def test_several_engines_have_rows_of_their_own():
    """Each engine's counts below its stage; steps and tokens are the stage's."""
    own = {
        "drafts": 10,
        "draft_tokens": 20,
        "accepted_tokens": 11,
        "acceptance_rate": 0.55,
        "mean_accepted_length": 2.1,
    }
    stage = {
        "index": 0, "load": {"kind": "closed", "concurrency": 2}, "tpot": {"p50": 0.01},
        "speculation": {**own, "by_position": [0.7, 0.4], "ci95": {}, "engines": {"0": own, "1": {**own, "drafts": 7}}},
    }  # fmt: skip
    rows = speculation.rows([stage])

    assert [row[1].text for row in rows] == ["10", "10", "7"]
    assert [row[5].text for row in rows] == ["10.0 ms", "–", "–"]


def test_requests_show_how_far_they_differ():
    """Where the server tells of single requests and no interval is known, from which to which eight in ten went."""
    quantiles = {"acceptance_rate": {"p10": 0.2, "p50": 0.5, "p90": 0.8}}
    own = {"drafts": 5, "acceptance_rate": 0.5, "requests": {"n": 9, "quantiles": quantiles}}
    row = speculation.rows([{"index": 0, "load": {"kind": "closed", "concurrency": 2}, "speculation": own}])[0]

    assert "20.0 %" in row[2].below
    assert "80.0 %" in row[2].below
