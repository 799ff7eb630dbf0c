"""A control variate: what a plain fluid server would show of the requests that a run sent.

After Lavenberg and Welch (Management Science 27, 1981). Runs under unlike seeds ask for unlike work: longer answers,
denser bursts. A fluid server, the same for all runs, is given the arrivals and lengths of each: what
it shows differs by the work alone, so what of the runs' own values follows it is no difference between the sides.
Prefills come first and one by one, decodes share steps that grow with their number. Its coefficients only shape the
covariate; the size of its influence is estimated from the runs (`harness.comparison.estimation`).
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.steady_state import is_open
from harness.comparison.repeats import Repeat
from harness.results.request_table import COMPLETED, MEASURED, MISSING
from harness.scenario.metrics import COUNTED, FAILED_SHARE, KERNEL_TIME, Measure
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

_GENTLE = 10.0  # percentile of TPOT and TTFT that is taken for a server with nothing else to do
_SEATS = 256  # decodes at once where the engine does not say


@dataclass(frozen=True, slots=True)
class OfferedWork:
    """The requests of one stage of one run in the order they came: times in seconds, lengths, and which count.

    `users` is set where a closed loop sent the next when one ended; the times then only give the order.
    """

    at_s: Floats
    prompt: Floats
    answer: Floats
    counts: NDArray[np.bool_]
    users: int | None
    seats: int
    seen_ttft_s: Floats
    seen_tpot_s: Floats


def offered_work(repeat: Repeat, number: int) -> OfferedWork | None:
    """What a stage of a repeat asked for; None where single requests are not known."""
    records = repeat.records()
    if records is None:
        return None
    rows = records.requests
    rows = rows.take((rows.stage == number) & (rows.repeat == repeat.number))
    load = repeat.stages[number].get("load") or {}
    is_open_loop = is_open(str(load.get("kind")))
    at_ns = np.where(rows.due_ns != MISSING, rows.due_ns, rows.sent_ns) if is_open_loop else rows.sent_ns
    known = at_ns != MISSING
    order = np.flatnonzero(known)[np.argsort(at_ns[known], kind="stable")]
    rows = rows.take(order)
    prompt = np.maximum(0, np.where(rows.input_tokens != MISSING, rows.input_tokens, rows.input_asked))
    answer = np.maximum(1, rows.output_tokens)
    counts = (rows.phase == MEASURED) & (rows.status == COMPLETED) & (answer > 1)
    if not counts.any():
        return None
    seats = (repeat.engine.get("effective") or {}).get("max_num_seqs") or _SEATS
    span = np.maximum(1, answer - 1) * NS_PER_S
    return OfferedWork(
        at_ns[order] / NS_PER_S, prompt.astype(np.float64), answer.astype(np.float64), counts,
        None if is_open_loop else int(load.get("concurrency") or len(order)), int(seats),
        (rows.first_ns - rows.sent_ns) / NS_PER_S, (rows.last_ns - rows.first_ns) / span,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FluidServer:
    """A fluid server: seconds of a step, of a further decode in it, and of a token of a prompt."""

    step_s: float
    decode_s: float
    prompt_s: float


def fit_server(works: Sequence[OfferedWork]) -> FluidServer | None:
    """The server that all these runs together look like; None where they show none.

    A step and a prompt's token as in the gentlest tenth of requests; the rest of the mean TPOT is put down to prefills,
    by their share of the time, and to the decodes of a step, by their mean number (Little's law).
    """
    seen = np.concatenate([work.seen_tpot_s[work.counts] for work in works])
    per_token = [work.seen_ttft_s[work.counts] / np.maximum(1, work.prompt[work.counts]) for work in works]
    step_s, prompt_s = (float(np.percentile(values, _GENTLE)) for values in (seen, np.concatenate(per_token)))
    span_s = sum(float(np.ptp(work.at_s[work.counts])) for work in works)
    if not (step_s > 0 and prompt_s >= 0 and span_s > 0 and math.isfinite(step_s + prompt_s)):
        return None
    prefilling = sum(float(work.prompt[work.counts].sum()) for work in works) * prompt_s / span_s
    decodes = sum(float((work.seen_tpot_s * work.answer)[work.counts].sum()) for work in works) / span_s
    left_s = float(seen.mean()) * max(0.0, 1 - prefilling) - step_s
    return FluidServer(step_s, max(0.0, left_s / max(1.0, decodes)), prompt_s)


ServedTimes = tuple[Floats, Floats, Floats]


def covariate(measure: Measure, work: OfferedWork, times: ServedTimes) -> float:
    """The logarithm of what the plain server shows of this measure; 0 where the work says nothing of it."""
    if measure.metric in (FAILED_SHARE, KERNEL_TIME, *COUNTED):
        return 0.0
    sent, first, last = times
    counts = work.counts
    if measure.is_latency:
        values = _VALUES[measure.metric.removesuffix("_user")](work, sent, first, last)[counts]
        shown = values.mean() if measure.statistic == "mean" else np.percentile(values, float(measure.statistic[1:]))
    else:
        span = float(last[counts].max() - sent[counts].min())
        weights = {"output_token_rate": work.answer, "total_token_rate": work.answer + work.prompt}
        shown = weights.get(measure.metric, np.ones(len(counts)))[counts].sum() / span if span > 0 else 0.0
    return math.log(shown) if shown > 0 and math.isfinite(shown) else 0.0


def _tpot(work: OfferedWork, _sent: Floats, first: Floats, last: Floats) -> Floats:
    return (last - first) / np.maximum(1.0, work.answer - 1)


_VALUES = {
    "ttft": lambda _work, sent, first, _last: first - sent,
    "e2e": lambda _work, sent, _first, last: last - sent,
    "tpot": _tpot,
    "itl": _tpot,
    "chunk_gap": _tpot,
}


def serve_fluid(work: OfferedWork, plain: FluidServer) -> ServedTimes:
    """When each request was sent, and its first and last token came, on a plain server."""
    return _FluidService(work, plain).run()


class _FluidService:
    """The plain server at work: time, tokens that each decode has got since it began, who waits, who is served."""

    def __init__(self, work: OfferedWork, plain: FluidServer) -> None:
        self._work, self._plain = work, plain
        self._at = work.at_s.tolist()
        self._sent, self._first, self._last = (np.array(work.at_s) for _ in range(3))
        self._now = self._given = 0.0
        self._next = self._inside = 0
        self._waiting: deque[int] = deque()
        self._decoding: list[tuple[float, int]] = []

    def run(self) -> ServedTimes:
        self._come()
        while self._next < len(self._at) or self._waiting or self._decoding:
            if self._waiting and len(self._decoding) < self._work.seats:
                self._begin(self._waiting.popleft())
            else:
                self._advance()
            self._come()
        return self._sent, self._first, self._last

    def _pace_s(self) -> float:
        return self._plain.step_s + self._plain.decode_s * len(self._decoding)

    def _begin(self, place: int) -> None:
        self._now += self._plain.prompt_s * float(self._work.prompt[place])
        self._first[place] = self._now
        heapq.heappush(self._decoding, (self._given + float(self._work.answer[place]) - 1, place))

    def _advance(self) -> None:
        """To the next arrival or the next last token, whichever is first."""
        ends = self._now + (self._decoding[0][0] - self._given) * self._pace_s() if self._decoding else math.inf
        comes = math.inf
        if self._work.users is None and self._next < len(self._at):
            comes = max(self._now, self._at[self._next])
        if comes <= ends:
            self._given += (comes - self._now) / self._pace_s()
            self._now = comes
            return
        self._now = ends
        self._given, place = heapq.heappop(self._decoding)
        self._last[place] = ends
        self._inside -= 1

    def _come(self) -> None:
        """Those that are due, or in a closed loop as many as there are users for."""
        users = self._work.users
        while self._next < len(self._at):
            if (self._at[self._next] > self._now) if users is None else (self._inside >= users):
                return
            if users is not None:
                self._sent[self._next] = self._now
            self._waiting.append(self._next)
            self._inside += 1
            self._next += 1
