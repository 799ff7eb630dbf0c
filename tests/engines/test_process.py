"""Deaths of engine processes are told; device memory that has come back is noticed, and reported where it has not."""

import asyncio
from pathlib import Path

import pytest

from harness.engines import process
from harness.engines.process import EngineProcess, ending_of

TABLE = Path(__file__).parent.parent / "data" / "npu_smi" / "info_910b3.txt"  # 3379 and 57784 MiB in use


@pytest.fixture
def smi(tmp_path):
    """An npu-smi whose second device is said to be in use as many times as asked, and free from then on."""

    def made(times):
        busy, free = tmp_path / "busy.txt", tmp_path / "free.txt"
        busy.write_text(TABLE.read_text(encoding="utf-8"), encoding="utf-8")
        free.write_text(TABLE.read_text(encoding="utf-8").replace("57784/", "3400 /"), encoding="utf-8")
        asked = tmp_path / "asked"
        program = tmp_path / "npu-smi"
        program.write_text(
            f"#!/bin/sh\necho >> '{asked}'\n"
            f"if [ $(wc -l < '{asked}') -le {times} ]; then cat '{busy}'; else cat '{free}'; fi\n"
        )
        program.chmod(0o755)
        return str(program)

    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Half a minute is for real devices."""
    monkeypatch.setattr(process, "_POLL_S", 0.01)
    monkeypatch.setattr(process, "_WAIT_S", 5.0)


def test_it_waits_until_the_memory_is_back(smi):
    """Asked again and again until the devices hold what they held before."""
    program, before = smi(2), {"device-0": 3379 << 20, "device-1": 3379 << 20}
    left = asyncio.run(process.wait_for_memory(program, None, before))

    assert left == []
    assert len((Path(program).parent / "asked").read_text()) == 3


def test_memory_that_stays_is_told_in_the_log(smi, tmp_path, monkeypatch):
    """After the wait, by the device's name."""
    monkeypatch.setattr(process, "_WAIT_S", 0.0)
    left = asyncio.run(process.wait_for_memory(smi(1000), None, {"device-0": 3379 << 20, "device-1": 0}))
    process.log_memory_left(tmp_path / "engine.log", left)

    assert left == ["device-1"]
    assert "the memory of device-1 was not free again" in (tmp_path / "engine.log").read_text()


def test_only_the_engines_own_devices_count(smi):
    """Those of `engine.devices`; numbers that the machine does not have are passed over."""
    program = smi(1000)

    assert asyncio.run(process.memory_in_use(program, None)) == {"device-0": 3379 << 20, "device-1": 57784 << 20}
    assert asyncio.run(process.memory_in_use(program, [0, 7])) == {"device-0": 3379 << 20}


def test_without_npu_smi_there_is_nothing_to_wait_for(tmp_path):
    """No program, or one that cannot be run; and nothing is written."""
    process.log_memory_left(tmp_path / "engine.log", [])

    assert asyncio.run(process.memory_in_use(None, None)) == {}
    assert asyncio.run(process.memory_in_use("/no/such/npu-smi", None)) == {}
    assert asyncio.run(process.wait_for_memory(None, None, {})) == []
    assert not (tmp_path / "engine.log").exists()


@pytest.mark.parametrize(
    ("script", "line", "status"),
    [
        ("echo ready; kill -9 $$", "the engine died: it was killed (SIGKILL); the system kills what takes", -9),
        (
            "echo 'MemoryError: no more' >&2; kill -9 $$",
            "the engine died: MemoryError: no more (it was killed (SIGKILL); the system kills what takes",
            -9,
        ),
        ("kill -6 $$", "the engine died: ended by SIGABRT; see ", -6),
        ("echo 'harness: no place' >&2; exit 3", "the engine died with exit status 3: no place", 3),
    ],
)
def test_a_death_by_a_signal_is_told_as_such(tmp_path, script, line, status):
    """The last line of the log decides only where the process ended itself; beside a signal only an error is told."""

    async def ending():
        process = EngineProcess(["sh", "-c", "echo Starting >&2; " + script], tmp_path / "engine.log")
        await process.start()
        while (message := process.ending()) is None:  # noqa: ASYNC110 - of a process, which tells nobody
            await asyncio.sleep(0.01)
        await process.stop()
        return message

    message = asyncio.run(ending())

    assert str(message).startswith(line)
    assert ending_of([message]).status == status
