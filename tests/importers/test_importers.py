"""Results of other tools as folders of ours: what is known comes over, what is not stays absent and is said."""

import json

import numpy as np
import pytest

from harness.api.result import draw
from harness.cli.app import main
from harness.comparison.sides import read_side
from harness.errors import ResultError
from harness.execution.reconcile import finish
from harness.importers import import_file, name_of, read_foreign, side_of
from harness.importers.vllm_bench import _spread
from harness.results import store, table_files
from harness.results.request_table import COMPLETED, FAILED, MISSING
from tests.result_folder import Run, make_result

COUNT = 60


def vllm(*, detailed=True, slow=1.0, **fields):
    """An object as `vllm bench serve` writes it: a request every tenth of a second, the fourth one failed."""
    failed = [i == 3 for i in range(COUNT)]
    ttfts = [0.0 if lost else slow * (0.05 + 0.001 * (i % 7)) for i, lost in enumerate(failed)]
    itls = [[] if lost else [slow * 0.01] * 9 for lost in failed]
    lists = {
        "input_lens": [32] * COUNT, "output_lens": [0 if lost else 10 for lost in failed], "ttfts": ttfts, "itls": itls,
        "start_times": [500.0 + 0.1 * i for i in range(COUNT)], "generated_texts": [""] * COUNT,
        "errors": ["Traceback\nboom" if lost else "" for lost in failed],
    }  # fmt: skip
    base = {
        "date": "20261122-173000", "endpoint_type": "openai", "backend": "openai", "label": None, "model_id": "tiny",
        "num_prompts": COUNT, "request_rate": 10.0, "burstiness": 1.0, "max_concurrency": None, "duration": 6.2,
        "completed": COUNT - 1, "failed": 1, "total_input_tokens": 32 * COUNT, "total_output_tokens": 590,
        "request_throughput": 9.5, "request_goodput": None, "output_throughput": 95.0, "total_token_throughput": 400.0,
        "max_concurrent_requests": 3, "latencies": [t + sum(g) for t, g in zip(ttfts, itls, strict=True)],
        "mean_ttft_ms": 53.0 * slow, "median_ttft_ms": 53.0 * slow, "std_ttft_ms": 2.0, "p99_ttft_ms": 56.0 * slow,
        "mean_tpot_ms": 10.0 * slow, "median_tpot_ms": 10.0 * slow, "std_tpot_ms": 0.0, "p99_tpot_ms": 10.0 * slow,
        "mean_itl_ms": 10.0 * slow, "median_itl_ms": 10.0 * slow, "std_itl_ms": 0.0, "p99_itl_ms": 10.0 * slow,
    }  # fmt: skip
    return {**base, **(lists if detailed else {}), **fields}


def guide(*, detailed=True):
    """A file as guidellm writes it: two benchmarks, one of a rate and one of a number of streams."""

    def request(i, status):
        begun = 1000.0 + 0.2 * i
        times = {
            "targeted_start": begun - 0.01, "request_start": begun, "first_token_iteration": begun + 0.1,
            "last_token_iteration": begun + 0.3, "request_end": begun + 0.31, "resolve_end": begun + 0.32,
        }  # fmt: skip
        info = {"status": status, "timings": times, "error": "no route" if status == "errored" else None}
        return {"request_id": str(i), "info": info, "prompt_tokens": 20, "output_tokens": 11}

    def benchmark(strategy):
        groups = {
            "successful": [request(i, "completed") for i in range(30)], "errored": [request(30, "errored")],
            "incomplete": [request(31, "cancelled")],
        }  # fmt: skip
        good = {
            "count": 30,
            "mean": 100.0,
            "std_dev": 0.0,
            "min": 100.0,
            "max": 100.0,
            "percentiles": {"p50": 100.0, "p99": 100.0},
        }
        metrics = {
            "request_totals": {"successful": 30, "errored": 1, "incomplete": 1},
            "requests_per_second": {"successful": {"mean": 4.9}},
            "output_tokens_per_second": {"successful": {"mean": 54.0}},
            "time_to_first_token_ms": {"successful": good},
            "request_latency": {"successful": {**good, "mean": 0.31}},
            "output_token_count": {"successful": {"total_sum": 330}},
        }
        requests = groups if detailed else {name: [] for name in groups}
        return {
            "config": {"strategy": strategy, "backend": {"model": "tiny"}},
            "metrics": metrics,
            "requests": requests,
            "duration": 6.4,
        }

    loads = [{"type_": "poisson", "rate": 5.0}, {"type_": "concurrent", "streams": 4}]
    return {"metadata": {"version": 2}, "config": {}, "benchmarks": [benchmark(load) for load in loads]}


