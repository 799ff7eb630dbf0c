"""A pool of workers ends one that is stuck or unclear, and takes nothing that it prints for a report."""

import asyncio

import psutil
import pytest

from harness.client import worker_pool
from harness.client.worker_pool import WorkerPool
from harness.errors import EXIT_ENGINE, HarnessError

# Worker 1 is stuck once it has begun, with a child of its own; worker 0 goes on until it is told to stop.
WORKER = """
import json, os, subprocess, sys, threading
number, reports = int(sys.argv[2]), open(int(sys.argv[3]), "w")
one_at_a_time = threading.Lock()  # two threads report
def report(**fields):
    with one_at_a_time:
        reports.write(json.dumps(fields) + "\\n")
        reports.flush()
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


PRINTING = """
import json, os, sys
reports = open(int(sys.argv[3]), "w")
for line in sys.stdin:
    print("a prompt maker says so", flush=True)
    os.write(1, b'{"ready": 7}\\n')
    reports.write(json.dumps({"ready": -1} if json.loads(line)["do"] == "set_up" else {"ready": 0}) + "\\n")
    reports.flush()
"""


def test_what_a_worker_prints_is_no_report(monkeypatch, capfd, tmp_path):
    """Lines on its stdout, even such as look like a report, are shown on stderr; the pool goes on."""
    monkeypatch.setattr(worker_pool, "_WORKER", ("-c", PRINTING))

    async def run():
        pool = WorkerPool(lambda *_: None, lambda *_: None)
        await pool.start(tmp_path, 1)
        await pool.set_up()
        await pool.prepare(0)
        ready = [member.ready for member in pool._members]
        await pool.close()
        return ready

    ready = asyncio.run(run())
    shown = capfd.readouterr()

    assert ready == [{-1, 0}]
    assert (shown.out, shown.err) == ("", 'a prompt maker says so\n{"ready": 7}\n' * 2)


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("b'no json\\n'", "no json"),
        ("b'[1]\\n'", "[1]"),
        ("b'\\xff\\x1b[0m\\n'", "\ufffd [0m"),
        ("b'x' * (1 << 22)", None),
    ],
)
def test_a_report_that_cannot_be_understood_ends_the_run(monkeypatch, tmp_path, written, line):
    """No listener dies unseen: one line names the worker and what it wrote, and the worker is ended."""
    script = f"import os, sys, time; fd = int(sys.argv[3]); os.write(fd, {written}); time.sleep(600)"
    monkeypatch.setattr(worker_pool, "_WORKER", ("-c", script))

    async def run():
        pool = WorkerPool(lambda *_: None, lambda *_: None)
        await pool.start(tmp_path, 1)
        with pytest.raises(HarnessError) as caught:
            await pool.set_up()
        await pool.close()
        return caught.value, [member.process.returncode for member in pool._members]

    fault, codes = asyncio.run(run())

    assert fault.exit_code == EXIT_ENGINE
    assert codes == [-9]
    assert "\n" not in str(fault)
    if line is not None:
        assert str(fault) == f"load worker 0 reported {line!r}, which is no report; the run cannot go on"


def test_a_bug_in_what_takes_a_report_keeps_its_traceback(monkeypatch, tmp_path):
    """It is raised by whoever waits for the worker, as it is."""
    script = "import os, sys, time; os.write(int(sys.argv[3]), b'{\"sample\": {}}\\n'); time.sleep(600)"
    monkeypatch.setattr(worker_pool, "_WORKER", ("-c", script))

    def breaks(number, sample):
        raise KeyError(number)

    async def run():
        pool = WorkerPool(breaks, lambda *_: None)
        await pool.start(tmp_path, 1)
        try:
            await pool.set_up()
        finally:
            await pool.close()

    with pytest.raises(KeyError):
        asyncio.run(run())


def _known(pid):
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []
