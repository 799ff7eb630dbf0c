"""`harness run` ends as it should, whatever happens to server, client or user."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.api.result import read_result
from harness.cli.app import main
from harness.results import store, table_files

HARNESS = [sys.executable, "-m", "harness"]
SECRET = "sk-this-must-never-be-written-4711"


def harness(*words):
    """Run a command of the harness to its end, as a process."""
    return subprocess.run(  # noqa: PLW1510 - the exit code is what is tested
        [*HARNESS, *map(str, words)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def obeyed(capfd):
    """Run a command to its end in this process: the same words and exits without another start of Python.

    Its workers and engines are processes as ever, and what they say is heard too.
    """

    def run(*words):
        with pytest.raises(SystemExit) as end:
            main(list(map(str, words)))
        said = capfd.readouterr()
        return subprocess.CompletedProcess(words, end.value.code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def server():
    """The address of a server with known token times: first token after 20 ms, then one every 5 ms."""
    with subprocess.Popen(
        [sys.executable, "-m", "harness.selfcheck.reference_server",
         "--first", "20ms", "--gap", "5ms", "--tied", "--life", "5m"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process.stdout.readline().strip()
        process.stdin.close()


def scenario(folder, load, **more):
    """A scenario file with this load."""
    clock = {} if "offline" in load[0] else {"clock": "real"}  # an offline stage has no real time
    told = {
        "name": "check",
        "question": "Does it hold?",
        "engine": {"kind": "simulator", "model": "Qwen/Qwen2.5-0.5B-Instruct", **clock},
        "workload": {"kind": "synthetic", "input_tokens": 32, "output_tokens": 10},
        "load": load,
    }
    path = folder / "check.yaml"
    path.write_text(json.dumps(told | more), encoding="utf-8")
    return path


def account(folder):
    """Statuses of all requests of a result, summed over stages, after checking that they add up."""
    total = {"completed": 0, "failed": 0, "cancelled": 0, "never_sent": 0}
    for stage in store.read_json(folder, store.SUMMARY)["stages"]:
        requests = stage["requests"]
        assert requests["scheduled"] == sum(requests[name] for name in total)
        total = {name: total[name] + requests[name] for name in total}
    return total


CONSTANT = [{"constant": {"rate": 100, "requests": 50}}]
LONG = [{"constant": {"rate": 50, "duration": "30s"}}]


@contextlib.contextmanager
def running(*words, begun):
    """A harness in a process group of its own, once `begun()` holds; killed at the end whatever happens."""
    process = subprocess.Popen(
        [*HARNESS, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(1200):
            if begun() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def some_sent(out):
    """Whether the ledger of a run has rows already."""
    ledger = out / "raw" / "ledger-0.bin"
    return lambda: ledger.exists() and ledger.stat().st_size > 0


def test_a_run_leaves_every_file_and_counts_every_token(tmp_path, server):
    """A run against a server ends with all files of the contract, 50 requests of 10 tokens, and exit 0."""
    done = harness(
        "run", scenario(tmp_path, CONSTANT), "--url", server, "--out", tmp_path / "out", "--quiet", "--trace"
    )

    assert (done.returncode, done.stderr) == (0, "")
    names = {"run.json", "requests.parquet", "events.parquet", "samples.parquet", "summary.json", "report.html"}
    names |= {"summary.md", "junit.xml", "vllm-bench.json", "timeline.json", "trace.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert account(tmp_path / "out")["completed"] == 50
    (stage,) = store.read_json(tmp_path / "out", store.SUMMARY)["stages"]
    assert (stage["output_tokens"], stage["input_tokens"]) == (500, 1600)
    assert str(tmp_path / "out" / "report.html") in done.stdout


def test_the_schedule_does_not_depend_on_the_workers(tmp_path, server, obeyed):
    """With one, two and three workers the same sessions are due at the same times, and all are answered."""
    path, found = scenario(tmp_path, [{"poisson": {"rate": 80, "requests": 40}}], warmup={"requests": 5}), []
    for workers in (1, 2, 3):
        out = tmp_path / f"out{workers}"
        done = obeyed("run", path, "--url", server, "--out", out, "--set", f"workers={workers}", "--quiet")
        assert done.returncode == 0, done.stderr
        requests = table_files.read_requests(out)
        found.append((requests.session.tolist(), requests.due_ns.tolist(), requests.phase.tolist()))
        assert set(requests.worker.tolist()) == set(range(workers))
        assert set(requests.status) == {"completed"}

    assert found[0] == found[1] == found[2]


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        """Answer everything with a web page."""
        body = b"<html><body>It works!</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def web_page():
    """The address of a server that is no engine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_server_that_is_no_engine_is_one_line_and_no_result(tmp_path, server, web_page, obeyed):
    """Nothing listening, a web page, and a model that is not there: exit 3, one line, no folder."""
    path, out = scenario(tmp_path, CONSTANT), tmp_path / "out"
    cases = [
        (["--url", "http://127.0.0.1:9"], "is the server running there?"),
        (["--url", web_page], "expected the model list of an OpenAI-compatible server"),
        (["--url", server, "--model", "reference-serve"], "did you mean 'reference-server'?"),
    ]
    for words, expected in cases:
        done = obeyed("run", path, *words, "--out", out, "--quiet")

        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
        assert expected in done.stderr
        assert not out.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--url", "ftp://x"], "--url"),
        (["--engine", "simulater"], "did you mean 'simulator'?"),
        (["--engine", "attach"], "url"),
        (["--seed", "-1"], "--seed"),
        (["--set", "load.0.constant.rate=0"], "rate"),
        (["--set", "engine.api_key_env=NO_SUCH_VARIABLE", "--url", "http://127.0.0.1:9"], "NO_SUCH_VARIABLE"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(tmp_path, words, expected, obeyed):
    """A mistyped flag or value ends before anything is started."""
    done = obeyed("run", scenario(tmp_path, CONSTANT), "--out", tmp_path / "out", *words)

    lines = [line for line in done.stderr.splitlines() if not line.startswith("harness: engine: ")]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert expected in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_result_is_never_written_over(tmp_path, server, obeyed):
    """A folder that holds a result already, or the raw files of one, is refused and left as it is."""
    path = scenario(tmp_path, CONSTANT)
    for kept in ("result/run.json", "other/raw/somebodys.txt"):
        file = tmp_path / kept
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        done = obeyed("run", path, "--url", server, "--out", tmp_path / kept.split("/")[0])

        assert (done.returncode, "holds a result already" in done.stderr) == (2, True)
        assert file.read_text() == "{}"


def test_ctrl_c_once_waits_for_what_is_in_flight_and_reports(tmp_path, server):
    """Nothing more is sent, nothing sent is lost, the page is there, and the exit is 130."""
    path, out = scenario(tmp_path, LONG), tmp_path / "out"
    with running("run", path, "--url", server, "--out", out, begun=some_sent(out)) as process:
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)

        assert process.returncode == 130
    found = account(out)
    assert found["completed"] > 0
    assert found["never_sent"] == 1500 - found["completed"]
    assert (found["cancelled"], found["failed"]) == (0, 0)
    assert (out / "report.html").exists()
    result = read_result(out)
    assert (result.exit_code, len(result.reasons)) == (130, 1)
    assert json.loads((out / "run.json").read_text())["interrupted"] is True


