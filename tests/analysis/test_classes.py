"""Runs of every kind of request in virtual time: what summary.json says of classes, forms, documents and adapters."""

import json

import numpy as np
import pytest

from harness.analysis.classes import adapter_costs, adapters_sentence, classes_sentences
from harness.errors import EngineError
from harness.execution.reconcile import finish
from harness.execution.run import RunSpec, execute
from harness.messages import localized
from harness.results import store, table_files
from harness.results.request_table import MISSING
from harness.scenario.loader import load_scenario

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
LORA = {"enable_lora": True, "max_loras": 2, "lora_modules": ["a=x", "b=x", "c=x"]}
WORK = {"kind": "synthetic", "input_tokens": 64, "output_tokens": 24}


def run(folder, **keys):
    """The folder and summary.json of a finished run in virtual time."""
    args = keys.pop("args", {})
    content = {"name": "kinds", "question": "?", "engine": {"kind": "simulator", "model": MODEL, "args": args}, **keys}
    path = folder / "kinds.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    spec = RunSpec(load_scenario(path), folder / "out", "", lambda _: None)
    assert execute(spec).exit_code == 0
    return spec.folder, finish(spec.folder)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A load with 0, 1 and 3 adapters on an engine with places for two."""
    folder = tmp_path_factory.mktemp("adapters")
    work = {**WORK, "adapters": {"names": ["a", "b", "c"], "base": 1.0}, "priority": {"values": [0, 9]}}
    load = [{"poisson": {"rate": 20, "requests": 120, "adapters": [0, 1, 3]}}]
    return run(folder, workload=work, load=load, args={**LORA, "scheduling_policy": "priority"})


def test_stages_that_differ_in_adapters_send_at_the_same_times(adapters):
    """What is compared are the same arrivals, with another model."""
    requests = table_files.read_requests(adapters[0])
    starts = [row["start_ns"] for row in store.read_json(adapters[0], store.TIMELINE)]
    due = [np.sort(requests.due_ns[requests.stage == stage]) - starts[stage] for stage in range(3)]

    assert np.array_equal(due[0], due[1])
    assert np.array_equal(due[0], due[2])


def of_class(trait, name, ttft_s, tpot_s=0.02):
    """A row of `classes` with these times."""
    if ttft_s is None:
        return {"by": trait, "name": name}
    return {"by": trait, "name": name, "ttft": {"p50": ttft_s, "p99": 4 * ttft_s}, "tpot": {"p50": tpot_s}}


def test_the_answer_tells_the_times_of_the_classes():
    """At the highest load alone; of more than four the fastest and the slowest; none of answers without tokens."""
    two = [of_class("priority", "0", 0.5), of_class("priority", "10", 27.7)]
    forms = [of_class("form", "", 0.1), of_class("form", "structured", 0.2)]
    many = [of_class("model", f"m{number}", 1.0 + number) for number in (2, 0, 4, 1, 3)]
    low, high = {"index": 0, "label": "low"}, {"index": 1, "label": "high"}

    def said(*stages):
        return [str(sentence) for sentence in classes_sentences(stages)]

    form = (
        "without a form: TTFT p50 100 ms, p99 400 ms, TPOT p50 20.0 ms; "
        "structured output: TTFT p50 200 ms, p99 800 ms, TPOT p50 20.0 ms."
    )
    priority = (
        "By class: priority 0: TTFT p50 500 ms, p99 2.00 s, TPOT p50 20.0 ms; "
        "priority 10: TTFT p50 27.7 s, p99 111 s, TPOT p50 20.0 ms."
    )
    ends = (
        "Fastest and slowest of 5 classes at stage 2 (high): m0: TTFT p50 1.00 s, p99 4.00 s, TPOT p50 20.0 ms; "
        "m4: TTFT p50 5.00 s, p99 20.0 s, TPOT p50 20.0 ms."
    )
    assert said(high | {"classes": [*two, *forms]}) == [priority, f"By class: {form}"]
    assert said(low | {"classes": forms}, high | {"classes": many}) == [ends, f"By class at stage 1 (low): {form}"]
    assert said(low) == said(low | {"classes": [of_class("model", "a", None), of_class("model", "b", None)]}) == []


def test_each_class_has_the_figures_of_its_requests(adapters):
    """Counts add up to the stage's, a class that no request was of is not there, and the names are those of the API."""
    folder, summary = adapters
    requests, classes = table_files.read_requests(folder), store.read_run(folder)["classes"]
    for stage in summary["stages"]:
        rows = {name: [row for row in stage.get("classes", []) if row["by"] == name] for name in ("model", "priority")}
        names = {row["name"] for row in rows["model"]}

        assert names == {0: {MODEL}, 1: {MODEL, "a"}, 2: {MODEL, "a", "b", "c"}}[stage["index"]]
        assert {row["name"] for row in rows["priority"]} == {"0", "9"}
        for own in rows.values():
            assert sum(row["completed"] for row in own) == stage["e2e"]["n"]
            assert sum(row["output_token_rate"] for row in own) == pytest.approx(stage["output_token_rate"])
        of_a = next((row for row in rows["model"] if row["name"] == "a"), None)
        if of_a is not None:
            numbers = [number for number, each in enumerate(classes) if each.get("model") == "a"]
            chosen = np.isin(requests.request_class, numbers) & (requests.stage == stage["index"])
            assert of_a["sent"] == chosen.sum()
            assert of_a["ttft_user"]["n"] == of_a["completed"]


