"""What a CI job page, a CI test view and tools for `vllm bench serve` get to read."""

import html
import json
import math
import re
import shutil
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reports
from harness.results import store
from harness.results.folder import read_files
from reports import ci_files, vllm_bench
from reports.data import gather
from tests.made_runs import columns, hand_made, run_json, span_row
from tests.result_folder import Run, kept_warning, make_result, write_result

LOAD = {"kind": "poisson", "rate": 1.0, "duration_s": 4.0}
STATISTICS = ("mean", "median", "std", "p90", "p95", "p99")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep whose last stage breaks a limit by failures, drawn."""
    folder = make_result(tmp_path_factory.mktemp("sweep"), Run(loads=(1.0, 6.0), duration_s=20, failing=0.1))
    reports.write_all(folder)
    return folder


@pytest.fixture
def made(tmp_path):
    """Five requests made by hand."""
    return write_result(tmp_path / "made", run_json([LOAD]), columns(hand_made()), [span_row(0, 4, 4)])


def cases(folder):
    """Test cases of a junit.xml by name."""
    root = ET.parse(folder / "junit.xml").getroot()
    return {case.get("name"): case for case in root.iter("testcase")}


def test_the_job_page_has_answer_warnings_and_a_row_a_stage(sweep):
    """The summary's own words and as many table rows as stages."""
    lines = (sweep / "summary.md").read_text().splitlines()
    summary = store.read_json(sweep, store.SUMMARY)

    assert lines[0].startswith("> **SIMULATED.**")
    assert f"**{ci_files.plain(summary['answer'])}**" in lines
    assert sum(re.match(r"\| \d: poisson", line) is not None for line in lines) == 2
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


@given(st.text())
def test_words_cannot_become_markdown_or_markup(words):
    """Escaped words hold no mark, stay on a line, and read as they were."""
    found = ci_files.plain(words)

    assert not set(found.replace("&#", "")) & set("<>|`*_[]\\~!@")
    assert "\n" not in found
    assert html.unescape(found) == " ".join(words.split()) or any(
        ord(sign) < 32 or 126 < ord(sign) < 160 for sign in words
    )


def test_the_test_view_has_a_case_for_verdict_stages_and_limits(sweep):
    """One for the verdict, two stages, two limits of each; the broken ones fail with value and limit."""
    found = cases(sweep)
    failures = {
        name: case.find("failure").get("message") for name, case in found.items() if case.find("failure") is not None
    }
    summary = store.read_json(sweep, store.SUMMARY)
    missed = [(s["label"], key) for s in summary["stages"] for key, held in s["slo"].items() if held["met"] is False]

    assert len(found) == 1 + 2 + 4
    assert missed
    assert len(failures) == len(missed)
    assert all(any(label in name and name.startswith(key) for name in failures) for label, key in missed)
    assert "failed counted; the limit is" in next(iter(failures.values()))


def test_a_limit_without_proof_says_so_in_the_test_view(sweep, tmp_path):
    """Too close, or too few answers: met as well as missed, beside the case; one that is sure has no output."""
    folder = tmp_path / "unproven"
    shutil.copytree(sweep, folder)
    summary = store.read_json(folder, store.SUMMARY)
    stage = summary["stages"][0]
    near, few, sure = "ttft_p99", "tpot_p99", "e2e_p50"
    stage["slo"] = {}
    for key, met, interval in ((near, True, [0.5, 1.5]), (few, False, None), (sure, True, [0.8, 0.9])):
        metric, _, statistic = key.rpartition("_")
        stage["slo"][key] = {"metric": metric, "limit": 1.0, "value": 0.9 if met else 1.1, "met": met}
        stage[metric]["ci95"] = {statistic: interval} if interval else {}
        stage[metric]["p50"] = 0.1
    store.write_json(folder, store.SUMMARY, summary)
    ci_files.write_junit(read_files(folder))
    said = {name.split(" ")[0]: case.findtext("system-out") for name, case in cases(folder).items()
            if case.get("classname").endswith("limits") and stage["label"] in name}  # fmt: skip

    assert said == {near: "met, too close to be sure", few: "missed, too few answers to be sure", sure: None}


def test_the_job_page_says_which_load_to_run(sweep, made):
    """The decision in words, where there are several loads."""
    decision = ci_files.plain(store.read_json(sweep, store.SUMMARY)["decision"]["text"])

    assert f"**Which configuration to run** · {decision}" in (sweep / "summary.md").read_text().splitlines()
    assert "Which configuration" not in ci_files.markdown_text(read_files(made))


def test_warnings_are_in_the_output_of_the_verdict(sweep):
    """Each warning and its next step, where a CI shows what a test printed."""
    said = cases(sweep)["the result is valid"].findtext("system-out")
    warnings = store.read_json(sweep, store.SUMMARY)["verdict"]["warnings"]

    assert warnings
    assert all(warning["text"] in said and warning["next_text"] in said for warning in warnings)


def test_an_invalid_or_unfinished_run_fails_its_first_case(sweep, tmp_path):
    """A verdict that is not valid, and a missing summary, are failures of the first case."""
    summary = store.read_json(sweep, store.SUMMARY)
    messages = []
    for name, said in (("invalid", summary | {"verdict": {"valid": False, "warnings": []}}), ("unfinished", None)):
        folder = tmp_path / name
        folder.mkdir()
        store.write_json(folder, store.RUN, store.read_run(sweep))
        if said:
            store.write_json(folder, store.SUMMARY, said)
        ci_files.write_junit(read_files(folder))
        messages.append(cases(folder)["the result is valid"].find("failure").get("type"))

    assert messages == ["invalid", "unfinished"]


