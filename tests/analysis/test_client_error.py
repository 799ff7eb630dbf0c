"""The error that a client states beside its latencies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.analysis.client_error import KERNEL, READER, client_error
from harness.analysis.metrics import latencies
from harness.analysis.token_gaps import streams
from tests.made_runs import answered, columns, ns

KNOWN = {"sent_bound_ns": 0, "first_bound_ns": 0, "late_ns": 0, "blurred": 0}


def error(pairs):
    """The error of answers that all count."""
    requests, events = columns(pairs)
    chosen = np.ones(len(requests), dtype=bool)
    return client_error(requests, chosen, latencies(requests, stream=True), streams(events, chosen))


def test_nothing_is_known_without_kernel_stamps():
    """One answer without stamps, and nothing is stated: neither a bound nor a share."""
    found = error([answered(0, 0, [1.0, 1.1], **KNOWN), answered(1, 1, [2.0, 2.1])])

    assert (found.clock, found.bounds, found.first_exact) == (READER, {}, None)


def test_prompt_reads_have_no_error():
    """A client that was never late adds nothing to any metric."""
    found = error([answered(i, i, [i + 0.5, i + 0.6], **KNOWN) for i in range(4)])

    assert found.clock == KERNEL
    assert {value for bounds in found.bounds.values() for value in bounds.values()} == {0.0}
    assert (found.first_exact, found.blurred_share) == (1.0, 0.0)


@pytest.mark.parametrize(("stamps", "clock"), [(KNOWN, KERNEL), ({}, READER)])
def test_stage_whose_window_holds_no_answer_says_whose_stamps_it_has(stamps, clock):
    """All its answers lie outside the window: nothing can be off, and the clock is that of those answers."""
    requests, events = columns([answered(0, 0, [1.0, 1.1], **stamps)])
    none = np.zeros(1, dtype=bool)
    found = client_error(requests, none, latencies(requests, stream=True), streams(events, none))

    assert (found.clock, found.bounds) == (clock, {})


def test_late_first_read_and_late_send_add_up_in_ttft():
    """TTFT may be too high by both; the mean of four answers by a quarter of what one of them may be."""
    late = KNOWN | {"sent_bound_ns": ns(0.01), "first_bound_ns": ns(0.03), "late_ns": ns(0.2)}
    pairs = [answered(i, i, [i + 0.5, i + 0.6], **(late if i == 0 else KNOWN)) for i in range(4)]
    found = error(pairs)

    assert found.of("ttft", "mean") == pytest.approx(0.01)
    assert found.of("ttft_user", "mean") == pytest.approx(0.0075)
    assert found.of("e2e", "mean") == pytest.approx(0.0025)
    assert found.first_exact == 0.75


times = st.lists(st.integers(1, 500), min_size=2, max_size=6).map(np.cumsum)


@given(st.lists(st.tuples(times, st.integers(0, 400), st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=12))
def test_any_truth_within_the_bounds_of_requests_is_within_the_error(rows):
    """Wherever first tokens and sends truly were within their bounds, every statistic is off by its error at most."""
    seen, true = [], []
    for index, (gaps, first_ms, sent_ms, part) in enumerate(rows):
        tokens = [1 + 0.001 * t for t in gaps]
        bound = min(first_ms / 1000, tokens[0] - 0.06)
        known = KNOWN | {"sent_bound_ns": ns(sent_ms / 1000), "first_bound_ns": ns(bound)}
        seen.append(answered(index, 0.0, tokens, sent=0.0, **known))
        record, _ = answered(index, 0.0, [tokens[0] - bound * part, *tokens[1:]], sent=0.0, **KNOWN)
        true.append(replace(record, sent_ns=round(sent_ms * 1e6 * part)))
    found = error(seen)
    ours, theirs = (
        latencies(columns(seen)[0], stream=True),
        latencies(columns([(record, ([], [])) for record in true])[0], stream=True),
    )

    for metric, bounds in found.bounds.items():
        if metric in ours:
            assert abs(ours[metric].mean() - theirs[metric].mean()) <= bounds["mean"] + 1e-9
            for percent in (50, 90, 95, 99):
                off = abs(np.percentile(ours[metric], percent) - np.percentile(theirs[metric], percent))

                assert off <= bounds[f"p{percent}"] + 1e-9


reads = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=4), min_size=1, max_size=6)


@given(st.lists(reads, min_size=1, max_size=12), st.floats(0, 1))
@example([[[0], [10], [10], [10], [10], [50, 50], [50, 50], [50, 50]]], 1.0)  # as far off as so many blurred may be
def test_any_truth_within_late_reads_is_within_the_error_of_gaps(answers, part):
    """Events of late reads that truly came at any time since the read before: gaps are off by their error at most."""
    seen, true = [], []
    for index, waits in enumerate(answers):
        at, stamped, truly = 1000, [], []
        for read in waits:
            came = [at + round(part * gap) for gap in np.cumsum(read)]
            came[-1] = at + sum(read)
            stamped += [came[-1]] * len(read)
            truly += came
            at = came[-1]
        blurred = sum(len(read) - 1 for read in waits)
        bound = ns((stamped[0] - truly[0]) / 1000)
        known = KNOWN | {"first_bound_ns": bound, "blurred": blurred}
        seen.append(answered(index, 0.0, [t / 1000 for t in stamped], **known))
        true.append(answered(index, 0.0, [t / 1000 for t in truly], **KNOWN))
    found, (_, events) = error(seen), columns(true)
    gaps, ours = (
        streams(table, np.ones(len(answers), dtype=bool)).chunk_gap.short for table in (events, columns(seen)[1])
    )

    for statistic, bound_s in found.bounds.get("chunk_gap", {}).items():
        assert abs(getattr(gaps, statistic) - getattr(ours, statistic)) <= bound_s + 1e-9
