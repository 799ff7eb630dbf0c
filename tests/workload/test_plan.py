"""What is due is fixed by the seed alone, and every session belongs to one worker."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scenario.models import Scenario
from harness.scenario.stages import Stage
from harness.workload import build, plan
from harness.workload.plan import StagePlan

BASE = {
    "name": "x",
    "question": "Why?",
    "seed": 3,
    "engine": {"model": "m"},
    "workload": {"kind": "synthetic", "input_tokens": 8, "output_tokens": 4},
}


def planned(load, **more):
    """The plans of a scenario with this load."""
    scenario = Scenario.model_validate(BASE | {"load": yaml.safe_load(load)} | more)
    workload = build(scenario.workload, endpoint="completions", seed=scenario.seed, vocabulary=None, folder=Path())
    return plan.plan(scenario, workload)


OPEN = "[{poisson: {rate: [5, 50], duration: 20s}}, {gamma: {rate: 9, burstiness: 0.5, requests: 40}}]"


def test_the_same_seed_gives_the_same_schedule():
    """Due times and their hash follow from the scenario and its seed; another seed gives others."""
    one, two, other = planned(OPEN), planned(OPEN), planned(OPEN, seed=4)

    assert plan.schedule_sha256(one) == plan.schedule_sha256(two) != plan.schedule_sha256(other)
    assert all(np.array_equal(a.due_ns, b.due_ns) for a, b in zip(one, two, strict=True))


def test_repeats_have_fresh_arrivals_and_fresh_sessions():
    """A repeat is a new sample: other due times, and no session twice."""
    plans = planned(OPEN, repeats=2)
    sessions = [made.session(ordinal) for made in plans for ordinal in range(made.taken)]

    assert not np.array_equal(plans[0].due_ns, plans[3].due_ns)
    assert len(set(sessions)) == len(sessions)


@settings(max_examples=60)
@given(
    workers=st.integers(1, 7),
    taken=st.integers(0, 60),
    concurrency=st.none() | st.integers(1, 9),
    cap=st.none() | st.integers(1, 3),
)
def test_every_session_belongs_to_exactly_one_worker(workers, taken, concurrency, cap):
    """Whatever the workers, users and caps: each ordinal is taken once, and only by a worker that has users."""
    kind = "closed" if concurrency else "poisson"
    stage = Stage(kind, concurrency=concurrency, max_concurrency=None if concurrency else cap)
    made = StagePlan(0, 0, 0, stage, 0, 0, taken, 0, 0, None)
    shares = [list(made.ordinals(worker, workers)) for worker in range(workers)]

    assert sorted(itertools.chain(*shares)) == list(range(taken))
    assert all(share == sorted(share) for share in shares)
    if concurrency:
        assert sum(made.users(worker, workers) for worker in range(workers)) == concurrency
        assert all(made.users(worker, workers) for worker, share in enumerate(shares) if share)


def test_an_open_warm_up_comes_before_and_runs_on():
    """Warm-up requests are due before measuring begins, at the stage's own rate and without a gap."""
    (made,) = planned("[{constant: {rate: 10, requests: 20}}]", warmup={"requests": 5})
    due_s = made.due_ns / 1e9

    assert (made.warm, made.sessions, len(due_s)) == (5, 20, 25)
    assert np.diff(due_s) == pytest.approx(0.1)
    assert due_s[5] * 1e9 == made.measured_ns
    assert made.session(5) == made.first_session
    assert {made.session(o) for o in range(5)} == {made.first_session + 20 + o for o in range(5)}


def test_a_warm_up_by_time_lasts_as_long():
    """Measured arrivals begin where the warm-up's duration ends."""
    (made,) = planned("[{poisson: {rate: 100, duration: 5s}}]", warmup={"duration": "2s"})

    assert made.measured_ns == 2_000_000_000
    assert (made.due_ns[: made.warm] < 2e9).all()
    assert (made.due_ns[made.warm :] >= 2e9).all()


def test_only_the_first_stage_of_a_repeat_is_warmed_up():
    """Later stages meet a warm engine."""
    plans = planned(OPEN, repeats=2, warmup={"requests": 3})

    assert [made.warm for made in plans] == [3, 0, 0, 3, 0, 0]


def test_plans_come_back_from_their_file(tmp_path):
    """Reading a plan is the inverse of writing it, with or without turns."""
    both = "[{poisson: {rate: 5, duration: 20s}}, {closed: {concurrency: 2, duration: 3s}}]"
    plans = planned(both, warmup={"requests": 3}, repeats=2)
    plan.save(tmp_path / "plan.npz", plans, np.arange(sum(made.taken or 0 for made in plans)))
    found, turns = plan.load(tmp_path / "plan.npz")

    assert turns.tolist() == list(range(sum(made.taken or 0 for made in plans)))
    assert plan.schedule_sha256(found) == plan.schedule_sha256(plans)
    assert [made.session(7) for made in found] == [made.session(7) for made in plans]


def test_a_stage_is_announced_by_its_number_in_the_scenario():
    """A repeat does not move it."""
    load = "[{poisson: {rate: 1, duration: 12s}}, {closed: {concurrency: 4, requests: 24}}]"
    once, twice = planned(load), planned(load, repeats=2)

    assert str(plan.announced(once[0], once)) == "stage 1/2: poisson 1 req/s, 12 s"
    assert str(plan.announced(twice[3], twice)) == "stage 2/2, repeat 2/2: closed loop, concurrency 4, 24 requests"
