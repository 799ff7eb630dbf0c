"""Is an engine started once for a point, asked nothing twice, and are its loads runs of their own?"""

import sys
from pathlib import Path

import numpy as np
import pytest

from harness.engines import vllm
from harness.results import store
from harness.scenario.models import Engine
from harness.scenario.stages import Stage
from harness.tuning.candidates import Ground, resolver
from harness.tuning.early_stopping import Ruling
from harness.tuning.evaluation import Watch
from harness.tuning.live_evaluation import Live
from tests.fakes import overheard
from tests.tune_problems import problem_in

FAKE = str(Path(__file__).parent.parent / "fake_engine")


def statuses(folder):
    """How many requests ended in which way."""
    (stage,) = store.read_json(folder, store.SUMMARY)["stages"]
    return stage["requests"]


def test_a_live_load_that_cannot_win_is_cut(tmp_path):
    """What is in flight is cancelled and no failure, what was planned is accounted for, and the engine serves on."""
    problem = problem_in(
        tmp_path, scenario={"workload": {"kind": "synthetic", "input_tokens": 16, "output_tokens": 400}},
        load={"constant": {"rate": 20, "requests": 400}},
    )  # fmt: skip
    (task,) = problem.tasks
    watch = Watch(lambda part: Ruling(stop=np.isfinite(part.series["done"]).sum() > 2), 0.2)
    engine = Engine(kind="simulator", model=problem.engine.model, args=problem.engine.args)
    with Live("simulator").open(engine, tmp_path / "trial") as session:
        part = session.measure(task, task.stage, 1, watch)
        again = session.measure(task, Stage("constant", rate=20.0, requests=4), 2)
    told = statuses(tmp_path / "trial" / "load-1")

    assert part.stopped
    assert part.folder == "load-1"
    assert part.load_s < 20
    assert told["scheduled"] == 400 == sum(told[name] for name in ("completed", "failed", "cancelled", "never_sent"))
    assert told["failed"] == 0
    assert told["completed"] >= np.isfinite(part.series["done"]).sum() > 2
    assert min(told["cancelled"], told["never_sent"]) > 0
    assert not again.stopped
    assert again.metrics["failed"] == 0


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the engine's interpreter was asked, in order; no kept answers of other runs."""
    monkeypatch.setattr(vllm, "GRACE_S", 0.3)
    return overheard(tmp_path, monkeypatch)


def test_a_start_does_not_ask_what_the_study_was_told(asked, tmp_path):
    """Its code is imported once for all candidates, and by each engine itself; leased devices change nothing."""
    engine = {"kind": "vllm", "model": "m", "python": sys.executable, "args": {"max_num_seqs": 4}}
    env = {"PYTHONPATH": FAKE, "FAKE_VLLM": "serve"}
    problem = problem_in(tmp_path, scenario={"engine": {**engine, "env": env}})
    resolve = resolver(problem)
    candidates = Ground(problem, resolve).candidates([{}, {"max_num_seqs": 8}])
    live = Live("vllm", resolve)
    for number, candidate in enumerate(candidates):
        leased = candidate.engine.model_copy(update={"devices": (number,)})
        with live.open(leased, tmp_path / f"trial-{number}") as session:
            assert session.started.effective["max_num_seqs"] == candidate.engine.args["max_num_seqs"]

    assert asked == ["versions", "resolve", "versions", "versions"]
