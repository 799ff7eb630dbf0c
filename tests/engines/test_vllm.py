"""A vLLM (here a stand-in) is started, watched and stopped, and its failures are reported."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from harness.analysis.warnings import load
from harness.engines import process as stub_device
from harness.engines import start_of, vllm
from harness.engines.interpreter_query import InstalledEngine, reject_unknown_flags
from harness.engines.process import uses_stub_device
from harness.errors import EngineError, InputError
from harness.scenario.engine import Engine
from tests.contracts.engine import check_engine, listens
from tests.engines.test_guardian import wait_until_gone

FAKE = str(Path(__file__).parent.parent / "fake_engine")


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    """No kept answers of other runs, and little patience with the deaf."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vllm, "GRACE_S", 0.3)


def engine(mode="serve", kind="vllm", **changes):
    """The stand-in as a scenario would name it."""
    values = {"kind": kind, "model": "m", "python": sys.executable, "ready_timeout": 20.0, **changes}
    return Engine(**values | {"env": {"PYTHONPATH": FAKE, "FAKE_VLLM": mode} | values.get("env", {})})


async def serve(asked, log, during=lambda serving: None):
    """Start it, do something, and stop it; what it was."""
    async with start_of("vllm")(asked, log) as serving:
        result = during(serving)
        if asyncio.iscoroutine(result):
            await result
    return serving


async def ending_of(serving):
    """Why it ended, once it has."""
    while (ending := serving.ending()) is None:  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(0.02)
    return ending


def refused(asked, log, fault=EngineError):
    """The one line in which a start is refused."""
    with pytest.raises(fault) as caught:
        asyncio.run(serve(asked, log))
    assert all("\n" not in line for line in caught.value.lines)
    return str(caught.value)


def test_vllm_is_an_engine(tmp_path):
    """It keeps the contract of every engine, and leaves no process and no port behind."""
    asyncio.run(check_engine(start_of("vllm"), engine(), tmp_path / "engine.log", ends=True))

    assert "Application startup complete" in (tmp_path / "engine.log").read_text()


def test_what_it_runs_with_is_told(tmp_path):
    """Command, effective flags and process; it is neither simulated nor hollow."""
    asked = engine(args={"block_size": 16, "enable_prefix_caching": False, "max_model_len": 2048})
    serving = asyncio.run(serve(asked, tmp_path / "engine.log"))

    assert serving.command[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    assert serving.command[-5:] == ("--block-size", "16", "--no-enable-prefix-caching", "--max-model-len", "2048")
    assert (serving.kind, serving.model, serving.simulated, serving.stub_device) == ("vllm", "m", False, False)
    assert serving.configuration.effective["block_size"] == 128
    assert serving.configuration.effective["kv_cache_size_tokens"] == 1234567
    assert serving.configuration.effective["version"] == "0.23.0"
    assert wait_until_gone([serving.pid]) == []


def test_its_environment_is_the_scenarios(tmp_path, monkeypatch):
    """Devices by the platform's variable, the key from the environment, no usage statistics, and `env` over all."""
    monkeypatch.setenv("SOME_KEY", "k")
    asked = engine(devices=[2, 3], api_key_env="SOME_KEY", env={"OMP_NUM_THREADS": 1})
    seen = {}
    asyncio.run(serve(asked, tmp_path / "log", lambda one: seen.update(psutil.Process(one.pid).environ())))

    assert (seen["CUDA_VISIBLE_DEVICES"], seen["VLLM_API_KEY"], seen["OMP_NUM_THREADS"]) == ("2,3", "k", "1")
    assert seen["VLLM_NO_USAGE_STATS"] == "1"
    assert vllm.environment_of(engine(devices=[0]), "vllm-ascend")["ASCEND_RT_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("config", "the configuration was refused: ValueError: No common block size for 16 (ASCEND: [128])."),
        ("memory", "out of memory or streams while graphs were captured: RuntimeError: NPU out of memory."),
        ("port", "its port is in use: OSError: [Errno 98]"),
    ],
)
def test_a_death_at_start_is_one_line(tmp_path, mode, words):
    """The kind, the decisive line, the exit status, and where the whole log is."""
    log = tmp_path / "engine.log"
    line = refused(engine(mode), log)

    assert words in line
    assert "exit status 1" in line
    assert str(log) in line


