"""The metrics of a result are its numbers, under documented names."""

import re
from pathlib import Path

import pytest

from harness.export.points import LIVE, METRICS, VALID, live_snapshot, snapshot_of
from harness.results import store
from harness.results.progress import LOADING, LiveLatency, Progress, StageProgress, StudyProgress
from tests.kernel_results import make_kernels
from tests.result_folder import Run, make_result

ROOT = Path(__file__).parents[2]


def values(snapshot, name, **attributes):
    """The values of a metric whose points have these attributes, in order."""
    return [
        point.value
        for point in snapshot.points
        if point.metric.name == name and all(point.attributes.get(key) == value for key, value in attributes.items())
    ]


def test_each_stage_has_its_numbers_of_summary_json(tmp_path):
    """Latencies by statistic, rates, tokens by type, requests by outcome, limits; and the verdict once."""
    folder = make_result(tmp_path, Run(loads=(2.0, 4.0), duration_s=10, failing=0.05))
    stages = store.read_json(folder, store.SUMMARY)["stages"]
    snapshot = snapshot_of(folder)

    assert values(snapshot, "gen_ai.client.operation.time_to_first_chunk", statistic="p99") == [
        stage["ttft"]["p99"] for stage in stages
    ]
    assert values(snapshot, "gen_ai.client.operation.duration", statistic="mean") == [s["e2e"]["mean"] for s in stages]
    assert values(snapshot, "npu_harness.output_token_rate") == [stage["output_token_rate"] for stage in stages]
    assert values(snapshot, "gen_ai.client.token.usage", **{"gen_ai.token.type": "output"}) == [
        stage["output_tokens"] for stage in stages
    ]
    assert values(snapshot, "npu_harness.requests", **{"npu_harness.outcome": "failed"}) == [
        stage["requests"]["failed"] for stage in stages
    ]
    assert values(snapshot, VALID.name) == [1.0]
    assert [point.step for point in snapshot.points if point.metric.name == "npu_harness.slo_met"] == [0, 1]
    assert snapshot.attributes["npu_harness.simulated"] is True
    assert snapshot.attributes["gen_ai.operation.name"] == "text_completion"


def test_a_statistic_that_is_not_valid_is_not_exported(tmp_path):
    """It would stand on a board without its mark."""
    folder = make_result(tmp_path, Run(loads=(2.0,), duration_s=20))
    summary = store.read_json(folder, store.SUMMARY)
    summary["stages"][0]["ttft"]["invalid"] = ["p99"]
    store.write_json(folder, store.SUMMARY, summary)
    snapshot = snapshot_of(folder)

    assert values(snapshot, "gen_ai.client.operation.time_to_first_chunk", statistic="p99") == []
    assert len(values(snapshot, "gen_ai.client.operation.time_to_first_chunk", statistic="p50")) == 1


def test_kernels_have_their_medians(tmp_path):
    """Of each case and mode, never as simulated."""
    folder, summary = make_kernels(tmp_path / "kernels", lambda _case, _repeat: 1e-3)
    snapshot = snapshot_of(folder)
    medians = [f["median_s"] for row in summary["kernels"]["rows"] for f in row["modes"].values()]

    assert values(snapshot, "npu_harness.kernel.time") == medians
    assert snapshot.attributes["npu_harness.simulated"] is False


def test_live_figures_are_those_of_the_stage_under_way():
    """Counters, rates and latencies that are known by then, at the second of the run."""
    stage = StageProgress(
        3, 1, 0, {"kind": "poisson", "rate": 2.0}, sent=9, answered=5, in_flight=4, request_rate=1.5,
        ttft=LiveLatency(5, p50=0.2, p95=0.4),
    )  # fmt: skip
    snapshot = live_snapshot(Progress("made", LOADING, 12.7, simulated=True, model="m", stage=stage))

    assert {point.metric.name: point.value for point in snapshot.points if point.metric in LIVE} == {
        "npu_harness.live.in_flight": 4, "npu_harness.live.sent": 9, "npu_harness.live.answered": 5,
        "npu_harness.live.failed": 0, "npu_harness.live.request_rate": 1.5,
    }  # fmt: skip
    assert values(snapshot, "npu_harness.live.time_to_first_chunk", statistic="p95") == [0.4]
    assert {point.step for point in snapshot.points} == {12}
    assert {point.attributes["npu_harness.stage"] for point in snapshot.points} == {2}
    assert live_snapshot(Progress("made", LOADING)).points == []


def test_a_study_under_way_tells_its_trials_and_its_best():
    """And what the engine of the trial does, by the study's own clock; a value that nobody knows is absent."""
    stage = StageProgress(0, 0, 0, {"kind": "poisson", "rate": 2.0}, in_flight=4)
    run = Progress("made", LOADING, 3.0, model="m", stage=stage)
    study = StudyProgress(
        "study", at_s=40.0, simulated=True, objective="throughput", done=3, failed=1, best=12.5, run=run
    )
    snapshot = live_snapshot(study)

    assert values(snapshot, "npu_harness.live.trials_done") == [3.0]
    assert values(snapshot, "npu_harness.live.best", **{"npu_harness.objective": "throughput"}) == [12.5]
    assert values(snapshot, "npu_harness.live.default") == []
    assert values(snapshot, "npu_harness.live.in_flight") == [4.0]
    assert {point.step for point in snapshot.points} == {40}
    assert snapshot.attributes["gen_ai.request.model"] == "m"


@pytest.mark.parametrize("page", ["export.md", "export.zh.md"])
def test_the_reference_lists_every_metric_with_its_unit(page):
    """And none that there is not."""
    text = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `((?:gen_ai|npu_harness)\.[a-z_.]+)` \| `([^`]+)` \|", text, re.MULTILINE))

    assert rows == {metric.name: metric.unit for metric in METRICS}
