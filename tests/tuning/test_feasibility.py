"""Each kind of failure is known from the others by log and exit."""

import pytest

from harness.engines import engine_log
from harness.engines.engine_log import BootFacts
from harness.engines.process import EngineEnding
from harness.errors import EngineError
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from harness.tuning import feasibility
from harness.tuning.candidates import CandidateResolver, flag_resolver
from harness.tuning.feasibility import (
    CONFIGURATION,
    CRASH,
    DEVICE,
    HCCL,
    MEMORY_AT_CAPTURE,
    MEMORY_AT_RUN,
    MEMORY_AT_START,
    MODEL,
    PORT,
    TIMEOUT,
    Feasibility,
    StartRecord,
    classify_failure,
    failure_line,
    failure_of_kind,
    is_named,
)
from harness.tuning.types import TrialFailure
from tests.tuning.studies import problem_in

SERVING = "INFO:     Application startup complete."
CACHE = "NPU KV cache size: 1,234 tokens, Maximum concurrency for 32,768 tokens per request: 1.20x"
LOGS = {
    CONFIGURATION: ["vllm serve: error: argument --max-num-seqs: invalid int value: 'x'"],
    MEMORY_AT_START: ["ValueError: No available memory for the cache blocks. Try increasing gpu_memory_utilization"],
    MEMORY_AT_CAPTURE: [CACHE, "RuntimeError: NPU out of memory. Tried to allocate 264.00 MiB"],
    MEMORY_AT_RUN: [
        CACHE,
        "init engine (x) took 2 s",
        SERVING,
        "RuntimeError: NPU out of memory. Tried to allocate 2 GiB",
    ],
    HCCL: ["RuntimeError: HCCL function error: HcclGetRootInfo(&hcclID), error code is 7"],
    PORT: ["OSError: [Errno 98] Address already in use"],
    MODEL: ["OSError: /models/x does not appear to have a file named config.json."],
    DEVICE: ["ImportError: libascend_hal.so: cannot open shared object file: No such file or directory"],
    CRASH: ["RuntimeError: something else"],
}


@pytest.mark.parametrize("kind", LOGS)
def test_each_kind_is_told_by_its_log(kind):
    """Whatever the process and the time before its lines."""
    lines = [f"(EngineCore pid=7) ERROR 08-22 10:00:09 [core.py:1510] {line}" for line in LOGS[kind][-1:]]

    assert classify_failure(LOGS[kind]).kind == kind
    assert classify_failure([*LOGS[kind][:-1], *lines]).kind == kind
    assert LOGS[kind][-1] in classify_failure(LOGS[kind]).line


def test_every_kind_of_the_engine_log_has_one_here():
    """A kind that the log's reader learns is not lost on the way."""
    assert {classify_failure([]).kind} == {CRASH}
    assert set(engine_log.MEANINGS) == set(feasibility._KINDS)


def test_the_moment_may_be_to_blame_or_the_point():
    """Links, ports, time and crashes are tried once more; memory and flags would end the same way."""
    retried = {kind for kind in feasibility._MESSAGES if failure_of_kind(kind).retryable}

    assert retried == {HCCL, PORT, TIMEOUT, CRASH, DEVICE}


def test_a_reason_in_the_log_goes_before_the_clock():
    """It hung after its memory ran out: that is what was wrong."""
    slow = EngineEnding(timed_out=True)

    assert classify_failure(LOGS[MEMORY_AT_START], slow).kind == MEMORY_AT_START
    assert classify_failure(["loading weights …"], slow) == failure_of_kind(TIMEOUT, "loading weights …")
    assert classify_failure([], slow).kind == TIMEOUT


@pytest.mark.parametrize("status", [-9, 137])
def test_a_kill_is_the_hosts_memory(status):
    """Nobody else ends an engine so; another time there may be room."""
    found = classify_failure(["loading weights …"], EngineEnding(status))

    assert (found.kind, found.retryable) == (MEMORY_AT_START, True)
    assert classify_failure([SERVING], EngineEnding(status)).kind == MEMORY_AT_RUN


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({"gpu_memory_utilization": 0.3}, MEMORY_AT_START),
        ({"gpu_memory_utilization": 1.0}, MEMORY_AT_START),
        ({"gpu_memory_utilization": 0.99, "max_num_seqs": 512, "max_num_batched_tokens": 1024}, MEMORY_AT_CAPTURE),
        ({"max_num_seqs": 512, "max_num_batched_tokens": 256}, CONFIGURATION),
        ({"max_model_len": 99999}, CONFIGURATION),
        ({"block_size": 48, "enable_prefix_caching": False, "enable_chunked_prefill": False}, CONFIGURATION),
    ],
)
def test_the_twins_refusals_are_classified_as_an_engines(flags, kind):
    """It fails in the engine's own words."""
    base = {"model": "Qwen/Qwen3-8B", "chip": "910B4", "max_model_len": 32768, "max_num_batched_tokens": 32768}
    with pytest.raises(EngineError) as told:
        memory_of(settings_from_flags({**base, **flags}))
    cache = [CACHE] if kind == MEMORY_AT_CAPTURE else []

    assert classify_failure([*cache, *told.value.lines]).kind == kind


