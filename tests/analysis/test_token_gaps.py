"""Gaps and arrivals inside answers are those of their events."""

import itertools
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import token_gaps as module
from harness.analysis.token_gaps import over_limit, rows_of, streams, token_rates, tokens_by_row
from harness.results.request_table import Events, events_from

steps = st.tuples(st.integers(0, 5_000_000_000), st.integers(0, 4))
answers = st.lists(st.lists(steps, max_size=8), max_size=12)


def _events(rows):
    """Events whose arrivals are sums of the given steps (ns)."""
    return events_from([(np.cumsum([gap for gap, _ in row]).tolist(), [tokens for _, tokens in row]) for row in rows])


def _gaps(events, chosen):
    """Chunk gaps and token gaps in seconds, the plain way."""
    chunk, tokens = [], []
    for row in np.flatnonzero(chosen):
        at, counts = events.of(row)
        kept = [(t, k) for t, k in zip(at.tolist(), counts.tolist(), strict=True) if k > 0]
        for (before, _), (after, k) in itertools.pairwise(kept):
            chunk.append((after - before) / 1e9)
            tokens += [(after - before) / 1e9 / k] * k
    return chunk, tokens


def _mask(rows, data):
    return np.asarray(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)


@given(answers, st.data())
def test_gaps_are_those_of_a_plain_loop(rows, data):
    """An event of k tokens ends one chunk gap and k token gaps of a k-th; rows not chosen and empty events add none."""
    events, chosen = _events(rows), _mask(rows, data)
    found = streams(events, chosen)
    chunk, tokens = _gaps(events, chosen)

    assert found.chunk_gap.ordered == pytest.approx(sorted(chunk))
    assert found.itl.ordered == pytest.approx(sorted(tokens))
    assert found.chunk_gap.short.n == len(chunk)
    assert found.merged_share == (pytest.approx(chunk.count(0) / len(chunk)) if chunk else None)


@given(answers, st.data())
def test_too_many_gaps_to_keep_are_still_added_up_exactly(rows, data):
    """Beyond what is kept, the count, mean, deviation and ends stay exact."""
    events, chosen = _events(rows), _mask(rows, data)
    exact = streams(events, chosen)
    with mock.patch.object(module, "EXACT_GAPS", -1):
        binned = streams(events, chosen)

    for ours, want in ((binned.chunk_gap.short, exact.chunk_gap.short), (binned.itl.short, exact.itl.short)):
        assert ours.n == want.n
        assert want.n == 0 or [ours.mean, ours.min, ours.max] == pytest.approx(
            [want.mean, want.min, want.max], abs=1e-12
        )
        assert want.n < 2 or ours.std == pytest.approx(want.std, rel=1e-6, abs=1e-9)
    assert binned.merged_share == exact.merged_share


def test_binned_percentiles_and_intervals_are_those_of_kept_gaps():
    """For many gaps the bins give the percentiles and intervals of sorting, to 0.2 %."""
    rng = np.random.default_rng(2)
    rows = [
        ([int(t) for t in np.cumsum(rng.gamma(4, 2.5e6, 60))], [1, *rng.integers(1, 4, 59).tolist()])
        for _ in range(300)
    ]
    events, chosen = events_from(rows), np.ones(300, dtype=bool)
    exact = streams(events, chosen)
    with mock.patch.object(module, "EXACT_GAPS", -1):
        binned = streams(events, chosen)

    for ours, want in ((binned.chunk_gap, exact.chunk_gap), (binned.itl, exact.itl)):
        points = ("p50", "p90", "p95", "p99")
        got = [getattr(ours.short, name) for name in points]
        assert got == pytest.approx([getattr(want.short, name) for name in points], rel=2e-3)
        assert ours.short.ci95.keys() == want.short.ci95.keys()
        for name, ends in want.short.ci95.items():
            assert ours.short.ci95[name] == pytest.approx(ends, rel=5e-3)
        assert ours.percentile(97.5, 3) == pytest.approx(want.percentile(97.5, 3), rel=2e-3)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40), st.integers(0, 20), st.floats(0, 100))
