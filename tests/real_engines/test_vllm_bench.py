"""vllm-bench.json is what `vllm bench serve` writes, and vLLM's own code reads it.

The real `vllm bench serve` and `harness run` send the same load to the same embedded engine.
"""

import json
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.engines

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
USERS, REQUESTS, INPUT, OUTPUT = 3, 60, 64, 16
# The command `vllm` asks for a package of that name, which the build for CPUs has not; this is what it calls.
BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
PLOT = """
import sys
from vllm.benchmarks.sweep import {0}
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
{0}.{1}.add_cli_args(parser)
{0}.main(parser.parse_args())
"""
DETAILED = {"input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors"}


@pytest.fixture(scope="module")
def url():
    """The address of an embedded engine."""
    command = [sys.executable, "-m", "harness", "serve-sim", MODEL, "--port", "0", "--max-model-len", "2048"]
    with subprocess.Popen(
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


def told(words, **fields):
    """The output of a command that goes well."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, **fields)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def theirs(vllm_python, url, tiny_model, tmp_path_factory):
    """What `vllm bench serve` saved of a closed loop, with the lists that `--save-detailed` keeps."""
    place = tmp_path_factory.mktemp("theirs")
    flags = {
        "backend": "openai", "base-url": url, "model": MODEL, "tokenizer": tiny_model, "dataset-name": "random",
        "random-input-len": INPUT, "random-output-len": OUTPUT, "num-prompts": REQUESTS, "request-rate": "inf",
        "max-concurrency": USERS, "percentile-metrics": "ttft,tpot,itl,e2el", "metric-percentiles": "90,95,99",
        "result-dir": place, "result-filename": "result.json",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    told([vllm_python, "-c", BENCH, *words, "--ignore-eos", "--save-result", "--save-detailed"])
    return json.loads((place / "result.json").read_text())


@pytest.fixture(scope="module")
def folder(url, tmp_path_factory):
    """The result folder of `harness run` under the same load, and under one that is twice as heavy."""
    place = tmp_path_factory.mktemp("ours")
    scenario = {
        "name": "same-load",
        "question": "Is it the same in other words?",
        "engine": {"kind": "attach", "url": url},
        "workload": {"kind": "synthetic", "input_tokens": INPUT, "output_tokens": OUTPUT},
        "load": [{"closed": {"concurrency": [USERS, 2 * USERS], "requests": REQUESTS}}],
    }
    (place / "same.yaml").write_text(yaml.safe_dump(scenario))
    told([sys.executable, "-m", "harness", "run", str(place / "same.yaml"), "--quiet", "--out", str(place / "out")])
    return place / "out"


@pytest.fixture(scope="module")
def ours(folder):
    """The objects of vllm-bench.json, one a stage."""
    return [json.loads(line) for line in (folder / "vllm-bench.json").read_text().splitlines()]


def test_every_field_is_there_and_of_its_type(theirs, ours):
    """All that it saves without `--save-detailed`; what is null in one may be known in the other."""
    wanted = {name: value for name, value in theirs.items() if name not in DETAILED}
    kinds = {name: (type(value), type(ours[0].get(name))) for name, value in wanted.items()}

    assert set(wanted) - set(ours[0]) == set()
    assert {name: pair for name, pair in kinds.items() if pair[0] is not pair[1] and type(None) not in pair} == {}
    assert [len(ours[0][name]) for name in ("latencies", "queue_times")] == [REQUESTS, REQUESTS]


def test_what_was_asked_and_counted_is_the_same(theirs, ours):
    """Requests, users, rate, tokens of the answers; its prompts are text, which the engine counts in its own way."""
    same = (
        *("endpoint_type", "backend", "model_id", "num_prompts", "request_rate", "burstiness", "max_concurrency"),
        *("completed", "failed", "total_output_tokens", "request_goodput", "rtfx"),
    )

    assert {name: ours[0][name] for name in same} == {name: theirs[name] for name in same}


def test_times_are_alike(theirs, ours):
    """The engine's pace is the same for both clients: TPOT and throughput within a third on a machine that is busy.

    That the same events give the same numbers is held without noise in tests/analysis/test_peers.py.
    """
    for name in ("median_tpot_ms", "mean_tpot_ms", "output_throughput", "request_throughput", "median_e2el_ms"):
        assert ours[0][name] == pytest.approx(theirs[name], rel=1 / 3), name


@pytest.fixture
def sweep(ours, tmp_path):
    """A folder as `vllm bench sweep serve` leaves it: a list of results under the name that its plots look for."""
    (tmp_path / "summary.json").write_text(json.dumps(ours))
    return tmp_path


PLOTS = {"plot": "SweepPlotArgs", "plot_pareto": "SweepPlotParetoArgs"}


@pytest.mark.parametrize("module", PLOTS)
def test_its_plots_read_our_results(vllm_python, sweep, module):
    """`vllm bench sweep plot` and `plot_pareto` load our objects, group them and find every field they need."""
    words = [vllm_python, "-c", PLOT.format(module, PLOTS[module]), str(sweep), "--dry-run"]
    if module == "plot":
        words += ["--fig-by", "model_id", "--curve-by", "backend"]
    out = told(words)

    assert out.count("[BEGIN FIGURE]") == 1
    assert "Skipped" not in out


@pytest.mark.parametrize("module", PLOTS)
def test_its_plots_draw_our_results(vllm_python, sweep, module):
    """The pictures themselves, with pandas and seaborn, from the columns that they take by default."""
    if subprocess.run([vllm_python, "-c", "import pandas, seaborn"], capture_output=True, check=False).returncode:
        pytest.skip("the interpreter with vLLM has no pandas and seaborn: pip install pandas seaborn")
    out = told([vllm_python, "-c", PLOT.format(module, PLOTS[module]), str(sweep)])
    pictures = list(sweep.rglob("*.png"))

    assert "Plotted 2 points" in out or module == "plot"
    assert len(pictures) == 1
    assert pictures[0].read_bytes()[:4] == b"\x89PNG"
