"""Checks of the client: whether the server was measured, or the client.

Each check looks at one stage and yields its warnings. An invalid one says that the client was measured and
not the server: a client that could not keep up reports its own slowness as the server's.
"""

from collections.abc import Iterator

import numpy as np

from harness.analysis.client_error import KERNEL, MOST_ERROR
from harness.analysis.metrics import StageSummary, request_masks
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import Message, message
from harness.results.request_table import MISSING
from harness.scenario.metrics import NAMES, statistic_name
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

CPU_FULL = 0.95  # of a core; the rest is the clock's and the kernel's, so a loop at 95 % has no time left
CPU_BUSY = 0.8  # above, waiting for the core lengthens as 1 / (1 - share): fivefold
LAG_INVALID_S = 0.005  # half a token's gap of a fast engine: arrivals this late are no longer those asked for
LAG_INVALID_SHARE = 0.1  # of the median TTFT: no difference below a tenth would be the server's
LAG_WARNING_S = 0.003  # what this client keeps at 500 requests/s on two cores
LAG_WARNING_SHARE = 0.02
LATE_REQUESTS = 3  # fewer late ones may be a single hiccup, however few requests there are
LATE_SHARE = 0.01
LATE_SAMPLES = 0.1  # each is the worst of a quarter second: a lag every few seconds
CEILING_WARNING = 0.7  # of the events/s that the selfcheck reached: queues at the client begin
FLOOR_SHARE = 0.1  # of a value that the client itself adds, by the selfcheck
MERGED_SHARE = 0.05  # of events; a few share a read on any network

PAUSED_S = 1.0  # fifty beats of a worker: no load of its own holds one up so long
PARENT, PAUSED = "harness", "paused_s"  # the leading process notes where it did not run
ERROR_WARNING = 0.02
CLOCK_STEP_INVALID_S = 0.001  # the wall clock was set: what arrived just then has a stamp that is off by as much
REACTION_INVALID = 0.1  # of an answer's time: users of a closed loop went on so much later, and the load was less
REACTION_WARNING = 0.03  # as much as the selfcheck lets the client fall short of the rate that was possible
STOLEN_WARNING = 0.05  # of all cores that the host of a virtual machine had given to others
STARVED_WARNING = 0.1  # of the time, in which the engine wanted a core that the client had: a tenth is no longer noise
STARVED_INVALID = 0.3

LESS_LOAD = message("analysis.next_less_load")
LatencyError = tuple[float, str, str, float, float]
"""Share, metric, statistic, bound and value (s) of a number that the client may have spoiled."""


def cpu(evidence: Evidence) -> Iterator[Warning]:
    """A worker whose core was full stamps late: `cpu_share` of the clients."""
    shares = evidence.watched("client", "cpu_share")
    if len(shares) == 0:
        return
    full, top = float((shares >= CPU_FULL).mean()), float(np.percentile(shares, 90))
    if evidence.summary.client.clock == KERNEL:  # stamps do not depend on it; what else it spoils has its own checks
        if full >= 0.5:
            yield Warning("client_cpu", WARNING, message("analysis.client_cpu_full", full=full), LESS_LOAD)
    elif full >= 0.5:
        yield Warning("client_cpu", INVALID, message("analysis.client_cpu_measured", full=full), LESS_LOAD)
    elif top >= CPU_BUSY:
        yield Warning("client_cpu", WARNING, message("analysis.client_cpu_busy", top=top), LESS_LOAD)


def paused(evidence: Evidence) -> Iterator[Warning]:
    """A process of the client that was stopped: its heart did not beat."""
    samples, span = evidence.samples, evidence.summary.span
    longest: dict[str, tuple[float, float]] = {}
    of_clients = [str(source).startswith("client") for source in samples.source]
    beats = ((samples.name == "loop_lag_s") & np.asarray(of_clients, dtype=bool)) | (samples.name == PAUSED)
    for row in np.flatnonzero(beats & (samples.value >= PAUSED_S)):
        at_ns, lasted_s = int(samples.at_ns[row]), float(samples.value[row])
        if at_ns >= span.start_ns and at_ns - lasted_s * NS_PER_S <= span.end_ns:
            source = str(samples.source[row])
            longest[source] = max(longest.get(source, (0.0, 0.0)), (lasted_s, at_ns / NS_PER_S))
    for source, (lasted_s, at_s) in sorted(longest.items()):
        text = message("analysis.paused_harness", lasted_s=lasted_s, at_s=at_s)
        if source != PARENT:
            worker = source.removeprefix("client-")
            text = message("analysis.paused_worker", worker=worker, lasted_s=lasted_s, at_s=at_s)
        yield Warning("paused", INVALID, text, message("analysis.next_not_stopped"))


