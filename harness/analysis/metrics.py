"""The numbers of a stage: latencies, rates, concurrency and objectives, each with the requests it counts.

The definitions, all from a request's own times: ttft = first token - sent; tpot = (last -
first token) / (tokens - tokens of the first event), undefined where that divisor is 0; e2e =
last token - sent (an answer that is not streamed: its end - sent). `_user` is the same from the
due time. send_lag = sent - ready is the client's own lateness, queue_wait = ready - due the wait
for a slot of max_concurrency, connect the time to open a connection, where one was opened.

Which requests stand behind which number is defined once, in `RequestMasks`. Latencies are of measured,
completed requests sent within the window. Rates are of measured, completed requests whose answer ended in the
window's part for rates: output token rate = request rate x mean output tokens of these, exactly, and each can be
listed. Latencies and rates are of different requests because they ask different things: how long those waited that
came then, and how many left a second. In a queue that grows these are never the same. Warm-up counts in none.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.analysis.client_error import VIRTUAL, ClientError, client_error
from harness.analysis.rates import Counted, Rates, offered, rate_interval
from harness.analysis.request_flow import mean_in_flight, most_in_flight
from harness.analysis.slo import Objective, Outcome, good_requests, objectives, outcome, weakness
from harness.analysis.steady_state import Span, Window, ended_ns, find_window, is_open, whole_span
from harness.analysis.token_gaps import Mask, Streams, rows_of, streams, token_rates
from harness.errors import ResultError
from harness.messages import Message, message
from harness.results.request_table import (
    CANCELLED,
    COMPLETED,
    FAILED,
    MEASURED,
    MISSING,
    NEVER_SENT,
    STATUSES,
    WARMUP,
    Events,
    Requests,
)
from harness.scenario.metrics import ANSWER_TIMES, CLIENT_TIMES, STREAMED_ONLY
from harness.scenario.stages import load_name
from harness.statistics.distributions import Distribution, distribution
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

WHOLE = 0.999  # of a stage's duration; its end is when the last request was due, within rounding
ANSWER_METRICS = ("ttft", "ttft_user", *ANSWER_TIMES, "tpot", "e2e", "e2e_user")


@dataclass(frozen=True, slots=True)
class Account:
    """Where every measured request of a stage went: scheduled = completed + failed + cancelled + never_sent."""

    scheduled: int
    sent: int
    completed: int
    failed: int
    cancelled: int
    never_sent: int
    warmup: int
    in_window: int


@dataclass(frozen=True, slots=True)
class StageInput:
    """All that is known of one stage: its rows and their events, its span, its load and the limits it has to keep.

    `load` is the stage as run.json gives it (`kind`, `rate`, …), `slo` limits in seconds by key. `virtual` says that
    its times are those of virtual time, with no client between; `interrupted` that the run did not come to its end.
    `formed` are the numbers of the classes whose answers have a form, and so a length of their own.
    """

    requests: Requests
    events: Events
    span: Span
    load: Mapping[str, Any]
    slo: Mapping[str, float]
    stream: bool = True
    virtual: bool = False
    interrupted: bool = False
    formed: tuple[int, ...] = ()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The limits as objectives, in the view that the kind of load calls for."""
        return objectives(self.slo, open_loop=is_open(self.load["kind"]))

    def shows(self, metric: str) -> bool:
        """Whether answers of this form show the metric at all."""
        return self.stream or metric not in STREAMED_ONLY


