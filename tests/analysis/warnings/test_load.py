"""The warnings of a run, each of its own fault; a sound run raises none."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from harness.analysis.summary import summarize
from harness.analysis.warnings import SEVERITIES
from harness.analysis.warnings import load as checks
from harness.messages import message
from harness.results.request_table import MISSING, WARMUP, samples_from
from tests.made_runs import answered, closed_run, columns, failed, never_sent, ns, open_run, run_json, span_row

LOAD = {"kind": "poisson", "rate": 10.0, "duration_s": 40.0}
SELFCHECK = {"ceiling_tokens_per_s": 90_000, "floor_ttft_s": 0.0004, "floor_gap_p99_s": 0.0008}
CALM = [
    (ns(at), f"client-{at % 2}", name, value)
    for at in range(41)
    for name, value in (("cpu_share", 0.3), ("loop_lag_s", 0.0005))
]


def sound(count=400):
    """Requests of an engine at ease: ten a second, five tokens each, and a warm-up."""
    first = [answered(i, -2.0, [-1.9, -1.8], phase=WARMUP) for i in range(2)]
    times = (np.arange(count) + 0.5) * 40 / count
    return first + [answered(i + 2, at, [at + 0.1 + 0.02 * k for k in range(5)]) for i, at in enumerate(times)]


def warnings(pairs, *, load=LOAD, span=(0, 40, 41), samples=CALM, **run):
    """Name and severity of every warning of a run."""
    run = {"client": {"selfcheck": SELFCHECK}, **run}
    requests, events = columns(pairs)
    found = summarize(requests, events, samples_from(samples), [span_row(*span)], run_json([load], **run))
    told = found["verdict"]["warnings"]

    assert all(warning["text"].endswith(".") and warning["next_text"].endswith(".") for warning in told)
    assert found["verdict"]["valid"] == (not any(warning["severity"] == "invalid" for warning in told))
    return {warning["code"]: warning["severity"] for warning in told}


def altered(change, every=1):
    """The sound run with a change to every so many of its measured requests."""
    pairs = sound()
    return [(change(r), events) if r.phase != WARMUP and r.index % every == 0 else (r, events) for r, events in pairs]


def test_a_sound_run_raises_no_warning():
    """Four hundred steady answers from a real engine, with a calm client and a selfcheck, raises no warning."""
    assert warnings(sound()) == {}


def test_warnings_come_the_gravest_first():
    """What makes a run invalid is read before what is only good to know."""
    late = altered(lambda r: replace(r, sent_ns=r.sent_ns + ns(0.05)))
    severities = [SEVERITIES.index(severity) for severity in warnings(late, client={}).values()]

    assert severities == sorted(severities, reverse=True)
    assert len(set(severities)) > 1


@pytest.mark.parametrize(
    ("lag", "every", "severity"),
    [(0.05, 1, "invalid"), (0.05, 100, "warning"), (0.004, 1, "warning"), (0.001, 1, None)],
)
def test_requests_that_left_late_are_the_clients_fault(lag, every, severity):
    """Many late by a tenth of the TTFT are invalid; a few, or all by a little, a warning; a millisecond nothing."""
    late = altered(lambda r: replace(r, sent_ns=r.sent_ns + ns(lag)), every)

    assert warnings(late).get("send_lag") == severity


@pytest.mark.parametrize(
    ("stream", "status", "beside"),
    [
        (True, "completed", ", beside a median TTFT of 96.0 ms."),
        (False, "completed", ", beside a median E2E latency of 176 ms."),
        (False, "failed", "."),
    ],
)
def test_lateness_stands_beside_what_was_measured(stream, status, beside):
    """The TTFT, of whole answers their time, and where nothing was answered no dash."""
    late = altered(lambda r: replace(r, sent_ns=r.sent_ns + ns(0.004), status=status))
    requests, events = columns(late)
    run = run_json([LOAD], client={"selfcheck": SELFCHECK}, stream=stream)
    told = summarize(requests, events, samples_from(CALM), [span_row(0, 40, 41)], run)["verdict"]["warnings"]
    text = next(warning["text"] for warning in told if warning["code"] == "send_lag")

    assert text == f"Requests left the client up to 4.00 ms late (p99){beside}"


def test_opening_a_connection_is_not_the_clients_lateness():
    """A request that waited 50 ms for its connection to open was not late."""
    connected = altered(lambda r: replace(r, sent_ns=r.sent_ns + ns(0.05), connect_ns=ns(0.05)))

    assert "send_lag" not in warnings(connected)


def test_a_single_hiccup_of_a_short_run_is_no_verdict():
    """One late request of twenty is above any hundredth, and still a warning only."""
    pairs = sound(20)
    record, events = pairs[7]
    pairs[7] = replace(record, sent_ns=record.sent_ns + ns(0.05)), events

    assert warnings(pairs)["send_lag"] == "warning"


@pytest.mark.parametrize(("share", "severity"), [(1.0, "invalid"), (0.85, "warning"), (0.5, None)])
def test_a_full_core_of_the_client_spoils_a_run(share, severity):
    """A client process at its whole core measured itself; a busy one raises a warning."""
    samples = [(ns(at), "client-1", "cpu_share", share) for at in range(41)]

    assert warnings(sound(), samples=samples).get("client_cpu") == severity


def test_only_the_clients_own_samples_within_the_window_count():
    """A full core of the server, or of the client before the stage, says nothing."""
    samples = [(ns(at), "server", "cpu_share", 1.0) for at in range(41)]
    before = [(-ns(at), "client-0", "cpu_share", 1.0) for at in range(1, 41)]

    assert warnings(sound(), samples=samples + before) == {}


@pytest.mark.parametrize(("times", "severity"), [(1, "note"), (2, "note"), (10, "warning")])
def test_a_loop_that_woke_late_is_told(times, severity):
    """A lag of 30 ms of the event loop may have stamped a token late; if it is often late that is a warning."""
    samples = [(ns(at), "client-0", "loop_lag_s", 0.03 if at < times else 0.001) for at in range(41)]

    assert warnings(sound(), samples=samples) == {"loop_lag": severity}


@pytest.mark.parametrize(
    ("source", "name", "at", "lasted", "severity"),
    [
        ("client-1", "loop_lag_s", 20.0, 3.0, "invalid"),
        ("harness", "paused_s", 20.0, 1.5, "invalid"),
        ("harness", "paused_s", 90.0, 10.0, None),
        ("harness", "paused_s", -1.0, 9.0, None),
        ("harness", "loop_lag_s", 20.0, 9.0, None),
    ],
)
def test_a_client_that_was_stopped_spoils_a_run(source, name, at, lasted, severity):
    """A worker or the leading process that did not run for a second within a stage; before and after it is nothing."""
    assert warnings(sound(), samples=[(ns(at), source, name, lasted)]).get("paused") == severity


@pytest.mark.parametrize(("ceiling", "severity"), [(20, "warning"), (60, "warning"), (100, None)])
def test_a_load_near_the_selfchecks_ceiling_is_a_warning(ceiling, severity):
    """Fifty events a second are above 20, above 70 % of 60, and well below 100: never more than a warning."""
    selfcheck = {**SELFCHECK, "ceiling_tokens_per_s": ceiling}

    assert warnings(sound(), client={"selfcheck": selfcheck}).get("ceiling") == severity


@pytest.mark.parametrize("key", ["floor_ttft_s", "floor_gap_p99_s"])
def test_latencies_near_the_clients_own_is_a_warning(key):
    """A TTFT of 100 ms, or a gap of 20 ms, of which the client may add 15 ms."""
    assert warnings(sound(), client={"selfcheck": {**SELFCHECK, key: 0.015}}) == {"floor": "warning"}


@pytest.mark.parametrize(("share", "severity"), [(0.3, "note"), (0.85, "warning")])
def test_events_of_one_read_are_told(share, severity):
    """Events with the same stamp were read together; with a busy client that is its doing."""
    pairs = [(r, ([*at[:2], at[1], *at[3:]], tokens) if len(at) > 3 else (at, tokens)) for r, (at, tokens) in sound()]
    samples = [(ns(at), "client-1", "cpu_share", share) for at in range(41)]

    assert warnings(pairs, samples=samples)["merged_reads"] == severity


def test_without_a_selfcheck_nobody_knows_the_client():
    """No selfcheck is a note."""
    assert warnings(sound(), client={"selfcheck": None}) == {"no_selfcheck": "note"}
    assert warnings(sound(), client={}) == {"no_selfcheck": "note"}


def test_a_simulated_engine_is_said_to_be_one():
    """A simulated run carries a note, and needs no warm-up."""
    engine = {"kind": "simulator", "simulated": True}

    assert warnings(sound()[2:], engine=engine) == {"simulated": "note"}


def test_a_cold_start_is_told():
    """Without warm-up the first answers of a real engine may be cold."""
    assert warnings(sound()[2:]) == {"no_warmup": "note"}


def test_failed_requests_are_told_by_name():
    """A failure in a hundred is a note, more are a warning."""
    few = sound()[:-4] + [failed(398 + i, 39, 39.5, "timeout") for i in range(4)]
    many = sound()[:-8] + [failed(394 + i, 39, 39.5, "timeout") for i in range(8)]

    assert warnings(few)["errors"] == "note"
    assert warnings(many)["errors"] == "warning"


@pytest.mark.parametrize("pairs", [[], [failed(0, 1, 2)], [never_sent(0, 1)]])
def test_a_run_without_an_answer_measured_nothing(pairs):
    """Where nothing was answered the result is invalid."""
    assert warnings(pairs)["nothing_measured"] == "invalid"


def test_an_interrupted_stage_is_told():
    """Requests that were cancelled or never sent are a warning."""
    assert warnings([*sound(), never_sent(402, 39.9)]) == {"interrupted": "warning"}


def test_too_few_answers_for_a_p99_are_told():
    """298 answers bound no p99, 299 do; it is a warning where an objective rests on it."""
    assert warnings(sound(299)) == {}
    assert warnings(sound(298)) == {"few_samples": "note"}
    assert warnings(sound(298), slo={"ttft_p99": 5.0}) == {"few_samples": "warning"}
    assert warnings(sound(298), slo={"ttft_p95": 5.0}) == {"few_samples": "note"}


def test_a_queue_that_grows_is_told():
    """Above capacity latencies depend on how long the stage ran."""
    pairs = open_run(10, 60, 4, 1.0, np.random.default_rng(1))

    assert warnings(pairs, span=(0, 60, 200))["queue_grew"] == "warning"


def test_a_stage_without_a_steady_state_is_told():
    """Answers that take ever longer."""
    pairs = closed_run(8, 600, lambda i: 1 + i / 100)

    assert (
        warnings(pairs, load={"kind": "closed", "concurrency": 8}, span=(0, MISSING / 1e9, 400))["not_steady"]
        == "warning"
    )


def test_a_first_wave_that_counts_is_told():
    """An offline batch is nothing but a first wave."""
    pairs = closed_run(64, 64, lambda i: 12 + i / 8, prefill_s=0.01)
    found = warnings(pairs, load={"kind": "closed", "concurrency": 64}, span=(0, 40, 40))

    assert found["first_wave"] == "warning"
    assert "steady_unknown" not in found


def test_a_steady_state_that_cannot_be_told_is_a_note():
    """Thirty-one requests tell no steady state."""
    assert warnings(sound(31)) == {"few_samples": "note", "steady_unknown": "note"}


def test_a_short_window_is_a_note():
    """Four hundred requests within eight seconds."""
    pairs = [(replace(r, **{f: getattr(r, f) // 5 for f in ("due_ns", "ready_ns", "sent_ns")}), e) for r, e in sound()]
    moved = [
        (replace(r, first_ns=r.sent_ns + ns(0.1), last_ns=r.sent_ns + ns(0.2), done_ns=r.sent_ns + ns(0.2)), e)
        for r, e in pairs
    ]

    assert warnings(moved, span=(0, 8, 9))["short"] == "note"


def test_a_rate_that_was_not_reached_is_told():
    """Requests due within 40 s that took 60 s to send."""
    slow = altered(lambda r: replace(r, ready_ns=r.due_ns * 3 // 2, sent_ns=r.due_ns * 3 // 2))

    assert warnings(slow, span=(0, 60, 61))["offered_rate"] == "warning"


@pytest.mark.parametrize(("field", "name"), [("input_tokens", "input_length"), ("output_asked", "output_length")])
@pytest.mark.parametrize(("every", "severity"), [(1, "warning"), (200, "note")])
def test_lengths_not_as_asked_are_told(field, name, every, severity):
    """Prompts or answers that the server counts otherwise, often or now and then."""
    assert warnings(altered(lambda r: replace(r, **{field: 77}), every)) == {name: severity}


def test_unknown_lengths_are_no_mismatch():
    """Where the server does not count, or nothing was asked, nothing is compared."""
    assert warnings(altered(lambda r: replace(r, input_tokens=MISSING, output_asked=MISSING))) == {}


def test_a_count_of_events_is_no_length():
    """Where the server told no number of tokens, nobody knows whether an answer was as long as asked for."""
    uncounted = altered(lambda r: replace(r, counted_by="events", output_asked=77))

    assert warnings(uncounted) == {"tokens_uncounted": "warning"}


def test_assumed_tokens_are_told():
    """Tokens spread over events are a note; a total that is itself a guess is a warning."""
    assert warnings(altered(lambda r: replace(r, counted_by="assumed"))) == {"tokens_assumed": "note"}
    assert warnings(altered(lambda r: replace(r, counted_by="events"))) == {"tokens_uncounted": "warning"}


@pytest.mark.parametrize(("every", "stream", "severity"), [(1, True, "warning"), (20, True, "note"), (1, False, None)])
def test_answers_that_came_whole_are_told(every, stream, severity):
    """Five tokens in one event, though streaming was asked for: TTFT is that of a whole answer."""
    pairs = [
        answered(r.index, r.due_ns / 1e9, [r.last_ns / 1e9], tokens=[5])
        if r.phase != WARMUP and r.index % every == 0
        else (r, events)
        for r, events in sound()
    ]

    assert warnings(pairs, stream=stream).get("came_whole") == severity


@pytest.mark.parametrize(
    ("endpoint", "added", "words"),
    [
        ("chat", 1, "endpoint: completions"),
        ("completions", 1, "add_special_tokens: false"),
        ("completions", 9, "Check the tokenizer."),
    ],
)
def test_prompts_longer_than_asked_get_the_advice_that_helps(endpoint, added, words):
    """Who uses completions already is not told to; one token more on every prompt is the tokenizer's BOS."""
    pairs = altered(lambda r: replace(r, input_tokens=r.input_asked + added))
    requests, events = columns(pairs)
    run = run_json([LOAD], client={"selfcheck": SELFCHECK}, endpoint=endpoint)
    found = summarize(requests, events, samples_from(CALM), [span_row(0, 40, 41)], run)["verdict"]["warnings"]

    assert [(warning["code"], words in warning["next_text"]) for warning in found] == [("input_length", True)]


