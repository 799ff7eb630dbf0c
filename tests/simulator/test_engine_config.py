"""What the flags of `vllm serve` become in the simulated engine."""

import json

import pytest

from harness.errors import InputError
from harness.simulator.chips import CHIPS, chip_named
from harness.simulator.engine_config import Settings, capture_sizes, effective, settings_from_flags
from harness.simulator.models import MODELS, model_from_config, model_named


def test_no_flags_give_vllms_defaults_on_an_npu():
    """2048 tokens and 256 requests a step, blocks of 128, chunks and prefix cache on."""
    settings = settings_from_flags({})

    assert (settings.max_num_batched_tokens, settings.max_num_seqs, settings.block_size) == (2048, 256, 128)
    assert settings.enable_chunked_prefill
    assert settings.enable_prefix_caching
    assert settings.gpu_memory_utilization == 0.92
    assert settings.max_model_len == model_named(settings.model).max_position


@pytest.mark.parametrize(
    "flags",
    [
        {"max_num_seqs": 64, "tensor_parallel_size": 4, "enable_prefix_caching": False, "max_model_len": 8192},
        {"--max-num-seqs": "64", "-tp": "4", "--no-enable-prefix-caching": None, "--max-model-len": "8K"},
        {"max-num-seqs": 64.0, "tp": "4", "enable-prefix-caching": "false", "max-model-len": "8192"},
    ],
)
def test_spellings_mean_the_same(flags):
    """Snake or kebab case, dashes, short forms, texts and numbers."""
    settings = settings_from_flags(flags)

    assert (settings.max_num_seqs, settings.tensor_parallel_size, settings.max_model_len) == (64, 4, 8192)
    assert not settings.enable_prefix_caching


def test_a_known_flag_without_effect_is_listed():
    """It is accepted without a word and named in `ignored`."""
    settings = settings_from_flags({"trust-remote-code": True, "eplb_config.window_size": 100})

    assert settings.ignored == ("trust_remote_code", "eplb_config.window_size")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_num_seq": 4}, "did you mean 'max_num_seqs'"),
        ({"max_num_seqs": "many"}, "max_num_seqs: 'many' is not a whole number"),
        ({"max_num_seqs": True}, "is not a whole number"),
        ({"max_num_seqs": 0}, "expected 1 or more"),
        ({"gpu_memory_utilization": 1.2}, "expected 0 < x"),
        ({"enable_prefix_caching": "maybe"}, "true or false"),
        ({"chip": "910B9"}, "did you mean '910B"),
        ({"model": "Qwen/Qwen2.5-7C"}, "did you mean 'Qwen2.5-7B'"),
        ({"compilation_config": "{"}, "not a JSON object"),
        ({"cudagraph_mode": "SOME"}, "expected one of NONE"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(flags, said):
    """With the flag, what was expected and the nearest right answer."""
    with pytest.raises(InputError) as caught:
        settings_from_flags(flags)

    assert said in str(caught.value)
    assert len(caught.value.lines) == 1


def test_block_size_becomes_128_where_vllm_ascend_makes_it_so():
    """With chunks or prefix cache on; the log line says it. With both off, or on a CPU, it stays."""
    silent = settings_from_flags({"block_size": 16})
    kept = settings_from_flags({"block_size": 256, "no-enable-prefix-caching": None, "enable_chunked_prefill": False})
    cpu = settings_from_flags({"block_size": 32, "chip": "cpu"})

    assert silent.block_size == 128
    assert silent.notes == ("Block size is set to 128 if prefix cache or chunked prefill is enabled.",)
    assert kept.block_size == 256
    assert cpu.block_size == 32


def test_without_chunks_the_budget_holds_a_whole_prompt():
    """The default of max_num_batched_tokens grows to max_model_len."""
    settings = settings_from_flags({"enable_chunked_prefill": False, "max_model_len": 16384})

    assert settings.max_num_batched_tokens == 16384


def test_captured_sizes_follow_the_ascend_list():
    """1, 2, 4, then steps of 8 and of 16, up to the number of requests; none in eager mode."""
    assert capture_sizes(24) == (1, 2, 4, 8, 16, 24)
    assert capture_sizes(288)[-3:] == (256, 272, 288)
    assert settings_from_flags({"enforce_eager": True}).cudagraph_capture_sizes == ()
    given = settings_from_flags({"compilation_config": '{"cudagraph_mode": "FULL", "cudagraph_capture_sizes": [8, 1]}'})
    assert given.cudagraph_capture_sizes == (1, 8)
    assert given.cudagraph_mode == "FULL"


def test_effective_settings_are_plain_values():
    """They can be written to run.json as they are."""
    shown = effective(settings_from_flags({"block_size": 16}))

    assert json.loads(json.dumps(shown))["block_size"] == 128
    assert "ignored" not in shown


def test_names_of_chips_are_taken_loosely():
    """Case and the word ascend do not matter; every chip is found by its own name."""
    assert chip_named("Ascend910b2").name == "910B2"
    assert [chip_named(name).name for name in CHIPS] == list(CHIPS)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.49),
        ("Qwen/Qwen2.5-7B-Instruct", 7.6),
        ("Qwen/Qwen2.5-14B", 14.8),
        ("Qwen/Qwen2.5-32B", 32.8),
        ("Qwen/Qwen2.5-72B-Instruct", 72.7),
        ("Qwen/Qwen3-8B", 8.2),
        ("Qwen/Qwen3-0.6B", 0.596),
        ("Qwen/Qwen3-Embedding-0.6B", 0.596),
        ("Qwen/Qwen3-Reranker-0.6B", 0.596),
        ("Qwen3-32B-W8A8", 32.8),
        ("Qwen/Qwen3-30B-A3B", 30.5),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.0),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 15.7),
        ("deepseek-ai/DeepSeek-R1-0528", 671),
    ],
)
def test_shapes_have_as_many_parameters_as_published(name, billions):
    """Within 2 % of the model card."""
    assert model_named(name).parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_kv_bytes_follow_the_shape():
    """Qwen3-8B takes 144 KiB a token; a quarter on four cards; latent attention is not divided."""
    qwen, deepseek = MODELS["Qwen3-8B"], MODELS["DeepSeek-V3"]

    assert qwen.kv_bytes(1) == 147456
    assert qwen.kv_bytes(4) == 147456 // 4
    assert qwen.kv_bytes(16) == 147456 // 8
    assert deepseek.kv_bytes(8) == 61 * 576 * 2


