"""Offline scenarios: one call a stage, every request accounted for, whatever happens."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.api.result import draw
from harness.errors import EXIT_DONE, EXIT_ENGINE, EXIT_INTERRUPTED, EngineError, InputError
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, open_folder, run_load
from harness.results import store, table_files
from harness.results.request_table import COMPLETED, FROM_TOKEN_IDS, MEASURED, MISSING, WARMUP
from harness.scenario.loader import load_scenario
from tests.engines.test_guardian import wait_until_gone
from tests.execution.test_run import account, running, scenario

FAKE = Path(__file__).parent.parent / "fake_engine"
LAST = 5  # as in the stand-in
OFFLINE = [{"offline": {"requests": [8, 20]}}]
FOUR = [{"offline": {"requests": 4}}]
WARM = {"requests": 3}


def fake(mode, **engine):
    """The stand-in for vLLM as a scenario names it."""
    env = {"PYTHONPATH": str(FAKE), "FAKE_VLLM": mode}
    return {"kind": "vllm", "model": "m", "python": sys.executable, "env": env, "ready_timeout": "60s", **engine}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """No kept answers of other runs, but those of this module: to ask an interpreter takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def opened(folder, load=OFFLINE, **more):
    """The order of a scenario, its result folder open."""
    order = RunSpec(load_scenario(scenario(folder, load, **more)), folder / "out", "", lambda _line: None)
    open_folder(order)
    return order


def conducted(order):
    """How an order ended, and its result folder, without a page."""
    outcome = asyncio.run(run_load(order))
    finish(order.folder)
    return outcome, order.folder


def done(folder, load=OFFLINE, **more):
    """How the run of a scenario ended, and its result folder."""
    return conducted(opened(folder, load, **more))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The result folder of the twin."""
    outcome, out = done(tmp_path_factory.mktemp("simulated"), warmup=WARM, repeats=2)
    assert outcome.exit_code == EXIT_DONE
    return out


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The result folder of the stand-in for vLLM."""
    engine = fake("serve", args={"block_size": 16})
    outcome, out = done(tmp_path_factory.mktemp("measured"), engine=engine, warmup=WARM, slo={"e2e_p99": "60s"})
    assert outcome.exit_code == EXIT_DONE
    return out


def test_a_stage_is_one_call(simulated):
    """All its requests are due and sent in one instant, after the stage before has ended."""
    requests, timeline = table_files.read_requests(simulated), store.read_json(simulated, store.TIMELINE)
    begins = [
        np.unique(requests.sent_ns[(requests.stage == span["stage"]) & (requests.repeat == span["repeat"])
                                   & (requests.phase == MEASURED)])
        for span in timeline
    ]  # fmt: skip

    assert [begin.tolist() for begin in begins] == [[span["start_ns"]] for span in timeline]
    assert (requests.due_ns == requests.sent_ns).all()
    assert all(
        before["end_ns"] <= after["start_ns"]
        for before, after in zip(sorted(timeline, key=lambda span: span["start_ns"])[:-1],
                                 sorted(timeline, key=lambda span: span["start_ns"])[1:], strict=True)
    )  # fmt: skip


def test_throughput_is_that_of_the_call(simulated):
    """Output tokens of a stage over the time from its first instant to the engine's last."""
    requests = table_files.read_requests(simulated)
    timeline = {(span["stage"], span["repeat"]): span for span in store.read_json(simulated, store.TIMELINE)}
    for stage in store.read_json(simulated, store.SUMMARY)["stages"]:
        span = timeline[stage["index"], stage["repeat"]]
        mine = (requests.stage == stage["index"]) & (requests.repeat == stage["repeat"]) & (requests.phase == MEASURED)
        length_s = (span["end_ns"] - span["start_ns"]) / 1e9

        assert stage["output_token_rate"] == pytest.approx(requests.output_tokens[mine].sum() / length_s)
        assert stage["request_rate"] == pytest.approx(mine.sum() / length_s)
        assert stage["total_token_rate"] == pytest.approx(
            (requests.output_tokens[mine].sum() + requests.input_tokens[mine].sum()) / length_s
        )
        assert stage["window"]["method"] == "whole call"


def test_every_repeat_warms_up_and_counts_no_warm_up(simulated):
    """Warm-up requests are a call of their own, before the first stage of a repeat."""
    requests = table_files.read_requests(simulated)
    warm = requests.phase == WARMUP

    assert np.bincount(requests.repeat[warm]).tolist() == [3, 3]
    assert set(requests.stage[warm]) == {0}
    assert account(simulated) == {"completed": 2 * 28, "failed": 0, "cancelled": 0, "never_sent": 0}