def test_an_engine_that_never_answers_is_stopped(tmp_path):
    """After ready_timeout, with its last words."""
    line = refused(engine("never", ready_timeout=1.5), tmp_path / "engine.log")

    assert "not ready within 1.50 s" in line
    assert "NPU KV cache size" in line


@pytest.mark.parametrize("mode", ["deaf", "orphans"])
def test_nothing_of_it_is_left(tmp_path, mode):
    """Neither an engine that ignores SIGTERM, nor a deaf child that has left its group."""
    log = tmp_path / "engine.log"
    serving = asyncio.run(serve(engine(mode), log))
    children = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("child ")]

    assert len(children) == (mode == "orphans")
    assert wait_until_gone([serving.pid, *children]) == []
    assert not listens(serving.url)


def test_a_death_in_service_is_told(tmp_path):
    """Why it died, in one line; while it lives and when we stop it there is nothing to tell."""

    async def kill(serving):
        assert serving.ending() is None
        os.kill(serving.pid, signal.SIGKILL)
        assert "it was killed (SIGKILL)" in str(await ending_of(serving))

    asyncio.run(serve(engine(), tmp_path / "log", kill))
    alive = asyncio.run(serve(engine(), tmp_path / "log2"))

    assert alive.ending() is None


def test_a_death_under_load_names_its_line(tmp_path):
    """It answers once and dies of memory: either the start or its ending says so."""

    async def wait(serving):
        raise EngineError(await ending_of(serving))

    with pytest.raises(EngineError, match=r"out of memory: torch\.OutOfMemoryError.*exit status 3"):
        asyncio.run(serve(engine("dies"), tmp_path / "log", wait))


def test_a_busy_port_is_told_before_the_start(tmp_path):
    """Somebody else's server is neither used nor disturbed."""
    with closing(socket.create_server(("127.0.0.1", 0))) as busy:
        port = busy.getsockname()[1]
        line = refused(engine(port=port), tmp_path / "engine.log")

    assert f"engine.port {port}" in line
    assert "in use" in line
    assert not (tmp_path / "engine.log").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"max_num_seq": 8}, "engine.args.max_num_seq: vLLM has no such flag; did you mean 'max_num_seqs'?"),
        ({"blocksize": 8, "enforce_eager": True}, "did you mean 'block_size'?"),
        ({"max_num_seqs": False}, "engine.args.max_num_seqs: false: vLLM has no way to switch it off"),
        ({"max_num_seqs": True}, "engine.args.max_num_seqs: true is the value of a switch; expected a whole number"),
        ({"max_num_seqs": "many"}, "engine.args.max_num_seqs: invalid int value: 'many'"),
        ({"enforce_eager": "maybe"}, "engine.args.enforce_eager: a switch that is 'maybe'; expected true or false"),
        ({"port": 8000}, "engine.args.port: belongs elsewhere; expected engine.port"),
    ],
)
def test_unknown_flags_are_refused_before_a_start(tmp_path, args, words):
    """With the nearest that the installed version knows."""
    assert words in refused(engine(args=args), tmp_path / "engine.log", InputError)
    assert not (tmp_path / "engine.log").exists()


def test_flags_that_are_known_are_let_through():
    """Switched off, as a nested key, or with nothing known about the interpreter."""
    known = InstalledEngine(options=frozenset({"--enable-x", "--no-enable-x", "--compilation-config"}))
    reject_unknown_flags({"enable_x": False, "compilation_config.mode": 3}, known)
    reject_unknown_flags({"anything": 1}, InstalledEngine())

    with pytest.raises(InputError) as caught:
        reject_unknown_flags({"enable_y": 1, "compilation_confg": {}}, known)
    assert len(caught.value.lines) == 2


def test_a_configuration_that_vllm_refuses_is_told_before_a_start(tmp_path):
    """In the words of its own configuration code, and nothing is started."""
    line = refused(engine(args={"max_num_seqs": 64, "max_num_batched_tokens": 32}), tmp_path / "engine.log")

    assert line.endswith("check of its configuration: max_num_batched_tokens (32) must be at least max_num_seqs")
    assert not (tmp_path / "engine.log").exists()


