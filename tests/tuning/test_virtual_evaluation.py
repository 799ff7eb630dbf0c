"""A load in virtual time shows what the same load would show a client."""

import math
from dataclasses import replace

import pytest

from harness.errors import InputError
from harness.simulator.engine_config import settings_from_flags
from harness.simulator.step_cost import TERMS
from harness.tuning import virtual_evaluation
from harness.tuning.study_plan import stage_body, with_changes
from harness.tuning.trial_series import extrapolated, look_times, partial_measurement
from harness.tuning.virtual_evaluation import SimulatedNoise, VirtualLoad
from tests.tuning.studies import problem_in

FLAGS = {"model": "Qwen/Qwen2.5-0.5B-Instruct", "max_model_len": 2048}


@pytest.fixture
def task(tmp_path):
    """The task of a small study."""
    return problem_in(tmp_path).tasks[0]


@pytest.fixture
def load(task):
    """Its loads."""
    return VirtualLoad(task.scenario, task.path.parent)


def test_the_same_seed_shows_the_same(task, load):
    """Virtual time has no luck of its own; another seed sends other requests."""
    settings = settings_from_flags(FLAGS)
    one, same, other = (load.measure(settings, task.stage, seed) for seed in (1, 1, 2))

    assert one == same
    assert one.series["ttft"] != other.series["ttft"]


def test_another_pace_is_told_without_serving_again(task, load, monkeypatch):
    """A closed loop that was served once shows what a fresh one shows at any coefficients."""
    settings, slow = settings_from_flags(FLAGS), replace(TERMS["A2"], matmul=0.2, step_s=5e-3)
    fresh = load.measure(settings, task.stage, 1, terms=slow)
    again = VirtualLoad(task.scenario, task.path.parent)
    first = again.measure(settings, task.stage, 1)
    monkeypatch.setattr(virtual_evaluation, "simulate", None)

    assert again.measure(settings, task.stage, 1, terms=slow) == fresh
    assert first != fresh


def test_loads_that_are_kept_are_bounded(task, load, monkeypatch):
    """The oldest goes first; what is gone is served again, and shows the same."""
    few, many = (settings_from_flags({**FLAGS, "max_num_seqs": n}) for n in (2, 24))
    first = load.measure(few, task.stage, 1)
    monkeypatch.setattr(virtual_evaluation, "_COURSES_BYTES", 2 * load._held // 3)
    load.measure(many, task.stage, 1)

    assert 0 <= load._held <= virtual_evaluation._COURSES_BYTES
    assert load._held == sum(one.course.size for one in load._courses.values())
    assert load.measure(few, task.stage, 1) == first


def test_every_request_is_in_the_series(task, load):
    """A closed loop of 48 requests has 48 of each, and its tokens are those that were asked for."""
    found = load.measure(settings_from_flags(FLAGS), task.stage, 1)

    assert {len(values) for values in found.series.values()} == {48}
    assert set(found.series["tokens"]) == {8.0}
    assert found.simulated
    assert found.metrics["failed"] == 0


def test_fewer_places_make_a_closed_loop_slower(task, load):
    """Two requests at a time give fewer tokens a second than 24."""
    few, many = (load.measure(settings_from_flags({**FLAGS, "max_num_seqs": n}), task.stage, 1) for n in (2, 24))

    assert few.metrics["throughput"] < many.metrics["throughput"] / 2


def test_a_closed_loop_by_time_ends_by_time(task, load):
    """Requests are sent until then, and all of them are answered."""
    stage = replace(task.stage, requests=None, duration_s=0.5)
    found = load.measure(settings_from_flags(FLAGS), stage, 1)

    assert len(found.series["done"]) > stage.concurrency
    assert 0.5 <= found.load_s < 1.5


def test_noise_makes_two_engines_differ_and_one_repeat_itself(task, load):
    """It belongs to configuration and seed."""
    noise = SimulatedNoise(run=0.05, step=0.02, seed=3)
    settings = settings_from_flags(FLAGS)
    plain = load.measure(settings, task.stage, 1)
    one, again = (load.measure(settings, task.stage, 1, noise=noise) for _ in range(2))

    assert one == again
    assert one.metrics["throughput"] == pytest.approx(plain.metrics["throughput"], rel=0.3)
    assert one.metrics["throughput"] != plain.metrics["throughput"]


def test_turns_that_wait_for_answers_are_not_served(task):
    """A conversation needs a client in real time."""
    work = {"kind": "conversation", "turns": 2, "input_tokens": 8, "output_tokens": 8}
    talk = task.scenario.model_copy(update={"workload": type("W", (), work)()})

    with pytest.raises(InputError, match="single requests"):
        VirtualLoad(talk, task.path.parent)


def test_a_part_of_a_load_holds_what_had_ended(task, load):
    """Later requests are NaN in every series; the part's rate is over the time so far."""
    whole = load.measure(settings_from_flags(FLAGS), task.stage, 1)
    half = partial_measurement(whole, look_times(whole)[9])
    ended = sum(not math.isnan(done) for done in half.series["done"])

    assert half.stopped
    assert 0 < ended < 48
    assert half.metrics["request_rate"] == pytest.approx(ended / half.load_s)
    assert extrapolated(half, whole, "throughput") == pytest.approx(whole.metrics["throughput"])


def test_a_load_is_changed_by_the_names_of_the_file(task):
    """As a scenario writes them; what it does not have is refused."""
    assert with_changes(task.stage, {"concurrency": 3}).concurrency == 3
    assert stage_body(task.stage) == {"concurrency": 24, "requests": 48}
    with pytest.raises(ValueError, match="rate"):
        with_changes(task.stage, {"rate": 1.0})
