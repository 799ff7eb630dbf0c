"""Requests in flight, the rounds of a closed loop's users, and the part of a window over which rates are taken.

In flight: intervals given by their starts and ends (same unit, any order, end >= start).

Rounds. Users that start at once go in step: they are answered together, send together and wait for each
other's prompts, round after round. Three things follow, and a window of few rounds shows all of them:

- A window that begins within one burst of answers and ends after another counts half a burst too
  many. So it ends where a whole number of rounds is over: as many answers as users, so many times.
  That is before the last request is sent, hence the drain, in which ever fewer users are active, is out.
- Fewer than five rounds are no steady state, as the first ones are still those of the first wave.
- Users leave the step only as their answers differ in length: after k rounds their phases are
  sqrt(k) times the spread of an answer apart. Until k (spread / mean)² reaches 0.04, the time to the first
  token was 3 % or more from that of a very long loop (16 to 64 simulated users, one prefill at a time).
  Users whose answers take all the same time (within 1 %) stay in step for good.

Rates count answers by when they end, and warm-up never counts. So they begin later than the
sending: answers that end at first are those of the warm-up, or, where the engine began empty,
none; and an engine that fills its batch or its queue answers ever faster until it is full. From
the window's start on these are left out, the first two as a rule within its first half:

1. Warm-up: until its last answer has ended. Then only requests of the stage are under way.
2. Filling: in an open loop of one rate that began empty, until all are answered that were sent before the
   first answer ended (or nine in ten of them, or half, where that takes longer). Where not even half are by the
   middle of the window, from the first answer on, or for the last quarter: the engine may fill for longer.
3. Ramp-up: in such a loop, with at least 50 answers left, MSER-5 over 250 equal
   parts of what remains proposes a cut of the rate of answers. It is made where they left more
   slowly before than after, by over three standard errors and by a tenth; a cut of the whole
   first half of it is made too, since what follows is the best that was seen.

Without 3 a queue that fills for half of a stage would make a stage of more load look slower.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.messages import Message, message
from harness.results.request_table import COMPLETED, MEASURED, MISSING, WARMUP, Requests
from harness.statistics.time_series import mser5_truncate
from harness.units import NS_PER_S

LEAST_ROUNDS = 5
LEAST_SPREAD = 0.04  # rounds times squared variation of the time of an answer
ALL_THE_SAME = 0.01  # variation below which users never leave the step
BINS = 250
FEWEST_ANSWERS = 50  # below, MSER-5 cuts steady Poisson answers about as often as a true ramp-up
SURE = 3.0  # standard errors; MSER-5 picks its cut, so 2 would find one in every fifth steady series
LEAST_SHIFT = 0.1  # of the rate: a smaller ramp-up does not change a result

Times = NDArray[np.int64]


def mean_in_flight(starts: Times, ends: Times, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Time-weighted mean number under way in each bin [edges[i], edges[i + 1]).

    The integral of a step function: every start adds a ramp, every end takes one away.
    """
    if len(starts) == 0:
        return np.zeros(len(edges) - 1)
    zero = int(edges[0])  # sums of times since then stay exact in a float64
    area = _ramps(starts - zero, edges - zero) - _ramps(ends - zero, edges - zero)
    return np.asarray(np.diff(area) / np.diff(edges))