def test_an_objective_that_cannot_be_seen_is_told():
    """Answers that are not streamed show no TTFT."""
    found = warnings(sound(), stream=False, slo={"ttft_p90": 1.0})

    assert found == {"slo_unmeasured": "warning", "not_streamed": "note"}


def test_a_stage_that_never_ran_is_not_told_to_stream():
    """An interrupted run's later stages have no answers at all; other answers of the same form would show a TTFT."""
    assert "slo_unmeasured" not in warnings([never_sent(0, 1)], slo={"ttft_p90": 1.0})


def test_resent_requests_are_told():
    """Connections that the server closed while idle."""
    assert warnings(altered(lambda r: replace(r, resends=1), 10)) == {"resent": "note"}


def test_a_dataset_that_came_again_is_told():
    """More prompts drawn than there are."""
    assert warnings(sound(), dataset={"size": 100, "drawn": 400}) == {"dataset_repeated": "warning"}
    assert warnings(sound(), dataset={"size": 500, "drawn": 400}) == {}


def _counters(queries, hits):
    """What a server's prefix cache counted, before and after."""
    return samples_from(
        [(at, "server", f"vllm:prefix_cache_{name}_total", value)
         for at, pair in ((0, (5.0, 5.0)), (9, (5.0 + queries, 5.0 + hits)))
         for name, value in zip(("queries", "hits"), pair, strict=True)]
    )  # fmt: skip


