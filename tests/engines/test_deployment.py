"""Several processes are one engine: started, named where one fails or dies, and all gone at the end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from harness.engines import deployment as deployment_start
from harness.engines import process_starts, resolve_clock, start_of
from harness.engines.deployment import command_lines
from harness.engines.process_starts import filled
from harness.errors import EngineError, InputError
from harness.scenario.deployment import Process
from harness.scenario.engine import Engine
from harness.scenario.processes import processes_of
from tests.contracts.engine import answer_of, listens

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
SMALL = {"max_num_seqs": 8, "max_model_len": 512}
REPLICAS = {"data_parallel": {"size": 2, "load_balancer": "independent"}}
# A server of a team's own: /health answers 200, anything else too, with a child that outlives nothing.
SERVER = """
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, os.environ.get("WHERE"), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"data": [{"id": "m"}]}'
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def deployment(**keys):
    """A deployment of small simulators in real time."""
    return Engine(**{"kind": "deployment", "clock": "real", "model": MODEL, "args": SMALL, **keys})


def started(engine, log, use):
    """What `use` makes of a deployment that serves."""

    async def run():
        async with start_of("deployment")(engine, log) as serving:
            return await use(serving)

    return asyncio.run(run())


def test_replicas_behind_the_proxy_are_one_engine(tmp_path):
    """Requests are answered, each process has its name, log, counters and configuration, and nothing is left."""

    async def use(serving):
        answers = [await answer_of(serving, stream=stream) for stream in (True, False)]
        return serving, [(answer.error, answer.output_tokens) for answer in answers]

    serving, answers = started(deployment(preset=REPLICAS), tmp_path / "engine.log", use)
    first, second, proxy = serving.processes

    assert answers == [("", 5), ("", 5)]
    assert (serving.kind, serving.model, serving.simulated, serving.url) == ("deployment", MODEL, True, proxy.url)
    assert [(process.name, process.role, process.kind, process.log) for process in serving.processes] == [
        ("replica-0", "replica", "simulator", "engine-replica-0.log"),
        ("replica-1", "replica", "simulator", "engine-replica-1.log"),
        ("proxy", "proxy", "proxy", "engine-proxy.log"),
    ]
    assert (first.metrics_url, second.metrics_url, proxy.metrics_url) == (first.url, second.url, None)
    assert first.configuration.effective["max_num_seqs"] == 8
    assert "Starting vLLM server" in (tmp_path / "engine-replica-0.log").read_text()
    assert [listens(process.url) for process in serving.processes] == [False] * 3
    assert [pid for pid in serving.pids if psutil.pid_exists(pid)] == []


def test_what_a_scenario_lists_is_read_again_as_it_is():
    """Load workers get the checked scenario as JSON: what was left out is left out there, too."""
    processes = [{"name": "a"}, {"name": "b", "role": "proxy", "policy": "round-robin"}]
    engine = deployment(processes=processes, preset=REPLICAS, process={"kind": "simulator"})

    assert Engine.model_validate(engine.model_dump(mode="json", exclude_none=True)) == engine
    assert Engine.model_validate(engine.model_dump(mode="json", exclude_defaults=True)) == engine


def test_a_death_is_told_by_name(tmp_path):
    """Whichever process it is, and the others are stopped."""

    async def use(serving):
        victim = serving.processes[1]
        assert serving.ending() is None
        os.kill(victim.pid, signal.SIGKILL)
        while (ending := serving.ending()) is None:  # noqa: ASYNC110 - of a process, which tells nobody
            await asyncio.sleep(0.01)
        assert str(victim.ending()) == str(ending)
        return serving, str(ending)

    serving, ending = started(deployment(preset=REPLICAS), tmp_path / "engine.log", use)

    assert ending.startswith("process replica-1: the engine died: it was killed (SIGKILL); ")
    assert [listens(process.url) for process in serving.processes] == [False] * 3


@pytest.mark.parametrize(
    ("args", "fault", "line"),
    [
        ({"max_num_seq": 8}, InputError, "process b: engine.args.max_num_seq: "),
        ({"gpu_memory_utilization": 0.001}, EngineError, "process b: engine: "),
    ],
)
def test_one_that_does_not_start_is_told_by_name_and_stops_the_others(tmp_path, args, fault, line):
    """In its own words, and nothing of the others is left."""
    processes = [{"name": "a"}, {"name": "b", "args": args}, {"name": "p", "role": "proxy"}]
    with pytest.raises(fault) as caught:
        started(deployment(processes=processes), tmp_path / "engine.log", None)

    assert str(caught.value).startswith(line)
    assert [child for child in psutil.Process().children() if "serve-sim" in child.cmdline()] == []


