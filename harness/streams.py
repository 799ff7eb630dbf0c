"""What happened inside the answers: the gaps between tokens, and how many arrived when?

Works through the events in batches of consecutive requests, so that a hundred million events
need little more memory than they already take. Up to `EXACT_GAPS` gaps are kept and sorted;
beyond, percentiles come from a histogram whose bins are 0.1 % wide. Times go in as integer
nanoseconds and come out as seconds.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.records import Events
from harness.stats import (
    FEWEST_BATCHES,
    PERCENTILES,
    Distribution,
    Floats,
    batch_starts,
    distribution,
    mean_interval,
    percentile_name,
    percentile_of,
    rank_interval,
)
from harness.units import NS_PER_S, seconds_to_ns

EXACT_GAPS = 4_000_000  # 32 MB of float64
PIECE = 2_000_000  # events worked on at once
_MANTISSA_BITS = 10  # of a bin's number: 2**-10 is 0.1 %
_DROPPED_BITS = 52 - _MANTISSA_BITS
_ONE = 1023 << _MANTISSA_BITS  # the bin of 1.0 ns
_BINS = 45 << _MANTISSA_BITS  # up to 2**45 ns, nearly ten hours

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Gaps of one kind, in seconds: in short, and ready to be asked for any percentile.

    `ordered` holds all of them sorted, or is empty where they are too many; then `reached`
    counts those up to the end of each bin.
    """

    short: Distribution
    ordered: Floats
    reached: NDArray[np.int64]

    def percentile(self, percent: float, missing: int = 0) -> float | None:
        """A percentile, `missing` gaps counted as infinite; None where there is nothing."""
        n = self.short.n
        if n + missing == 0:
            return None
        at = (n + missing - 1) * percent / 100
        if math.ceil(at) >= n:
            return math.inf
        if len(self.ordered):
            # The same place among those that are there: rank `at` of n.
            return percentile_of(self.ordered, 100 * at / max(1, n - 1))
        return _ranked(self.reached, at + 1)


