"""`harness compare` says when there was nothing it could judge."""

import argparse
from dataclasses import replace

import pytest

from harness.cli.compare import compare_command
from harness.errors import InputError
from tests.result_folder import Run, make_result

FEW = Run(loads=(2.0,), duration_s=10, warmup=0, samples=False, output=(4, 8))


def asked(base, new, out, *, gate=None, anyway=False):
    """What the command line makes of `compare BASE NEW`."""
    return argparse.Namespace(base=base, new=new, out=out, gate=gate, history=[], anyway=anyway, lang="en")


@pytest.fixture
def results(tmp_path):
    """Two results of fewer requests than a gate wants, by its default."""
    return made(tmp_path, FEW)


def compared(arguments):
    """The outcome of `harness compare`."""
    return compare_command(arguments, lambda _line: None)


def made(place, run):
    """Two results of the same run."""
    return [make_result(place / name, run) for name in ("a", "b")]


def test_a_result_is_not_compared_with_itself(results, tmp_path):
    """A gate on the same folder twice would never break; whoever wants that says so."""
    same = tmp_path / "b" / ".." / "a"
    with pytest.raises(InputError, match=r"is both BASE and NEW; expected two results, or --anyway"):
        compared(asked(results[0], same, tmp_path / "out"))

    assert compared(asked(results[0], same, tmp_path / "out", anyway=True)).exit_code == 4


def test_a_gate_that_could_judge_nothing_does_not_say_that_it_held(results, tmp_path):
    """Neither in the answer nor on the page, nor by its exit code: it is 4, which is neither held nor broken."""
    done = compared(asked(*results, tmp_path / "out"))
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")

    assert done.exit_code == 4
    assert tuple(map(str, done.errors)) == ("not judged: 5 of 5 measures of the gate; exit 4",)
    assert str(done.lines[0]).startswith("Simulated: Undetermined: 5 measures of 1 stage cannot be judged; BASE has ")
    assert ["Nothing for the gate to judge" in page, "Gate passed" in page] == [True, False]


def test_a_gate_says_how_much_it_could_not_judge(tmp_path):
    """Beside what it did judge."""
    gate = tmp_path / "gate.yaml"
    gate.write_text("gate: {ttft_p99: 5%, tpot_mean: 90%}\nsamples: 5\nbetween_runs: 1%\n", encoding="utf-8")
    compared(asked(*made(tmp_path, replace(FEW, duration_s=40)), tmp_path / "out", gate=gate))
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")

    assert "Gate passed, 1 of 2 not judged" in page
    assert "One run per side does not show how much runs of one engine vary" in page
