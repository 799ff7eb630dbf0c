"""What must hold between the numbers of a stage, and the warning where it does not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.rates import rows_of_rates
from harness.analysis.steady_state import Span
from harness.analysis.summary import summarize
from harness.analysis.warnings import INVALID, Evidence
from harness.analysis.warnings.records import invariants, littles_law
from harness.results.request_table import COMPLETED, MEASURED
from tests.made_runs import NO_SAMPLES, answered, closed_run, columns, hand_made, ns, open_run, run_json, span_row
from tests.random_runs import any_pair

KINDS = ("closed", "constant", "poisson", "ramp")


def stage(pairs, kind="poisson", span=(0, 4, 10), slo=None):
    """One stage's input."""
    requests, events = columns(pairs)
    load = {"kind": kind, "rate": 1.0, "rate_to": 2.0, "concurrency": 2}
    return StageInput(requests, events, Span(0, 0, *map(ns, span)), load, {"ttft_p90": 1.0} if slo is None else slo)


def broken(given_, summary=None):
    """What is told of a stage, of its own summary or of another."""
    found = summary or summarize_stage(given_)
    return [str(warning.text) for warning in invariants(Evidence(given_, found, NO_SAMPLES, None))]


@given(st.data(), st.integers(0, 12), st.sampled_from(KINDS))
def test_correct_records_keep_them(data, count, kind):
    """Whatever becomes of requests and whatever the load, nothing is broken."""
    assert broken(stage([data.draw(any_pair(i)) for i in range(count)], kind)) == []


@given(st.data(), st.integers(1, 12), st.sampled_from(KINDS))
def test_the_output_rate_is_that_of_the_same_requests(data, count, kind):
    """Output token rate = request rate x mean output tokens, of rows that anybody can list from requests.parquet."""
    pairs = [data.draw(any_pair(i)) for i in range(count)]
    requests, events = columns(pairs)
    load = {"kind": kind, "rate": 1.0, "rate_to": 2.0, "concurrency": 2}
    told = summarize(requests, events, NO_SAMPLES, [span_row(0, 4, 10)], run_json([load]))["stages"][0]
    rows, window = rows_of_rates(requests, told), told["rates_window"]
    mean = float(rows.output_tokens.mean()) if len(rows) else 0.0

    assert len(rows) == window["requests"]
    assert set(rows.phase) <= {MEASURED}
    assert set(rows.status) <= {COMPLETED}
    if told["request_rate"] is not None:
        assert told["request_rate"] == pytest.approx(len(rows) / window["window_s"])
        assert told["output_token_rate"] == pytest.approx(told["request_rate"] * mean)
        assert told["total_token_rate"] * window["window_s"] == pytest.approx(rows.output_tokens.sum() + 10 * len(rows))


def _more_requests(found):
    return replace(found, rates=replace(found.rates, request=found.rates.request + 1 / found.window.rates_s))


def _more_tokens(found):
    return replace(found, rates=replace(found.rates, output_token=found.rates.output_token + 1 / found.window.rates_s))


def _more_input(found):
    return replace(found, rates=replace(found.rates, total_token=found.rates.total_token + 1 / found.window.rates_s))


def _more_events(found):
    return replace(found, rates=replace(found.rates, event=found.rates.event + 1 / found.window.rates_s))


def _more_good(found):
    return replace(found, rates=replace(found.rates, good=found.rates.request + 1 / found.window.rates_s))


def _more_in_flight(found):
    return replace(found, concurrency_mean=found.concurrency_mean + 0.01)


def _earlier(found):
    return replace(found, window=replace(found.window, later_ns=found.window.later_ns + 100_000_000))


FAULTS = {
    "of requests": _more_requests,
    "of output tokens": _more_tokens,
    "of tokens": _more_input,
    "of events": _more_events,
    "Goodput": _more_good,
    "Little's law": _more_in_flight,
    "The rate": _earlier,
}


@given(st.sampled_from(sorted(FAULTS)), st.integers(0, 2**32), st.sampled_from(["poisson", "closed"]))
def test_each_planted_fault_is_found(fault, seed, kind):
    """One request, token or event too many, a longer time under way, another window: each is told, and is invalid."""
    rng = np.random.default_rng(seed)
    pairs = open_run(4, 10, 8, 1.0, rng) if kind == "poisson" else closed_run(4, 40, lambda _: rng.uniform(0.5, 1.5))
    given_ = stage(pairs, kind, (0, 10, 30))
    found = summarize_stage(given_)
    assume(found.counted.requests > 5)
    warnings = list(invariants(Evidence(given_, FAULTS[fault](found), NO_SAMPLES, None)))

    assert any(fault in str(warning.text) for warning in warnings)
    assert {warning.severity for warning in warnings} == {INVALID}


def test_warm_up_that_counts_is_found():
    """The numbers that the same rows would have given if the answers of the warm-up had counted break the law."""
    given_ = stage(hand_made(), "constant", (0, 4, 5))
    as_own = replace(given_, requests=replace(given_.requests, phase=np.full(5, MEASURED, dtype=object)))
    counted = replace(summarize_stage(as_own), window=summarize_stage(given_).window)

    assert broken(given_) == []
    assert any("Little's law" in text for text in broken(given_, counted))


@given(st.data(), st.integers(1, 8))
def test_events_that_do_not_hold_an_answers_tokens_are_found(data, count):
    """A token more in one event of one completed answer, and its request is named."""
    pairs = [answered(i, i / 4, [i / 4 + 0.5, i / 4 + 0.6], [1, 2]) for i in range(count)]
    lost = data.draw(st.integers(0, count - 1))
    record, (at, tokens) = pairs[lost]
    pairs[lost] = record, (at, [tokens[0], tokens[1] + 1])
    (text,) = broken(stage(pairs))

    assert f"request {lost} has 3, and its events 4" in text


def test_littles_law_is_nearly_plain_in_a_steady_window():
    """Of a long steady stage in flight over rate x time is one within the share that the edges have."""
    given_ = stage(open_run(4, 200, 16, 2.0, np.random.default_rng(3)), span=(0, 200, 210))
    summary = summarize_stage(given_)
    law = littles_law(given_, summary)

    assert law is not None
    assert law.ratio == pytest.approx(1, abs=(law.before + law.after) / law.in_flight)
    assert law.ratio == pytest.approx(1, abs=0.02)
    assert law.expected == pytest.approx(law.in_flight)


def test_a_broken_invariant_makes_a_run_invalid():
    """In the verdict of summary.json, with what was expected and what was found."""
    requests, events = columns(hand_made())
    events = replace(events, tokens=events.tokens + 1)
    found = summarize(requests, events, NO_SAMPLES, [span_row(0, 4, 5)], run_json([{"kind": "constant", "rate": 1.0}]))
    warnings = [warning for warning in found["verdict"]["warnings"] if warning["code"] == "invariant"]

    assert found["verdict"]["valid"] is False
    assert [warning["stage"] for warning in warnings] == [0]
    assert "request 1 has 3, and its events 6" in warnings[0]["text"]
