"""What an unbounded prefix cache would have held of a run's prompts, beside what the engine's own cache found."""

import json
import shutil

import pytest

from harness.engines import RunningEngine
from harness.engines.base import ServedProcess
from harness.engines.effective_config import EngineConfiguration
from harness.execution.prefix_reuse import cache_block_size, priming_reach
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.results import store, table_files
from harness.results.request_table import MISSING
from harness.scenario.deployment import DECODE, PREFILL, PROXY, REPLICA
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


def primed(folder, args=ARGS, load=None, **prefix):
    """The stages, warnings and requests of a run of a share of hits that is asked for."""
    work = {**PREFIXES, "input_tokens": {"uniform": [900, 1900]}, "prefix": prefix}
    work |= {"input_tokens": 150} if prefix.get("groups") == 2 else {}
    engine = {"kind": "simulator", "model": MODEL, "args": args}
    load = load or [{"poisson": {"rate": [6, 20], "requests": 60}}]
    loaded = load_scenario(scenario(folder, load, "primed", workload=work, engine=engine, seed=3))
    lines = []
    assert execute(RunSpec(loaded, folder / "out", "", lambda line: lines.append(line.code))).exit_code == 0
    summary = finish(folder / "out")
    warnings = {warning["code"]: warning["next"]["code"] for warning in summary["verdict"]["warnings"]}
    return summary["stages"], warnings, table_files.read_requests(folder / "out"), lines


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_of_hits_is_held_in_every_stage(tmp_path, rate):
    """Each beginning is primed before each stage, written down as priming and counted in nothing of the stage."""
    stages, warnings, requests, lines = primed(tmp_path, hit_rate=rate, groups=3)
    primes = requests.phase == "priming"

    for stage in stages:
        assert stage["prefix"]["target"] == rate
        assert stage["prefix"]["held"] is True
        assert stage["prefix"]["measured_hit_rate"] == pytest.approx(rate, abs=0.015)
        assert stage["prefix"]["measured_hit_rate"] == pytest.approx(stage["prefix"]["theoretical_hit_rate"], abs=1e-12)
        assert (stage["prefix"]["primed"], stage["prefix"]["unprimed"]) == (3, 0)
        assert (stage["requests"]["scheduled"], stage["requests"]["warmup"]) == (60, 0)
    assert not {"prefix_target_missed", "prefix_unmeasured"} & set(warnings)
    assert "execution.priming" in lines
    assert primes.sum() == 6
    assert (requests.cached_tokens[primes & (requests.stage == 0)] == 0).all()
    assert (requests.cached_tokens[~primes] == requests.reusable_tokens[~primes]).all()
    assert requests.done_ns[primes & (requests.stage == 0)].max() <= requests.sent_ns[~primes].min()


@pytest.mark.parametrize(
    ("prefix", "args", "code", "why"),
    [
        ({"hit_rate": 0.9, "groups": 2}, {}, "prefix_target_missed", "analysis.next_prefix_prompts"),
        (
            {"hit_rate": 0.6, "groups": 30},
            {"num_gpu_blocks_override": 60, "max_model_len": 2048},
            "prefix_target_missed",
            "analysis.next_prefix_evicted",
        ),
        (
            {"hit_rate": 0.5},
            {"enable_prefix_caching": False},
            "prefix_unmeasured",
            "analysis.next_prefix_unmeasured",
        ),
    ],
)
def test_a_share_of_hits_that_is_not_held_has_its_reason(tmp_path, prefix, args, code, why):
    """Prompts too short for whole blocks, a cache too small for the beginnings, or none at all."""
    stages, warnings, _, _ = primed(tmp_path, {**ARGS, **args}, **prefix)

    assert warnings[code] == why
    assert all(stage["prefix"]["held"] is not True for stage in stages)


@pytest.mark.parametrize(
    ("effective", "members", "copies", "by_rank"),
    [
        ({}, [], 1, False),
        ({"data_parallel_size": 4}, [], 4, True),
        ({}, [(PROXY, {}), (PREFILL, {}), (PREFILL, {"data_parallel_size": 2})], 3, False),
        ({}, [(PROXY, {}), (PREFILL, {"data_parallel_size": 2})], 2, False),
        ({}, [(REPLICA, {"data_parallel_size": 2})], 2, True),
        ({}, [(PROXY, {}), (PREFILL, {}), (DECODE, {}), (DECODE, {})], 1, False),
    ],
)
def test_every_cache_is_primed_as_far_as_a_client_can(effective, members, copies, by_rank):
    """Ranks behind one address are named one by one; of several processes behind a proxy it decides."""
    processes = tuple(
        ServedProcess(str(place), role, configuration=EngineConfiguration(effective=values))
        for place, (role, values) in enumerate(members)
    )
    own = EngineConfiguration(effective=effective)
    reach = priming_reach(RunningEngine("vllm", "", "", simulated=False, configuration=own, processes=processes))

    assert (reach.copies, reach.by_rank) == (copies, by_rank)


