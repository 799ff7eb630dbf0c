"""Was the server measured, or the client?

Each check looks at one stage and yields its doubts. Only here, and where nothing was measured,
a result is called invalid: a client that could not keep up reports its own slowness as the
server's.
"""

from collections.abc import Iterator

import numpy as np

from harness.analysis.client_error import KERNEL
from harness.analysis.members import members
from harness.analysis.metrics import StageSummary
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.messages import plain
from harness.results.request_table import MISSING
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S, format_count, format_duration, format_rate, format_share, significant

CPU_FULL = 0.95  # of a core; the rest is the clock's and the kernel's, so a loop at 95 % has no time left
CPU_BUSY = 0.8  # above, waiting for the core lengthens as 1 / (1 - share): fivefold
LAG_INVALID_S = 0.005  # half a token's gap of a fast engine: arrivals this late are no longer those asked for
LAG_INVALID_SHARE = 0.1  # of the median TTFT: no difference below a tenth would be the server's
LAG_DOUBT_S = 0.003  # what this client keeps at 500 requests/s on two cores
LAG_DOUBT_SHARE = 0.02
LATE_REQUESTS = 3  # fewer late ones may be a single hiccup, however few requests there are
LATE_SHARE = 0.01
LATE_SAMPLES = 0.1  # each is the worst of a quarter second: a lag every few seconds
CEILING_DOUBT = 0.7  # of the events/s that the selfcheck reached: queues at the client begin
FLOOR_SHARE = 0.1  # of a value that the client itself adds, by the selfcheck
MERGED_SHARE = 0.05  # of events; a few share a read on any network

PAUSED_S = 1.0  # fifty beats of a worker: no load of its own holds one up so long
PARENT, PAUSED = "harness", "paused_s"  # the leading process notes where it did not run
ERROR_INVALID = 0.1  # of a value that the client may have added: no difference below a tenth would be the server's
ERROR_DOUBT = 0.02
CLOCK_STEP_INVALID_S = 0.001  # the wall clock was set: what arrived just then has a stamp that is off by as much
REACTION_INVALID = 0.1  # of an answer's time: users of a closed loop went on so much later, and the load was less
REACTION_DOUBT = 0.03  # as much as the selfcheck lets the client fall short of the rate that was possible
STOLEN_DOUBT = 0.05  # of all cores that the host of a virtual machine had given to others
STARVED_DOUBT = 0.1  # of the time, in which the engine wanted a core that the client had: a tenth is no longer noise
STARVED_INVALID = 0.3

FEWER = "Use more workers, a faster or less busy client machine, or less load."


def cpu(evidence: Evidence) -> Iterator[Warning]:
    """A worker whose core was full stamps late: `cpu_share` of the clients."""
    shares = evidence.watched("client", "cpu_share")
    if len(shares) == 0:
        return
    full, top = float((shares >= CPU_FULL).mean()), format_share(float(np.percentile(shares, 90)))
    if evidence.summary.client.clock == KERNEL:  # stamps do not depend on it; what else it spoils has its own checks
        if full >= 0.5:
            text = f"A client process had no time left on its core in {format_share(full)} of the samples."
            yield Warning("client_cpu", WARNING, plain(text), plain(FEWER))
    elif full >= 0.5:
        text = f"A client process had no time left on its core in {format_share(full)} of the samples: it was measured."
        yield Warning("client_cpu", INVALID, plain(text), plain(FEWER))
    elif np.percentile(shares, 90) >= CPU_BUSY:
        text = f"A client process used up to {top} of its core, so some answers may have been stamped late."
        yield Warning("client_cpu", WARNING, plain(text), plain(FEWER))


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
        who = "The harness' own process" if source == PARENT else f"Load worker {source.removeprefix('client-')}"
        text = (
            f"{who} did not run for {format_duration(lasted_s)}, up to {significant(at_s)} s after the run began: "
            "the client was stopped, and what came or was due then is late by that."
        )
        yield Warning("paused", INVALID, plain(text), plain(NOT_STOPPED))


NOT_STOPPED = "Run again, and let it run: no Ctrl-Z, no frozen container, no suspended or overloaded client machine."


def loop_lag(evidence: Evidence) -> Iterator[Warning]:
    """An event loop that wakes late stamps late: `loop_lag_s` of the clients."""
    if evidence.summary.client.clock == KERNEL:
        return
    lags = evidence.watched("client", "loop_lag_s")
    limit = _limit(evidence.summary, LAG_DOUBT_S, LAG_DOUBT_SHARE)
    late = int((lags > limit).sum())
    if late:
        text = (
            f"In {format_count(late)} of {format_count(len(lags))} samples the client's event loop woke more than "
            f"{format_duration(limit)} late, at most {format_duration(float(lags.max()))}: what arrived then was "
            "stamped late."
        )
        often = late >= LATE_REQUESTS and late > LATE_SAMPLES * len(lags)
        yield Warning("loop_lag", WARNING if often else NOTE, plain(text), plain(FEWER))


