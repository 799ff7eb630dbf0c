"""Is it told right what an engine's flags really became?"""

from harness.engines.bootlog import boot_facts
from harness.engines.effective import effective

NONE = frozenset()
LOG = (
    "Initializing a V1 LLM engine (v0.23.0) with config: model='m', dtype=torch.bfloat16, max_seq_len=4096, seed=0",
    "NPU KV cache size: 5,120 tokens",
    "Block size is set to 128 if prefix cache or chunked prefill is enabled.",
)


def test_the_counters_have_the_last_word_then_the_log_then_the_rules():
    """/metrics over the log over what the plug-in is known to do."""
    asked, facts = {"block_size": 16}, boot_facts(LOG)
    cache = {"block_size": 64, "cache_dtype": "auto", "num_gpu_blocks": 40, "engine": 0, "sliding_window": None}

    assert effective("vllm-ascend", asked, {}, boot_facts([]), NONE) == {"block_size": 128}
    assert effective("vllm", asked, {}, facts, NONE)["block_size"] == 128
    assert effective("vllm-ascend", asked, cache, facts, NONE) == {
        "block_size": 64, "kv_cache_dtype": "auto", "num_gpu_blocks": 40, "dtype": "bfloat16", "max_model_len": 4096,
        "seed": 0, "kv_cache_size_tokens": 5120, "version": "0.23.0",
    }  # fmt: skip


def test_ascends_block_size_stands_only_where_both_features_are_off():
    """Prefix caching and chunked prefill are on by default, and either makes it 128."""
    nothing = boot_facts([])
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}

    assert effective("vllm-ascend", {"block_size": 64} | off, {}, nothing, NONE) == {}
    assert effective("vllm-ascend", off, {}, nothing, NONE) == {"block_size": 128}
    assert effective("vllm-ascend", {"block_size": 64, "enable_prefix_caching": False}, {}, nothing, NONE) == {
        "block_size": 128
    }
    assert effective("vllm", {"block_size": 64}, {}, nothing, NONE) == {}


def test_keys_that_nobody_reads_are_missing_from_what_is_in_force():
    """additional_config is read key by key, and others are passed over without a word."""
    asked = {"additional_config": {"enable_mlapo": True, "weight_prefetch_config": {}}}
    known = frozenset({"enable_mlapo"})

    assert effective("vllm", asked, {}, boot_facts([]), known) == {"additional_config": {"enable_mlapo": True}}
    assert effective("vllm", asked, {}, boot_facts([]), NONE) == {}
