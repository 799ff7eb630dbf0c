"""The page, the terminal, comparisons and the Python API show the hits and the split that summary.json holds."""

import json

import numpy as np
import pytest

import harness
from harness.api.result import draw
from harness.cli.result_lines import table_lines
from harness.comparison.judging import ALSO
from harness.comparison.measures import value_of
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.messages import language
from harness.results import store
from harness.results.folder import read_files
from harness.scenario.loader import load_scenario
from harness.scenario.metrics import measure_of
from reports import server_side
from reports.data import gather
from reports.figures.lanes import PHASES, SPLIT_PHASES, Lanes, phases_of
from reports.lanes import lane_frame

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A run that asks for 60 % of hits, on a simulator that tells its own times, with its page."""
    folder = tmp_path_factory.mktemp("server")
    content = {
        "name": "hits",
        "question": "Is it held?",
        "engine": {"kind": "simulator", "model": MODEL, "args": {"enable_per_request_metrics": True}},
        "workload": {
            "kind": "synthetic",
            "input_tokens": {"uniform": [900, 1900]},
            "output_tokens": 20,
            "prefix": {"hit_rate": 0.6, "groups": 2},
        },
        "load": [{"poisson": {"rate": [10, 40], "requests": 80}}],
    }
    path = folder / "hits.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    spec = RunSpec(load_scenario(path), folder / "out", "", lambda _: None)
    assert execute(spec).exit_code == 0
    finish(spec.folder)
    draw(spec.folder)
    return spec.folder


def test_the_page_has_both_tables(result):
    """A row a stage: theory, measurement and target with its verdict; queue, prefill and what lies outside."""
    stages = store.read_json(result, store.SUMMARY)["stages"]
    page = (result / "report.html").read_text(encoding="utf-8")
    hits, split = server_side.prefix_rows(stages), server_side.split_rows(stages)

    assert 'id="server"' in page
    assert [row[3].text for row in hits] == ["60.0 % held"] * 2
    assert [row[3].tone for row in hits] == ["good"] * 2
    assert [row[3].below for row in hits] == ["primed by 2 requests"] * 2
    assert [row[4].text for row in split] == ["80", "80"]
    assert [row[3].text for row in split] == ["0 ms", "0 ms"]
    assert all(row[1].below.startswith("p99 ") for row in split)


def test_prompts_that_share_nothing_have_no_table():
    """Neither have stages of earlier versions; engines stand below their stage by name."""
    stage = {"index": 0, "load": {"kind": "poisson", "rate": 2.0}}
    nothing = {"theoretical_hit_rate": 0.0, "measured_hit_rate": 0.0001}
    several = {"theoretical_hit_rate": None, "measured_hit_rate": 0.25, "engines": {"a": 0.5, "b": 0.0}}
    rows = server_side.prefix_rows([stage, stage | {"prefix": nothing}, stage | {"prefix": several}])

    assert [(row[0].below, row[1].text, row[2].text) for row in rows] == [
        ("", "–", "25.0 %"), ("engine a", "–", "50.0 %"), ("engine b", "–", "0 %")
    ]  # fmt: skip
    assert server_side.split_rows([stage]) == []


def test_lanes_keep_queued_and_prefilled_apart(result):
    """Where the server tells, a lane has four phases, and the second ends where the engine took the request up."""
    data = gather(read_files(result))
    frame = lane_frame(data.latencies)

    assert phases_of(frame) == SPLIT_PHASES
    assert phases_of(frame.assign(scheduled_s=np.nan)) == PHASES
    assert (frame["sent_s"] <= frame["scheduled_s"] + 1e-9).all()
    assert (frame["scheduled_s"] < frame["first_s"]).all()
    assert list(Lanes("lanes", frame).looks) == list(SPLIT_PHASES)
    assert len(frame) == 160  # the requests that primed the cache are in no lane


def test_terminal_comparison_and_python_show_the_hits(result):
    """The column of a target, the measure of a gate, and the values of the API are those of summary.json."""
    stages = store.read_json(result, store.SUMMARY)["stages"]
    measured = [stage["prefix"]["measured_hit_rate"] for stage in stages]
    with language("en"):
        lines = "\n".join(table_lines(stages))
    first = harness.read_result(result).summary.stages[0]

    assert "prefix hits" in lines
    assert "prefix_hit_rate" in ALSO
    assert [value_of(measure_of("prefix_hit_rate"), stage) for stage in stages] == measured
    assert (
        value_of(measure_of("prefix_hit_rate"), {"prefix": {"measured_hit_rate": 0, "theoretical_hit_rate": 0}}) is None
    )
    assert (first.prefix.target, first.prefix.held) == (0.6, True)
    assert first.prefix.measured_hit_rate == measured[0]
    assert first.server_split.queue.p50 == stages[0]["server_split"]["queue"]["p50"]
