"""A simulated engine, or one on a stub device, is known by any one sign."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.client.connection import InFlightRequest
from harness.client.journal import AnswerJournal
from harness.engines import attach
from harness.engines.api_client import SIMULATOR_MARKS
from harness.engines.attach import listeners_at, record_server_marks
from harness.engines.base import Listeners
from harness.results import store
from harness.simulator.response_stream import FINGERPRINT
from harness.simulator.server import VERSION
from harness.simulator.service import OWNER, SIMULATED_HEADER
from tests.execution.test_run import account, harness, scenario

PROXY = str(Path(__file__).parent.parent / "hiding_proxy.py")


@contextmanager
def _serving(*words):
    """A server of ours in a process of its own; its address."""
    with subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def test_a_hidden_engine_is_measured_and_known(tmp_path, monkeypatch):
    """Behind a proxy that drops headers and calls a stream JSON: every answer counts, valid, and marked simulated."""
    path, out = scenario(tmp_path, [{"constant": {"rate": 20, "duration": "1s"}}]), tmp_path / "out"
    with (
        _serving("-m", "harness", "serve-sim", "--port", "0", "--until-stdin-closes") as engine,
        _serving(PROXY, engine.rpartition(":")[2]) as proxy,
    ):
        done = harness("run", path, "--url", proxy, "--out", out)

    summary = store.read_json(out, store.SUMMARY)
    assert (done.returncode, account(out)["completed"]) == (0, 20), done.stderr
    assert (summary["verdict"]["valid"], summary["simulated"]) == (True, True)
    assert "The engine was simulated" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("sign", [f"{SIMULATED_HEADER}: 1", OWNER, VERSION, FINGERPRINT])
def test_one_sign_is_enough(sign):
    """Header, owner of the model list, version, fingerprint: each alone."""
    assert SIMULATOR_MARKS.search(sign.encode())
    assert SIMULATOR_MARKS.search(b'{"system_fingerprint": "vllm-0.32.0-tp2"}') is None


def _answered(folder, *bodies):
    """A result folder with these answers, as note_signs leaves run.json."""
    (folder / store.RAW).mkdir()
    run = {"format": 1, "name": "marks", "question": "Which engine?", "stages": []}
    store.write_json(folder, store.RUN, run | {"engine": {"model": "m", "simulated": False}})
    spool = AnswerJournal(folder / store.RAW / "spool-0.bin")
    for number, body in enumerate(bodies):
        request = InFlightRequest(number, b"", 0, lambda _: None)
        request.pieces, request.stamps = [body[:9], body[9:]], [1, 2]
        spool.append(request)
    spool.close()
    record_server_marks(folder)
    return store.read_run(folder)["engine"]


def test_the_first_answers_tell_the_engine_and_the_model(tmp_path):
    """The fingerprint marks the run, and the names of models are kept once each."""
    told = [json.dumps({"model": name, "choices": [{"text": '"model": "z"'}]}).encode() for name in ("a", "b", "a")]
    found = _answered(tmp_path, *told, json.dumps({"system_fingerprint": FINGERPRINT}).encode())

    assert (found["simulated"], found["answered_models"]) == (True, ["a", "b"])


def test_answers_of_a_real_engine_leave_no_mark(tmp_path):
    """A model's name alone changes nothing of what is known; answers far down are not looked at."""
    body = json.dumps({"model": "m"}).encode()
    found = _answered(tmp_path, *[body] * attach.RESPONSES_PER_WORKER, FINGERPRINT.encode())

    assert found == {"model": "m", "simulated": False, "answered_models": ["m"]}


def _connection(pid, port, to=None):
    """What psutil tells of a listening process, or of one that is connected to a port."""
    place = SimpleNamespace(ip="127.0.0.1", port=port)
    other = SimpleNamespace(ip="127.0.0.1", port=to) if to else ()
    return SimpleNamespace(pid=pid, laddr=place, raddr=other, status=psutil.CONN_ESTABLISHED if to else "LISTEN")


@pytest.fixture
def processes(monkeypatch):
    """Process 1 listens at port 80 and is connected to process 2 at 81, whose child 3 has the hollow library."""
    rows = [_connection(1, 80), _connection(1, 5000, 81), _connection(2, 81), _connection(9, 99)]
    monkeypatch.setattr(attach, "_connections", lambda: rows)
    monkeypatch.setattr(attach, "_children", lambda pid: [3] if pid == 2 else [])
    monkeypatch.setattr(attach, "_identities", lambda pids: ((pid, 0.5) for pid in pids))
    monkeypatch.setattr(attach, "maps_stub_library", lambda pid: pid == 3)
    monkeypatch.setattr(attach, "_is_simulator", lambda pid: pid == 9)


def test_a_proxy_on_this_machine_is_seen_through(processes):
    """The processes that it is connected to, and their children, count as well; others do not."""
    assert listeners_at("http://127.0.0.1:80") == Listeners(frozenset({(1, 0.5)}), simulated=False, stub_device=True)
    assert listeners_at("http://127.0.0.1:99/v1") == Listeners(frozenset({(9, 0.5)}), simulated=True, stub_device=False)
    assert listeners_at("http://127.0.0.1:7") == listeners_at("http://a.example:80") == Listeners()


def test_another_process_at_the_address_is_a_restart():
    """Where one of them stays it is the same server; where nothing is known nothing is said."""
    one, two, both = (Listeners(frozenset(known)) for known in ({(1, 0.5)}, {(2, 0.5)}, {(1, 0.5), (2, 0.5)}))

    assert one.is_another(two)
    assert not any(
        (one.is_another(one), one.is_another(both), one.is_another(Listeners()), Listeners().is_another(one))
    )
