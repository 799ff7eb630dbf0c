"""A finished study on a terminal: its best trials and the default, and a study under way as a block."""

import pytest
from rich.text import Text

from harness.cli.app import main
from harness.cli.live_view import block
from harness.cli.result_lines import Output
from harness.cli.study_lines import study_lines, study_table
from harness.messages import language
from harness.results.progress import CONFIRMING, MEASURED_AGAIN, SEARCHING, StageTrend, StudyProgress
from harness.results.study import StudyFiles
from tests.cli.progresses import RUNNING
from tests.tuning.studies import written


def _trial(number, value, seqs, **changes):
    return {
        "number": number, "status": "complete", "origin": "model",
        "point": {"max_num_seqs": seqs, "enforce_eager": False},
        "values": {"goodput": value}, "violations": {"ttft_p99": 0.0}, **changes,
    }  # fmt: skip


TRIALS = [
    _trial(0, 4.39, 256, origin="default"), _trial(1, 5.0, 16), _trial(2, 6.1, 32), _trial(3, 2.0, 8),
    _trial(4, 9.9, 512, violations={"ttft_p99": 0.4}), _trial(5, 7.0, 64, status="stopped"), _trial(6, 5.9, 48),
    _trial(7, 4.8, 24), _trial(8, 4.7, 96), _trial(9, 1.0, 4),
]  # fmt: skip
CONTENT = {
    "objectives": [{"name": "goodput", "direction": "maximise"}], "trials": TRIALS, "simulated": True,
    "winner": {"trial": 6, "changed": {}}, "lines": ["goodput: 4.39 → 5.9", "winner: trial 6"],
}  # fmt: skip


def _study(tmp_path, **changes):
    return StudyFiles(tmp_path, CONTENT | changes)


def test_the_best_five_and_the_default(tmp_path):
    """Of the trials that were measured in full and keep every limit; settings that differ, and who won."""
    assert study_table(_study(tmp_path)) == [
        "trial           goodput  max_num_seqs",
        "─────────────────────────────────────",
        "    2              6.10            32",
        "    6  winner      5.90            48",
        "    1              5.00            16",
        "    7              4.80            24",
        "    8              4.70            96",
        "    0  default     4.39           256",
    ]


def test_a_winner_that_lost_flags_is_marked_as_the_trial_that_had_them(tmp_path):
    """The row shows what the trial set; the lines above it say which of that is needed."""
    rows = study_table(_study(tmp_path, simplification={"flags": [{"name": "max_num_seqs", "kept": False}]}))

    assert "6  winner, with all its flags" in rows[3]


def test_the_default_may_stay_and_limits_may_be_missed(tmp_path):
    """Both are said; a study without a measured trial has no table."""
    missed = {**TRIALS[0], "violations": {"ttft_p99": 0.2}}
    lines = study_table(_study(tmp_path, winner=None, trials=[missed, TRIALS[1]]))

    assert lines[2].split() == ["1", "5.00", "met", "16"]
    assert lines[3].split() == ["0", "default,", "stays", "4.39", "missed:", "ttft_p99", "256"]
    assert study_table(_study(tmp_path, trials=[])) == []


def test_no_line_is_wider_than_the_terminal(tmp_path):
    """Settings that have no room move into a further table."""
    points = [{f"parameter_number_{place}": number for place in range(6)} for number in range(3)]
    trials = [_trial(number, 5.0 + number, 1, point=point) for number, point in enumerate(points)]
    lines = study_table(_study(tmp_path, trials=trials), Output(60))

    assert all(Text(line).cell_len <= 60 for line in lines)
    assert all(any(f"parameter_number_{place}" in line for line in lines) for place in range(6))


def test_what_was_printed_is_shown_again(tmp_path):
    """The lines of the study's end, and its table."""
    lines = study_lines(_study(tmp_path))

    assert lines[:2] == CONTENT["lines"]
    assert lines[2:] == study_table(_study(tmp_path))


SEARCH = StudyProgress(
    "tune", SEARCHING, 64.0, "simulator", simulated=True, objective="goodput", trial=7, origin="model",
    point={"max_num_seqs": 32, "async_scheduling": True}, done=7, trials=20, stopped=1, failed=1, best=6.1,
    best_trial=2,
    default=4.39, turns=15, eta_s=130.0,
)  # fmt: skip


def _shown(progress, width, name="en"):
    with language(name):
        return [line.plain.rstrip() for line in block(progress, width, StageTrend())]


def test_a_study_at_80_columns():
    """Trial n of N, what is tried, the best so far and the default, and the time left."""
    assert _shown(SEARCH, 79) == [
        "study         tune   SIMULATED",
        "now           ━━━━━━━━───────────────   35 %   8 of 20   trial 7 (model)   1:04",
        "tries         max_num_seqs 32   async_scheduling true",
        "best so far   goodput 6.10 (trial 2)   default 4.39   ×1.39",
        "whole run     7 trials ended   1 stopped early   1 failed   about 3 min left",
    ]


def test_a_study_in_chinese_and_its_confirmation():
    """Who is measured again."""
    again = StudyProgress("tune", CONFIRMING, 64.0, origin=MEASURED_AGAIN, turns_done=4, turns=15)

    assert _shown(SEARCH, 79, "zh")[1].endswith("35 %   第 8/20 次   第 7 次试验（model）   1:04")
    assert _shown(again, 79)[1].endswith("27 %   5 of 15   the default again   1:04")


def test_a_trial_on_a_real_engine_shows_what_that_does():
    """Its stage and its own counters, between what is tried and the best so far."""
    lines = _shown(StudyProgress("tune", SEARCHING, 64.0, trial=1, origin="model", run=RUNNING), 79)

    assert [line.split("  ")[0] for line in lines] == [
        "study", "now", "tries", "measuring", "requests", "", "output", "latency", "engine", "whole run",
    ]  # fmt: skip


def test_a_study_is_watched_like_a_run(tmp_path, capsys):
    """A finished one is shown again, and its own command ends with the same table."""
    path = written(tmp_path, space={"max_num_seqs": [4, 8]}, budget={"trials": 2}, confirm={"best": 0})
    with pytest.raises(SystemExit):
        main(["tune", str(path), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path / "out")])
    again = capsys.readouterr().out.splitlines()

    assert ended.value.code == 0
    assert again == printed
    assert any("default" in line and line[:5].strip() == "0" for line in again)
    assert not (tmp_path / "out" / "progress.json").exists()