def test_a_simulated_result_says_so(simulated):
    """A simulated result is marked, has every token's time, and no notes on a client there was not."""
    summary, events = store.read_json(simulated, store.SUMMARY), table_files.read_events(simulated)

    assert summary["simulated"] is True
    assert summary["answer"].startswith("Simulated in virtual time: At 8 requests at once: ")
    assert (events.tokens == 1).all()
    assert summary["stages"][0]["itl"]["n"] == 8 * 9
    assert {warning["code"] for warning in summary["verdict"]["warnings"]} <= {"simulated", "few_samples", "short"}


def test_the_page_is_drawn(simulated):
    """With the companions that every result has."""
    draw(simulated)
    names = {path.name for path in simulated.iterdir()}

    assert {"report.html", "summary.md", "junit.xml", "vllm-bench.json", "samples.parquet", "engine.log"} <= names
    assert "offline, 20 requests" in (simulated / "report.html").read_text(encoding="utf-8")
    assert not (simulated / store.RAW).exists()


def test_the_same_seed_sends_the_same(simulated, tmp_path):
    """Payload, schedule, lengths and times of the simulator are equal in a second run."""
    _, out = done(tmp_path, warmup=WARM, repeats=2)
    runs = [store.read_run(folder) for folder in (simulated, out)]
    told = [table_files.read_requests(folder) for folder in (simulated, out)]

    assert runs[0]["payload_sha256"] == runs[1]["payload_sha256"]
    assert runs[0]["schedule_sha256"] == runs[1]["schedule_sha256"]
    for name in ("session", "input_tokens", "output_tokens", "first_ns", "last_ns"):
        assert (getattr(told[0], name) == getattr(told[1], name)).all()


def test_vllms_answers_are_counted_and_timed(measured):
    """Tokens by their ids, in the order of the prompts though answers come in another, on the engine's clock."""
    requests, run = table_files.read_requests(measured), store.read_run(measured)

    assert set(requests.status) == {COMPLETED}
    assert set(requests.counted_by) == {FROM_TOKEN_IDS}
    assert (requests.input_tokens == 32).all()
    assert (requests.output_tokens == requests.output_asked).all()
    assert (requests.sent_ns <= requests.first_ns).all()
    assert (requests.last_ns <= requests.done_ns).all()
    for stage in (0, 1):  # the stand-in answers the last request first
        mine = (requests.stage == stage) & (requests.phase == MEASURED)
        assert (np.diff(requests.done_ns[mine][np.argsort(requests.session[mine])]) < 0).all()
    assert (run["engine"]["simulated"], run["engine"]["hollow"], run["client"]["workers"]) == (False, False, 0)
    assert run["engine"]["effective"]["kv_cache_size_tokens"] == 1_234_567
    assert run["engine"]["effective"]["block_size"] == 128


def test_what_nobody_saw_is_not_there(measured):
    """Gaps between tokens are undefined, and it is said why; TPOT of an engine without a second time is."""
    summary, samples = store.read_json(measured, store.SUMMARY), table_files.read_samples(measured)

    assert [stage[name]["n"] for stage in summary["stages"] for name in ("itl", "chunk_gap")] == [0] * 4
    assert [stage["ttft"]["n"] for stage in summary["stages"]] == [8, 20]
    assert "offline_times" in {warning["code"] for warning in summary["verdict"]["warnings"]}
    assert summary["stages"][0]["slo"]["e2e_p99"]["met"] is True
    assert {"vllm:num_requests_running", "vllm:generation_tokens_total"} <= set(samples.name)


@pytest.mark.parametrize("mode", ["quiet", "elsewhere"])
def test_a_clock_that_is_not_ours_is_not_believed(tmp_path, mode):
    """Where vLLM notes no times, or those of another machine, only the end of an answer is known."""
    outcome, out = done(tmp_path, FOUR, engine=fake(mode))
    requests, stage = table_files.read_requests(out), store.read_json(out, store.SUMMARY)["stages"][0]

    assert outcome.exit_code == EXIT_DONE
    assert (requests.first_ns == MISSING).all()
    assert (requests.last_ns == requests.done_ns).all()
    assert (stage["ttft"]["n"], stage["tpot"]["n"], stage["e2e"]["n"]) == (0, 0, 4)
    assert stage["total_token_rate"] > stage["output_token_rate"] > 0


