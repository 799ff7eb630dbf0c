"""What an engine's log says of its start, in every wording."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.engine_log import (
    MEANINGS,
    BootFacts,
    advance,
    boot_facts,
    config_values,
    failure_cause,
    message_of,
)
from harness.messages import message
from harness.simulator.chips import GIB
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.memory import memory_of
from harness.simulator.vllm_formats import startup_lines

WORKER = "(Worker_TP0 pid=310) INFO 08-22 10:00:07 [worker.py:570] "
CORE = "(EngineCore pid=88) ERROR 08-22 10:00:09 [core.py:1510] "
SUMMARY = (
    "Free memory on device (60.41/60.97 GiB) on startup. Desired GPU memory utilization is (0.9, 54.87 GiB). Actual "
    "usage: 15.27 GiB for weights, 1.51 GiB for peak activation, 0.22 GiB for non-torch memory, 0.83 GiB for NPU graph "
    "memory. Replace gpu_memory_utilization with `--kv-cache-memory=39728447488` (37.0 GiB) to fit into requested "
    "memory, or `--kv-cache-memory=45741248512` (42.6 GiB) to fully utilize NPU free memory. Current KV cache memory: "
    "37.87 GiB. After warmup: torch reserved memory 54.5 GiB, torch allocated memory 54.1 GiB."
)
ENGINE = (
    "Initializing a V1 LLM engine (v0.27.1) with config: model='/models/a,b', speculative_config=None, "
    "dtype=torch.bfloat16, max_seq_len=32768, tensor_parallel_size=2, quantization=None, enforce_eager=False, "
    "kv_cache_dtype=auto, other=Config(seed=7, dtype=x), seed=0, enable_prefix_caching=True, "
    "compilation_config={'mode': 3, 'seed': 9}"
)
ONE_LINE = {
    "Platform plugin ascend is activated": {"plugin": "ascend"},
    "Using max model len 32768": {"max_model_len": 32768},
    "Chunked prefill is enabled with max_num_batched_tokens=8192.": {"max_num_batched_tokens": 8192},
    "Block size is set to 128 if prefix cache or chunked prefill is enabled.": {"block_size_forced": 128},
    "Loading model weights took 15.2670 GB": {"weights_gib": 15.267},
    "Model loading took 14.2487 GiB memory and 4.125000 seconds": {"weights_gib": 14.2487, "load_s": 4.125},
    "Model loading took 14.25 GB and 4.12 seconds": {"weights_gib": 14.25, "load_s": 4.12},
    "Model runner load_model total time: 12.50 seconds": {"load_s": 12.5},
    "Available KV cache memory: 37.87 GiB": {"available_kv_gib": 37.87},
    "Initial free memory 60.00 GiB, reserved 8.00 GiB for KV Cache as specified by kv_cache_memory_bytes": {
        "available_kv_gib": 8.0
    },
    "Explicitly set (1.0/11.46) GiB for KV cache on node 0.": {"available_kv_gib": 1.0},
    "NPU KV cache size: 1,234,567 tokens, Maximum concurrency for 32,768 tokens per request: 37.68x": {
        "device": "NPU", "kv_cache_tokens": 1234567, "max_concurrency": 37.68,
    },
    "GPU KV cache size: 2,073,728 tokens": {"device": "GPU", "kv_cache_tokens": 2073728},
    "Maximum concurrency for 32,768 tokens per request: 1,037.68x": {"max_concurrency": 1037.68},
    "Overriding num_gpu_blocks=900 with num_gpu_blocks_override=500": {"blocks": 500},
    "# GPU blocks: 812, # CPU blocks: 0": {"blocks": 812},
    "Graph capturing finished in 21 secs, took 0.83 GiB": {"graphs_s": 21.0, "graphs_gib": 0.83},
    "init engine (profile, create kv cache, warmup model) took 2.28 s": {"init_s": 2.28},
    "init engine (profile, create kv cache, warmup model) took 31.50 s (compilation: 12.25 s)": {
        "init_s": 31.5, "compilation_s": 12.25,
    },
    "init engine (profile, create kv_cache, warmup model) took 31.50 seconds": {"init_s": 31.5},
    "Application startup complete.": {"serves": True},
    SUMMARY: {
        "free_gib": 60.41, "total_gib": 60.97, "requested_gib": 54.87, "weights_gib": 15.27, "activation_gib": 1.51,
        "non_torch_gib": 0.22, "graphs_gib": 0.83, "suggested_kv_bytes": 39728447488,
    },
}  # fmt: skip


def said(facts):
    """What is known, by name."""
    return {name: value for name in facts.__slots__ if (value := getattr(facts, name)) not in (None, False)}


@pytest.mark.parametrize("line", ONE_LINE)
@pytest.mark.parametrize("prefix", ["", WORKER, "INFO 06-03 02:16:01 [kv_cache_utils.py:1017] ", "INFO:     "])
def test_each_line_tells_its_facts(line, prefix):
    """Both generations of vLLM's wording and vllm-ascend's, whatever process printed them."""
    if prefix == "INFO:     " and line.startswith("Maximum"):
        return  # uvicorn's prefix stands before its own lines only

    assert said(advance(BootFacts(), prefix + line)) == ONE_LINE[line]


def test_the_configuration_line_gives_its_flags():
    """Top-level values only: what is nested belongs to somebody else."""
    facts = advance(BootFacts(), f"(EngineCore_DP0 pid=5) INFO 08-22 10:00:01 [core.py:133] {ENGINE}")

    assert facts.version == "0.27.1"
    assert facts.config == {
        "dtype": "bfloat16", "max_seq_len": 32768, "tensor_parallel_size": 2, "quantization": None,
        "enforce_eager": False, "kv_cache_dtype": "auto", "seed": 0, "enable_prefix_caching": True,
    }  # fmt: skip


def test_the_twins_log_is_read_as_an_engines():
    """What the simulated engine prints comes back as the numbers that it was printed from."""
    flags = {"model": "Qwen/Qwen2.5-7B-Instruct", "max_model_len": 8192, "max_num_seqs": 32, "block_size": 64}
    settings = settings_from_flags(flags)
    memory = memory_of(settings)
    facts = boot_facts(startup_lines(settings, memory))

    assert (facts.kv_cache_tokens, facts.max_model_len) == (memory.cache_tokens, memory.max_model_len)
    assert facts.max_concurrency == pytest.approx(memory.concurrency, abs=0.005)
    assert facts.available_kv_gib == pytest.approx(memory.cache / GIB, abs=0.005)
    assert facts.total_gib == pytest.approx(memory.total / GIB, abs=0.005)
    assert facts.suggested_kv_bytes == memory.suggested_cache
    assert facts.block_size_forced == 128


@given(st.lists(st.sampled_from(list(ONE_LINE)), max_size=12))
def test_reading_as_it_grows_is_reading_it_whole(lines):
    """A log taken in by pieces gives the same facts."""
    facts = BootFacts()
    for line in lines:
        facts = advance(facts, line)

    assert facts == boot_facts(lines)


@given(st.text())
def test_any_line_is_read_without_a_fault(text):
    """A log holds everything; what is no fact leaves the facts as they are."""
    known = boot_facts([ENGINE])

    assert boot_facts([ENGINE, "x" + text.replace("KV", "")]).version == known.version
    assert failure_cause(text.splitlines()).kind in MEANINGS
    assert isinstance(config_values(text), dict)


def test_the_message_is_what_stands_behind_process_level_and_place():
    """Indents of tracebacks stay."""
    assert message_of(CORE + "ValueError: no") == "ValueError: no"
    assert message_of("(A pid=1)   File x") == "File x"
    assert message_of('  File "x", line 3') == '  File "x", line 3'


FAILURES = {
    "api_server.py: error: unrecognized arguments: --max-model-length 5": "flag",
    "api_server.py: error: argument --block-size: invalid int value: 'x'": "flag",
    "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use": "port",
    "RuntimeError: [ERROR] ERR02200 DIST call hccl api failed. EJ0003: Failed to bind the IP port.": "hccl",
    "EI0006: Getting socket times out. Reason: Remote Rank did not send the data in time.": "hccl",
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`": "out_of_memory",
    "ValueError: To serve at least one request with the model's max seq len (32768), (4.0 GiB KV": "out_of_memory",
    "ValueError: Free memory on device (3.1/60.97 GiB) on startup is less than desired GPU mem": "out_of_memory",
    "RuntimeError: NPU out of memory. Tried to allocate 22.00 MiB (NPU 6; 60.97 GiB total capacity": "out_of_memory",
    "torch.OutOfMemoryError: NPU out of memory.": "out_of_memory",
    "RuntimeError: AclmdlRICaptureBegin failed, error code is 207008": "capture",
    "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name': '/no/such'": "model",
    "OSError: x/y is not a local folder and is not a valid model identifier listed on 'https://hf.co'": "model",
    "  Value error, User-specified max_model_len (999999) is greater than the derived max_model_len": "config",
    "ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)]).": "config",
    "ValueError: ACL graph is incompatible with ASCEND_LAUNCH_BLOCKING=1.": "config",
    "NotImplementedError: this model is not for that device": "config",
    "ImportError: libatb.so: cannot open shared object file: No such file or directory": "device",
    "RuntimeError: Failed to infer device type": "device",
    "RuntimeError: call aclnnFusedInferAttentionScoreV3 failed, error code is 161002": "device",
    "ZeroDivisionError: division by zero": "crash",
}


@pytest.mark.parametrize("line", FAILURES)
def test_a_failure_is_told_by_its_decisive_line(line):
    """Among warnings, tracebacks and what other processes say of it, the line that decides is found."""
    log = [
        "(APIServer pid=1) WARNING 08-22 10:00:00 [system_utils.py:255] fd limit errors like `OSError: [Errno 24] Too`",
        "(APIServer pid=1) WARNING 08-22 10:00:00 [x.py:1] out of memory is possible, address already in use",
        "Traceback (most recent call last):",
        '  File "worker.py", line 3, in f',
        line if line.startswith(" ") else CORE + line,
        CORE + "RuntimeError: Worker failed with error 'something', please check the stack trace above",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
    ]
    failure = failure_cause(log)

    assert (failure.kind, failure.line) == (FAILURES[line], line.strip())
    assert str(failure.message) == f"{message(MEANINGS[failure.kind])}: {failure.line}"


def test_memory_that_ends_after_the_cache_is_set_up_ended_in_capture():
    """Between the cache's size and the end of the start, only graphs still take memory; in service it is plain."""
    cache, oom = WORKER + "GPU KV cache size: 5 tokens", CORE + "RuntimeError: NPU out of memory."
    started = WORKER + "init engine (profile, create kv cache, warmup model) took 2.28 s"

    assert failure_cause([oom]).kind == "out_of_memory"
    assert failure_cause([cache, oom]).kind == "capture"
    assert failure_cause([cache, started, oom]).kind == "out_of_memory"