def test_ctrl_c_twice_leaves_at_once_with_a_folder_that_can_be_read(tmp_path, server, obeyed):
    """The second Ctrl-C does not wait for answers; `harness report` makes the account afterwards."""
    path, out = (
        scenario(tmp_path, LONG, workload={"kind": "synthetic", "input_tokens": 9, "output_tokens": 9000}),
        tmp_path / "out",
    )
    with running("run", path, "--url", server, "--out", out, begun=some_sent(out)) as process:
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=20)

        assert process.returncode == 130
    done = obeyed("report", out)
    found = account(out)
    assert done.returncode == 0, done.stderr
    assert found["cancelled"] > 0
    assert sum(found.values()) == 1500


def test_sigkill_leaves_an_account_and_no_orphans(tmp_path, obeyed):
    """After SIGKILL of the harness its workers and its engine are gone, and what was sent is accounted for."""
    path, out = scenario(tmp_path, LONG), tmp_path / "out"
    with running("run", path, "--out", out, begun=some_sent(out)) as process:
        time.sleep(0.5)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=15)

        assert len(children) >= 2
        assert alive == []
    done = obeyed("report", out)
    assert done.returncode == 0, done.stderr
    assert sum(account(out).values()) == 1500
    assert account(out)["completed"] > 0


def test_a_dead_worker_is_told_and_its_requests_are_accounted_for(tmp_path, server):
    """One of two workers is killed: exit 3, one line, its requests in flight cancelled as lost."""
    path, out = scenario(tmp_path, LONG, workers=2), tmp_path / "out"
    with running("run", path, "--url", server, "--out", out, begun=some_sent(out)) as process:
        time.sleep(0.5)
        workers = [p for p in psutil.Process(process.pid).children() if "harness.client.worker" in p.cmdline()]
        workers[0].send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=40)

        assert (process.returncode, "died" in errors) == (3, True)
    assert sum(account(out).values()) == 1500
    result = read_result(out)
    assert (result.exit_code, len(result.reasons), "died with exit status -9" in result.reasons[0]) == (3, 1, True)


