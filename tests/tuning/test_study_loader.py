"""A bad study is refused with file, line and key before anything starts, and a good one is loaded whole."""

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.tuning.study_loader import check_any, load_study_plan
from tests.tuning.studies import written

ROOT = Path(__file__).resolve().parents[2]
HEAD = ["name: s", "question: q", "scenario: small.yaml"]
SPACE = "space: {max_num_seqs: {int: [8, 64]}}"
CASES = {
    "unknown_flag": (
        ["space: {max_num_seq: [8, 16]}"],
        "4: space.max_num_seq: no flag of vLLM; did you mean 'max_num_seqs'?",
    ),
    "upside_down": (
        ["space: {max_num_seqs: {int: [64, 8]}}"],
        "4: space.max_num_seqs: [64, 8] is upside down; expected [8, 64]",
    ),
    "no_such_parameter": (
        [
            "space:",
            "  max_num_seqs: {int: [8, 64], when: {async_schedulin: true}}",
            "  async_scheduling: [true, false]",
        ],
        "5: space.max_num_seqs.when.async_schedulin: not in the space; did you mean 'async_scheduling'?",
    ),
    "never_that_value": (
        ["space:", "  max_num_seqs: {int: [8, 64], when: {async_scheduling: 7}}", "  async_scheduling: [true, false]"],
        "5: space.max_num_seqs.when.async_scheduling: is never 7; expected one of True, False",
    ),
    "empty": (
        ["space: {}", "defaults: false"],
        "1: the space is empty; expected a parameter under space, or defaults: true",
    ),
    "unknown_objective": ([SPACE, "objective: godput"], "5: objective: unknown objective; did you mean 'goodput'?"),
    "value_of_no_engine": (
        ["space: {gpu_memory_utilization: {float: [0.5, 1.5]}}"],
        "4: space.gpu_memory_utilization: engine flag gpu_memory_utilization: 1.5 is out of range; expected 0 < x ≤ 1",
    ),
    "unknown_load": (
        ["space: {load.concurency: [4, 8]}"],
        "4: space.load.concurency: closed has no concurency; did you mean 'concurrency'?",
    ),
    "derived_from_nothing": (
        ["space: {max_num_seqs: [8, 16], max_num_batched_tokens: {derive: max_num_sqs * 16}}"],
        (
            "4: space.max_num_batched_tokens.derive: reads max_num_sqs, which is not in the space; "
            "did you mean 'max_num_seqs'?"
        ),
    ),
    "capacity_and_more": (
        [SPACE, "objective: [throughput, capacity]"],
        "5: objective[1]: capacity has no load of its own; expected it alone",
    ),
    "capacity_of_users": (
        [SPACE, "objective: capacity"],
        "3: scenario: capacity is searched over rates, and closed has none; expected poisson, constant or gamma",
    ),
    "a_server_without_a_server": (
        [SPACE, "engine: {kind: vllm}", "load: {offline: {requests: 9}}"],
        "6: load: offline is load without a server, and each trial is one; expected another kind of load",
    ),
    "no_such_model": (
        [SPACE, "engine: {kind: vllm, model: /no/such/model}"],
        "5: engine.model: there is no /no/such/model; expected a folder",
    ),
    "devices_backwards": ([SPACE, "devices: [7-0]"], "5: devices: devices 7-0 are upside down; expected 0-7"),
    "own_flag": (["space: {port: [1, 2]}"], "4: space.port: set by the harness; expected engine.port or none"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_study_is_told_by_file_line_and_key(tmp_path, case):
    """Each fault in one line, with what was expected."""
    lines, told = CASES[case]
    path = written(tmp_path)
    path.write_text("\n".join([*HEAD, *lines]), encoding="utf-8")

    assert [line.partition(", got")[0] for line in check_any(path)] == [f"{path}:{told}"]


def test_an_objective_within_an_slo_needs_one(tmp_path):
    """Goodput without limits would be the rate of answers."""
    path = written(tmp_path, scenario={"slo": {}}, objective="goodput")

    with pytest.raises(ScenarioError, match=r"study.yaml:\d+: objective\[0\]: goodput is counted within an SLO"):
        load_study_plan(path)


def test_answers_without_tokens_are_not_tuned_for_tokens(tmp_path):
    """A rate or a latency of requests is what embeddings have; the others are refused in a line each."""
    embeddings = {"endpoint": "embeddings", "workload": {"kind": "documents", "tokens": 20}, "slo": {}}
    path = written(tmp_path, scenario=embeddings, objective=["throughput", "ttft_p99"])

    with pytest.raises(ScenarioError) as caught:
        load_study_plan(path)
    assert [line.partition(": ")[2].partition(";")[0] for line in caught.value.lines] == [
        "objective[0]: throughput: answers of embeddings have no tokens",
        "objective[1]: ttft_p99: answers of embeddings have no tokens",
    ]


def test_a_scenario_that_is_not_there_is_named(tmp_path):
    """With the nearest file beside it."""
    path = written(tmp_path, scenario=None)
    path.write_text(path.read_text(encoding="utf-8").replace("small.yaml", "smal.yaml"), encoding="utf-8")

    assert check_any(path)[0].endswith("did you mean 'small.yaml'?")


def test_the_shipped_study_opens_with_ranges_that_suit_its_model():
    """The four default parameters are there, and no range ends beyond what the device has."""
    problem = load_study_plan(ROOT / "scenarios" / "tune.yaml")
    ranges = {one.name: one for one in problem.space.parameters}

    assert {"block_size", "max_num_seqs", "gpu_memory_utilization", "max_num_batched_tokens"} <= ranges.keys()
    assert 0.4 < ranges["gpu_memory_utilization"].low < ranges["gpu_memory_utilization"].high < 1
    assert ranges["max_num_batched_tokens"].high <= 4 * 8192


def test_no_more_requests_are_searched_than_users_send(tmp_path):
    """In a closed loop a larger max_num_seqs changes only the memory for graphs; swept users set no bound."""
    block = {"block_size": [128]}
    plain = load_study_plan(written(tmp_path, defaults=True, space=block))
    swept = load_study_plan(written(tmp_path, defaults=True, space={**block, "load.concurrency": [24, 48]}))
    highs = [{p.name: p.high for p in one.space.parameters}["max_num_seqs"] for one in (plain, swept)]

    assert highs[0] == 24
    assert highs[1] > 48


def test_a_scenario_file_is_still_a_scenario(tmp_path):
    """Both kinds of file are checked by one command."""
    written(tmp_path)

    assert check_any(tmp_path / "small.yaml") == []


def test_weights_and_limits_are_read(tmp_path):
    """Several scenarios, constraints with units, and the SLO of the scenario kept beside a throughput."""
    path = written(
        tmp_path,
        scenario={"slo": {"tpot_p90": "50ms"}},
        constraints={"ttft_p99": "2s", "goodput": 3},
        hold_slo=True,
    )
    text = path.read_text(encoding="utf-8").replace(
        "scenario: small.yaml", "scenario: [{file: small.yaml, weight: 2}, {file: small.yaml}]"
    )
    path.write_text(text, encoding="utf-8")
    problem = load_study_plan(path)

    assert [task.weight for task in problem.tasks] == [2, 1]
    assert {(limit.name, limit.most, limit.least) for limit in problem.all_limits} == {
        ("ttft_p99", 2.0, float("-inf")), ("goodput", float("inf"), 3.0), ("tpot_p90", 0.05, float("-inf")),
    }  # fmt: skip