def test_missing_gaps_are_infinite(gaps, missing, percent):
    """A percentile with missing gaps is that of a list with as many infinite ones."""
    found = streams(_events([[(5, 1), *((gap, 1) for gap in gaps)]]), np.ones(1, dtype=bool)).chunk_gap
    at = (len(gaps) + missing - 1) * percent / 100
    want = np.percentile([*gaps, *[10**12] * missing], percent) / 1e9

    ours = found.percentile(percent, missing)
    assert math.isinf(ours) == (math.ceil(at) >= len(gaps))
    assert math.isinf(ours) or ours == pytest.approx(want)


@given(answers, st.integers(0, 3000), st.booleans())
def test_the_share_over_a_limit_is_counted_per_row(rows, limit_ms, per_token):
    """Of each row the share of its gaps, or of its token gaps, beyond the limit; none for a row without gaps."""
    events = _events(rows)
    shares = over_limit(events, limit_ms / 1000, per_token=per_token)
    for row in range(len(rows)):
        only = np.arange(len(rows)) == row
        gaps = [round(gap * 1e9) for gap in _gaps(events, only)[int(per_token)]]
        near = np.mean([abs(gap - limit_ms * 10**6) <= 1 for gap in gaps]) if gaps else 0  # lost by dividing

        assert abs(shares[row] - (np.mean([gap > limit_ms * 10**6 for gap in gaps]) if gaps else 0)) <= near + 1e-9


def test_a_gap_as_long_as_the_limit_keeps_it():
    """Only gaps beyond the limit are late; two tokens of one event share its gap."""
    events = _events([[(0, 1), (100_000_000, 1), (300_000_000, 2)]])

    assert over_limit(events, 0.1, per_token=False).tolist() == [0.5]
    assert over_limit(events, 0.1, per_token=True).tolist() == [pytest.approx(2 / 3)]
    assert over_limit(events, 0.15, per_token=True).tolist() == [0.0]


@given(answers, st.integers(0, 10**10), st.integers(1, 10**10), st.integers(1, 20))
def test_arrivals_are_counted_where_they_fall(rows, start, length, bins):
    """The bins of a rate add up to the tokens that came from the start on and before the end."""
    events = _events(rows)
    from_start = (events.at_ns >= start) & (events.at_ns < start + length)
    rates = token_rates(events, start, start + length, bins)

    assert rates.sum() * length / 1e9 / bins == pytest.approx(events.tokens[from_start].sum())


@given(answers, st.data())
def test_working_in_pieces_changes_nothing(rows, data):
    """However few events are worked on at once, the results are the same."""
    events, chosen = _events(rows), _mask(rows, data)

    def found():
        rates = token_rates(events, 10, 10**9, 3)
        return over_limit(events, 0.5, per_token=True).tolist(), rates.tolist(), tokens_by_row(events).tolist()

    whole = found()
    with mock.patch.object(module, "PIECE", 2):
        pieces = found()

    assert pieces == whole
    assert whole[2] == [int(events.of(row)[1].sum()) for row in range(len(rows))]
    assert (
        streams(rows_of(events, chosen), np.ones(int(chosen.sum()), dtype=bool)).itl.short
        == streams(events, chosen).itl.short
    )


@given(answers, st.data())
def test_rows_keep_their_own_events(rows, data):
    """The events of some rows are those rows' events, together or apart."""
    events, chosen = _events(rows), _mask(rows, data)
    picked = rows_of(events, chosen)

    for place, row in enumerate(np.flatnonzero(chosen)):
        assert picked.of(place)[0].tolist() == events.of(row)[0].tolist()
        assert picked.of(place)[1].tolist() == events.of(row)[1].tolist()
    assert len(picked.offsets) == chosen.sum() + 1


def test_rows_that_lie_together_are_not_copied():
    """A stage's events are a view of the run's, so that a hundred million of them cost nothing."""
    events = _events([[(1, 1)]] * 6)
    together = rows_of(events, np.asarray([False, True, True, True, False, False]))

    assert np.shares_memory(together.at_ns, events.at_ns)
    assert isinstance(together, Events)
