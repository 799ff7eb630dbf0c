"""A real vLLM is started, loaded, read and stopped: its CPU engine with a tiny model."""

import json
import socket
import subprocess
import sys
from contextlib import closing

import psutil
import pytest
import yaml

from harness.results import store, table_files
from harness.results.request_table import COMPLETED
from tests.contracts.engine import listens
from tests.engines.test_guardian import runs, wait_until_gone
from tests.real_engines.tiny_model import SHAPE

pytestmark = pytest.mark.engines

CACHE_BYTES = 1 << 30
FLAGS = {"load_format": "dummy", "enforce_eager": True, "max_model_len": 2048, "gpu_memory_utilization": 0.5}
INPUT, OUTPUT, REQUESTS, WARMUP = 32, 8, 6, 2
ONCE = [{"closed": {"concurrency": 2, "requests": REQUESTS}}]
LONG = [{"closed": {"concurrency": 1, "duration": "5m"}}]


@pytest.fixture(scope="module")
def command(vllm_python, tiny_model, tmp_path_factory):
    """A `harness run` of a scenario for this engine, as a command, and its result folder."""

    def made(flags, load=ONCE, more=None, **engine):
        folder = tmp_path_factory.mktemp("run")
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_BYTES >> 30),
        }
        scenario = {
            "name": "vllm-cpu",
            "question": "Does a real vLLM serve?",
            "engine": {
                "kind": "vllm", "model": str(tiny_model), "python": vllm_python, "env": environment, "args": flags,
                "ready_timeout": "5m", **engine,
            },
            "workload": {"kind": "synthetic", "input_tokens": INPUT, "output_tokens": OUTPUT},
            "load": load,
            "warmup": {"requests": WARMUP},
            "timeout": "60s",
            **(more or {}),
        }  # fmt: skip
        file = folder / "vllm.yaml"
        file.write_text(yaml.safe_dump(scenario), encoding="utf-8")
        out = folder / "out"
        return [sys.executable, "-m", "harness", "run", str(file), "--quiet", "--out", str(out)], out

    return made


def finished(made):
    """The finished process of a command, and its result folder."""
    words, out = made
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600), out


@pytest.fixture(scope="module")
def served(command):
    """The result folder of a run that went well."""
    done, out = finished(command(FLAGS))
    assert done.returncode == 0, done.stderr
    return out


def test_every_request_is_answered_and_it_is_a_measurement(served):
    """The result says which engine it was, neither simulated nor hollow, and its log is kept."""
    engine, requests = store.read_run(served)["engine"], table_files.read_requests(served)

    assert len(requests) == REQUESTS + WARMUP
    assert set(requests.status) == {COMPLETED}
    assert (engine["kind"], engine["simulated"], engine["hollow"]) == ("vllm", False, False)
    assert "Application startup complete" in (served / "engine.log").read_text(encoding="utf-8")


def test_the_effective_configuration_is_read_back(served):
    """Block size, memory share, length, and the tokens that the cache of the given size holds."""
    shape = json.loads(SHAPE.read_text(encoding="utf-8"))
    head = shape["hidden_size"] // shape["num_attention_heads"]
    token_bytes = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head * 2  # keys and values, bfloat16
    found = store.read_run(served)["engine"]["effective"]

    assert (found["block_size"], found["gpu_memory_utilization"], found["max_model_len"]) == (128, 0.5, 2048)
    assert found["num_gpu_blocks"] == CACHE_BYTES // (128 * token_bytes)
    assert found["kv_cache_size_tokens"] == 128 * found["num_gpu_blocks"]


def test_what_was_told_before_the_start_is_what_runs(served):
    """The engine's own configuration code told every flag; the log and the counters of the started engine agree."""
    engine = store.read_run(served)["engine"]
    before = engine["resolution"]["effective"]

    assert (engine["resolution"]["by"], engine["changed"]) == ("engine", [])
    assert {name: engine["effective"][name] for name in before} == before
    assert {engine["sources"][name] for name in ("block_size", "gpu_memory_utilization")} == {"metrics"}
    assert engine["sources"]["enforce_eager"] == "log"
    assert engine["sources"]["max_num_seqs"] == "config code"


def test_the_servers_counters_are_ours(served):
    """Its prompt and generated tokens rise by as much as the records hold, warm-up included."""
    requests, samples = table_files.read_requests(served), table_files.read_samples(served)

    def risen(name):
        values = samples.value[samples.name == name]
        return values[-1] - values[0]

    assert risen("vllm:prompt_tokens_total") == requests.input_tokens.sum() == (REQUESTS + WARMUP) * INPUT
    assert risen("vllm:generation_tokens_total") == requests.output_tokens.sum() == (REQUESTS + WARMUP) * OUTPUT


@pytest.fixture(scope="module")
def told(command):
    """The result folder of a run whose server tells the times of each request, and half of whose tokens hit."""
    flags = {**FLAGS, "enable_per_request_metrics": True, "enable_prompt_tokens_details": True, "max_num_seqs": 4}
    work = {"kind": "synthetic", "input_tokens": {"uniform": [400, 900]}, "output_tokens": 8}
    work["prefix"] = {"hit_rate": 0.5, "groups": 2}
    done, out = finished(command(flags, [{"closed": {"concurrency": 8, "requests": 32}}], {"workload": work}))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_the_servers_own_times_of_each_request_are_kept(told, endpoint, command):
    """Queued and prefilled, as this vLLM tells them with the usage, lie within what the client saw of each request."""
    if endpoint == "chat":
        done, told = finished(command({**FLAGS, "enable_per_request_metrics": True}, more={"endpoint": "chat"}))
        assert done.returncode == 0, done.stderr
    requests, (stage,) = table_files.read_requests(told), store.read_json(told, store.SUMMARY)["stages"]
    inside = requests.server_queue_ns + requests.server_prefill_ns

    assert (requests.server_queue_ns >= 0).all()
    assert (requests.server_prefill_ns > 0).all()
    assert (inside < requests.first_ns - requests.sent_ns).all()
    assert (requests.server_decode_ns[requests.output_tokens > 1] > 0).all()
    assert stage["server_split"]["n"] == stage["ttft"]["n"]
    assert stage["server_split"]["outside"]["min"] > 0


def test_a_share_of_prefix_hits_is_held(told):
    """What vLLM's own cache finds of every prompt is what theory says, and the share that was asked for."""
    requests, (stage,) = table_files.read_requests(told), store.read_json(told, store.SUMMARY)["stages"]

    assert requests.cached_tokens.tolist() == requests.reusable_tokens.tolist()
    assert (requests.phase == "priming").sum() == 2
    assert stage["prefix"]["measured_hit_rate"] == pytest.approx(stage["prefix"]["theoretical_hit_rate"], abs=1e-9)
    assert stage["prefix"]["held"] is True


def test_nothing_of_it_is_left(served):
    """Neither its port nor a process that was started by its command."""
    engine = store.read_run(served)["engine"]
    port = engine["command"][engine["command"].index("--port") + 1]

    assert not listens(engine["url"])
    assert [one.pid for one in psutil.process_iter(["cmdline"]) if port in (one.info["cmdline"] or ())] == []


def test_a_block_size_that_no_kernel_has_is_told_in_one_line(command):
    """It dies in its worker, behind two other processes: the line is the worker's."""
    done, out = finished(command(FLAGS | {"block_size": 16}))

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "16" in done.stderr
    assert "block size" in done.stderr
    assert "Traceback" in (out / "engine.log").read_text(encoding="utf-8")
    assert not (out / "run.json").exists()


def test_flags_that_do_not_go_together_are_refused_before_the_start(command):
    """In vLLM's words, from its own check: nothing was started, so there is no log."""
    done, out = finished(command(FLAGS | {"max_num_seqs": 64, "max_num_batched_tokens": 32}))

    assert done.returncode == 3
    assert "max_num_batched_tokens (32) must be greater than or equal to max_num_seqs (64)." in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_model_that_is_not_there_is_told_at_once(command, tmp_path):
    """A folder is looked for before vLLM is."""
    done, out = finished(command(FLAGS, model=str(tmp_path / "nothing")))

    assert done.returncode == 2
    assert done.stderr == f"harness: engine.model: there is no {tmp_path / 'nothing'}; expected a folder\n"
    assert not out.exists()


def test_nothing_is_left_when_the_harness_is_killed(command):
    """SIGKILL in the middle of the load ends every process of the engine and frees its port."""
    words, out = command(FLAGS, LONG)
    with subprocess.Popen(words) as harness:
        while not (out / store.RAW / "begun.jsonl").exists():
            assert harness.poll() is None
            psutil.wait_procs([psutil.Process(harness.pid)], timeout=0.5)
        family = psutil.Process(harness.pid).children(recursive=True)
        harness.kill()
    url = store.read_run(out)["engine"]["url"]

    assert len(family) > 3
    assert wait_until_gone([one.pid for one in family], timeout_s=60) == []
    assert not listens(url)
    assert not runs(harness.pid)


def test_a_busy_port_is_told_before_the_start(command):
    """Nothing is started, and whoever has the port keeps it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:
        done, out = finished(command(FLAGS, port=busy.getsockname()[1]))

    assert done.returncode == 3
    assert "engine.port" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def test_a_flag_that_this_version_does_not_know_is_refused(command):
    """Before a start, with the nearest that it has."""
    done, out = finished(command(FLAGS | {"max_num_batch_tokens": 512}))

    assert done.returncode == 2
    assert "did you mean 'max_num_batched_tokens'?" in done.stderr
    assert not out.exists()
