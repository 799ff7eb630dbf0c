"""A load worker ends when its parent is gone."""

import subprocess
import sys

import psutil

BUSY = "from harness import workers; workers._WATCH_S, workers._END_S = 0.01, -0.99; workers._end_with_parent()\n"
PARENT = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {BUSY!r} + 'print(1, flush=True)\\nwhile True: pass'],"
    " stdout=subprocess.PIPE)\n"
    "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()"
)


def test_a_worker_ends_with_its_parent_even_while_it_is_busy():
    """A worker whose loop never comes to hear of it is gone soon after its parent was killed."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        alive_before = child.is_running()
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=20)

    assert alive_before
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