def test_letters_that_xml_forbids_do_not_break_the_file(tmp_path):
    """Control characters in an answer or label become question marks."""
    folder = make_result(tmp_path, Run(loads=(2.0,), duration_s=4))
    summary = store.read_json(folder, store.SUMMARY)
    summary["verdict"] = {
        "valid": False,
        "warnings": [kept_warning("odd", "warning", "\x00\x1b[31m<&]]>", "\x08")],
    }
    summary["stages"][0] |= {"label": "\x0b<stage>", "label_message": None}
    store.write_json(folder, store.SUMMARY, summary)
    ci_files.write_junit(read_files(folder))
    found = cases(folder)

    assert "stage 1 (?<stage>)" in found
    assert "??[31m<&]]>" in found["the result is valid"].findtext("system-out")


def test_vllm_bench_numbers_are_those_of_its_own_formulas(made):
    """Worked out by hand: all measured requests from the first sent to the last answered, tpot over tokens - 1."""
    (line,) = vllm_bench.text(gather(read_files(made))).splitlines()
    found = json.loads(line)

    assert (found["num_prompts"], found["completed"], found["failed"]) == (4, 3, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (30, 8)
    assert found["duration"] == pytest.approx(3.9)
    assert found["request_throughput"] == pytest.approx(3 / 3.9)
    assert found["output_throughput"] == pytest.approx(8 / 3.9)
    assert found["total_token_throughput"] == pytest.approx(38 / 3.9)
    assert found["request_goodput"] is None
    assert found["median_ttft_ms"] == pytest.approx(500)
    assert found["mean_ttft_ms"] == pytest.approx((500 + 499 + 900) / 3)
    assert found["mean_tpot_ms"] == pytest.approx((200 / 2 + 200 / 3) / 2)
    assert found["mean_itl_ms"] == pytest.approx((100 + 100 + 200) / 3)
    assert found["latencies"] == pytest.approx([0.7, 0.699, 0.9])
    assert found["queue_times"] == pytest.approx([0.0, 0.001, 0.0])
    assert found["mean_e2el_ms"] == pytest.approx((700 + 699 + 900) / 3)
    assert found["max_concurrent_requests"] == 1
    assert found["max_output_tokens_per_s"] == 4
    assert (found["request_rate"], found["burstiness"], found["max_concurrency"]) == (1.0, 1.0, None)


def test_vllm_bench_counts_good_requests_over_its_own_time(tmp_path):
    """Goodput there has no window: of three answers one took 0.9 s to its first token, in 3.9 s."""
    run = run_json([LOAD], slo={"ttft_p50": 0.8})
    folder = write_result(tmp_path / "good", run, columns(hand_made()), [span_row(0, 4, 4)])
    found = json.loads(vllm_bench.text(gather(read_files(folder))))

    assert found["request_goodput"] == pytest.approx(2 / 3.9)


def test_vllm_bench_has_an_object_a_stage_with_every_field(sweep):
    """A line each, with the fields that readers of `vllm bench serve` results look for; nothing is NaN."""
    objects = [json.loads(line) for line in (sweep / "vllm-bench.json").read_text().splitlines()]
    wanted = {f"{kind}_{metric}_ms" for kind in STATISTICS for metric in ("ttft", "tpot", "itl", "e2el")}
    wanted |= {"date", "backend", "model_id", "tokenizer_id", "request_goodput", "rtfx", "duration"}

    assert [found["request_rate"] for found in objects] == [1.0, 6.0]
    assert all(wanted <= set(found) for found in objects)
    assert objects[0]["date"] == "20261122-173000"
    assert all(math.isfinite(value) for found in objects for value in found.values() if isinstance(value, float))


def test_repeats_have_objects_of_their_own(tmp_path):
    """A stage that was run twice gives two objects, each with its own numbers."""
    folder = make_result(tmp_path, Run(loads=(1.0, 2.0), duration_s=10, repeats=2))
    found = [json.loads(line) for line in vllm_bench.text(gather(read_files(folder))).splitlines()]
    summary = {(s["index"], s["repeat"]): s for s in store.read_json(folder, store.SUMMARY)["stages"]}

    assert [(one["stage"], one["repeat"]) for one in found] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert all(0 <= one["request_goodput"] <= one["request_throughput"] for one in found)
    assert all(one["completed"] == summary[one["stage"], one["repeat"]]["requests"]["completed"] for one in found)


def test_a_stage_without_answers_has_null_statistics(made):
    """Nothing answered is not zero milliseconds."""
    data = gather(read_files(made))
    data.latencies["status"] = "failed"
    found = vllm_bench.stage_object(data, 0)

    assert (found["completed"], found["failed"]) == (0, 4)
    assert found["mean_ttft_ms"] is found["p99_itl_ms"] is None
    assert found["output_throughput"] == 0


def test_the_most_requests_in_a_second_count_all_that_touch_it(made):
    """Against counting second by second."""
    data = gather(read_files(made))
    rng = np.random.default_rng(5)
    times = data.latencies.iloc[[0] * 40].assign(
        sent_s=(sent := rng.uniform(0, 9, 40)), done_s=sent + rng.uniform(0, 3, 40)
    )
    seconds = [((times["sent_s"] // 1 <= s) & (times["done_s"] // 1 >= s)).sum() for s in range(13)]

    assert vllm_bench._most_requests(times, 0.0) == max(seconds)