def test_a_model_folder_that_is_not_there_is_told_at_once(tmp_path, monkeypatch):
    """Before vLLM is asked anything, with the nearest folder beside it."""
    (tmp_path / "qwen2").mkdir()
    monkeypatch.setattr(vllm, "examine_flags", None)
    line = refused(engine(model=f"{tmp_path}/qwen"), tmp_path / "engine.log", InputError)

    assert line == f"engine.model: there is no {tmp_path}/qwen; did you mean '{tmp_path}/qwen2'?"


def test_a_value_of_the_wrong_kind_is_told_before_a_start(tmp_path):
    """In the words of its own parser."""
    line = refused(engine(args={"max_num_seqs": "many"}), tmp_path / "engine.log", InputError)

    assert line == "engine.args.max_num_seqs: invalid int value: 'many'"
    assert not (tmp_path / "engine.log").exists()


def test_what_changed_is_told_with_its_source(tmp_path):
    """Before the start by the configuration code, and after it by the counters, which say the same."""
    told = asyncio.run(serve(engine(args={"block_size": 16}), tmp_path / "engine.log")).configuration.as_dict()
    row = told["changed"][0]

    assert told["resolution"]["by"] == "engine"
    assert told["resolution"]["effective"]["block_size"] == 128
    assert (row["flag"], row["asked"], row["effective"], row["before"]) == ("block_size", 16, 128, None)
    assert (row["source"], row["why"]) == ("metrics", "Block size is set to 128 here.")
    assert told["sources"]["max_num_seqs"] == "config code"


def test_what_cannot_be_resolved_is_started_all_the_same(tmp_path):
    """Without a device here, the flags are taken as asked until the engine tells, and the reason stands beside them."""
    told = asyncio.run(serve(engine("nodevice", args={"block_size": 16}), tmp_path / "log")).configuration

    assert told.resolution["by"] == "rules"
    assert "Failed to infer device type" in told.resolution["reason"]
    assert (told.effective["block_size"], told.sources["block_size"]) == (128, "metrics")


def test_an_interpreter_without_vllm_is_told(tmp_path):
    """What is missing, and what was expected instead."""
    log = tmp_path / "engine.log"

    assert "has no vllm; expected the interpreter" in refused(engine(env={"PYTHONPATH": ""}), log)
    assert "engine.python /no/such: cannot be run" in refused(engine(python="/no/such"), log)
    assert "engine.model: is missing" in refused(engine(model=None), log, InputError)
    with pytest.raises(EngineError, match="has no vllm_ascend"):
        asyncio.run(start_of("vllm-ascend")(engine(kind="vllm-ascend"), log).__aenter__())


def test_an_address_to_listen_on_is_one_to_ask():
    """All addresses are asked by loopback; IPv6 stands in brackets."""
    assert vllm.url_of("::", 1) == "http://[::1]:1"
    assert vllm.url_of(".".join("0000"), 1) == "http://127.0.0.1:1"
    assert vllm.url_of("localhost", 1) == "http://localhost:1"


def test_a_stand_in_for_cann_is_seen_in_any_process_of_the_group(tmp_path, monkeypatch):
    """Whatever maps the library makes the engine hollow."""
    monkeypatch.setattr(stub_device, "STUB_LIBRARY", "mapped-by-a-child")
    (tmp_path / "mapped-by-a-child").write_bytes(bytes(4096))
    child = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'rb'); m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print(1, flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    program = [sys.executable, "-c", child, str(tmp_path / "mapped-by-a-child")]
    with subprocess.Popen(program, **pipes, start_new_session=True) as process:
        process.stdout.readline()

        assert uses_stub_device(process.pid)
        assert not uses_stub_device(os.getpgid(0))
        process.stdin.close()


def test_a_hollow_run_is_never_valid():
    """An engine that computes nothing makes every number void; a real one raises no such warning."""
    warnings = list(load.hollow(None, {"engine": {"hollow": True}}))

    assert [(warning.code, warning.severity) for warning in warnings] == [("hollow", "invalid")]
    assert list(load.hollow(None, {"engine": {"hollow": False}})) == []
    assert list(load.hollow(None, {})) == []
