"""The verdict on a client whose arrivals the kernel stamps: each fault raises its own warning, and a sound run none."""

from dataclasses import replace

import pytest

from harness.analysis.summary import summarize
from harness.results.request_table import WARMUP, samples_from
from tests.analysis.warnings.test_load import CALM, LOAD, SELFCHECK, sound, warnings
from tests.made_runs import columns, ns, run_json, span_row

KNOWN = {"sent_bound_ns": 0, "first_bound_ns": 0, "late_ns": 50_000, "blurred": 0}
CLOSED = {"kind": "closed", "concurrency": 4, "requests": 400}


def stamped(every=1, **fields):
    """The sound run with kernel stamps, and with these fields in every so many of its rows."""
    return [
        (replace(record, **(KNOWN | fields if record.index % every == 0 else KNOWN)), events)
        for record, events in sound()
    ]


def watched(source, name, value):
    """A value that was sampled once a second, beside a calm client."""
    return [*CALM, *((ns(at), source, name, value) for at in range(41))]


def test_prompt_client_is_not_warninged():
    """Kernel stamps with no bound, and nothing else wrong."""
    assert warnings(stamped()) == {}


def test_busy_client_with_kernel_stamps_is_a_warning_and_not_invalid():
    """A full core and a late event loop do not move the kernel's stamps: what they spoil has checks of its own."""
    samples = [(at, source, name, 0.99 if name == "cpu_share" else 0.05) for at, source, name, _ in CALM]

    assert warnings(stamped(), samples=samples) == {"client_cpu": "warning"}


@pytest.mark.parametrize(("bound_s", "severity"), [(0.0015, None), (0.004, "warning"), (0.02, "invalid")])
def test_error_that_matters_is_a_warning_and_a_tenth_is_invalid(bound_s, severity):
    """First tokens of 100 ms that may have come earlier by 1.5, 4 and 20 per cent."""
    found = warnings(stamped(first_bound_ns=ns(bound_s)))

    assert found == ({} if severity is None else {"client_error": severity})


def test_few_late_answers_are_a_warning_about_the_tail_alone():
    """One answer of thirty with a large bound moves no centre: a warning, and no invalid result."""
    found = warnings(stamped(every=30, first_bound_ns=ns(0.09)))

    assert found == {"client_error": "warning", "statistics_invalid": "warning"}


def uneven():
    """Every fifth answer has a last gap of half a second, and half of all answers one event read late."""
    return [
        (record, ([*at_ns[:-1], at_ns[-1] + (ns(0.5) if record.index % 5 == 0 else 0)], tokens))
        for record, (at_ns, tokens) in stamped(every=2, blurred=1)
    ]


def summary_of(pairs, **run):
    """The only stage of the summary of such a run, and its verdict."""
    requests, events = columns(pairs)
    run = run_json([LOAD], client={"selfcheck": SELFCHECK}, **run)
    found = summarize(requests, events, samples_from(CALM), [span_row(0, 40, 41)], run)
    return found["stages"][0], found["verdict"]


def test_statistic_that_the_client_spoiled_is_not_valid_itself():
    """The p90 of gaps may be off by 24 times itself: the tail is marked, the rest stands, and so does the result."""
    stage, verdict = summary_of(uneven())

    assert stage["itl"]["invalid"] == ["p90", "p95", "p99"]
    assert "invalid" not in stage["ttft"]
    assert verdict["valid"]
    assert {warning["code"] for warning in verdict["warnings"]} == {
        "client_error", "statistics_invalid", "merged_reads",
    }  # fmt: skip


def test_limit_on_a_spoiled_statistic_is_not_met():
    """It is under its limit, and may not be: not met, and the stage is invalid, as its answer hangs on it."""
    stage, verdict = summary_of(uneven(), slo={"itl_p90": 0.1, "ttft_p90": 1.0})

    assert stage["itl"]["p90"] < 0.1
    assert (stage["slo"]["itl_p90"]["met"], stage["slo"]["itl_p90"]["unsure"]) == (None, "client")
    assert stage["slo"]["ttft_p90"]["met"] is True
    assert stage["slo_met"] is None
    assert not verdict["valid"]


def test_tail_that_is_off_by_more_hides_no_mean_that_is_off_too_far():
    """The p90 of gaps is off by 24 times itself, the mean TTFT by a fifth: the result is invalid for the mean."""
    uneven = [
        (record, ([*at_ns[:-1], at_ns[-1] + (ns(0.5) if record.index % 5 == 0 else 0)], tokens))
        for record, (at_ns, tokens) in stamped(every=2, first_bound_ns=ns(0.04), blurred=1)
    ]
    found = warnings(uneven)

    assert found["client_error"] == "invalid"


def test_blurred_events_are_told():
    """A tenth of token events that were read late, together with a later one."""
    found = warnings(stamped(every=2, blurred=1))

    assert found["merged_reads"] == "warning"


def test_kernel_that_gives_no_stamps_is_noted():
    """A client of this version whose reads have no stamps says whose times these are."""
    assert warnings(sound(), samples=watched("client-0", "clock_bound_s", 1e-6)) == {"reader_stamps": "note"}


@pytest.mark.parametrize(("step_s", "severity"), [(0.0005, None), (0.2, "invalid")])
def test_clock_that_was_set_makes_stamps_worthless(step_s, severity):
    """The kernel's stamps are of the wall clock: a step of it in the middle of a run is no small thing."""
    found = warnings(stamped(), samples=watched("client-0", "clock_step_s", step_s))

    assert found == ({} if severity is None else {"clock_step": severity})


@pytest.mark.parametrize(
    ("waited", "severity"), [(0.05, None), (0.2, "warning"), (0.9, "invalid")], ids=["little", "some", "most"]
)
def test_engine_that_waited_for_the_clients_core_is_told(waited, severity):
    """An engine that waited a fifth or most of the time, beside a client that used so much; idle waits are noise."""
    samples = watched("host", "engine_wait_cores", waited)
    found = warnings(stamped(), samples=[(*row[:3], 0.5) if row[2] == "cpu_share" else row for row in samples])

    assert found == ({} if severity is None else {"engine_starved": severity})


def test_engine_that_waited_for_others_is_not_the_clients_doing():
    """A client that used a hundredth of a core has not taken more than that, however long the engine waited."""
    samples = watched("host", "engine_wait_cores", 0.9)
    idle = [(*row[:3], 0.005) if row[2] == "cpu_share" else row for row in samples]

    assert warnings(stamped(), samples=idle) == {}


@pytest.mark.parametrize(("late_s", "severity"), [(0.002, None), (0.01, "warning"), (0.05, "invalid")])
def test_users_that_went_on_late_made_a_lighter_load(late_s, severity):
    """In a closed loop a late send is time without load: a share of the answers' 180 ms decides."""
    pairs = [
        (replace(record, ready_ns=record.ready_ns - ns(late_s), due_ns=record.due_ns - ns(late_s)), events)
        if record.phase != WARMUP
        else (record, events)
        for record, events in stamped()
    ]
    found = warnings(pairs, load=CLOSED).get("send_lag")

    assert found == severity


@pytest.mark.parametrize(("share", "severity"), [(0.01, None), (0.2, "warning")])
def test_time_that_a_virtual_machine_did_not_get_is_told(share, severity):
    """A hundredth of steal is any cloud's; a fifth slowed whatever ran here."""
    found = warnings(stamped(), samples=watched("host", "host_steal_share", share))

    assert found == ({} if severity is None else {"host_stolen": severity})
