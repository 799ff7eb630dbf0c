"""What an engine's flags really became, the source of that, and the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.effective_config import (
    FlagValue,
    confirm,
    flag_changes,
    flatten_flags,
    predict_by_code,
    predict_by_rules,
    same_value,
    values_of,
)
from harness.engines.engine_log import boot_facts
from harness.engines.interpreter_query import ConfigCheck, InstalledEngine
from harness.telemetry.server_metrics import cache_config

PLAIN, ASCEND = InstalledEngine(ascend=False), InstalledEngine(versions={"vllm-ascend": "0.23.0"})
LOG = (
    "Initializing a V1 LLM engine (v0.23.0) with config: model='m', dtype=torch.bfloat16, max_seq_len=4096, seed=0",
    "NPU KV cache size: 5,120 tokens",
    "Block size is set to 128 if prefix cache or chunked prefill is enabled.",
)


def ruled(asked, kind="vllm-ascend", found=ASCEND):
    """Values by the rules."""
    return values_of(predict_by_rules(kind, asked, found).values)


def test_the_counters_have_the_last_word_then_the_log_then_what_was_told_before():
    """/metrics over the log over what was known before the start, each value with its source."""
    before = predict_by_rules("vllm-ascend", {"block_size": 16, "max_num_seqs": 8}, ASCEND).values
    cache = {"block_size": 64, "cache_dtype": "auto", "num_gpu_blocks": 40, "engine": 0, "sliding_window": None}
    told = confirm(before, boot_facts(LOG), cache)

    assert values_of(confirm(before, boot_facts([]), {})) == {"block_size": 128, "max_num_seqs": 8}
    assert values_of(told) == {
        "block_size": 64, "kv_cache_dtype": "auto", "num_gpu_blocks": 40, "dtype": "bfloat16", "max_model_len": 4096,
        "seed": 0, "kv_cache_size_tokens": 5120, "version": "0.23.0", "max_num_seqs": 8,
    }  # fmt: skip
    assert [told[name].source for name in ("block_size", "seed", "max_num_seqs")] == ["metrics", "log", "as requested"]


def test_ascends_block_size_stands_only_where_both_features_are_off():
    """Prefix caching and chunked prefill are on by default, and either makes it 128."""
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}

    assert ruled({"block_size": 64} | off)["block_size"] == 64
    assert ruled(off)["block_size"] == 128
    assert ruled({"block_size": 64, "no-enable-prefix-caching": True})["block_size"] == 128
    assert ruled({"block_size": 64}, "vllm", PLAIN) == {"block_size": 64}


def test_a_rewritten_flag_is_a_row_with_its_reason():
    """What was asked, what it is, who says so, and why; a flag that is as asked has none."""
    asked = {"block_size": 16, "max_num_seqs": 8}
    basis = predict_by_rules("vllm-ascend", asked, ASCEND)
    (row,) = flag_changes(asked, basis.values, basis)

    assert (row.flag, row.requested, row.effective, row.source, row.expected) == ("block_size", 16, 128, "rule", None)
    assert "128 where prefix caching or chunked prefill is on" in str(row.why)


def test_an_additional_key_that_nobody_reads_is_named_with_the_nearest():
    """additional_config is read key by key, and others are passed over without a word."""
    found = InstalledEngine(versions={"vllm-ascend": "0.23.0"}, additional_keys=frozenset({"enable_mlapo", "refresh"}))
    asked = {"additional_config": {"enable_mlap": True, "refresh": True}}
    basis = predict_by_rules("vllm-ascend", asked, found)
    (row,) = flag_changes(asked, basis.values, basis)

    assert ruled(asked, found=found) == {"block_size": 128, "additional_config.refresh": True}
    assert (row.flag, row.requested, row.effective) == ("additional_config.enable_mlap", True, None)
    assert str(row.why) == "vllm-ascend 0.23.0 reads no such key; did you mean 'enable_mlapo'?"
    assert ruled(asked)["additional_config.enable_mlap"] is True  # where the keys are not known, nothing is said


def test_the_engines_own_line_is_the_reason_where_none_is_stated():
    """A line that names the flag in any spelling; without one there is no reason rather than a guess."""
    asked = {"stream_interval": 4, "watermark": 0.5}
    said = ("Watermarking is on", "stream-interval is set to 1 here")
    basis = predict_by_code(asked, ConfigCheck({"stream_interval": 1, "watermark": 0.0}, asked, said), PLAIN)
    rows = {row.flag: row.why and str(row.why) for row in flag_changes(asked, basis.values, basis)}

    assert rows == {"stream_interval": "stream-interval is set to 1 here", "watermark": None}


def test_a_started_engine_may_differ_from_what_was_told_before():
    """Then the row has all three: asked, told before, and in force; also where nothing was asked."""
    basis = predict_by_code(
        {"max_model_len": "auto"}, ConfigCheck({"max_model_len": 32768, "block_size": 16}, {}), PLAIN
    )
    now = confirm(basis.values, boot_facts(["Using max model len 4096"]), {"block_size": 32})
    block, length = flag_changes({"max_model_len": "auto"}, now, basis)

    assert (length.requested, length.expected, length.effective, length.source) == ("auto", 32768, 4096, "log")
    assert str(length.why) == "as long as the model allows and the KV cache holds"
    assert (block.requested, block.expected, block.effective, block.source) == (None, 16, 32, "metrics")


def test_flags_go_by_one_name():
    """Aliases, switches, and keys of structured flags in any of their spellings."""
    asked = {
        "tp": 2, "no-enable-prefix-caching": True, "compilation_config": '{"cudagraph_mode": "FULL", "mode": 3}',
        "additional_config": {"a": {"b": 1}}, "compilation_config.cudagraph_capture_sizes": [1],
    }  # fmt: skip

    assert flatten_flags(asked) == {
        "tensor_parallel_size": 2, "enable_prefix_caching": False, "cudagraph_mode": "FULL",
        "compilation_config.mode": 3, "additional_config.a": {"b": 1}, "cudagraph_capture_sizes": [1],
    }  # fmt: skip
    assert flatten_flags({"compilation_config": "{broken", "additional_config": "3"}) == {
        "compilation_config": "{broken", "additional_config": "3",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("half", "float16", True), (0.9, "0.90", True), ("4k", 4000, True), ("4K", 4096, True), ([2, 1], [1, 2], True),
        (True, "true", True), ("auto", 128, False), (16, 128, False), ([1, 2], [1], False), ("full", "FULL", True),
        ({"a": 1}, {"a": "1", "b": 2}, True), ({"a": 1, "b": 3}, {"a": 1}, False), (True, 1.5, False),
        ({"a": [1], "b": "x"}, '{"a": [1], "b": "x"}', True), ({"a": 1}, "{broken", False),
        ('{"a": 1}', {"a": 2}, False),
    ],
)  # fmt: skip
def test_values_are_the_same_however_they_are_spelled(one, other, alike):
    """Numbers, shortened numbers, sizes in any order, switches and names of types."""
    assert same_value(one, other) is alike


@given(st.dictionaries(st.sampled_from(["max_num_seqs", "seed", "watermark"]), st.integers(0, 10**6)))
def test_what_stands_as_asked_has_no_row(asked):
    """Whatever is asked, where the engine takes it there is nothing to tell."""
    basis = predict_by_code(asked, ConfigCheck(dict(asked), {}), PLAIN)

    assert flag_changes(asked, basis.values, basis) == ()


def test_several_engines_are_counted_and_each_keeps_its_own_cache():
    """Two data-parallel cores print a configuration of one each: what is in force is how many there are."""
    line = "(EngineCore_DP{} pid=5) INFO 08-22 10:00:01 [core.py:1] {}"
    config = "Initializing a V1 LLM engine (v0.32.0) with config: model='m', data_parallel_size=1, seed=0"
    log = [line.format(number, config) for number in (0, 1)]
    metrics = "".join(
        f'vllm:cache_config_info{{engine="{number}",num_gpu_blocks="{blocks}"}} 1\n'
        for number, blocks in ((0, 70), (1, 69))
    )
    asked = {"data_parallel_size": 2}
    basis = predict_by_code(asked, ConfigCheck({"data_parallel_size": 2}, {}), PLAIN)
    by_log = confirm(basis.values, boot_facts(log), {})
    both = confirm(basis.values, boot_facts(log), cache_config(metrics))

    assert flag_changes(asked, by_log, basis) == ()
    assert by_log["data_parallel_size"].value == both["data_parallel_size"].value == 2
    assert both["num_gpu_blocks_by_engine"].value == {"0": 70, "1": 69}
    assert confirm({"data_parallel_size": FlagValue(4, "rule")}, boot_facts(log), {})["data_parallel_size"].value == 4
    assert boot_facts(log[1:]).cores == 2
    assert boot_facts(["(EngineCore pid=5) x"]).cores is None
