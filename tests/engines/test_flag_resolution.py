"""What an engine makes of its flags is known before a start, with no more questions than needed."""

import asyncio
import sys
from pathlib import Path

import pytest

from harness.engines import interpreter_query
from harness.engines.effective_config import flag_changes, predict_by_code
from harness.engines.flag_resolution import examine_flags, resolve, resolve_by_simulator, resolve_many
from harness.engines.interpreter_probe import OFFLINE, SERVER
from harness.engines.interpreter_query import ConfigCheck, InstalledEngine, query_installed
from harness.engines.vllm import check_flags
from harness.errors import EngineError, InputError
from harness.scenario.engine import Engine
from tests.fakes import overheard

FAKE = str(Path(__file__).parent.parent / "fake_engine")
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.fixture(autouse=True)
def asked(tmp_path, monkeypatch):
    """What the interpreter was asked, in order; no kept answers of other runs."""
    return overheard(tmp_path, monkeypatch)


def resolved(*points, mode="", kind="vllm", model="m"):
    """The stand-in's answers."""
    env = {"PYTHONPATH": FAKE, "FAKE_VLLM": mode}
    return asyncio.run(resolve_many(kind, sys.executable, env, str(model), points))


def test_the_engines_own_code_tells():
    """Values, switches as read, and the flags that its configuration does not show; each point on its own."""
    first, second = resolved({"max_num_seqs": 4, "enforce_eager": True}, {"block_size": 16})

    assert first.effective == {
        "block_size": 128, "kv_cache_dtype": "auto", "max_num_seqs": 4, "max_model_len": 2048, "dtype": "bfloat16",
        "seed": 1, "scheduler_cls": "types.SimpleNamespace", "cudagraph_mode": "OPENAI_API_SERVER",
        "cudagraph_capture_sizes": [1, 2], "enforce_eager": True,
    }  # fmt: skip
    assert (first.by, first.changed, first.refusal, first.reason) == ("engine", (), None, None)
    assert second.effective["seed"] == 1  # state of the first is not there
    assert [(row.flag, row.effective, row.why and str(row.why)) for row in second.changed] == [
        ("block_size", 128, "Block size is set to 128 here.")
    ]


def test_a_point_that_would_be_refused_says_why_and_the_others_stand():
    """A rule of the configuration, a value of the wrong kind, an unknown flag: one line each."""
    points = ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, {"max_num_seqs": "x"}, {"max_num_seq": 1}, {})
    faults = [one.refusal and str(one.refusal) for one in resolved(*points)]

    assert faults == [
        "max_num_batched_tokens (32) must be at least max_num_seqs",
        "engine.args.max_num_seqs: invalid int value: 'x'",
        "engine.args.max_num_seq: vLLM has no such flag; did you mean 'max_num_seqs'?",
        None,
    ]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("nodevice", "RuntimeError: Failed to infer device type"),
        ("crash", "ended its process (exit status 7)"),
        ("exit", "ended its process (exit status 1)"),
    ],
)
def test_what_the_engine_cannot_tell_is_told_by_the_rules(mode, reason):
    """Without a device, or where the code dies: what was asked, as the plug-in is known to change it, and why so."""
    plain, ascend = (
        resolved({"block_size": 16}, mode=mode)[0],
        resolved({"block_size": 16}, mode=mode, kind="vllm-ascend")[0],
    )

    assert (plain.by, plain.effective, plain.refusal) == ("rules", {"block_size": 16}, None)
    assert reason in str(plain.reason)
    assert (ascend.effective, ascend.changed[0].source) == ({"block_size": 128}, "rule")


def test_an_interpreter_that_takes_too_long_is_not_waited_for(monkeypatch):
    """The rules stand in, and say how long was waited."""
    monkeypatch.setattr(interpreter_query, "FLAGS_S", -1.0)
    one = resolved({})[0]

    assert one.by == "rules"
    assert "within 0 ms" in str(one.reason)


