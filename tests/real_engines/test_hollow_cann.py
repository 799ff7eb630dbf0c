"""The real torch_npu on the stub CANN, with its own checks and none of CANN's."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.hollow import stubs

pytestmark = pytest.mark.engines

PROGRAM = Path(stubs.__file__).with_name("calls.py")
OPERATOR_US, CALLS = 2000, 5


@pytest.fixture(scope="module")
def told(ascend_python, cann, tmp_path_factory):
    """What tests/hollow/calls.py found, and the lines of the call log."""
    log = tmp_path_factory.mktemp("calls") / "calls.log"
    settings = stubs.environment(cann, mem_gib=1, op_us=OPERATOR_US, log=log)
    command = [ascend_python, str(PROGRAM)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), log.read_text(encoding="utf-8").splitlines()


def test_there_is_a_device(told):
    """It has the name and the memory that were set, and copies to it and back are exact."""
    found, _ = told

    assert (found["name"], found["memory"], found["same"]) == ("Ascend910B3", 1 << 30, True)


def test_a_call_reaches_cann_with_what_it_was_given(told):
    """Shapes, types, lists, layout and numbers stand in the call log, of both operator libraries."""
    found, calls = told
    attention = next(call for call in calls if call.startswith("aclnnFusedInferAttentionScoreV3("))

    assert found["shape"] == [4, 8, 128]
    assert "(bf16[4,8,128], [bf16[64,128,256]], [bf16[64,128,256]], 0, 0, [1,2,3,4], [5,5,5,5]," in attention
    assert '"TND", 2, 3, 0, 128,' in attention
    assert found["older"] == ""
    cache = "bf16[64,128,2,128]"
    paged = f"atb::PagedAttention(bf16[4,8,128], {cache}, {cache}, i32[4,16], cpu:i32[4]) -> (bf16[4,8,128])"
    assert f"{paged} heads=8 kv_heads=2 scale=0.09" in calls


def test_events_tell_the_time_of_the_queue(told):
    """Five operators of 2 ms take at least 10 ms between events, and are not done before they are waited for."""
    elapsed_ms, early = told[0]["timed"]

    assert elapsed_ms >= CALLS * OPERATOR_US / 1000
    assert early is False


def test_torch_npu_itself_refuses_what_is_wrong(told):
    """An unknown keyword, an unknown layout, and more memory than there is."""
    found, _ = told

    assert "block_tables" in found["unknown"]
    assert "layout only support" in found["layout"]
    assert "out of memory" in found["too_much"]


def test_an_operator_fails_from_the_call_on_that_was_asked_for(told):
    """The first call passes, the second and third do not; an operator of the older library fails by its name."""
    first, second, third, older = told[0]["failing"]

    assert first == ""
    assert "failed, error code is 161002" in second
    assert "failed, error code is 161002" in third
    assert "PagedAttention" in older