def test_a_command_is_a_process_too(tmp_path):
    """Ready by its own address, its variables and placeholders filled in, and ended with its children."""
    program = tmp_path / "serve.py"
    program.write_text(SERVER)
    process = {
        "name": "own", "kind": "command", "command": [sys.executable, str(program), "{host}", "{port}"],
        "env": {"WHERE": "at {url:own} on {devices}"}, "devices": [2, 3], "ready": "/ready",
    }  # fmt: skip

    async def use(serving):
        return serving

    serving = started(Engine(kind="deployment", model="m", processes=[process]), tmp_path / "engine.log", use)
    (own,) = serving.processes
    said = (tmp_path / "engine-own.log").read_text().split(maxsplit=2)

    assert (own.kind, own.devices, serving.model, serving.simulated) == ("command", (2, 3), "m", False)
    assert own.command[-1] == own.url.rpartition(":")[2]
    assert said[2].strip() == f"at {own.url} on 2,3"
    assert not psutil.pid_exists(int(said[1]))


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path):
    """What answers there would else be taken for the process."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = {"name": "own", "kind": "command", "command": "no-such-program", "port": port}
        with pytest.raises(EngineError, match=f"process own: engine.port {port}: cannot listen on 127.0.0.1"):
            started(Engine(kind="deployment", model="m", processes=[process]), tmp_path / "engine.log", None)


def test_a_command_that_ends_is_told_with_its_last_words(tmp_path):
    """Its name, and the line of its log that decides."""
    command = [sys.executable, "-c", "raise SystemExit('no cards here')"]
    process = {"name": "own", "kind": "command", "command": command}
    with pytest.raises(EngineError, match="process own: engine: did not start: it crashed: no cards here"):
        started(Engine(kind="deployment", model="m", processes=[process]), tmp_path / "engine.log", None)


def test_a_process_elsewhere_is_waited_for_and_told_where_it_is_not(tmp_path):
    """It is not started here: an address of the documentation's network never answers."""
    process = {"name": "far", "kind": "vllm", "host": "192.0.2.1", "port": 9, "ready_timeout": 0.3}
    with pytest.raises(EngineError, match=r"process far: nothing that is well answers at http://192\.0\.2\.1:9"):
        started(Engine(kind="deployment", model="m", processes=[process]), tmp_path / "engine.log", None)


def test_a_process_elsewhere_is_used_and_left_and_missed_when_it_goes(tmp_path, monkeypatch):
    """It is waited for and described by what it shows; that it has gone is seen though it is no child."""
    for module in (process_starts, deployment_start):
        monkeypatch.setattr(module, "is_loopback", lambda _host: False)
        monkeypatch.setattr(module, "is_this_host", lambda _host: False)
    monkeypatch.setattr(process_starts, "_LOOK_S", 0.05)
    words = [sys.executable, "-m", "harness", "serve-sim", "--port", "0", "--model", MODEL, "--until-stdin-closes"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}

    async def use(serving):
        (far,) = serving.processes
        answer = await answer_of(serving)
        shown = (
            far.pid,
            far.log,
            far.kind,
            far.simulated,
            answer.output_tokens,
            "block_size" in far.as_dict()["effective"],
        )
        assert serving.ending() is None
        elsewhere.kill()
        while (ending := serving.ending()) is None:  # noqa: ASYNC110 - of a process, which tells nobody
            await asyncio.sleep(0.01)
        return shown, str(ending)

    with subprocess.Popen(words, text=True, **pipes) as elsewhere:
        url = elsewhere.stdout.readline().strip()
        process = {"name": "far", "kind": "vllm", "port": int(url.rpartition(":")[2])}
        engine = Engine(kind="deployment", model=MODEL, processes=[process])
        shown, ending = started(engine, tmp_path / "engine.log", use)
        elsewhere.stdin.close()

    assert shown == (None, None, "vllm", True, 5, True)
    assert ending == f"process far: the engine at {url} died: nothing answers there any more"


def test_placeholders_of_a_role_become_words():
    """One for each process of it, in order."""
    processes = [
        Process(name="a", role="prefill", kind="vllm", port=8000, host="0.0.0.0"),
        Process(name="b", role="prefill", kind="vllm", port=8001, host="10.0.0.2"),
    ]
    words = filled(["--hosts", "{hosts:prefill}", "--at={url:b}", "{port:a}"], processes[0], processes)

    assert words == ["--hosts", "127.0.0.1", "10.0.0.2", "--at=http://10.0.0.2:8001", "8000"]


def test_what_a_preset_writes_is_shown_as_a_shell_types_it():
    """Variables, command line, and whether it is started here."""
    engine = Engine(
        kind="deployment", model="m", preset={"prefill_decode": {"prefill": 1, "decode": 1}},
        process={"kind": "vllm-ascend"}, decode={"host": "192.0.2.1", "port": 7100},
    )  # fmt: skip
    (prefill, line, here), (_, far, there), (_, proxy, _) = command_lines(engine, "simulator")

    assert (prefill.name, here, there) == ("prefill-0", True, False)
    assert line.startswith("VLLM_NO_USAGE_STATS=1 ASCEND_RT_VISIBLE_DEVICES=0 vllm serve m --host 127.0.0.1 --port")
    assert """--kv-transfer-config '{"kv_connector": "MooncakeConnectorV1", "kv_role": "kv_producer",""" in line
    assert "vllm serve m --host 192.0.2.1 --port 7100" in far
    assert proxy.endswith(
        "--prefill 'http://127.0.0.1:{port:prefill-0}' --decode http://192.0.2.1:7100 --policy least-loaded"
    )


def test_what_auto_means_here_decides_whose_time_is_kept():
    """With an NPU its processes are real, and so is the time."""
    engine = Engine(kind="deployment", model="m", processes=[{"name": "a"}])

    assert (resolve_clock(engine)[0], resolve_clock(engine, "vllm-ascend")[0]) == ("virtual", "real")


def test_a_proxy_of_the_users_own_stands_in_place_of_ours():
    """A preset beside a listed proxy, or an address, writes none."""
    own = [{"name": "mine", "role": "proxy", "kind": "command", "command": "x"}]

    assert [process.name for process in processes_of(deployment(preset=REPLICAS, processes=own))][-1] == "mine"
    assert len(processes_of(deployment(preset=REPLICAS, url="http://127.0.0.1:9"))) == 2
