"""Random traces go through the simulated scheduler as through the real one of an installed vLLM.

`python -m tests.real_engines.test_vllm_scheduler` records tests/golden/scheduler_digests.json anew.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.simulator.replay import replay
from tests.real_engines import environments
from tests.scheduler_traces import (
    DIGESTED,
    DIGESTS,
    VARIANTS,
    digest,
    random_fetches,
    random_speculation,
    random_trace,
    variant,
)

DRIVER = Path(__file__).parent / "vllm_scheduler.py"
PYTHONS = {
    "0.32": environments.interpreter(environments.VLLM_CPU),
    "0.33": environments.interpreter(environments.VLLM_SCHEDULER),
}
TRACES = int(os.environ.get("HARNESS_VLLM_TRACES", "1000"))


def real_steps(python, traces, folder):
    """The steps that a real scheduler takes for each trace."""
    paths = [folder / f"{number:05d}.json" for number in range(len(traces))]
    for path, trace in zip(paths, traces, strict=True):
        path.write_text(json.dumps(trace), encoding="utf-8")
    command = [python, str(DRIVER), *map(str, paths)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800).stdout
    return [[json.loads(line) for line in part.splitlines()] for part in answer.split("--\n")[:-1]]


@pytest.mark.engines
@pytest.mark.skipif(not PYTHONS["0.32"], reason="HARNESS_VLLM_PYTHON names no interpreter, and none is built")
@pytest.mark.parametrize("made", [random_trace, random_speculation, random_fetches])
def test_random_traces_are_scheduled_as_by_vllm(tmp_path, made):
    """Tokens per request and step, preemptions and cache hits are identical on every trace; so are draft tokens."""
    traces = [made(seed) for seed in range(TRACES)]
    real = real_steps(PYTHONS["0.32"], traces, tmp_path)
    different = [seed for seed, steps in enumerate(real) if steps != list(replay(traces[seed]))]

    assert len(real) == TRACES
    assert different == []


@pytest.mark.engines
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("version", PYTHONS)
def test_every_rule_is_that_of_its_version(tmp_path, version, name):
    """Priorities, adapters, lookahead and, from 0.33 on, the cadence of prefills: identical steps on every trace."""
    if not PYTHONS[version]:
        pytest.skip(f"no interpreter of vLLM {version} is named or built")
    traces = [variant(seed, name, version=version) for seed in range(TRACES // 5)]
    real = real_steps(PYTHONS[version], traces, tmp_path)
    different = [seed for seed, steps in enumerate(real) if steps != list(replay(traces[seed]))]

    assert len(real) == len(traces)
    assert different == []


def main():
    """Record what the real schedulers answer."""
    with tempfile.TemporaryDirectory() as folder:
        digests = {
            version: {
                name: [
                    digest(steps)
                    for steps in real_steps(
                        python, [variant(seed, name, version=version) for seed in range(DIGESTED)], Path(folder)
                    )
                ]
                for name in VARIANTS
            }
            for version, python in PYTHONS.items()
        }
    DIGESTS.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
