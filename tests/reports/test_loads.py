"""The names of stages on pages: one number, from 1, and one load, in the language of the page."""

from harness.messages import language
from reports.loads import column_title, short_labels, stage_title, title_of

LOAD = "closed loop, concurrency 4"


def test_a_stage_is_named_by_its_number_from_one_and_its_load():
    """Files count from 0, people from 1; a repeat stands behind, the first one is not named."""
    assert stage_title(0, "poisson 2 req/s") == "stage 1 (poisson 2 req/s)"
    assert stage_title(2, "poisson 2 req/s", 1) == "stage 3 (poisson 2 req/s), repeat 2"
    assert stage_title(1) == "stage 2"
    assert column_title(1, LOAD) == f"2: {LOAD}"
    assert title_of({"index": 1, "repeat": 2, "label": LOAD}) == f"stage 2 ({LOAD}), repeat 3"


def test_a_stage_is_named_in_the_language_of_the_page():
    """The load comes as a message of the summary, and its English label is used where there is none."""
    kept = {"code": "load.closed", "parameters": {"concurrency": 4}}
    with language("zh"):
        assert title_of({"index": 1, "label": LOAD, "label_message": kept}) == "阶段 2（闭环，并发 4）"


def test_how_long_a_stage_runs_names_it_only_where_nothing_else_does():
    """Two loads that differ in rate are told apart by that; two of one rate by their requests."""
    loads = [{"kind": "closed", "concurrency": users, "requests": 100 * users} for users in (1, 2)]
    same = [{"kind": "closed", "concurrency": 4, "requests": requests} for requests in (10, 20)]

    assert short_labels(loads) == ["concurrency 1", "concurrency 2"]
    assert short_labels(same) == ["10 requests", "20 requests"]