def _ramps(corners: Times, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over corners of max(0, at - corner)."""
    ordered = np.sort(corners)
    passed = np.searchsorted(ordered, at, side="right")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    return np.asarray(passed * at - sums[passed])


def most_in_flight(starts: Times, ends: Times, first: int, last: int) -> int:
    """Largest number under way at once within [first, last]; one that ends as another starts makes room for it."""
    moments = np.append(starts[(starts > first) & (starts <= last)], first)
    begun = np.searchsorted(np.sort(starts), moments, side="right")
    over = np.searchsorted(np.sort(ends), moments, side="right")
    return int((begun - over).max())


@dataclass(frozen=True, slots=True)
class Rounds:
    """Whole rounds of `users` in a window that ends at `end_ns`; `reasons` say why they show no steady state."""

    users: int
    number: int
    end_ns: int
    reasons: tuple[Message, ...] = ()


def rounds(requests: Requests, done_ns: Times, start_ns: int, rates_ns: int, end_ns: int) -> Rounds:
    """The rounds of the window [start_ns, end_ns], which is to end with a whole round since `rates_ns`.

    `requests` are all rows of the stage, `done_ns` says when each was over. Where not even one round is over the
    window stays as it is.
    """
    sent = requests.sent_ns != MISSING
    users = most_in_flight(requests.sent_ns[sent], done_ns[sent], start_ns, end_ns)
    over = np.sort(done_ns[sent & (done_ns > rates_ns) & (done_ns <= end_ns)])
    whole = len(over) // users if users else 0
    end_ns = int(over[whole * users - 1]) if whole else end_ns
    number = int((sent & (done_ns > start_ns) & (done_ns <= end_ns)).sum()) // users if users else 0
    return Rounds(users, number, end_ns, _reasons(requests, done_ns, (start_ns, end_ns), users, number))


def _reasons(
    requests: Requests, done_ns: Times, window: tuple[int, int], users: int, number: int
) -> tuple[Message, ...]:
    own = (requests.phase == MEASURED) & (requests.sent_ns >= window[0]) & (requests.sent_ns <= window[1])
    if number < LEAST_ROUNDS:
        return _few(users, number), *_moved(requests, own, users)
    took = (done_ns - requests.sent_ns)[own]
    spread = float(took.std() / took.mean()) if len(took) and took.mean() else 0.0
    since = int((done_ns <= window[1]).sum()) / users
    if users == 1 or spread < ALL_THE_SAME or since * spread**2 >= LEAST_SPREAD or not _in_step(requests, users):
        return ()
    in_step = message("analysis.in_step", needed=LEAST_SPREAD / spread**2)
    return in_step, *_moved(requests, own, users)


def _few(users: int, number: int) -> Message:
    """That the window holds too few rounds."""
    if number == 0:
        return message("analysis.rounds_none", users=users, needed=LEAST_ROUNDS)
    if number == 1:
        return message("analysis.rounds_one", users=users, needed=LEAST_ROUNDS)
    return message("analysis.rounds_few", users=users, needed=LEAST_ROUNDS, rounds=number)


def _in_step(requests: Requests, users: int) -> bool:
    """Whether the users began together: most of their first requests were sent before any answer ended."""
    sent_ns, over_ns = requests.sent_ns[requests.sent_ns != MISSING], requests.done_ns[requests.done_ns != MISSING]
    first_over = int(over_ns.min(initial=np.iinfo(np.int64).max))
    return int((sent_ns < first_over).sum()) > max(1, users // 2)


def _moved(requests: Requests, own: NDArray[np.bool_], users: int) -> tuple[Message, ...]:
    """From where to where TTFT went between the first round of the stage and the last of the window."""
    known = (requests.first_ns != MISSING) & (requests.sent_ns != MISSING)
    first = np.flatnonzero(known & (requests.phase == MEASURED))
    last = np.flatnonzero(known & own)
    if min(len(first), len(last)) < users or users < 2:
        return ()
    waits = (requests.first_ns - requests.sent_ns) / NS_PER_S
    at_first = first[np.argsort(requests.sent_ns[first], kind="stable")][:users]
    at_last = last[np.argsort(requests.sent_ns[last], kind="stable")][-users:]
    before, after = float(waits[at_first].mean()), float(waits[at_last].mean())
    return (message("analysis.ttft_moved", before_s=before, after_s=after),)


@dataclass(frozen=True, slots=True)
class RatesStart:
    """Answers count in rates from `start_ns` on; `reason` says why not sooner.

    `warmup_left` counts answers of the warm-up that were still under way then, and so take the place of others;
    `filling` says that the engine was, as far as can be seen, not full yet.
    """

    start_ns: int
    reason: Message | None = None
    warmup_left: int = 0
    filling: bool = False


def rates_start(
    requests: Requests, ended_ns: Times, start_ns: int, end_ns: int, *, empty: bool, even: bool
) -> RatesStart:
    """The part of the window [start_ns, end_ns] in which rates count, by the tests above.

    `even` says that the load comes by the clock at one rate, `empty` that it may have begun with nothing under way.
    """
    latest_ns = (start_ns + end_ns) // 2
    sent = requests.sent_ns != MISSING
    warm_ns = ended_ns[sent & (requests.phase == WARMUP) & (ended_ns > start_ns) & (requests.sent_ns < end_ns)]
    own = sent & (requests.phase == MEASURED) & (requests.status == COMPLETED)
    start = RatesStart(start_ns)
    if len(warm_ns):
        start = _after_warm_up(warm_ns, start_ns, latest_ns)
    elif even and empty:
        start = _once_filled(requests.sent_ns[own], ended_ns[own], start_ns, end_ns)
    answered_ns = ended_ns[own & (ended_ns > start.start_ns) & (ended_ns <= end_ns)]
    return _risen(answered_ns, start, end_ns, start_ns) if even and not start.filling else start


def _after_warm_up(warm_ns: Times, start_ns: int, latest_ns: int) -> RatesStart:
    last_ns = int(warm_ns.max())
    left = int((warm_ns > latest_ns).sum())
    at_ns = min(last_ns, latest_ns)
    since_s = _since_s(at_ns, start_ns)
    if left:
        return RatesStart(at_ns, message("analysis.rates_half_window", since_s=since_s, left=left), left)
    return RatesStart(at_ns, message("analysis.rates_after_warmup", since_s=since_s))


_ANSWERED = (
    (1.0, "analysis.rates_all_answered"),
    (0.9, "analysis.rates_nine_in_ten_answered"),
    (0.5, "analysis.rates_half_answered"),
)


def _once_filled(sent_ns: Times, ended_ns: Times, start_ns: int, end_ns: int) -> RatesStart:
    """When those are answered that came before the first answer ended."""
    latest_ns = (start_ns + end_ns) // 2
    first_ns = int(ended_ns.min(initial=np.iinfo(np.int64).max))
    wave = np.sort(ended_ns[sent_ns < first_ns])
    for share, code in _ANSWERED:
        number = math.ceil(share * len(wave)) - 1
        if len(wave) and start_ns < wave[number] <= latest_ns:
            since_s = _since_s(int(wave[number]), start_ns)
            single = message("analysis.rates_one_answered", since_s=since_s)
            return RatesStart(
                int(wave[number]), message(code, since_s=since_s, wave=len(wave)) if len(wave) > 1 else single
            )
    if not start_ns < first_ns <= end_ns:
        return RatesStart(start_ns)
    at_ns = min(first_ns, (start_ns + 3 * end_ns) // 4)
    reason = message("analysis.rates_filling", since_s=_since_s(at_ns, start_ns), wave=len(wave))
    return RatesStart(at_ns, reason, filling=True)


def _risen(answered_ns: Times, start: RatesStart, end_ns: int, start_ns: int) -> RatesStart:
    """Later than `found` where answers came more slowly at first, so surely that chance does not explain it."""
    length_ns = end_ns - start.start_ns
    if len(answered_ns) < FEWEST_ANSWERS or length_ns < BINS:
        return start
    counts = np.bincount((answered_ns - start.start_ns - 1) * BINS // length_ns, minlength=BINS)
    rates = counts.astype(np.float64) * (BINS * NS_PER_S / length_ns)
    cut = mser5_truncate(np.asarray(rates, dtype=np.float64))
    if cut.shift <= SURE or cut.after - cut.before <= LEAST_SHIFT * cut.after:
        return start
    at_ns = start.start_ns + length_ns * cut.at // BINS
    since_s, before, after = _since_s(at_ns, start_ns), float(cut.before), float(cut.after)
    reason = message("analysis.rates_risen", since_s=since_s, before=before, after=after)
    return RatesStart(at_ns, reason, start.warmup_left)


def _since_s(at_ns: int, start_ns: int) -> float:
    return (at_ns - start_ns) / NS_PER_S
