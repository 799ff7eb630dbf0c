"""The begin of the part of a window that rates are of: when answers leave as fast as the engine can hold.

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

BINS = 250
FEWEST_ANSWERS = 50  # below, MSER-5 cuts steady Poisson answers about as often as a true ramp-up
SURE = 3.0  # standard errors; MSER-5 picks its cut, so 2 would find one in every fifth steady series
LEAST_SHIFT = 0.1  # of the rate: a smaller ramp-up does not change a result

Times = NDArray[np.int64]


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