def test_a_config_json_describes_a_model(tmp_path):
    """A folder with config.json, or the file, stands for the model."""
    config = {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = model_named(str(tmp_path))

    assert model == model_named(str(tmp_path / "config.json"))
    assert model == model_from_config(tmp_path.name, config)
    assert model.head_dim == 64
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}', encoding="utf-8")
    with pytest.raises(InputError, match="num_hidden_layers is missing"):
        model_named(str(tmp_path))


def test_settings_are_frozen():
    """A value, not a place to write to."""
    with pytest.raises(AttributeError):
        Settings().block_size = 3


@pytest.mark.parametrize("given", [["a", "b", "a"], '["a", "b"]', ("a", "b")])
def test_a_model_may_have_several_names(given):
    """The first is that of answers; a process of its own gets them as JSON."""
    settings = settings_from_flags({"served_model_name": given})

    assert (settings.name, settings.names) == ("a", ("a", "b"))
    with pytest.raises(InputError, match="is not a name or a list of names"):
        settings_from_flags({"served_model_name": [1]})


@pytest.mark.parametrize("given", [{"3": 1.5}, '{"3": 1.5}', "3:1.5", [1, 1, 1, 1.5], "[1, 1, 1, 1.5]"])
def test_a_slow_rank_is_given_by_its_number_or_among_all(given):
    """Whichever way: the steps of rank 3 take half as long again."""
    settings = settings_from_flags({"dp": 4, "rank_slowdown": given})

    assert settings.slowdowns.get(3) == 1.5
    assert settings.slowdowns.get(0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"dp": 2, "rank_slowdown": "2:1.5"}, "expected ranks from 0 to 1"),
        ({"dp": 2, "rank_slowdown": [1, 0]}, "factors above 0"),
        ({"dp": 4, "rank_slowdown": [1, 4]}, "has 2 of 4 factors; expected one for each rank"),
        ({"dp": 4, "rank_slowdown": "[1, 4]"}, "has 2 of 4 factors"),
        ({"rank_slowdown": "slow"}, "rank_slowdown: 'slow' is not a factor by rank"),
        ({"expert_imbalance": 0.9}, "0.9 is below 1"),
        ({"kv_transfer_config": {"kv_role": "prefill"}}, "'prefill' is none of kv_producer, kv_consumer"),
        ({"kv_transfer_config": "pd"}, "'pd' is not a JSON object"),
        ({"dp": 0}, "data_parallel_size: 0"),
    ],
)
def test_parallel_flags_that_mean_nothing_are_refused(flags, said):
    """With what was expected."""
    with pytest.raises(InputError) as refused:
        settings_from_flags(flags)

    assert said in str(refused.value)


def test_the_role_in_a_pair_is_that_of_the_kv_connector():
    """Given whole or by its key."""
    whole, by_key = (
        {"kv_transfer_config": {"kv_connector": "X", "kv_role": "kv_both"}},
        {"kv_transfer_config.kv_role": "kv_both"},
    )

    assert settings_from_flags(whole).kv_role == settings_from_flags(by_key).kv_role == "kv_both"
    assert settings_from_flags({}).kv_role == ""
