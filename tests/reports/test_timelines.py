"""The data under the swim lanes, the heat map, the figures by request and the table of pauses."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.execution.watching import Watched
from harness.results.folder import read_files
from harness.results.request_table import events_from, samples_from
from harness.results.table_files import write_samples
from reports import stalling
from reports.data import gather
from reports.engines import over_time_drawing
from reports.figures.heat import Grid, levels
from reports.frames import GRID_COLUMNS, GRID_ROWS, gap_grid, request_grid
from reports.lanes import lane_frame, stride
from reports.timelines import server_strips
from tests.made_runs import answered, columns, failed, ns, run_json, span_row
from tests.result_folder import Run, make_result, write_result


def latencies(spans, status="completed"):
    """What `lane_frame` reads, of requests due and done at these times, sent and answered in between."""
    due, done = np.array(spans, dtype=float).T
    rows = {
        "due_s": due,
        "sent_s": due,
        "scheduled_s": np.nan,
        "first_s": (due + done) / 2,
        "done_s": done,
        "status": status,
        "place": 0,
    }
    return pd.DataFrame(rows)


def test_lanes_hold_one_request_at_a_time():
    """The lowest free lane is taken; the third waits for none of the two that are busy."""
    frame = lane_frame(latencies([(0, 2), (1, 3), (2, 4), (2.5, 5)]))

    assert frame["lane"].tolist() == [0, 1, 0, 2]


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 20)), min_size=1, max_size=60))
def test_no_two_requests_of_a_lane_overlap(spans):
    """In each lane a request begins when the one before is over, or later."""
    frame = lane_frame(latencies([(due, due + lasts) for due, lasts in spans]))

    for _, own in frame.groupby("lane"):
        assert (own["due_s"].to_numpy()[1:] >= own["done_s"].to_numpy()[:-1]).all()


def test_many_requests_are_thinned_evenly():
    """Of 1000 requests every tenth is shown, with as many of the busy half as it has."""
    due = np.concatenate([np.linspace(0, 10, 200), np.linspace(10, 20, 800)])
    frame = lane_frame(latencies(np.column_stack([due, due + 1])), most=100)

    assert stride(1000, 100) == 10
    assert len(frame) == 100
    assert (frame["due_s"] > 10).sum() == 80


def test_the_heat_of_requests_counts_each_once():
    """Three latencies fall into three cells of the columns of their times; an unknown one into none."""
    frame = pd.DataFrame({"due_s": [0.0, 5.0, 9.99, 3.0], "sent_s": np.nan, "ttft": [0.1, 1.0, 10.0, np.nan]})
    grid = request_grid(frame, "ttft", (0.0, 10.0))

    assert grid.counts.shape == (GRID_COLUMNS, GRID_ROWS)
    assert np.argwhere(grid.counts).tolist() == [
        [0, 0],
        [GRID_COLUMNS // 2, GRID_ROWS // 2],
        [GRID_COLUMNS - 1, GRID_ROWS - 1],
    ]


def test_the_heat_of_gaps_counts_tokens():
    """An event of three tokens is three gaps of a third; every gap of every row is counted, also beyond the range."""
    events = events_from([([0, ns(0.3), ns(0.4)], [1, 3, 1]), ([0, ns(9)], [1, 1])])
    grid = gap_grid(events, (0.0, 10.0), (0.05, 1.0))
    columns_, cells = np.nonzero(grid.counts)

    assert grid.counts.sum() == 5
    assert grid.counts[columns_[0], cells[0]] in (3, 4)
    assert cells.max() == GRID_ROWS - 1


def test_a_grids_percentile_is_the_values_own():
    """Within the width of a cell the median of a column is that of the values in it."""
    rng = np.random.default_rng(3)
    values = rng.lognormal(0, 1, 4000)
    frame = pd.DataFrame({"due_s": np.zeros(4000), "sent_s": 0.0, "ttft": values})
    grid = request_grid(frame, "ttft", (0.0, 1.0))
    step = grid.value_s[1] / grid.value_s[0]

    for share in (0.5, 0.95):
        assert 1 / step < grid.percentile(share)[0] / np.quantile(values, share) < step
    assert np.isnan(grid.percentile(0.5)[1:]).all()


def test_strengths_rise_with_the_count():
    """An empty cell has none, a single value the first, the fullest cell the last."""
    counts = np.array([[0, 1, 3, 30, 100]])
    grid = Grid(counts, np.array([0.0, 1.0]), np.geomspace(1, 2, 6))

    assert levels(grid).tolist() == [[0, 1, 2, 4, 5]]


@pytest.fixture
def stalled(tmp_path):
    """Six streams that pause together from 1.1 s to 1.5 s, as a seventh request waits; one that pauses alone."""
    times = [0.1 + 0.02 * i + (0.4 if i > 50 else 0.0) for i in range(80)]
    pairs = [answered(i, 0.0, [time + 0.0001 * i for time in times]) for i in range(6)]
    alone = [0.1 + 0.02 * i + (0.3 if i > 10 else 0.0) for i in range(20)]
    pairs += [answered(6, 0.0, alone), failed(7, 1.0, 3.0, input_asked=5000, input_tokens=-1)]
    samples = samples_from(
        [
            (ns(1.0), "server", "vllm:num_preemptions_total", 2.0),
            (ns(2.0), "server", "vllm:num_preemptions_total", 5.0),
            (ns(1.0), "server", "vllm:kv_cache_usage_perc", 0.99),
            (ns(0.2), "client-0", "loop_lag_s", 0.9),
            (ns(1.3), "client-0", "loop_lag_s", 0.02),
        ]
    )
    run = run_json([{"kind": "poisson", "rate": 8.0}])
    return gather(read_files(write_result(tmp_path, run, columns(pairs), [span_row(0, 3, 4)], samples)))


def test_a_stall_is_told_with_what_else_happened(stalled):
    """How many streams it hit, and what was sampled beside it: prompts, preemptions, a full cache, a late client."""
    found = stalling.stage_pauses(stalled)
    ((when, stage, how_long, hit, besides),) = stalling.stall_rows(stalled, found)

    assert (when.text, stage.text, how_long.text, hit.text) == ("1.100 s", "1: poisson 8 req/s", "420 ms", "6 of 6")
    assert besides.text == (
        "prompts before their first token: 1, of 5,000 tokens; 3 preemptions; KV cache 99.0 % full; "
        "the client's own event loop was 20.0 ms late"
    )
    assert stalling.marks(found) == [pytest.approx((1.10025, 1.5205), abs=1e-4)]


def test_a_slow_request_is_told_by_its_number(stalled):
    """Its one long gap, how long that was, and when."""
    (row,) = stalling.single_rows(stalled, stalling.stage_pauses(stalled))

    assert [cell.text for cell in row] == ["#6", "1: poisson 8 req/s", "1", "320 ms", "0.3000 s"]


def test_both_kinds_are_summed_up(stalled):
    """One sentence each."""
    told = stalling.summary(stalling.stage_pauses(stalled))

    assert told == "1 stalls of the server, 420 ms in all. 1 long gaps of single requests, in 1 requests."


def test_an_earlier_versions_result_shows_the_same(stalled):
    """Where summary.json has no pauses they are computed from the tables."""
    summary = {key: value for key, value in stalled.result.summary.items() if key != "stalls"}
    earlier = replace(stalled, result=replace(stalled.result, summary=summary))

    assert stalling.stage_pauses(earlier) == stalling.stage_pauses(stalled)


def test_a_run_without_streams_has_no_pauses(tmp_path):
    """Answers in one piece have no gaps."""
    data = gather(read_files(make_result(tmp_path, Run(loads=(2.0,), duration_s=4, stream=False))))

    assert stalling.stage_pauses(data) == []
    assert stalling.summary([]) == ""


def test_several_engines_are_shown_each_and_joined(tmp_path):
    """A share of two engines has a mean and the highest; each engine has its line; counts are not counted twice."""
    pairs = [answered(i, 0.2 * i, [0.2 * i + 0.1, 0.2 * i + 0.3]) for i in range(20)]
    texts = [
        f'vllm:num_requests_running{{engine="{i}"}} {i + 3}\nvllm:kv_cache_usage_perc{{engine="{i}"}} {share}'
        for i, share in ((0, 0.61), (1, 0.72))
    ]
    watched = Watched()
    for second in (1.0, 2.0, 3.0):
        watched.add_metrics(ns(second), "\n".join(texts))
    folder = write_result(tmp_path, run_json([{"kind": "constant", "rate": 5.0}]), columns(pairs), [span_row(0, 4, 4)])
    write_samples(folder, samples_from(watched.rows))
    data = gather(read_files(folder))
    drawing = over_time_drawing(data)
    assert drawing is not None
    strips = {strip.name: strip for strip in (*server_strips(data), *drawing.panels)}
    shown = {name: {line.name: line.frame["value"].max() for line in strip.lines} for name, strip in strips.items()}

    assert shown["requests on the server"] == {"running": 7}
    assert shown["running requests, each engine"] == {"0": 3, "1": 4}
    assert shown["KV cache in use, %"] == {"mean of engines": pytest.approx(0.665), "highest": 0.72}
    assert shown["KV cache in use, each engine, %"] == {"0": 0.61, "1": 0.72}
