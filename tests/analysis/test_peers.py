"""Other tools' numbers are what these tools would have computed.

By pencil and paper for small streams; and by what `vllm bench serve` 0.32.0 and guidellm 0.8.1 themselves said of the
requests in their result files (tests/data/peers; the server was the embedded engine, so its times are simulated).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.analysis import summary
from harness.analysis.peers import (
    METRICS,
    above_zeros,
    by_index,
    linear,
    mean_of,
    peers,
    responses,
    stepwise,
    throughput,
)
from harness.analysis.steady_state import Span
from harness.importers import import_file
from harness.messages import Message
from harness.results import store, table_files
from harness.results.folder import read_files
from harness.results.request_table import samples_from
from reports import vllm_bench
from reports.data import gather
from reports.tables import peer_tables
from tests.made_runs import answered, columns, failed, ns, run_json, span_row
from tests.result_folder import write_result


def made(tmp_path):
    """Three answers: five tokens one by one, four tokens in two events, a single token; and a failure."""
    pairs = [
        answered(0, 0.0, [1.0, 1.1, 1.2, 1.5, 1.6], done_ns=ns(1.7)),
        answered(1, 0.0, [2.0, 2.6], [1, 3], done_ns=ns(2.6)),
        answered(2, 1.0, [1.5], done_ns=ns(1.6)),
        failed(3, 1.0, 9.0),
    ]
    run = run_json([{"kind": "poisson", "rate": 1.0, "duration_s": 4.0}])
    folder = write_result(tmp_path, run, columns(pairs), [span_row(0, 4, 5)])
    return gather(read_files(folder))


def stage_of(data, place):
    """A stage of a result and its span, as the summary is made from them."""
    folder = data.result.folder
    requests, events, run = table_files.read_requests(folder), table_files.read_events(folder), store.read_run(folder)
    span = Span(**store.read_json(folder, store.TIMELINE)[place])
    evidence = summary._evidence(requests, events, samples_from([]), span, run)
    return evidence.stage, evidence.summary.span


def answers(data, place):
    """The completed responses of a stage."""
    return responses(*stage_of(data, place))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The made answers."""
    return answers(made(tmp_path_factory.mktemp("peers")), 0)


# By hand: TTFT 1, 2, 0.5. Decode 0.6 over 4 gaps, 0.6 over 3. Gaps .1 .1 .3 .1 and .6; to the end .1, 0, .1.
EXPECTED = {
    ("vllm bench serve", "TTFT"): 3.5 / 3,
    ("vllm bench serve", "ITL"): 1.2 / 5,
    ("vllm bench serve", "TPOT"): (0.15 + 0.2) / 2,
    ("guidellm", "TTFT"): 3.5 / 3,
    ("guidellm", "ITL"): 1.2 / 7,
    ("guidellm", "TPOT"): (1.6 + 2.6 + 0.5) / 10,
    ("aiperf", "TTFT"): 3.5 / 3,
    ("aiperf", "ITL"): (0.15 + 0.2) / 2,
    ("aiperf", "ICL"): 1.2 / 5,
    ("inference-perf", "TTFT"): 3.5 / 3,
    ("inference-perf", "ITL"): 1.2 / 7,
    ("inference-perf", "TPOT"): (0.15 + 0.2) / 2,
    ("inference-perf", "NTPOT"): (1.6 / 5 + 2.6 / 4 + 0.5) / 3,
    ("evalscope", "TTFT"): 3.5 / 3,
    ("evalscope", "ITL"): 1.4 / 8,
    ("evalscope", "TPOT"): (0.7 / 4 + 0.2 + 0.0) / 3,
    ("AISBench", "TTFT"): 3.5 / 3,
    ("AISBench", "ITL"): 1.4 / 8,
    ("AISBench", "TPOT"): (0.7 / 4 + 0.2 + 0.0) / 3,
}


@pytest.mark.parametrize("word", METRICS, ids=lambda word: f"{word.tool} {word.name}")
def test_the_mean_of_each_word_is_that_of_pencil_and_paper(found, word):
    """Every tool's every latency, by its own definition."""
    assert mean_of(*word.values(found)) == pytest.approx(EXPECTED[word.tool, word.name])


def test_every_word_has_an_expected_value():
    """No definition is left unchecked."""
    assert {(word.tool, word.name) for word in METRICS} == set(EXPECTED)


@pytest.mark.parametrize(("tool", "length_s"), [("vllm bench serve", 2.6), ("inference-perf", 5.0), ("AISBench", 2.6)])
def test_throughput_is_over_the_tools_own_time(found, tool, length_s):
    """Ten tokens, from the first sent to the last end, or over the stage."""
    assert throughput(tool, found) == pytest.approx(10 / length_s)


def test_percentiles_are_read_as_each_tool_reads_them():
    """Of 1 to 4: linear between ranks, the value at the index, the first that reaches the share."""
    values = np.array([4.0, 1.0, 3.0, 2.0])

    assert linear(values, None, 50) == 2.5
    assert by_index(values, None, 50) == 3.0
    assert stepwise(values, None, 50) == 2.0
    assert by_index(values, None, 100) == 4.0
    assert stepwise(values, np.array([1.0, 7.0, 1.0, 1.0]), 50) == 1.0


