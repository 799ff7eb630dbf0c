"""Studies on real engines, with failures as they really come, and with several workers."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.results import store, table_files
from harness.scenario.engine import Engine
from harness.scenario.stages import Stage
from harness.tuning.early_stopping import StopDecision
from harness.tuning.evaluation import EarlyStopCheck
from harness.tuning.live_evaluation import LiveEvaluator
from tests.hollow import stubs
from tests.tuning.studies import problem_in, written

pytestmark = pytest.mark.engines

DYING = {16, 48}  # block sizes for which the CPU engine has no kernel
FLAGS = {"load_format": "dummy", "enforce_eager": True, "max_model_len": 1024, "gpu_memory_utilization": 0.05}
LIMIT_S = 3000


def study_file(folder: Path, engine, **study) -> Path:
    """A study of a small load on an engine, as a file."""
    scenario = {
        "name": "tiny",
        "question": "How fast?",
        "engine": {"env": {"HF_HUB_OFFLINE": "1"}, "ready_timeout": "10m", **engine},
        "workload": {"kind": "synthetic", "input_tokens": 32, "output_tokens": 8},
        "load": [{"closed": {"concurrency": 4, "requests": 16}}],
        "warmup": {"requests": 2},
        "timeout": "120s",
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
    path = folder / "study.yaml"
    told = {
        "name": "real", "question": "Which flags?", "scenario": "tiny.yaml", "defaults": False,
        "objective": "throughput", "screening": {"points": 0}, "confirm": {"best": 0}, **study,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return path


def command(path: Path, out: Path, *more):
    """A `harness tune` as a command."""
    return [sys.executable, "-m", "harness", "tune", str(path), "--out", str(out), *more]


def kill_when(words, said):
    """Run a command until it has said so often what `said` lists, then SIGKILL it; what it said."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    heard = []
    for line in process.stderr:
        heard.append(line)
        if any(said in one for one in heard):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    return heard


def test_a_study_on_a_real_engine_is_killed_and_gone_on_with(vllm_python, tiny_model, tmp_path):
    """Block sizes 16 and 48 die on the CPU and are told as such; SIGKILL loses one trial; at least six are measured."""
    engine = {"kind": "vllm", "model": str(tiny_model), "python": vllm_python, "args": FLAGS}
    space = {
        "block_size": [16, 32, 48, 64, 128],
        "max_num_seqs": [4, 16],
        "gpu_memory_utilization": {"float": [0.04, 0.1], "step": 0.01},
    }
    path, out = study_file(tmp_path, engine, space=space, budget={"trials": 8}), tmp_path / "out"
    kill_when(command(path, out), "trial 2 ")
    done = subprocess.run(command(path, out, "--resume"), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "study.json").read_text(encoding="utf-8"))
    trials = told["trials"]

    assert len(trials) == 8
    assert len({json.dumps(one["point"], sort_keys=True) for one in trials}) == 8
    failed = {one["number"]: (one["point"].get("block_size"), one["cause"]) for one in trials if one["failure"]}
    assert {size for size, _ in failed.values()} <= DYING, failed
    assert all(one["number"] in failed for one in trials if one["point"].get("block_size") in DYING)
    assert all(one["failure"]["kind"] == "configuration" for one in trials if one["failure"])
    assert sum(one["point"].get("block_size") in DYING for one in trials) <= len(DYING)
    assert told["simulated"] is False
    taken = (out / "winner.txt").read_text(encoding="utf-8")  # nothing is changed where noise has the default win
    assert " -m vllm.entrypoints.cli.main serve " in taken  # by the interpreter that was named
    assert all(f"--{name.replace('_', '-')}" in taken for name in told["winner"]["changed"])


def test_flags_are_removed_in_real_time_too_and_after_a_kill(tmp_path):
    """Servers of the simulator: SIGKILL among the turns of the removal loses one turn; the winner is what matters."""
    conversation = {"kind": "conversation", "turns": 2, "input_tokens": 64, "output_tokens": 16}
    scenario = {"workload": conversation, "load": [{"closed": {"concurrency": 8, "requests": 16}}]}
    engine = {"kind": "simulator", "args": {"max_num_seqs": 1}}
    path = written(
        tmp_path, scenario=scenario, engine=engine, space={"max_num_seqs": [8, 16], "gpu_memory_utilization": 0.8,
        "max_num_batched_tokens": [1024, 1536]}, budget={"trials": 2}, stop_early=None,
        confirm={"best": 1, "repeats": 3}, simplify={"repeats": 3, "margin": 0.3},
    )  # fmt: skip
    out = tmp_path / "out"
    kill_when(command(path, out), "which flags are needed, measurement 3 ")
    done = subprocess.run(command(path, out, "--resume"), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "study.json").read_text(encoding="utf-8"))
    resumed = [line for line in done.stderr.splitlines() if "which flags are needed" in line]

    assert not any("measurement 1 of" in line or "measurement 2 of" in line for line in resumed)
    assert "confirmation round" not in done.stderr
    assert "max_num_seqs" in [flag["name"] for flag in told["simplification"]["flags"] if flag["kept"]]
    assert told["simplification"]["gain"]["low"] > 1
    assert "--max-num-seqs" in (out / "winner.sh").read_text(encoding="utf-8")