def test_an_engine_that_dies_is_told_and_what_it_did_is_kept(tmp_path):
    """Its own words; answers that were whole stay, the others of the call failed, the next was never sent."""
    outcome, out = done(tmp_path, engine=fake("dies"))
    stages = store.read_json(out, store.SUMMARY)["stages"]

    assert outcome.exit_code == EXIT_ENGINE
    assert "the engine died: out of memory: torch.OutOfMemoryError: NPU out of memory." in str(outcome.lines[0])
    assert stages[0]["errors"] == {"engine_died": LAST + 1}
    assert account(out) == {"completed": 8 - LAST - 1, "failed": LAST + 1, "cancelled": 0, "never_sent": 20}


def test_a_start_that_fails_is_one_line(tmp_path):
    """The engine's own reason, and not the source that says it in a traceback."""
    with pytest.raises(EngineError) as refused:
        asyncio.run(run_load(opened(tmp_path, FOUR, engine=fake("config"))))
    (line,) = refused.value.lines

    assert "the configuration was refused: ValueError: No common block size for 16 (ASCEND: [128])." in line


def test_what_the_twin_refuses_is_refused_before_a_start(tmp_path):
    """In the engine's own words, with no program started."""
    engine = {"kind": "simulator", "model": "Qwen/Qwen2.5-72B-Instruct"}
    with pytest.raises(EngineError, match="No available memory"):
        asyncio.run(run_load(opened(tmp_path, FOUR, engine=engine)))

    assert not (tmp_path / "out" / "engine.log").exists()


def test_a_sampling_parameter_that_is_none_is_refused(tmp_path):
    """Before a model is loaded, with the nearest that there is."""
    with pytest.raises(InputError) as refused:
        asyncio.run(run_load(opened(tmp_path, FOUR, engine=fake("serve"), extra_body={"top_pp": 0.9})))
    (line,) = refused.value.lines

    assert line == "extra_body.top_pp: LLM.generate has no such sampling parameter; did you mean 'top_p'?"


def has_answers(out):
    """Whether the first answers of a run are noted."""
    notes = out / store.RAW / "notes.jsonl"
    return lambda: notes.exists() and '"done"' in notes.read_text()


def test_an_interrupt_keeps_what_was_done(tmp_path):
    """Ctrl-C ends the engine at once: whole answers are kept, the rest is cancelled or was never sent."""
    order, over, family = opened(tmp_path, engine=fake("hangs")), threading.Event(), []

    def interrupt():
        while not has_answers(order.folder)() and not over.wait(0.05):
            pass
        family.extend(psutil.Process().children(recursive=True))
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    try:
        outcome, out = conducted(order)
    finally:
        over.set()
        user.join()

    assert outcome.exit_code == EXIT_INTERRUPTED
    assert account(out) == {"completed": 8 - LAST - 1, "failed": 0, "cancelled": LAST + 1, "never_sent": 20}
    assert wait_until_gone([one.pid for one in family]) == []


def test_a_killed_harness_leaves_no_engine_and_a_result_that_can_be_reported(tmp_path):
    """SIGKILL: nothing of the engine is left, and what was noted accounts for every request."""
    out = tmp_path / "out"
    words = ("run", scenario(tmp_path, OFFLINE, engine=fake("hangs")), "--out", out)
    with running(*words, begun=has_answers(out)) as process:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    left = wait_until_gone([one.pid for one in family], timeout_s=30)
    finish(out)
    requests = table_files.read_requests(out)

    assert left == []
    assert account(out) == {"completed": 8 - LAST - 1, "failed": 0, "cancelled": LAST + 1, "never_sent": 20}
    assert set(requests.error[requests.status == "cancelled"]) == {"lost"}


def test_a_program_without_a_harness_module_is_enough():
    """What runs in the engine's interpreter imports the standard library alone."""
    source = Path("harness/engines/offline_child.py")
    words = [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(source.resolve())!r}, run_name='x')"]

    assert subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_text_prompts_are_left_to_the_engines_tokenizer(tmp_path):
    """A data set's prompts go as text, and the engine's own count is what is believed."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"say {n}", "output_tokens": 4}) + "\n" for n in range(6)))
    work = {"kind": "dataset", "path": str(file)}
    outcome, out = done(tmp_path, [{"offline": {"requests": 6}}], engine=fake("serve"), workload=work)
    requests = table_files.read_requests(out)

    assert outcome.exit_code == EXIT_DONE
    assert (requests.input_tokens == 3).all()
    assert (requests.output_tokens == 4).all()