def test_weights_stand_for_so_many_values():
    """A last zero of weight 3 is three zeros, of weight 0 none."""
    gaps = np.array([2.0, 0.5, 1.0])
    for zeros in (0, 1, 3, 50):
        values, weights = np.append(gaps, 0.0), np.append(np.ones(3), zeros)
        spelled = np.concatenate([gaps, np.zeros(zeros)])
        for percent in (10, 50, 75, 90, 99):
            assert above_zeros(values, weights, percent) == pytest.approx(np.percentile(spelled, percent))


def test_a_definition_has_its_text_beside_its_code(tmp_path):
    """summary.json reads without a table of codes; what tools share is the same number."""
    rows = peers(*stage_of(made(tmp_path), 0))
    ttfts = {row["tool"]: (row["mean"], row["p99"]) for row in rows if row.get("name") == "TTFT"}

    assert all(row["definition_text"] == str(Message(row["definition"])) for row in rows)
    assert ttfts["vllm bench serve"] == ttfts["aiperf"]


def test_a_number_for_every_name_and_a_rate_for_every_tool(tmp_path):
    """Nineteen latencies and six rates, each with the code of its formula, stand in summary.json."""
    data = made(tmp_path)
    rows = peers(*stage_of(data, 0))

    assert len(rows) == len(METRICS) + 6
    assert all(row["definition"] for row in rows)
    assert rows == data.result.stages[0]["peers"]


def test_the_page_has_a_table_for_each_stage(tmp_path):
    """Named by the stage's load."""
    ((label, told),) = peer_tables(made(tmp_path))

    assert label == "stage 1 (poisson 1 req/s)"
    assert len(told) > 20
    assert next(row[2].text for row in told if row[1].text == "output throughput") == "3.85 tokens/s"


FILES = Path(__file__).resolve().parent.parent / "data" / "peers"


def said(tool, name, found):
    """Mean and p99 (s) that we recompute for a tool's word."""
    word = next(word for word in METRICS if (word.tool, word.name) == (tool, name))
    values, weights = word.values(found)
    return mean_of(values, weights), word.percentile(values, weights, 99.0)


@pytest.fixture(scope="module", params=[0, 1])
def benched(request, tmp_path_factory):
    """A result of `vllm bench serve`, its file imported, and which of its stages: an open loop, a closed one."""
    objects = [json.loads(line) for line in (FILES / "vllm_bench.json").read_text().splitlines()]
    folder = import_file(FILES / "vllm_bench.json", tmp_path_factory.mktemp("vllm") / "out")
    return objects[request.param], gather(read_files(folder)), request.param


def test_what_vllm_bench_said_is_what_is_recomputed_from_its_requests(benched):
    """Every statistic of its file, from the times of its own requests: to the nanosecond that ours are kept in."""
    own, data, place = benched
    again = vllm_bench.stage_object(data, place)
    names = [name for name in own if name.endswith("_ms")]

    assert len(names) == 24
    assert {name: again[name] for name in names} == pytest.approx({name: own[name] for name in names}, abs=1e-5)
    counts = ("num_prompts", "completed", "failed", "total_input_tokens", "total_output_tokens", "burstiness", "rtfx")
    peaks = ("max_output_tokens_per_s", "max_concurrent_requests", "request_rate", "max_concurrency", "model_id")
    assert {name: again[name] for name in (*counts, *peaks)} == {name: own[name] for name in (*counts, *peaks)}


def test_rates_of_vllm_bench_are_over_a_time_that_is_a_little_longer(benched):
    """Its clock starts before the wait for the first arrival (50 ms on average here), ours when that is sent."""
    own, data, place = benched
    again = vllm_bench.stage_object(data, place)

    assert 0 <= own["duration"] - again["duration"] < (0.05 if place == 0 else 0.005)
    for name in ("request_throughput", "output_throughput", "total_token_throughput"):
        assert again[name] * again["duration"] == pytest.approx(own[name] * own["duration"])


def test_the_table_says_of_vllm_bench_what_it_says_itself(benched):
    """TTFT, ITL and TPOT, mean and p99."""
    own, data, place = benched
    found = answers(data, place)

    for name in ("TTFT", "ITL", "TPOT"):
        theirs = [own[f"{kind}_{name.lower()}_ms"] / 1e3 for kind in ("mean", "p99")]
        assert said("vllm bench serve", name, found) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("name", "metric"),
    [("TTFT", "time_to_first_token_ms"), ("ITL", "inter_token_latency_ms"), ("TPOT", "time_per_output_token_ms")],
)
def test_the_table_says_of_guidellm_what_it_says_itself(tmp_path, place, name, metric):
    """By its own weights and percentiles; its stamps are seconds since 1970, good to a fifth of a microsecond."""
    own = json.loads((FILES / "guidellm.json").read_text())["benchmarks"][place]["metrics"][metric]["successful"]
    found = answers(gather(read_files(import_file(FILES / "guidellm.json", tmp_path / "out"))), place)

    theirs = [own["mean"] / 1e3, own["percentiles"]["p99"] / 1e3]
    assert said("guidellm", name, found) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_the_rate_of_guidellm_is_over_its_own_window(tmp_path, place):
    """It counts to the end of the time that was asked for, ours to the last answer: so the tokens are the same."""
    own = json.loads((FILES / "guidellm.json").read_text())["benchmarks"][place]
    found = answers(gather(read_files(import_file(FILES / "guidellm.json", tmp_path / "out"))), place)
    rate = own["metrics"]["output_tokens_per_second"]["successful"]["mean"]

    assert rate * own["duration"] == pytest.approx(throughput("guidellm", found) * found.whole_s)
