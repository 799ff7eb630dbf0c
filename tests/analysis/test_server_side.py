"""A stage by what the server says: its own split of each request's time, and the hits of prefix caches."""

from dataclasses import replace

import pytest

from harness.analysis.metrics import StageInput, summarize_stage
from harness.analysis.server_side import TOLERANCE, PrefixHits, prefix_hits, server_split
from harness.analysis.steady_state import Span
from harness.results.request_table import MISSING, samples_from
from harness.telemetry.server_metrics import HITS, QUERIES
from tests.made_runs import NO_SAMPLES, answered, columns, ns

CLOSED = {"kind": "closed", "concurrency": 1, "requests": 4}
SPAN = Span(0, 0, 0, ns(4), ns(5))


def stage_of(pairs):
    """A stage of these requests, and its numbers."""
    requests, events = columns(pairs)
    stage = StageInput(requests, events, SPAN, CLOSED, {})
    return stage, summarize_stage(stage)


def split(queue_s, prefill_s, place):
    """A request that waited so long in the engine and was prefilled in so long, of 0.5 s to its first token."""
    told = {"server_queue_ns": ns(queue_s), "server_prefill_ns": ns(prefill_s)}
    return answered(place, place, [place + 0.5, place + 0.6], **told)


def test_what_is_not_the_engines_is_outside():
    """Queue and prefill are the server's words; of the client's 0.5 s to the first token the rest is outside of it."""
    found = server_split(*stage_of([split(0.1, 0.3, 0), split(0.2, 0.3, 1), answered(2, 2, [2.5, 2.6])]))

    assert found.n == 2
    assert (found.queue.min, found.queue.max) == (0.1, 0.2)
    assert found.prefill.p50 == 0.3
    assert [found.outside.min, found.outside.max] == pytest.approx([0.0, 0.1])


def test_a_server_that_tells_nothing_has_no_split():
    """Nothing is made up where the server has no such flag."""
    assert server_split(*stage_of([answered(0, 0, [0.5, 0.6])])) is None


def counted(*rows):
    """Samples of (second, source, tokens looked up, tokens found)."""
    return samples_from(
        [
            (ns(at), source, name, value)
            for at, source, *values in rows
            for name, value in zip((QUERIES, HITS), values, strict=True)
        ]
    )


PAIRS = [
    answered(place, place, [place + 0.5, place + 0.6], input_tokens=100, reusable_tokens=reusable)
    for place, reusable in enumerate((0, 64, 96, 64))
]
AROUND = counted(
    (-1, "server", 1000, 500), (0, "server", 1000, 500), (2.5, "server", 1300, 600), (6, "server", 1400, 700)
)


def hits_of(pairs, samples, **prefix):
    """The hits of a stage of these requests and samples."""
    stage, summary = stage_of(pairs)
    return prefix_hits(stage.requests, samples, summary, {"prefix": prefix})


def test_theory_and_measurement_are_of_the_same_requests():
    """Counters between the samples around the stage, beside an unbounded cache's for what was sent then."""
    found = hits_of(PAIRS, AROUND, block_size=16)

    assert found.as_dict() == {"theoretical_hit_rate": 0.56, "measured_hit_rate": 0.5, "block_size": 16}


def test_theory_is_of_what_was_answered_between_the_samples():
    """A request before the first sample, and one that the server refused, are in neither."""
    before = replace(PAIRS[0][0], index=9, sent_ns=ns(-2), reusable_tokens=100)
    refused = replace(PAIRS[0][0], index=8, status="failed", first_ns=MISSING, reusable_tokens=100)

    assert hits_of([*PAIRS, (before, ([], [])), (refused, ([], []))], AROUND).theoretical == 0.56


def test_unknown_tokens_have_no_theory():
    """One answered prompt whose tokens are not known leaves no rate; the counters' remains."""
    unknown = replace(PAIRS[0][0], reusable_tokens=MISSING), PAIRS[0][1]

    assert hits_of([unknown, *PAIRS[1:]], AROUND).as_dict()["theoretical_hit_rate"] is None
    assert hits_of([unknown, *PAIRS[1:]], AROUND).measured == 0.5
    assert hits_of([unknown], NO_SAMPLES) is None


def test_every_engine_has_its_own_rate():
    """Counters of each engine beside those of all together; one that looked nothing up has none."""
    rows = [
        (at, source, *values)
        for at, own in ((0, (0, 0)), (6, (300, 30)))
        for source, values in (("server", own), ("server/a", own), ("server/b", (5, 5)))
    ]
    found = hits_of(PAIRS, counted(*rows))

    assert found.engines == {"a": 0.1}


def test_counters_of_another_process_say_nothing():
    """Counters that fall are those of a server that was started again."""
    assert hits_of(PAIRS, counted((0, "server", 1000, 500), (6, "server", 10, 5))).measured is None


@pytest.mark.parametrize(
    ("measured", "held"), [(0.9, True), (0.9 - 0.9 * TOLERANCE, True), (0.8, False), (0.95, False), (None, None)]
)
def test_a_target_is_held_within_its_tolerance(measured, held):
    """Both too few and too many hits are another load than the one that was asked for."""
    assert PrefixHits(0.9, measured, {}, 16, 0.9).held is held


def test_of_a_pair_the_engines_that_prefill_count():
    """What a decode engine finds saves no prompt's work; both stand by name."""
    rows = [
        (at, source, *values)
        for at, own in ((0, 0), (6, 1))
        for source, values in (
            ("server", (600 * own, 90 * own)),
            ("server/p", (300 * own, 75 * own)),
            ("server/d", (300 * own, 15 * own)),
        )
    ]
    stage, summary = stage_of(PAIRS)
    processes = [{"name": "p", "role": "prefill"}, {"name": "d", "role": "decode"}]
    found = prefix_hits(stage.requests, counted(*rows), summary, {"engine": {"processes": processes}})

    assert found.measured == 0.25
    assert found.engines == {"p": 0.25, "d": 0.05}
