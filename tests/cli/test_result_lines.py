"""A finished result as lines of a terminal: its table at several widths, its warnings one by one and folded."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from harness.analysis.warnings import INVALID, NOTE, WARNING, Warning
from harness.cli.result_lines import (
    Output,
    folded_warning_lines,
    output_of,
    result_lines,
    table_lines,
    warning_lines,
)
from harness.messages import language, plain
from harness.results import store
from harness.units import format_duration
from tests.result_folder import Run, make_result


def _latency(p50, p99, *, known=True):
    return {"p50": p50, "p99": p99, "ci95": {"p50": [p50, p50], "p99": [p99, p99]} if known else {}}


def _stage(index, rate, **changes):
    limit = {"metric": "ttft_user", "limit": 0.5, "value": 0.4, "met": True}
    return {
        "index": index, "repeat": 0, "load": {"kind": "poisson", "rate": rate}, "offered_rate": 1.03 * rate,
        "requests": {"completed": 300, "failed": 0}, "request_rate": rate, "output_token_rate": 205.0 * rate,
        "goodput": 0.98 * rate, "ttft": _latency(0.0401, 0.381), "ttft_user": _latency(0.0412, 0.398),
        "tpot": _latency(0.0191, 0.0215), "itl": _latency(0.0190, 0.0255), "slo": {"ttft_p99": limit}, **changes,
    }  # fmt: skip


GOLDEN = Path(__file__).parents[1] / "golden"
MISSED = {"ttft_p99": {"metric": "ttft_user", "limit": 0.5, "value": 12.5, "met": False}}
STAGES = [
    _stage(0, 1.0),
    _stage(1, 4.0, requests={"completed": 290, "failed": 10}, ttft_user=_latency(1.5, 12.5, known=False), slo=MISSED),
]


@pytest.mark.parametrize(("width", "name"), [(None, "en"), (None, "zh"), (80, "en"), (60, "en"), (60, "zh")])
def test_tables_are_these(width, name):
    """A row a stage, one unit a column, marks where answers are few; further tables where there is no room."""
    with language(name):
        lines = table_lines(STAGES, Output(width))
    golden = GOLDEN / f"table_{name}_{width or 'file'}.txt"

    assert lines == golden.read_text(encoding="utf-8").splitlines()


@given(st.integers(60, 200), st.sampled_from(["en", "zh"]))
def test_no_line_is_wider_than_the_terminal(width, name):
    """From 60 columns on, in both languages."""
    with language(name):
        lines = table_lines(STAGES, Output(width))

    assert all(Text(line).cell_len <= width for line in lines[:-1])


@given(st.floats(0.001, 9000.0), st.floats(0.001, 9000.0))
def test_no_number_is_parted_from_its_unit(value, limit):
    """However a missed limit is broken into lines."""
    missed = {"ttft_p95": {"metric": "ttft_user", "limit": limit, "value": value, "met": False}}
    lines = table_lines([_stage(0, 1.0, slo=missed)], Output(80))

    for seconds in (value, limit):
        assert any(format_duration(seconds) in line for line in lines)


def test_ttft_of_an_open_loop_is_from_due():
    """As its limit is judged, and the head says so; a closed loop beside it has columns of its own, from sent."""
    limit = {"ttft_p99": {"metric": "ttft", "limit": 0.5, "value": 0.381, "met": True}}
    closed = _stage(1, 2.0, load={"kind": "closed", "concurrency": 8}, offered_rate=None, slo=limit)
    lines = table_lines([_stage(0, 1.0), closed])
    rows = [line.split() for line in lines[3:]]

    assert "TTFT from due" in lines[0]
    assert rows[0][-9:-5] == ["–", "–", "41.2", "398"]
    assert rows[1][-9:-5] == ["40.1", "381", "–", "–"]
    assert "from due" not in table_lines([closed])[0]


def test_the_percentile_that_a_limit_judges_is_in_the_table():
    """A column of its own, and beside the limit that it misses; of a latency that the table else lacks, too."""
    slow = {**_latency(0.0701, 95.0), "p95": 72.2}
    missed = {
        "ttft_p95": {"metric": "ttft_user", "limit": 2.0, "value": 72.2, "met": False},
        "e2e_p90": {"metric": "e2e_user", "limit": 90.0, "value": None, "met": False},
    }
    lines = table_lines([_stage(0, 8.0, ttft_user=slow, e2e_user=_latency(1.0, 99.0), slo=missed)])

    assert lines[1].split().count("p95") == 1
    assert "72,200" in " ".join(lines)
    assert "E2E from due" in lines[0]
    assert any("p95 TTFT 72.2 s" in line for line in lines)
    assert any("E2E latency" in line for line in lines)
    assert any("> 90.0 s" in line for line in lines)


def test_a_time_that_the_client_spoiled_is_marked():
    """With an exclamation mark, that a line below explains; a time without an interval keeps its question mark."""
    spoiled = {**_latency(0.019, 0.0255), "invalid": ["p99"]}
    lines = table_lines([_stage(0, 1.0, itl=spoiled, ttft_user=_latency(0.04, 0.4, known=False))])

    assert "25.5!" in lines[3]
    assert lines[3].count("?") == 2
    assert [line[0] for line in lines[4:]] == ["!", "?"]


def test_what_a_stage_does_not_have_is_left_out():
    """No goodput and limits without an SLO, no offered rate in closed loops; a dash where a number is missing."""
    closed = {"kind": "closed", "concurrency": 8}
    bare = _stage(0, 2.0, load=closed, offered_rate=None, slo={}, itl={}, requests={"completed": 5, "never_sent": 3})
    lines = table_lines([bare])

    assert "offered" not in lines[0]
    assert "goodput" not in lines[0]
    assert "limits" not in lines[1]
    assert lines[0].split()[:2] == ["not", "sent"] or "not sent" in lines[1]
    assert lines[3].startswith("1  closed loop, concurrency 8         5       –         3")
    assert lines[3].endswith("–       –")


def test_repeats_are_numbered_within_their_stage():
    """1.1, 1.2."""
    lines = table_lines([_stage(0, 1.0), _stage(0, 1.0, repeat=1)])

    assert [line[:3] for line in lines[3:]] == ["1.1", "1.2"]


def test_no_stages_are_no_table():
    """Of kernels."""
    assert table_lines([]) == []


def _summary(*warnings):
    stages = [_stage(index, 1.0) for index in range(4)]
    return {"stages": stages, "verdict": {"warnings": [warning.as_dict() for warning in warnings]}}


def _warning(code, severity, stage, text="Only 12 responses."):
    return Warning(code, severity, plain(text), plain("Run longer."), stage)


FEW = [_warning("few_samples", NOTE, stage, f"Only {stage} responses.") for stage in range(3)]
LATE = _warning("late", INVALID, 3, "The client was late.")
WHOLE = _warning("simulated", WARNING, None, "Simulated.")


def test_warnings_of_a_kind_are_one_line():
    """The gravest first; the stages that it holds of, and how many more there are."""
    lines = folded_warning_lines(_summary(*FEW, WHOLE, LATE))

    assert lines == [
        "invalid, stage 4: The client was late. Run longer.",
        "warning: Simulated. Run longer.",
        "note, stages 1-3: Only 0 responses. Run longer. (2 more)",
    ]


def test_all_warnings_are_a_line_each():
    """As they stand in summary.json, with the load of their stage."""
    lines = warning_lines(_summary(*FEW, replace(LATE, repeat=1)))

    assert len(lines) == 4
    assert lines[1] == "note, stage 2 (poisson 1 req/s): Only 1 responses. Run longer."
    assert lines[3] == "invalid, stage 4 (poisson 1 req/s), repeat 2: The client was late. Run longer."


def test_what_a_warning_quotes_cannot_act():
    """A server's words may hold escapes and line ends."""
    lines = warning_lines(_summary(_warning("odd", WARNING, None, "It said \x1b[2J\nharness: done.")))

    assert lines == ["warning: It said  [2J harness: done. Run longer."]


@pytest.mark.parametrize("name", ["en", "zh"])
def test_a_made_result_is_shown_whole(tmp_path, name):
    """Answer, verdict, a row a stage and each kind of warning once."""
    summary = store.read_json(make_result(tmp_path / "run", Run(duration_s=20)), store.SUMMARY)
    with language(name):
        folded, whole = (result_lines(summary, all_warnings=each) for each in (False, True))

    codes = {(warning["severity"], warning["code"]) for warning in summary["verdict"]["warnings"]}
    assert len(whole) - len(folded) == len(summary["verdict"]["warnings"]) - len(codes)
    assert sum(line[:1].isdigit() for line in folded) == len(summary["stages"])


def test_a_pipe_has_no_width_and_no_colours():
    """What is piped is for other programs; a terminal has both."""
    assert output_of(io.StringIO()) == Output(None, None)
    assert not any("\x1b" in line for line in table_lines(STAGES))
    assert any("\x1b[31m" in line for line in table_lines(STAGES, Output(80, "standard")))
