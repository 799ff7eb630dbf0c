"""A real vLLM answers the further kinds of requests: LoRA adapters, forms, the Responses API, embeddings and scores."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import numpy as np
import pytest
import yaml

from harness.clock import monotonic_ns
from harness.results import store, table_files
from harness.results.request_table import COMPLETED
from tests.real_engines.tiny_model import SHAPE

pytestmark = pytest.mark.engines

READY_S = 240
RANK = 8
# Written inside the engine's interpreter, which has torch and safetensors.
ADAPTER = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
folder, shape, rank, seed = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(seed)
hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
values = hidden // heads * shape["num_key_value_heads"]
weights = {}
for layer in range(shape["num_hidden_layers"]):
    for name, size in (("q_proj", hidden), ("v_proj", values)):
        place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        weights[f"{place}.lora_A.weight"] = torch.randn(rank, hidden, dtype=torch.bfloat16)
        weights[f"{place}.lora_B.weight"] = torch.randn(size, rank, dtype=torch.bfloat16)
folder.mkdir(parents=True)
save_file(weights, folder / "adapter_model.safetensors")
config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
          "target_modules": ["q_proj", "v_proj"]}
(folder / "adapter_config.json").write_text(json.dumps(config))
"""


def environment():
    """What a small engine on the CPU needs."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="module")
def adapters(vllm_python, tmp_path_factory):
    """Two tiny adapters to the tiny model, as --lora-modules has them."""
    folder, shape = tmp_path_factory.mktemp("adapters"), SHAPE.read_text(encoding="utf-8")
    for seed, name in enumerate(("one", "two")):
        words = [vllm_python, "-c", ADAPTER, str(folder / name), shape, str(RANK), str(seed)]
        subprocess.run(words, check=True, timeout=120)
    return [f"{name}={folder / name}" for name in ("one", "two")]


@contextmanager
def serving(python, model, folder, *flags):
    """The address of a real vLLM with these flags, until the end."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--load-format", "dummy",
             "--enforce-eager", "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    log = folder / "engine.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*words, *flags], stdout=out, stderr=out, env=environment(), start_new_session=True)
    try:
        _wait(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait(process, port, log):
    end_ns = monotonic_ns() + READY_S * 1_000_000_000
    while monotonic_ns() < end_ns and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except (OSError, urllib.error.URLError):
            subprocess.run(["sleep", "0.5"], check=True)
        else:
            return
    pytest.fail(log.read_text(encoding="utf-8", errors="replace")[-3000:])


def run(folder, name, engine, **keys):
    """Result folder and summary.json of a run by the command line."""
    content = {"name": name, "question": "?", "engine": engine, "timeout": "60s", **keys}
    file, out = folder / f"{name}.yaml", folder / name
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    words = [sys.executable, "-m", "harness", "run", str(file), "--quiet", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr
    return out, json.loads((out / store.SUMMARY).read_text())


ONCE = [{"closed": {"concurrency": 2, "requests": 12}}]
WORK = {"kind": "synthetic", "input_tokens": 24, "output_tokens": 8}


@pytest.fixture(scope="module")
def generating(vllm_python, tiny_model, adapters, tmp_path_factory):
    """The tiny model with both adapters, told by their names."""
    folder = tmp_path_factory.mktemp("generating")
    flags = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(RANK), "--served-model-name", "tiny",
             "--lora-modules", *adapters, "--scheduling-policy", "priority"]  # fmt: skip
    with serving(vllm_python, tiny_model, folder, *flags) as url:
        yield {"kind": "attach", "url": url, "model": "tiny"}


def test_adapters_answer_by_their_names(generating, tmp_path):
    """Each request names the model or an adapter, and vLLM answers in that name; stages may leave adapters out."""
    work = {**WORK, "adapters": {"names": ["one", "two"], "base": 1.0}, "priority": {"values": [0, 5]}}
    load = [{"closed": {"concurrency": 2, "requests": 24, "adapters": [0, 2]}}]
    out, summary = run(tmp_path, "adapters", generating, workload=work, load=load)
    requests, engine = table_files.read_requests(out), store.read_run(out)["engine"]

    assert set(requests.status) == {COMPLETED}
    assert (requests.output_tokens == 8).all()
    assert set(engine["answered_models"]) == {"tiny", "one", "two"}
    names = [{row["name"] for row in stage["classes"] if row["by"] == "model"} for stage in summary["stages"]]
    assert names == [{"tiny"}, {"tiny", "one", "two"}]
    assert [row["adapters"] for row in summary["adapters"]] == [0, 2]


def test_an_adapter_that_vllm_does_not_list_is_told_before_the_load(generating, tmp_path):
    """Exit 3 and the nearest name."""
    file = tmp_path / "wrong.yaml"
    work = {**WORK, "adapters": {"names": ["onee"]}}
    content = {"name": "wrong", "question": "?", "engine": generating, "workload": work, "load": ONCE}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    words = [sys.executable, "-m", "harness", "run", str(file), "--quiet", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100, env=environment())

    assert done.returncode == 3
    assert "does not serve 'onee', which workload.adapters names; did you mean 'one'?" in done.stderr


@pytest.mark.parametrize("kind", ["json_schema", "choice", "regex"])
def test_answers_keep_their_forms(generating, kind, tmp_path):
    """VLLM holds even a model of random weights to a form, where the answer is not cut short."""
    work = {**WORK, "output_tokens": 400, "structured": {"kind": kind}}
    out, summary = run(
        tmp_path, f"form-{kind.replace('_', '-')}", generating, workload=work, load=ONCE, endpoint="chat"
    )
    requests, forms = table_files.read_requests(out), summary["stages"][0]["forms"]

    assert set(requests.status) == {COMPLETED}
    assert forms["held"] == summary["stages"][0]["e2e"]["n"]
    whole = requests.output_tokens < 400
    assert (requests.valid[whole] == 1).all()
    assert kind == "json_schema" or whole.all()  # random weights may write one endless string


@pytest.mark.parametrize("stream", [True, False])
def test_the_responses_api_is_counted_by_its_usage(generating, stream, tmp_path):
    """As many tokens as were asked for, in and out, and an event for each where answers stream."""
    out, _ = run(tmp_path, "responses", generating, workload=WORK, load=ONCE, endpoint="responses", stream=stream)
    requests = table_files.read_requests(out)

    assert set(requests.status) == {COMPLETED}
    assert (requests.output_tokens == 8).all()
    assert (requests.input_tokens > 0).all()
    assert (requests.reasoning_tokens == 0).all()
    assert not stream or (requests.answer_ns == requests.first_ns).all()


def test_an_embedding_model_is_started_and_measured(vllm_python, tiny_model, tmp_path):
    """VLLM is started by the run; documents are sent as token ids, and the server counts exactly these."""
    engine = {
        "kind": "vllm", "model": str(tiny_model), "python": vllm_python, "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        "args": {"load_format": "dummy", "enforce_eager": True, "max_model_len": 2048, "runner": "pooling",
                 "convert": "embed"},
    }  # fmt: skip
    work = {"kind": "documents", "tokens": {"uniform": [10, 40]}, "count": {"uniform": [1, 4]}}
    slo = {"e2e_p90": "30s"}
    out, summary = run(tmp_path, "embed", engine, workload=work, load=ONCE, endpoint="embeddings", slo=slo)
    requests, stage = table_files.read_requests(out), summary["stages"][0]

    assert set(requests.status) == {COMPLETED}
    assert np.array_equal(requests.input_tokens, requests.input_asked)
    assert ((requests.documents >= 1) & (requests.documents <= 4)).all()
    assert stage["document_rate"] > stage["request_rate"] > 0
    assert (stage["output_token_rate"], stage["slo"]["e2e_p90"]["met"]) == (None, True)


@pytest.fixture(scope="module")
def scoring(vllm_python, tiny_model, tmp_path_factory):
    """The tiny model as one of embeddings, by which vLLM also scores pairs."""
    flags = ("--runner", "pooling", "--convert", "embed", "--served-model-name", "tiny")
    with serving(vllm_python, tiny_model, tmp_path_factory.mktemp("scoring"), *flags) as url:
        yield {"kind": "attach", "url": url}


@pytest.mark.parametrize("endpoint", ["rerank", "score"])
def test_documents_are_held_against_a_query(scoring, endpoint, tmp_path):
    """Any embedding model scores pairs in vLLM: each document has its score, and the server counts the tokens."""
    work = {"kind": "documents", "tokens": 12, "count": 3, "query_tokens": 4}
    out, _ = run(tmp_path, endpoint, scoring, workload=work, load=ONCE, endpoint=endpoint)
    requests = table_files.read_requests(out)

    assert set(requests.status) == {COMPLETED}
    assert set(requests.documents) == {3}
    assert (requests.input_tokens > 3 * 12).all()