def test_what_adapters_cost_is_told_against_the_model_alone(adapters):
    """A row a stage, in the order of their number; three on two places wait for one another."""
    rows = adapters[1]["adapters"]
    stages = adapters[1]["stages"]

    assert [row["adapters"] for row in rows] == [0, 1, 3]
    assert rows[0]["change"] is None
    assert rows[2]["ttft_p50"] == stages[2]["ttft"]["p50"]
    assert rows[2]["change"]["ttft_p50"] == pytest.approx(stages[2]["ttft"]["p50"] / stages[0]["ttft"]["p50"] - 1)
    assert localized(adapters_sentence(rows)).startswith("With 3 adapters TPOT p50 changes by ")
    assert "With 3 adapters" in adapters[1]["answer"]
    assert adapter_costs([stages[1], stages[2]]) == []  # nothing to hold them against
    assert adapters_sentence([]) is None


def test_an_adapter_that_is_not_served_ends_the_run_before_its_first_request(tmp_path):
    """One line, with the nearest name."""
    work = {**WORK, "adapters": {"names": ["a", "bb"]}}
    with pytest.raises(EngineError, match=r"does not serve 'bb', which workload.adapters names; .*'b'"):
        run(tmp_path, workload=work, load=[{"closed": {"concurrency": 1, "requests": 2}}], args=LORA)


