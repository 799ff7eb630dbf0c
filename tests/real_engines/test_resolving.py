"""What the real vLLM and vllm-ascend make of their flags, known before a start."""

import asyncio

import pytest

from harness.engines.flag_resolution import resolve_many
from tests.hollow import stubs

pytestmark = pytest.mark.engines

QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
REFUSED = {"max_num_seqs": 64, "max_num_batched_tokens": 32}


def resolved(kind, python, env, model, points):
    """What the interpreter makes of each set of flags."""
    found = asyncio.run(resolve_many(kind, python, env, str(model), list(points.values())))
    return dict(zip(points, found, strict=True))


@pytest.fixture(scope="module")
def plain(vllm_python, tiny_model):
    """The CPU engine's answers."""
    points = {
        "nothing": {},
        "block": {"block_size": 16},
        "refused": REFUSED,
        "long": {"max_model_len": 99_999_999},
        "kind": {"max_num_seqs": "many"},
        "key": {"compilation_config": {"cudagraph_capture_sizes": [1, 2], "bogus": 1}},
        "spelled": {"max_model_len": "4k", "dtype": "half", "no-enable-prefix-caching": True},
        "graphs": {"compilation_config": {"cudagraph_capture_sizes": [1, 2]}, "max_model_len": "auto"},
    }
    return resolved("vllm", vllm_python, QUIET, tiny_model, points)


@pytest.fixture(scope="module")
def ascend(ascend_python, cann, tiny_model):
    """The plug-in's answers, on the hollow CANN."""
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    points = {
        "nothing": {},
        "block": {"block_size": 16},
        "kept": {"block_size": 64, **off},
        "refused": REFUSED,
        "keys": {"additional_config": {"enable_cpu_bindin": True, "enable_shared_expert_dp": True, "refresh": True}},
        "sizes": {"max_num_seqs": 16},
    }
    return resolved("vllm-ascend", ascend_python, {**QUIET, **stubs.environment(cann)}, tiny_model, points)


def test_the_engines_own_code_tells_the_defaults(plain):
    """On a CPU: blocks of 128 tokens, as many as the model's length, and no graphs."""
    found = plain["nothing"]

    assert (found.by, found.refusal, found.changed) == ("engine", None, ())
    assert found.effective["block_size"] == 128
    assert found.effective["max_model_len"] == 32768
    assert found.effective["cudagraph_mode"] == "NONE"


def test_a_cpus_block_size_stands_until_its_kernels_refuse_it(plain):
    """16 passes the configuration; that no kernel has it shows only in the worker."""
    assert plain["block"].effective["block_size"] == 16
    assert (plain["block"].refusal, plain["block"].changed) == (None, ())


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("refused", "max_num_batched_tokens (32) must be greater than or equal to max_num_seqs (64)."),
        ("long", "User-specified max_model_len (99999999) is greater than the derived max_model_len"),
        ("kind", "engine.args.max_num_seqs: invalid int value: 'many'"),
        ("key", "engine.args.compilation_config: 1 validation error for CompilationConfig bogus Unexpected keyword"),
    ],
)
def test_what_would_be_refused_is_known(plain, point, words):
    """In the engine's words, in one line."""
    fault = str(plain[point].refusal)

    assert fault.startswith(words)
    assert "\n" not in fault
    assert "https://" not in fault


def test_spellings_are_no_changes(plain):
    """4k is 4000, half is float16, and --no-x switches x off."""
    found = plain["spelled"]

    assert found.changed == ()
    assert [found.effective[name] for name in ("max_model_len", "dtype", "enable_prefix_caching")] == [
        4000, "float16", False,
    ]  # fmt: skip


def test_changes_have_their_reasons(plain):
    """Graphs that a CPU does not capture, and a length that was left to the engine."""
    rows = {row.flag: (row.requested, row.effective, row.why and str(row.why)) for row in plain["graphs"].changed}

    assert rows["cudagraph_capture_sizes"][:2] == ([1, 2], [])
    assert rows["max_model_len"][:2] == ("auto", 32768)
    assert all(why for _, _, why in rows.values())


def test_the_plugin_makes_blocks_of_128_before_any_start(ascend):
    """By its own code; only with prefix caching and chunked prefill off it takes another size."""
    (row,) = ascend["block"].changed

    assert ascend["block"].by == "engine"
    assert (row.flag, row.requested, row.effective, row.source) == ("block_size", 16, 128, "config code")
    assert "128 where prefix caching or chunked prefill is on" in str(row.why)
    assert ascend["kept"].effective["block_size"] == 64
    assert ascend["nothing"].effective["block_size"] == 128


def test_the_plugins_keys_are_told_apart(ascend):
    """One that it does not read is named with the nearest, one that it takes back is shown, one it reads stands."""
    rows = {row.flag.removeprefix("additional_config."): row for row in ascend["keys"].changed}

    assert set(rows) == {"enable_cpu_bindin", "enable_shared_expert_dp"}
    assert rows["enable_cpu_bindin"].effective is None
    assert "reads no such key; did you mean 'enable_cpu_binding'?" in str(rows["enable_cpu_bindin"].why)
    assert rows["enable_shared_expert_dp"].effective is False


def test_the_plugins_graphs_end_at_the_largest_batch(ascend):
    """Its largest graph is of max_num_seqs requests, where vLLM alone would capture twice that."""
    assert ascend["sizes"].effective["cudagraph_capture_sizes"][-1] == 16
    assert ascend["nothing"].effective["cudagraph_capture_sizes"][-1] == 256


def test_the_plugin_refuses_what_vllm_refuses(ascend):
    """The same sentence, before any start."""
    assert str(ascend["refused"].refusal).startswith("max_num_batched_tokens (32) must be greater than or equal")