def formed_classes(run: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of the classes of a run whose answers have a form."""
    return tuple(number for number, each in enumerate(run.get("classes") or ()) if each.get("form"))


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage in numbers. Times are seconds, rates per second; `metrics` are by name.

    `cut` says that an interruption kept the stage from its own end.
    """

    span: Span
    load: Mapping[str, Any]
    label: Message
    window: Window
    account: Account
    errors: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    rates: Rates
    counted: Counted
    concurrency_mean: float | None
    concurrency_max: int
    outcomes: tuple[Outcome, ...]
    metrics: Mapping[str, Distribution]
    merged_share: float | None
    client: ClientError
    cut: bool = False
    reasoning_tokens: int = 0

    @property
    def is_pooled(self) -> bool:
        """Whether its answers have no tokens: documents were embedded or scored."""
        return self.counted.documents > 0 and not self.output_tokens

    @property
    def slo_met(self) -> bool | None:
        """Whether every objective was met; None without objectives, or where one is unknown and none is broken."""
        met = [outcome.met for outcome in self.outcomes]
        return False if False in met else None if None in met or not met else True

    @property
    def is_open(self) -> bool:
        """Whether arrivals came by the clock and not by answers."""
        return is_open(self.load["kind"])


@dataclass(frozen=True, slots=True)
class RequestMasks:
    """The rows of a stage that belong to its numbers, as masks over its rows. Warm-up belongs to none.

    - `sent`: measured requests that were sent within the window [start, end]. The client's own
      delays are theirs.
    - `answered`: those of `sent` that completed. Latencies and gaps between tokens are theirs, whenever
      their answer ended: to ask for an end within the window would leave out the slow ones.
    - `failed`: measured requests that failed and were sent (or, where they never were, due) within the
      window. They count as infinitely late against an objective.
    - `ended`: measured requests that completed and whose answer ended within the window's part for
      rates (rates start, end], whenever they were sent. Every rate counts these and nothing else:
      requests, their tokens in and out, their events, those of them that are good.
    - `over`: `ended`, and what failed or was cancelled after it was sent and was over in that part: all
      that left the system then. Little's law is about these.
    """

    sent: Mask
    answered: Mask
    failed: Mask
    ended: Mask
    over: Mask


def request_masks(requests: Requests, window: Window, span: Span) -> RequestMasks:
    """The rows that belong to each of the numbers of a stage, of all its rows."""
    measured = requests.phase == MEASURED
    was_sent = requests.sent_ns != MISSING
    began = np.where(was_sent, requests.sent_ns, np.maximum(requests.ready_ns, requests.due_ns))
    inside = measured & (began >= max(0, window.start_ns)) & (began <= window.end_ns)
    over_ns = ended_ns(requests, span.end_ns)
    over = measured & was_sent & (over_ns > window.rates_ns) & (over_ns <= window.end_ns)
    completed = requests.status == COMPLETED
    return RequestMasks(
        sent=inside & was_sent,
        answered=inside & was_sent & completed,
        failed=inside & (requests.status == FAILED),
        ended=over & completed,
        over=over,
    )


def summarize_stage(stage: StageInput) -> StageSummary:
    """One stage in numbers, from all its rows (warm-up included)."""
    requests, span = stage.requests, whole_span(stage.requests, stage.span)
    window = find_window(requests, stage.events, span, str(stage.load["kind"]))
    masks = request_masks(requests, window, span)
    gaps = streams(stage.events, masks.answered)
    times = latencies(requests, stream=stage.stream)
    values = {name: _defined(times[name], masks.answered) for name in ANSWER_METRICS}
    values |= {name: _defined(times[name], masks.sent) for name in CLIENT_TIMES}
    concurrency = _concurrency(requests, window, span)
    done = (requests.phase == MEASURED) & (requests.status == COMPLETED)
    counted = _counted(requests, masks)
    account = _account(requests, int(masks.sent.sum()))
    metrics = {name: distribution(array) for name, array in values.items()}
    metrics |= {"itl": gaps.itl.short, "chunk_gap": gaps.chunk_gap.short}
    client = ClientError(VIRTUAL) if stage.virtual else client_error(requests, masks.answered, times, gaps)
    outcomes = _outcomes(stage, masks, values, gaps)
    cut = stage.interrupted and _is_cut(stage, account)
    return StageSummary(
        span=span,
        load=stage.load,
        label=load_name(stage.load),
        window=window,
        account=account,
        errors=_errors(requests),
        input_tokens=int(_input_tokens(requests)[done].sum()),
        output_tokens=int(requests.output_tokens[done].sum()),
        reasoning_tokens=int(np.maximum(0, requests.reasoning_tokens[done]).sum()),
        rates=_rates(stage, window, span, masks, _good(stage, masks, times)),
        counted=counted,
        concurrency_mean=concurrency[0],
        concurrency_max=concurrency[1],
        outcomes=tuple(_judged(outcome, metrics, client, cut=cut) for outcome in outcomes),
        metrics=metrics,
        merged_share=gaps.merged_share,
        client=client,
        cut=cut,
    )


def latencies(requests: Requests, *, stream: bool) -> dict[str, Floats]:
    """Every metric of every row in seconds, NaN where it is undefined."""
    r = requests
    last = r.last_ns if stream else r.done_ns
    divisor = r.output_tokens - r.first_tokens
    times = {
        "ttft": _between(r.sent_ns, r.first_ns),
        "ttft_user": _between(r.due_ns, r.first_ns),
        "ttft_answer": _between(r.sent_ns, r.answer_ns),
        "ttft_answer_user": _between(r.due_ns, r.answer_ns),
        "tpot": np.where(divisor > 0, _between(r.first_ns, r.last_ns) / np.maximum(1, divisor), np.nan),
        "e2e": _between(r.sent_ns, last),
        "e2e_user": _between(r.due_ns, last),
        "send_lag": _between(r.ready_ns, r.sent_ns),
        "queue_wait": _between(r.due_ns, r.ready_ns),
        "connect": np.where(r.connect_ns > 0, r.connect_ns / NS_PER_S, np.nan),
    }
    unseen = () if stream else times.keys() & STREAMED_ONLY
    return times | {name: np.full(len(r), np.nan) for name in unseen}


def _between(start_ns: Any, end_ns: Any) -> Floats:
    known = (start_ns != MISSING) & (end_ns != MISSING)
    return np.where(known, (end_ns - start_ns) / NS_PER_S, np.nan)


def _defined(values: Floats, chosen: Mask) -> Floats:
    picked = values[chosen]
    return np.asarray(picked[~np.isnan(picked)])


def _input_tokens(requests: Requests) -> Any:
    """Input tokens of each row: the server's count, else what was asked for."""
    known = np.where(requests.input_tokens != MISSING, requests.input_tokens, requests.input_asked)
    return np.maximum(0, known)


def _account(requests: Requests, in_window: int) -> Account:
    measured = requests.phase == MEASURED
    statuses = requests.status[measured]
    counts = {status: int((statuses == status).sum()) for status in STATUSES}
    if sum(counts.values()) != len(statuses):
        unknown = sorted(set(statuses) - set(STATUSES))
        raise ResultError(message("analysis.status_unknown", status=str(unknown[0]), statuses=list(STATUSES)))
    return Account(
        scheduled=len(statuses),
        sent=int((measured & (requests.sent_ns != MISSING)).sum()),
        completed=counts[COMPLETED],
        failed=counts[FAILED],
        cancelled=counts[CANCELLED],
        never_sent=counts[NEVER_SENT],
        warmup=int((requests.phase == WARMUP).sum()),
        in_window=in_window,
    )


def _errors(requests: Requests) -> dict[str, int]:
    """How many measured requests failed by each error, most frequent first."""
    failed = requests.error[(requests.phase == MEASURED) & (requests.status == FAILED)]
    return dict(Counter(failed.tolist()).most_common())


def _counted(requests: Requests, masks: RequestMasks) -> Counted:
    return Counted(
        requests=int(masks.ended.sum()),
        input_tokens=int(_input_tokens(requests)[masks.ended].sum()),
        output_tokens=int(requests.output_tokens[masks.ended].sum()),
        events=int(requests.events[masks.ended].sum()),
        documents=int(np.maximum(0, requests.documents[masks.ended]).sum()),
    )


def _rates(stage: StageInput, window: Window, span: Span, masks: RequestMasks, good: Mask | None) -> Rates:
    """Rates over the window; none where its answers all ended outside of it, so that no rate can be formed."""
    if window.rates_s <= 0:
        return Rates()
    length_s, requests, kind = window.rates_s, stage.requests, str(stage.load["kind"])
    due, sending_s = offered(requests, window, span)
    offered_rate = due / sending_s if is_open(kind) and sending_s > 0 else None
    counted = _counted(requests, masks)
    answered = bool(((requests.phase == MEASURED) & (requests.status == COMPLETED)).any())
    if not counted.requests and answered:
        return Rates(arrived=_arrived(stage, window), offered=offered_rate)
    ended = masks.ended
    amounts = {"request": ended, "output_token": requests.output_tokens, "good": good}
    intervals = {
        name: rate_interval(
            requests.due_ns[ended], requests.done_ns[ended], each[ended].astype(np.float64), window, kind
        )
        for name, each in amounts.items()
        if each is not None
    }
    return Rates(
        request=counted.requests / length_s,
        output_token=counted.output_tokens / length_s,
        total_token=(counted.output_tokens + counted.input_tokens) / length_s,
        event=counted.events / length_s,
        good=None if good is None else int(good.sum()) / length_s,
        arrived=_arrived(stage, window),
        offered=offered_rate,
        ci95={name: ends for name, ends in intervals.items() if ends is not None},
    )


def _arrived(stage: StageInput, window: Window) -> float:
    """All tokens less those of the warm-up, whose events are few and can be copied."""
    warm = rows_of(stage.events, stage.requests.phase == WARMUP)
    every, others = (token_rates(e, window.rates_ns + 1, window.end_ns + 1, 1)[0] for e in (stage.events, warm))
    return float(every - others)


def _good(stage: StageInput, masks: RequestMasks, times: Mapping[str, Floats]) -> Mask | None:
    """Which of the requests that rates count kept every limit; None without limits, or where answers do not show."""
    limits = stage.objectives
    if not limits or not all(stage.shows(objective.metric) for objective in limits):
        return None
    return masks.ended & good_requests(limits, stage.requests, stage.events, times)


def _concurrency(requests: Requests, window: Window, span: Span) -> tuple[float | None, int]:
    """Mean over time, and maximum, of measured requests sent and not yet over, within the part for rates."""
    sent = (requests.sent_ns != MISSING) & (requests.phase == MEASURED)
    starts, ends = requests.sent_ns[sent], ended_ns(requests, span.end_ns)[sent]
    if window.rates_s <= 0:
        return None, 0
    edges = np.asarray([window.rates_ns, window.end_ns], dtype=np.float64)
    mean = float(mean_in_flight(starts, ends, edges)[0])
    return mean, most_in_flight(starts, ends, window.rates_ns, window.end_ns)


def _outcomes(
    stage: StageInput, masks: RequestMasks, values: Mapping[str, Floats], gaps: Streams
) -> tuple[Outcome, ...]:
    """What came of each objective, over requests that were sent, or failed before they could be, within the window."""
    failed = stage.requests.take(masks.failed)
    return tuple(
        outcome(objective, values, gaps, failed) if stage.shows(objective.metric) else Outcome(objective, None)
        for objective in stage.objectives
    )


def _judged(outcome: Outcome, metrics: Mapping[str, Distribution], client: ClientError, *, cut: bool) -> Outcome:
    """An outcome, less sure where the client may have spoiled it, an interruption cut the stage, or it is close."""
    metric, statistic = outcome.objective.metric, outcome.objective.statistic
    interval, median_s = metrics[metric].ci95.get(statistic), metrics[metric].p50
    finite = outcome.value_s is not None and math.isfinite(outcome.value_s)
    weak = weakness(statistic, interval, outcome.objective.limit_s, median_s) if finite else ""
    outcome = replace(outcome, unproven=weak)
    if client.spoils(metric, statistic, outcome.value_s):
        outcome = outcome.judged_with(client.of(metric, statistic))
    return outcome.judged_until_cut() if cut else outcome


def _is_cut(stage: StageInput, account: Account) -> bool:
    """Whether the stage of an interrupted run did not come to its own end."""
    span, length_s = stage.span, stage.load.get("duration_s")
    short = length_s is not None and span.stop_ns - span.start_ns < WHOLE * length_s * NS_PER_S
    return short or account.cancelled > 0 or account.never_sent > 0
