"""Two engines in turn: which order, which seeds, which changes, and what becomes of an interruption."""

import argparse
import json
from types import SimpleNamespace

import pytest

import harness.cli.against as against
from harness.cli.app import main
from harness.errors import EXIT_INTERRUPTED, HarnessError
from harness.results import store
from tests.result_folder import Run, kept_warning, make_result

SCENARIO = """\
name: pair
question: Is B as fast?
seed: 7
engine: {kind: simulator, model: tiny, args: {max_num_seqs: 8}}
workload: {kind: synthetic, input_tokens: 16, output_tokens: 4}
load: [{poisson: {rate: 2, duration: 20s}}]
"""


@pytest.fixture
def scenario(tmp_path):
    """A scenario file."""
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return tmp_path / "s.yaml"


@pytest.fixture
def ran(monkeypatch):
    """Runs that only write a made-up result: an engine with fewer slots is slower. What was run, in order."""
    seen = []

    def run_loaded(loaded, options):
        folder = options.out
        engine = loaded.scenario.engine
        seen.append(
            (folder.parent.name, folder.name, loaded.scenario.seed, engine.args.get("max_num_seqs"), engine.kind)
        )
        assert loaded.scenario.repeats == 1
        slots = engine.args.get("max_num_seqs", 8)
        run = Run(
            loads=(2.0,), duration_s=15, seed=loaded.scenario.seed, slots=slots, warmup=0, samples=False, failing=0
        )
        make_result(folder, run)
        made = store.read_run(folder)
        digest = f"{loaded.scenario.seed:064x}"
        store.write_json(folder, store.RUN, made | {"payload_sha256": digest, "schedule_sha256": digest})
        return SimpleNamespace(exit_code=EXIT_INTERRUPTED if len(seen) == 5 and seen[0][3] == 9 else 0)

    monkeypatch.setattr(against, "run_loaded", run_loaded)
    return seen


def told(capsys, *words):
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_sides_take_turns():
    """A B B A A B B A: what drifts evenly touches both alike, and every pair stands together."""
    assert "".join(side for side, _ in against.order(4)) == "abbaabba"
    assert [pair for _, pair in against.order(3)] == [0, 0, 1, 1, 2, 2]


def test_runs_of_a_pair_share_a_seed(scenario, tmp_path, ran, capsys):
    """Each pair has a seed of its own, B differs by the flag alone, and the comparison stands beside both."""
    out = tmp_path / "out"
    code, said, err = told(
        capsys, "run", scenario, "--repeats", 3, "--against", "engine.args.max_num_seqs=1", "--out", out
    )
    found = json.loads((out / "compare.json").read_text())

    assert code == found["exit_code"] == 1
    assert "harness: regression: " in err
    assert ran == [
        ("a", "1", 7, 8, "simulator"), ("b", "1", 7, 1, "simulator"), ("b", "2", 8, 1, "simulator"),
        ("a", "2", 8, 8, "simulator"), ("a", "3", 9, 8, "simulator"), ("b", "3", 9, 1, "simulator"),
    ]  # fmt: skip
    assert found["repeats"] == [3, 3]
    assert found["verdict"] in ("worse", "better and worse")
    assert "unpaired" not in {warning["code"] for warning in found["warnings"]}
    assert said.splitlines()[-1] == str(out / "compare.html")


