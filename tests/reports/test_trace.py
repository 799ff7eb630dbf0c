"""trace.json is what Perfetto reads: every request, in order, none of it dropped.

What is held here is what Perfetto's own trace processor asked for when these traces were loaded in it: it dropped
times before zero, and named lanes of asynchronous slices after the first request in them.
"""

import json
from collections import Counter
from dataclasses import replace

import pytest

from harness.cli.app import main
from harness.results.folder import read_files
from harness.results.request_table import COMPLETED, MISSING
from reports import trace
from reports.trace import events
from tests.made_runs import columns, hand_made, run_json, span_row
from tests.result_folder import Run, make_result, write_result

USUAL = Run(loads=(2.0, 4.0), duration_s=20, warmup=2, output=(4, 24))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A run of two stages."""
    return make_result(tmp_path_factory.mktemp("trace") / "usual", USUAL)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A run that is served one request at a time."""
    return make_result(tmp_path_factory.mktemp("trace") / "slow", replace(USUAL, slots=1))


def test_a_trace_is_written_where_it_is_asked_for(usual, capsys):
    """trace.json is one JSON object in Chrome's form, marked as simulated, with counters of client and server."""
    with pytest.raises(SystemExit) as end:
        main(["report", str(usual), "--trace"])
    found = json.loads((usual / "trace.json").read_text())

    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(usual / "trace.json")
    assert found["otherData"]["simulated"] is True
    assert all(
        "SIMULATED" in event["args"]["name"] for event in found["traceEvents"] if event["name"] == "process_name"
    )
    counters = {event["name"] for event in found["traceEvents"] if event["ph"] == "C"}
    assert counters == {"in flight", "running", "waiting", "KV cache"}


def test_every_event_of_a_trace_is_as_the_format_wants_it(slow):
    """Whole numbers for process and thread, a time that is not negative, a value a counter, names that are known."""
    kinds = Counter()
    for event in events(read_files(slow)):
        kinds[event["ph"]] += 1
        assert (type(event["pid"]), type(event["tid"])) == (int, int)
        assert isinstance(event["ts"], int | float)
        assert event["ts"] >= 0
        assert event["name"]
        if event["ph"] == "C":
            assert [type(value) for value in event["args"].values()] in ([int], [float])
        if event["ph"] == "M":
            what, _, said = event["name"].partition("_")
            assert what in ("process", "thread")
            assert list(event["args"]) == [said]

    assert set(kinds) == {"M", "B", "E", "C"}
    assert kinds["B"] == kinds["E"]


def test_no_thread_has_the_number_of_a_process(slow):
    """It would be taken for the main one; and each lane has a number and a name of its own."""
    found = list(events(read_files(slow)))
    lanes = [(event["pid"], event["tid"]) for event in found if event["name"] == "thread_name"]
    threads = {(event["pid"], event["tid"]) for event in found if event["ph"] in "BE"}

    assert set(lanes) == threads
    assert len({tid for _, tid in lanes}) == len(lanes)
    assert not {tid for _, tid in lanes} & {event["pid"] for event in found}


def test_what_lies_before_the_runs_zero_is_in_the_trace(tmp_path):
    """Times count from the earliest one, since Perfetto drops what is negative, and the run's own zero is told."""
    load = {"kind": "poisson", "rate": 1.0, "duration_s": 4.0}
    result = read_files(write_result(tmp_path / "made", run_json([load]), columns(hand_made()), [span_row(0, 4, 4)]))
    zero_ns = trace.zero_of(result)
    begun = [event for event in events(result, zero_ns) if event["ph"] == "B" and event["name"].startswith("request")]
    told = json.loads(trace.write(result).read_text())

    assert zero_ns == -1_000_000_000
    assert [event["ts"] for event in begun][:2] == [0, 1_000_000]
    assert told["otherData"]["run_zero_us"] == 1_000_000


def test_slices_nest_and_lanes_hold_one_request_at_a_time(slow):
    """Every slice that begins ends, innermost first; none begins in a lane before the last request there is over."""
    open_slices, ended = {}, Counter()
    for event in events(read_files(slow)):
        if event["ph"] not in "BE":
            continue
        stack = open_slices.setdefault(event["tid"], [])
        assert event["ts"] >= ended[event["tid"]]
        ended[event["tid"]] = event["ts"]
        if event["ph"] == "B":
            stack.append(event["name"])
            assert len(stack) <= 2
            continue
        assert stack.pop() == event["name"]

    assert not any(open_slices.values())


def test_a_trace_shows_what_each_request_did(usual):
    """A completed request is prefill and decode as long as its records say; a failed one is named so."""
    result = read_files(usual)
    rows = result.requests
    begun = Counter(event["name"].split(" ")[0] for event in events(result) if event["ph"] == "B")
    done = rows["status"] == COMPLETED

    assert begun["request"] == int((rows["sent_ns"] != MISSING).sum())
    assert begun["prefill"] == int((rows["first_ns"] != MISSING).sum())
    assert begun["decode"] == int((rows["last_ns"] > rows["first_ns"]).sum())
    assert int((~done).sum()) == sum(
        event["name"].endswith(" failed") for event in events(result) if event["ph"] == "B"
    )


def test_the_count_in_flight_returns_to_nothing(usual):
    """The counter goes up and down once for each request, never below zero, and ends at zero."""
    counts = [event["args"]["requests"] for event in events(read_files(usual)) if event["name"] == "in flight"]

    assert min(counts) == 0
    assert counts[-1] == 0
    assert max(counts) > 1


def test_each_of_several_engines_has_its_counters(tmp_path):
    """Named after the engine, beside those of the server."""
    run = Run(loads=(2.0,), duration_s=6, processes=[("prefill-0", "prefill", None), ("decode-0", "decode", None)])
    own = events(read_files(make_result(tmp_path, run)))
    counters = {event["name"] for event in own if event["ph"] == "C"}

    assert {"running", "running prefill-0", "waiting decode-0", "KV cache decode-0"} <= counters
