"""Offline scenarios on the real `LLM.generate`: vLLM on the CPU, vllm-ascend on a stub CANN."""

import subprocess
import sys

import numpy as np
import psutil
import pytest
import yaml

from harness.engines.engine_log import boot_facts
from harness.results import store, table_files
from harness.results.request_table import COMPLETED, FROM_TOKEN_IDS, MEASURED, MISSING
from tests.engines.test_guardian import wait_until_gone
from tests.hollow import stubs
from tests.real_engines import environments

pytestmark = pytest.mark.engines

SIZES, WARMUP = (4, 12), 2
FLAGS = {"load_format": "dummy", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 4}
OFFLINE = [{"offline": {"requests": list(SIZES)}}]


@pytest.fixture(scope="module")
def command(tiny_model, tmp_path_factory):
    """A `harness run` of an offline scenario, as a command, and its result folder."""

    def made(kind, python, env, load=OFFLINE, **flags):
        folder = tmp_path_factory.mktemp("run")
        scenario = {
            "name": "offline",
            "question": "How many tokens a second does a batch get?",
            "engine": {
                "kind": kind, "model": str(tiny_model), "python": python, "env": {"HF_HUB_OFFLINE": "1", **env},
                "args": FLAGS | flags, "ready_timeout": "5m",
            },
            "workload": {
                "kind": "synthetic", "input_tokens": {"uniform": [8, 60]}, "output_tokens": {"uniform": [2, 12]},
            },
            "load": load,
            "warmup": {"requests": WARMUP},
        }  # fmt: skip
        file = folder / "offline.yaml"
        file.write_text(yaml.safe_dump(scenario), encoding="utf-8")
        out = folder / "out"
        return [sys.executable, "-m", "harness", "run", str(file), "--quiet", "--out", str(out)], out

    return made


@pytest.fixture(scope="module")
def on_cpu(command):
    """A command for the real vLLM on the CPU."""
    python = environments.interpreter(environments.VLLM_CPU)
    if not python:
        pytest.skip("HARNESS_VLLM_PYTHON names no interpreter with vLLM, and make test-engines has built none")

    def made(load=OFFLINE, **flags):
        return command("vllm", python, {"VLLM_CPU_KVCACHE_SPACE": "1"}, load, gpu_memory_utilization=0.5, **flags)

    return made


def finished(made):
    """The finished process of a command, and its result folder."""
    words, out = made
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600), out


@pytest.fixture(scope="module")
def measured(on_cpu):
    """The result folder of a run on the CPU that went well."""
    done, out = finished(on_cpu())
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def hollow(command, ascend_python, cann):
    """The result folder of a run of vllm-ascend on a hollow CANN."""
    done, out = finished(command("vllm-ascend", ascend_python, stubs.environment(cann, mem_gib=8), block_size=16))
    assert done.returncode == 0, done.stderr
    return out


def test_every_token_is_counted(measured):
    """Each prompt and answer has exactly the tokens that were asked for, by the engine's own token ids."""
    requests = table_files.read_requests(measured)

    assert len(requests) == WARMUP + sum(SIZES)
    assert set(requests.status) == {COMPLETED}
    assert set(requests.counted_by) == {FROM_TOKEN_IDS}
    assert (requests.input_tokens == requests.input_asked).all()
    assert (requests.output_tokens == requests.output_asked).all()


def test_the_engines_counters_are_ours(measured):
    """Its prompt and generated tokens are those of the records, warm-up included."""
    requests, samples = table_files.read_requests(measured), table_files.read_samples(measured)

    def last(name):
        return samples.value[samples.name == name][-1]

    assert last("vllm:prompt_tokens_total") == requests.input_tokens.sum()
    assert last("vllm:generation_tokens_total") == requests.output_tokens.sum()


def test_times_are_of_one_clock(measured):
    """First and last token by vLLM's clock lie, in order, between the call's begin and the answer's end."""
    requests = table_files.read_requests(measured)

    assert (requests.first_ns != MISSING).all()
    for before, after in (("sent_ns", "first_ns"), ("first_ns", "last_ns"), ("last_ns", "done_ns")):
        assert (getattr(requests, before) <= getattr(requests, after)).all()


