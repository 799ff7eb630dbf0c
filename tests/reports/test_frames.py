"""The table under each figure: the numbers of a run that is worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.results import table_files
from harness.results.folder import read_files
from harness.results.request_table import WARMUP
from reports import frames
from tests.made_runs import answered, columns, failed, hand_made, run_json, span_row
from tests.result_folder import Run, make_result, write_result

LOAD = {"kind": "poisson", "rate": 1.0, "duration_s": 4.0}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Five requests made by hand: see made_runs.hand_made."""
    folder = tmp_path_factory.mktemp("made")
    return read_files(write_result(folder, run_json([LOAD]), columns(hand_made()), [span_row(0, 4, 4)]))


@pytest.fixture(scope="module")
def places(result):
    """Its stages."""
    return frames.place_frame(result)


def test_a_stage_has_its_times_and_window_in_seconds_of_the_run(places):
    """The window of the summary counts from the stage's start; here both count from zero."""
    (row,) = places.to_dict("records")

    assert row["label"] == "poisson 1 req/s"
    assert row["short"] == "1 req/s"
    assert [row[f"{name}_s"] for name in ("start", "stop", "end", "window_start", "window_end")] == [0, 4, 4, 0, 4]


def test_latencies_are_those_of_the_contract(result, places):
    """TTFT is from sent and from due, TPOT undefined for a single token, nothing for a failure."""
    found = frames.latency_frame(result, places)

    assert found["ttft"].tolist() == pytest.approx([0.5, 0.5, 0.499, np.nan, 0.9], nan_ok=True)
    assert found["ttft_user"].tolist() == pytest.approx([0.5, 0.5, 0.5, np.nan, 0.9], nan_ok=True)
    assert found["tpot"].tolist() == pytest.approx([1.0, 0.1, 0.1, np.nan, np.nan], nan_ok=True)
    assert found["e2e"].tolist() == pytest.approx([1.5, 0.7, 0.699, np.nan, 0.9], nan_ok=True)
    assert found["in_window"].tolist() == [False, True, True, False, True]


def test_the_counted_requests_are_those_of_the_summary(tmp_path):
    """As many requests lie under each figure as the summary says its numbers rest on."""
    made = read_files(make_result(tmp_path, Run(loads=(2.0, 6.0), duration_s=20, failing=0.05)))
    places = frames.place_frame(made)
    found = frames.latency_frame(made, places)

    for place, stage in enumerate(made.stages):
        own = found[(found["place"] == place) & found["in_window"]]
        assert own["ttft_user"].notna().sum() == stage["ttft_user"]["n"]
        assert own["tpot"].notna().sum() == stage["tpot"]["n"]
        assert own["e2e"].median() == pytest.approx(stage["e2e"]["p50"])


def test_metric_rows_carry_the_intervals_of_the_summary(tmp_path):
    """An interval that the summary lacks is nan, one that it has is its two ends."""
    made = read_files(make_result(tmp_path, Run(loads=(1.0,), duration_s=450)))
    found = frames.metric_frame(made).set_index("metric")
    ends = {name: made.stages[0][name]["ci95"] for name in found.index}
    known = [name for name, pairs in ends.items() if "mean" in pairs]
    lacking = [name for name, pairs in ends.items() if "p99" not in pairs]

    assert found.loc["ttft_user", "p99"] == made.stages[0]["ttft_user"]["p99"]
    assert known
    assert all([*found.loc[name, ["mean_low", "mean_high"]]] == ends[name]["mean"] for name in known)
    assert lacking
    assert found.loc[lacking, "p99_low"].isna().all()


def test_load_over_time_keeps_its_areas(result, places):
    """Under the lines lie all seconds that requests were under way, and all tokens that arrived in the run."""
    events = table_files.read_events(result.folder)
    found = frames.load_frame(result, places, events)
    width = found["at_s"].diff().iloc[1]

    # 0.5 s of the warm-up, then 0.7, 0.699, 0.2 (the failure) and 0.9 s.
    assert found["in_flight"].sum() * width == pytest.approx(0.5 + 0.7 + 0.699 + 0.2 + 0.9)
    assert found["waiting"].sum() * width == pytest.approx(0.001)
    assert found["token_rate"].sum() * width == pytest.approx(1 + 3 + 4 + 1)