def written(path, *objects):
    """A file of JSON objects, one after another."""
    path.write_text("\n".join(json.dumps(one) for one in objects))
    return path


def notes(folder):
    """The texts of a result's warnings and notes, in one."""
    return " ".join(warning["text"] for warning in store.read_json(folder, store.SUMMARY)["verdict"]["warnings"])


def test_single_requests_of_vllm_bench_come_over(tmp_path):
    """Times, tokens and failures of every request are as in the file; due times are not known."""
    folder = import_file(written(tmp_path / "r.json", vllm()), tmp_path / "out")
    requests, events = table_files.read_requests(folder), table_files.read_events(folder)
    done = requests.status == COMPLETED

    assert (len(requests), int((requests.status == FAILED).sum())) == (COUNT, 1)
    assert requests.message[3] == "boom"
    assert np.allclose((requests.first_ns - requests.sent_ns)[done][:3] / 1e9, [0.05, 0.051, 0.052])
    assert np.allclose(np.diff(events.of(0)[0]) / 1e9, 0.01)
    assert set(requests.due_ns.tolist()) == {MISSING}
    stage = store.read_json(folder, store.SUMMARY)["stages"][0]
    assert stage["load"] == {"kind": "poisson", "rate": 10.0, "requests": COUNT}
    assert stage["ttft_user"]["n"] == 0
    assert stage["tpot"]["mean"] == pytest.approx(0.01)
    assert "A file of vllm bench does not say when requests were due" in notes(folder)


def test_statistics_of_vllm_bench_come_over_where_it_kept_no_more(tmp_path):
    """Milliseconds become seconds, the rest stays null, and a warning says what cannot be told; report leaves it so."""
    folder = import_file(written(tmp_path / "r.json", vllm(detailed=False)), tmp_path / "out")
    stage = store.read_json(folder, store.SUMMARY)["stages"][0]

    assert not (folder / store.REQUESTS).exists()
    assert stage["ttft"] == {"n": 59, "mean": 0.053, "std": 0.002, "min": None, "p50": 0.053, "p90": None, "p95": None,
                             "p99": 0.056, "max": None, "ci95": {}}  # fmt: skip
    assert stage["requests"]["failed"] == 1
    assert stage["output_token_rate"] == 95.0
    assert "kept only statistics" in notes(folder)
    assert finish(folder)["stages"][0] == stage


def test_appended_results_are_stages(tmp_path):
    """Each object of an appended file is a stage; without a rate it is a closed loop."""
    other = vllm(request_rate="inf", max_concurrency=4)
    folder = import_file(written(tmp_path / "r.json", vllm(), other), tmp_path / "out")

    assert [stage["kind"] for stage in store.read_run(folder)["stages"]] == ["poisson", "closed"]
    requests = table_files.read_requests(folder)
    assert (requests.stage == 1).sum() == COUNT
    assert (requests.due_ns[requests.stage == 1] != MISSING).all()


def test_what_we_write_for_others_we_read_back(tmp_path):
    """Our vllm-bench.json, imported, has the rates and latencies that it was written with."""
    folder = make_result(tmp_path / "run", Run(loads=(2.0,), duration_s=30, warmup=0, failing=0.0, samples=False))
    draw(folder)
    theirs = json.loads((folder / "vllm-bench.json").read_text())
    stage = store.read_json(import_file(folder / "vllm-bench.json", tmp_path / "out"), store.SUMMARY)["stages"][0]

    assert stage["output_token_rate"] == theirs["output_throughput"]
    assert stage["ttft"]["p99"] == pytest.approx(theirs["p99_ttft_ms"] / 1000)
    assert store.read_json(tmp_path / "out", store.SUMMARY)["simulated"]


def test_tokens_of_an_answer_are_spread_over_its_events():
    """One for the first, the others evenly, all of them."""
    assert _spread(10, 4) == [1, 3, 3, 3]
    assert _spread(3, 5) == [1, 0, 1, 0, 1]
    assert _spread(7, 1) == [7]
    assert _spread(0, 3) == [0, 0, 0]


