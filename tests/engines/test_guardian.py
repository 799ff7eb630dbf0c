"""The guardian ends exactly what it started, whatever becomes of the harness."""

import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from harness.engines import guardian

GUARD = [sys.executable, "-I", "-S", guardian.__file__, "0.3"]
PYTHON = [sys.executable, "-I", "-S", "-c"]
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
FAMILY = (  # a leader with a child in its group and one that has left it, both deaf
    "import subprocess, sys, time\n"
    f"made = [subprocess.Popen([sys.executable, '-I', '-S', '-c', {DEAF!r}], stdout=subprocess.PIPE,"
    " start_new_session=own) for own in (False, True)]\n"
    "[child.stdout.readline() for child in made]\n"
    "print(*(child.pid for child in made), file=sys.stderr, flush=True)\n"
    "time.sleep(60)"
)
PARENT = (  # a harness: it starts a guardian and says which processes there are
    "import subprocess, sys, time\n"
    "one = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
    "print(one.pid, one.stdout.readline().decode().strip(), one.stderr.readline().decode().strip(), flush=True)\n"
    "time.sleep(60)"
)


def wait_until_gone(pids, timeout_s=15):
    """Those of the processes that still run after a while."""
    end = time.monotonic() + timeout_s
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def runs(pid):
    """Whether a process is there and no zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture
def guarded():
    """Starts a guardian around a program; whatever is left of it is ended afterwards."""
    made = []

    def start(program, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        made.append(subprocess.Popen([*GUARD, *PYTHON, program], **pipes, text=True, **options))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def test_nothing_is_left_when_the_harness_is_killed():
    """SIGKILL of the parent ends guardian, engine, its children, and a child that had left the group."""
    with subprocess.Popen([*PYTHON, PARENT, *GUARD, *PYTHON, FAMILY], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
        left = wait_until_gone(pids)

    assert len(pids) == 4
    assert left == []


@pytest.mark.parametrize("way", ["terminated", "left alone"])
def test_it_ends_all_when_asked_and_when_its_input_ends(guarded, way):
    """SIGTERM and a closed pipe are the same; a deaf family is killed after the grace period."""
    process = guarded(FAMILY)
    pids = [int(process.stdout.readline()), *map(int, process.stderr.readline().split())]
    if way == "terminated":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
        process.stdin = None
    process.wait(15)

    assert [pid for pid in pids if runs(pid)] == []


@pytest.mark.parametrize(
    ("program", "status"),
    [("import sys; sys.exit(7)", 7), ("pass", 0), ("import os; os.kill(os.getpid(), 9)", 128 + 9)],
)
def test_the_status_of_the_command_is_passed_on(guarded, program, status):
    """A signal n is 128 + n, as a shell has it."""
    assert guarded(program).wait(15) == status


def test_children_that_outlive_the_engine_are_ended(guarded):
    """An engine that dies leaves no worker behind."""
    process = guarded(FAMILY.removesuffix("time.sleep(60)") + "sys.exit(1)")
    children = [int(word) for word in process.stderr.readline().split()]

    assert process.wait(15) == 1
    assert [pid for pid in children if runs(pid)] == []


def test_a_stranger_is_not_touched(guarded):
    """Only what was started is signalled."""
    with subprocess.Popen([*PYTHON, "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as stranger:
        process = guarded("import time; time.sleep(60)")
        process.stdout.readline()
        process.terminate()
        status = process.wait(15)

        assert stranger.poll() is None
        stranger.stdin.close()
    assert status == 128 + signal.SIGTERM


def test_the_engine_is_asked_to_go_when_its_guardian_is_killed(guarded):
    """The kernel tells the engine when its parent dies."""
    process = guarded("import time; time.sleep(60)")
    pid = int(process.stdout.readline())
    process.kill()

    assert wait_until_gone([pid]) == []


def test_a_command_that_cannot_be_run_is_told(guarded):
    """The shell's status for it, and a line."""
    asked = [*GUARD, "/no/such/python"]
    answer = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=15)

    assert answer.returncode == 127
    assert "/no/such/python cannot be run" in answer.stderr
    assert "Traceback" not in answer.stderr