@pytest.mark.parametrize("endpoint", ["embeddings", "rerank", "score"])
def test_answers_without_tokens_have_metrics_of_their_own(tmp_path, endpoint):
    """Documents and tokens of input a second; token rates and latencies of tokens are not shown as numbers."""
    work = {"kind": "documents", "tokens": 40, "count": 3}
    if endpoint != "embeddings":
        work["query_tokens"] = 10
    load = [{"closed": {"concurrency": 2, "requests": 60}}]
    folder, summary = run(tmp_path, endpoint=endpoint, workload=work, load=load, slo={"e2e_p90": "2s"})
    stage, requests = summary["stages"][0], table_files.read_requests(folder)

    assert stage["document_rate"] == pytest.approx(3 * stage["request_rate"])
    assert stage["input_token_rate"] == pytest.approx(stage["request_rate"] * requests.input_tokens.mean(), rel=0.1)
    assert (stage["output_token_rate"], stage["total_token_rate"], stage["ttft"]["n"]) == (None, None, 0)
    assert stage["documents"] == 3 * stage["rates_window"]["requests"]
    assert stage["slo"]["e2e_p90"]["met"] is True
    assert set(requests.documents) == {3}
    assert "documents/s" in summary["answer"] or "E2E" in summary["answer"]
    codes = {warning["code"] for warning in summary["verdict"]["warnings"]}
    assert not codes & {"not_streamed", "tokens_assumed", "output_length", "no_value"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_reasoning_and_answer_are_timed_apart(tmp_path, endpoint, stream):
    """Half of the tokens are reasoning: the answer begins that many gaps later; a limit on it is judged."""
    load = [{"closed": {"concurrency": 1, "requests": 60}}]
    slo = {"ttft_answer_p90": "5s"} if stream else {}
    keys = {"endpoint": endpoint, "stream": stream, "slo": slo, "args": {"reasoning_parser": "qwen3"}}
    folder, summary = run(tmp_path, workload=WORK, load=load, **keys)
    stage, requests = summary["stages"][0], table_files.read_requests(folder)

    assert stage["reasoning_tokens"] == 12 * 60
    if stream:
        gap_s = stage["ttft_answer"]["p50"] - stage["ttft"]["p50"]
        assert gap_s == pytest.approx(12 * stage["itl"]["p50"], rel=0.1)
        assert stage["slo"]["ttft_answer_p90"]["met"] is True
        assert (requests.answer_ns > requests.first_ns).all()
    else:
        assert (requests.answer_ns == MISSING).all()


def test_a_model_that_does_not_reason_shows_no_time_of_the_answer(tmp_path):
    """The same as TTFT would only be said twice, unless a limit is on it."""
    load = [{"closed": {"concurrency": 1, "requests": 40}}]
    for name in "ab":
        (tmp_path / name).mkdir()
    plain = run(tmp_path / "a", workload=WORK, load=load)[1]
    limited = run(tmp_path / "b", workload=WORK, load=load, slo={"ttft_answer_p90": "5s"})[1]

    assert "ttft_answer" not in plain["stages"][0]
    stage = limited["stages"][0]
    assert stage["ttft_answer"]["p50"] == stage["ttft"]["p50"]


@pytest.mark.parametrize(
    "form", [{"structured": {"kind": "json_schema", "name": "person", "share": 0.5}}, {"tools": {"share": 0.5}}]
)
def test_answers_with_a_form_are_counted_and_judged(tmp_path, form):
    """Half of the answers are held to it; those that the tokens cut short do not keep it; the audit leaves them out."""
    load = [{"closed": {"concurrency": 4, "requests": 80}}]
    summary = run(tmp_path, endpoint="chat", workload={**WORK, "output_tokens": 40, **form}, load=load)[1]
    stage = summary["stages"][0]
    rows = [row for row in stage["classes"] if row["by"] == "form"]

    assert {row["name"] for row in rows} == {"", *({"structured"} if "structured" in form else {"tools"})}
    assert stage["forms"]["held"] == next(row["completed"] for row in rows if row["name"])
    assert stage["forms"]["kept"] == stage["forms"]["held"]
    assert summary["tokens"]["output_mismatched"] == 0
    assert "output_length" not in {warning["code"] for warning in summary["verdict"]["warnings"]}


def test_images_are_counted_in_tokens_and_bytes(tmp_path):
    """Tokens by the server's count, bytes by what was sent."""
    work = {**WORK, "images": {"size": [280, 140], "count": 2}}
    load = [{"closed": {"concurrency": 2, "requests": 40}}]
    args = {"enable_prompt_tokens_details": True}
    folder, summary = run(tmp_path, endpoint="chat", workload=work, load=load, args=args)
    stage, requests = summary["stages"][0], table_files.read_requests(folder)

    assert set(requests.image_tokens) == {2 * 10 * 5}
    assert stage["image_tokens"] == 100 * stage["e2e"]["n"]
    assert stage["sent_bytes"] == pytest.approx(requests.sent_bytes.mean() * stage["e2e"]["n"], rel=0.01)
    assert requests.sent_bytes.min() > 1000
    assert (requests.input_tokens > 100).all()
