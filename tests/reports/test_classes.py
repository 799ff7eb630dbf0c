"""Classes of requests on the page: a table of each trait, what adapters cost, and figures that a kind does not have."""

import pytest

from harness.results.folder import read_files
from reports.classes import class_tables, cost_table
from reports.data import gather
from reports.page import render
from reports.request_kinds import latency_metrics, throughputs
from tests.analysis.test_classes import WORK, run

LORA = {"enable_lora": True, "max_loras": 1, "lora_modules": ["a=x", "b=x"]}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A run with and without two adapters."""
    work = {**WORK, "adapters": {"names": ["a", "b"]}}
    load = [{"poisson": {"rate": 20, "requests": 60, "adapters": [0, 2]}}]
    return run(tmp_path_factory.mktemp("page"), workload=work, load=load, args=LORA)[0]


def test_the_page_says_what_adapters_cost(adapters):
    """A row a number of adapters with the change against none, and a row a model in each stage."""
    result = read_files(adapters)
    cost, tables = cost_table(result), class_tables(result)

    assert [row[1].text for row in cost.rows] == ["0", "2"]
    assert cost.rows[0][3].text == "–"
    assert "%" in cost.rows[1][3].text
    assert [table.title for table in tables] == ["By model"]
    assert [row[1].text for row in tables[0].rows] == ["Qwen/Qwen2.5-0.5B-Instruct", "a", "b"]
    html = render(gather(result))
    assert 'id="classes"' in html
    assert "What adapters cost" in html


def test_a_plain_run_has_no_classes(tmp_path):
    """Nothing is shown where all requests are alike."""
    folder = run(tmp_path, workload=WORK, load=[{"closed": {"concurrency": 1, "requests": 40}}])[0]
    result = read_files(folder)

    assert (cost_table(result), class_tables(result)) == (None, [])
    assert 'id="classes"' not in render(gather(result))


def test_answers_without_tokens_have_no_columns_of_tokens(tmp_path):
    """The page shows documents and E2E latency, and no empty TTFT."""
    work = {"kind": "documents", "tokens": 40, "count": 2}
    load = [{"closed": {"concurrency": [1, 2], "requests": 40}}]
    folder = run(tmp_path, endpoint="embeddings", workload=work, load=load)[0]
    result = read_files(folder)
    html = render(gather(result))

    assert latency_metrics(result.stages, by_clock=False) == ("e2e",)
    assert [key for key, _, _ in throughputs(result.stages)] == ["document_rate", "input_token_rate"]
    assert "doc/s" in html
    assert "TTFT p99" not in html
