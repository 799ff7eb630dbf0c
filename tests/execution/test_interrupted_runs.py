"""Nothing is lost or left behind, whichever process is ended, by which signal, at whatever moment.

The moments that differ most are tried here; all of them in `pytest -m engines`.
"""

import os
import signal
import time

import pytest

from harness.client import journal_decoding
from harness.errors import EXIT_ENGINE, EXIT_INTERRUPTED
from harness.results import store
from harness.safety import interrupts
from harness.safety.interrupts import ENDING, NOTHING, completed, listening, shell_exit_code, writing
from tests.sweeping import MOMENTS, REQUESTS, SCENARIO, account, child_of, ended, sent

SIGNALS = {"SIGTERM": (signal.SIGTERM, 1), "SIGHUP": (signal.SIGHUP, 1), "two SIGINT": (signal.SIGINT, 2)}
QUICK = {("two SIGINT", "engine starts"), ("SIGTERM", "workers wait"), ("SIGHUP", "in the load")}
VICTIMS = {"parent": None, "worker": "harness.client.worker", "engine": "serve-sim"}
QUICK_KILLS = {("parent", "engine starts"), ("parent", "late in the load"), ("worker", "workers wait")}
MEASURING = ("stage begins", "in the load", "late in the load", "account", "summary", "page")


def cases(names, quick):
    """All names at all moments, those that are not quick marked as the long ones."""
    for name in names:
        for moment in MOMENTS:
            marks = () if (name, moment) in quick else pytest.mark.engines
            yield pytest.param(name, moment, id=f"{name}-{moment}", marks=marks)


def twice(number, times):
    """Send a signal to a run so often, a moment apart."""

    def hit(process):
        for _ in range(times):
            if process.poll() is None:
                os.kill(process.pid, number)
            time.sleep(0.15 * (times > 1))

    return hit


@pytest.mark.parametrize(("name", "moment"), list(cases(SIGNALS, QUICK)))
def test_every_signal_ends_a_run_in_order(tmp_path, name, moment):
    """In one line, without a traceback or an orphan; what had begun is accounted for, what had not leaves nothing."""
    number, times = SIGNALS[name]
    found = ended(tmp_path, MOMENTS[moment], twice(number, times))
    out = tmp_path / "out"

    assert (found.reached, found.orphans) == (True, [])
    assert "Traceback" not in found.words
    # A signal in the first instant of Python, or in its last, is Python's own.
    assert found.code in (128 + number, *((-number,) if times > 1 or moment == "imports" else ())), found.words
    if moment in MEASURING or (out / store.RUN).exists():
        assert sum(account(out).values()) == REQUESTS
    else:
        assert {file.name for file in out.glob("*")} <= {"engine.log"}
        assert str(NOTHING) in found.words or "ended by" in found.words or moment == "imports"


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.engines)])
def test_ctrl_c_is_heard_while_a_prefix_cache_is_primed(tmp_path, times):
    """Of beginnings that would take minutes no more are sent, and no stage begins."""
    work = {"kind": "synthetic", "input_tokens": 600, "output_tokens": 8, "prefix": {"hit_rate": 0.4, "groups": 20_000}}
    scenario = {**SCENARIO, "workload": work}

    found = ended(tmp_path, lambda out, _: sent(out) >= 3, twice(signal.SIGINT, times), scenario)

    assert (found.code, found.reached, found.orphans) == (128 + signal.SIGINT, True, [])
    assert str(NOTHING) in found.words
    assert "Traceback" not in found.words
    assert sorted(file.name for file in (tmp_path / "out").glob("*")) == ["engine.log"]


@pytest.mark.parametrize(("victim", "moment"), list(cases(VICTIMS, QUICK_KILLS)))
def test_sigkill_leaves_an_account_and_no_orphan(tmp_path, victim, moment):
    """Whoever is killed, everybody is gone soon, and every request that was planned has one fate."""

    def hit(process):
        target = process if VICTIMS[victim] is None else child_of(process, VICTIMS[victim])
        if target is not None:
            target.kill()

    found = ended(tmp_path, MOMENTS[moment], hit)
    out = tmp_path / "out"

    assert (found.reached, found.orphans) == (True, [])
    assert "Traceback" not in found.words
    assert found.code in (-signal.SIGKILL, 0, EXIT_ENGINE)
    if moment in MEASURING:
        assert sum(account(out).values()) == REQUESTS