def test_an_interpreter_that_is_not_there_or_has_no_vllm():
    """The first is a fault of the user's; the second is told by the rules."""
    with pytest.raises(EngineError, match=r"engine\.python /no/such: cannot be run"):
        asyncio.run(resolve("vllm", "/no/such", {}, "m", {}))
    one = asyncio.run(resolve("vllm", sys.executable, {"PYTHONPATH": ""}, "m", {}))

    assert (one.by, "no vLLM" in str(one.reason)) == ("rules", True)


def test_one_process_answers_all_and_answers_are_kept(asked):
    """Only new points start another; the flags come with the first."""
    first = resolved({}, {"max_num_seqs": 4}, {})
    again = resolved({"max_num_seqs": 4}, {})
    has = asyncio.run(query_installed(sys.executable, {"PYTHONPATH": FAKE}))
    resolved({"max_num_seqs": 5}, {})

    assert again == (first[1], first[0])
    assert "--block-size" in has.options
    assert asked == ["versions", "resolve", "versions", "versions", "versions", "resolve"]


def test_an_engine_without_a_server_has_defaults_of_its_own(asked):
    """It is asked as vLLM's `LLM` would ask, and that answer is not taken for a server's."""
    env = {"PYTHONPATH": FAKE}
    found = [
        asyncio.run(examine_flags("vllm", sys.executable, env, "m", [{}], usage=usage)).resolved[0]
        for usage in (SERVER, OFFLINE, OFFLINE)
    ]

    assert [one.effective["cudagraph_mode"] for one in found] == [SERVER, OFFLINE, OFFLINE]
    assert asked.count("resolve") == 2


def test_what_is_known_is_not_asked_before_a_start(asked):
    """What speaks against a start still does: a flag that the engine has not, and a fault that is known."""
    env = {"PYTHONPATH": FAKE}
    known, bad = resolved({"max_num_seqs": 4}, {"max_num_seqs": 64, "max_num_batched_tokens": 32})
    engine = Engine(kind="vllm", model="m", args={"max_num_seqs": 4})
    strange = engine.model_copy(update={"args": {"max_num_seq": 4}})

    assert asyncio.run(check_flags(engine, "vllm", sys.executable, env, known=known)) is known
    with pytest.raises(InputError, match="no such flag"):
        asyncio.run(check_flags(strange, "vllm", sys.executable, env, known=known))
    with pytest.raises(EngineError, match="would not start"):
        asyncio.run(check_flags(engine, "vllm", sys.executable, env, known=bad))
    assert asked.count("resolve") == 1


def test_an_answer_follows_from_the_model_and_the_environment(asked, tmp_path):
    """Another configuration of the model, or another variable that vLLM reads, is another question."""
    config = tmp_path / "config.json"
    config.write_text("{}")
    resolved({}, model=tmp_path)
    config.write_text('{"changed": 1}')
    resolved({}, model=tmp_path)
    resolved({}, model=tmp_path, mode="serve")

    assert asked.count("resolve") == 3


def test_a_refusal_is_kept_only_where_the_model_is_here(asked, tmp_path):
    """A model that is only a name may be fetched meanwhile."""
    here = [resolved({"max_num_seqs": "x"}, model=tmp_path) for _ in range(2)]
    named = [resolved({"max_num_seqs": "x"}) for _ in range(2)]

    assert here[0] == here[1] == named[0] == named[1]
    assert asked == ["versions", "resolve", "versions", *["versions", "resolve"] * 2]


