"""`harness serve-sim` reads its words as `vllm serve` does."""

import pytest

from harness.cli.serve_sim import flags_in
from harness.errors import InputError


def test_words_become_flags():
    """Values follow a flag or an equals sign; a flag alone is true, and `--no-` makes it false."""
    words = ["--max-num-seqs", "64", "--block-size=128", "--enforce-eager", "--no-enable-prefix-caching"]

    assert flags_in(words) == {
        "max_num_seqs": "64",
        "block_size": "128",
        "enforce_eager": True,
        "enable_prefix_caching": False,
    }


def test_the_model_may_come_first():
    """As it does for `vllm serve MODEL`; by a flag it is the same."""
    assert flags_in(["Qwen/Qwen3-8B", "--port", "0"]) == flags_in(["--port", "0", "--model", "Qwen/Qwen3-8B"])


def test_flags_of_several_words_take_all_of_them():
    """As vLLM's --served-model-name; one word stays a text."""
    words = ["M", "--served-model-name", "a", "b", "--port", "0"]

    assert flags_in(words) == {"model": "M", "served_model_name": ["a", "b"], "port": "0"}
    assert flags_in(["--served-model-name", "a"]) == {"served_model_name": "a"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "0", "stray"], "'stray' is no flag"),
        (["--"], "'--' is no flag"),
        (["A", "--model", "B"], "the model is named twice, as 'A' and by --model"),
    ],
)
def test_other_words_are_refused(words, told):
    """A word out of place is told, and not swallowed."""
    with pytest.raises(InputError, match=told):
        flags_in(words)