@pytest.mark.parametrize(("hits", "shares", "found"), [(50, False, True), (1, False, False), (50, True, False)])
def test_prompts_that_the_engine_knew_already_is_a_warning(hits, shares, found):
    """Half of all prompt tokens found in the cache is a warning where prompts share nothing, and only there."""
    evidence = [SimpleNamespace(samples=_counters(100, hits))]
    warnings = list(checks.cached_before(evidence, {"shares_prompts": shares}))

    assert [warning.code for warning in warnings] == (["cached_before"] if found else [])


def test_remarks_of_the_workload_are_notes():
    """What a workload says of its prompts stands among the warnings."""
    (warning,) = checks.remarks(None, {"notes": ["lengths are about right"]})

    assert (warning.severity, str(warning.text)) == ("note", "Lengths are about right.")


LEFT_OUT = message("workload.rows_left_out", count=1, reason=message("workload.no_output_tokens"))


@pytest.mark.parametrize("note", ["1 row of the file left out: no output tokens", LEFT_OUT.as_dict()])
def test_rows_that_were_left_out_are_no_matter_of_the_token_audit(note):
    """The step that is told is about the file; results of earlier versions have the note as text."""
    (warning,) = checks.remarks(None, {"notes": [note]})

    assert str(warning.text) == "1 row of the file left out: no output tokens."
    assert str(warning.next) == "Mend these rows, or leave it so: the run is of the other rows of the file."