def test_throughput_is_that_of_the_call(measured):
    """Tokens of a stage over the time of its call, which holds all its answers and ends with them."""
    requests = table_files.read_requests(measured)
    spans = {span["stage"]: span for span in store.read_json(measured, store.TIMELINE)}
    for stage, size in zip(store.read_json(measured, store.SUMMARY)["stages"], SIZES, strict=True):
        span, mine = spans[stage["index"]], (requests.stage == stage["index"]) & (requests.phase == MEASURED)
        length_s = (span["end_ns"] - span["start_ns"]) / 1e9

        assert mine.sum() == stage["requests"]["completed"] == size
        assert stage["output_token_rate"] == pytest.approx(requests.output_tokens[mine].sum() / length_s)
        assert requests.done_ns[mine].max() <= span["end_ns"]
        assert set(requests.sent_ns[mine]) == {span["start_ns"]}


def test_no_more_run_at_once_than_the_engine_takes(measured):
    """With max_num_seqs 4, of twelve requests the last begins when at most three others are unfinished."""
    requests = table_files.read_requests(measured)
    mine = (requests.stage == 1) & (requests.phase == MEASURED)
    first, last = requests.first_ns[mine], requests.last_ns[mine]
    under_way = [int(((first < at) & (last > at)).sum()) for at in first]

    assert max(under_way) <= 4
    assert np.median(first) > first.min()


def test_the_result_is_a_measurement(measured):
    """Neither simulated nor hollow, with the configuration that the engine logged, and a page."""
    engine, summary = store.read_run(measured)["engine"], store.read_json(measured, store.SUMMARY)

    assert (engine["kind"], engine["simulated"], engine["hollow"]) == ("vllm", False, False)
    assert (engine["effective"]["max_num_seqs"], engine["effective"]["max_model_len"]) == (4, 512)
    assert engine["effective"]["block_size"] == 128
    assert [stage["itl"]["n"] for stage in summary["stages"]] == [0, 0]
    assert "offline_times" in {warning["code"] for warning in summary["verdict"]["warnings"]}
    assert (measured / "report.html").exists()


def test_the_step_of_an_engine_without_a_server_is_foretold(on_cpu):
    """`LLM` takes twice the tokens a step of a server on a CPU; it is asked as what it is, and its log agrees."""
    done, out = finished(on_cpu([{"offline": {"requests": 4}}], max_num_seqs=64))
    assert done.returncode == 0, done.stderr
    engine = store.read_run(out)["engine"]
    facts = boot_facts((out / "engine.log").read_text(encoding="utf-8").splitlines())

    assert engine["resolution"]["by"] == "engine"
    assert engine["resolution"]["effective"]["max_num_batched_tokens"] == facts.max_num_batched_tokens == 4096


def test_a_context_that_is_too_long_is_told_in_one_line(on_cpu):
    """More than the model has: exit 3 with vLLM's reason, and no result."""
    done, out = finished(on_cpu(max_model_len=99_999_999))

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "max_model_len" in done.stderr
    assert not (out / store.RUN).exists()


def test_nothing_is_left_when_the_harness_is_killed(on_cpu):
    """SIGKILL in the middle of a call ends every process of the engine."""
    words, out = on_cpu([{"offline": {"requests": 20_000}}])
    with subprocess.Popen(words) as harness:
        notes = out / store.RAW / "notes.jsonl"
        while not (notes.exists() and '"done"' in notes.read_text()):
            assert harness.poll() is None
            psutil.wait_procs([psutil.Process(harness.pid)], timeout=0.5)
        family = psutil.Process(harness.pid).children(recursive=True)
        harness.kill()

    assert len(family) > 2
    assert wait_until_gone([one.pid for one in family], timeout_s=60) == []


def test_vllm_ascend_generates_and_is_marked_hollow(hollow):
    """The plug-in's own platform and block size; no number of it is valid, and the page says so."""
    facts = boot_facts((hollow / "engine.log").read_text(encoding="utf-8").splitlines())
    requests, summary = table_files.read_requests(hollow), store.read_json(hollow, store.SUMMARY)
    engine = store.read_run(hollow)["engine"]

    assert facts.plugin == "ascend"
    assert (engine["hollow"], engine["effective"]["block_size"]) == (True, 128)
    assert (requests.output_tokens == requests.output_asked).all()
    assert summary["verdict"]["valid"] is False
    assert summary["answer"].startswith("No valid answer: ")


def test_too_little_device_memory_is_told(command, ascend_python, cann):
    """Exit 3 with vLLM's own sentence."""
    env = stubs.environment(cann, mem_gib=0.1)
    done, _ = finished(command("vllm-ascend", ascend_python, env, gpu_memory_utilization=0.4))

    assert done.returncode == 3
    assert "No available memory for the cache blocks" in done.stderr
