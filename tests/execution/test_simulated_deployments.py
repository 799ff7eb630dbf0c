"""Runs on simulated deployments say of each engine what it did, which one lags, and which side of a pair is full."""

import json

import pytest

from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.results import store
from harness.scenario.loader import load_scenario

MODEL = "Qwen/Qwen2.5-7B-Instruct"
SHORT = {"kind": "synthetic", "input_tokens": {"uniform": [50, 200]}, "output_tokens": {"uniform": [40, 80]}}
FAST, SLOW = {"chip": "910B3"}, {"chip": "910B4"}  # half the memory bandwidth: half the speed of decode


def summary_of(folder, engine, workload, rate, seconds=40):
    """The summary of a run in virtual time."""
    content = {
        "name": "deployed",
        "question": "Which engine is full?",
        "engine": {"kind": "deployment", "model": MODEL, **engine},
        "workload": workload,
        "load": [{"poisson": {"rate": rate, "duration": f"{seconds}s"}}],
    }
    path = folder / "deployed.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    spec = RunSpec(load_scenario(path), folder / "out", "", lambda _: None)
    assert execute(spec).exit_code == 0
    return finish(spec.folder), store.read_run(spec.folder)


def codes(summary):
    """The warnings of a summary by code."""
    return {warning["code"]: warning["text"] for warning in summary["verdict"]["warnings"]}


def test_a_slow_rank_of_four_is_named(tmp_path):
    """Behind a balancer that keeps ranks equally full, the one on a slower chip makes fewer tokens."""
    chips = [FAST, FAST, SLOW, FAST]
    ranks = [{"name": f"rank-{i}", "kind": "simulator", "args": chips[i], "devices": [i]} for i in range(4)]
    proxy = {"name": "proxy", "role": "proxy", "kind": "proxy"}
    summary, run = summary_of(tmp_path, {"processes": [*ranks, proxy]}, SHORT, 6)
    (stage,) = summary["stages"]

    assert [(engine["name"], engine["devices"]) for engine in stage["engines"]] == [
        (f"rank-{i}", [i]) for i in range(4)
    ]
    assert [lag["engine"] for lag in stage["lagging"]] == ["rank-2"]
    assert "Engine rank-2 lags" in codes(summary)["engine_lags"]
    assert "engine rank-2 lags" in summary["answer"]
    assert [row["name"] for row in run["engine"]["processes"]][:4] == [f"rank-{i}" for i in range(4)]
    assert sum(engine["generation_tokens"] for engine in stage["engines"]) == pytest.approx(
        stage["rates_window"]["output_tokens"], rel=0.05
    )


def test_four_equal_ranks_are_even(tmp_path):
    """One server with four ranks that balances them itself: no warning, and the answer says so."""
    engine = {"preset": {"data_parallel": {"size": 4, "load_balancer": "internal"}}, "process": {"kind": "simulator"}}
    summary, _ = summary_of(tmp_path, engine, SHORT, 6)
    (stage,) = summary["stages"]

    assert [engine["name"] for engine in stage["engines"]] == [f"replica/{i}" for i in range(4)]
    assert not {"engine_lags", "engines_uneven", "engines_idle"} & codes(summary).keys()
    assert "carried the load evenly" in summary["answer"]


@pytest.mark.parametrize(
    ("count", "workload", "rate", "decode", "side"),
    [
        (1, {"kind": "synthetic", "input_tokens": 4000, "output_tokens": 5}, 6, {}, "prefill"),
        (2, {"kind": "synthetic", "input_tokens": 50, "output_tokens": 100}, 6, {"max_num_seqs": 2}, "decode"),
        (2, SHORT, 2, {}, "neither"),
    ],
)
def test_the_full_side_of_a_pair_is_named(tmp_path, count, workload, rate, decode, side):
    """Long prompts fill prefill, long answers decode engines of few places; little load neither."""
    preset = {"prefill_decode": {"prefill": count, "decode": count, "connector": "MooncakeConnectorV1"}}
    engine = {"preset": preset, "process": {"kind": "simulator"}, "decode": {"args": decode}}
    summary, _ = summary_of(tmp_path, engine, workload, rate, seconds=20)
    (stage,) = summary["stages"]
    moved = [own["kv_transfer"] for own in stage["engines"] if own["role"] == "decode"]

    assert [own["name"] for own in stage["engines"]] == [
        f"{role}-{number}" for role in ("prefill", "decode") for number in range(count)
    ]
    assert stage["full_side"] == side
    assert all(each["count"] > 0 and each["seconds"] > 0 and each["bytes"] > 0 for each in moved)
    assert "side" in summary["answer"]
