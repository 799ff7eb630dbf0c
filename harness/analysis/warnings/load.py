"""Why might the numbers of a run not mean what they seem to, and what should be done?

Each check looks at one stage, or at the whole run, and yields its doubts in plain words with
the next step. What the client itself may have spoiled is in client_checks.py.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis.invariants import invariants
from harness.analysis.steady_state import OFFLINE, WHOLE_CALL
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.analysis.warnings.client import CLIENT_CHECKS
from harness.analysis.warnings.engine import DEVICE_CHECKS, ENGINE_CHECKS, restarted
from harness.analysis.warnings.tokens import TOKEN_CHECKS
from harness.messages import plain
from harness.results.request_table import MEASURED, MISSING, WARMUP, Requests, Samples
from harness.statistics.intervals import PERCENTILES, samples_needed
from harness.units import NS_PER_S, format_count, format_duration, format_rate, format_share
from harness.workload.data_files import LEFT_OUT

ERRORS_DOUBT = 0.01  # of requests: a p99 no longer says what the slowest hundredth of users saw
# Of the requests that came to an end. Above it the latencies are those of a chosen part of the users, the requests that
# failed left the others more of the engine, and no percentile from p90 on has a bound.
ERRORS_INVALID = 0.10
OFFERED_LEAST = 0.95  # of the offered rate that was sent; less, and another load was measured
SHORT_S = 10.0  # a window too short for slow changes (caches, clocks, garbage collection) to show
FILLING_FEWEST = 30  # answers: below, the few at the edges are all that differs
FILLING_DOUBT = 1.15  # tokens that came, of those of answers that ended
FILLING_SURE = 2.0  # standard deviations of a Poisson number under way, by which both edges differ in a steady state
RESENT_NOTE = 0.01  # of requests
MOST_CHANCE_HITS = 0.02  # of prompt tokens found in the prefix cache though no prompts begin alike


def find_warnings(evidence: Sequence[Evidence], requests: Requests, run: Mapping[str, Any]) -> tuple[Warning, ...]:
    """All doubts of a run, the gravest first; `requests` are all its rows."""
    found = list(_run_doubts(evidence, requests, run))
    repeated = any(one.summary.span.repeat for one in evidence)
    for one in evidence:
        span = one.summary.span
        found += [
            replace(warning, stage=span.stage, repeat=span.repeat if repeated else None)
            for check in (*CLIENT_CHECKS, *DEVICE_CHECKS, *STAGE_CHECKS)
            for warning in check(one)
        ]
    order = {INVALID: 0, WARNING: 1, NOTE: 2}
    once = {json.dumps(warning.as_dict(), sort_keys=True): warning for warning in found}
    return tuple(sorted(once.values(), key=lambda warning: order[warning.severity]))


def _run_doubts(evidence: Sequence[Evidence], requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    if not any(one.summary.account.completed for one in evidence):
        text = "No request was answered: nothing was measured."
        yield Warning(
            "nothing_measured", INVALID, plain(text), plain("See the errors, and engine.log for what the engine said.")
        )
    yield from cached_before(evidence, run)
    if evidence:
        yield from restarted(evidence[0].samples, run)
    for check in RUN_CHECKS:
        yield from check(requests, run)


def cached_before(evidence: Sequence[Evidence], run: Mapping[str, Any]) -> Iterator[Warning]:
    """Prompts that share nothing among themselves and are found in the prefix cache were sent before this run."""
    if not evidence or run.get("shares_prompts", True):
        return
    samples = evidence[0].samples
    asked, hit = (_risen(samples, f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits"))
    if asked > 0 and hit > MOST_CHANCE_HITS * asked:
        text = (
            f"The engine found {format_share(hit / asked)} of the prompts' tokens in its prefix cache, though no two "
            "prompts of this run begin alike: it has seen them before."
        )
        yield Warning(
            "cached_before", WARNING, plain(text), plain("Use another --seed, or restart the engine between runs.")
        )


def _risen(samples: Samples, name: str) -> float:
    """By how much a counter of the server rose while it was watched."""
    values = samples.value[(samples.name == name) & (samples.source == "server")]
    return float(values[-1] - values[0]) if len(values) > 1 else 0.0


def simulated(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Numbers of the embedded engine are no measurement."""
    if (run.get("engine") or {}).get("simulated"):
        text = "The engine was simulated: these numbers come from a model of an NPU and are no measurement."
        how = "--engine vllm-ascend on a machine with an NPU" if _is_offline(run) else "--url against a real engine"
        yield Warning("simulated", NOTE, plain(text), plain(f"Run the same scenario with {how}."))


