"""The progress of a run in a file: whole, read again by others, and what is said of a process that is gone."""

from dataclasses import replace

import psutil
from hypothesis import given
from hypothesis import strategies as st

from harness.results.progress import (
    LOADING,
    PROGRESS,
    EngineLoad,
    LiveLatency,
    Progress,
    StageProgress,
    read_progress,
    write_progress,
)
from harness.results.store import RAW
from harness.safety import redaction

STAGE = StageProgress(1, 1, 0, {"kind": "poisson", "rate": 2.0}, ttft=LiveLatency(3, 0.1, 0.2, 0.3), share=0.25)
PROGRESS_NOW = Progress("chat", LOADING, 4.5, stages=3, stage=STAGE, ended=(STAGE,), engine=EngineLoad(1, 2, 0.5))


def test_a_progress_is_read_as_it_was_written(tmp_path):
    """By any process; it says which process wrote it, and whether that is alive."""
    (tmp_path / RAW).mkdir()
    write_progress(tmp_path, PROGRESS_NOW)
    kept = read_progress(tmp_path)

    assert kept.progress == PROGRESS_NOW
    assert kept.is_alive()
    assert kept.pid == psutil.Process().pid
    assert [path.name for path in (tmp_path / RAW).iterdir()] == [PROGRESS]


def test_a_process_that_ended_or_is_another_is_not_alive(tmp_path):
    """A number that a later process has says nothing; a run on another host cannot be known to have ended."""
    (tmp_path / RAW).mkdir()
    write_progress(tmp_path, PROGRESS_NOW)
    kept = read_progress(tmp_path)

    assert not replace(kept, process_started=kept.process_started - 60).is_alive()
    assert not replace(kept, pid=2**22 + 1).is_alive()
    assert replace(kept, pid=2**22 + 1, host="elsewhere").is_alive()


@given(st.binary(max_size=80))
def test_no_file_and_no_such_file_are_no_progress(tmp_path_factory, content):
    """Nothing is raised, whatever stands there."""
    folder = tmp_path_factory.mktemp("progress")
    write_progress(folder, PROGRESS_NOW)
    before = read_progress(folder)
    (folder / RAW).mkdir()
    (folder / RAW / PROGRESS).write_bytes(content)

    assert before is None
    assert read_progress(folder) is None


def test_secrets_do_not_reach_the_file(tmp_path):
    """An engine's log line may repeat a key that it was given."""
    (tmp_path / RAW).mkdir()
    redaction.register_secret("sk-very-secret-key", "KEY")
    try:
        write_progress(tmp_path, Progress("chat", LOADING, log_line="api key sk-very-secret-key"))
    finally:
        redaction.forget_secrets()

    assert read_progress(tmp_path).progress.log_line == "api key <KEY>"
