"""`harness compare` says when there was nothing it could judge."""

import argparse
import re
from dataclasses import replace

import pytest

from harness.cli.compare import compare_command
from harness.cli.terminal import text_of
from harness.errors import InputError
from harness.messages import language
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


def test_a_terminal_shows_a_comparison_in_the_language_of_the_user(tmp_path):
    """In Chinese no two English words stand beside each other but in the command of the next step."""
    slow = make_result(tmp_path / "slow", replace(FEW, duration_s=40, slots=1))
    fast = make_result(tmp_path / "fast", replace(FEW, duration_s=40))
    gate = tmp_path / "gate.yaml"
    gate.write_text("gate: {e2e_mean: 5%, ttft_p99: 1%}\nsamples: 5\nbetween_runs: 1%\n", encoding="utf-8")
    with language("zh"):
        done = compared(asked(fast, slow, tmp_path / "out", gate=gate))
        lines = [text_of(line) for line in (*done.lines[:-1], *done.errors)]
    texts = [re.sub(r"harness run .*|SIMULATED|(TTFT|TPOT|E2E|ITL|BASE|NEW|SLO)\b", "", line) for line in lines]

    assert len(lines) > 5
    assert [text for text in texts if re.search(r"[A-Za-z]{2,} [a-z]{2,}", text)] == []


def test_programs_read_the_same_in_every_language(results, tmp_path):
    """compare.json has its keys, codes and English sentences whatever the language of the page."""
    files = []
    for lang in ("en", "zh"):
        with language(lang):
            compared(asked(*results, tmp_path / lang))
        files.append((tmp_path / lang / "compare.json").read_text(encoding="utf-8"))

    assert files[0] == files[1]
    assert '"verdict": "cannot be told"' in files[0]