@dataclass(frozen=True, slots=True)
class Streams:
    """The gaps of some answers: between events, between tokens, and the share of events that came in one read."""

    chunk_gap: Gaps
    itl: Gaps
    merged_share: float | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Gaps of consecutive requests (ns): when each ended, the tokens that ended it, and the row it belongs to."""

    gaps: NDArray[np.int64]
    tokens: NDArray[np.int32]
    rows: NDArray[np.int64]
    at_ns: NDArray[np.int64]


def gap_batches(events: Events, chosen: Mask) -> Iterator[Batch]:
    """The gaps of the chosen rows, a piece of about `PIECE` events at a time."""
    for first, last in _row_pieces(events):
        batch = _batch(events, chosen, first, last)
        if len(batch.gaps):
            yield batch


def streams(events: Events, chosen: Mask) -> Streams:
    """The gaps within the chosen rows; rows are in the order of time."""
    rows = np.flatnonzero(chosen)
    edges = np.append(rows[batch_starts(len(rows))], rows[-1] + 1) if len(rows) else np.zeros(1, dtype=np.int64)
    counts = (events.offsets[1:] - events.offsets[:-1])[rows]
    batches = (_batch(events, chosen, first, last) for first, last in itertools.pairwise(edges))
    if int(counts.sum()) <= EXACT_GAPS and int(events.tokens.sum(dtype=np.int64)) <= EXACT_GAPS:
        return _exact(list(batches))
    return _binned(batches)


def _batch(events: Events, chosen: Mask, first: int, last: int) -> Batch:
    """Gaps of rows [first, last) that are chosen; an event without tokens is none."""
    begin, end = int(events.offsets[first]), int(events.offsets[last])
    at_ns, tokens = events.at_ns[begin:end], events.tokens[begin:end]
    rows = np.repeat(np.arange(first, last), np.diff(events.offsets[first : last + 1]))
    keep = tokens > 0
    if not chosen[first:last].all():
        keep &= chosen[rows]
    if not keep.all():
        at_ns, tokens, rows = at_ns[keep], tokens[keep], rows[keep]
    same = rows[1:] == rows[:-1]
    return Batch((at_ns[1:] - at_ns[:-1])[same], tokens[1:][same], rows[1:][same], at_ns[1:][same])


def _exact(batches: list[Batch]) -> Streams:
    batches = [batch for batch in batches if len(batch.gaps)]
    chunk = _exact_gaps([batch.gaps / NS_PER_S for batch in batches])
    if all(int(batch.tokens.max()) == 1 for batch in batches):
        itl = chunk
    else:
        itl = _exact_gaps([np.repeat(b.gaps / NS_PER_S / b.tokens, b.tokens) for b in batches])
    return Streams(chunk, itl, _share(sum(int((b.gaps == 0).sum()) for b in batches), chunk.short.n))


def _exact_gaps(batches: list[Floats]) -> Gaps:
    values = np.concatenate(batches) if batches else np.zeros(0)
    starts = np.cumsum([0, *map(len, batches)])[:-1]
    return Gaps(distribution(values, starts), np.sort(values), np.zeros(0, dtype=np.int64))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True, slots=True)
class _Tally:
    """One batch of gaps (ns) added up: their number, mean, squares about it, ends, and bins."""

    n: int
    mean: float
    square: float
    low: float
    high: float
    bins: NDArray[np.int64]


def _binned(batches: Iterator[Batch]) -> Streams:
    chunks, tokens, merged = [], [], 0
    for batch in batches:
        if len(batch.gaps) == 0:
            continue
        merged += int(np.count_nonzero(batch.gaps == 0))
        chunks.append(_tally(batch.gaps.astype(np.float64), None))
        several = int(batch.tokens.max()) > 1
        tokens.append(_tally(batch.gaps / batch.tokens, batch.tokens) if several else chunks[-1])
    chunk = _binned_gaps(chunks)
    return Streams(chunk, _binned_gaps(tokens), _share(merged, chunk.short.n))


def _tally(values: Floats, weights: NDArray[np.int32] | None) -> _Tally:
    n = len(values) if weights is None else int(weights.sum(dtype=np.int64))
    mean = float(np.average(values, weights=weights))
    away = values - mean
    square = float(away @ away) if weights is None else float((away * weights) @ away)
    bins = np.bincount(_bin_of(values), weights=weights, minlength=_BINS)
    return _Tally(n, mean, square, float(values.min()), float(values.max()), bins.astype(np.int64))


def _bin_of(values: Floats) -> NDArray[np.int64]:
    """Number of each value's bin: the exponent and the first ten bits of a float64's mantissa."""
    bins = values.view(np.int64) >> _DROPPED_BITS
    bins -= _ONE
    return np.clip(bins, 0, _BINS - 1, out=bins)


def _ranked(reached: NDArray[np.int64], rank: float) -> float:
    """The value (s) of a rank (from 1), linear within its bin."""
    number = int(np.searchsorted(reached, rank, side="left"))
    before = int(reached[number - 1]) if number else 0
    low, high = ((np.asarray([number, number + 1]) + _ONE) << _DROPPED_BITS).view(np.float64)
    return float(low + (high - low) * (rank - before) / (int(reached[number]) - before)) / NS_PER_S


def _binned_gaps(tallies: list[_Tally]) -> Gaps:
    if not tallies:
        return Gaps(Distribution(), np.zeros(0), np.zeros(0, dtype=np.int64))
    counts = np.asarray([tally.n for tally in tallies], dtype=np.float64)
    means = np.asarray([tally.mean for tally in tallies]) / NS_PER_S
    reached = np.cumsum(np.sum([tally.bins for tally in tallies], axis=0))
    n, mean = int(counts.sum()), float(counts @ means / counts.sum())
    # Squares about the batches' means and of these about the whole's (Chan, Golub and LeVeque 1979).
    square = sum(tally.square for tally in tallies) / NS_PER_S**2 + float(counts @ (means - mean) ** 2)
    p50, p90, p95, p99 = (_ranked(reached, (n - 1) * percent / 100 + 1) for percent in PERCENTILES)
    short = Distribution(
        n=n,
        mean=mean,
        std=math.sqrt(square / max(1, n - 1)),
        min=min(tally.low for tally in tallies) / NS_PER_S,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=max(tally.high for tally in tallies) / NS_PER_S,
    )
    if len(tallies) < FEWEST_BATCHES:
        return Gaps(short, np.zeros(0), reached)
    intervals = {"mean": mean_interval(counts * means, counts), **_binned_intervals(tallies, counts, reached)}
    return Gaps(replace(short, ci95=intervals), np.zeros(0), reached)


def _binned_intervals(
    tallies: list[_Tally], counts: Floats, reached: NDArray[np.int64]
) -> dict[str, tuple[float, float]]:
    found = {}
    for percent in PERCENTILES:
        number = int(np.searchsorted(reached, counts.sum() * percent / 100))
        below = np.asarray([tally.bins[: number + 1].sum() for tally in tallies], dtype=np.float64)
        ranks = rank_interval(below, counts, percent)
        if ranks is not None:
            found[percentile_name(percent)] = (_ranked(reached, ranks[0]), _ranked(reached, ranks[1]))
    return found


def over_limit(events: Events, limit_s: float, *, per_token: bool) -> Floats:
    """Share of each row's gaps that are longer than the limit; 0 for a row without gaps.

    With `per_token` an event of k tokens ends k gaps of a k-th each, as in itl.
    """
    rows = len(events.offsets) - 1
    over, whole, limit_ns = np.zeros(rows), np.zeros(rows), seconds_to_ns(limit_s)
    chosen = np.ones(rows, dtype=bool)
    for first, last in _row_pieces(events):
        batch = _batch(events, chosen, first, last)
        place, size = batch.rows - first, last - first
        weights = batch.tokens.astype(np.int64) if per_token and batch.tokens.max(initial=1) > 1 else None
        late = np.flatnonzero(batch.gaps > (limit_ns if weights is None else limit_ns * weights))
        whole[first:last] = np.bincount(place, weights, size)
        over[first:last] = np.bincount(place[late], None if weights is None else weights[late], size)
    return over / np.maximum(whole, 1)


def _row_pieces(events: Events) -> Iterator[tuple[int, int]]:
    """Stretches of consecutive rows with about PIECE events each."""
    rows, first = len(events.offsets) - 1, 0
    while first < rows:
        last = int(np.searchsorted(events.offsets, events.offsets[first] + PIECE, side="right")) - 1
        last = min(max(last, first + 1), rows)
        yield first, last
        first = last


def token_rates(events: Events, start_ns: int, end_ns: int, bins: int) -> Floats:
    """Tokens per second that arrived in each of `bins` equal bins of [start_ns, end_ns)."""
    found = np.zeros(bins)
    for begin in range(0, len(events.at_ns), PIECE):
        at_ns = events.at_ns[begin : begin + PIECE]
        inside = (at_ns >= start_ns) & (at_ns < end_ns)
        number = (at_ns[inside] - start_ns) * bins // (end_ns - start_ns)
        found += np.bincount(number, weights=events.tokens[begin : begin + PIECE][inside], minlength=bins)
    return found * bins * NS_PER_S / (end_ns - start_ns)


def rows_of(events: Events, chosen: Mask) -> Events:
    """The events of some rows, without copying where the rows lie together."""
    rows = np.flatnonzero(chosen)
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        first, last = int(rows[0]), int(rows[-1]) + 1
        begin, end = int(events.offsets[first]), int(events.offsets[last])
        return Events(events.offsets[first : last + 1] - begin, events.at_ns[begin:end], events.tokens[begin:end])
    return events.take(rows)