def test_a_pair_that_is_not_valid_ends_as_its_comparison_does(scenario, tmp_path, ran, monkeypatch, capsys):
    """Exit 4 and no regression, and the warning that all six runs share stands there once."""
    made = against.run_loaded

    def not_valid(loaded, options):
        result, folder = made(loaded, options), options.out
        summary = store.read_json(folder, store.SUMMARY)
        warning = kept_warning("hollow", "invalid", "It computed nothing.", "Do.")
        store.write_json(folder, store.SUMMARY, summary | {"verdict": {"valid": False, "warnings": [warning]}})
        return result

    monkeypatch.setattr(against, "run_loaded", not_valid)
    out = tmp_path / "out"
    code, said, err = told(
        capsys, "run", scenario, "--repeats", 3, "--against", "engine.args.max_num_seqs=1", "--out", out
    )
    found = json.loads((out / "compare.json").read_text())

    assert code == found["exit_code"] == 4
    assert (found["verdict"], found["gate_held"], found["sees"]) == ("cannot be judged", None, "")
    assert {row["verdict"] for row in found["measures"]} == {"cannot be told"}
    assert "regression" not in err
    assert err.endswith("harness: not judged: a side is not valid; exit 4\n")
    (once,) = (line for line in said.splitlines() if line.startswith("invalid: "))
    assert once.startswith("invalid: BASE and NEW are not valid (1, 2, 3; 1, 2, 3): It computed nothing. A difference")
    page, xml = (out / "compare.html").read_text(), (out / "compare.xml").read_text()
    assert ["Cannot be judged" in page, "Gate failed" in page, "Worse" in page] == [True, False, False]
    assert ['failures="0"' in xml, xml.count("a side is not valid")] == [True, 5]


def test_what_was_whole_is_compared_when_interrupted(scenario, tmp_path, ran, capsys):
    """Stopped in the fifth run, two pairs are whole: they are compared, and the exit code says 130."""
    words = (
        "--set",
        "engine.args.max_num_seqs=9",
        "--against",
        "engine.args.max_num_seqs=2",
        "--out",
        tmp_path / "out",
    )
    code, said, _ = told(capsys, "run", scenario, "--repeats", 4, *words)

    assert code == EXIT_INTERRUPTED
    assert len(ran) == 5
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["repeats"] == [2, 2]
    assert "compare.html" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--against", "load.0.poisson.rate=3"],
            "--against load.0.poisson.rate=3: changes what is sent; expected a key",
        ),
        (["--against", "engine.args"], "engine.args"),
        (["--against", "engine.kind=fast"], "--against engine.kind=fast: engine.kind: expected auto, simulator"),
        (["--url", "http://127.0.0.1:1", "--against", "engine.args.x=1"], "a server that runs already keeps its flags"),
        (["--repeats", "0", "--against", "vllm"], "--repeats 0: repeats: expected a number of at least 1"),
    ],
)
def test_wrong_words_are_told_before_anything_runs(scenario, ran, capsys, words, line):
    """In one line, with the flag that was wrong."""
    code, _, err = told(capsys, "run", scenario, *words)

    assert code == 2
    assert line in err
    assert ran == []


def test_runs_in_turn_cannot_lie_where_a_file_is(scenario, ran, capsys):
    """One line that names the folder, with exit code 2, and nothing runs."""
    code, _, err = told(capsys, "run", scenario, "--quiet", "--against", "vllm", "--out", scenario)

    assert (code, len(err.splitlines())) == (2, 1)
    assert f"--out {scenario / 'a'}: cannot be made (" in err
    assert ran == []


def test_a_kind_or_an_address_is_enough():
    """`--against vllm` is another engine, `--against http://…` another server, which keeps no clock of ours."""
    chosen = argparse.Namespace(against=["http://127.0.0.1:9000"], url="http://127.0.0.1:8000", engine=None)
    kinds = [(change.path, change.value) for change in against._changes(chosen)]

    assert kinds[:2] == [(("engine", "kind"), "attach"), (("engine", "url"), "http://127.0.0.1:9000")]
    assert (("engine", "clock"), None) in kinds
    assert {value for _, value in kinds[2:]} == {None}  # what belongs to the scenario's own engine
    assert [change.value for change in against._change("vllm")] == ["vllm"]


def test_a_used_folder_is_refused(scenario, tmp_path, ran, capsys):
    """Runs are never mixed with older ones."""
    (tmp_path / "out" / "a").mkdir(parents=True)
    code, _, err = told(capsys, "run", scenario, "--against", "vllm", "--out", tmp_path / "out")

    assert code == 2
    assert "holds a result already" in err


def test_an_engine_that_does_not_come_up_ends_it(scenario, tmp_path, monkeypatch, capsys):
    """Its fault is told as by any run, with its exit code."""

    def fails(*_words):
        raise HarnessError("no such engine")

    monkeypatch.setattr(against, "run_loaded", fails)

    assert told(capsys, "run", scenario, "--against", "vllm", "--out", tmp_path / "out")[0] == 2
