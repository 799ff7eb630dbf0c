"""What is refused before anything runs, and the cost of a case that fails."""

from dataclasses import replace

import pytest

from kernels_bench import bench
from kernels_bench.bench import Bench, rows, strange_path
from kernels_bench.cases import Case
from kernels_bench.job import Job
from kernels_bench.providers.base import Device, Path

DECODE = Case("decode", (1, 1), (300, 20), 28, 4, 128)
CASES = (DECODE, replace(DECODE, block_size=100), DECODE, replace(DECODE, phase="kv_write"))


class Refusing:
    """A provider of three paths, of which one is missing, that takes block sizes of multiples of 32 only."""

    name, torch_device = "refusing", "cpu"

    def device(self):
        """Of a tebibyte."""
        return Device("cpu", "none", 1 << 40, 1 << 20)

    def paths(self):
        """All of them decode."""
        return [Path("plain", ("decode",)), Path("tiled", ("decode",)), Path("gone", ("decode",), "built without it")]

    def refuse(self, case, _path):
        """By block size."""
        return f"block size {case.block_size}: no multiple of 32" if case.block_size % 32 else None


@pytest.fixture
def told(monkeypatch):
    """The lines of a job, as (event, case, path, status, reason); what a case does is a function of its number."""

    def run(job, does=lambda _index: None):
        def measured(_bench, index, path, _sizing):
            fault = does(index)
            if fault is not None:
                raise fault
            return {"event": "row", "case": index, "path": path.name, "status": "measured", "reason": None}

        monkeypatch.setattr(bench, "_measured", measured)
        made = Bench(job, Refusing(), Refusing().device(), ())
        return [tuple(line.get(name) for name in ("event", "case", "path", "status", "reason")) for line in rows(made)]

    return run


def test_what_is_refused_is_told_before_anything_runs(told):
    """A missing path, a block size, a phase without a path: all of them, and only then the first case."""
    lines = told(Job(CASES))
    begin = next(place for place, line in enumerate(lines) if line[0] == "begin")

    assert lines[:begin] == [
        ("row", 0, "gone", "skipped", "built without it"),
        ("row", 1, "plain", "skipped", "block size 100: no multiple of 32"),
        ("row", 1, "tiled", "skipped", "block size 100: no multiple of 32"),
        ("row", 1, "gone", "skipped", "built without it"),
        ("row", 2, "gone", "skipped", "built without it"),
        ("row", 3, "", "skipped", "refusing has no path for kv_write"),
    ]
    assert [line[1:4] for line in lines[begin:] if line[0] == "row"] == [
        (0, "plain", "measured"), (0, "tiled", "measured"), (2, "plain", "measured"), (2, "tiled", "measured"),
    ]  # fmt: skip


def test_a_process_that_goes_on_repeats_no_refusal(told):
    """Nor does it run a case on which an earlier one died."""
    assert {line[3] for line in told(Job(CASES, begin=1)) if line[0] == "row"} == {"measured"}
    assert [line[1] for line in told(Job(CASES, without=(0,))) if line[0] == "begin"] == [2]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("\n  CUDA out of memory. Tried to allocate\nmore"),
            "out of memory: CUDA out of memory. Tried to",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            "out of memory: DefaultCPUAllocator: can't",
        ),
        (RuntimeError("the operator says no\nat line 9"), "the operator says no"),
    ],
)
def test_a_case_that_fails_costs_itself(told, fault, reason):
    """With the first line of the reason; the case behind it is measured."""
    lines = told(Job(CASES, paths=("plain",)), lambda index: fault if index == 0 else None)
    outcomes = [line for line in lines if line[0] == "row" and line[1] in (0, 2)]

    assert [line[3] for line in outcomes] == ["failed", "measured"]
    assert outcomes[0][4].startswith(reason)


def test_a_path_that_nobody_knows_has_a_nearest_one():
    """Before the device is measured."""
    assert (
        strange_path(Refusing(), ("plain", "tield")) == "kernels.paths: refusing has no 'tield'; did you mean 'tiled'?"
    )
    assert strange_path(Refusing(), ("x",)) == "kernels.paths: refusing has no 'x'; expected one of plain, tiled, gone"
    assert strange_path(Refusing(), ("gone",)) is None


def test_a_case_beyond_memory_is_not_begun_to_be_made(told):
    """What it needs and what is free."""
    huge = replace(DECODE, kv_lens=(1 << 30, 1 << 30), kv_heads=28)
    lines = told(Job((huge, DECODE), paths=("plain",)))

    assert "MiB are free" in lines[1][4]
    assert lines[1][3] == "skipped"
    assert lines[-1][3] == "measured"