def test_the_twin_resolves_by_its_own_code():
    """Its block size, its memory, its refusals, and the flags that it does not act on."""
    one = resolve_by_simulator(MODEL, {"block_size": 16, "max_model_len": "4k", "load_format": "dummy"})
    rows = {row.flag: (row.effective, row.source) for row in one.changed}

    assert (one.by, one.effective["block_size"], one.effective["max_model_len"]) == ("simulator", 128, 4000)
    assert "load_format" not in one.effective
    assert rows == {"block_size": (128, "simulator"), "load_format": (None, "simulator")}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "must be greater than or equal to max_num_seqs (64)"),
        ({"gpu_memory_utilization": 0.01}, "No available memory for the cache blocks"),
        ({"max_num_seq": 3}, "did you mean 'max_num_seqs'?"),
    ],
)
def test_the_twin_refuses_as_it_would_at_a_start(args, words):
    """A rule of the configuration, memory that is too small, and an unknown flag."""
    one = asyncio.run(resolve("simulator", None, {}, MODEL, args))

    assert words in str(one.refusal)
    assert (one.by, one.changed) == ("simulator", ())


SPELLINGS = {False: [False, 0, "off", "false", "No", "0"], True: [True, 1, "on", "TRUE", "yes", "1"]}


@pytest.mark.parametrize("meant", [True, False])
def test_a_switch_is_what_was_meant_however_it_is_spelled(meant):
    """One process is asked; a switch without a way to say no is left out where it is off by itself."""
    name = "enforce_eager"
    found = resolved(*({name: value} for value in SPELLINGS[meant]), {"enable_prefix_caching": SPELLINGS[meant][2]})
    *eager, caching = found

    assert {one.effective[name] for one in eager} == {meant}
    assert {one.args[name] for one in eager} == {meant}
    assert {one.words for one in eager} == {("--enforce-eager",) if meant else ()}
    assert caching.words == (("--enable-prefix-caching",) if meant else ("--no-enable-prefix-caching",))
    assert {(one.changed, one.refusal, one.value_errors) for one in found} == {((), None, ())}


@pytest.mark.parametrize("value", ["maybe", 2, 0.5, [True], {"a": 1}, ""])
def test_what_is_neither_on_nor_off_is_no_switch(value):
    """By the installed parser's own list, by the shipped one for the embedded engine."""
    (one,) = resolved({"enforce_eager": value})
    two = resolve_by_simulator(MODEL, {"enforce_eager": value, "max_model_len": 2048})

    assert one.value_errors == two.value_errors != ()
    assert "engine.args.enforce_eager: a switch that is" in str(one.value_errors[0])


@pytest.mark.parametrize("value", SPELLINGS[False])
def test_the_embedded_engine_is_asked_for_the_same_switches(value):
    """What it does not act on is typed too."""
    one = resolve_by_simulator(MODEL, {"enforce_eager": value, "disable_log_stats": value, "enable_lora": value})

    assert one.effective["enforce_eager"] is False
    assert one.words == ("--no-enforce-eager", "--no-disable-log-stats", "--no-enable-lora")


def test_a_switch_that_became_something_else_is_told():
    """What was asked is held against what is in force, not against what a parser read."""
    asked, answer = {"enforce_eager": False}, ConfigCheck({"enforce_eager": True}, {"enforce_eager": True})
    basis = predict_by_code(asked, answer, InstalledEngine())
    (row,) = flag_changes(asked, basis.values, basis)

    assert (row.requested, row.effective) == (False, True)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"max_num_seqs": "eight"}, "engine.args.max_num_seqs: 'eight' is not a whole number"),
        ({"max_num_seq": 8}, "engine.args.max_num_seq: not one of vLLM's; did you mean 'max_num_seqs'?"),
    ],
)
def test_the_embedded_engine_takes_wrong_flags_for_wrong_input(flags, line):
    """As those of a real engine (exit 2), and not for an engine that failed."""
    (error,) = resolve_by_simulator("Qwen/Qwen2.5-7B-Instruct", flags).value_errors

    assert str(error) == line


def test_what_does_not_fit_the_simulated_device_is_no_wrong_input():
    """Too little memory is an engine that does not start (exit 3)."""
    resolved = resolve_by_simulator("Qwen/Qwen2.5-72B-Instruct", {})

    assert resolved.refusal is not None
    assert resolved.value_errors == ()
