"""Pauses of the whole server and long gaps of single requests, and which of them prefill explains.

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

`stall_blocks` is what summary.json shows of it, with what else was recorded or sampled at the time of each pause.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.token_gaps import Mask, gap_batches, rows_of
from harness.results.request_table import MISSING, Events, Requests, Samples
from harness.statistics.intervals import Floats
from harness.telemetry import server_metrics
from harness.telemetry.server_metrics import KV_USE, PREEMPTIONS
from harness.units import NS_PER_MS, NS_PER_S, seconds_to_ns

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
KV_FULL = 0.95
LATE_LOOP_S = 0.01  # of the client's own event loop: then the pause may be the client's
LOOP_LAG = "loop_lag_s"
ENGINES = f"{server_metrics.SERVER}/"  # begins the source of a single engine
MOST_STALLS = 400  # of a stage that are listed: figures mark them
MOST_OTHERS = 20  # pauses by prefill, and requests with long gaps, that are listed

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


def stall_blocks(
    requests: Requests, events: Events, samples: Samples, medians: Mapping[int, float]
) -> list[dict[str, Any]]:
    """For summary.json, the pauses of each stage, repeats together.

    `events` has the rows of `requests`, all of the run; `medians` are the stages' median gaps between events (s).
    `server` are the stalls, `prefill` the pauses that prefill explains, `requests` the long gaps of single requests.
    Each lists those that cost most, in the order of time; times are nanoseconds since the run's zero, lengths seconds.
    """
    prompts = np.maximum(requests.input_tokens, requests.input_asked)
    work = prefill_work(requests.sent_ns, requests.first_ns, prompts)
    stages = {}
    for stage, median_s in sorted(medians.items()):
        rows = requests.stage == stage
        every = np.ones(int(rows.sum()), dtype=bool)
        stages[stage] = (pauses(rows_of(events, rows), every, median_s, work), requests.index[rows])
    shared = any(own.stalls or own.interference for own, _ in stages.values())
    beside = _beside(requests, prompts, samples) if shared else None
    return [_block(stage, own, index, beside) for stage, (own, index) in stages.items()]


def _block(stage: int, own: Pauses, index: Times, beside: "Beside | None") -> dict[str, Any]:
    return {
        "stage": stage,
        "threshold_s": own.threshold_ns / NS_PER_S,
        "server": _shared(own.stalls, MOST_STALLS, beside),
        "prefill": _shared(own.interference, MOST_OTHERS, beside) | {"gaps": len(own.interfered.row)},
        "requests": {
            "gaps": len(own.single.row),
            "requests": len(np.unique(own.single.row)),
            "listed": _slowest(own.single, index),
        },
    }


def _shared(stalls: Sequence[Stall], most: int, beside: "Beside | None") -> dict[str, Any]:
    costliest = sorted(sorted(stalls, key=lambda stall: -stall.lost_ns)[:most], key=lambda stall: stall.start_ns)
    return {
        "count": len(stalls),
        "total_s": sum(stall.end_ns - stall.start_ns for stall in stalls) / NS_PER_S,
        "listed": [
            {
                "start_ns": stall.start_ns,
                "end_ns": stall.end_ns,
                "hit": stall.hit,
                "streams": stall.streams,
                "lost_s": stall.lost_ns / NS_PER_S,
                "beside": {} if beside is None else beside.of(stall),
            }
            for stall in costliest
        ],
    }


def _slowest(gaps: LongGaps, index: Times) -> list[dict[str, Any]]:
    """The requests whose long gaps took most time, the slowest first; `index` is the request of each row."""
    took_ns = gaps.end_ns - gaps.start_ns
    rows, place = np.unique(gaps.row, return_inverse=True)
    whole_ns = np.bincount(place, weights=took_ns, minlength=len(rows))
    listed = []
    for number in np.argsort(-whole_ns, kind="stable")[:MOST_OTHERS].tolist():
        own = np.flatnonzero(place == number)
        longest = own[np.argmax(took_ns[own])]
        listed.append(
            {
                "index": int(index[rows[number]]),
                "gaps": len(own),
                "total_s": float(whole_ns[number]) / NS_PER_S,
                "longest_s": int(took_ns[longest]) / NS_PER_S,
                "start_ns": int(gaps.start_ns[longest]),
            }
        )
    return listed


@dataclass(frozen=True, slots=True)
class Beside:
    """What was recorded or sampled during a run that may explain a pause.

    Requests that were sent and had no first token yet (all moments in order): when they were sent, when that was over,
    and the tokens of the prompts up to each. Samples: times (ns) and values by name, in the order of time.
    """

    sent_ns: Times
    over_ns: Times
    tokens_sent: Times
    tokens_over: Times
    samples: Mapping[str, tuple[Times, Floats]]

    def of(self, stall: Stall) -> dict[str, float]:
        """What of it there was at the time of a pause: only what may explain it."""
        return dict(self._parts(stall))

    def _parts(self, stall: Stall) -> Iterator[tuple[str, float]]:
        begun = int(np.searchsorted(self.sent_ns, stall.end_ns, side="left"))
        over = int(np.searchsorted(self.over_ns, stall.start_ns, side="right"))
        if begun > over:
            yield "prompts", begun - over
            yield "prompt_tokens", int(self.tokens_sent[begun] - self.tokens_over[over])
        preemptions = self._around(PREEMPTIONS, stall)
        if len(preemptions) > 1 and preemptions[-1] > preemptions[0]:
            yield "preemptions", float(preemptions[-1] - preemptions[0])
        usage = self._around(KV_USE + server_metrics.MAXIMUM, stall)  # of several engines
        usage = usage if len(usage) else self._around(KV_USE, stall)
        if usage.max(initial=0) >= KV_FULL:
            yield "kv_cache_usage", float(usage.max())
        lag_s = self._around(LOOP_LAG, stall, before=False)
        if lag_s.max(initial=0) >= LATE_LOOP_S:
            yield "loop_lag_s", float(lag_s.max())

    def _around(self, name: str, stall: Stall, *, before: bool = True) -> Floats:
        """Sampled values from the one before a pause (or its first) to the one after it."""
        at_ns, value = self.samples[name]
        first = max(0, int(np.searchsorted(at_ns, stall.start_ns, side="right")) - before)
        last = int(np.searchsorted(at_ns, stall.end_ns, side="left")) + 1
        return value[first:last]


def _beside(requests: Requests, prompts: Times, samples: Samples) -> Beside:
    over_ns = np.where(requests.first_ns != MISSING, requests.first_ns, requests.done_ns)
    known = (requests.sent_ns != MISSING) & (over_ns != MISSING)
    tokens = np.maximum(0, prompts[known])
    (sent_ns, tokens_sent), (over_ns, tokens_over) = (
        _summed(times_ns[known], tokens) for times_ns in (requests.sent_ns, over_ns)
    )
    names = (PREEMPTIONS, KV_USE, KV_USE + server_metrics.MAXIMUM, LOOP_LAG)
    series = {name: _series(samples, name) for name in names}
    return Beside(sent_ns, over_ns, tokens_sent, tokens_over, series)


def _summed(times_ns: Times, tokens: Times) -> tuple[Times, Times]:
    """The times in order, and the tokens of the first 0, 1, 2, ... of them."""
    order = np.argsort(times_ns, kind="stable")
    return times_ns[order], np.concatenate([[0], np.cumsum(tokens[order])])


def _series(samples: Samples, name: str) -> tuple[Times, Floats]:
    """The values of a name in the order of time, of whole servers: an engine is part of its server."""
    rows = [row for row in np.flatnonzero(samples.name == name) if not str(samples.source[row]).startswith(ENGINES)]
    order = np.argsort(samples.at_ns[rows], kind="stable")
    return samples.at_ns[rows][order], samples.value[rows][order]
