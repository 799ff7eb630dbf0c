"""The kernel bench launches on an NPU what it means to, and publishes nothing where the NPU is a stub.

The real torch_npu on the hollow CANN: operators, shapes, types, placement and numbers are asserted from the call log,
for nothing below torch_npu would refuse a wrong one.
"""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kernels_bench.cases import Case
from kernels_bench.job import Job, tree_of
from kernels_bench.providers.ascend_limits import LIMITS
from tests.hollow import stubs
from tests.hollow.kernel_calls import CALLED

pytestmark = pytest.mark.engines

ROOT = Path(__file__).resolve().parents[2]
OPERATOR_US, CALLS = 20_000, 5
BATCH_NS = OPERATOR_US * CALLS * 1000
DECODE = Case("decode", (1, 1, 1), (5, 200, 300), heads=8, kv_heads=2, head_size=128)

SCALES = {"fia": 128**-0.5, "fia_dense": 128**-0.5, "fia_v2": 128**-0.5, "mla_fia_v2": 192**-0.5, "mla_atb": 192**-0.5}


@pytest.fixture(scope="module")
def in_engine(ascend_python, cann):
    """Runs a module in the engine's interpreter on the hollow CANN."""

    def run(*words, **settings):
        given = dict(stubs.environment(cann, mem_gib=2, **settings))
        given["PYTHONPATH"] = os.pathsep.join([given["PYTHONPATH"], str(ROOT)])
        command = [ascend_python, "-m", *map(str, words)]
        done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run


@pytest.fixture(scope="module")
def told(in_engine, tmp_path_factory):
    """What tests/hollow/kernels.py found, and its folder of call logs."""
    logs = tmp_path_factory.mktemp("logs")
    return in_engine("tests.hollow.kernels", logs, op_us=OPERATOR_US)[0], logs


def lines(path):
    """The lines of a call log; none where nothing was called."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize("call", sorted(CALLED))
def test_a_launch_is_one_call_of_the_operator_meant(told, call):
    """With the shapes, types, lists, placement and numbers that the plug-in gives, and the softmax's scale."""
    (line,) = lines(told[1] / call)
    made, _, floats = line.partition(" floats=")
    scale = SCALES.get(call.split("-")[0])

    assert made == CALLED[call]
    assert scale is None or float(floats.split(",")[0]) == pytest.approx(scale, rel=1e-5)


def test_every_path_is_called_in_every_phase_it_computes(told):
    """None is missing in this torch_npu, and none goes untested."""
    expected = {f"{path}-{phase}" for path, (phases, _rules) in LIMITS.items() for phase in phases}

    assert set(told[0]["shapes"]) == set(CALLED) == expected


def test_results_have_the_form_of_the_reference(told):
    """Tokens, heads and width; rows of keys and values after a write."""
    shapes = {name: shape for name, (shape, _workspace) in told[0]["shapes"].items()}

    assert shapes["fia-mixed"] == [10, 8, 128]
    assert shapes["mla_fia_v2-mla_decode"] == shapes["mla_atb-mla_decode"] == [2, 16, 512]
    assert shapes["scatter_pa-kv_write"] == shapes["reshape_and_cache-kv_write"] == [2, 6, 2, 128]


def test_workspaces_are_made_beforehand_where_the_path_says_so(told):
    """Of paged attention there is a path with and one without."""
    workspace = {name.split("-")[0] for name, (_shape, given) in told[0]["shapes"].items() if given}

    assert workspace == {"fia", "fia_dense", "fia_v2", "pa_workspace", "mla_fia_v2"}


def test_the_device_says_that_it_is_hollow(told):
    """Beside its name, memory and cache."""
    kind, name, memory_bytes, cache_bytes, facts = told[0]["device"]

    assert (kind, name, memory_bytes <= 2 << 30, cache_bytes) == ("npu", "Ascend910B3", True, 192 << 20)
    assert facts["hollow"] is True
    assert facts["torch_npu"]


def test_what_is_right_by_accident_is_not_timed_on_a_hollow_device(told):
    """A kernel that is measured elsewhere is called wrong there, and what was measured of the device is no limit."""
    assert told[0]["judged"] == {
        "hollow": ["wrong", "a hollow CANN computes nothing", 0],
        "real": ["measured", None, 1],
    }


def test_a_time_is_that_of_the_device_queue(told):
    """Events and clock both cover the five operators; starting them takes less, and so would a careless clock."""
    sample = told[0]["timed"]

    assert sample["launches"] == CALLS
    assert sample["device_ns"] >= BATCH_NS
    assert sample["wall_ns"] >= BATCH_NS
    assert sample["launch_ns"] < BATCH_NS
    assert sample["careless_ns"] < BATCH_NS


def test_the_bench_finds_the_operators_own_time(told):
    """Of an operator that takes 20 ms in the queue, from samples of one launch each; the host was not waited for."""
    series = told[0]["sampled"]

    assert series["median_ns"] >= OPERATOR_US * 1000
    assert series["launch_ns"] < series["median_ns"]


@pytest.mark.parametrize("path", ["fia", "pa_workspace", "mla_fia_v2", "scatter_pa"])
def test_a_graph_takes_the_time_of_its_operator_and_calls_none(told, path):
    """Five replays of one operator; the host makes no call."""
    sample = told[0]["graph"][path]

    assert sample["device_ns"] >= BATCH_NS
    assert lines(told[1] / f"replay-{path}") == []


