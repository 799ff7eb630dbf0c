"""The self check finds the floor and the ceiling, and keeps them for the machine they hold on."""

import json
import os
from dataclasses import replace

import pytest

from harness.errors import HarnessError
from harness.selfcheck import selfcheck
from harness.selfcheck.exactness import Exactness
from harness.selfcheck.selfcheck import LoadStep

SENT_S = 0.050


def texts(result):
    """The lines of a result in English."""
    return [str(line) for line in selfcheck.lines(result)]


def seen(streams, *, error_s=0.0001, held=0.99, late_s=0.0):
    """What a client of these qualities shows at so many streams."""
    ceiling = streams * 96.0
    times = (SENT_S + error_s, SENT_S, 0.0110, 0.0105)
    return Exactness(streams, streams * 3, streams * 3, *times, held * ceiling, ceiling, 5e-6, late_s)


class Machine:
    """Answers as `measure` would, from a table of qualities by streams; a list is taken try by try."""

    def __init__(self, **unlike):
        self._unlike = {int(name.removeprefix("at_")): tries for name, tries in unlike.items()}
        self.folders = []

    def __call__(self, step, folder):
        self.folders.append(folder.name)
        tries = self._unlike.get(step.streams, [{}])
        return seen(step.streams, **(tries.pop(0) if len(tries) > 1 else tries[0]))


def climbed(**unlike):
    """Result and machine of a climb."""
    machine = Machine(**unlike)
    return selfcheck.floor_and_ceiling(lambda _line: None, machine), machine


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "npu-harness" / "selfcheck.json"


def test_a_client_that_holds_every_step_has_no_known_ceiling():
    """The hardest step is the ceiling that is known, and the result says that there may be more."""
    result, machine = climbed()

    assert result["ceiling_streams"] == 2000
    assert result["ceiling_tokens_per_s"] == pytest.approx(2000 * 96 * 0.99)
    assert result["limited_by"] == "steps"
    assert machine.folders == ["1", "100", "250", "500", "1000", "2000", "shared"]


def test_the_climb_ends_at_the_first_step_that_fails_twice():
    """The ceiling is the last exact step; nothing harder is tried."""
    result, machine = climbed(at_500=[{"error_s": 0.010}])

    assert (result["ceiling_streams"], result["limited_by"]) == (250, "client")
    assert machine.folders == ["1", "100", "250", "500", "500-again", "shared"]


def test_the_shared_core_is_measured_on_one_core_and_given_back():
    """The last step runs while this process is bound to one core, and says what the server itself lost there."""
    before, bound = os.sched_getaffinity(0), {}

    def measure(step, folder):
        bound[folder.name] = os.sched_getaffinity(0)
        found = seen(step.streams)
        if folder.name != "shared":
            return found
        return replace(found, ttft_true_s=SENT_S + 0.002, ceiling_rate=found.ceiling_rate / 2)

    result = selfcheck.floor_and_ceiling(lambda _line: None, measure)

    assert result["shared_core"] == {
        "streams": 100,
        "ttft_added_s": pytest.approx(0.002),
        "gap_p99_added_s": 0,
        "rate_share": 0.5,
    }
    assert (bound["shared"], bound["100"], os.sched_getaffinity(0)) == ({max(before)}, before, before)
    assert "2.00 ms" in texts(result)[2]
    assert "50.0 %" in texts(result)[2]


def test_one_hiccup_is_no_limit():
    """A step that is exact at the second try counts."""
    result, machine = climbed(at_1000=[{"held": 0.5}, {}])

    assert result["ceiling_streams"] == 2000
    assert machine.folders.count("1000-again") == 1


def test_a_reference_server_that_falls_behind_ends_the_climb():
    """The client was exact; what it could do beyond is not known."""
    result, _ = climbed(at_1000=[{"late_s": 0.2}])
    starved, _ = climbed(at_1000=[{"late_s": 0.2, "error_s": 0.01}])

    assert (result["ceiling_streams"], result["limited_by"]) == (1000, "server")
    assert (starved["ceiling_streams"], starved["limited_by"]) == (500, "server")


def test_the_floor_is_the_worse_of_the_gentle_loads():
    """One stream or a hundred: the larger error stands."""
    result, _ = climbed(at_1=[{"error_s": 0.0004}], at_100=[{"error_s": 0.0002}])

    assert result["floor_ttft_s"] == pytest.approx(0.0004)
    assert result["floor_gap_p99_s"] == pytest.approx(0.0005)