def hollow(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """An engine on a stand-in for its device computes nothing, whatever its times are."""
    if (run.get("engine") or {}).get("hollow"):
        text = "The engine ran on a hollow CANN that computes nothing: no number here is a measurement."
        yield Warning(
            "hollow", INVALID, plain(text), plain("Run the same scenario on a machine with an NPU and the real CANN.")
        )


def selfcheck_known(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Without a selfcheck nobody knows how near the client was to its own limits."""
    if not (run.get("client") or {}).get("selfcheck") and not _is_offline(run):
        text = "How exact this client is on this machine is not known."
        yield Warning("no_selfcheck", NOTE, plain(text), plain("Run harness selfcheck once on this machine."))


def warm_up(requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """First requests of a cold engine pay for compilation and empty caches."""
    if len(requests) and not bool((requests.phase == WARMUP).any()) and not (run.get("engine") or {}).get("simulated"):
        text = "There was no warm-up: the first requests may include compilation and cold caches."
        yield Warning("no_warmup", NOTE, plain(text), plain("Add warmup: {requests: 8} to the scenario."))


def dataset_repeated(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Prompts that come again are found in a prefix cache; run.json's `dataset` has `size` and `drawn`."""
    dataset = run.get("dataset") or {}
    if dataset.get("drawn", 0) > dataset.get("size", dataset.get("drawn", 0)):
        text = (
            f"{format_count(dataset['drawn'])} prompts were drawn from {format_count(dataset['size'])}: some came "
            "again, and a prefix cache answers those sooner."
        )
        yield Warning(
            "dataset_repeated", WARNING, plain(text), plain("Use a larger dataset, fewer requests, or no prefix cache.")
        )


def streamed(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """An answer that comes whole shows no first token."""
    if not run.get("stream", True):
        text = "Answers were not streamed: TTFT, TPOT and gaps between tokens cannot be seen."
        yield Warning("not_streamed", NOTE, plain(text), plain("Set stream: true to measure them."))


def offline(requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Without a client, the times of tokens are those that the engine itself notes."""
    if not _is_offline(run) or (run.get("engine") or {}).get("simulated"):
        return
    known = bool((requests.first_ns != MISSING).any())
    text = (
        "Nobody watched the tokens come: an answer's first and last token are timed by vLLM's own clock, and gaps "
        "between tokens are not known."
        if known
        else "vLLM noted no times of tokens: only when each answer was whole is known."
    )
    mend = "Take a load with arrivals to see latencies." if known else "Leave out disable_log_stats to have them."
    yield Warning("offline_times", NOTE, plain(text), plain(mend))


def _is_offline(run: Mapping[str, Any]) -> bool:
    return any(load.get("kind") == OFFLINE for load in run.get("stages") or ())


_MEND_FILE = "Mend these rows, or leave it so: the run is of the other rows of the file."


def remarks(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """What the workload itself has to say of its prompts."""
    for remark in run.get("notes") or ():
        sentence = str(remark)[:1].upper() + str(remark)[1:]
        mend = _MEND_FILE if LEFT_OUT in sentence else "See the token audit for what was really counted."
        yield Warning("workload", NOTE, plain(sentence.rstrip(".") + "."), plain(mend))


RUN_CHECKS = (*ENGINE_CHECKS, simulated, hollow, selfcheck_known, warm_up, dataset_repeated, streamed, offline, remarks)


def errors(evidence: Evidence) -> Iterator[Warning]:
    """Failed requests, by name."""
    account = evidence.summary.account
    if account.failed:
        names = ", ".join(f"{name} {format_count(count)}" for name, count in evidence.summary.errors.items())
        share = account.failed / (account.failed + account.completed)  # of those never sent nothing is known
        text = f"{format_count(account.failed)} of {format_count(account.scheduled)} requests failed ({names})."
        severity = INVALID if share > ERRORS_INVALID else WARNING if share > ERRORS_DOUBT else NOTE
        mend = (
            "Latencies leave failed requests out, limits count each as infinitely late. "
            "See Errors on the page and engine.log."
        )
        yield Warning("errors", severity, plain(text), plain(mend))


def interrupted(evidence: Evidence) -> Iterator[Warning]:
    """Requests that were cancelled or never sent."""
    account = evidence.summary.account
    if account.cancelled or account.never_sent:
        text = (
            f"The stage did not run to its end: {format_count(account.cancelled)} requests were cancelled and "
            f"{format_count(account.never_sent)} never sent."
        )
        yield Warning("interrupted", WARNING, plain(text), plain("Run it again to the end."))


def steady(evidence: Evidence) -> Iterator[Warning]:
    """A queue that grew, no steady state, or too little to tell."""
    window = evidence.summary.window
    if window.grew:
        text = f"{window.text} Latencies depend on how long it ran."
        yield Warning(
            "queue_grew",
            WARNING,
            plain(text),
            plain("Offer a lower rate, or run longer if the engine was only filling up."),
        )
    elif window.steady is False:
        yield Warning("not_steady", WARNING, plain(window.text), plain("Run the stage longer, or warm up more."))
    elif window.steady is None and not window.first_wave and evidence.summary.account.completed:
        if window.method == WHOLE_CALL:
            return  # a batch has a begin and an end, and both are its own
        text = f"Whether this was a steady state cannot be told. {window.text}"
        yield Warning("steady_unknown", NOTE, plain(text), plain("Run the stage longer."))


def first_wave(evidence: Evidence) -> Iterator[Warning]:
    """Requests of a closed loop that were all sent at once, and count."""
    window, account = evidence.summary.window, evidence.summary.account
    if window.first_wave and account.completed:
        text = (
            f"{format_count(window.first_wave)} of {format_count(account.sent)} requests were sent at once and waited "
            f"for each other: TTFT is that of a first wave. {window.text}"
        )
        yield Warning(
            "first_wave",
            WARNING,
            plain(text),
            plain("Send at least eight times as many requests as at once, or warm up."),
        )


def few_samples(evidence: Evidence) -> Iterator[Warning]:
    """Percentiles that rest on too few requests; graver where an objective asks for one."""
    n = evidence.summary.metrics["e2e"].n
    asked = {float(o.statistic[1:]) for o in evidence.stage.objectives if o.statistic.startswith("p")}
    shown = set() if evidence.summary.window.method == WHOLE_CALL else {PERCENTILES[-1]}  # a batch is not about tails
    unsure = sorted(p for p in asked | shown if n < samples_needed(p))
    if n and unsure:
        needs = ", ".join(f"p{p:g} ({format_count(samples_needed(p))} needed)" for p in unsure)
        text = f"{format_count(n)} answers are too few to bound {needs} from above with 95 % confidence."
        severity = WARNING if asked & set(unsure) else NOTE
        yield Warning("few_samples", severity, plain(text), plain("Run the stage longer."))


def short(evidence: Evidence) -> Iterator[Warning]:
    """A window that is too short for slow changes to show."""
    length_s = evidence.summary.window.length_s
    if evidence.summary.account.completed and length_s < SHORT_S:
        text = f"Only {format_duration(length_s)} were measured; slower changes of the engine cannot show."
        yield Warning(
            "short", NOTE, plain(text), plain(f"Measure at least {format_duration(SHORT_S)}, better minutes.")
        )


def offered_rate(evidence: Evidence) -> Iterator[Warning]:
    """Fewer requests a second were sent than were due."""
    r, start_ns = evidence.stage.requests, evidence.summary.span.start_ns
    sent = (r.phase == MEASURED) & (r.sent_ns != MISSING)
    if not evidence.summary.is_open or int(sent.sum()) < 2:
        return
    due_s, sent_s = ((times[sent].max() - start_ns) / NS_PER_S for times in (r.due_ns, r.sent_ns))
    if due_s > 0 and due_s / sent_s < OFFERED_LEAST:
        n = int(sent.sum())
        text = (
            f"{format_rate(n / due_s, 'req/s')} were offered, and {format_rate(n / sent_s, 'req/s')} could be sent: "
            "requests waited for a slot of max_concurrency, or for the client."
        )
        yield Warning(
            "offered_rate", WARNING, plain(text), plain("Offer a lower rate or raise max_concurrency; see queue_wait.")
        )


def unmeasured_slo(evidence: Evidence) -> Iterator[Warning]:
    """Objectives that nothing was measured for."""
    keys = [outcome.objective.key for outcome in evidence.summary.outcomes if outcome.met is None]
    if keys:
        text = f"Whether {', '.join(keys)} was met cannot be told: no request shows it."
        yield Warning(
            "slo_unmeasured", WARNING, plain(text), plain("Stream the answers, and ask for more than one token.")
        )


def resent(evidence: Evidence) -> Iterator[Warning]:
    """Requests sent again because the server had closed an idle connection."""
    r = evidence.stage.requests
    count = int(np.count_nonzero((r.phase == MEASURED) & (r.resends > 0)))
    if count > RESENT_NOTE * max(1, evidence.summary.account.scheduled):
        text = f"{format_count(count)} requests were sent again, as the server had closed their idle connection."
        yield Warning("resent", NOTE, plain(text), plain("Raise the server's keep-alive timeout."))


def still_filling(evidence: Evidence) -> Iterator[Warning]:
    """Tokens of an open loop that came faster than answers ended: what goes in is still more than what comes out."""
    summary = evidence.summary
    came, ended, counted = summary.rates.arrived or 0.0, summary.rates.output_token or 0.0, summary.counted
    more = (came - ended) * summary.window.rates_s * counted.requests / max(1, counted.output_tokens)  # answers
    by_chance = FILLING_SURE * math.sqrt(summary.concurrency_mean or 0.0)
    filling = (more > by_chance or summary.window.filling) and came > FILLING_DOUBT * ended
    if summary.is_open and counted.requests >= FILLING_FEWEST and filling:
        text = (
            f"{format_rate(came, 'tokens/s')} came out, and the answers that ended meanwhile hold "
            f"{format_rate(ended, 'tokens/s')}: the engine was still filling, and the stage's rates are lower bounds."
        )
        yield Warning(
            "still_filling", WARNING, plain(text), plain("Run the stage longer, so that as many requests end as begin.")
        )


def warm_up_left(evidence: Evidence) -> Iterator[Warning]:
    """Answers of the warm-up that went on where rates count: they take the place of answers that would count."""
    window = evidence.summary.window
    if window.warmup_left and evidence.summary.account.completed:
        text = (
            f"{format_count(window.warmup_left)} answers of the warm-up were still under way in the second half of the "
            "window: they count in no rate, and the rates are too low by what they took."
        )
        yield Warning(
            "warmup_left", WARNING, plain(text), plain("Run the stage longer, or warm up with fewer requests.")
        )


STAGE_CHECKS = (
    invariants,
    errors,
    interrupted,
    steady,
    first_wave,
    few_samples,
    short,
    offered_rate,
    *TOKEN_CHECKS,
    unmeasured_slo,
    warm_up_left,
    still_filling,
    resent,
)
