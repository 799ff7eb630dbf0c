"""The page shows what became of the engine's flags, by which source and why."""

from types import SimpleNamespace

import pytest

from reports.facts import flag_rows, process_commands, process_flags

ENGINE = {
    "asked": {"block_size": 16, "dtype": "auto", "max_num_seqs": 8, "additional_config.enable_mlap": True},
    "effective": {"block_size": 128, "dtype": "bfloat16", "max_num_seqs": 8, "max_model_len": 4096},
    "sources": {"block_size": "metrics", "max_num_seqs": "engine config code"},
    "changed": [
        {"flag": "block_size", "asked": 16, "effective": 128, "why": "its kernels want it", "before": None},
        {"flag": "dtype", "asked": "auto", "effective": "bfloat16", "why": "left to the engine", "before": None},
        {"flag": "max_model_len", "asked": None, "effective": 4096, "why": "", "before": 8192},
        {"flag": "additional_config.enable_mlap", "asked": True, "effective": None, "why": "unread", "before": None},
    ],
}


def rows(engine):
    """The cells by flag."""
    return {row[0].text: row[1:] for row in flag_rows(SimpleNamespace(run={"engine": engine}))}


@pytest.mark.parametrize(
    ("flag", "asked", "effective", "below", "tone", "source"),
    [
        ("block_size", "16", "128", "its kernels want it", "bad", "metrics"),
        ("dtype", "auto", "bfloat16", "left to the engine", "plain", "–"),
        ("max_num_seqs", "8", "8", "", "plain", "engine config code"),
        ("max_model_len", "–", "4096", "8192 was expected before the start", "bad", "–"),
        ("additional_config.enable_mlap", "true", "–", "unread", "bad", "–"),
    ],
)
def test_a_row_tells_what_was_asked_what_is_and_why(flag, asked, effective, below, tone, source):
    """What is not as asked is marked, unless the choice was left to the engine."""
    first, now, told = rows(ENGINE)[flag]

    assert (first.text, now.text, now.below, now.tone, told.text) == (asked, effective, below, tone, source)


def test_an_older_run_still_shows_what_differs():
    """Without changes and sources, a difference of texts is marked."""
    engine = {"asked": {"block-size": 16, "seed": 0}, "effective": {"block_size": 128, "seed": 0}}
    found = rows(engine)

    assert (found["block_size"][1].below, found["block_size"][1].tone) == ("differs", "bad")
    assert (found["seed"][1].below, found["seed"][2].text) == ("", "–")


def test_processes_with_the_same_flags_share_a_table():
    """Each is named once, a process without flags has none, and every command stands behind its name."""
    other = {**ENGINE, "effective": {**ENGINE["effective"], "max_num_seqs": 4}}
    processes = [
        {"name": "decode-0", "command": ["vllm", "serve", "a b"], **ENGINE}, {"name": "decode-1", **ENGINE},
        {"name": "prefill-0", **other}, {"name": "proxy", "command": ["proxy"], "asked": {}, "effective": {}},
    ]  # fmt: skip
    result = SimpleNamespace(run={"engine": {"processes": processes}})

    assert [head.partition(": ")[2] for head, _ in process_flags(result)] == ["decode-0, decode-1", "prefill-0"]
    assert process_commands(result) == "decode-0: vllm serve 'a b'\nproxy: proxy"
    assert flag_rows(result) == process_flags(SimpleNamespace(run={})) == []
