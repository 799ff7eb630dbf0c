"""summary.json is what the contract says, whatever a run left behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.summary import summarize
from harness.errors import ResultError
from harness.results.request_table import MISSING, samples_from
from harness.scenario.metrics import ANSWER_TIMES, TIMES
from tests.made_runs import NO_SAMPLES, answered, columns, failed, hand_made, never_sent, ns, run_json, span_row

GOLDEN = Path(__file__).parent.parent / "golden" / "summary.json"
CONSTANT = {"kind": "constant", "rate": 1.0, "duration_s": 4.0}
SLO = {"ttft_p50": 0.8, "ttft_p99": 0.8}


def summed_up(pairs, timeline, stages=(CONSTANT,), samples=NO_SAMPLES, **run):
    """summary.json of a made run, through JSON and back."""
    requests, events = columns(pairs)
    found = summarize(requests, events, samples, timeline, run_json(list(stages), **run))
    return json.loads(json.dumps(found, allow_nan=False))


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 9) if isinstance(value, float) else value


def test_the_hand_made_run_gives_the_golden_summary():
    """Every key and number of a run that test_metrics works out by hand is that of the golden file."""
    found = summed_up(hand_made(), [span_row(0, 4, 5)], slo=SLO)

    assert _rounded(found) == json.loads(GOLDEN.read_text(encoding="utf-8"))


LONG = {"kind": "constant", "rate": 10.0, "duration_s": 40.0}


def steady_run(count, *cut):
    """So many even answers of 100 ms, ten a second, and rows of what did not come to its turn."""
    pairs = [answered(i, i / 10, [i / 10 + 0.1, i / 10 + 0.12]) for i in range(count)]
    return [*pairs, *cut]


@pytest.mark.parametrize(
    ("count", "stop_s", "cut", "met", "unsure"),
    [
        (400, 40, (), True, ""),
        (10, 1, (), None, "cut"),
        (400, 40, (never_sent(400, 39.9),), None, "cut"),
    ],
)
def test_an_interrupted_run_claims_no_limit_that_it_did_not_show(count, stop_s, cut, met, unsure):
    """A whole stage with a bounded p90 keeps its limit; one that was cut, by time or by requests, does not."""
    pairs = steady_run(count, *cut)
    slo = {"ttft_p90": 1.0}
    found = summed_up(pairs, [span_row(0, stop_s, stop_s + 1)], [LONG], slo=slo, interrupted=True)
    (stage,) = found["stages"]

    assert found["verdict"]["interrupted"]
    assert (stage["slo"]["ttft_p90"]["met"], stage["slo"]["ttft_p90"].get("unsure", "")) == (met, unsure)
    assert stage["slo_met"] is met
    assert stage["cut"] is bool(unsure)
    unlimited = summed_up(pairs, [span_row(0, stop_s, stop_s + 1)], [LONG], interrupted=True)
    assert unlimited["stages"][0]["cut"] is bool(unsure)
    assert [option for option in unlimited["decision"]["front"] if unsure] == []


def test_a_stage_before_the_interruption_is_judged_as_in_a_whole_run():
    """Eight answers meet the limit in either; only the stage that was cut is not judged, and the answer says why."""
    load = {"kind": "constant", "rate": 8.0, "requests": 8}
    slo = {"ttft_p90": 1.0}
    whole = summed_up(steady_run(8), [span_row(0, 0.8, 1)], [load], slo=slo)
    later = [answered(8 + i, 2 + i / 10, [2.1 + i / 10, 2.12 + i / 10], stage=1) for i in range(10)]
    found = summed_up(
        [*steady_run(8), *later], [span_row(0, 0.8, 1), span_row(2, 3, 4, stage=1)],
        [load, LONG], slo=slo, interrupted=True,
    )  # fmt: skip

    assert (whole["verdict"]["interrupted"], whole["stages"][0]["slo_met"]) == (False, True)
    assert (found["verdict"]["interrupted"], [stage["slo_met"] for stage in found["stages"]]) == (True, [True, None])
    assert found["stages"][0]["slo"] == whole["stages"][0]["slo"]
    assert found["stages"][1]["slo"]["ttft_p90"]["unsure"] == "cut"
    assert "until the interruption that cut the stage" in found["answer"]


def test_a_summary_without_details_is_the_same_without_them():
    """A trial of a study has no other tools' numbers, pauses or breakdowns, and every other number alike."""
    requests, events = columns(hand_made())
    parts = (requests, events, NO_SAMPLES, [span_row(0, 4, 5)], run_json([CONSTANT]))
    whole, short = summarize(*parts), summarize(*parts, details=False)
    for key in ("stalls", "breakdowns"):
        del whole[key]
    for stage in whole["stages"]:
        assert stage.pop("peers")

    assert short == whole