def loop_lag(evidence: Evidence) -> Iterator[Warning]:
    """An event loop that wakes late stamps late: `loop_lag_s` of the clients."""
    if evidence.summary.client.clock == KERNEL:
        return
    lags = evidence.watched("client", "loop_lag_s")
    limit_s = _limit(evidence.summary, LAG_WARNING_S, LAG_WARNING_SHARE)
    late = int((lags > limit_s).sum())
    if late:
        most_s, samples = float(lags.max()), len(lags)
        text = message("analysis.loop_lag", late=late, samples=samples, limit_s=limit_s, most_s=most_s)
        often = late >= LATE_REQUESTS and late > LATE_SAMPLES * samples
        yield Warning("loop_lag", WARNING if often else NOTE, text, LESS_LOAD)


def send_lag(evidence: Evidence) -> Iterator[Warning]:
    """Requests that left the client late, opening a connection not counted."""
    lags = _own_lags(evidence)
    if len(lags) == 0:
        return
    summary = evidence.summary
    if not summary.is_open:
        yield from _reaction(summary, float(lags.mean()))
        return
    limit_s, p99_s = _limit(summary, LAG_INVALID_S, LAG_INVALID_SHARE), float(np.percentile(lags, 99))
    late = int((lags > limit_s).sum())
    counts = {"late": late, "sent": len(lags), "limit_s": limit_s, "p99_s": p99_s}
    if late >= LATE_REQUESTS and late > LATE_SHARE * len(lags):
        yield Warning("send_lag", INVALID, message("analysis.send_lag_invalid", **counts), LESS_LOAD)
    elif late:
        yield Warning("send_lag", WARNING, message("analysis.send_lag_some", **counts), LESS_LOAD)
    elif p99_s > _limit(summary, LAG_WARNING_S, LAG_WARNING_SHARE):
        yield Warning("send_lag", WARNING, _late(summary, p99_s), LESS_LOAD)


def _late(summary: StageSummary, p99_s: float) -> Message:
    """The lateness beside what it bears on: the median TTFT, or of whole responses their E2E latency."""
    ttft_s, e2e_s = (summary.metrics[metric].p50 for metric in ("ttft", "e2e"))
    if ttft_s is not None:
        return message("analysis.send_lag_ttft", p99_s=p99_s, value_s=ttft_s)
    if e2e_s is not None:
        return message("analysis.send_lag_e2e", p99_s=p99_s, value_s=e2e_s)
    return message("analysis.send_lag", p99_s=p99_s)


def _reaction(summary: StageSummary, lag_s: float) -> Iterator[Warning]:
    """Users of a closed loop that sent their next request late: the load was lighter than so many users are."""
    e2e_s = summary.metrics["e2e"].mean
    if e2e_s and lag_s > REACTION_WARNING * e2e_s:
        text = message("analysis.reaction", lag_s=lag_s, share=lag_s / e2e_s)
        yield Warning("send_lag", INVALID if lag_s > REACTION_INVALID * e2e_s else WARNING, text, LESS_LOAD)


def stamps(evidence: Evidence) -> Iterator[Warning]:
    """What the client may have added to a latency, by its own account."""
    summary, limited = evidence.summary, {(o.metric, o.statistic) for o in evidence.stage.objectives}
    if summary.client.clock != KERNEL:
        if summary.account.completed and len(evidence.watched("client", "clock_bound_s")):
            yield Warning("reader_stamps", NOTE, message("analysis.reader_stamps"), message("analysis.next_linux"))
        return
    errors = [error for error in _errors_of(summary) if error[0] > ERROR_WARNING]
    if not errors:
        return
    # A tail may be off by more than a mean and say less of the result: what spoils it is told first.
    spoiled = [error for error in errors if _decides(error, limited) and error[0] > MOST_ERROR]
    share, metric, statistic, bound_s, value_s = max(spoiled or errors)
    times = {"value_s": value_s, "bound_s": bound_s, "share": share}
    text = message("analysis.client_error", metric=NAMES[metric], statistic=statistic, **times)
    yield Warning("client_error", INVALID if spoiled else WARNING, text, LESS_LOAD)
    marked = [error for error in errors if error[0] > MOST_ERROR]
    if marked and not spoiled:
        names = [statistic_name(metric, statistic) for _, metric, statistic, _, _ in marked]
        text = message("analysis.statistics_invalid", statistics=names, most=MOST_ERROR)
        yield Warning("statistics_invalid", WARNING, text, LESS_LOAD)


def _decides(error: LatencyError, limited: set[tuple[str, str]]) -> bool:
    """Whether the result stands or falls with this number: a middle, or one that has an objective."""
    _, metric, statistic, _, _ = error
    return statistic in ("mean", "p50") or (metric, statistic) in limited


def _errors_of(summary: StageSummary) -> Iterator[LatencyError]:
    """Everything that the client may have spoiled."""
    for metric, bounds in summary.client.bounds.items():
        for statistic, bound_s in bounds.items():
            value_s = getattr(summary.metrics[metric], statistic)
            if value_s and bound_s:
                yield bound_s / value_s, metric, statistic, bound_s, value_s


