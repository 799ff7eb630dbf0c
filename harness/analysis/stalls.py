"""Pauses of the whole server, long gaps of single requests, and those of both that the prefill of prompts explains.

A gap is long where it is both five times its stage's median and no shorter than what a reader
sees. An engine that pauses goes on for all its answers in the same step, so the long gaps of a
stall end together: they are parted into groups wherever two neighbouring ends lie apart. A group
is a stall where it holds at least half of the streams under way, at least three, and more than
chance explains: ends that fell on their own at the stage's mean rate would put k or more into so
short a time with a probability of at most exp(-m) (e m / k)^k, m being the number expected there
(Chernoff's bound of a Poisson tail), which has to stay below 5 % over all groups (Bonferroni).
All other long gaps belong to single requests.

Prefill interference is no stall: with chunked prefill a step serves running streams and a piece of a new prompt
together, so a long prompt makes the steps of all running streams long. The work of
each prompt is taken to end with its first token and to take its tokens divided by the speed of
prefill; of prompts whose work would overlap the earlier one is moved before the later one, and
none begins before its request was sent. The speed is the 90th percentile of prompt tokens by TTFT:
requests that did not queue show it. Beside many streams, and at the end of a long prompt, prefill is
slower: each work may have begun up to twice as long before its end, but not before the end of
the one before. A pause is explained where such work fills at least half of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.token_gaps import Mask, gap_batches
from harness.results.request_table import MISSING, Events
from harness.statistics.intervals import Floats
from harness.units import NS_PER_MS, seconds_to_ns

LONG_TIMES = 5.0  # of the median gap
SEEN_NS = 50 * NS_PER_MS  # a pause shorter than a twentieth of a second is not seen in flowing text
TOGETHER_NS = 10 * NS_PER_MS  # the events of one engine step leave a busy server within this of each other
FEWEST_STREAMS = 3
LEAST_SHARE = 0.5  # of the streams under way
CHANCE = 0.05
LEAST_PROMPT = 256  # tokens; below, a step is not long because of a prompt, and TTFT says little of its speed
SPEED_SHARE = 0.9
SLOWEST = 2.0  # times slower than the speed
LEAST_EXPLAINED = 0.5  # of a pause

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefillWork:
    """Times at which prefill began and ended in turn (ns), and how much of it was done up to each."""

    at_ns: Floats
    done_ns: Floats

    def explains(self, start_ns: Times, end_ns: Times) -> NDArray[np.bool_]:
        """Whether prefill fills at least half of each pause."""
        if not len(self.at_ns):
            return np.zeros(len(start_ns), dtype=bool)
        within = np.interp(end_ns, self.at_ns, self.done_ns) - np.interp(start_ns, self.at_ns, self.done_ns)
        return np.asarray((end_ns > start_ns) & (within >= LEAST_EXPLAINED * (end_ns - start_ns)))


NO_WORK = PrefillWork(np.zeros(0), np.zeros(0))


def prefill_work(sent_ns: Times, first_ns: Times, prompt_tokens: Times) -> PrefillWork:
    """When the prompts of these requests were prefilled; those without a first token or a long prompt are left out."""
    known = (sent_ns != MISSING) & (first_ns != MISSING) & (first_ns > sent_ns) & (prompt_tokens >= LEAST_PROMPT)
    if not known.any():
        return NO_WORK
    order = np.argsort(first_ns[known], kind="stable")
    sent, first, tokens = (column[known][order] for column in (sent_ns, first_ns, prompt_tokens))
    takes = tokens / float(np.quantile(tokens / (first - sent), SPEED_SHARE))
    ends, begun = np.empty(len(takes)), float("inf")
    for i in range(len(takes) - 1, -1, -1):
        ends[i] = max(min(float(first[i]), begun), float(sent[i]))
        begun = max(float(sent[i]), ends[i] - float(takes[i]))
    ends = np.maximum.accumulate(ends)
    before = np.concatenate([[-np.inf], ends[:-1]])
    starts = np.minimum(np.maximum.reduce([sent.astype(np.float64), before, ends - SLOWEST * takes]), ends)
    at_ns = np.column_stack([starts, ends]).ravel()
    return PrefillWork(at_ns, np.repeat(np.cumsum(ends - starts), 2) - _first_of_pair(at_ns))


def _first_of_pair(at_ns: Floats) -> Floats:
    """What each interval adds is not yet done where it begins."""
    added = at_ns[1::2] - at_ns[::2]
    return np.column_stack([added, np.zeros(len(added))]).ravel()


@dataclass(frozen=True, slots=True)
class Stall:
    """One pause of the server: how many of the streams under way it hit, and how likely chance would do so.

    `start_ns` is the median of the beginnings of its gaps, `end_ns` the last of their ends;
    `lost_ns` is the time that these gaps took together.
    """

    start_ns: int
    end_ns: int
    hit: int
    streams: int
    lost_ns: int
    chance: float


@dataclass(frozen=True, slots=True)
class LongGaps:
    """Long gaps as columns in the order of their ends: each from `start_ns` to `end_ns` within the answer of `row`."""

    start_ns: Times
    end_ns: Times
    row: Times

    def take(self, chosen: NDArray[np.generic]) -> "LongGaps":
        """Those that a mask or an array of numbers chooses."""
        return LongGaps(self.start_ns[chosen], self.end_ns[chosen], self.row[chosen])


@dataclass(frozen=True, slots=True)
class Pauses:
    """The stalls of some answers in the order of time, the long gaps of single requests, and how long is long.

    What prefill explains stands apart: `interference` as stalls, `interfered` as the long gaps of single requests.
    """

    stalls: Sequence[Stall]
    single: LongGaps
    threshold_ns: int
    interference: Sequence[Stall]
    interfered: LongGaps


def pauses(events: Events, chosen: Mask, median_gap_s: float, work: PrefillWork = NO_WORK) -> Pauses:
    """Stalls and single long gaps of the chosen rows, whose median gap between events is given in seconds.

    `work` is when prompts were prefilled, of all requests that the engine had.
    """
    threshold_ns = max(SEEN_NS, seconds_to_ns(LONG_TIMES * median_gap_s))
    gaps = _long_gaps(events, chosen, threshold_ns)
    if not len(gaps.row):
        return Pauses((), gaps, threshold_ns, (), gaps)
    group = np.concatenate([[0], np.cumsum(np.diff(gaps.end_ns) > TOGETHER_NS)])
    edges = np.flatnonzero(np.diff(group, prepend=-1, append=group[-1] + 1))
    begun, over = _spans(events, chosen)
    rate = len(gaps.row) / max(1, int(over[-1] - begun[0]))
    stalls: dict[int, Stall] = {}
    for number in np.flatnonzero(np.diff(edges) >= FEWEST_STREAMS).tolist():
        part = gaps.take(np.arange(edges[number], edges[number + 1]))
        stall = _stall(part, _under_way(begun, over, int(part.end_ns[0])), rate)
        if _holds(stall, len(edges) - 1):
            stalls[number] = stall
    single = gaps.take(~np.isin(group, list(stalls)))
    alone = work.explains(single.start_ns, single.end_ns)
    own, explained = (
        tuple(stall for stall in stalls.values() if _explained(stall, work) is so) for so in (False, True)
    )
    return Pauses(own, single.take(~alone), threshold_ns, explained, single.take(alone))


def _explained(stall: Stall, work: PrefillWork) -> bool:
    return bool(work.explains(np.asarray([stall.start_ns]), np.asarray([stall.end_ns]))[0])


def _long_gaps(events: Events, chosen: Mask, threshold_ns: int) -> LongGaps:
    none = np.zeros(0, dtype=np.int64)
    parts = [(none, none, none)]
    for batch in gap_batches(events, chosen):
        late = batch.gaps > threshold_ns
        parts.append((batch.at_ns[late] - batch.gaps[late], batch.at_ns[late], batch.rows[late]))
    gaps = LongGaps(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return gaps.take(np.argsort(gaps.end_ns, kind="stable"))


def _spans(events: Events, chosen: Mask) -> tuple[Times, Times]:
    """When the chosen streams began, and when they ended, each in order."""
    rows = np.flatnonzero(chosen & (np.diff(events.offsets) > 1))
    return np.sort(events.at_ns[events.offsets[rows]]), np.sort(events.at_ns[events.offsets[rows + 1] - 1])


def _under_way(begun: Times, over: Times, at_ns: int) -> int:
    """Streams that began before this instant and did not end before it."""
    return int(np.searchsorted(begun, at_ns, side="left") - np.searchsorted(over, at_ns, side="left"))


def _stall(part: LongGaps, streams: int, rate: float) -> Stall:
    """A group of long gaps as a stall, if it is one; `rate` is ends a nanosecond."""
    hit = len(np.unique(part.row))
    expected = rate * (int(part.end_ns[-1] - part.end_ns[0]) + TOGETHER_NS)
    return Stall(
        start_ns=int(np.median(part.start_ns)),
        end_ns=int(part.end_ns[-1]),
        hit=hit,
        streams=max(streams, hit),
        lost_ns=int((part.end_ns - part.start_ns).sum()),
        chance=chance(hit, expected),
    )


def chance(count: int, expected: float) -> float:
    """An upper bound of the probability that a Poisson number of this mean is so large or larger."""
    if count <= expected:
        return 1.0
    return float(np.exp(count - expected + count * np.log(expected / count))) if expected > 0 else 0.0


def _holds(stall: Stall, groups: int) -> bool:
    many = stall.hit >= max(FEWEST_STREAMS, LEAST_SHARE * stall.streams)
    return many and stall.chance * groups < CHANCE
