"""Samples of NPUs and host arrive, and everything that was started is gone afterwards."""

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from harness.engines import RunningEngine
from harness.execution.watching import uses_npus_here
from harness.telemetry import devices, environment
from harness.telemetry.devices import busy_clock, npu_watches, watch_host
from harness.telemetry.environment import find_npu_smi, this_host

DATA = Path(__file__).parent.parent / "data" / "npu_smi"
FAKE = """#!/bin/sh
echo $$ >> {folder}/pids
case "$*" in
  "info watch"*) {watch} ;;
  "info -t common"*) cat {data}/common_busy.txt ;;
  info) cat {data}/info_910b3.txt ;;
esac
"""
WATCHES = "cat {data}/watch_910b.txt; exec sleep 300"


def fake_npu_smi(folder, watch=WATCHES):
    """A program that prints what npu-smi printed, and notes its process ids."""
    path = folder / "npu-smi"
    busy = (DATA / "common_910b1.txt").read_text(encoding="utf-8")
    busy = busy.replace("Rate(%)           : 0", "Rate(%)           : 95")
    (folder / "common_busy.txt").write_text(busy, encoding="utf-8")
    (folder / "info_910b3.txt").write_text((DATA / "info_910b3.txt").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "watch_910b.txt").write_text((DATA / "watch_910b.txt").read_text(encoding="utf-8"), encoding="utf-8")
    path.write_text(FAKE.format(folder=folder, data=folder, watch=watch.format(data=folder)), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def sampled(watching, enough):
    """Rows of a watch that is cancelled once `enough(rows)` holds."""
    rows = []

    async def go():
        heard = asyncio.Event()

        def add(at_ns, source, values):
            rows.extend((at_ns, source, name, value) for name, value in values.items())
            if enough(rows):
                heard.set()

        tasks = [asyncio.get_running_loop().create_task(job) for job in watching(add)]
        await asyncio.wait_for(heard.wait(), 20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(go())
    return rows


def names_of(rows, source):
    """Names sampled of a source."""
    return {name for _, own, name, _ in rows if own == source}


def both_told(rows):
    """Whether the watch has told a last row, and the questions were answered for both cards."""
    return (
        sum(1 for _, _, name, _ in rows if name == "healthy") >= 2
        and len([1 for _, _, name, _ in rows if name == "watts"]) >= 3
    )


def test_npus_are_watched_and_asked(tmp_path):
    """Power and load come from the watch, memory, health, clock and processes from questions."""
    program = fake_npu_smi(tmp_path)
    rows = sampled(lambda add: npu_watches(add, program), both_told)
    last = {(source, name): value for _, source, name, value in rows}

    assert names_of(rows, "device-0") >= {"watts", "celsius", "core_share", "memory_share", "memory_bytes", "healthy"}
    assert (last["device-0", "processes"], last["device-1", "processes"]) == (0, 1)
    assert last["device-1", "memory_bytes"] == 57784 * 2**20
    assert last["device-0", "busy_clock_share"] == pytest.approx(800 / 1850)
    assert [at for at, *_ in rows] == sorted(at for at, *_ in rows)


def test_nothing_that_was_started_outlives_the_watch(tmp_path):
    """Every process that ran for the watch has ended when it returns."""
    program = fake_npu_smi(tmp_path)
    sampled(lambda add: npu_watches(add, program), both_told)
    pids = [int(line) for line in (tmp_path / "pids").read_text(encoding="utf-8").split()]

    assert len(pids) >= 4
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []


def test_an_npu_smi_that_cannot_watch_is_asked_for_everything(tmp_path):
    """Where `info watch` ends at once, power and load come from the table."""
    program = fake_npu_smi(tmp_path, "exit 1")
    rows = sampled(lambda add: npu_watches(add, program), lambda rows: any(row[1] == "device-1" for row in rows))

    assert {"watts", "celsius", "core_share", "memory_bytes"} <= names_of(rows, "device-1")


def test_a_program_that_is_not_there_gives_no_rows(tmp_path):
    """A vanished npu-smi is no error of the run."""
    rows = []
    program = str(tmp_path / "gone")

    async def go():
        loop = asyncio.get_running_loop()
        following, asking = (loop.create_task(job) for job in npu_watches(lambda *row: rows.append(row), program))
        await following
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(go())

    assert rows == []


TAKEN = {"host_steal_share", "host_softirq_share"}  # which Linux tells


def test_the_host_and_a_process_of_it_are_read(monkeypatch):
    """Shares of all cores, bytes, and the cores that a process keeps busy, of all and of each that has a name."""
    monkeypatch.setattr(devices, "_READ_S", 0.01)
    rows = sampled(
        lambda add: [watch_host(add, [os.getpid()], {"prefill-0": os.getpid()})],
        lambda rows: any(row[1:3] == ("engine/prefill-0", "engine_cpu_cores") for row in rows),
    )
    values = {name: value for _, _, name, value in rows}

    assert {source for _, source, _, _ in rows} == {"host", "engine/prefill-0"}
    assert 0 <= values["host_cpu_share"] <= 1
    assert 0 < values["host_memory_bytes"] < psutil.virtual_memory().total
    assert values["engine_cpu_cores"] >= 0
    assert all(0 <= values[name] <= 1 for name in TAKEN & values.keys())


def test_a_process_that_is_gone_leaves_the_host(monkeypatch):
    """Without the engine's process the host is still read."""
    monkeypatch.setattr(devices, "_READ_S", 0.01)
    rows = sampled(lambda add: [watch_host(add, [2**22 + 1])], lambda rows: len(rows) >= 8)

    assert {name for _, _, name, _ in rows} - TAKEN == {"host_cpu_share", "host_memory_bytes"}


def test_a_clock_counts_only_where_the_cores_are_busy():
    """An idle chip is clocked down on purpose; without both clocks nothing can be said."""
    busy = {"core_share": 0.9, "core_hz": 1.2e9, "core_limit_hz": 1.8e9}

    assert busy_clock(busy) == {"busy_clock_share": pytest.approx(2 / 3)}
    assert busy_clock(busy | {"core_share": 0.1}) == {}
    assert busy_clock({"core_share": 0.9, "core_hz": 1.2e9}) == {}


def test_npu_smi_is_looked_for_where_the_driver_puts_it(tmp_path, monkeypatch):
    """On the search path first, then in the driver's places, else nowhere."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "_NPU_SMI", ())

    assert find_npu_smi(this_host()) is None
    assert fake_npu_smi(tmp_path) == find_npu_smi(this_host())


@pytest.mark.parametrize(
    ("kind", "url", "simulated", "ours"),
    [
        ("vllm-ascend", "http://127.0.0.1:1", False, True),
        ("attach", "http://localhost:8000", False, True),
        ("attach", "http://npu-7.example:8000", False, False),
        ("simulator", "http://127.0.0.1:1", True, False),
    ],
)
def test_only_npus_of_the_measured_engine_are_watched(kind, url, simulated, ours):
    """A server elsewhere has its NPUs elsewhere, and a simulated one has none."""
    assert uses_npus_here(RunningEngine(kind, url, "model", simulated)) is ours
