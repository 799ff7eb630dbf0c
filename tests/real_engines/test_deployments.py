"""Several processes of real engines as one: data-parallel ranks, pairs that hand caches over, and the released proxy.

On the CPU engine of vLLM a pair hands its caches over through files (`ExampleConnector`); on the hollow device the
connector is vllm-ascend's own, and what stands in for Mooncake moves no byte.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile

import psutil
import pytest
import yaml

from harness.engines.flag_resolution import resolve_many
from harness.results import store
from harness.scenario.deployment import PROXY
from harness.scenario.engine import Engine
from harness.scenario.processes import processes_of
from tests.hollow import stubs

pytestmark = pytest.mark.engines

FLAGS = {"load_format": "dummy", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 4}
INPUT, OUTPUT, REQUESTS = 300, 8, 32
LOAD = [{"constant": {"rate": 8, "requests": REQUESTS}}]
RANKS = {"data_parallel": {"size": 2}}
RELEASED = "vllm-ascend==0.23.0.post1"
SCRIPT = "examples/disaggregated_prefill_v1/load_balance_proxy_server_example.py"


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """`harness run` of a deployment of the tiny model: the finished process and its result folder."""

    def made(**engine):
        folder = tmp_path_factory.mktemp("run")
        scenario = {
            "name": "deployed",
            "question": "Do real engines serve together?",
            "engine": {"kind": "deployment", "model": str(tiny_model), "ready_timeout": "8m", **engine},
            "workload": {"kind": "synthetic", "input_tokens": INPUT, "output_tokens": OUTPUT},
            "load": LOAD,
            "timeout": "60s",
        }
        (folder / "deployed.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
        command = [sys.executable, "-m", "harness", "run", str(folder / "deployed.yaml"), "--quiet", "--out"]
        out = folder / "out"
        done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False, timeout=900)
        return done, out

    return made


@pytest.fixture(scope="module")
def on_cpu(run, vllm_python, tmp_path_factory):
    """A deployment of vLLM's CPU engine."""
    env = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    flags = {**FLAGS, "gpu_memory_utilization": 0.2}

    def made(preset, **template):
        keys = {"python": vllm_python, "env": env, "args": flags, "preset": preset}
        return run(**keys, process={"kind": "vllm", **template})

    return made


@pytest.fixture(scope="module")
def hollow(run, ascend_python, cann):
    """A deployment of vllm-ascend on two hollow devices."""
    settings = {name: str(value) for name, value in stubs.environment(cann, mem_gib=8, op_us=100, devices=2).items()}
    env = {**settings, "HF_HUB_OFFLINE": "1"}
    flags = {**FLAGS, "gpu_memory_utilization": 0.5}

    def made(preset):
        keys = {"python": ascend_python, "env": env, "args": flags, "preset": preset}
        return run(**keys, process={"kind": "vllm-ascend"})

    return made


@pytest.fixture(scope="module")
def tiny_experts(tiny_model, tmp_path_factory):
    """The tiny model with four experts, of which a token takes two."""
    folder = tmp_path_factory.mktemp("experts") / "tiny"
    shutil.copytree(tiny_model, folder)
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape |= {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 128, "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": [],
        "head_dim": shape["hidden_size"] // shape["num_attention_heads"], "attention_bias": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    return folder


def resolved(kind, python, env, model, preset):
    """What the installed configuration code makes of the flags that a preset writes for each engine."""
    template = {"kind": kind, "args": {"load_format": "dummy", "max_model_len": 512, "enable_expert_parallel": True}}
    engine = Engine(kind="deployment", model=str(model), preset=preset, process=template)
    points = [process.args for process in processes_of(engine) if process.role != PROXY]
    return asyncio.run(resolve_many(kind, python, env, str(model), points))


GROUPS = {
    "external": {"data_parallel": {"size": 2, "load_balancer": "external"}},
    "hybrid": {"data_parallel": {"size": 4, "load_balancer": "hybrid", "local": 2}},
}


@pytest.mark.parametrize("name", GROUPS)
def test_vllm_takes_the_groups_that_presets_write(vllm_python, tiny_experts, name):
    """Its own configuration code, without a start: each process is a part of the group, none is refused."""
    rows = resolved("vllm", vllm_python, {"HF_HUB_OFFLINE": "1"}, tiny_experts, GROUPS[name])

    assert [row.refusal for row in rows] == [None] * 2
    assert {row.by for row in rows} == {"engine"}


@pytest.mark.parametrize("name", GROUPS)
def test_vllm_ascend_takes_the_groups_that_presets_write(ascend_python, cann, tiny_experts, name):
    """The same with the released plug-in."""
    env = {**{key: str(value) for key, value in stubs.environment(cann, mem_gib=8).items()}, "HF_HUB_OFFLINE": "1"}
    rows = resolved("vllm-ascend", ascend_python, env, tiny_experts, GROUPS[name])

    assert [row.refusal for row in rows] == [None] * 2


def engines_of(out):
    """The engines of the only stage, by name."""
    (stage,) = store.read_json(out, store.SUMMARY)["stages"]
    assert stage["requests"]["completed"] == REQUESTS
    return {row["name"]: row for row in stage["engines"]}


def nothing_is_left(out):
    """Whether every process of a run is gone."""
    urls = [process["url"].rpartition(":")[2] for process in store.read_run(out)["engine"]["processes"]]
    ports = {row.laddr.port for row in psutil.net_connections("tcp") if row.status == psutil.CONN_LISTEN}
    return not {int(port) for port in urls} & ports


def test_two_ranks_of_a_real_vllm_share_the_requests(on_cpu):
    """One server, two engine cores: each has its counters, and each a share of the tokens."""
    done, out = on_cpu(RANKS)
    assert done.returncode == 0, done.stderr
    engines = engines_of(out)

    assert list(engines) == ["replica/0", "replica/1"]
    assert 0.8 * REQUESTS * INPUT <= sum(row["prompt_tokens"] for row in engines.values()) <= REQUESTS * INPUT
    assert all(row["prompt_tokens"] > 0 for row in engines.values())
    assert store.read_run(out)["engine"]["processes"][0]["effective"]["data_parallel_size"] == 2
    assert nothing_is_left(out)


def test_a_pair_of_real_vllm_hands_its_caches_over(on_cpu, tmp_path):
    """The decode engine finds the caches of the prompts that the prefill engine has read, two blocks of each."""
    extra = {"kv_role": "kv_both", "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)}}
    preset = {"prefill_decode": {"prefill": 1, "decode": 1, "connector": "ExampleConnector"}}
    done, out = on_cpu(preset, args={"kv_transfer_config": extra, "seed": 1})
    assert done.returncode == 0, done.stderr
    engines, log = engines_of(out), (out / "engine-decode-0.log").read_text(encoding="utf-8")

    assert engines["decode-0"]["role"] == "decode"
    assert engines["decode-0"]["generation_tokens"] > engines["prefill-0"]["generation_tokens"] > 0
    assert "Inject KV cache of 256 tokens" in log
    assert nothing_is_left(out)


def test_a_group_of_a_dense_model_is_refused_by_name(on_cpu):
    """Its own check says it before anything is started, and what to do instead."""
    done, out = on_cpu({"data_parallel": {"size": 2, "load_balancer": "external"}})

    assert done.returncode == 3
    assert "harness: process replica-0: engine: would not start" in done.stderr
    assert "launch independent vLLM instances without --data-parallel-* arguments" in done.stderr
    assert not (out / store.RUN).exists()


def test_two_ranks_of_vllm_ascend_serve_on_the_hollow_device(hollow):
    """Each on a device of its own."""
    done, out = hollow(RANKS)
    assert (out / store.SUMMARY).exists(), done.stderr
    engine = store.read_run(out)["engine"]

    assert list(engines_of(out)) == ["replica/0", "replica/1"]
    assert (engine["hollow"], engine["processes"][0]["hollow"], engine["processes"][0]["devices"]) == (
        True,
        True,
        [0, 1],
    )
    assert nothing_is_left(out)


def test_a_pair_of_vllm_ascend_hands_its_caches_over_on_the_hollow_device(hollow):
    """The flags that the preset writes are those that MooncakeConnectorV1 takes: every request's cache is fetched."""
    done, out = hollow({"prefill_decode": {"prefill": 1, "decode": 1}})
    assert (out / store.SUMMARY).exists(), done.stderr
    log = (out / "engine-decode-0.log").read_text(encoding="utf-8")

    assert set(engines_of(out)) == {"prefill-0", "decode-0"}
    assert log.count("KV cache transfer for request") >= REQUESTS
    assert "Creating v1 connector with name: MooncakeConnector" in log
    assert nothing_is_left(out)


def test_the_released_proxy_carries_a_run(run, ascend_python, tmp_path):
    """As vllm-ascend's package has it, before simulated engines that hand their caches over."""
    pip = [ascend_python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:", "--no-build-isolation"]
    env = {**os.environ, "COMPILE_CUSTOM_KERNELS": "0", "SOC_VERSION": "ascend910b1"}
    subprocess.run([*pip, "--dest", str(tmp_path), RELEASED], check=True, env=env, timeout=300)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as package:
        (member,) = [row for row in package.getmembers() if row.name.endswith(SCRIPT)]
        (tmp_path / "proxy.py").write_bytes(package.extractfile(member).read())
    hosts = "--prefiller-hosts {hosts:prefill} --decoder-hosts {hosts:decode}"
    ports = "--prefiller-ports {ports:prefill} --decoder-ports {ports:decode}"
    command = f"{ascend_python} {tmp_path}/proxy.py --host {{host}} --port {{port}} {hosts} {ports}"
    sides = [("prefill-0", "prefill"), ("decode-0", "decode"), ("decode-1", "decode")]
    done, out = run(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        clock="real",
        processes=[
            *({"name": name, "role": role, "kind": "simulator"} for name, role in sides),
            {"name": "proxy", "role": "proxy", "kind": "command", "command": command, "ready": "/healthcheck"},
        ],
    )
    assert done.returncode == 0, done.stderr
    engines = engines_of(out)
    tokens = {name: row["generation_tokens"] for name, row in engines.items()}

    assert set(tokens) == {"prefill-0", "decode-0", "decode-1"}
    assert 0 < tokens["prefill-0"] < tokens["decode-0"] + tokens["decode-1"]  # of equals it takes the first
    assert store.read_run(out)["engine"]["processes"][-1]["kind"] == "command"
