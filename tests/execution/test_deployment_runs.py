"""Runs of deployments in real time: processes of their own, a real proxy, and nothing left of them."""

import os
import signal

import pytest

from harness.errors import EXIT_ENGINE
from harness.results import store
from tests.sweeping import account, child_of, ended, sent

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
PAIRS = {"prefill_decode": {"prefill": 2, "decode": 2}}
RANKS = {"data_parallel": {"size": 4, "load_balancer": "external"}}
REQUESTS = 300


def scenario(preset):
    """A load of three seconds on a deployment of simulators."""
    return {
        "name": "deployed",
        "question": "Is every process there?",
        "engine": {"kind": "deployment", "model": MODEL, "clock": "real", "preset": preset},
        "workload": {"kind": "synthetic", "input_tokens": 16, "output_tokens": 8},
        "load": [{"constant": {"rate": 100, "requests": REQUESTS}}],
        "workers": 1,
    }


def engine_of(out):
    """What run.json says of the engine."""
    return store.read_run(out)["engine"]


def never(_process):
    """Let the run go on to its end."""


def at_load(out, _process):
    """Whether requests have been sent."""
    return sent(out) >= 20


def test_every_process_of_a_run_is_known_by_name(tmp_path):
    """Two prefill and two decode engines behind the proxy: all requests answered, each engine with its counters."""
    run = ended(tmp_path, at_load, never, scenario(PAIRS))
    engines = ["prefill-0", "prefill-1", "decode-0", "decode-1"]
    out = tmp_path / "out"
    (stage,) = store.read_json(out, store.SUMMARY)["stages"]
    tokens = {row["name"]: row["generation_tokens"] for row in stage["engines"]}

    assert (run.code, run.orphans) == (0, []), run.words
    assert account(out)["completed"] == REQUESTS
    assert list(tokens) == engines
    assert all(count > 0 for count in tokens.values())
    assert [process["name"] for process in engine_of(out)["processes"]] == [*engines, "proxy"]
    assert {f"engine-{name}.log" for name in [*engines, "proxy"]} <= {file.name for file in out.iterdir()}


def test_a_killed_decode_engine_is_told_by_name_and_the_report_is_made(tmp_path):
    """The run ends as with any engine that died: exit 3, what was measured in a page, nobody left."""
    out = tmp_path / "out"

    def kill(process):
        url = next(row["url"] for row in engine_of(out)["processes"] if row["name"] == "decode-0")
        child_of(process, url.rpartition(":")[2], "serve-sim").kill()

    run = ended(tmp_path, at_load, kill, scenario({"prefill_decode": {"prefill": 1, "decode": 1}}))

    assert (run.code, run.orphans) == (EXIT_ENGINE, []), run.words
    assert "process decode-0: the engine died: it was killed (SIGKILL)" in run.words
    assert engine_of(out)["died"].startswith("process decode-0: ")
    assert "decode-0" in (out / "report.html").read_text(encoding="utf-8")
    assert sum(account(out).values()) == REQUESTS


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.engines)])
def test_ctrl_c_stops_every_process(tmp_path, times):
    """Once in order, twice at once: no rank and no proxy is left, and every request has one fate."""

    def interrupt(process):
        for _ in range(times):
            os.kill(process.pid, signal.SIGINT)

    run = ended(tmp_path, at_load, interrupt, scenario(RANKS))

    assert run.orphans == [], run.words
    assert run.code == 128 + signal.SIGINT
    assert "Traceback" not in run.words
    assert sum(account(tmp_path / "out").values()) == REQUESTS
