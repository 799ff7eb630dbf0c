"""A pool of workers does not wait for one that is stuck, and ends all of it."""

import asyncio

import psutil
import pytest

from harness.client import worker_pool
from harness.client.worker_pool import WorkerPool
from harness.errors import EXIT_ENGINE, HarnessError

# Worker 1 is stuck once it has begun, with a child of its own; worker 0 goes on until it is told to stop.
WORKER = """
import json, subprocess, sys, threading
number = int(sys.argv[2])
one_at_a_time = threading.Lock()  # print writes a line and its end apart, and two threads report
def report(**fields):
    with one_at_a_time:
        print(json.dumps(fields), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "set_up":
        report(ready=-1)
    elif command["do"] == "prepare":
        report(ready=command["number"])
    elif command["do"] == "begin" and number == 1:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        report(sample={"at_ns": 0, "child": child.pid})
        while True:
            pass
    elif command["do"] == "begin":
        told = threading.Event()
        def beat():
            while not told.wait(0.05):
                report(counts={})
        threading.Thread(target=beat, daemon=True).start()
    elif command["do"] == "stop":
        told.set()
        report(over=0)
"""


@pytest.fixture
def impatient(monkeypatch):
    """A pool of such workers that waits for two seconds."""
    monkeypatch.setattr(worker_pool, "_WORKER", ("-c", WORKER))
    monkeypatch.setattr(worker_pool, "STUCK_S", 2.0)
    monkeypatch.setattr(worker_pool, "_CHECK_S", 0.05)


def test_a_worker_that_is_stuck_is_ended_with_its_group(impatient, tmp_path):
    """One line says so; the others are told to stop and waited for; nothing of it is left."""
    samples = []

    async def run():
        pool = WorkerPool(lambda number, sample: samples.append((number, sample)), lambda *_: None)
        await pool.start(tmp_path, 2)
        await pool.set_up()
        await pool.prepare(0)
        pool.begin(0)
        members = [psutil.Process(member.process.pid) for member in pool._members]
        with pytest.raises(HarnessError) as caught:
            await pool.finished(0)
        over = [0 in member.over for member in pool._members]
        await pool.close()
        return caught.value, over, members

    fault, over, members = asyncio.run(run())
    ((number, sample),) = samples
    _, alive = psutil.wait_procs([*members, *_known(sample["child"])], timeout=20)

    assert str(fault) == (
        "load worker 1 was stuck: it gave no sign of life for 2.00 s and was ended; its requests in flight are lost"
    )
    assert fault.exit_code == EXIT_ENGINE
    assert over == [True, False]
    assert number == 1
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


def _known(pid):
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []
