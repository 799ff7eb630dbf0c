"""The same quantity has the same value on the page, in Markdown, in junit.xml and in summary.json, failures or not."""

import html
import re
from xml.etree import ElementTree as ET

import pytest

from harness.analysis.slo import unproven_limits
from harness.cli.result_lines import result_lines
from harness.results import store
from harness.results.folder import read_files
from harness.units import format_count, format_duration, significant
from reports import ci_files
from reports.data import gather
from reports.headline import cards, held_value, key_stage
from reports.loads import title_of
from reports.page import render
from reports.tables import overview
from tests.result_folder import Run, kept_warning, make_result

LIMITS = {"ttft_p95": 2.0, "tpot_p50": 0.08, "e2e_max": 900.0}


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A run of two stages of which every tenth request fails."""
    run = Run(loads=(3.0, 4.0), duration_s=40, failing=0.12, slo=LIMITS)
    return read_files(make_result(tmp_path_factory.mktemp("failing") / "run", run))


@pytest.fixture(scope="module")
def texts(failing):
    """The page, the job page and the terminal's lines as plain words, and the test view's cases by name."""
    page = html.unescape(re.sub(r"<[^>]+>", " ", render(gather(failing))))
    cases = {case.get("name"): case for case in ET.fromstring(ci_files.junit_text(failing)).iter("testcase")}
    return (
        " ".join(page.split()),
        html.unescape(ci_files.markdown_text(failing)),
        "\n".join(result_lines(failing.summary)),
        cases,
    )


def test_a_limit_is_held_to_one_value_everywhere(failing, texts):
    """Failed requests count in it; where it has no bound the files say so, and by how many."""
    page, _, _, cases = texts
    for stage in failing.stages:
        failed = stage["requests"]["failed"]
        assert failed > 0.05 * stage["requests"]["scheduled"]
        for key, held in stage["slo"].items():
            said = held_value(held)
            place = title_of(stage)
            case = cases[f"{key} within {format_duration(held['limit'])} at {place}"]
            failure = case.find("failure")

            assert 0 < held["failed_counted"] <= failed
            assert f"{format_count(held['failed_counted'])} failed counted" in said
            assert said.startswith("no bound" if held["value"] is None else format_duration(held["value"]))
            assert said in page
            assert (failure is None) == (held["met"] is True)
            assert failure is None or said in failure.get("message")
        assert stage["slo"]["ttft_p95"] | {"failed_counted": 0} == {
            "metric": "ttft_user", "limit": 2.0, "value": None, "met": False, "failed_counted": 0,
        }  # fmt: skip


def test_a_percentile_of_answered_requests_says_so_beside_its_limit(failing):
    """The card has the percentile of the summary, marked as of completed requests, and what its limit is held to."""
    stage, _ = key_stage(failing)
    for card in cards(stage):
        if card.term not in ("ttft_user", "tpot", "e2e_user"):
            continue
        statistic = card.label.rpartition(" ")[2]
        key, held = next((key, one) for key, one in stage["slo"].items() if one["metric"] == card.term)

        assert f"{card.value} {card.unit}" == format_duration(stage[card.term][statistic])
        assert "of completed requests" in card.note
        assert held_value(held) in card.note
        assert card.tone == ("plain" if key in unproven_limits(stage) else "good" if held["met"] else "bad")


def test_counts_rates_and_latencies_of_the_tables_are_those_of_the_summary(failing, texts):
    """Each row of the overview is its stage of summary.json; the job page has the same row."""
    page, job, terminal, _ = texts
    table = overview(failing)
    heads = [column.label for column in table.columns for _ in column.parts or ("",)]
    for stage, row in zip(failing.stages, table.rows, strict=True):
        said = dict(zip(heads, (cell.text for cell in row), strict=True))

        assert said["Stage"] == f"{stage['index'] + 1}: {stage['label']}"
        assert said["Output"] == significant(stage["output_token_rate"])
        assert said["Completed"] == format_count(stage["requests"]["completed"])
        assert said["Failed"] == format_count(stage["requests"]["failed"])
        assert f"| {' | '.join(ci_files.plain(cell.text) for cell in row)} |" in ci_files.markdown_text(failing)
        for text in (page, job, terminal):
            assert title_of(stage) in text
            assert (
                f"{format_count(stage['requests']['failed'])} of {stage['requests']['scheduled']} requests failed"
                in text
            )


def test_no_failure_no_mark(tmp_path):
    """Where every request was answered, nothing is said of those that were not."""
    result = read_files(make_result(tmp_path / "run", Run(loads=(1.0,), duration_s=20, failing=0.0, slo=LIMITS)))
    page = render(gather(result))

    assert all(held["failed_counted"] == 0 for stage in result.stages for held in stage["slo"].values())
    assert "of completed requests" not in page
    assert "failed counted" not in page


def test_a_verdict_of_invalid_stands_first_everywhere(failing):
    """The page's badge, the job page, the terminal and the first test case all say that the result is not valid."""
    warning = kept_warning("engine_died", "invalid", "The engine died.", "See engine.log.")
    summary = failing.summary | {
        "verdict": {"valid": False, "warnings": [warning]},
        "answer": "No valid answer: The engine died.",
    }
    store.write_json(failing.folder, store.SUMMARY, summary)
    try:
        told = read_files(failing.folder)
        page = render(gather(told))

        assert page.index("Not valid") < page.index('id="stages"')
        assert page.index("The engine died.") < page.index('id="stages"')
        assert "❌ Not valid" in ci_files.markdown_text(told)
        assert "NOT VALID" in result_lines(told.summary)
        assert 'type="invalid"' in ci_files.junit_text(told)
    finally:
        store.write_json(failing.folder, store.SUMMARY, failing.summary)