def test_a_client_that_is_never_exact_has_no_ceiling():
    """Zero, and a line that says so."""
    bad = [{"error_s": 0.01}]
    result, _ = climbed(at_1=bad, at_100=bad, at_250=bad)

    assert result["ceiling_tokens_per_s"] == 0
    assert any("cannot keep up on this machine" in line for line in texts(result))


@pytest.mark.parametrize("quality", [{}, {"error_s": 0.01}, {"late_s": 0.2}])
def test_lines_tell_floor_and_ceiling(cache, quality):
    """Whatever ended the climb, three sentences with numbers and the place they are kept in."""
    result, _ = climbed(at_1000=[quality])
    told = texts({**result, "busy_share": 0.0})

    assert [line.partition(":")[0] for line in told[:3]] == ["Exactness", "Capacity", "Sharing"]
    assert "100 µs" in told[0]
    assert "tokens/s" in told[1]
    assert str(cache) in told[3]
    assert len(told) == 4
    assert texts({**result, "busy_share": 0.4})[0].startswith("other work kept 40.0 %")


def test_no_time_is_told_finer_than_a_stamp_can_tell(cache):
    """Below a microsecond there is no number; one stream is one; from then on at most three digits."""
    said = []
    result = selfcheck.floor_and_ceiling(said.append, Machine(at_1=[{"error_s": 8.94e-8}]))
    fine = result | {
        "floor_gap_p99_s": -8.94e-8,
        "floor_ttft_s": 5.8712e-6,
        "ceiling_streams": 1,
        "limited_by": "client",
    }
    told = texts(fine | {"shared_core": result["shared_core"] | {"streams": 1, "ttft_added_s": -1.0}})

    assert str(said[0]).startswith("1 stream: TTFT 50.0 ms ")
    assert told[0] == "Exactness: a mean TTFT is right to 5.87 µs, and the p99 of the gap between chunks to < 1 µs."
    assert " on 1 stream (" in told[1]
    assert "a server of 1 stream was itself < 1 µs slower" in told[2]


def test_a_result_is_found_again_where_it_holds(cache, monkeypatch):
    """Another Python, host, version or number of cores has no result."""
    result, _ = climbed()
    before = selfcheck.last_selfcheck()
    selfcheck.keep(result)
    kept = selfcheck.last_selfcheck()
    monkeypatch.setattr(selfcheck, "cores", lambda: 4096)

    assert before is None
    assert kept == json.loads(json.dumps(result))
    assert selfcheck.last_selfcheck() is None


def test_results_of_other_places_are_kept(cache, monkeypatch):
    """A home shared by machines holds a result of each."""
    result, _ = climbed()
    selfcheck.keep(result)
    monkeypatch.setattr(selfcheck, "cores", lambda: 4096)
    selfcheck.keep(result | {"ceiling_streams": 7})
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent))

    assert selfcheck.last_selfcheck()["ceiling_streams"] == 2000


@pytest.mark.parametrize("text", ["", "[1]", '{"a": '])
def test_a_spoilt_cache_is_no_result(cache, text):
    """It is as if there were none, and the next result replaces it."""
    cache.parent.mkdir()
    cache.write_text(text)
    spoilt = selfcheck.last_selfcheck()
    selfcheck.keep(climbed()[0])

    assert spoilt is None
    assert selfcheck.last_selfcheck() is not None


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """One line that names the place and the variable that moves it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(HarnessError, match=r"selfcheck\.json: cannot be written .* XDG_CACHE_HOME"):
        selfcheck.keep(climbed()[0])


def test_the_real_client_counts_what_the_reference_server_sent(tmp_path):
    """A real run against a real reference server: all answered, and never seen before it was sent."""
    found = selfcheck.measure_step(LoadStep(3, 2, 5), tmp_path / "step")

    assert (found.requests, found.completed) == (6, 6)
    assert found.ttft_error_s > 0
    assert found.token_rate > 0


def test_a_run_that_fails_is_an_error(tmp_path):
    """The lines of the failed run come through."""
    with pytest.raises(HarnessError, match="cannot connect"):
        selfcheck.drive(selfcheck.scenario_text(LoadStep(1, 1), "http://127.0.0.1:9"), tmp_path / "step")