def test_a_load_on_a_real_engine_is_cut(vllm_python, tiny_model, tmp_path):
    """What is in flight is aborted by vLLM, nothing counts as failed, and the next load has the engine to itself."""
    problem = problem_in(
        tmp_path, scenario={"workload": {"kind": "synthetic", "input_tokens": 16, "output_tokens": 200}},
        load={"closed": {"concurrency": 8, "requests": 2000}},
    )  # fmt: skip
    (task,) = problem.tasks
    env = {"HF_HUB_OFFLINE": "1"}
    engine = Engine(kind="vllm", model=str(tiny_model), python=vllm_python, args=FLAGS, env=env, ready_timeout=600.0)
    watch = EarlyStopCheck(lambda part: StopDecision(stop=np.isfinite(part.series["done"]).sum() > 8), 0.5)
    with LiveEvaluator("vllm").open(engine, tmp_path / "trial") as session:
        part = session.measure(task, task.stage, 1, watch)
        after = session.measure(task, Stage("closed", concurrency=1, requests=3), 2)
    (told,) = (stage["requests"] for stage in store.read_json(tmp_path / "trial" / "load-1", store.SUMMARY)["stages"])
    samples = table_files.read_samples(tmp_path / "trial" / "load-2")
    running = samples.value[samples.name == "vllm:num_requests_running"]

    assert part.stopped
    assert not part.simulated
    assert told["scheduled"] == 2000 == sum(told[name] for name in ("completed", "failed", "cancelled", "never_sent"))
    assert told["failed"] == 0
    assert told["cancelled"] == 8
    assert after.metrics["failed"] == 0
    assert running.max() <= 1


@pytest.fixture
def postgres():
    """The address of a PostgreSQL of our own on loopback."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL's server programs are not installed")
    folder = Path(tempfile.mkdtemp(prefix="harness-pg-"))
    as_user = []
    if os.geteuid() == 0:  # the server refuses to be root
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, programs_folder = folder / "data", programs[-1].parent
    initdb = [str(programs_folder / "initdb"), "-D", str(data), "-U", "tuner", "-A", "trust", "--no-sync"]
    subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd=folder)
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-F"]
    log = folder / "server.log"
    with log.open("w", encoding="utf-8") as out:
        server = subprocess.Popen(
            [*as_user, str(programs_folder / "postgres"), "-D", str(data), *options],
            stdout=out,
            stderr=out,
            cwd=folder,
        )
    try:
        while "ready to accept connections" not in log.read_text(encoding="utf-8"):
            assert server.poll() is None, log.read_text(encoding="utf-8")
            os.sched_yield()
        yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        shutil.rmtree(folder)


def test_two_workers_share_a_study_on_postgresql(postgres, tmp_path):
    """They never run the same engine, never have the same device, and fill the budget together; one confirms."""
    space = {"max_num_seqs": {"int": [2, 64], "log": True}, "max_num_batched_tokens": [256, 512, 1024, 2048]}
    path = written(tmp_path, space=space, budget={"trials": 8}, devices=["0-1"], storage=postgres)
    words = [command(path, tmp_path / name) for name in ("one", "two")]
    workers = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in words]
    ended = [worker.communicate(timeout=LIMIT_S) for worker in workers]
    results = [tmp_path / name / "study.json" for name in ("one", "two")]

    assert [worker.returncode for worker in workers] == [0, 0], ended
    said = [line for _, errors in ended for line in errors.splitlines() if ": trial " in line]
    assert all(any(": trial " in line for line in errors.splitlines()) for _, errors in ended)
    assert len(said) == 8
    assert sum(path.exists() for path in results) == 1
    told = json.loads(next(path for path in results if path.exists()).read_text(encoding="utf-8"))
    effective = [json.dumps(one["effective"], sort_keys=True) for one in told["trials"]]
    assert len(set(effective)) == len(effective)


def test_block_size_is_dead_on_vllm_ascend(ascend_python, cann, tiny_model, tmp_path):
    """Told by vllm-ascend's own code before any start; a start that runs out of memory is a trial and no end."""
    env = stubs.environment(cann)
    engine = {
        "kind": "vllm-ascend", "model": str(tiny_model), "python": ascend_python, "env": {"HF_HUB_OFFLINE": "1", **env},
        "args": {**FLAGS, "gpu_memory_utilization": 0.5},
    }  # fmt: skip
    space = {"block_size": [64, 128, 256], "max_num_seqs": [4, 8], "gpu_memory_utilization": [0.0001, 0.5]}
    path, out = study_file(tmp_path, engine, space=space, budget={"trials": 4}), tmp_path / "out"
    done = subprocess.run(command(path, out), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "study.json").read_text(encoding="utf-8"))

    assert [one["name"] for one in told["dead"]] == ["block_size"]
    assert "dropped from the search: block_size" in done.stderr
    assert told["hollow"] is True
    failed = [one for one in told["trials"] if one["status"] == "failed"]
    assert all("out_of_memory" in one["failure"]["kind"] for one in failed)
    assert any(one["status"] == "complete" for one in told["trials"])