def send_lag(evidence: Evidence) -> Iterator[Warning]:
    """Requests that left the client late, opening a connection not counted."""
    lags = _own_lags(evidence)
    if len(lags) == 0:
        return
    summary = evidence.summary
    if not summary.is_open:
        yield from _reaction(summary, float(lags.mean()))
        return
    limit, p99 = _limit(summary, LAG_INVALID_S, LAG_INVALID_SHARE), float(np.percentile(lags, 99))
    late = int((lags > limit).sum())
    text = (
        f"{format_count(late)} of {format_count(len(lags))} requests left the client more than "
        f"{format_duration(limit)} late (p99 {format_duration(p99)})"
    )
    if late >= LATE_REQUESTS and late > LATE_SHARE * len(lags):
        yield Warning("send_lag", INVALID, plain(f"{text}: the arrivals asked for did not happen."), plain(FEWER))
    elif late:
        yield Warning("send_lag", WARNING, plain(f"{text}."), plain(FEWER))
    elif p99 > _limit(summary, LAG_DOUBT_S, LAG_DOUBT_SHARE):
        yield Warning("send_lag", WARNING, plain(_late(summary, format_duration(p99))), plain(FEWER))


def _late(summary: StageSummary, p99: str) -> str:
    """The lateness beside what it bears on: a median TTFT, or of whole answers their time, where there were any."""
    ttft, e2e = (summary.metrics[metric].p50 for metric in ("ttft", "e2e"))
    if ttft is not None:
        return f"Requests left the client up to {p99} late (p99), beside a median TTFT of {format_duration(ttft)}."
    if e2e is not None:
        whole = format_duration(e2e)
        return f"Requests left the client up to {p99} late (p99), beside a median time of an answer of {whole}."
    return f"Requests left the client up to {p99} late (p99)."


def _reaction(summary: StageSummary, lag_s: float) -> Iterator[Warning]:
    """Users of a closed loop that sent their next request late: the load was lighter than so many users are."""
    e2e_s = summary.metrics["e2e"].mean
    if e2e_s and lag_s > REACTION_DOUBT * e2e_s:
        text = (
            f"Users sent their next request {format_duration(lag_s)} late on average, {format_share(lag_s / e2e_s)} of "
            "the time of an answer: the load was lighter than asked for."
        )
        yield Warning("send_lag", INVALID if lag_s > REACTION_INVALID * e2e_s else WARNING, plain(text), plain(FEWER))


def stamps(evidence: Evidence) -> Iterator[Warning]:
    """What the client may have added to a latency, by its own account."""
    summary, asked = evidence.summary, {(o.metric, o.statistic) for o in evidence.stage.objectives}
    if summary.client.clock != KERNEL:
        if summary.account.completed and len(evidence.watched("client", "clock_bound_s")):
            text = "The kernel gave no arrival stamps: times are those of the client's own reads."
            yield Warning(
                "reader_stamps", NOTE, plain(text), plain("Measure from Linux, where the kernel stamps what arrives.")
            )
        return
    worst = max(_errors_of(summary), default=None)
    if worst is None or worst[0] <= ERROR_DOUBT:
        return
    share, metric, statistic, bound_s, value_s = worst
    central = statistic in ("mean", "p50") or (metric, statistic) in asked
    text = (
        f"The client read answers late: {metric} {statistic}, {format_duration(value_s)}, may be off by "
        f"{format_duration(bound_s)} ({format_share(share)})."
    )
    yield Warning("client_error", INVALID if central and share > ERROR_INVALID else WARNING, plain(text), plain(FEWER))


def _errors_of(summary: StageSummary) -> Iterator[tuple[float, str, str, float, float]]:
    """Share, metric, statistic, bound and value (s) of everything that the client may have spoiled."""
    for metric, bounds in summary.client.bounds.items():
        for statistic, bound_s in bounds.items():
            value_s = getattr(summary.metrics[metric], statistic)
            if value_s:
                yield bound_s / value_s, metric, statistic, bound_s, value_s