def test_where_the_queue_grows_nothing_advises_a_longer_stage():
    """It would only have longer waits; without a growing queue the same warnings do advise one."""
    longer = {f"analysis.next_{step}" for step in ("longer", "at_least", "measure_for", "as_many_end")}

    def advice(rate):
        requests, events = columns(open_run(rate, 9, 4, 1.0, np.random.default_rng(1)))
        load = {"kind": "poisson", "rate": float(rate), "duration_s": 9.0}
        found = summarize(
            requests, events, samples_from(CALM), [span_row(0, 9, 60)], run_json([load], slo={"e2e_p99": 9})
        )
        return {warning["code"]: warning["next"]["code"] for warning in found["verdict"]["warnings"]}

    grows, holds = advice(20), advice(2)
    assert grows["queue_grew"] == "analysis.next_lower_rate"
    assert {grows["few_samples"], grows["short"]} == {"analysis.next_not_longer"}
    assert not longer & set(grows.values())
    assert longer & set(holds.values())


def test_warnings_of_a_repeat_name_it():
    """Two repeats of one stage: each warning says which of them it is about; a single run has no repeat to name."""
    pairs = [(replace(record, repeat=repeat, index=2 * record.index + repeat), events)
             for record, events in sound(20) for repeat in (0, 1)]  # fmt: skip
    pairs.sort(key=lambda pair: (pair[0].repeat, pair[0].index))
    pairs = [(replace(record, index=place), events) for place, (record, events) in enumerate(pairs)]
    requests, events = columns(pairs)
    spans = [span_row(0, 40, 41), span_row(0, 40, 41, repeat=1)]
    found = summarize(requests, events, samples_from(CALM), spans, run_json([LOAD], repeats=2))
    told = [warning for warning in found["verdict"]["warnings"] if warning["code"] == "few_samples"]

    assert [(warning["stage"], warning["repeat"]) for warning in told] == [(0, 0), (0, 1)]


