"""A load worker ends when its parent is gone."""

import subprocess
import sys

import psutil

PARENT = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-m', 'harness.client.worker', sys.argv[1], '0', '1'],"
    " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
    "print(child.pid, flush=True); sys.stdin.read()"
)


def test_a_worker_ends_with_its_parent(tmp_path):
    """A worker that waits for its commands is gone soon after its parent was killed."""
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        psutil.wait_procs([child], timeout=1)  # one that cannot even start has ended by then
        alive_before = child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=20)

    assert alive_before
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