def test_guidellm_requests_come_over(tmp_path):
    """Each benchmark is a stage; a schedule gives due times; failed and cut requests keep their place."""
    folder = import_file(written(tmp_path / "b.json", guide()), tmp_path / "out")
    run, stages = store.read_run(folder), store.read_json(folder, store.SUMMARY)["stages"]

    assert [stage["kind"] for stage in run["stages"]] == ["poisson", "closed"]
    assert run["engine"]["model"] == "tiny"
    assert stages[0]["requests"] | {"in_window": 0, "warmup": 0} == {
        "scheduled": 32, "sent": 32, "completed": 30, "failed": 1, "cancelled": 1, "never_sent": 0, "warmup": 0,
        "in_window": 0,
    }  # fmt: skip
    assert stages[0]["ttft"]["p50"] == pytest.approx(0.1)
    assert stages[0]["ttft_user"]["p50"] == pytest.approx(0.11)
    assert stages[0]["tpot"]["p50"] == pytest.approx(0.02)


def test_guidellm_statistics_come_over_where_there_are_no_requests(tmp_path):
    """Its own summary is taken: milliseconds as seconds, latencies as they are."""
    folder = import_file(written(tmp_path / "b.json", guide(detailed=False)), tmp_path / "out")
    stage = store.read_json(folder, store.SUMMARY)["stages"][0]

    assert stage["ttft"]["p99"] == pytest.approx(0.1)
    assert stage["e2e"]["mean"] == pytest.approx(0.31)
    assert stage["request_rate"] == 4.9
    assert stage["output_tokens"] == 330


@pytest.mark.parametrize("content", [vllm(), vllm(detailed=False), guide(), guide(detailed=False)])
def test_a_page_is_drawn_of_every_form(tmp_path, content):
    """`harness report` draws what there is."""
    folder = import_file(written(tmp_path / "r.json", content), tmp_path / "out")

    assert draw(folder).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no result that is known here; expected a folder of `harness run`"),
        ("[1]", "holds no JSON object"),
        ("{", "no JSON"),
        ('{"benchmarks": []}', "holds no benchmark"),
        ('{"benchmarks": [{"config": 3}]}', "not as guidellm writes it"),
        ('{"request_throughput": 1, "completed": "x"}', "not as vllm bench serve writes it"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    """What is no result is told in a line."""
    (tmp_path / "r.json").write_text(text)

    with pytest.raises(ResultError, match=words):
        read_foreign(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("name", "words"), [("out/report.html", r"did you mean its folder, '.*out'\?"), ("smoke.yaml", "`harness run`")]
)
def test_a_file_of_ours_is_told_what_to_give(tmp_path, name, words):
    """A page stands in the folder that was meant, and a scenario is no result yet."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / store.RUN).write_text("{}")
    path.write_text("name: smoke")

    with pytest.raises(ResultError, match=words):
        read_foreign(path)


def test_imported_files_are_compared(tmp_path, capsys):
    """A file 30 % slower than another of the same traffic breaks a gate that says how far two runs differ."""
    for name, slow in (("a.json", 1.0), ("b.json", 1.3)):
        written(tmp_path / name, vllm(slow=slow))
    (tmp_path / "gate.yaml").write_text("gate: {tpot_mean: 5%}\nbetween_runs: 2%\n", encoding="utf-8")
    words = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(tmp_path / "c"), "--gate", str(tmp_path / "gate.yaml")])

    assert end.value.code == 1
    assert "mean TPOT" in capsys.readouterr().err
    assert len(side_of(tmp_path / "a.json").repeats) == 1


def test_report_imports_a_file(tmp_path, monkeypatch, capsys):
    """It becomes a folder under results, named after the file; twice it is another one, or said to be there."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "My Bench.json", vllm())
    with pytest.raises(SystemExit) as end:
        main(["report", "My Bench.json"])
    page = capsys.readouterr().out.strip()

    assert end.value.code == 0
    assert page.startswith("results/my-bench-")
    assert page.endswith("report.html")
    assert read_side((tmp_path / page).parent).repeats[0].run["imported"]["tool"] == "vllm bench serve"
    assert name_of(tmp_path / "_.json") == "imported"