def test_the_contracts_keys_are_there():
    """The keys that the contract names, at the top, in the verdict and in a stage."""
    found = summed_up(hand_made(), [span_row(0, 4, 5)], slo=SLO)
    top = {
        "format",
        "name",
        "question",
        "answer",
        "answer_message",
        "simulated",
        "engine",
        "repeats",
        "verdict",
        "tokens",
        "knee",
        "npus",
        "decision",
        "stages",
        "stalls",
        "breakdowns",
    }
    stage = {
        "index", "repeat", "label", "load", "window_s", "window", "requests", "errors", "input_tokens", "output_tokens",
        "request_rate", "output_token_rate", "total_token_rate", "goodput", "slo_met", "slo", "concurrency",
    }  # fmt: skip

    assert found.keys() == top
    assert stage | set(TIMES) - set(ANSWER_TIMES) <= found["stages"][0].keys()
    assert found["verdict"].keys() == {"valid", "interrupted", "warnings"}


def test_stages_and_repeats_are_kept_apart():
    """Two stages run twice, their rows interleaved, give four entries with their own numbers."""
    pairs, timeline = [], []
    for repeat in (0, 1):
        for stage in (0, 1):
            begin = 20 * repeat + 10 * stage
            timeline.append(span_row(begin, begin + 4, begin + 6, stage, repeat))
            late = (1 + stage + 2 * repeat) / 10
            pairs += [
                answered(4 * i + 2 * repeat + stage, begin + i, [begin + i + late], stage=stage, repeat=repeat)
                for i in range(4)
            ]
    stages = summed_up(pairs, timeline, [CONSTANT, {**CONSTANT, "rate": 2.0}], repeats=2)["stages"]

    assert [(s["index"], s["repeat"], s["load"]["rate"]) for s in stages] == [
        (0, 0, 1),
        (0, 1, 1),
        (1, 0, 2),
        (1, 1, 2),
    ]
    assert [s["ttft"]["mean"] for s in stages] == [pytest.approx(x) for x in (0.1, 0.3, 0.2, 0.4)]
    assert [s["window"]["start_s"] for s in stages] == [0, 0, 0, 0]
    assert all(s["window_s"] == pytest.approx(4) for s in stages)


def test_a_killed_run_without_a_timeline_is_summed_up():
    """Spans come from the records, and what was never sent stays in the account."""
    pairs = [answered(i, i, [i + 0.5]) for i in range(4)] + [never_sent(4, 4.0), never_sent(5, 5.0, due_ns=MISSING)]
    found = summed_up(pairs, [])

    assert found["stages"][0]["requests"]["never_sent"] == 2
    assert found["stages"][0]["window_s"] == pytest.approx(3.0)
    assert "interrupted" in {warning["code"] for warning in found["verdict"]["warnings"]}


def test_a_run_that_died_at_once_is_summed_up():
    """No rows, no timeline, no engine yet: an invalid result without stages."""
    found = summed_up([], [], engine=None)

    assert found["stages"] == []
    assert found["verdict"]["valid"] is False
    assert found["answer"] == "No answer: nothing was sent."


def test_a_stage_with_a_span_and_no_rows_is_shown():
    """A stage that began and sent nothing has an entry of zeros."""
    (stage,) = summed_up([], [span_row(0, 4, 4)])["stages"]

    assert stage["requests"]["scheduled"] == 0
    assert (stage["ttft"]["n"], stage["ttft"]["mean"], stage["goodput"]) == (0, None, None)


