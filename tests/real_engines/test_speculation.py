"""A real vLLM that drafts from its own prompt: acceptance is what its log says, of real text at exact lengths."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from harness.results import store, table_files
from harness.telemetry.server_metrics import ACCEPTED_AT, ACCEPTED_TOKENS, DRAFT_TOKENS, DRAFTS
from harness.units import NS_PER_S
from harness.workload.real_text import shipped_text
from tests.real_engines.tiny_model import write_tiny_model

pytestmark = pytest.mark.engines

DRAFTED = 3
FLAGS = {
    "load_format": "dummy", "enforce_eager": True, "max_model_len": 2048, "gpu_memory_utilization": 0.5,
    "per_request_spec_decode_metrics": "summary",
    "speculative_config": {
        "method": "ngram", "num_speculative_tokens": DRAFTED, "prompt_lookup_min": 1, "prompt_lookup_max": 3,
    },
}  # fmt: skip
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOG_STATS_INTERVAL": "1"}
# Between the requests of the last stage the engine is idle for longer than its log waits.
LOAD = [{"constant": {"rate": 2, "requests": 16}}, {"constant": {"rate": 0.25, "requests": 2}}]
LINE = re.compile(
    r"SpecDecoding metrics: Mean acceptance length: ([\d.]+), .*?Accepted: (\d+) tokens, Drafted: (\d+) tokens, "
    r"Per-position acceptance rate: ([\d., ]+), Avg Draft acceptance rate: ([\d.]+)%"
)
TRAIN = """
import sys, json
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
tokenizer.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator([open(sys.argv[1], encoding="utf-8").read()], trainer)
tokenizer.save(sys.argv[2])
"""


@pytest.fixture(scope="module")
def model(vllm_python, tmp_path_factory):
    """The tiny model with a vocabulary that was learnt from the text that ships: words of one and of several tokens."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "words")
    text = folder.parent / "text.txt"
    text.write_text(shipped_text(), encoding="utf-8")
    subprocess.run([vllm_python, "-c", TRAIN, text, folder / "tokenizer.json"], check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def run(vllm_python, model, tmp_path_factory):
    """The result folder of `harness run` with this engine, by endpoint."""

    def made(endpoint, load=LOAD):
        folder = tmp_path_factory.mktemp(endpoint)
        scenario = {
            "name": "ngram",
            "question": "What is accepted?",
            "engine": {
                "kind": "vllm", "model": str(model), "python": vllm_python, "env": ENVIRONMENT, "args": FLAGS,
                "ready_timeout": "5m",
            },
            "endpoint": endpoint,
            "extra_body": {"temperature": 0},
            "workload": {"kind": "synthetic", "input_tokens": {"uniform": [30, 300]}, "output_tokens": 48},
            "load": load,
            "timeout": "60s",
        }  # fmt: skip
        (folder / "ngram.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
        words = [sys.executable, "-m", "harness", "run", str(folder / "ngram.yaml"), "--quiet", "--out", folder / "out"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return folder / "out"

    return made


@pytest.fixture(scope="module")
def served(run):
    """A run over completions."""
    return run("completions")


def log_lines(folder):
    """What each line of vLLM's log says: mean length, accepted, drafted, by position, rate in per cent."""
    text = (folder / "engine.log").read_text(encoding="utf-8")
    for length, accepted, drafted, places, rate in LINE.findall(text):
        yield float(length), int(accepted), int(drafted), [float(x) for x in places.split(", ")], float(rate)


def counter(folder, name):
    """Times and values of a counter of the server."""
    samples = table_files.read_samples(folder)
    chosen = (samples.name == name) & (samples.source == "server")
    return samples.at_ns[chosen], samples.value[chosen]


def test_acceptance_is_that_of_vllms_log(served):
    """Before the last request came, the lines of the log add up to the counters, and so do lengths and positions."""
    summary = store.read_json(served, store.SUMMARY)
    first, last = summary["stages"]
    timeline = store.read_json(served, store.TIMELINE)
    idle_ns = timeline[1]["start_ns"] + 3 * NS_PER_S  # the first request of the last stage is over, the second not sent
    shown = {name: dict(zip(*counter(served, name), strict=True)) for name in (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS)}
    at_ns = min(shown[DRAFTS], key=lambda at: abs(at - idle_ns))
    drafts, drafted, accepted = (shown[name][at_ns] for name in (DRAFTS, DRAFT_TOKENS, ACCEPTED_TOKENS))
    sums = [(0, 0, 0.0)]
    by_position = [0.0] * DRAFTED
    for length, line_accepted, line_drafted, places, rate in log_lines(served):
        line_drafts = line_accepted / (length - 1) if length > 1 else 0
        sums.append((sums[-1][0] + line_accepted, sums[-1][1] + line_drafted, sums[-1][2] + line_drafts))
        assert rate == pytest.approx(100 * line_accepted / line_drafted, abs=0.051)
        if sums[-1][1] <= drafted:
            by_position = [total + line_drafts * share for total, share in zip(by_position, places, strict=True)]

    assert accepted > 0
    assert (accepted, drafted) in {(one, other) for one, other, _ in sums}
    position = [counter(served, f"{ACCEPTED_AT}:{place}") for place in range(DRAFTED)]
    totals = [dict(zip(*each, strict=True))[at_ns] for each in position]
    assert by_position == pytest.approx(totals, rel=0.05, abs=2)  # the log rounds to two and three digits
    assert sum(totals) == accepted
    own = first["speculation"]
    assert own["acceptance_rate"] == own["accepted_tokens"] / own["draft_tokens"]
    assert own["mean_accepted_length"] == 1 + own["accepted_tokens"] / own["drafts"]
    assert 0 < own["drafts"] + last["speculation"]["drafts"] <= counter(served, DRAFTS)[1][-1]
    assert drafts <= counter(served, DRAFTS)[1][-1]


def test_requests_add_up_to_the_counters(served):
    """What the server says of each request's drafts is together what its counters say."""
    requests = table_files.read_requests(served)
    rows = {
        DRAFTS: requests.draft_steps,
        DRAFT_TOKENS: requests.draft_tokens,
        ACCEPTED_TOKENS: requests.accepted_tokens,
    }
    if not (requests.draft_steps > 0).any():
        pytest.skip("this vLLM has no per-request metrics of speculation")

    for name, column in rows.items():
        assert column[column > 0].sum() == counter(served, name)[1][-1]
    own = store.read_json(served, store.SUMMARY)["stages"][0]["speculation"]["requests"]
    assert own["n"] > 0
    assert own["quantiles"]["acceptance_rate"]["p10"] <= own["quantiles"]["acceptance_rate"]["p90"]


def test_real_text_is_sent_to_it_by_default(served):
    """As it speculates; at exact lengths, and the run says so."""
    run_json, requests = store.read_run(served), table_files.read_requests(served)

    assert run_json["text"] == "real"
    assert [note["code"] for note in run_json["notes"]] == ["workload.text_by_default"]
    assert (requests.input_tokens == requests.input_asked).all()
    assert json.dumps(FLAGS["speculative_config"]) not in json.dumps(run_json["engine"]["changed"])


def test_a_chat_of_real_text_has_exact_lengths(run):
    """By the server's own count of every request, through its chat template."""
    folder = run("chat", [{"closed": {"concurrency": 2, "requests": 20}}])
    run_json, requests = store.read_run(folder), table_files.read_requests(folder)

    assert (run_json["text"], run_json["lengths_exact"]) == ("real", True)
    assert (requests.input_tokens == requests.input_asked).all()
    assert store.read_json(folder, store.SUMMARY)["tokens"]["input_mismatched"] == 0
