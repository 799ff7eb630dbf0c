"""`harness doctor --generate` with the real vLLM, and with the real vllm-ascend on a stub CANN."""

import os
import subprocess
import sys

import pytest

from tests.hollow import stubs
from tests.real_engines import environments

pytestmark = pytest.mark.engines


def generated(python, model, env, *sets):
    """The finished command."""
    words = ["--python", python, "--generate", str(model), "--set", "load_format=dummy", *sets]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **env}
    command = [sys.executable, "-m", "harness", "doctor", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)


def test_a_real_vllm_generates_on_the_cpu(tiny_model):
    """Eight tokens, the platform that vLLM chose, exit 0."""
    python = environments.interpreter(environments.VLLM_CPU)
    if not python:
        pytest.skip("HARNESS_VLLM_PYTHON names no interpreter with vLLM, and make test-engines has built none")
    done = generated(python, tiny_model, {})

    assert done.returncode == 0, done.stdout
    assert "chose platform cpu (CpuPlatform) and generated 8 tokens in " in done.stdout


def test_a_real_vllm_that_refuses_is_one_line_with_the_cause(tiny_model, tmp_path):
    """More context than the model has: exit 3 and vLLM's own reason."""
    python = environments.interpreter(environments.VLLM_CPU)
    if not python:
        pytest.skip("HARNESS_VLLM_PYTHON names no interpreter with vLLM, and make test-engines has built none")
    done = generated(python, tiny_model, {"TMPDIR": str(tmp_path)}, "--set", "max_model_len=99999999")

    assert done.returncode == 3
    assert "max_model_len" in done.stdout.splitlines()[0]


def test_the_plug_in_is_chosen_and_its_times_are_not_shown(ascend_python, cann, tiny_model):
    """On a hollow CANN platform npu generates, and no time is told."""
    done = generated(ascend_python, tiny_model, stubs.environment(cann, mem_gib=8))

    assert done.returncode == 0, done.stdout
    assert "chose platform npu (NPUPlatform) and generated 8 tokens on a stub of CANN" in done.stdout
    assert "after loading" not in done.stdout
