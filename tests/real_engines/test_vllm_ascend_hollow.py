"""The real vllm-ascend is started, loaded, read and stopped, here on a stub CANN.

Flags, scheduler, memory arithmetic, logs, metrics and operator calls are the plug-in's own. Tokens
are garbage and times mean nothing.
"""

import json
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
import yaml

from harness.engines.engine_log import boot_facts
from harness.errors import EngineError
from harness.simulator import chips
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from tests.hollow import stubs
from tests.hollow.kernel_calls import CALLED, form

pytestmark = pytest.mark.engines

CHIP = chips.CHIPS["910B3"]
ATTENTION = "aclnnFusedInferAttentionScoreV3"
FLAGS = {
    "load_format": "dummy", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 4,
    "gpu_memory_utilization": 0.9, "block_size": 16,
}  # fmt: skip
INPUT, OUTPUT, REQUESTS, WARMUP = 32, 8, 6, 2
AT_ONCE = {"closed": {"concurrency": 2, "requests": REQUESTS}}
IN_TIME = {"constant": {"rate": 4, "duration": "30s"}}
SEGMENT_GIB = 20 / 1024  # torch_npu's allocator takes device memory in pieces of that size


def of_twin(flags):
    """The flags that the twin takes, with the tests' model."""
    return {name: value for name, value in flags.items() if name != "load_format"}


@pytest.fixture(scope="module")
def harness_run(ascend_python, cann, tiny_model, tmp_path_factory):
    """`harness run --engine vllm-ascend`: the finished process and its result folder."""

    def run(flags, load=AT_ONCE, **settings):
        folder = tmp_path_factory.mktemp("run")
        environment = {**stubs.environment(cann, **settings), "HF_HUB_OFFLINE": "1"}
        scenario = {
            "name": "hollow",
            "question": "Does the plug-in serve?",
            "engine": {
                "model": str(tiny_model), "python": ascend_python, "env": environment, "args": flags,
                "ready_timeout": "5m",
            },
            "workload": {"kind": "synthetic", "input_tokens": INPUT, "output_tokens": OUTPUT},
            "load": [load],
            "warmup": {"requests": WARMUP},
            "timeout": "60s",
        }  # fmt: skip
        file = folder / "hollow.yaml"
        file.write_text(yaml.safe_dump(scenario), encoding="utf-8")
        command = [sys.executable, "-m", "harness", "run", str(file), "--engine", "vllm-ascend", "--quiet"]
        out = folder / "out"
        done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False, timeout=600)
        return done, out

    return run


@pytest.fixture(scope="module")
def served(harness_run, tmp_path_factory):
    """A run on a device with the memory of a 910B3: its result folder, and the operators that were called."""
    calls = tmp_path_factory.mktemp("calls") / "calls.log"
    done, out = harness_run(FLAGS, mem_gib=CHIP.memory_bytes / chips.GIB, op_us=100, log=calls)
    assert done.returncode == 0, done.stderr
    return out, calls.read_text(encoding="utf-8").splitlines()


def read(out, name):
    """A JSON file of a result folder."""
    return json.loads((out / name).read_text(encoding="utf-8"))


def facts_of(out):
    """What the engine said of its start."""
    return boot_facts((out / "engine.log").read_text(encoding="utf-8").splitlines())


def test_the_plugin_serves_every_request(served):
    """Platform ascend is active, and each streamed answer has the tokens that were asked for."""
    out, _ = served
    stage = read(out, "summary.json")["stages"][0]

    assert facts_of(out).plugin == "ascend"
    assert (stage["requests"]["completed"], stage["errors"]) == (REQUESTS, {})
    assert stage["output_tokens"] == REQUESTS * OUTPUT


def test_the_result_is_marked_hollow(served):
    """The libraries of the stand-in are seen in the engine, and the run says so."""
    out, _ = served

    assert read(out, "run.json")["engine"]["hollow"] is True


def test_the_block_size_becomes_128(served):
    """Asked for 16, the engine runs with 128, says so in its log, and its attention is called with it."""
    out, calls = served
    attention = [call for call in calls if call.startswith(ATTENTION)]

    assert facts_of(out).block_size_forced == 128
    assert read(out, "run.json")["engine"]["effective"]["block_size"] == 128
    assert attention
    assert all('"TND", 2, 3, 0, 128,' in call for call in attention)


