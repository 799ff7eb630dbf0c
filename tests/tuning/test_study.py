"""A study spends its budget well, learns from failures, and survives being killed."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from harness.engines.engine_log import BootFacts
from harness.messages import message
from harness.tuning import feasibility
from harness.tuning.candidates import canonical_json
from harness.tuning.confirmation import confirm, finalists
from harness.tuning.evaluation import StartFailed
from harness.tuning.sampler import suggest_with_tpe
from harness.tuning.study import budget_spent, run_study, trial_line
from harness.tuning.study_result import StudyFindings, summary_lines, write_result
from harness.tuning.types import COMPLETE, FAILED, STOPPED, Measurement, Trial
from harness.tuning.virtual_evaluation import VirtualEvaluator
from tests.tuning.studies import constraints_of, problem_in, work_in, written

ALIVE = {"max_num_seqs": {"int": [2, 64], "log": True}, "max_num_batched_tokens": [256, 512, 1024, 2048]}


class Fragile:
    """The simulated engine, which dies of some flags: `dies(args)` says of which, with what failure."""

    simulated = True

    def __init__(self, dies):
        self.dies, self.inner, self.starts = dies, VirtualEvaluator(), []

    def left_busy(self):
        """Never."""
        return False

    @contextmanager
    def open(self, engine, folder):
        """Fail as told, else serve."""
        self.starts.append(dict(engine.args))
        failure = self.dies(engine.args, len(self.starts))
        if failure is not None:
            raise StartFailed(failure, BootFacts(), 1.0)
        with self.inner.open(engine, folder) as session:
            yield session


def never(_args, _start):
    """Nothing fails."""
    return


@pytest.fixture
def done(tmp_path):
    """A function that carries out a study and gives its work."""

    def made(evaluator=None, **study):
        problem = problem_in(tmp_path, **{"space": ALIVE, **study})
        work = work_in(tmp_path, problem, evaluator=evaluator)
        with work.coordinator.heartbeat():
            run_study(work)
        return work

    return made


def test_the_default_is_first_and_no_engine_is_tried_twice(done):
    """Trial 0 is the base configuration; effective configurations all differ."""
    evaluator = Fragile(never)
    work = done(evaluator)
    trials = work.store.trials()

    assert trials[0].origin == "default"
    assert evaluator.starts[0] == {"max_model_len": 2048}
    assert len(trials) == 6
    assert len({str(sorted(trial.effective.items())) for trial in trials}) == 6


def test_a_study_finds_better_than_the_default(done):
    """Where the default is bad: with room for two requests, almost anything is faster."""
    work = done(engine={"args": {"max_num_seqs": 2}}, budget={"trials": 6})
    values = [trial.values["throughput"] for trial in work.store.trials()]

    assert max(values) > 2 * values[0]


def test_what_the_moment_is_to_blame_for_is_tried_once_more(done):
    """A crash at the first start is no verdict on the point."""

    def dies(_args, start):
        return feasibility.failure_of_kind(feasibility.CRASH, "it died") if start == 1 else None

    evaluator = Fragile(dies)
    work = done(evaluator, budget={"trials": 3}, stop_early=None)

    assert len(evaluator.starts) == 4
    assert [trial.status for trial in work.store.trials()] == [COMPLETE] * 3


def test_failures_are_told_and_their_like_is_avoided(done):
    """What ran out of memory is not followed by points that ask for no less."""

    def dies(args, _start):
        too_much = args.get("max_num_seqs", 0) >= 24
        return (
            feasibility.failure_of_kind(feasibility.MEMORY_AT_CAPTURE, "NPU out of memory while capturing")
            if too_much
            else None
        )

    evaluator = Fragile(dies)
    work = done(evaluator, budget={"trials": 9})
    trials = work.store.trials()
    failed = [trial for trial in trials if trial.status == FAILED]

    assert failed
    assert sum(trial.number >= 5 for trial in failed) <= 1
    assert [constraints_of(one)[0] for one in work.store.study.get_trials()] == [one.status == FAILED for one in trials]


def test_loads_are_swept_within_one_start(tmp_path):
    """Every configuration is started once and measured under each load."""
    problem = problem_in(tmp_path, space={**ALIVE, "load.concurrency": [4, 24]}, budget={"trials": 4})
    evaluator = Fragile(never)
    work = work_in(tmp_path, problem, evaluator=evaluator)
    with work.coordinator.heartbeat():
        run_study(work)
    trials = work.store.trials()

    assert len(evaluator.starts) == 2
    assert [trial.point["load.concurrency"] for trial in trials] == [4, 24, 4, 24]
    assert [trial.start for trial in trials] == [0, 0, 2, 2]
    assert trials[1].minutes.start == 0


def test_the_budget_ends_a_study_by_any_of_its_measures(tmp_path):
    """Trials, starts or minutes, whichever is reached first."""
    trial = Trial(0, {}, {}, COMPLETE, start=0)

    assert budget_spent(problem_in(tmp_path, budget={"starts": 1}), [trial], 0)
    assert not budget_spent(problem_in(tmp_path, budget={"starts": 2, "trials": 9}), [trial], 0)
    assert budget_spent(problem_in(tmp_path, budget={"starts": 2, "trials": 9}), [trial], 1)
    assert not budget_spent(problem_in(tmp_path, budget={"minutes": 1}), [trial], 0)


def test_a_space_smaller_than_the_budget_is_tried_whole(tmp_path):
    """And the study says so instead of repeating itself."""
    problem = problem_in(tmp_path, space={"max_num_seqs": [4, 8]}, budget={"trials": 9})
    work = work_in(tmp_path, problem)
    with work.coordinator.heartbeat():
        run_study(work)

    assert len(work.store.trials()) == 3
    assert work.notes == [message("tuning.space_exhausted")]


@pytest.mark.parametrize("highest", [64, 256])
def test_the_default_is_no_rival_of_its_own(done, highest):
    """Trials and finalists differ in what the engine runs with, and a point names nothing else than that."""
    work = done(space={"max_num_seqs": [4, 16, highest]}, budget={"trials": 4})
    trials = work.store.trials()
    entrants = finalists(work, trials)

    assert len({canonical_json(trial.effective) for trial in trials}) == len(trials) == 3 + (highest == 64)
    assert len({entrant.candidate.engine_key for entrant in entrants}) == len(entrants) == 1 + (highest == 64)
    assert trials[0].origin == "default"
    assert [trial.point["max_num_seqs"] for trial in trials] == [trial.effective["max_num_seqs"] for trial in trials]
    assert [dict(entrant.candidate.point) for entrant in entrants].count({"max_num_seqs": 256}) == 1


def test_capacity_is_searched_within_a_start(tmp_path):
    """The objective is the highest rate that keeps the SLO, by several loads on one engine."""
    problem = problem_in(
        tmp_path,
        space={"max_num_seqs": [4, 32]},
        objective="capacity",
        load={"poisson": {"rate": 20, "requests": 60}},
        budget={"trials": 2},
    )
    evaluator = Fragile(never)
    work = work_in(tmp_path, problem, evaluator=evaluator)
    with work.coordinator.heartbeat():
        run_study(work)
    trials = work.store.trials()

    assert len(evaluator.starts) == 2
    assert all(trial.values["capacity"] > 0 for trial in trials)
    assert all(trial.measurement.metrics["capacity_high"] > trial.values["capacity"] for trial in trials)
    assert all(re.search(r"capacity .* req/s", str(trial_line(trial))) for trial in trials)


def test_a_stopped_trial_says_what_is_extrapolated():
    """In its one line: the value is not measured, and what was stands beside it."""
    shown = Measurement({"goodput": 1.849}, {}, load_s=26.5, seed=1)
    stopped = Trial(2, {"n": 8}, {}, STOPPED, {"goodput": 5.06}, measurement=shown)
    unseen = replace(stopped, measurement=None)

    assert str(trial_line(stopped)) == "trial 2 (sampler): goodput 5.06 (extrapolated; 1.85 so far), stopped early; n 8"
    assert "goodput 5.06 (extrapolated), stopped early" in str(trial_line(unseen))


def test_the_winner_is_confirmed_on_other_arrivals(done):
    """In turns with the default; the gain has an interval, and study.json and the script are there."""
    work = done(engine={"args": {"max_num_seqs": 2}}, budget={"trials": 5})
    trials = work.store.trials()
    found = confirm(work, trials)
    lines = write_result(work, StudyFindings(found), simulated=True)

    assert next(one.number for one in finalists(work, trials)) is None
    assert found.gains[1].low > 1
    assert str(lines[0]).startswith("SIMULATED")
    assert "95 % CI" in str(lines[0])
    assert "--max-num-seqs" in (work.folder / "winner.sh").read_text(encoding="utf-8")
    assert (work.folder / "study.json").exists()


class Interrupted:
    """The simulated engine; before the load of number `at` of all somebody presses Ctrl-C."""

    simulated = True

    def __init__(self, at):
        self.at, self.inner, self.loads, self.served = at, VirtualEvaluator(), 0, []

    @contextmanager
    def open(self, engine, folder):
        """Note whom it serves."""
        self.served.append(dict(engine.args))
        with self.inner.open(engine, folder) as session:
            self.session, self.started = session, session.started
            yield self

    def measure(self, *asked):
        """A load, or the interrupt."""
        self.loads += 1
        if self.loads == self.at:
            raise KeyboardInterrupt
        return self.session.measure(*asked)


def test_a_confirmation_that_was_interrupted_is_gone_on_with(done):
    """Turns that were measured are not measured again; what comes out is what it would have been without a break."""
    work = done(budget={"trials": 4}, confirm={"best": 2, "repeats": 3}, stop_early=None)
    trials = work.store.trials()
    work.evaluator = Interrupted(6)
    with pytest.raises(KeyboardInterrupt):
        confirm(work, trials)
    work.evaluator = Interrupted(None)
    found = confirm(work, trials)
    again = confirm(work, trials)

    assert work.evaluator.loads == 9 - 5
    assert all(len(values) == 3 for values in found.values.values())
    assert all(again.values[who] == pytest.approx(values) for who, values in found.values.items())
    assert again.minutes == pytest.approx(found.minutes)


def test_entrants_stand_so_that_starts_are_cheap(done):
    """In each round the one that keeps the default's graphs is next to it, whichever is the better one."""
    work = done(
        space={"max_num_seqs": [4, 8], "gpu_memory_utilization": [0.5, 0.7]}, engine={"args": {"max_num_seqs": 4}},
        budget={"trials": 5}, confirm={"best": 3, "repeats": 2}, screening={"points": 0}, stop_early=None,
    )  # fmt: skip
    work.evaluator = Interrupted(None)
    found = confirm(work, work.store.trials())
    flags = [one.get("max_num_seqs") for one in work.evaluator.served]
    changes = sum(one != other for one, other in pairwise(flags))

    assert {one.candidate.engine.args.get("max_num_seqs") for one in found.finalists} == {4, 8}
    assert len(flags) == 7
    assert changes == 2


