"""The decision view of a run: its sentence, its table, its figure, and what is left out of it."""

import re
from dataclasses import replace

import pytest

from harness.messages import language
from harness.results import store
from harness.results.folder import read_files
from reports.data import gather
from reports.decision import choice_of, decision_view, slo_edge
from tests.result_folder import Run, kept_warning, make_result

CLOSED = Run(kind="closed", loads=(1, 4, 12), duration_s=15, warmup=0, failing=0, samples=False, simulated=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A closed loop of three stages on two NPUs with a price."""
    place = make_result(tmp_path_factory.mktemp("decision") / "r", CLOSED)
    run = store.read_run(place)
    run["engine"]["effective"]["tensor_parallel_size"] = 2
    store.write_json(place, store.RUN, run | {"price_per_hour": 9.0})
    return place


def as_of_before(folder):
    """The files of a result whose summary knows nothing of NPUs and efficiency."""
    files = read_files(folder)
    stages = [{key: value for key, value in s.items() if key != "efficiency"} for s in files.stages]
    summary = {k: v for k, v in files.summary.items() if k not in ("npus", "decision")} | {"stages": stages}
    return replace(files, summary=summary)


def test_the_view_chooses_and_shows_what_it_costs(folder):
    """One sentence, a row a stage, and a figure with every stage's numbers in its alternative text."""
    files = as_of_before(folder)
    view = decision_view(gather(files))

    assert view.text.startswith("Choose closed loop, concurrency 12: of 3 loads that keep every limit")
    assert "A million output tokens cost " in view.text
    assert [row[-1].text for row in view.rows] == ["on the front", "on the front", "recommended"]
    assert view.heads[1:4] == ["tokens/s per NPU", "tokens/s per user", "cost / M output tokens"]
    assert view.basis == "The engine held 2 NPUs (TP × PP × DP). Tokens/s per user are 1 / TPOT p99."
    assert all(f"concurrency {users}" in str(view.figure.svg) for users in (1, 4, 12))


def test_the_view_is_that_of_the_summary(folder):
    """What is computed for a result of before is what a new summary holds."""
    kept = read_files(folder).summary["decision"]  # made before its run.json knew of NPUs and a price
    run = store.read_run(folder)
    unknown = {**run, "engine": {**run["engine"], "effective": {}}, "price_per_hour": None}
    again = choice_of(unknown, as_of_before(folder).summary).decision.as_dict()

    assert again == kept


def test_a_stage_that_is_not_valid_is_crossed_out(folder):
    """It is neither on the front nor recommended, and the table says why."""
    files = as_of_before(folder)
    late = kept_warning("send_lag", "invalid", "Requests left late.", "Use more workers.", stage=2)
    summary = {**files.summary, "verdict": {"valid": False, "warnings": [late]}}
    view = decision_view(gather(replace(files, summary=summary)))

    assert [row[-1].text for row in view.rows] == ["on the front", "recommended", "Not valid"]
    assert "Crosses are left out" in view.figure.caption


def test_a_limit_of_tpot_is_an_exact_edge(folder):
    """From 1 / limit tokens/s a user on it is kept, of the statistic that is limited."""
    files = as_of_before(folder)
    edge, name = slo_edge(files.run["slo"], choice_of(files.run, files.summary).options)

    assert edge == pytest.approx(1 / 0.08)
    assert name == "TPOT p99 ≤ 80 ms"


def test_without_a_limit_of_tpot_the_region_begins_where_all_options_keep_theirs(folder):
    """The slowest option from which on none breaks a limit; without limits there is no region."""
    files = as_of_before(folder)
    options = [replace(o, kept=o.key != "2") for o in choice_of(files.run, files.summary).options]
    slowest = min(o.user_rate for o in options if o.kept)

    assert slo_edge({"ttft_p99": 5.0}, options) == (slowest, "all limits kept")
    assert slo_edge({}, [replace(o, kept=None) for o in options]) == (
        None,
        "",
    )


def test_an_unknown_number_of_npus_is_said(tmp_path):
    """Rates are then of the whole engine, in the axis, the heads and a sentence, in both languages."""
    files = read_files(make_result(tmp_path / "r", CLOSED))
    view = decision_view(gather(files))
    with language("zh"):
        chinese = decision_view(gather(files))

    assert view.heads[1] == "tokens/s of the engine"
    assert "is not known" in view.basis
    assert "output tokens/s of the engine" in str(view.figure.svg)
    assert re.search("NPU 数未知", chinese.basis)


def test_a_lone_stage_has_numbers_and_no_choice(tmp_path):
    """There is nothing to choose from: no sentence and no figure, but throughput per NPU and a user's rate."""
    view = decision_view(gather(read_files(make_result(tmp_path / "r", replace(CLOSED, loads=(4,))))))

    assert (view.text, view.figure, len(view.rows)) == ("", None, 1)


def test_a_batch_has_throughput_per_npu_and_no_users(folder):
    """Nobody reads along: no rate of a user, no figure and no choice, but throughput and cost."""
    files = as_of_before(folder)
    stages = [{**stage, "load": {"kind": "offline", "requests": 100}} for stage in files.stages]
    view = decision_view(gather(replace(files, summary={**files.summary, "stages": stages})))

    assert (view.text, view.figure) == ("", None)
    assert [row[2].text for row in view.rows] == ["–"] * 3
    assert all(float(row[1].text) > 0 for row in view.rows)
    assert view.basis == "The engine held 2 NPUs (TP × PP × DP)."