def clock_step(evidence: Evidence) -> Iterator[Warning]:
    """The kernel's stamps are of the wall clock, and somebody set it."""
    step_s = float(evidence.watched("client", "clock_step_s").max(initial=0.0))
    if step_s > CLOCK_STEP_INVALID_S and evidence.summary.client.clock == KERNEL:
        text = message("analysis.clock_step", step_s=step_s)
        yield Warning("clock_step", INVALID, text, message("analysis.next_clock"))


def starved(evidence: Evidence) -> Iterator[Warning]:
    """An engine on the client's host that wanted a core while the client had it, for a part of the time that matters.

    The client can have taken no more than it used, and the engine lost no more than it waited: the smaller of both,
    as a share of the time. What an engine of many threads waits for its own threads, or for others, is not counted.
    """
    waited = evidence.watched("host", "engine_wait_cores")
    client = evidence.watched("client", "cpu_share")
    if not (len(waited) and len(client)):
        return
    clients = len({source for source in evidence.samples.source if str(source).startswith("client")})
    share = min(float(waited.mean()), float(client.mean()) * clients)
    if share > STARVED_WARNING:
        severity = INVALID if share > STARVED_INVALID else WARNING
        text = message("analysis.engine_starved", share=min(1.0, share))
        yield Warning("engine_starved", severity, text, message("analysis.next_own_cores"))


def stolen(evidence: Evidence) -> Iterator[Warning]:
    """Time that the host of this virtual machine gave to others: whoever wanted a core then was slower."""
    shares = evidence.watched("host", "host_steal_share")
    share = float(shares.mean()) if len(shares) else 0.0
    if share > STOLEN_WARNING:
        text = message("analysis.host_stolen", share=share)
        yield Warning("host_stolen", WARNING, text, message("analysis.next_own_machine"))


def _own_lags(evidence: Evidence) -> Floats:
    """send_lag less the time to open a connection, which is the network's and the server's, in seconds."""
    r, summary = evidence.stage.requests, evidence.summary
    chosen = request_masks(r, summary.window, summary.span).sent & (r.ready_ns != MISSING)
    return np.asarray((r.sent_ns - r.ready_ns - np.maximum(0, r.connect_ns))[chosen] / NS_PER_S)


def _limit(summary: StageSummary, least_s: float, share: float) -> float:
    """A time too short to matter: the larger of `least_s` and a share of the median TTFT."""
    return max(least_s, share * (summary.metrics["ttft"].p50 or 0.0))


def ceiling(evidence: Evidence) -> Iterator[Warning]:
    """Load near what the last selfcheck reached; its server sends a token an event, so events count."""
    most = (evidence.selfcheck or {}).get("ceiling_tokens_per_s")
    rate = evidence.summary.rates.event
    if not most or not rate or rate / most < CEILING_WARNING:
        return
    # A warning and no verdict: the selfcheck may have been taken on a worse day. What this run's own client
    # shows of itself (its CPU, its lag) decides whether it is valid.
    text = message("analysis.ceiling", rate=rate, share=rate / most, ceiling=most)
    yield Warning("ceiling", WARNING, text, LESS_LOAD)


def floor(evidence: Evidence) -> Iterator[Warning]:
    """Latencies so short that what the client adds, by the last selfcheck, is a tenth of them."""
    selfcheck = evidence.selfcheck or {}
    metrics = evidence.summary.metrics
    pairs = (
        ("floor_ttft_s", "analysis.floor_ttft", metrics["ttft"].p50),
        ("floor_gap_p99_s", "analysis.floor_gap", metrics["chunk_gap"].p99),
    )
    for key, code, value_s in pairs:
        added_s = selfcheck.get(key)
        if added_s and value_s is not None and added_s > FLOOR_SHARE * value_s:
            text = message(code, value_s=value_s, added_s=added_s)
            yield Warning("floor", WARNING, text, message("analysis.next_same_client"))


def merged_reads(evidence: Evidence) -> Iterator[Warning]:
    """Events that came in the same read as the one before: read late, or sent together."""
    share, client = evidence.summary.merged_share, evidence.summary.client
    if client.clock == KERNEL:
        if client.blurred_share and client.blurred_share > MERGED_SHARE:
            text = message("analysis.blurred_reads", share=client.blurred_share)
            yield Warning("merged_reads", WARNING, text, LESS_LOAD)
    elif share is not None and share > MERGED_SHARE:
        severity = WARNING if evidence.watched("client", "cpu_share").max(initial=0) >= CPU_BUSY else NOTE
        text = message("analysis.merged_reads", share=share)
        yield Warning("merged_reads", severity, text, message("analysis.next_stream_interval"))


CLIENT_CHECKS = (stamps, clock_step, starved, stolen, cpu, paused, loop_lag, send_lag, ceiling, floor, merged_reads)
