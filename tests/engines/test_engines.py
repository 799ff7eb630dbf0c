"""Engines are started, reached, identified and stopped."""

import asyncio
import subprocess
import sys

import psutil
import pytest

from harness import engines
from harness.engines import STARTS, resolve_kind, start_of
from harness.engines.api_client import ControlClient, ServedModel, api_key, pick_model
from harness.engines.interpreter_probe import flag_words
from harness.engines.process import EngineProcess
from harness.errors import EngineError, InputError
from harness.scenario.engine import ENGINE_KINDS, Engine
from tests.contracts.engine import check_engine, listens

SMALL = {"max_num_seqs": 8, "max-model-len": 512, "block_size": 128}
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture
def standing():
    """The address of an embedded engine that somebody else started."""
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "serve-sim", "--port", "0", "--model", MODEL, "--until-stdin-closes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        yield process.stdout.readline().strip()
        process.stdin.close()


def test_the_simulator_is_an_engine(tmp_path):
    """It is started, serves, says that it is simulated, and leaves nothing behind."""
    engine = Engine(kind="simulator", model=MODEL, args=SMALL)
    asyncio.run(check_engine(start_of("simulator"), engine, tmp_path / "engine.log", ends=True))

    assert (tmp_path / "engine.log").read_text()


def test_what_the_simulator_changes_is_told(tmp_path):
    """A block size that Ascend does not take, and a flag that it does not act on; the counters confirm the first."""
    engine = Engine(kind="simulator", model=MODEL, args={**SMALL, "block_size": 16, "load_format": "dummy"})

    async def start():
        async with start_of("simulator")(engine, tmp_path / "engine.log") as serving:
            return serving.configuration

    told = asyncio.run(start())

    assert [(row.flag, row.effective, row.source) for row in told.changed] == [
        ("block_size", 128, "metrics"), ("load_format", None, "simulator"),
    ]  # fmt: skip
    assert str(told.messages()[0]).startswith("block_size: requested 16, effective 128: vllm-ascend makes it 128")
    assert str(told.messages()[1]) == "load_format: requested dummy, no effect: the simulator does not act on it"
    assert (told.resolution["by"], told.effective["max_model_len"]) == ("simulator", 512)


def test_an_attached_server_is_an_engine_and_stays(tmp_path, standing):
    """It is used and not stopped; that it is a simulator is seen all the same."""
    engine = Engine(kind="attach", url=standing, model=MODEL)
    asyncio.run(check_engine(start_of("attach"), engine, tmp_path / "engine.log", ends=False))

    assert listens(standing)


