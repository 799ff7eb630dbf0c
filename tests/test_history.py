"""The index of several results, and the trace of one."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from harness import store
from harness.cli import main
from harness.records import COMPLETED, MISSING
from reports.folder import read
from reports.history import histories
from reports.trace import events
from tests.result_folder import Run, make_result

USUAL = Run(loads=(2.0, 4.0), duration_s=20, warmup=2, samples=False, output=(4, 24))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three runs of one scenario, the last one slow, and one of another model."""
    place = tmp_path_factory.mktemp("history")
    for day, (name, run) in enumerate(
        {
            "one": USUAL,
            "two": USUAL,
            "slow": replace(USUAL, slots=1),
            "other <b>": replace(USUAL, model="<script>x</script>"),
        }.items(),
        1,
    ):
        folder = make_result(place / name, run)
        store.write_json(folder, store.RUN, store.read_run(folder) | {"started_utc": f"2026-11-0{day}T10:00:00"})
    return place


def told(capsys, *words):
    """Exit code and stdout of a command."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    return end.value.code, capsys.readouterr().out


def test_a_change_is_marked_at_the_run_that_brought_it(results):
    """Runs that are alike stand together by their time; the slow one alone is marked, as worse."""
    found = histories([results / "slow", results / "other <b>", results / "one", results / "two"])

    assert [[entry.folder.name for entry in one.entries] for one in found] == [["one", "two", "slow"], ["other <b>"]]
    assert [bool(entry.changed) for entry in found[0].entries] == [False, False, True]
    frame = found[0].frame("ttft_p50")
    assert set(frame.loc[frame["verdict"] != "", "run"]) == {3}
    assert set(frame["stage"]) == {0, 1}


def test_the_index_links_every_run_and_escapes_its_names(results, capsys, monkeypatch):
    """`harness report` of several draws index.html where they lie together; pages beside results are no results."""
    monkeypatch.chdir(results)
    (results / "index.html").write_text("old")
    (results / "compared").mkdir()
    (results / "compared" / "compare.json").write_text("{}")
    code, out = told(capsys, "report", *sorted(results.iterdir()))
    page = (results / "index.html").read_text()

    assert code == 0
    assert out.splitlines()[-1].endswith("index.html")
    assert len(out.splitlines()) == 5
    for link in ("one/report.html", "two/report.html", "slow/report.html", "other%20%3Cb%3E/report.html"):
        assert f'href="{link}"' in page
    assert "<script>x" not in page
    assert "<b>" not in page
    assert "a change was shown at 1 of 3 runs" in page
    assert 'role="img"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_one_result_has_no_index(results, capsys, monkeypatch):
    """It has its page alone."""
    monkeypatch.chdir(results)

    assert len(told(capsys, "report", "one")[1].splitlines()) == 1


def test_a_trace_is_written_where_it_is_asked_for(results, tmp_path, capsys):
    """trace.json is one JSON object in Chrome's form, marked as simulated, its times ascending within a lane."""
    folder = make_result(tmp_path / "run", replace(USUAL, samples=True))
    code, out = told(capsys, "report", folder, "--trace")
    trace = json.loads((folder / "trace.json").read_text())

    assert code == 0
    assert out.splitlines()[-1] == str(folder / "trace.json")
    assert trace["otherData"]["simulated"] is True
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "b", "e", "C"}
    assert all(
        "SIMULATED" in event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"
    )
    counters = {event["name"] for event in trace["traceEvents"] if event["ph"] == "C"}
    assert {"in flight", "running", "waiting", "KV cache in use, %"} <= counters


def test_slices_nest_and_lanes_hold_one_request_at_a_time(results):
    """Every slice that begins ends, innermost first; none begins in a lane before the last request there is over."""
    result = read(results / "slow")
    open_slices, ended = {}, Counter()
    for event in events(result):
        if event["ph"] not in "be":
            continue
        stack = open_slices.setdefault((event["pid"], event["id"]), [])
        assert all(event["ts"] >= begun for _, begun in stack)
        if event["ph"] == "b":
            assert stack or event["ts"] >= ended[event["pid"], event["id"]]
            stack.append((event["name"], event["ts"]))
            continue
        name, begun = stack.pop()
        assert (name, begun <= event["ts"]) == (event["name"], True)
        ended[event["pid"], event["id"]] = event["ts"]

    assert not any(open_slices.values())


def test_a_trace_shows_what_each_request_did(results):
    """A completed request is prefill and decode as long as its records say; a failed one is named so."""
    result = read(results / "one")
    rows = result.requests
    begun = Counter(event["name"].split(" ")[0] for event in events(result) if event["ph"] == "b")
    done = rows["status"] == COMPLETED

    assert begun["request"] == int((rows["sent_ns"] != MISSING).sum())
    assert begun["prefill"] == int((rows["first_ns"] != MISSING).sum())
    assert begun["decode"] == int((rows["last_ns"] > rows["first_ns"]).sum())
    assert int((~done).sum()) == sum(
        event["name"].endswith(" failed") for event in events(result) if event["ph"] == "b"
    )


def test_the_count_in_flight_returns_to_nothing(results):
    """The counter goes up and down once for each request, never below zero, and ends at zero."""
    counts = [event["args"]["requests"] for event in events(read(results / "one")) if event["name"] == "in flight"]

    assert min(counts) == 0
    assert counts[-1] == 0
    assert max(counts) > 1