def test_without_a_better_one_the_default_stays(done):
    """No difference is no win."""
    work = done(budget={"trials": 2})
    lines = summary_lines(work, work.store.trials(), StudyFindings(), simulated=True)

    assert "not confirmed" in str(lines[0])


def test_tpe_names_only_what_may_be_tried(tmp_path):
    """Rejected points are taught to it and never returned."""
    problem = problem_in(tmp_path, space={"max_num_seqs": [4, 8, 16]})
    told = []

    def judge(point):
        told.append(point["max_num_seqs"])
        return point["max_num_seqs"] == 16, None

    point = suggest_with_tpe(problem, problem.space, [], judge, 1)

    assert point == {"max_num_seqs": 16}
    assert told[-1] == 16


def killed_at(path, out, trials, when):
    """Run a study as a process, and kill it as soon as it has said `when`."""
    command = [sys.executable, "-m", "harness", "tune", str(path), "--out", str(out), "--trials", str(trials)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    for line in process.stderr:
        if when in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    return command


def test_a_study_that_was_killed_is_gone_on_with(tmp_path):
    """SIGKILL loses at most the running trial; --resume measures the rest and no point twice."""
    path = written(tmp_path, space=ALIVE, budget={"trials": 6}, confirm={"best": 0})
    out = tmp_path / "out"
    command = killed_at(path, out, 6, "trial 2")
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stderr
    assert "trial 0" not in done.stderr
    assert "6 trials" in done.stdout
