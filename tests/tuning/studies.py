"""Small studies on the simulated engine, which take milliseconds a trial."""

from pathlib import Path

import yaml

from harness.tuning.candidates import CandidateResolver, flag_resolver
from harness.tuning.coordination import open_coordinator
from harness.tuning.feasibility import Feasibility
from harness.tuning.proposing import Proposer
from harness.tuning.simulator_screening import screener_for
from harness.tuning.study import StudyContext
from harness.tuning.study_loader import load_study_plan
from harness.tuning.trial_store import open_trial_store, storage_url
from harness.tuning.virtual_evaluation import VirtualEvaluator

SCENARIO = {
    "name": "small",
    "question": "How fast?",
    "engine": {"kind": "simulator", "model": "Qwen/Qwen2.5-0.5B-Instruct", "args": {"max_model_len": 2048}},
    "workload": {"kind": "synthetic", "input_tokens": {"uniform": [64, 512]}, "output_tokens": 8},
    "load": [{"closed": {"concurrency": 24, "requests": 48}}],
    "slo": {"ttft_p90": "300ms"},
}
STUDY = {
    "name": "small-study",
    "question": "Which flags?",
    "scenario": "small.yaml",
    "defaults": False,
    "space": {
        "max_num_seqs": {"int": [2, 64], "log": True},
        "max_num_batched_tokens": [256, 512, 1024, 2048],
        "block_size": [128, 256],
    },
    "objective": "throughput",
    "hold_slo": False,
    "budget": {"trials": 6},
    "screening": {"points": 4},
    "confirm": {"best": 1, "repeats": 3},
}


def written(folder: Path, *, scenario=None, **study) -> Path:
    """A study file in a folder, beside the scenario that it names; keys given replace those of STUDY."""
    (folder / "small.yaml").write_text(yaml.safe_dump({**SCENARIO, **(scenario or {})}), encoding="utf-8")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **study}, sort_keys=False), encoding="utf-8")
    return path


def problem_in(folder: Path, **study):
    """The problem of such a study."""
    return load_study_plan(written(folder, **study))


def work_in(folder: Path, problem, worker="worker", evaluator=None) -> StudyContext:
    """Everything to carry a problem out with, its book in the folder."""
    url = storage_url(None, folder)
    ground = CandidateResolver(problem, flag_resolver(problem))
    proposer = Proposer(problem, ground, Feasibility(), screener_for(problem))
    proposer.open()
    book = open_trial_store(problem, url, worker, "same", resume=True)
    desk = open_coordinator(url, problem.study.name, worker)
    return StudyContext(problem, evaluator or VirtualEvaluator(), book, desk, ground, proposer, folder)


def constraints_of(frozen):
    """What Optuna takes a trial's constraints for, in their order; Optuna 4 has no word of its own for that."""
    return list(frozen.constraints.values()) if hasattr(frozen, "constraints") else frozen.system_attrs["constraints"]
