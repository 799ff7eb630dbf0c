"""What did a stage show, in numbers?

The definitions, all from a request's own times: ttft = first token - sent; tpot = (last -
first token) / (tokens - tokens of the first event), undefined where that divisor is 0; e2e =
last token - sent (an answer that is not streamed: its end - sent). `_user` is the same from the
due time. send_lag = sent - ready is the client's own lateness, queue_wait = ready - due the wait
for a slot of max_concurrency, connect the time to open a connection, where one was opened.

Latencies are those of measured, completed requests sent within the window (send_lag, queue_wait
and connect: of all sent in it). Rates count everything that arrives within the window, also the
last answers of a warm-up that handed over, since the engine gave them at that time: an output
token when its event arrives, an input token when the first token of its answer does, a request
when its answer ends.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import ResultError
from harness.inflight import mean_in_flight, most_in_flight
from harness.records import (
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
from harness.slo import GAP_METRICS, Objective, Outcome, good, objectives, outcome
from harness.stats import Distribution, Floats, distribution
from harness.steady import Span, Window, ended_ns, find_window, is_open, whole_span
from harness.streams import Mask, Streams, arrived, streams
from harness.units import NS_PER_S

ANSWER_METRICS = ("ttft", "ttft_user", "tpot", "e2e", "e2e_user")
CLIENT_METRICS = ("send_lag", "queue_wait", "connect")
STREAMED_ONLY = ("ttft", "ttft_user", "tpot", *GAP_METRICS)  # an answer in one piece says nothing of its tokens


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
class Rates:
    """What arrived within the window, per second; None where the window has no length."""

    request: float | None
    output_token: float | None
    total_token: float | None
    event: float | None
    good: float | None  # None also without objectives


@dataclass(frozen=True, slots=True)
class StageInput:
    """All that is known of one stage: its rows and their events, its span, its load and the limits it has to keep.

    `load` is the stage as run.json gives it (`kind`, `rate`, …), `slo` limits in seconds by key.
    """

    requests: Requests
    events: Events
    span: Span
    load: Mapping[str, Any]
    slo: Mapping[str, float]
    stream: bool = True

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The limits as objectives, in the view that the kind of load calls for."""
        return objectives(self.slo, open_loop=is_open(self.load["kind"]))

    def shows(self, metric: str) -> bool:
        """Whether answers of this form show the metric at all."""
        return self.stream or metric not in STREAMED_ONLY


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage in numbers. Times are seconds, rates per second; `metrics` are by name."""

    span: Span
    load: Mapping[str, Any]
    label: str
    window: Window
    account: Account
    errors: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    rates: Rates
    concurrency_mean: float | None
    concurrency_max: int
    outcomes: tuple[Outcome, ...]
    metrics: Mapping[str, Distribution]
    merged_share: float | None

    @property
    def slo_met(self) -> bool | None:
        """Whether every objective was met; None without objectives, or where one is unknown and none is broken."""
        met = [outcome.met for outcome in self.outcomes]
        return False if False in met else None if None in met or not met else True

    @property
    def is_open(self) -> bool:
        """Whether arrivals came by the clock and not by answers."""
        return is_open(self.load["kind"])


def summarize_stage(stage: StageInput) -> StageSummary:
    """One stage in numbers, from all its rows (warm-up included)."""
    requests, span = stage.requests, whole_span(stage.requests, stage.span)
    window = find_window(requests, stage.events, span, str(stage.load["kind"]))
    measured = requests.phase == MEASURED
    sent_inside = measured & (requests.sent_ns >= max(0, window.start_ns)) & (requests.sent_ns <= window.end_ns)
    done = measured & (requests.status == COMPLETED)
    gaps = streams(stage.events, sent_inside & done)
    found = latencies(requests, stream=stage.stream)
    values = {name: _defined(found[name], sent_inside & done) for name in ANSWER_METRICS}
    values |= {name: _defined(found[name], sent_inside) for name in CLIENT_METRICS}
    concurrency = _concurrency(requests, window, span)
    return StageSummary(
        span=span,
        load=stage.load,
        label=label(stage.load),
        window=window,
        account=_account(requests, int(sent_inside.sum())),
        errors=_errors(requests),
        input_tokens=int(_input_tokens(requests)[done].sum()),
        output_tokens=int(requests.output_tokens[done].sum()),
        rates=_rates(stage, window, found, span),
        concurrency_mean=concurrency[0],
        concurrency_max=concurrency[1],
        outcomes=_outcomes(stage, window, values, gaps),
        metrics={name: distribution(array) for name, array in values.items()}
        | {"itl": gaps.itl.short, "chunk_gap": gaps.chunk_gap.short},
        merged_share=gaps.merged_share,
    )


def label(load: Mapping[str, Any]) -> str:
    """A stage's load in a few words, in the scenario's own numbers, such as `poisson 2 req/s`."""
    kind = str(load["kind"])
    words = {
        "closed": "closed {concurrency} users",
        "offline": "offline {requests} requests",
        "gamma": "gamma {rate:g} req/s, burstiness {burstiness:g}",
        "ramp": "ramp {rate:g} to {rate_to:g} req/s",
        "trace": "trace, speed {speed:g}",
    }.get(kind, f"{kind} {{rate:g}} req/s")
    capped = load.get("max_concurrency")
    return words.format(**{"speed": 1.0, **load}) + (f", at most {capped} at once" if capped else "")


def latencies(requests: Requests, *, stream: bool) -> dict[str, Floats]:
    """Every metric of every row in seconds, NaN where it is undefined."""
    r = requests
    last = r.last_ns if stream else r.done_ns
    divisor = r.output_tokens - r.first_tokens
    found = {
        "ttft": _between(r.sent_ns, r.first_ns),
        "ttft_user": _between(r.due_ns, r.first_ns),
        "tpot": np.where(divisor > 0, _between(r.first_ns, r.last_ns) / np.maximum(1, divisor), np.nan),
        "e2e": _between(r.sent_ns, last),
        "e2e_user": _between(r.due_ns, last),
        "send_lag": _between(r.ready_ns, r.sent_ns),
        "queue_wait": _between(r.due_ns, r.ready_ns),
        "connect": np.where(r.connect_ns > 0, r.connect_ns / NS_PER_S, np.nan),
    }
    unseen = () if stream else found.keys() & STREAMED_ONLY
    return found | {name: np.full(len(r), np.nan) for name in unseen}


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
        strange = sorted(set(statuses) - set(STATUSES))
        raise ResultError(f"requests.parquet: status {strange[0]!r}; expected one of {', '.join(STATUSES)}")
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


def _rates(stage: StageInput, window: Window, found: Mapping[str, Floats], span: Span) -> Rates:
    if window.end_ns <= window.start_ns:
        return Rates(None, None, None, None, None)
    requests, length_s = stage.requests, window.length_s
    tokens, events = arrived(stage.events, window.start_ns, window.end_ns)
    completed = requests.status == COMPLETED
    ended = completed & _within(ended_ns(requests, span.end_ns), window)
    # An answer that comes whole has no first token of its own.
    begun = _within(np.where(requests.first_ns != MISSING, requests.first_ns, requests.last_ns), window)
    return Rates(
        request=int(ended.sum()) / length_s,
        output_token=tokens / length_s,
        total_token=(tokens + int(_input_tokens(requests)[begun].sum())) / length_s,
        event=events / length_s,
        good=_good_rate(stage, ended, found, length_s),
    )


def _good_rate(stage: StageInput, ended: Mask, found: Mapping[str, Floats], length_s: float) -> float | None:
    asked = stage.objectives
    if not asked or not all(stage.shows(objective.metric) for objective in asked):
        return None
    return int((ended & good(asked, stage.requests, stage.events, found)).sum()) / length_s


def _within(at_ns: Any, window: Window) -> Mask:
    return np.asarray((at_ns > window.start_ns) & (at_ns <= window.end_ns))


def _concurrency(requests: Requests, window: Window, span: Span) -> tuple[float | None, int]:
    """Mean over time, and maximum, of requests sent and not yet over, within the window."""
    sent = requests.sent_ns != MISSING
    starts, ends = requests.sent_ns[sent], ended_ns(requests, span.end_ns)[sent]
    if window.end_ns <= window.start_ns:
        return None, 0
    edges = np.asarray([window.start_ns, window.end_ns], dtype=np.float64)
    mean = float(mean_in_flight(starts, ends, edges)[0])
    return mean, most_in_flight(starts, ends, window.start_ns, window.end_ns)


def _outcomes(stage: StageInput, window: Window, values: Mapping[str, Floats], gaps: Streams) -> tuple[Outcome, ...]:
    """What came of each objective, over requests that were sent, or failed before they could be, within the window."""
    requests = stage.requests
    began = np.where(requests.sent_ns != MISSING, requests.sent_ns, np.maximum(requests.ready_ns, requests.due_ns))
    inside = (began >= window.start_ns) & (began <= window.end_ns)
    failed = requests.take(inside & (requests.phase == MEASURED) & (requests.status == FAILED))
    return tuple(
        outcome(asked, values, gaps, failed) if stage.shows(asked.metric) else Outcome(asked, None)
        for asked in stage.objectives
    )