def test_a_request_that_failed_long_ago_is_not_why_it_died():
    """Errors of single requests stand in the log of a long service; what follows the fatal word counts."""
    log = [
        "(APIServer pid=1) ERROR 08-22 10:00:00 [serving.py:1] ValueError: This model's maximum context length is 512",
        WORKER.replace("INFO", "ERROR") + "WorkerProc hit an exception.",
        WORKER.replace("INFO", "ERROR") + "RuntimeError: call aclnnAdd failed, error code is 161002",
    ]

    assert failure_cause(log).line == "RuntimeError: call aclnnAdd failed, error code is 161002"
    assert failure_cause([*log[:2], CORE + "ZeroDivisionError: division by zero"]).kind == "crash"
    assert failure_cause(log[:1]).line.startswith("ValueError: This model's")


def test_an_engine_that_says_nothing_still_has_a_failure():
    """A kind without a line, or the last thing that it said, cut where it is long."""
    assert failure_cause([]).message.code == MEANINGS["crash"]
    assert failure_cause(["first", "Segmentation fault"]).line == "Segmentation fault"
    assert len(failure_cause([CORE + "KeyError: " + "x" * 1000]).line) == 400


NANOBIND = (
    "nanobind: leaked 3 instances!",
    ' - leaked instance 0x7f21 of type "xgrammar.xgrammar_bindings.CompiledGrammar"',
    "nanobind: leaked 12 types!",
    ' - leaked type "xgrammar.xgrammar_bindings.GrammarMatcher"',
    "nanobind: this is likely caused by a reference counting issue in the binding code.",
)
GOING = (
    "[rank0]:[W829 10:00:10.1 ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() was not called",
    "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1",
    "leaked shared_memory objects to clean up at shutdown",
    "  warnings.warn('resource_tracker: There appear to be %d '",
    "(APIServer pid=1) INFO:     Shutting down",
    "asyncio.exceptions.CancelledError: Task cancelled",
)
DEAD = "(APIServer pid=1) ERROR 08-22 10:00:09 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: "
DEATHS = {
    "an exception in the core": (
        [
            CORE + "EngineCore encountered a fatal error.",
            CORE + "Traceback (most recent call last):",
            CORE + '  File "core.py", line 1500, in run_engine_core',
            CORE + "    raise RuntimeError(text)",
            CORE + "RuntimeError: the aclnn operator took too long",
        ],
        ("crash", "RuntimeError: the aclnn operator took too long"),
    ),
    "a core that the system killed": (
        ["(APIServer pid=1) ERROR 08-22 10:00:09 [x.py:1] Engine core process EngineCore_DP1 died unexpectedly."],
        ("crash", "Engine core process EngineCore_DP1 died unexpectedly."),
    ),
    "a core that left no word": (
        [],
        ("crash", f"{DEAD.split('] ')[1]}EngineCore encountered an issue. See stack trace (above) for the root cause."),
    ),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_in_service_is_told_by_what_the_dead_process_said(death):
    """Not by the survivors, nor by leak notices and other words of going away, nor by old errors of requests."""
    before = [
        "(APIServer pid=1) INFO 08-22 10:00:00 [launcher.py:1] Application startup complete.",
        *(["(APIServer pid=1) ERROR 08-22 10:00:01 [serving.py:1] ValueError: too long"] if DEATHS[death][0] else []),
    ]
    after = [f"{DEAD}EngineCore encountered an issue. See stack trace (above) for the root cause.", *NANOBIND, *GOING]
    found = failure_cause([*before, *DEATHS[death][0], *after])

    assert (found.kind, found.line) == DEATHS[death][1]


def test_leak_notices_alone_are_no_reason():
    """Where nothing else was said, only that it crashed is known."""
    assert failure_cause([*NANOBIND, *GOING]).message.code == MEANINGS["crash"]
