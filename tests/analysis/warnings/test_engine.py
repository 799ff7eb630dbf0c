"""Warnings about the engine: it died, was restarted, or was not the one requested."""

import pytest

from harness.analysis.warnings.engine import (
    died,
    flags_in_force,
    restarted,
    same_model,
    uncounted,
    unlisted,
    unverified,
)
from harness.messages import message
from harness.results.request_table import samples_from
from tests.analysis.warnings.test_load import sound, warnings
from tests.made_runs import failed, ns

REACHED = [
    (unlisted, "models_listed", "models_unlisted", "note"),
    (unverified, "certificate_checked", "unverified", "warning"),
]
TOKENS = "vllm:generation_tokens_total"


def told(*values, name=TOKENS, source="server", **engine):
    """Names of the warnings that values of a counter, one a second, raise."""
    samples = samples_from([(ns(at), source, name, value) for at, value in enumerate(values)])
    return [warning.code for warning in restarted(samples, {"engine": engine})]


def failing(share):
    """The sound run of 400 with a share of failures put among it."""
    pairs = sound()
    for place in range(2, 2 + round(share * 400)):
        record = pairs[place][0]
        pairs[place] = failed(record.index, record.due_ns / 1e9, record.done_ns / 1e9)
    return warnings(pairs).get("errors")


@pytest.mark.parametrize(
    ("share", "severity"),
    [(0.0, None), (0.01, "note"), (0.05, "warning"), (0.1, "warning"), (0.11, "invalid"), (0.9, "invalid")],
)
def test_a_share_of_failures_above_the_limit_is_invalid(share, severity):
    """One in a hundred is a note, one in ten a warning, more make the run invalid."""
    assert failing(share) == severity


def test_a_death_makes_the_run_invalid():
    """Even where every request was answered; with the line of the log that decides."""
    found = warnings(sound(), engine={"died": "the engine died: out of memory: RuntimeError: no (exit status 1)"})
    (warning,) = died(None, {"engine": {"died": "the engine died: out of memory."}})

    assert found == {"died": "invalid"}
    assert str(warning.text) == "The run did not come to its end: the engine died: out of memory."


def test_the_advice_on_a_death_is_for_who_died():
    """engine.log tells why an engine died, and nothing of a load worker, a process of the client."""
    lost = message("client.worker_died", worker=1, status=-9)
    engine, worker = (
        [str(warning.next) for warning in died(None, {"engine": {"died": "text", "died_message": kept}})]
        for kept in (None, lost.as_dict())
    )

    assert "engine.log" in engine[0]
    assert "engine.log" not in worker[0]
    assert "dmesg" in worker[0]


def test_counters_that_only_grow_are_one_engine():
    """Also where a scrape shows nothing new, or where there are none."""
    assert told(0, 5, 5, 900) == told() == told(7) == []


def test_a_counter_that_falls_is_a_restart():
    """Once or more often; a process that began later is another one, a moved clock is none."""
    assert told(100, 900, 3, 40, 80) == ["restarted"]
    assert told(100, 900, 3, 40, 2, 50, 80) == ["restarted"]
    assert told(1.7e9, 1.7e9, 1.7e9 + 60, name="process_start_time_seconds") == ["restarted"]
    assert told(1.7e9, 1.7e9 + 0.01, name="process_start_time_seconds") == []
    assert told(restarted="another process listens at its address") == ["restarted"]


def test_counters_that_jump_back_and_forth_are_several_servers():
    """A balancer answers /metrics from one replica and then from the other; that is no restart, and no one count."""
    assert told(900, 100, 910, 120, 930, 130) == ["several_servers"]
    assert told(9.0, 5.0, 9.0, 5.0, 9.0, name="process_start_time_seconds") == ["several_servers"]


@pytest.mark.parametrize(
    ("sources", "silent"),
    [
        (["server/a", "server/b/0", "server/b/1"], []),
        (["server/a"], ["'b'"]),
        (["server", "server/bb"], ["'a'", "'b'"]),
    ],
)
def test_engines_whose_counters_never_came_are_named(sources, silent):
    """Those that have an address for them; a proxy has none of an engine, and one that is not reached is not missed."""
    samples = samples_from([(ns(1), source, TOKENS, 1.0) for source in sources])
    processes = [
        {"name": "a", "role": "replica", "metrics_url": "http://a"},
        {"name": "b", "role": "replica", "metrics_url": "http://b"},
        {"name": "p", "role": "proxy", "metrics_url": "http://p"},
        {"name": "c", "role": "replica", "metrics_url": None},
    ]
    found = [str(warning.text) for warning in uncounted(samples, {"engine": {"processes": processes}})]

    assert len(found) == bool(silent)
    assert all(name in text for text in found for name in silent)
    assert list(uncounted(samples_from([]), {"engine": {"processes": processes}})) == []


def test_only_the_servers_counters_count():
    """What a worker or a device shows may fall."""
    assert told(900, 3, source="client-0") == told(900, 3, name="vllm:num_requests_running") == []


@pytest.mark.parametrize(
    ("asked", "answered", "alike"),
    [
        ("m", ["m"], True), ("m", [], True), ("Qwen/Qwen3-8B", ["qwen3-8b"], True), ("/models/q/", ["q"], True),
        ("m", ["n"], False), ("m", ["m", "n"], False), ("", ["n"], True), ("a-7b", ["a-72b"], False),
    ],
)  # fmt: skip
def test_answers_of_another_model_is_a_warning(asked, answered, alike):
    """A folder's or repository's last name is the same model; another name is not."""
    found = list(same_model(None, {"engine": {"model": asked, "answered_models": answered}}))

    assert ([warning.code for warning in found] == []) is alike


def test_adapters_and_models_of_a_mix_are_no_other_model():
    """Requests named them."""
    run = {
        "engine": {"model": "m", "answered_models": ["sql", "m", "n"]},
        "classes": [{"adapter": False}, {"model": "sql", "adapter": True}],
    }
    (warning,) = same_model(None, run)

    assert "'n'" in str(warning.text)
    assert "sql" not in str(warning.text)


@pytest.mark.parametrize(
    ("row", "severity"),
    [
        ({"asked": 16, "effective": 128, "why": "the kernels want it"}, "note"),
        ({"asked": 16, "effective": 128, "why": ""}, "warning"),
        ({"asked": False, "effective": True, "why": "known"}, "warning"),
        ({"asked": 1, "effective": None, "why": "nobody reads it"}, "warning"),
        ({"asked": "auto", "effective": 128}, None),
        ({"asked": None, "effective": 128, "before": 16}, None),
    ],
)
def test_flags_that_are_not_in_force_as_asked_are_told(row, severity):
    """A rewriting that is known is a note; a switch, a flag without effect, or one without a reason is a warning."""
    found = list(flags_in_force(None, {"engine": {"changed": [{"flag": "block_size", **row}]}}))

    assert [warning.severity for warning in found] == ([] if severity is None else [severity])


@pytest.mark.parametrize(("check", "mark", "name", "severity"), REACHED)
def test_how_a_server_was_reached_is_told(check, mark, name, severity):
    """A model asked for unseen is a note, a certificate that nobody checked a warning; else nothing is said."""
    found = [(warning.code, warning.severity) for warning in check(None, {"engine": {mark: False}})]

    assert found == [(name, severity)]
    assert list(check(None, {"engine": {}})) == []
