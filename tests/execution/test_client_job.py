"""Prompts are what a scenario asks for: real text where the engine speculates, else random; and the run says so."""

import asyncio
import json

import pytest

from harness.execution.client_job import prompt_material, speculates, wanted_text, with_one_text, without_tokenizer
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.messages import message_from
from harness.results import store, table_files
from harness.scenario.engine import Engine
from harness.scenario.loader import load_scenario
from harness.workload.real_text import TextMaterial

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
DRAFTING = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}
LENGTHS = {"kind": "synthetic", "input_tokens": {"uniform": [30, 300]}, "output_tokens": 20}


def scenario(folder, **more):
    """A scenario on the simulator, in virtual time, with 60 requests of four users."""
    content = {
        "name": "drafts",
        "question": "Does it hold?",
        "engine": {"kind": "simulator", "model": MODEL, "args": more.pop("args", {})},
        "workload": LENGTHS | more.pop("workload", {}),
        "load": [{"closed": {"concurrency": 4, "requests": 60}}],
    }
    path = folder / "drafts.yaml"
    path.write_text(json.dumps(content | more), encoding="utf-8")
    return load_scenario(path)


def ran(folder, **more):
    """The finished folder of a run of it."""
    loaded = scenario(folder, **more)
    spec = RunSpec(loaded, folder / "out", "", lambda _: None)
    assert execute(spec).exit_code == 0
    finish(spec.folder)
    return spec.folder


@pytest.mark.parametrize(
    ("args", "on"),
    [
        ({}, False),
        (DRAFTING, True),
        ({"spec_method": "ngram"}, True),
        ({"speculative_config": None}, False),
        ({"specialize_active_lora": True}, False),
    ],
)
def test_flags_say_whether_an_engine_drafts(args, on):
    """Each of vLLM's ways to turn it on, and no flag that is only spelled alike."""
    assert speculates(Engine(kind="simulator", args={k: v for k, v in args.items() if v is not None})) is on


def test_a_server_says_by_its_counters_that_it_drafts(tmp_path):
    """Of a server that was reached nobody knows the flags."""
    plain = scenario(tmp_path).scenario

    assert wanted_text(plain) == "random"
    assert wanted_text(plain, 'vllm:spec_decode_num_drafts_total{engine="0"} 0.0') == "real"
    assert wanted_text(scenario(tmp_path, workload={"text": "random"}, args=DRAFTING).scenario) == "random"


def test_all_trials_of_a_study_read_the_same_text(tmp_path):
    """Where a study may turn speculation on, trials without it are sent real text, too; a text that is set stays."""
    plain, random = scenario(tmp_path).scenario, scenario(tmp_path, workload={"text": "random"}).scenario

    assert with_one_text(plain, ["max_num_seqs"]) == plain
    assert with_one_text(plain, ["max_num_seqs", "speculative_config"]).workload.text == "real"
    assert with_one_text(plain, ["sc"]).workload.text == "real"
    assert with_one_text(scenario(tmp_path, args=DRAFTING).scenario, []).workload.text == "real"
    assert with_one_text(random, ["speculative_config"]) == random


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_real_text_is_sent_where_the_engine_speculates(tmp_path, endpoint):
    """Its lengths are exact by the server's count, the run says why, and acceptance stands in the summary."""
    folder = ran(tmp_path, args=DRAFTING, endpoint=endpoint)
    run, summary = (store.read_json(folder, name) for name in (store.RUN, store.SUMMARY))
    requests = table_files.read_requests(folder)

    assert (run["text"], run["lengths_exact"]) == ("real", True)
    assert [message_from(note).code for note in run["notes"]] == ["workload.text_by_default"]
    assert (requests.input_tokens == requests.input_asked).all()
    assert summary["tokens"]["input_mismatched"] == 0
    assert summary["stages"][0]["speculation"]["drafts"] > 0
    assert "random_text" not in {warning["code"] for warning in summary["verdict"]["warnings"]}


def test_random_tokens_are_sent_where_it_does_not(tmp_path):
    """As ever; and a text that was asked for needs no note."""
    assert store.read_json(ran(tmp_path), store.RUN)["text"] == "random"
    (tmp_path / "again").mkdir()
    run = store.read_json(ran(tmp_path / "again", workload={"text": "real"}), store.RUN)
    assert (run["text"], run["notes"]) == ("real", [])


def test_the_text_of_a_file_is_sent(tmp_path):
    """By its path from the scenario's folder, at exact lengths; longer prompts repeat it, which is noted."""
    (tmp_path / "mine.txt").write_text("Call me Ishmael. Some years ago, never mind how long precisely.\n" * 2)
    folder = ran(tmp_path, workload={"text": {"path": "mine.txt"}})
    run = store.read_json(folder, store.RUN)

    assert run["text"] == "file"
    assert [message_from(note).code for note in run["notes"]] == ["workload.text_repeats"]
    assert store.read_json(folder, store.SUMMARY)["tokens"]["input_mismatched"] == 0


def test_without_tokenizer_the_run_says_what_is_sent_instead(tmp_path):
    """Random token ids, and one note; a chat is sent text of about these lengths."""

    async def missing(_body):
        return None

    loaded = scenario(tmp_path, args=DRAFTING)
    chat = scenario(tmp_path, args=DRAFTING, endpoint="chat")
    material = asyncio.run(prompt_material(loaded.scenario, tmp_path, MODEL, missing, ""))
    approximate = asyncio.run(prompt_material(chat.scenario, tmp_path, MODEL, missing, ""))

    assert (material.text, [note.code for note in material.notes]) == (None, ["workload.text_without_tokenizer"])
    assert without_tokenizer(loaded.scenario).notes == material.notes
    assert without_tokenizer(scenario(tmp_path).scenario).notes == ()
    assert isinstance(approximate.text, TextMaterial)
    assert not approximate.text.exact