def clock_step(evidence: Evidence) -> Iterator[Warning]:
    """The kernel's stamps are of the wall clock, and somebody set it."""
    step_s = float(evidence.watched("client", "clock_step_s").max(initial=0.0))
    if step_s > CLOCK_STEP_INVALID_S and evidence.summary.client.clock == KERNEL:
        text = f"The wall clock was set by {format_duration(step_s)} during the run: stamps of that moment are wrong."
        yield Warning(
            "clock_step",
            INVALID,
            plain(text),
            plain("Run again; let the clock be slewed and not set while a run goes on."),
        )


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
    if share > STARVED_DOUBT:
        text = (
            f"The engine on this host waited for a core for up to {format_share(min(1.0, share))} of the time while "
            "the client had it: it is faster with cores of its own."
        )
        severity = INVALID if share > STARVED_INVALID else WARNING
        yield Warning(
            "engine_starved", severity, plain(text), plain("Run the client on another host, or on cores of its own.")
        )


def stolen(evidence: Evidence) -> Iterator[Warning]:
    """Time that the host of this virtual machine gave to others: whoever wanted a core then was slower."""
    shares = evidence.watched("host", "host_steal_share")
    share = float(shares.mean()) if len(shares) else 0.0
    if share > STOLEN_DOUBT:
        text = (
            f"This virtual machine was kept from its cores {format_share(share)} of the time: the client, and an "
            "engine on it, were slower for that."
        )
        yield Warning("host_stolen", WARNING, plain(text), plain("Run on a machine, or on cores, of its own."))


def _own_lags(evidence: Evidence) -> Floats:
    """send_lag less the time to open a connection, which is the network's and the server's, in seconds."""
    r, summary = evidence.stage.requests, evidence.summary
    chosen = members(r, summary.window, summary.span).sent & (r.ready_ns != MISSING)
    return np.asarray((r.sent_ns - r.ready_ns - np.maximum(0, r.connect_ns))[chosen] / NS_PER_S)


def _limit(summary: StageSummary, least_s: float, share: float) -> float:
    """A time too short to matter: the larger of `least_s` and a share of the median TTFT."""
    return max(least_s, share * (summary.metrics["ttft"].p50 or 0.0))


def ceiling(evidence: Evidence) -> Iterator[Warning]:
    """Load near what the last selfcheck reached; its server sends a token an event, so events count."""
    most = (evidence.selfcheck or {}).get("ceiling_tokens_per_s")
    rate = evidence.summary.rates.event
    if not most or not rate or rate / most < CEILING_DOUBT:
        return
    text = (
        f"{format_rate(rate, 'events/s')} arrived, {format_share(rate / most)} of the "
        f"{format_rate(most, 'events/s')} that this client managed in its selfcheck"
    )
    # A doubt and no verdict: the selfcheck may have been taken on a worse day. What this run's own client
    # shows of itself (its CPU, its lag) decides whether it is valid.
    yield Warning("ceiling", WARNING, plain(f"{text}."), plain(FEWER))


def floor(evidence: Evidence) -> Iterator[Warning]:
    """Latencies so short that what the client adds, by the last selfcheck, is a tenth of them."""
    selfcheck = evidence.selfcheck or {}
    metrics = evidence.summary.metrics
    pairs = (
        ("floor_ttft_s", "the median TTFT", metrics["ttft"].p50),
        ("floor_gap_p99_s", "the p99 gap between events", metrics["chunk_gap"].p99),
    )
    for key, name, value in pairs:
        added = selfcheck.get(key)
        if added and value is not None and added > FLOOR_SHARE * value:
            text = (
                f"Of {name}, {format_duration(value)}, the client itself may have added {format_duration(added)}, "
                "as it did in its selfcheck."
            )
            yield Warning(
                "floor",
                WARNING,
                plain(text),
                plain("Compare such short times only between runs of the same client machine."),
            )


def merged_reads(evidence: Evidence) -> Iterator[Warning]:
    """Events that came in the same read as the one before: read late, or sent together."""
    share, client = evidence.summary.merged_share, evidence.summary.client
    if client.clock == KERNEL:
        if client.blurred_share and client.blurred_share > MERGED_SHARE:
            text = (
                f"{format_share(client.blurred_share)} of events were read late, together with a later one: gaps "
                "between single tokens are not exact."
            )
            yield Warning("merged_reads", WARNING, plain(text), plain(FEWER))
    elif share is not None and share > MERGED_SHARE:
        text = (
            f"{format_share(share)} of events came in the same read as the one before: the client or the network "
            "was late, or the server sends several at once. Gaps between single tokens are not exact."
        )
        severity = WARNING if evidence.watched("client", "cpu_share").max(initial=0) >= CPU_BUSY else NOTE
        yield Warning(
            "merged_reads",
            severity,
            plain(text),
            plain("Look at the client's CPU and at the server's stream interval."),
        )


CLIENT_CHECKS = (stamps, clock_step, starved, stolen, cpu, paused, loop_lag, send_lag, ceiling, floor, merged_reads)