def test_a_stuck_worker_is_ended_and_its_requests_are_accounted_for(tmp_path, server, monkeypatch):
    """One of two workers never runs again: exit 3, one line, its requests of the journal, and those of the other."""
    path, out = scenario(tmp_path, LONG, workers=2), tmp_path / "out"
    impatient = (
        "from harness.client import worker_pool; worker_pool.STUCK_S = 2.0; from harness.cli.app import main; main()"
    )
    monkeypatch.setattr(sys.modules[__name__], "HARNESS", [sys.executable, "-c", impatient])
    with running("run", path, "--url", server, "--out", out, begun=some_sent(out)) as process:
        time.sleep(0.5)
        workers = [p for p in psutil.Process(process.pid).children() if "harness.client.worker" in p.cmdline()]
        workers[0].send_signal(signal.SIGSTOP)
        _, errors = process.communicate(timeout=60)

        assert process.returncode == 3
        assert (
            sum("was stuck: it gave no sign of life for 2.00 s and was ended" in line for line in errors.splitlines())
            == 1
        )
        assert [p for p in workers if p.is_running()] == []
    found = account(out)
    assert sum(found.values()) == 1500
    assert found["completed"] > 0
    assert found["cancelled"] > 0
    assert read_result(out).exit_code == 3


def test_an_engine_that_dies_is_told_and_reported(tmp_path):
    """The simulator is killed in mid-run: exit 3, its end in one line, the failures in the account, and not valid."""
    path, out = scenario(tmp_path, LONG), tmp_path / "out"
    with running("run", path, "--out", out, begun=some_sent(out)) as process:
        time.sleep(0.5)
        (engine,) = [p for p in psutil.Process(process.pid).children() if "serve-sim" in p.cmdline()]
        engine.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=40)

        assert (process.returncode, "the engine died" in errors) == (3, True)
    found = account(out)
    assert sum(found.values()) == 1500
    assert found["never_sent"] > 0
    _not_valid(out)


def _not_valid(out):
    """The engine's death is in summary.json, on the page, in summary.md and in the JUnit file."""
    verdict = store.read_json(out, store.SUMMARY)["verdict"]
    texts = [(out / name).read_text(encoding="utf-8") for name in ("report.html", "summary.md", "junit.xml")]

    assert verdict["valid"] is False
    assert "died" in [warning["code"] for warning in verdict["warnings"] if warning["severity"] == "invalid"]
    assert all("The run did not come to its end: the engine" in text for text in texts)
    assert '<failure message="' in texts[2]


def test_a_server_that_dies_is_told_and_reported(tmp_path):
    """An attached server is killed in mid-run: its failures are counted to the end, exit 3, and not valid."""
    path, out = scenario(tmp_path, [{"constant": {"rate": 50, "duration": "3s"}}]), tmp_path / "out"
    with subprocess.Popen(
        [*HARNESS, "serve-sim", "--port", "0", "--until-stdin-closes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        url = server.stdout.readline().strip()
        with running("run", path, "--url", url, "--out", out, begun=some_sent(out)) as process:
            server.kill()
            _, errors = process.communicate(timeout=40)

        assert (process.returncode, f"the engine at {url} died: nothing answers" in errors) == (3, True)
    assert account(out)["failed"] > 0
    _not_valid(out)


def test_an_api_key_reaches_the_server_and_no_file(tmp_path, server, obeyed, monkeypatch):
    """The key is taken from the environment by name; no file and no output of the run holds it."""
    path, out = scenario(tmp_path, CONSTANT), tmp_path / "out"
    words = ("run", path, "--url", server, "--out", out, "--set", "engine.api_key_env=CHECK_KEY")
    monkeypatch.setenv("CHECK_KEY", SECRET)
    done = obeyed(*words)

    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    for file in Path(out).rglob("*"):
        assert SECRET.encode() not in file.read_bytes()


def test_help_and_version_answer(tmp_path):
    """Every command is named in the help."""
    told = harness("--help").stdout

    assert all(name in told for name in ("run", "report", "validate", "schema", "selfcheck", "serve-sim"))
    assert harness("--version").stdout.startswith("npu-harness ")
