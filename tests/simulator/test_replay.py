"""A trace goes through the simulated scheduler as through the real one."""

import json
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.simulator.replay import main, read_trace, replay
from tests.scheduler_traces import DIGESTED, DIGESTS, VARIANTS, digest, variant

GOLDEN = Path(__file__).parent.parent / "golden" / "scheduler_traces.jsonl"
RECORDED = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
TRACE = {
    "config": {"num_blocks": 9},
    "requests": [{"id": "0", "arrival_step": 3, "prompt": [1, 2], "output_tokens": 2}],
}


@pytest.mark.parametrize("number", range(len(RECORDED)))
def test_steps_are_those_of_the_real_scheduler(number):
    """Tokens, preemptions and cache hits of every step equal what vLLM 0.32's own scheduler answered."""
    assert list(replay(RECORDED[number]["trace"])) == RECORDED[number]["steps"]


def test_the_recorded_traces_show_what_matters():
    """Among them are preemptions, hits, hits after a preemption and requests that never fit."""
    steps = [line for record in RECORDED for line in record["steps"]]
    stuck = [
        record
        for record in RECORDED
        if {name for line in record["steps"] for name in line["finished"]}
        != {entry["id"] for entry in record["trace"]["requests"]}
    ]

    assert sum(bool(line["preempted"]) for line in steps) > 10
    assert sum(any(line["cached"].values()) for line in steps) > 20
    assert stuck


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("version", ["0.32", "0.33"])
def test_every_rule_is_that_of_its_version(version, name):
    """Priorities, adapters, lookahead and the cadence of prefills: the steps that vLLM 0.32 and 0.33 answered."""
    recorded = json.loads(DIGESTS.read_text(encoding="utf-8"))[version][name]
    own = [digest(list(replay(variant(seed, name, version=version)))) for seed in range(len(recorded))]

    assert len(recorded) == DIGESTED
    assert [seed for seed, steps in enumerate(own) if steps != recorded[seed]] == []


def test_the_versions_differ_where_their_rules_do():
    """Of the recorded traces some go otherwise under 0.33 by each rule alone, or the recording would show nothing."""
    recorded = json.loads(DIGESTS.read_text(encoding="utf-8"))
    different = {name: sum(map(str.__ne__, recorded["0.32"][name], recorded["0.33"][name])) for name in VARIANTS}

    assert all(count > 3 for count in different.values()), different


def test_steps_before_the_first_arrival_print_nothing(tmp_path, capsys):
    """The step's number still counts them."""
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(TRACE), encoding="utf-8")

    assert main([str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == [3, 4]
    assert lines[0] == {"step": 3, "scheduled": {"0": 2}, "preempted": [], "cached": {"0": 0}, "finished": []}
    assert lines[1]["finished"] == ["0"]


def test_several_files_are_parted_by_a_line(tmp_path, capsys):
    """After each of several files stands `--`, after a single one nothing."""
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(TRACE), encoding="utf-8")
    main([str(path), str(path)])

    assert [line for line in capsys.readouterr().out.splitlines() if line == "--"] == ["--", "--"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "config and requests"),
        ('{"config": {"num_block": 3}, "requests": []}', "did you mean 'num_blocks'"),
        ('{"config": {}, "requests": []}', "num_blocks is missing"),
        ('{"config": {"num_blocks": 3}, "requests": [{"id": "0"}]}', "requests[0].arrival_step is missing"),
    ],
)
def test_a_bad_trace_is_refused_in_one_line(tmp_path, capsys, text, said):
    """With the file, the key and what was expected; exit code 2."""
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    code = main([str(path)])
    message = capsys.readouterr().err

    assert code == 2
    assert said in message
    assert len(message.splitlines()) == 1


def test_a_missing_trace_is_refused(tmp_path):
    """The file's name stands in the message."""
    with pytest.raises(InputError, match=r"nowhere\.json"):
        read_trace(tmp_path / "nowhere.json")
