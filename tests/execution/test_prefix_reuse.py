"""What an unbounded prefix cache would have held of a run's prompts, beside what the engine's own cache found."""

import json
import shutil

import pytest

from harness.engines import RunningEngine
from harness.engines.base import ServedProcess
from harness.engines.effective_config import EngineConfiguration
from harness.execution.prefix_reuse import cache_block_size
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.results import store, table_files
from harness.results.request_table import MISSING
from harness.scenario.deployment import PREFILL, PROXY
from harness.scenario.loader import load_scenario
from tests.execution.test_virtual import MODEL, scenario

ARGS = {"enable_prompt_tokens_details": True, "max_num_seqs": 8, "max_num_batched_tokens": 1024}
PREFIXES = {"kind": "synthetic", "input_tokens": {"uniform": [300, 700]}, "output_tokens": 20}
TALKS = {"kind": "conversation", "turns": {"uniform": [1, 4]}, "input_tokens": 150, "output_tokens": 90}
ROWS = [
    {"timestamp": 120 * n, "input_length": 600 + 37 * n, "output_length": 9, "hash_ids": [n % 3, 10 + n % 5]}
    for n in range(60)
]
WORK = {
    "prefixes": ({**PREFIXES, "prefix": {"tokens": 280, "groups": 3}}, {"poisson": {"rate": [6, 30], "requests": 60}}),
    "nothing-shared": (PREFIXES, {"poisson": {"rate": 20, "requests": 30}}),
    "talks": ({**TALKS, "prefix": {"tokens": 200}}, {"closed": {"concurrency": 5, "requests": 24}}),
    "trace": ({"kind": "trace", "path": "trace.jsonl", "format": "mooncake"}, {"trace": {"speed": [1, 4]}}),
}


def run(folder, name, **more):
    """The folder of a run of this work in virtual time, its raw files kept beside it."""
    (folder / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    work, load = WORK[name]
    engine = {"kind": "simulator", "model": MODEL, "args": ARGS}
    loaded = load_scenario(scenario(folder, [load], name, workload=work, engine=engine, **more))
    out = folder / f"{name}-out"
    assert execute(RunSpec(loaded, out, "", lambda _: None)).exit_code == 0
    return out


@pytest.mark.parametrize("warmup", [{}, {"warmup": {"requests": 10}}])
@pytest.mark.parametrize("name", WORK)
def test_with_memory_for_all_the_engine_finds_what_theory_says(tmp_path, name, warmup):
    """Request by request, over stages and turns; the rates of each stage are one number by both ways."""
    out = run(tmp_path, name, **(warmup if name != "trace" else {}))
    finish(out)
    requests, summary = table_files.read_requests(out), store.read_json(out, store.SUMMARY)

    assert requests.reusable_tokens.tolist() == requests.cached_tokens.tolist()
    assert (requests.reusable_tokens > 0).any() == (name != "nothing-shared")
    for stage in summary["stages"]:
        assert stage["prefix"]["measured_hit_rate"] == pytest.approx(stage["prefix"]["theoretical_hit_rate"], abs=1e-12)
        assert stage["prefix"]["block_size"] == 128


def test_a_small_cache_finds_less(tmp_path):
    """Evicted blocks are what the two rates differ by."""
    args = {**ARGS, "num_gpu_blocks_override": 24, "max_model_len": 1024}
    work = {**PREFIXES, "prefix": {"tokens": 280, "groups": 12}}
    engine = {"kind": "simulator", "model": MODEL, "args": args}
    load = [{"poisson": {"rate": 20, "requests": 100}}]
    loaded = load_scenario(scenario(tmp_path, load, "small", workload=work, engine=engine))
    execute(RunSpec(loaded, tmp_path / "out", "", lambda _: None))
    (stage,) = finish(tmp_path / "out")["stages"]

    assert 0 < stage["prefix"]["measured_hit_rate"] < stage["prefix"]["theoretical_hit_rate"] - 0.1


@pytest.mark.parametrize("lacks", ["job.json", "trace.jsonl"])
def test_what_cannot_be_made_again_is_not_known(tmp_path, lacks):
    """Without the job, or the file of the trace, there is no theory; the run has its result all the same."""
    out = run(tmp_path, "trace")
    (tmp_path / lacks if lacks.endswith("l") else out / store.RAW / lacks).unlink()
    (stage, _) = finish(out)["stages"]

    assert stage["prefix"]["theoretical_hit_rate"] is None
    assert (table_files.read_requests(out).reusable_tokens == MISSING).all()


def test_a_run_that_was_killed_has_its_theory(tmp_path):
    """All that it takes lies in the raw files."""
    out = run(tmp_path, "talks")
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / store.SAMPLES).unlink()
    (stage,) = finish(copy)["stages"]

    assert stage["prefix"]["theoretical_hit_rate"] > 0.3
    assert stage["prefix"]["measured_hit_rate"] is None


@pytest.mark.parametrize(
    ("engine", "processes", "size"),
    [
        ({"block_size": 16}, [], 16),
        ({}, [], None),
        ({"block_size": "auto"}, [], None),
        ({"block_size": 16, "decode_context_parallel_size": 4}, [], 64),
        ({}, [(PROXY, {"block_size": 8}), (PREFILL, {"block_size": 128})], 128),
    ],
)
def test_the_size_of_a_block_is_the_engines(engine, processes, size):
    """What is in force, times the ranks that share a block; of several processes that of an engine, not of a proxy."""
    members = tuple(
        ServedProcess(str(place), role, configuration=EngineConfiguration(effective=values))
        for place, (role, values) in enumerate(processes)
    )
    serving = RunningEngine(
        "vllm", "", "", simulated=False, configuration=EngineConfiguration(effective=engine), processes=members
    )

    assert cache_block_size(serving) == size