def test_all_failed_is_invalid_and_has_no_numbers():
    """Every objective is broken, goodput is zero, and the answer names the error."""
    found = summed_up([failed(i, i, i + 0.1, "refused") for i in range(4)], [span_row(0, 4, 5)], slo=SLO)
    (stage,) = found["stages"]

    assert found["verdict"]["valid"] is False
    assert stage["slo"]["ttft_p99"] == {
        "metric": "ttft_user",
        "limit": 0.8,
        "value": None,
        "met": False,
        "failed_counted": 4,
    }
    assert (stage["slo_met"], stage["goodput"], stage["errors"]) == (False, 0.0, {"refused": 4})
    assert "refused 4" in found["answer"]


def test_a_simulated_run_says_so():
    """In its own key, its engine, its warnings and its answer."""
    found = summed_up(hand_made(), [span_row(0, 4, 5)], engine={"kind": "simulator", "simulated": True, "model": "m"})

    assert found["simulated"] is True
    assert found["engine"] == {"kind": "simulator", "simulated": True, "model": "m", "effective": None}
    assert "simulated" in {warning["code"] for warning in found["verdict"]["warnings"]}
    assert found["answer"].startswith("Simulated: ")


def test_the_token_audit_holds_both_sides_of_every_completed_request():
    """Sums of what was asked and counted, warm-up included, and how many differ; failures are left out."""
    odd = answered(9, 3.5, [3.6, 3.7], output_asked=5, input_tokens=12, counted_by="assumed")
    audit = summed_up([*hand_made(), odd], [span_row(0, 4, 5)])["tokens"]

    assert audit == {
        "input_asked": 50, "input_counted": 52, "input_mismatched": 1,
        "output_asked": 15, "output_counted": 12, "output_mismatched": 1,
        "counted_by": {"assumed": 1, "usage": 4},
    }  # fmt: skip


def test_events_that_were_counted_are_no_count_of_the_server():
    """An answer whose tokens the server did not tell is not said to be of another length than asked."""
    odd = answered(9, 3.5, [3.6, 3.7], output_asked=5, counted_by="events")

    assert summed_up([*hand_made(), odd], [span_row(0, 4, 5)])["tokens"]["output_mismatched"] == 0


def test_parts_that_do_not_belong_together_are_refused():
    """Another format, other rows of events, or a stage that the run does not know: one line each."""
    requests, events = columns(hand_made())
    known = run_json([CONSTANT])

    with pytest.raises(ResultError, match="format 7; this version reads format 1"):
        summarize(requests, events, NO_SAMPLES, [], {**known, "format": 7})
    with pytest.raises(ResultError, match=r"events\.parquet has 4 rows; expected 5"):
        summarize(requests, replace(events, offsets=events.offsets[:-1]), NO_SAMPLES, [], known)
    with pytest.raises(ResultError, match=r"stage 1 has records; run\.json knows 0 stages"):
        summarize(requests, events, NO_SAMPLES, [], {**known, "stages": []})


seconds = st.integers(0, 400).map(lambda hundredths: hundredths / 100)


@given(
    st.lists(st.tuples(seconds, seconds, seconds, st.sampled_from("afn")), max_size=15),
    st.sampled_from([CONSTANT, {"kind": "closed", "concurrency": 2}, {"kind": "trace"}]),
    st.booleans(),
    st.booleans(),
)
def test_whatever_a_run_left_behind_becomes_json(rows, load, timed, stream):
    """Any mixture of fates, with or without a timeline, gives JSON without NaN, and an account that adds up."""
    pairs = []
    for i, (due, wait, gap, fate) in enumerate(rows):
        made = {
            "a": lambda d=due, w=wait, g=gap, i=i: answered(i, d, [d + w, d + w + g]),
            "f": lambda d=due, w=wait, i=i: failed(i, d, d + w, "timeout"),
            "n": lambda d=due, i=i: never_sent(i, d),
        }[fate]
        pairs.append(made())
    samples = samples_from([(ns(1), "client-0", "cpu_share", 0.99)])
    slo = {"ttft_p99": 1.0, "itl_p90": 0.1, "e2e_mean": 2.0}
    found = summed_up(pairs, [span_row(0, 4, 9)] if timed else [], [load], samples, slo=slo, stream=stream)

    for stage in found["stages"]:
        account = stage["requests"]
        assert account["scheduled"] == sum(account[fate] for fate in ("completed", "failed", "cancelled", "never_sent"))
        assert stage["window_s"] >= 0
    assert found["answer"].endswith(".")
