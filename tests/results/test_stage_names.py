"""The load of a stage has one name, wherever a person reads of it."""

import pytest

from harness.messages import render
from harness.scenario.stages import label, load_and_end


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"kind": "poisson", "rate": 2.0}, "poisson 2 req/s"),
        ({"kind": "constant", "rate": 0.5, "max_concurrency": 8}, "constant 0.5 req/s, at most 8 in flight"),
        ({"kind": "closed", "concurrency": 64}, "closed loop, concurrency 64"),
        ({"kind": "gamma", "rate": 2.0, "burstiness": 0.25}, "gamma 2 req/s, burstiness 0.25"),
        ({"kind": "ramp", "rate": 1.0, "rate_to": 4.0}, "ramp 1 to 4 req/s"),
        ({"kind": "trace", "speed": 2.0}, "trace, speed 2"),
        ({"kind": "trace"}, "trace, speed 1"),
    ],
)
def test_a_load_is_named_in_the_scenarios_own_numbers(load, words):
    """A label has the kind and its numbers."""
    assert label(load) == words


def test_a_packages_arrivals_are_named_by_their_rate_or_their_keys():
    """Not every process has a rate, and none is left without a name."""
    assert label({"kind": "bursts", "rate": 4.0, "options": {"rate": 4.0, "size": 8}}) == "bursts 4 req/s"
    assert label({"kind": "tides", "options": {"period": 8, "phase": None}}) == "tides, period 8"


@pytest.mark.parametrize(
    ("load", "english", "chinese"),
    [
        ({"kind": "poisson", "rate": 1.0, "duration_s": 12.0}, "poisson 1 req/s, 12 s", "泊松 1 req/s，12 秒"),
        ({"kind": "closed", "concurrency": 4, "requests": 1024}, "closed loop, concurrency 4, 1,024 requests",
         "闭环，并发 4，1,024 个请求"),
        ({"kind": "gamma", "rate": 2.5, "burstiness": 0.25, "requests": 1},
         "gamma 2.5 req/s, burstiness 0.25, 1 request", "伽马 2.5 req/s，突发度 0.25，1 个请求"),
        ({"kind": "trace", "speed": 2.0, "max_concurrency": 64}, "trace, speed 2, at most 64 in flight",
         "轨迹回放，倍速 2，在途最多 64"),
        ({"kind": "offline", "requests": 24}, "offline, 24 requests", "离线，24 个请求"),
        ({"kind": "constant", "rate": 3.0, "duration_s": 0.5}, "constant 3 req/s, 0.5 s", "恒定 3 req/s，0.5 秒"),
    ],
)  # fmt: skip
def test_a_stage_is_announced_by_its_load_and_its_end(load, english, chinese):
    """Its name, and how long or for how many requests it goes on, in both languages."""
    assert (render(load_and_end(load)), render(load_and_end(load), "zh")) == (english, chinese)