@pytest.mark.parametrize("path", ["fia", "pa_workspace", "mla_fia_v2"])
def test_an_updated_graph_gives_every_replay_its_lengths(told, path):
    """One call a replay, of those that were timed and those that were not, and none of them takes device time."""
    sample = told[0]["updated"][path]

    assert len(lines(told[1] / f"updated-{path}")) == 2 * CALLS
    assert sample["device_ns"] >= BATCH_NS


def test_a_write_has_no_lengths_to_update(told):
    """It is replayed alone."""
    assert lines(told[1] / "updated-scatter_pa") == []


CASES = (
    DECODE,
    replace(DECODE, phase="prefill", query_lens=(5, 130), kv_lens=(5, 130)),
    replace(DECODE, phase="kv_write", query_lens=(4, 2), kv_lens=(4, 130)),
    Case("mla_decode", (1, 1), (100, 260), heads=16, kv_heads=1, head_size=192, kv_lora_rank=512, rope_size=64),
    replace(DECODE, block_size=100),
    replace(DECODE, dtype="float32"),
)


@pytest.fixture
def benched(in_engine, tmp_path):
    """The rows that a job of these cases gives, and the line of its device."""

    def run(cases, **settings):
        job = tmp_path / "job.json"
        small = tuple(replace(case, num_blocks=2 * case.used_blocks) for case in cases)
        job.write_text(json.dumps(tree_of(Job(small, provider="torch_npu"))), encoding="utf-8")
        told = in_engine("kernels_bench", job, op_us=100, **settings)
        return told[0], [row for row in told if row["event"] == "row"]

    return run


def test_nothing_is_right_and_nothing_is_timed_on_a_hollow_device(benched):
    """Every case is checked first, found wrong, and never timed; those beyond a limit are skipped with it."""
    device, rows = benched(CASES)
    wrong, skipped = ([row for row in rows if row["status"] == status] for status in ("wrong", "skipped"))

    assert device["facts"]["hollow"] is True
    assert len(wrong) == 4 + 3 + 2 + 2
    assert {row["reason"] for row in skipped} == {
        "block size 100: a multiple of 16, at most 512, in decode",
        "block size 100: no multiple of 16",
        "float32: the operator takes float16 and bfloat16",
    }
    assert len(rows) == len(wrong) + len(skipped)
    assert not any("modes" in row for row in rows)


def test_an_operator_that_fails_costs_its_own_cases_only(benched):
    """The reason is the operator's own; the same cases on other paths go on."""
    _device, rows = benched(CASES[:2], fail="aclnnFusedInferAttentionScoreV3GetWorkspaceSize")
    failed = {row["path"]: row["reason"] for row in rows if row["status"] == "failed"}

    assert set(failed) == {"fia", "fia_dense"}
    assert "161002" in failed["fia"]
    assert {row["path"] for row in rows if row["status"] == "wrong"} == {"fia_v2", "pa", "pa_workspace"}


def test_memory_that_runs_out_is_the_reason_of_its_case_alone(benched):
    """A cache beyond the device is skipped before it is made, and the next case has its turn."""
    large = replace(DECODE, kv_lens=(2_000_000,) * 3, query_lens=(1,) * 3)
    _device, rows = benched((replace(large, heads=64, kv_heads=64), DECODE))

    assert all("MiB are free" in row["reason"] or "KV positions" in row["reason"] for row in rows if row["case"] == 0)
    assert {row["status"] for row in rows if row["case"] == 1} == {"wrong"}


@pytest.fixture(scope="module")
def harness_run(ascend_python, cann, tmp_path_factory):
    """`harness run --strict` of a scenario of kernels on the hollow device: the process and its result folder."""
    folder = tmp_path_factory.mktemp("run")
    scenario = {
        "name": "hollow-kernels",
        "question": "Is anything of a hollow device published?",
        "engine": {
            "kind": "vllm-ascend",
            "python": ascend_python,
            "env": dict(stubs.environment(cann, mem_gib=2, op_us=100)),
        },
        "kernels": {
            "provider": "torch_npu", "phase": ["decode", "kv_write"], "heads": 8, "kv_heads": 2, "head_size": 128,
            "batch": 2, "query_tokens": 4, "kv_tokens": 200, "cache_gib": 0.01, "paths": ["fia", "scatter_pa"],
        },
    }  # fmt: skip
    file = folder / "kernels.yaml"
    file.write_text(yaml.safe_dump(scenario), encoding="utf-8")
    command = [sys.executable, "-m", "harness", "run", str(file), "--strict", "--out", str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False), folder / "out"


def test_the_harness_publishes_no_time_of_a_hollow_device(harness_run):
    """The result is not valid and says why; no row and no limit has a figure; with --strict the exit status is 4."""
    done, out = harness_run
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((out / "kernels.csv").read_text(encoding="utf-8").splitlines()))

    assert done.returncode == 4, done.stderr
    assert summary["verdict"]["valid"] is False
    assert [warning["code"] for warning in summary["verdict"]["warnings"]] == ["hollow"]
    assert "a stand-in that computes nothing" in (out / "report.html").read_text(encoding="utf-8")
    assert [limits["source"] for limits in summary["kernels"]["limits"]] == ["chip"]
    assert {(row["status"], row["median_s"], row["bytes_per_s"]) for row in rows} == {("wrong", "", "")}
    assert summary["kernels"]["counts"]["measured"] == 0
