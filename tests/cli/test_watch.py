"""`harness watch`: a run under way in another process, one that was killed, a finished one, and what is none."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from harness.cli.app import main
from harness.errors import EXIT_INPUT, EXIT_INTERRUPTED
from harness.results import store
from harness.results.progress import read_progress, write_progress
from tests.cli.progresses import RUNNING
from tests.result_folder import Run, make_result

SCENARIO = """\
name: watched
question: What goes on?
engine: {kind: simulator, model: Qwen2.5-0.5B}
workload: {kind: synthetic, input_tokens: 16, output_tokens: 64}
load: [{poisson: {rate: 8, duration: 600s}}]
warmup: {requests: 2}
"""


def _watch(folder, *words):
    """What `harness watch` says to stdout and stderr, and its exit code."""
    command = [sys.executable, "-m", "harness", "watch", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout, done.stderr, done.returncode


@pytest.fixture
def run(tmp_path):
    """A run of the simulator in a process of its own, with load; it is killed at the end."""
    (tmp_path / "s.yaml").write_text(SCENARIO)
    command = [
        sys.executable,
        "-m",
        "harness",
        "run",
        str(tmp_path / "s.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        yield process
        if process.poll() is None:
            process.kill()


def _watching(folder):
    """`harness watch` of a folder in a process, once it has shown an answered request of the run there."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "watch", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _until(folder, holds):
    """The progress of a run, once something holds of it."""
    while True:
        kept = read_progress(folder)
        if kept is not None and holds(kept.progress):
            return kept
        os.sched_yield()


def test_watching_ends_with_the_run_and_shows_its_result(run, tmp_path):
    """Ctrl-C in the run's own terminal: what was measured is a result, which the watcher then shows."""
    _until(tmp_path / "out", lambda progress: progress.stage is not None and progress.stage.answered > 3)
    with _watching(tmp_path / "out") as watcher:
        run.send_signal(signal.SIGINT)
        stdout, stderr = watcher.communicate(timeout=120)

    assert watcher.returncode == 0, stderr
    assert re.search("^(valid|NOT VALID)", stdout, re.MULTILINE)
    assert "poisson 8 req/s" in stdout
    assert stdout.splitlines()[-1] == str(tmp_path / "out" / "report.html")


def test_a_run_that_was_killed_is_told_from_one_that_goes_on(run, tmp_path):
    """By its process: how far it was, how to get what it had measured, and the exit code of an interrupted run."""
    _until(tmp_path / "out", lambda progress: progress.stage is not None and progress.stage.answered > 3)
    run.send_signal(signal.SIGKILL)
    run.wait()
    stdout, stderr, code = _watch(tmp_path / "out")

    assert (stdout, code) == ("", EXIT_INTERRUPTED)
    assert "stage 1/1, " in stderr
    assert "answered" in stderr
    assert f"harness report {tmp_path / 'out'}" in stderr.splitlines()[-1]


def test_a_finished_result_is_shown_again(tmp_path):
    """Its table and folded warnings, or with --warnings all of them; nothing on stderr."""
    folder = make_result(tmp_path / "done", Run(duration_s=20))
    (folder / "report.html").write_text("")
    folded, said, code = _watch(folder)
    whole, _, _ = _watch(folder, "--warnings")

    assert (said, code) == ("", 0)
    assert "limits" in folded
    assert folded.splitlines()[-1] == str(folder / "report.html")
    assert len(whole.splitlines()) > len(folded.splitlines())
    assert f"harness watch {folder} --warnings" in folded


def test_a_run_of_another_host_is_waited_for(tmp_path, monkeypatch, capsys):
    """Its process cannot be seen from here: it is taken to go on until its result is there."""
    folder = make_result(tmp_path / "shared", Run(loads=(2.0,), duration_s=20))
    (folder / store.RAW).mkdir()
    write_progress(folder, RUNNING)
    path = folder / store.RAW / "progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "pid": 1}))
    (folder / "report.html").write_text("")
    sleeps = []

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 3:  # it ends
            path.unlink()
            path.parent.rmdir()

    monkeypatch.setattr("harness.cli.watch.time.sleep", sleep)
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(folder)])

    assert ended.value.code == 0
    assert len(sleeps) == 3
    assert "stage 1/4 (poisson 1 req/s): 46 answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing", "nothing: no such folder; expected the folder of a run, such as results/NAME-TIME"),
        ("empty", "empty: holds no run; expected the folder of a run, with run.json in it"),
        (None, "results: no run below it; expected harness watch DIR"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path, monkeypatch, capsys, name, line):
    """With exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["watch", *([name] if name else [])])

    assert ended.value.code == EXIT_INPUT
    assert capsys.readouterr().err == f"harness: {line}\n"


def test_the_newest_run_is_watched_by_default(tmp_path, monkeypatch, capsys):
    """The one below results/ that began last."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("old", "new")):
        folder = make_result(tmp_path / "results" / name, Run(name=name, loads=(2.0,), duration_s=20))
        (folder / "report.html").write_text("")
        os.utime(folder / store.RUN, (number, number))
    with pytest.raises(SystemExit):
        main(["watch"])

    assert "results/new" in capsys.readouterr().out