def test_gaps_are_those_between_the_tokens_of_counted_requests(result, places):
    """Two gaps of a tenth, and an event of two tokens that counts as two gaps of half its gap."""
    events = table_files.read_events(result.folder)
    gaps = frames.gaps_by_stage(events, frames.latency_frame(result, places), places)
    curve = frames.gap_frame(gaps)

    assert gaps[0].short.n == 4
    assert curve["value"].tolist() == pytest.approx([0.1] * len(curve))


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200))
def test_percentile_curves_are_numpys_quantiles(values):
    """Every point of a curve is the linear quantile at its share, and shares rise within (0, 1)."""
    column = np.array([*values, np.nan])
    found = frames.percentile_frame({3: column})

    assert set(found["stage"]) == {3}
    assert (np.diff(found["share"]) >= 0).all()
    assert found["share"].between(0.0, 1.0, inclusive="neither").all()
    assert found["value"].tolist() == pytest.approx(np.quantile(values, found["share"]).tolist())


def test_a_stage_without_values_has_no_curve():
    """Only stages with values appear."""
    found = frames.percentile_frame({0: np.array([np.nan]), 1: np.array([1.0, 2.0])})

    assert set(found["stage"]) == {1}


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(1e-3, 10)), min_size=1, max_size=100))
def test_thinning_a_scatter_loses_no_spot(points):
    """Drawn twice, every point lies on one that was kept, at most a cell away; a lone point is kept."""
    at_s, value = np.array(points).T
    n = len(points)
    counted = pd.DataFrame(
        {
            "due_s": np.tile(at_s, 2),
            "sent_s": np.tile(at_s, 2),
            "ttft": np.tile(value, 2),
            "status": "completed",
            "phase": "measured",
            "in_window": True,
            "place": 0,
        }
    )
    kept = frames.scatter_frame(counted, "ttft", (420, 90))
    x, y = max(np.ptp(at_s), 1e-9) / 420, max(np.ptp(np.log10(value)), 1e-9) / 90

    assert 1 <= len(kept) <= n
    for at, height in points:
        near = (abs(kept["at_s"] - at) <= 1.001 * x) & (abs(np.log10(kept["value"] / height)) <= 1.001 * y)
        assert near.any()


def test_failures_stand_in_the_scatter_without_a_value(result, places):
    """A failure has a time and no height; warm-up and what does not count are told apart."""
    found = frames.scatter_frame(frames.latency_frame(result, places), "ttft_user")

    assert found["kind"].tolist() == ["warmup", "counted", "counted", "failed", "counted"]
    assert found.loc[found["kind"] == "failed", "at_s"].tolist() == [2.0]


def test_errors_are_grouped_with_examples(tmp_path):
    """By name and HTTP status, the most frequent first, with a few of the different messages."""
    pairs = [
        failed(0, 1.0, 1.1, message="slow", error="timeout", http_status=-1),
        *(failed(i, i, i + 0.1, message=f"message {i}", http_status=500) for i in range(1, 7)),
        answered(7, 8.0, [8.5], phase=WARMUP),
    ]
    folder = write_result(tmp_path, run_json([LOAD | {"duration_s": 9.0}]), columns(pairs), [span_row(0, 9, 9)])
    first, second = frames.error_frame(read_files(folder)).to_dict("records")

    assert (first["error"], first["http_status"], first["count"], first["stages"]) == ("http_500", 500, 6, [1])
    assert first["messages"] == ["message 1", "message 2", "message 3"]
    assert (second["error"], second["count"], second["first_s"]) == ("timeout", 1, 1.0)


def test_repeats_of_a_stage_are_places_of_their_own(tmp_path):
    """Requests find the place of their stage and repeat, in the order these ran."""
    made = read_files(make_result(tmp_path, Run(loads=(1.0, 2.0), duration_s=10, repeats=2)))
    places = frames.place_frame(made)
    found = frames.latency_frame(made, places)
    keys = list(zip(places["repeat"], places["stage"], strict=True))

    assert keys == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for place, (repeat, stage) in enumerate(keys):
        own = made.requests[(found["place"] == place).to_numpy()]
        assert set(own["stage"]) == {stage}
        assert set(own["repeat"]) == {repeat}