@pytest.mark.parametrize("call", ["fia-decode", "fia_dense-prefill", "reshape_and_cache-kv_write"])
def test_the_kernel_bench_launches_what_the_plugin_launches(served, call):
    """Among the plug-in's calls is the bench's, but for sizes: the same arguments in the same places."""
    _, calls = served
    launched = {form(line) for line in calls if line.startswith(CALLED[call].partition("(")[0] + "(")}

    assert form(CALLED[call]) in launched


def test_the_block_size_is_told_before_the_start_and_why(served):
    """The plug-in's own configuration code said 128; the counters confirm it, and nothing else is not as asked."""
    out, _ = served
    engine = read(out, "run.json")["engine"]
    (row,) = engine["changed"]

    assert engine["resolution"]["by"] == "engine"
    assert engine["resolution"]["effective"]["block_size"] == 128
    assert (row["flag"], row["asked"], row["effective"], row["before"]) == ("block_size", 16, 128, None)
    assert "prefix caching or chunked prefill" in row["why"]


def test_the_cache_has_the_tokens_that_the_twin_predicts(served, tiny_model):
    """From the same flags and device memory, the twin's KV tokens are the engine's within 1 %."""
    out, _ = served
    twin = memory_of(settings_from_flags({**of_twin(FLAGS), "model": str(tiny_model), "chip": CHIP.name}))
    facts = facts_of(out)

    assert facts.kv_cache_tokens == pytest.approx(twin.cache_tokens, rel=0.01)
    assert facts.requested_gib == pytest.approx(twin.requested / chips.GIB, abs=0.01)
    assert facts.weights_gib == pytest.approx(twin.weights / chips.GIB, abs=SEGMENT_GIB)


def test_a_token_takes_the_bytes_that_the_twin_says(served, tiny_model):
    """The engine's cache tokens times the twin's bytes a token are the cache memory that the engine found."""
    out, _ = served
    settings = settings_from_flags({**of_twin(FLAGS), "model": str(tiny_model), "chip": CHIP.name})
    facts = facts_of(out)
    cache = facts.kv_cache_tokens * memory_of(settings).block_bytes / settings.block_size

    assert cache / chips.GIB == pytest.approx(facts.available_kv_gib, abs=0.006)


def test_nothing_of_the_engine_is_left(served):
    """No process has its port in its command any more."""
    out, _ = served
    port = read(out, "run.json")["engine"]["url"].rpartition(":")[2]
    left = [process for process in psutil.process_iter(["cmdline"]) if port in (process.info["cmdline"] or ())]

    assert left == []


def test_too_little_memory_is_told_in_the_engines_words(harness_run, tiny_model, monkeypatch):
    """A device that holds the weights and no cache: exit status 3 with vLLM's sentence, which the twin has too."""
    flags = {**FLAGS, "gpu_memory_utilization": 0.4}
    done, _ = harness_run(flags, mem_gib=0.1)
    small = replace(CHIP, name="small", memory_bytes=chips.GIB // 10, idle_bytes=0)
    monkeypatch.setitem(chips.CHIPS, small.name, small)
    with pytest.raises(EngineError) as refused:
        memory_of(settings_from_flags({**of_twin(flags), "model": str(tiny_model), "chip": small.name}))
    sentence = str(refused.value).partition(" (")[0].removesuffix(".")

    assert done.returncode == 3
    assert sentence.startswith("No available memory for the cache blocks")
    assert sentence in done.stderr


def test_an_operator_that_fails_is_seen(harness_run):
    """Attention that fails in the middle of a run: exit status 3, CANN's error named, and no request lost."""
    done, out = harness_run(FLAGS, IN_TIME, mem_gib=8, fail=f"{ATTENTION}GetWorkspaceSize@300")
    requests = read(out, "summary.json")["stages"][0]["requests"]
    accounted = [requests[end] for end in ("completed", "failed", "cancelled", "never_sent")]

    assert done.returncode == 3
    assert f"call {ATTENTION} failed, error code is 161002" in done.stderr
    assert requests["completed"] > 0
    assert requests["failed"] > 0
    assert sum(accounted) == requests["scheduled"]