def test_a_failure_in_one_line():
    """Meaning and the engine's own words."""
    assert str(failure_line(failure_of_kind(MODEL))) == "the model cannot be loaded"
    assert str(failure_line(failure_of_kind(PORT, "[Errno 98]"))) == "its port was in use: [Errno 98]"


SPACE = {
    "gpu_memory_utilization": {"float": [0.3, 0.95]},
    "max_num_seqs": {"int": [2, 64]},
    "block_size": [128, 256],
}
CAPTURE = TrialFailure(feasibility.MEMORY_AT_CAPTURE, retryable=False, line="NPU out of memory while capturing graphs")
SMALL = TrialFailure(
    feasibility.MEMORY_AT_START, retryable=False, line="To serve at least one request with the model's max seq"
)


@pytest.fixture
def at(tmp_path):
    """Candidates by share of memory and number of requests."""
    problem = problem_in(tmp_path, space=SPACE)
    ground = CandidateResolver(problem, flag_resolver(problem))

    def candidate(share, requests, block=128):
        return ground.candidate({"gpu_memory_utilization": share, "max_num_seqs": requests, "block_size": block})

    return candidate


def taught(candidate, failure, **facts):
    """What one start has taught."""
    return Feasibility([StartRecord(candidate, BootFacts(**facts), failure)])


def test_what_ran_out_of_memory_does_so_with_more(at):
    """A larger share and more requests fail, too; less of either may live."""
    lessons = taught(at(0.8, 16), CAPTURE)

    assert lessons.predicted_failure(at(0.9, 32)) == feasibility.MEMORY_AT_CAPTURE
    assert lessons.predicted_failure(at(0.7, 32)) is None
    assert lessons.predicted_failure(at(0.9, 8)) is None


def test_a_cache_that_was_too_small_is_so_with_a_smaller_share(at):
    """Here it is the lower share that fails."""
    lessons = taught(at(0.5, 16), SMALL)

    assert lessons.predicted_failure(at(0.4, 16)) == feasibility.MEMORY_AT_START
    assert lessons.predicted_failure(at(0.6, 16)) is None


def test_the_arithmetic_is_corrected_by_the_logs(at):
    """A start that found 3 GiB less than expected makes all others expect about as much less."""
    plain = Feasibility()
    expected = plain.cache_gib(at(0.5, 16))
    lessons = taught(at(0.6, 16), None, available_kv_gib=plain.cache_gib(at(0.6, 16)) - 3, kv_cache_tokens=100_000)

    assert lessons.cache_gib(at(0.5, 16)) == pytest.approx(expected - 3, abs=0.2)


def test_a_refused_value_is_refused_again(at):
    """Where the engine named it; other values of the same parameter are not to blame."""
    refused = TrialFailure(feasibility.CONFIGURATION, retryable=False, line="ValueError: No common block size for 256.")
    lessons = taught(at(0.5, 16, block=256), refused)
    assert lessons.starts[0].candidate.point["block_size"] == 256

    assert is_named("block_size", 256, refused.line)
    assert not is_named("block_size", 25, refused.line)
    assert not is_named("max_num_seqs", 256, refused.line)


def test_what_the_flags_alone_forbid_is_refused_before_any_start(tmp_path):
    """More requests than tokens in a step never start."""
    problem = problem_in(tmp_path, space={"max_num_seqs": [8, 64], "max_num_batched_tokens": [32, 2048]})
    ground = CandidateResolver(problem, flag_resolver(problem))

    assert (
        Feasibility().predicted_failure(ground.candidate({"max_num_seqs": 64, "max_num_batched_tokens": 32}))
        is not None
    )
    assert Feasibility().predicted_failure(ground.candidate({"max_num_seqs": 8, "max_num_batched_tokens": 32})) is None


def test_a_start_reaches_beyond_those_that_served_by_its_share_and_its_graphs(at):
    """What asks for no more than one that came up reaches nowhere; failures teach nothing of it."""
    lessons = taught(at(0.8, 16), None)
    lessons.add(StartRecord(at(0.95, 64), BootFacts(), CAPTURE))

    assert lessons.memory_excess(at(0.8, 16)) == 0
    assert lessons.memory_excess(at(0.7, 8)) == 0
    assert lessons.memory_excess(at(0.9, 16)) == pytest.approx(0.1)
    assert lessons.memory_excess(at(0.8, 64)) == pytest.approx(0.02)
    assert Feasibility().memory_excess(at(0.9, 16)) == 0
