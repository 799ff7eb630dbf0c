"""Reasons of the bench have a code, whose sentences stand in the catalogues of the harness."""

import ast
import json
from pathlib import Path

import pytest

from harness.messages import Message, message_from, render
from harness.messages.rendering import catalogue
from kernels_bench.reasons import message_of, reason

BENCH = Path(__file__).parents[2] / "kernels_bench"
SAMPLES = {"word": "x", "names": ["a", "b"], "near": [2, 4], "size": 0.5}


def literals():
    """Every code that the bench's source names, with the constants beside it."""
    for path in sorted(BENCH.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_catalogue_has_the_sentences_of_the_bench():
    """Each English sentence of the catalogue stands in the bench's source, letter for letter."""
    texts = set(literals())
    missing = [code for code, forms in catalogue("en", "bench").sentences.items() if {code, forms[0]} - texts]

    assert missing == []


@pytest.mark.parametrize("sentence", ["{word:quote} of {names:list}", "{near:or}; {names:parts}", "{size} {names:and}"])
def test_a_reason_reads_as_the_catalogue_renders_it(sentence, monkeypatch):
    """Lists, quotes and numbers are written alike on both sides, after a way through JSON too."""
    names = [name for name in SAMPLES if "{" + name in sentence]
    why = reason("bench.sample", sentence, **{name: SAMPLES[name] for name in names})
    monkeypatch.setitem(catalogue("en", "bench").sentences, "bench.sample", (sentence,))
    kept = message_from(json.loads(json.dumps(message_of(why))))

    assert render(kept) == str(why)


def test_a_reason_may_hold_others():
    """They become messages within the message; plain text has no code."""
    inner = reason("bench.cpu_no_graphs", "a CPU has no graphs")
    outer = reason("bench.mode_refused", "{mode}: {why}", mode="graph", why=inner)
    kept = message_from(message_of(outer))

    assert str(outer) == render(kept) == "graph: a CPU has no graphs"
    assert isinstance(kept.parameters["why"], Message)
    assert render(kept, "zh") == "graph：CPU 没有图模式"
    assert message_of("as a plug-in says it") is None
