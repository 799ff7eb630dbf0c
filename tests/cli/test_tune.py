"""`harness tune`, ended before its end."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from harness.api import tuning as tune
from harness.cli.app import main
from harness.errors import EXIT_DONE, EXIT_INPUT, EXIT_INTERRUPTED
from tests.tuning.studies import written

SMALL = {"space": {"max_num_seqs": [4, 8, 16]}, "budget": {"trials": 2}, "confirm": {"best": 1, "repeats": 2}}


def interrupted(_work, *_more):
    """Ctrl-C."""
    raise KeyboardInterrupt


def told(capsys, *words):
    """The exit code of a `harness tune`, and its lines on stdout."""
    with pytest.raises(SystemExit) as ended:
        main(["tune", *map(str, words)])
    return ended.value.code, capsys.readouterr().out.splitlines()


def test_an_interrupt_leaves_a_page_and_the_way_to_go_on(tmp_path, capsys, monkeypatch):
    """Exit 130 with what was measured; the command that is printed measures the rest, and no trial twice."""
    path, out = written(tmp_path, **SMALL), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tune, "_confirm", interrupted)
        code, lines = told(capsys, path, "--out", out, "--set", "confirm.repeats=3", "--seed", 5)
    page = (out / "report.html").stat().st_mtime_ns
    text = (out / "report.html").read_text(encoding="utf-8")
    script = (out / "winner.sh").read_text(encoding="utf-8")
    cut = json.loads((out / "study.json").read_text(encoding="utf-8"))
    _, again, _ = lines[-1].split("`")
    after = told(capsys, *shlex.split(again)[2:])

    assert code == EXIT_INTERRUPTED
    assert any("2 trials" in line for line in lines)
    assert lines[0].endswith(": interrupted before the confirmation; continue with --resume")
    assert lines[1].startswith("best so far, not confirmed: ")
    assert not any("winner" in line for line in lines[:-1])
    assert script.splitlines()[1].startswith("# best so far, not confirmed: ")
    assert ("Best so far, not confirmed" in text, "Use this configuration" in text) == (True, False)
    assert "The study was interrupted before that was confirmed" in text
    assert ["interrupted before the confirmation" in text, "confirm.best to 1" in text] == [True, False]
    assert lines[-1].startswith("Interrupted. Results saved. Resume with: `harness tune ")
    assert after[0] == EXIT_DONE
    assert (out / "report.html").stat().st_mtime_ns > page
    study = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert len(study["trials"]) == 2
    assert (cut["interrupted"], study["interrupted"]) == (True, False)
    assert study["confirmation"] is not None
    assert "best so far" not in (out / "winner.sh").read_text(encoding="utf-8")


def test_an_interrupt_while_flags_are_removed_keeps_the_confirmed_gain(tmp_path, capsys, monkeypatch):
    """What was confirmed is said and drawn; the command that is printed goes on with the flags."""
    space = {"max_num_seqs": [8, 16], "gpu_memory_utilization": [0.8, 0.85]}
    changes = {"engine": {"args": {"max_num_seqs": 2}}, "confirm": {"best": 1, "repeats": 3}}
    study = {**SMALL, **changes, "space": space, "screening": {"points": 0}}
    path, out = written(tmp_path, **study), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(tune, "simplify", interrupted)
        code, lines = told(capsys, path, "--out", out)
    cut = json.loads((out / "study.json").read_text(encoding="utf-8"))
    _, again, _ = lines[-1].split("`")
    after, ended = told(capsys, *shlex.split(again)[2:])
    study = json.loads((out / "study.json").read_text(encoding="utf-8"))

    assert (code, after) == (EXIT_INTERRUPTED, EXIT_DONE)
    assert " tokens/s (×" in lines[0]
    assert any("interrupted before it was known which of the winner's flags are needed" in line for line in lines)
    assert (cut["simplification"], cut["confirmation"]["choice"]) == (None, 1)
    kept, before = (told_of["confirmation"]["values"] for told_of in (study, cut))
    assert all(kept[who] == pytest.approx(before[who]) for who in before)
    assert list(study["winner"]["changed"]) == ["max_num_seqs"]
    assert any(line.startswith("removed, as it gains nothing") for line in ended)


def test_what_the_engine_does_not_know_is_told_before_a_start(tmp_path, capsys, monkeypatch):
    """Of a flag its line and the nearest right answer, by the interpreter that has vLLM; nothing is begun."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    env = {"PYTHONPATH": str(Path(__file__).parent.parent / "fake_engine"), "FAKE_VLLM": "serve"}
    engine = {"kind": "vllm", "model": "m", "python": sys.executable, "env": env}
    path = written(tmp_path, **{**SMALL, "space": {"max_num_seq": [4, 8]}}, engine=engine)
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "--out", str(tmp_path / "out")])
    (told,) = capsys.readouterr().err.splitlines()

    assert ended.value.code == EXIT_INPUT
    assert re.search(r"study\.yaml:\d+: space\.max_num_seq: vLLM has no such flag; did you mean 'max_num_seqs'\?", told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "more"),
    [((), ""), (("--storage", "sqlite:///{}/s.db"), " with the same --storage")],
)
def test_an_interrupt_before_the_first_trial_is_one_line(tmp_path, capsys, monkeypatch, words, more):
    """Nothing to report; an address, which may hold a password, is not printed."""
    path = written(tmp_path, **SMALL)
    monkeypatch.setattr(tune, "run_study", interrupted)
    code, lines = told(capsys, path, "--out", tmp_path / "out", *(word.format(tmp_path) for word in words))

    assert code == EXIT_INTERRUPTED
    assert len(lines) == 1
    assert lines[0].startswith(f"Interrupted. Results saved. Resume{more}{' with' if not more else ''}: `harness tune ")
    assert lines[0].endswith("--resume`")
    assert "sqlite" not in lines[0]
    assert "s.db" not in lines[0]
