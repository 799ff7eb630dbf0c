"""What a result folder holds, whole or left behind by a killed run."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from harness.errors import ResultError
from harness.results import store
from harness.results.folder import left_out, number, read_files
from harness.results.request_table import LATER_COLUMNS, MISSING
from tests.made_runs import columns, hand_made, run_json, span_row
from tests.result_folder import Run, make_result, write_result

LOAD = {"kind": "poisson", "rate": 1.0, "duration_s": 4.0}


@pytest.fixture
def made(tmp_path):
    """The folder of a run of five requests made by hand."""
    return write_result(tmp_path / "made", run_json([LOAD]), columns(hand_made()), [span_row(0, 4, 4)])


def test_columns_come_back_as_they_were_written(made):
    """Integers keep MISSING where nothing happened, texts are categories of the same words."""
    requests, _ = columns(hand_made())
    found = read_files(made).requests

    assert all(np.array_equal(found[name], getattr(requests, name)) for name in ("due_ns", "first_ns", "input_tokens"))
    assert list(found["status"]) == list(requests.status)
    assert found["first_ns"][3] == MISSING
    assert str(found["message"].dtype) == "category"


def test_what_a_page_leaves_out_is_told(made):
    """The first file of records that is missing, and nothing where all are there."""
    whole = left_out(made)
    (made / store.EVENTS).unlink()
    without_events = str(left_out(made))
    (made / store.REQUESTS).unlink()

    assert whole is None
    assert without_events.startswith("events.parquet is missing: token gaps over time")
    assert str(left_out(made)).startswith("requests.parquet is missing: distributions")


def test_a_killed_run_is_read_from_what_there_is(made):
    """Without summary, samples and timeline a folder is still a result; the timeline comes from the records."""
    for name in (store.SUMMARY, store.TIMELINE):
        (made / name).unlink()
    found = read_files(made)

    assert found.summary == {}
    assert found.stages == ()
    assert len(found.samples) == 0
    assert found.timeline.to_dict("records") == [
        {"stage": 0, "repeat": 0, "start_ns": 0, "stop_ns": 3_000_000_000, "end_ns": 3_900_000_000}
    ]


def test_run_json_alone_is_a_result(made):
    """A run that ended before its first request has empty tables, with every column."""
    for path in made.iterdir():
        if path.name != store.RUN:
            path.unlink()
    found = read_files(made)

    assert len(found.requests) == len(found.timeline) == 0
    assert "sent_ns" in found.requests
    assert found.events is None


def test_a_folder_without_run_json_is_refused(tmp_path):
    """A line says which file is missing."""
    with pytest.raises(ResultError, match=r"run\.json: no such file"):
        read_files(tmp_path)


def test_a_broken_table_is_refused_by_name(made):
    """A file that is no parquet is named in one line."""
    (made / store.REQUESTS).write_bytes(b"PAR1 not really")

    with pytest.raises(ResultError, match=r"requests\.parquet: cannot be read") as fault:
        read_files(made)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [("vllm", False, False), ("vllm", True, True), ("simulator", False, True), ("simulator", True, True)],
)
def test_a_simulator_is_never_taken_for_an_engine(made, kind, said, expected):
    """One word of it in either file is enough."""
    run = json.loads((made / store.RUN).read_text())
    run["engine"] |= {"kind": kind, "simulated": said}
    (made / store.RUN).write_text(json.dumps(run))

    assert read_files(made).simulated is expected


def test_samples_are_read_in_long_form(tmp_path):
    """Every source and name that was watched is there."""
    found = read_files(make_result(tmp_path, Run(loads=(1.0,), duration_s=5))).samples

    assert {"server", "client-0", "client-1"} == set(found["source"])
    assert {"cpu_share", "loop_lag_s", "vllm:num_requests_running"} <= set(found["name"])


@pytest.mark.parametrize("value", [None, "12", True, [1]])
def test_what_is_no_number_is_nan(value):
    """A summary's null, or a word in its place, is no number."""
    assert math.isnan(number(value))


def test_a_result_without_the_columns_of_kernel_stamps_is_read(tmp_path):
    """A result that an earlier version wrote has a page: what it does not know is missing, not a fault."""
    folder = make_result(tmp_path / "run", Run(loads=(2.0,), duration_s=4))
    table = pq.read_table(folder / store.REQUESTS)
    pq.write_table(table.drop_columns(list(LATER_COLUMNS)), folder / store.REQUESTS)
    found = read_files(folder)

    assert len(found.requests) == table.num_rows
    assert set(found.requests["sent_bound_ns"]) == {MISSING}