def agents(folder, rows, load, **more):
    """The requests and summary of a run of sessions of a trace, in virtual time."""
    (folder / "agents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    engine = {"kind": "simulator", "model": MODEL, "args": {**ARGS, "max_model_len": 4096}}
    work = {"kind": "trace", "path": "agents.jsonl"}
    loaded = load_scenario(scenario(folder, [load], "agents", workload=work, engine=engine, **more))
    assert execute(RunSpec(loaded, folder / "out", "", lambda _: None)).exit_code == 0
    summary = finish(folder / "out")
    return table_files.read_requests(folder / "out"), summary


def agent_rows(count, long=1024):
    """Sessions of a plan, two tools at once, and an answer; each begins with the shared block 1."""
    for n in range(count):
        own, row = 10 * n, {"session": n, "output_length": 12}
        yield {**row, "id": 1, "timestamp": 700 * n, "input_length": 1024, "hash_ids": [1, own + 2]}
        yield {**row, "id": 2, "parent": 1, "delay": 900, "input_length": long, "hash_ids": [1, own + 2, own + 3]}
        yield {**row, "id": 3, "parent": 1, "delay": 300, "input_length": 700, "hash_ids": [1, own + 4]}
        yield {**row, "parent": [2, 3], "delay": 50, "input_length": 1536, "hash_ids": [1, own + 2, own + 3]}


@pytest.mark.parametrize(
    "load", [{"trace": {}}, {"trace": {"speed": 3}}, {"closed": {"concurrency": 3, "requests": 12}}]
)
def test_sessions_of_agents_run_as_recorded(tmp_path, load):
    """Each request is due its tool's time after its last parent, to the ns; caches find exactly the equal hashes."""
    requests, summary = agents(tmp_path, agent_rows(12, long=1536), load)
    speed = load.get("trace", {}).get("speed", 1)
    at = {(s, t): row for row, (s, t) in enumerate(zip(requests.session.tolist(), requests.turn.tolist(), strict=True))}

    assert len(requests) == 48
    assert set(requests.status) == {"completed"}
    for session in range(12):
        plan, slow, quick, last = (at[session, turn] for turn in range(4))
        done = requests.done_ns
        assert requests.due_ns[slow] == done[plan] + round(0.9e9 / speed)
        assert requests.due_ns[quick] == done[plan] + round(0.3e9 / speed)
        assert requests.due_ns[last] == max(done[slow], done[quick]) + round(0.05e9 / speed)
    assert requests.cached_tokens.tolist() == requests.reusable_tokens.tolist()
    assert summary["stages"][0]["prefix"]["theoretical_hit_rate"] > 0.5


def test_what_waits_for_a_failed_parent_is_never_sent_and_says_why(tmp_path):
    """A prompt that the engine refuses fails one branch; the other is sent, their child is not."""
    requests, summary = agents(tmp_path, agent_rows(3, long=9000), {"trace": {}})
    fate = {
        (turn, str(status), str(error))
        for turn, status, error in zip(requests.turn, requests.status, requests.error, strict=True)
    }
    counts = summary["stages"][0]["requests"]

    assert fate == {
        (0, "completed", ""), (1, "failed", "http_400"), (2, "completed", ""), (3, "never_sent", "parent_failed")
    }  # fmt: skip
    assert set(requests.message[requests.turn == 3]) == {"turn 1: http_400"}
    assert (counts["scheduled"], counts["completed"], counts["failed"], counts["never_sent"]) == (12, 6, 3, 3)
    assert not summary["verdict"]["interrupted"]


def test_every_rank_is_primed_and_holds_the_share(tmp_path):
    """Two ranks behind one address each get every beginning, and find what was asked for."""
    stages, warnings, _, _ = primed(tmp_path, {**ARGS, "data_parallel_size": 2}, hit_rate=0.6, groups=3)

    assert not {"prefix_target_missed", "prefix_unmeasured"} & set(warnings)
    for stage in stages:
        assert stage["prefix"]["primed"] == 6
        assert list(stage["prefix"]["engines"]) == ["0", "1"]
        assert all(abs(rate - 0.6) < 0.03 for rate in stage["prefix"]["engines"].values())


def test_every_adapter_has_blocks_of_its_own(tmp_path):
    """Theory and the engine's cache agree request by request, and each adapter's beginnings are primed."""
    args = {**ARGS, "enable_lora": True, "max_loras": 4, "lora_modules": ["a=/x/a", "b=/x/b"]}
    work = {**PREFIXES, "input_tokens": 1200, "adapters": {"names": ["a", "b"], "weights": [1, 2]}}
    work["prefix"] = {"hit_rate": 0.5, "groups": 2}
    engine = {"kind": "simulator", "model": MODEL, "args": args}
    loaded = load_scenario(scenario(tmp_path, [{"poisson": {"rate": 9, "requests": 60}}], workload=work, engine=engine))
    assert execute(RunSpec(loaded, tmp_path / "out", "", lambda _: None)).exit_code == 0
    (stage,) = finish(tmp_path / "out")["stages"]
    requests = table_files.read_requests(tmp_path / "out")

    assert requests.cached_tokens.tolist() == requests.reusable_tokens.tolist()
    assert stage["prefix"]["held"] is True
    assert set(requests.request_class[requests.phase == "priming"]) == {0, 1, 2}