@pytest.mark.parametrize(("times", "found"), [(3, False), (100, True)])
def test_counts_that_cannot_be_make_a_run_invalid(times, found):
    """A server that counts a hundred times max_tokens in every answer: no rate of tokens means anything."""
    told = warnings(altered(lambda r: replace(r, output_tokens=times * r.output_asked)))

    assert (told.get("impossible_tokens") == "invalid") is found


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("cost", [None, {"streams": 100, "ttft_added_s": 0.004, "rate_share": 0.9}])
def test_a_client_on_the_engines_host_is_noted_with_what_that_can_cost(cost, simulated):
    """The cost is the last selfcheck's; a simulated engine is no measurement, wherever the client runs."""
    samples = [*CALM, (ns(0), "client-0", "shares_host", 1.0)]
    client = {"selfcheck": {**SELFCHECK, "shared_core": cost}}
    requests, events = columns(sound())
    run = run_json([LOAD], client=client, engine={"simulated": simulated})
    found = summarize(requests, events, samples_from(samples), [span_row(0, 40, 41)], run)["verdict"]["warnings"]

    texts = [warning["text"] for warning in found if warning["code"] == "shared_host"]
    assert len(texts) == (0 if simulated else 1)
    assert all(
        ("100 streams" in text and "4.00 ms" in text and "10.0 %" in text) == (cost is not None) for text in texts
    )


def test_few_answers_are_told_with_how_long_to_measure():
    """The longest time that the page names for the percentile that is limited, where it names one."""
    requests, events = columns(open_run(4.0, 60, 16, 1.0, np.random.default_rng(1)))
    load = {"kind": "poisson", "rate": 4.0, "duration_s": 60.0}
    found = summarize(
        requests, events, samples_from(CALM), [span_row(0, 60, 120)], run_json([load], slo={"e2e_p99": 9})
    )
    (warning,) = [w for w in found["verdict"]["warnings"] if w["code"] == "few_samples"]
    needed_s = found["stages"][0]["e2e_user"]["needed_s"].get("p99")

    assert warning["next"]["code"] == "analysis.next_measure_for"
    assert warning["next"]["parameters"]["needed_s"] == pytest.approx(needed_s)
