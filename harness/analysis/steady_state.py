"""The window of a stage: the part that shows the engine in its steady state.

The window ends when nothing more is sent, or, in a closed loop, with the last whole round of its
users (`harness.analysis.request_flow`) before the last request is sent and the number under way begins to fall:
the drain is out. It begins where these tests say:

1. First wave. A closed loop that starts all its requests at once measures a queue of its own
   making; the window begins when half of that wave has been answered and replaced.
2. Growth. In an open loop, requests that are due and not yet answered are averaged over 50
   equal parts of the stage. A line through them that rises by more than their mean, with a
   slope of over three standard errors, is a queue that grows without end if the last three
   quarters, past any start from empty, still rise by half of theirs and over two: not steady.
3. Start-up. MSER-5 on 250 parts (in a closed loop of the rate of tokens) proposes a cut. It is
   made where the parts before differ from those after by over three standard errors and by a
   tenth; else nothing is cut. A significant cut of the whole first half is not made: the stage never settled.
4. Drift. What remains is not steady if a line through it moves by more than 0.3 of its mean,
   with a slope of more than three standard errors, or if MSER-5 of the reversed series finds
   an end that differs by as much and by over six (in-flight numbers near capacity wander by three).

On simulated queues (Poisson, log-normal service, 1 to 100 servers, 60 to 300 s) test 2 finds
all of those offered twice what they can serve, nine in ten of those offered 1.3 times, and raises a
false alarm at one in a hundred of those offered half.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.analysis.request_flow import mean_in_flight, most_in_flight, rates_start, rounds
from harness.analysis.token_gaps import token_rates
from harness.messages import Message, message, sentences
from harness.results.request_table import COMPLETED, MEASURED, MISSING, Events, Requests
from harness.statistics.intervals import Floats
from harness.statistics.time_series import MSER_BATCH, Trend, mser5_truncate, trend
from harness.units import NS_PER_S

CLOSED = "closed"
OFFLINE = "offline"
CHANGING = {  # kinds of load that are not meant to be stationary
    "ramp": message("analysis.ramp_changes"),
    "trace": message("analysis.trace_changes"),
}
BINS = 250
LATEST_CUT = BINS // 2  # the last cut that MSER-5 is asked for
FEWEST_REQUESTS = 50  # below, MSER cuts gentle Poisson load about as often as a true start-up
SURE_OF_MORE = 2.0  # standard errors, where something surely moved before
SURE_OF_END = 6.0
SURE = 3.0  # likewise; MSER picks its cut, so 2 would find one in every fifth steady series
LEAST_SHIFT = 0.1  # of the mean: a smaller start-up does not change a result
LEAST_GROWTH = 1.0  # of the mean; a queue that grows from nothing rises by twice its mean
LEAST_LATE_GROWTH = 0.5
LEAST_DRIFT = 0.3
LEAST_ANSWERS = 10  # in a window of an open loop that is taken although most answers came later

WHOLE_STAGE = "whole stage"
WHOLE_CALL = "whole call"
SENDING = "sending period"
FIRST_WAVE = "first-wave cut"
MSER = "MSER-5"


def is_open(kind: str) -> bool:
    """Whether arrivals of a kind of load come by the clock, and not by answers or all at once."""
    return kind not in (CLOSED, OFFLINE)


@dataclass(frozen=True, slots=True)
class Span:
    """When a stage began, when nothing more was sent, and when the last answer ended (ns since the run's zero)."""

    stage: int
    repeat: int
    start_ns: int
    stop_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a stage that counts: requests sent in [start_ns, end_ns], answers that end in (rates_ns, end_ns].

    Latencies are those of the first, rates those of the second (`harness.analysis.request_flow` says why they begin
    later, and `rates_reason` does so for this stage). `warmup_left` counts answers of the warm-up that were still
    under way at `rates_ns`; `filling` says that the engine was perhaps not full yet. `steady` is None
    where it could not be determined; `reasons` say how the window was found. `first_wave` counts requests that were
    sent all at once and stand inside the window; `grew` marks a queue that rose through the whole stage.
    """

    start_ns: int
    end_ns: int
    method: str
    steady: bool | None
    reasons: tuple[Message, ...] = ()
    first_wave: int = 0
    grew: bool = False
    later_ns: int = 0  # from start_ns to the begin of rates
    rates_reason: Message | None = None
    warmup_left: int = 0
    filling: bool = False

    @property
    def text(self) -> Message:
        """All reasons, one after the other."""
        return sentences(*self.reasons)

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / NS_PER_S

    @property
    def rates_ns(self) -> int:
        """From when on answers count in rates."""
        return self.start_ns + self.later_ns

    @property
    def rates_s(self) -> float:
        """Length in seconds of the part that rates are of."""
        return (self.end_ns - self.rates_ns) / NS_PER_S


def ended_ns(requests: Requests, otherwise: int) -> NDArray[np.int64]:
    """When each request was over: its end, else its last token, else `otherwise` (never before it was sent)."""
    last = np.where(requests.last_ns != MISSING, requests.last_ns, otherwise)
    end = np.where(requests.done_ns != MISSING, requests.done_ns, last)
    never_before: NDArray[np.int64] = np.maximum(end, np.maximum(requests.sent_ns, requests.due_ns))
    return never_before


def whole_span(requests: Requests, span: Span) -> Span:
    """A span with what is missing (a killed run wrote no timeline) taken from the stage's records."""
    measured = requests.phase == MEASURED
    sent_ns, last_ns = requests.sent_ns[measured], np.maximum(requests.done_ns, requests.last_ns)[measured]
    begun = np.concatenate([requests.due_ns[measured], sent_ns])
    known = begun[begun != MISSING]
    start = span.start_ns if span.start_ns != MISSING else int(known.min()) if len(known) else 0
    stop = span.stop_ns if span.stop_ns != MISSING else int(sent_ns.max(initial=start))
    last = int(last_ns.max(initial=stop))
    return replace(span, start_ns=start, stop_ns=stop, end_ns=span.end_ns if span.end_ns != MISSING else last)


def find_window(requests: Requests, events: Events, span: Span, kind: str) -> Window:
    """The steady-state window of one stage, by the tests above, and the part of it that rates are of.

    `requests` and `events` are all rows of the stage, warm-up included (it may still be under
    way); `span` is complete; `kind` is the kind of its load.
    """
    window = _window(requests, events, span, kind)
    if kind == OFFLINE:
        return window  # a call begins when its warm-up, a call of its own, is over
    even = is_open(kind) and kind not in CHANGING and window.method in (SENDING, MSER)
    start = rates_start(
        requests, ended_ns(requests, span.end_ns), window.start_ns, window.end_ns,
        empty=window.start_ns == span.start_ns, even=even,
    )  # fmt: skip
    later_ns = start.start_ns - window.start_ns
    window = replace(
        window, later_ns=later_ns, rates_reason=start.reason, warmup_left=start.warmup_left, filling=start.filling
    )
    if kind == CLOSED and window.method != WHOLE_STAGE:
        window = _whole_rounds(requests, span, window)
    shows = _shows_answers(requests, window, rates=kind == CLOSED)
    return window if shows else _whole_stage(requests, span, window)


def _shows_answers(requests: Requests, window: Window, *, rates: bool) -> bool:
    """Whether a window holds answers for latencies and, where asked, for `rates`, or there are none to hold."""
    answered = (requests.phase == MEASURED) & (requests.status == COMPLETED)
    if not answered.any():
        return True
    sent_ns, done_ns = requests.sent_ns[answered], requests.done_ns[answered]
    sent = (sent_ns >= window.start_ns) & (sent_ns <= window.end_ns)
    ended = (done_ns > window.rates_ns) & (done_ns <= window.end_ns)
    return bool(sent.any()) and (not rates or bool(ended.any()))


def _whole_stage(requests: Requests, span: Span, window: Window) -> Window:
    """All of a stage whose window lies where nothing was sent or ended, as between two waves of users in step."""
    at_once = int(((requests.phase == MEASURED) & (requests.sent_ns != MISSING)).sum())
    reason = message("analysis.window_without_answers")
    return Window(
        span.start_ns, span.end_ns, WHOLE_STAGE, None, (reason,), window.first_wave or at_once, grew=window.grew
    )


def _whole_rounds(requests: Requests, span: Span, window: Window) -> Window:
    """The window of a closed loop, ended with a whole round of its users; few rounds are not called steady."""
    whole = rounds(requests, ended_ns(requests, span.end_ns), window.start_ns, window.rates_ns, window.end_ns)
    window = replace(window, end_ns=whole.end_ns)
    if not whole.reasons or not window.steady:
        return window
    return replace(_with(window, *whole.reasons), steady=None)


def _window(requests: Requests, events: Events, span: Span, kind: str) -> Window:
    sent_ns = requests.sent_ns[(requests.phase == MEASURED) & (requests.sent_ns != MISSING)]
    if len(sent_ns) == 0:
        return Window(span.start_ns, span.stop_ns, SENDING, None, (message("analysis.nothing_sent"),))
    if kind == OFFLINE:
        return Window(span.start_ns, span.end_ns, WHOLE_CALL, None, (message("analysis.whole_call"),))
    if kind == CLOSED:
        span = replace(span, stop_ns=min(span.stop_ns, int(sent_ns.max())))
    done_ns = ended_ns(requests, span.end_ns)
    unfit = _unfit(requests, done_ns, span, kind)
    if unfit:
        at_once = len(sent_ns) if kind == CLOSED and len(sent_ns) > 1 else 0
        return Window(span.start_ns, span.end_ns, WHOLE_STAGE, None, (unfit,), at_once)
    window = Window(span.start_ns, span.stop_ns, SENDING, None)
    if kind == CLOSED:
        return _closed(requests, events, done_ns, window)
    reason = CHANGING.get(kind) or (_too_few(len(sent_ns)) if len(sent_ns) < FEWEST_REQUESTS else None)
    if reason:
        return _with(window, reason)
    return _open(requests, done_ns, window)


def _unfit(requests: Requests, done_ns: NDArray[np.int64], span: Span, kind: str) -> Message | None:
    """Why the time of sending says too little, so that the whole stage must be taken; None where it does not."""
    answered = done_ns[(requests.phase == MEASURED) & (requests.status == COMPLETED)]
    within = int((answered <= span.stop_ns).sum())
    if len(answered) == 0:
        return message("analysis.nothing_answered")
    if 2 * within >= len(answered) or (kind != CLOSED and within >= LEAST_ANSWERS):
        return None
    return message("analysis.most_after_sending")


def _open(requests: Requests, done_ns: NDArray[np.int64], window: Window) -> Window:
    edges = np.linspace(window.start_ns, window.end_ns, BINS + 1)
    begun_ns = np.where(requests.due_ns != MISSING, requests.due_ns, requests.sent_ns)
    begun = begun_ns != MISSING  # a later turn is due only when the one before is answered
    series = mean_in_flight(begun_ns[begun], done_ns[begun], edges)
    line = _growth(series)
    if line is not None:
        rose = message("analysis.requests_rose", first=_not_negative(line.first), last=_not_negative(line.last))
        return replace(_with(window, rose), steady=False, grew=True)
    return _settled(series, window, IN_FLIGHT)


def _growth(series: Floats) -> Trend | None:
    """The line of a queue that grows through a whole stage; None where it does not."""
    means = _coarse(series)
    line, late = trend(means), trend(means[len(means) // 4 :])
    rises = line.last > line.first and late.last > late.first
    return line if rises and _moves(line, LEAST_GROWTH) and _moves(late, LEAST_LATE_GROWTH, SURE_OF_MORE) else None


def _closed(requests: Requests, events: Events, done_ns: NDArray[np.int64], window: Window) -> Window:
    sent = (requests.phase == MEASURED) & (requests.sent_ns != MISSING)
    wave, wave_end = _first_wave(requests, done_ns, sent, window)
    if wave and 2 * (wave_end - window.start_ns) > window.end_ns - window.start_ns:
        return replace(_with(window, message("analysis.wave_too_long")), first_wave=wave)
    if wave:
        cut_s = (wave_end - window.start_ns) / NS_PER_S
        window = _with(window, message("analysis.wave_cut", cut_s=cut_s, wave=wave))
        window = replace(window, start_ns=wave_end, method=FIRST_WAVE)
    if sent.sum() < FEWEST_REQUESTS or window.end_ns - window.start_ns < BINS:
        return _with(window, _too_few(int(sent.sum())))
    if not len(events.at_ns):  # answers without tokens: how many ended
        ended = requests.done_ns[sent & (requests.done_ns != MISSING)]
        counts, edges = np.histogram(ended, bins=BINS, range=(window.start_ns, window.end_ns))
        return _settled(counts * NS_PER_S / (edges[1] - edges[0]), window, ENDED)
    series = token_rates(events, window.start_ns, window.end_ns, BINS)
    return _settled(series, window, OUTPUT)


def _first_wave(
    requests: Requests, done_ns: NDArray[np.int64], measured: NDArray[np.bool_], window: Window
) -> tuple[int, int]:
    """How many measured requests were sent before any answer ended, and when half of those were answered.

    (0, 0) where there is no wave: a warm-up that hands over without draining leaves none, as
    its answers let the measured requests go one by one.
    """
    sent = requests.sent_ns != MISSING
    under_way = most_in_flight(requests.sent_ns[sent], done_ns[sent], window.start_ns, window.end_ns)
    first_done = int(done_ns[sent & (done_ns > window.start_ns)].min(initial=np.iinfo(np.int64).max))
    wave = measured & (requests.sent_ns < first_done)
    size = int(wave.sum())
    if size <= max(1, under_way // 2):
        return 0, 0
    return size, int(np.sort(done_ns[wave])[(size - 1) // 2])


@dataclass(frozen=True, slots=True)
class SeriesMessages:
    """What is said of a series: that it did not settle, was cut, drifted, or held."""

    unsettled: str
    cut: str
    drifted: str
    held: str


IN_FLIGHT = SeriesMessages(
    "analysis.in_flight_unsettled",
    "analysis.in_flight_cut",
    "analysis.in_flight_drifted",
    "analysis.in_flight_held",
)
OUTPUT = SeriesMessages(
    "analysis.output_unsettled", "analysis.output_cut", "analysis.output_drifted", "analysis.output_held"
)

ENDED = SeriesMessages(
    "analysis.ended_unsettled", "analysis.ended_cut", "analysis.ended_drifted", "analysis.ended_held"
)


def _settled(series: Floats, window: Window, messages: SeriesMessages) -> Window:
    """The window less the start-up that MSER-5 finds, and whether what remains holds still."""
    cut = mser5_truncate(series)
    sure = cut.shift > SURE and abs(cut.before - cut.after) > LEAST_SHIFT * abs(cut.after)
    before, after = _not_negative(cut.before), _not_negative(cut.after)
    if sure and cut.at >= LATEST_CUT:
        return replace(_with(window, message(messages.unsettled, before=before, after=after)), steady=False)
    if sure:
        reason = message(messages.cut, cut=cut.at / BINS, before=before, after=after)
        window = _with(_cut(window, cut.at), reason)
    else:
        window = _with(window, message("analysis.nothing_cut"))
    kept = series[cut.at :] if sure else series
    drift = _drift(kept)
    if drift is not None:
        first, last = map(_not_negative, drift)
        return replace(_with(window, message(messages.drifted, first=first, last=last)), steady=False)
    return replace(_with(window, message(messages.held, mean=_not_negative(float(kept.mean())))), steady=True)


def _drift(series: Floats) -> tuple[float, float] | None:
    """From where to where a series moves, by its line or at its end; None where it holds still."""
    line, end = trend(_coarse(series)), mser5_truncate(series[::-1])
    if _moves(line, LEAST_DRIFT):
        return line.first, line.last
    moved = end.shift > SURE_OF_END and abs(end.before - end.after) > LEAST_DRIFT * abs(end.after)
    return (end.after, end.before) if moved else None


def _cut(window: Window, at: int) -> Window:
    start_ns = window.start_ns + (window.end_ns - window.start_ns) * at // BINS
    method = MSER if window.method == SENDING else f"{window.method}, {MSER}"
    return replace(window, start_ns=start_ns, method=method)


def _with(window: Window, *reasons: Message) -> Window:
    return replace(window, reasons=(*window.reasons, *reasons))


def _coarse(series: Floats) -> Floats:
    """Means of five parts: a line is drawn through what MSER-5 looks at."""
    return np.asarray(series[: len(series) // MSER_BATCH * MSER_BATCH].reshape(-1, MSER_BATCH).mean(axis=1))


def _moves(line: Trend, least: float, sure: float = SURE) -> bool:
    """Whether a line moves by more than `least` of its mean, and by more than so many standard errors."""
    middle = abs(line.first + line.last) / 2
    return abs(line.significance) > sure and abs(line.last - line.first) > least * middle


def _not_negative(value: float) -> float:
    """A value of a fitted line; numbers in flight and rates are never below zero."""
    return max(0.0, float(value))


def _too_few(sent: int) -> Message:
    return message("analysis.too_few_requests", count=sent, needed=FEWEST_REQUESTS)