@pytest.mark.engines
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_a_client_that_was_stopped_is_not_valid(tmp_path, victim):
    """SIGSTOP for two seconds in mid-load is seen by who was stopped, and told."""

    def hit(process):
        pid = process.pid if victim == "parent" else child_of(process, VICTIMS[victim]).pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2)
        os.kill(pid, signal.SIGCONT)

    found = ended(tmp_path, lambda out, _: sent(out) >= 10, hit)
    verdict = store.read_json(tmp_path / "out", store.SUMMARY)["verdict"]

    assert found.code == 0
    assert not verdict["valid"]
    assert "paused" in [warning["code"] for warning in verdict["warnings"]]


@pytest.mark.parametrize("number", ENDING)
def test_a_command_hears_every_signal_as_ctrl_c(number):
    """Where nothing else hears it, KeyboardInterrupt is raised, and the exit status is that of the signal."""
    with pytest.raises(KeyboardInterrupt), listening():
        signal.raise_signal(number)

    assert (shell_exit_code(EXIT_INTERRUPTED), shell_exit_code(0), shell_exit_code(EXIT_ENGINE)) == (
        128 + number,
        128 + number,
        3,
    )


def test_the_first_signal_lets_results_be_written():
    """It is told and noted; the second leaves. A closed terminal that is told twice is one signal."""
    said = []
    with listening():
        with writing(said.append):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)

            assert len(said) == 1
        with pytest.raises(KeyboardInterrupt), writing(said.append):
            signal.raise_signal(signal.SIGTERM)

        assert shell_exit_code(0) == 128 + signal.SIGHUP


def test_handlers_are_as_before_afterwards(monkeypatch):
    """Neither a command nor a run keeps the signals; an ignored SIGHUP (nohup) stays ignored."""
    before = [signal.getsignal(number) for number in ENDING]
    with listening(), writing(print):
        pass

    assert [signal.getsignal(number) for number in ENDING] == before
    monkeypatch.setattr(interrupts, "_heard", [])
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, kept)

    assert shell_exit_code(0) == 0


def test_a_signal_cancels_what_starts_and_waits_for_what_ends():
    """Of an engine that a study starts: its start is cancelled, its end is not."""
    import asyncio  # noqa: PLC0415 - only here

    async def job(number):
        signal.raise_signal(number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "whole"

    loop = asyncio.new_event_loop()
    try:
        with listening():
            assert completed(loop, job(signal.SIGTERM), breakable=False) == ("whole", True)
        with listening(), pytest.raises(KeyboardInterrupt):
            completed(loop, job(signal.SIGTERM))
    finally:
        loop.close()


def test_helpers_that_were_killed_are_done_without(tmp_path, monkeypatch):
    """A pool of decoding processes that breaks costs time, and no answer."""

    class Broken:
        def __init__(self, *_, **__):
            """A pool whose processes are gone."""

        __enter__ = lambda self: self  # noqa: E731 - a context
        __exit__ = lambda *_: None  # noqa: E731 - a context

        def submit(self, *_):
            return self

        def result(self):
            raise journal_decoding.BrokenProcessPool

    parts = []
    monkeypatch.setattr(journal_decoding, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(journal_decoding, "ProcessPoolExecutor", Broken)
    monkeypatch.setattr(journal_decoding, "frame_starts", lambda *_: [(0, 1), (1, 2), (2, 3)])
    monkeypatch.setattr(journal_decoding, "decode_part", lambda _, start, *__: start)
    monkeypatch.setattr(journal_decoding, "joined", parts.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    path = tmp_path / "spool"
    path.write_bytes(b"abc")
    journal_decoding.decode_journal(path)

    assert parts == [[0, 1, 2]]