def test_counters_of_an_attached_server_may_lie_elsewhere(tmp_path, standing):
    """Each address of `metrics` is a process that shows its counters, named by where; a silent one is no fault."""
    silent = "http://127.0.0.1:1"

    async def start():
        urls = [f"{standing}/metrics", f"{silent}/r0/metrics", f"{silent}/r1"]
        async with start_of("attach")(Engine(kind="attach", url=standing, metrics=urls), tmp_path / "x.log") as serving:
            return serving

    first, *others = asyncio.run(start()).processes

    assert (first.name, first.url, first.metrics_url) == (standing.removeprefix("http://"), None, standing)
    assert first.configuration.effective["num_gpu_blocks"] > 0
    assert [(each.name, each.metrics_url) for each in others] == [
        ("127.0.0.1:1/r0", f"{silent}/r0"), ("127.0.0.1:1/r1", f"{silent}/r1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "words"),
    [({"max_num_seq": 8}, "max_num_seqs"), ({"block_size": 0}, "block"), ({"max_num_seqs": "many"}, "many")],
)
def test_a_refused_flag_is_told_in_the_engines_words(tmp_path, args, words):
    """Wrong input, in one line that names the flag, before anything is started."""

    async def start():
        async with start_of("simulator")(Engine(kind="simulator", model=MODEL, args=args), tmp_path / "engine.log"):
            pass

    with pytest.raises(InputError) as caught:
        asyncio.run(start())

    assert words in str(caught.value)
    assert len(caught.value.lines) == 1


def test_stopping_ends_the_whole_group_and_nothing_else(tmp_path):
    """Children of the engine end with it, also those that ignore SIGTERM; a stranger lives on."""
    sleeper = (
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess,sys,time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleeper!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )

    async def life():
        process = EngineProcess([sys.executable, "-c", parent], tmp_path / "log")
        await process.start()
        child = psutil.Process(int(await process.first_line(20)))
        await process.stop()
        return child

    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as stranger:
        child = asyncio.run(life())
        _, alive = psutil.wait_procs([child], timeout=10)

        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
        assert stranger.poll() is None
        stranger.stdin.close()


def test_a_program_that_is_not_there_is_one_line(tmp_path):
    """The interpreter that a user named may not exist."""
    with pytest.raises(EngineError, match="cannot be run"):
        asyncio.run(EngineProcess(["/no/such/python"], tmp_path / "log").start())


def test_flags_are_written_as_the_engine_reads_them():
    """Snake case becomes kebab case, switches become --x and --no-x, mappings become JSON, and null is left out."""
    args = {"max_num_seqs": 8, "enforce_eager": True, "enable_prefix_caching": False, "seed": None, "extra": {"a": 1}}

    assert flag_words(args) == [
        "--max-num-seqs", "8", "--enforce-eager", "--no-enable-prefix-caching", "--extra", '{"a": 1}',
    ]  # fmt: skip


def test_auto_says_what_it_means_and_why():
    """Without an NPU it is the simulator; what was named is taken as named."""
    assert resolve_kind(Engine(kind="auto", model="m"))[0] == "simulator"
    kind, reason = resolve_kind(Engine(kind="vllm", model="m"))

    assert (kind, str(reason)) == ("vllm", "as requested")


@pytest.mark.parametrize(("package", "kind"), [("vllm_ascend", "vllm-ascend"), ("vllm", "simulator")])
def test_auto_looks_into_the_interpreter_that_would_serve(tmp_path, monkeypatch, package, kind):
    """With an NPU, what counts is whether engine.python has vllm-ascend, whatever this interpreter has."""
    monkeypatch.setattr(engines, "npu_devices", lambda: ["/dev/davinci0"])
    monkeypatch.setattr(engines, "has_package", lambda _: package != "vllm_ascend")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('it was imported')")
    asked = Engine(kind="auto", model="m", python=sys.executable, env={"PYTHONPATH": str(tmp_path)})
    found, why = resolve_kind(asked)

    assert found == kind
    assert sys.executable in str(why)
    assert resolve_kind(Engine(kind="auto", model="m", python="/no/such"))[0] == "simulator"
    assert resolve_kind(Engine(kind="auto", model="m"))[0] == ("vllm-ascend" if kind == "simulator" else "simulator")


def test_every_kind_can_be_started():
    """Auto becomes one of the others first."""
    assert set(STARTS) == set(ENGINE_KINDS) - {"auto"}
    assert start_of("vllm-ascend") is STARTS["vllm-ascend"].factory


def test_the_model_is_the_one_served_or_the_nearest_is_named():
    """Nothing asked: the base model, whatever adapters are there; several models: the user's choice."""
    base, alias, adapter = ServedModel("big", "/m"), ServedModel("alias", "/m"), ServedModel("lora", "/l", "big")

    assert pick_model(None, [adapter, base, alias], "url") == "big"
    assert pick_model("lora", [base, adapter], "url") == "lora"
    with pytest.raises(EngineError, match="did you mean 'Qwen3-8B'"):
        pick_model("Qwen3-8b", [ServedModel("Qwen3-8B", "x"), ServedModel("llama", "y")], "url")
    with pytest.raises(InputError, match="--model with one of a, b"):
        pick_model(None, [ServedModel("a", "a"), ServedModel("b", "b")], "url")
    with pytest.raises(InputError, match="--model with one of lora"):
        pick_model(None, [adapter], "url")


def test_a_key_comes_from_the_environment_or_not_at_all(monkeypatch):
    """A variable that is named must be set, and what it holds must fit into a header; it is never repeated."""
    monkeypatch.setenv("GOOD_KEY", "abc")
    monkeypatch.setenv("BAD_KEY", "secret\nsecret")

    assert (api_key(None), api_key("GOOD_KEY")) == ("", "abc")
    with pytest.raises(InputError, match="NO_KEY is not set"):
        api_key("NO_KEY")
    with pytest.raises(InputError) as caught:
        api_key("BAD_KEY")
    assert "secret" not in str(caught.value)


def test_tokenize_is_asked_and_its_absence_is_no_fault(standing):
    """The embedded engine counts tokens; where there is nothing, the answer is None."""

    async def ask(url):
        async with ControlClient(url) as control:
            return await control.tokenize({"model": MODEL, "prompt": "one two", "add_special_tokens": False})

    assert asyncio.run(ask(standing))["count"] == 2
    assert asyncio.run(ask("http://127.0.0.1:9")) is None
