"""The gaps between the tokens of answers, and how many tokens arrived when.

Works through the events in batches of consecutive requests, so that a hundred million events
need little more memory than they already take. Up to `EXACT_GAPS` gaps are kept and sorted;
beyond, percentiles come from a histogram whose bins are 0.1 % wide. Times go in as integer
nanoseconds and come out as seconds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import Events
from harness.statistics.distributions import Bounds, Distribution, bounds, distribution
from harness.statistics.intervals import PERCENTILES, Floats, percentile_name, percentile_of
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
    counts = (events.offsets[1:] - events.offsets[:-1])[chosen]
    if int(counts.sum()) <= EXACT_GAPS and int(events.tokens.sum(dtype=np.int64)) <= EXACT_GAPS:
        return _exact(list(gap_batches(events, chosen)))
    return _binned(lambda: gap_batches(events, chosen))


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
    chunk = _exact_gaps([(batch.gaps / NS_PER_S, batch.rows) for batch in batches])
    if all(int(batch.tokens.max()) == 1 for batch in batches):
        itl = chunk
    else:
        itl = _exact_gaps(
            [(np.repeat(b.gaps / NS_PER_S / b.tokens, b.tokens), np.repeat(b.rows, b.tokens)) for b in batches]
        )
    return Streams(chunk, itl, _share(sum(int((b.gaps == 0).sum()) for b in batches), chunk.short.n))


def _exact_gaps(parts: list[tuple[Floats, NDArray[np.int64]]]) -> Gaps:
    values, rows = (np.concatenate(some) for some in zip(*parts, strict=True)) if parts else (np.zeros(0), np.zeros(0))
    return Gaps(distribution(values, _starts(rows)), np.sort(values), np.zeros(0, dtype=np.int64))


def _starts(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Where the gaps of each answer begin."""
    return np.flatnonzero(np.diff(rows, prepend=-1))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True, slots=True)
class _Tally:
    """One batch of gaps (ns) added up: number, mean, squares about it, ends, bins; sum and number of each answer."""

    n: int
    mean: float
    square: float
    low: float
    high: float
    bins: NDArray[np.int64]
    sums: Floats
    counts: Floats


_Looks = Callable[[], Iterator[Batch]]  # the same batches again: once for percentiles, once for what lies below them


def _binned(batches: _Looks) -> Streams:
    chunks, tokens, merged = [], [], 0
    for batch in batches():
        merged += int(np.count_nonzero(batch.gaps == 0))
        chunks.append(_tally(batch.gaps.astype(np.float64), None, batch.rows))
        several = int(batch.tokens.max()) > 1
        tokens.append(_tally(batch.gaps / batch.tokens, batch.tokens, batch.rows) if several else chunks[-1])
    chunk = _binned_gaps(chunks, batches, per_token=False)
    alike = all(chunk_tally is token_tally for chunk_tally, token_tally in zip(chunks, tokens, strict=True))
    itl = chunk if alike else _binned_gaps(tokens, batches, per_token=True)
    return Streams(chunk, itl, _share(merged, chunk.short.n))


def _tally(values: Floats, weights: NDArray[np.int32] | None, rows: NDArray[np.int64]) -> _Tally:
    starts = _starts(rows)
    counts = _summed(np.ones(len(values)), weights, starts)
    sums = _summed(values, weights, starts)
    n = len(values) if weights is None else int(weights.sum(dtype=np.int64))
    mean = float(np.average(values, weights=weights))
    away = values - mean
    square = float(away @ away) if weights is None else float((away * weights) @ away)
    bins = np.bincount(_bin_of(values), weights=weights, minlength=_BINS)
    return _Tally(n, mean, square, float(values.min()), float(values.max()), bins.astype(np.int64), sums, counts)


def _summed(values: Floats, weights: NDArray[np.int32] | None, starts: NDArray[np.int64]) -> Floats:
    return np.asarray(np.add.reduceat(values if weights is None else values * weights, starts))


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


def _binned_gaps(tallies: list[_Tally], batches: _Looks, *, per_token: bool) -> Gaps:
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
    known_bounds = _binned_bounds(tallies, _below(batches, (p50, p90, p95, p99), per_token=per_token), reached)
    known = replace(short, ci95=known_bounds.ci95, needed=known_bounds.needed, effective_n=known_bounds.effective_n)
    return Gaps(known, np.zeros(0), reached)


def _below(batches: _Looks, points: Sequence[float], *, per_token: bool) -> dict[str, Floats]:
    """How many gaps of each answer are at most each percentile (s)."""
    counts: dict[str, list[Floats]] = {percentile_name(percent): [] for percent in PERCENTILES}
    for batch in batches():
        weights = batch.tokens if per_token and int(batch.tokens.max()) > 1 else None
        values, starts = batch.gaps if weights is None else batch.gaps / weights, _starts(batch.rows)
        for point, parts in zip(points, counts.values(), strict=True):
            parts.append(_summed((values <= point * NS_PER_S).astype(np.float64), weights, starts))
    return {name: np.concatenate(parts) for name, parts in counts.items()}


def _binned_bounds(tallies: list[_Tally], below: dict[str, Floats], reached: NDArray[np.int64]) -> Bounds:
    sums, counts = (np.concatenate([getattr(tally, name) for tally in tallies]) for name in ("sums", "counts"))
    return bounds(sums / NS_PER_S, counts, below, negative=False).at_ranks(lambda rank: _ranked(reached, rank))


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


def tokens_by_row(events: Events) -> NDArray[np.int64]:
    """Tokens of each row's events together."""
    totals = np.zeros(len(events.offsets) - 1, dtype=np.int64)
    for first, last in _row_pieces(events):
        places = events.offsets[first : last + 1] - events.offsets[first]
        tokens = events.tokens[int(events.offsets[first]) : int(events.offsets[last])]
        totals[first:last] = np.diff(np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])[places])
    return totals


def token_rates(events: Events, start_ns: int, end_ns: int, bins: int) -> Floats:
    """Tokens per second that arrived in each of `bins` equal bins of [start_ns, end_ns)."""
    counts = np.zeros(bins)
    for begin in range(0, len(events.at_ns), PIECE):
        at_ns = events.at_ns[begin : begin + PIECE]
        inside = (at_ns >= start_ns) & (at_ns < end_ns)
        number = (at_ns[inside] - start_ns) * bins // (end_ns - start_ns)
        counts += np.bincount(number, weights=events.tokens[begin : begin + PIECE][inside], minlength=bins)
    return counts * bins * NS_PER_S / (end_ns - start_ns)


def rows_of(events: Events, chosen: Mask) -> Events:
    """The events of some rows, without copying where the rows lie together."""
    rows = np.flatnonzero(chosen)
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        first, last = int(rows[0]), int(rows[-1]) + 1
        begin, end = int(events.offsets[first]), int(events.offsets[last])
        return Events(events.offsets[first : last + 1] - begin, events.at_ns[begin:end], events.tokens[begin:end])
    return events.take(rows)
