"""All warnings of a run, and the checks of its load: failures, steady state, sample sizes, what was really sent.

Each check looks at one stage, or at the whole run, and yields its warnings with the next step.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis.answer import error_counts
from harness.analysis.steady_state import OFFLINE, WHOLE_CALL
from harness.analysis.warnings import INVALID, NOTE, WARNING, Evidence, Warning
from harness.analysis.warnings.client import CLIENT_CHECKS
from harness.analysis.warnings.engine import ENGINE_CHECKS, ENGINE_STAGE_CHECKS, restarted, uncounted
from harness.analysis.warnings.records import TOKEN_CHECKS, invariants
from harness.messages import Message, message, message_from, plain, sentences
from harness.results.request_table import MEASURED, MISSING, WARMUP, Requests, Samples
from harness.results.store import in_virtual_time
from harness.scenario.metrics import LATENCIES
from harness.scenario.request_kinds import POOLED
from harness.scenario.workload import RANDOM
from harness.statistics.intervals import PERCENTILES, samples_needed
from harness.telemetry.server_metrics import DRAFTS, HITS, QUERIES
from harness.units import NS_PER_S
from harness.workload.data_files import LEFT_OUT

ERRORS_WARNING = 0.01  # of requests: a p99 no longer says what the slowest hundredth of users saw
# Of the requests that came to an end. Above it the latencies are those of a chosen part of the users, the requests that
# failed left the others more of the engine, and no percentile from p90 on has a bound.
ERRORS_INVALID = 0.10
OFFERED_LEAST = 0.95  # of the offered rate that was sent; less, and another load was measured
SHORT_S = 10.0  # a window too short for slow changes (caches, clocks, garbage collection) to show
FILLING_FEWEST = 30  # answers: below, the few at the edges are all that differs
FILLING_WARNING = 1.15  # tokens that came, of those of answers that ended
FILLING_SURE = 2.0  # standard deviations of a Poisson number under way, by which both edges differ in a steady state
RESENT_NOTE = 0.01  # of requests
MOST_CHANCE_HITS = 0.02  # of prompt tokens found in the prefix cache though no prompts begin alike


def find_warnings(evidence: Sequence[Evidence], requests: Requests, run: Mapping[str, Any]) -> tuple[Warning, ...]:
    """All warnings of a run, the gravest first; `requests` are all its rows."""
    warnings = list(_run_warnings(evidence, requests, run))
    repeated = any(stage.summary.span.repeat for stage in evidence)
    for stage in evidence:
        span = stage.summary.span
        warnings += [
            replace(warning, stage=span.stage, repeat=span.repeat if repeated else None)
            for check in (*(() if stage.stage.virtual else CLIENT_CHECKS), *ENGINE_STAGE_CHECKS, *STAGE_CHECKS)
            for warning in check(stage)
        ]
    order = {INVALID: 0, WARNING: 1, NOTE: 2}
    once = {json.dumps(warning.as_dict(), sort_keys=True): warning for warning in warnings}
    return tuple(sorted(once.values(), key=lambda warning: order[warning.severity]))


def _run_warnings(evidence: Sequence[Evidence], requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    if not any(stage.summary.account.completed for stage in evidence):
        text, step = message("analysis.nothing_measured"), message("analysis.next_errors")
        yield Warning("nothing_measured", INVALID, text, step)
    yield from cached_before(evidence, run)
    yield from random_text(evidence, run)
    if evidence:
        yield from restarted(evidence[0].samples, run)
        yield from uncounted(evidence[0].samples, run)
        yield from shared_host(evidence[0], run)
    for check in RUN_CHECKS:
        yield from check(requests, run)


def cached_before(evidence: Sequence[Evidence], run: Mapping[str, Any]) -> Iterator[Warning]:
    """Prompts that share nothing among themselves and are found in the prefix cache were sent before this run."""
    if not evidence or run.get("shares_prompts", True):
        return
    samples = evidence[0].samples
    queries, hits = (_risen(samples, name) for name in (QUERIES, HITS))
    if queries > 0 and hits > MOST_CHANCE_HITS * queries:
        text = message("analysis.cached_before", share=hits / queries)
        yield Warning("cached_before", WARNING, text, message("analysis.next_seed"))


def random_text(evidence: Sequence[Evidence], run: Mapping[str, Any]) -> Iterator[Warning]:
    """What a model accepts of drafts depends on what it reads; a simulator accepts what its flags say."""
    engine = run.get("engine") or {}
    is_drafting = bool(evidence) and bool((evidence[0].samples.name == DRAFTS).any())
    if run.get("text") == RANDOM and is_drafting and not engine.get("simulated"):
        yield Warning("random_text", WARNING, message("analysis.random_text"), message("analysis.next_real_text"))


def shared_host(evidence: Evidence, run: Mapping[str, Any]) -> Iterator[Warning]:
    """A client on the engine's own host takes some of its CPU; the last selfcheck measured what that can cost."""
    if not bool((evidence.samples.name == "shares_host").any()) or (run.get("engine") or {}).get("simulated"):
        return
    cost = (evidence.selfcheck or {}).get("shared_core")
    if cost is None:
        text = message("analysis.shared_host")
    else:
        added_s, lost = max(0.0, cost["ttft_added_s"]), max(0.0, 1 - cost["rate_share"])
        text = message("analysis.shared_host_cost", count=cost["streams"], added_s=added_s, lost=lost)
    yield Warning("shared_host", NOTE, text, message("analysis.next_own_cores"))


def _risen(samples: Samples, name: str) -> float:
    """By how much a counter of the server rose while it was watched."""
    values = samples.value[(samples.name == name) & (samples.source == "server")]
    return float(values[-1] - values[0]) if len(values) > 1 else 0.0


def simulated(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Numbers of the embedded engine are no measurement."""
    if (run.get("engine") or {}).get("simulated"):
        step = message("analysis.next_real_npu") if _is_offline(run) else message("analysis.next_real_engine")
        text = message("analysis.simulated_virtual" if in_virtual_time(run) else "analysis.simulated")
        yield Warning("simulated", NOTE, text, step)


def hollow(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """An engine on a stand-in for its device computes nothing, whatever its times are."""
    if (run.get("engine") or {}).get("hollow"):
        yield Warning("hollow", INVALID, message("analysis.hollow"), message("analysis.next_real_cann"))


def selfcheck_known(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Without a selfcheck nobody knows how near the client was to its own limits."""
    if not (run.get("client") or {}).get("selfcheck") and not _is_offline(run) and not in_virtual_time(run):
        yield Warning("no_selfcheck", NOTE, message("analysis.no_selfcheck"), message("analysis.next_selfcheck"))


def warm_up(requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """First requests of a cold engine pay for compilation and empty caches."""
    if len(requests) and not bool((requests.phase == WARMUP).any()) and not (run.get("engine") or {}).get("simulated"):
        yield Warning("no_warmup", NOTE, message("analysis.no_warmup"), message("analysis.next_warmup"))


def dataset_repeated(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Prompts that come again are found in a prefix cache; run.json's `dataset` has `size` and `drawn`."""
    dataset = run.get("dataset") or {}
    if dataset.get("drawn", 0) > dataset.get("size", dataset.get("drawn", 0)):
        text = message("analysis.dataset_repeated", drawn=dataset["drawn"], size=dataset["size"])
        yield Warning("dataset_repeated", WARNING, text, message("analysis.next_dataset"))


def streamed(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """An answer that comes whole shows no first token."""
    if not run.get("stream", True) and run.get("endpoint") not in POOLED:
        yield Warning("not_streamed", NOTE, message("analysis.not_streamed"), message("analysis.next_stream"))


def offline(requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """Without a client, the times of tokens are those that the engine itself notes."""
    if not _is_offline(run) or (run.get("engine") or {}).get("simulated"):
        return
    if bool((requests.first_ns != MISSING).any()):
        yield Warning("offline_times", NOTE, message("analysis.offline_times"), message("analysis.next_arrivals"))
    else:
        yield Warning("offline_times", NOTE, message("analysis.offline_whole"), message("analysis.next_log_stats"))


def _is_offline(run: Mapping[str, Any]) -> bool:
    return any(load.get("kind") == OFFLINE for load in run.get("stages") or ())


def _older_note(text: str) -> Message:
    """A note of an earlier version, which wrote text, as a sentence."""
    return plain(text[:1].upper() + text[1:].rstrip(".") + ".")


def remarks(_requests: Requests, run: Mapping[str, Any]) -> Iterator[Warning]:
    """What the workload itself has to say of its prompts."""
    for remark in run.get("notes") or ():
        note = message_from(remark) if isinstance(remark, Mapping) else _older_note(str(remark))
        is_of_file = note.code == LEFT_OUT or " left out: " in str(note)
        step = (
            "analysis.next_left_out_rows" if is_of_file else _NEXT_OF_NOTE.get(note.code, "analysis.next_token_audit")
        )
        yield Warning("workload", NOTE, note, message(step))


_NEXT_OF_NOTE = {
    "workload.text_by_default": "analysis.next_choose_text",
    "workload.text_without_tokenizer": "analysis.next_dataset_text",
    "workload.text_repeats": "analysis.next_longer_text",
}


RUN_CHECKS = (*ENGINE_CHECKS, simulated, hollow, selfcheck_known, warm_up, dataset_repeated, streamed, offline, remarks)


def errors(evidence: Evidence) -> Iterator[Warning]:
    """Failed requests, by name."""
    account = evidence.summary.account
    if account.failed:
        share = account.failed / (account.failed + account.completed)  # of those never sent nothing is known
        severity = INVALID if share > ERRORS_INVALID else WARNING if share > ERRORS_WARNING else NOTE
        counts = {"failed": account.failed, "scheduled": account.scheduled}
        text = message("analysis.errors", errors=error_counts(evidence.summary.errors), **counts)
        yield Warning("errors", severity, text, message("analysis.next_failed"))


def interrupted(evidence: Evidence) -> Iterator[Warning]:
    """Requests that were cancelled or never sent."""
    account = evidence.summary.account
    if account.cancelled or account.never_sent:
        text = message("analysis.interrupted", cancelled=account.cancelled, never_sent=account.never_sent)
        yield Warning("interrupted", WARNING, text, message("analysis.next_to_the_end"))


def steady(evidence: Evidence) -> Iterator[Warning]:
    """A queue that grew, no steady state, or too few requests to judge."""
    window = evidence.summary.window
    if window.grew:
        text = sentences(*window.reasons, message("analysis.latencies_depend"))
        yield Warning("queue_grew", WARNING, text, message("analysis.next_lower_rate"))
    elif window.steady is False:
        yield Warning("not_steady", WARNING, window.text, message("analysis.next_longer_or_warm"))
    elif window.steady is None and not window.first_wave and evidence.summary.account.completed:
        if window.method == WHOLE_CALL:
            return  # a batch has a begin and an end, and both are its own
        text = sentences(message("analysis.steady_unknown"), *window.reasons)
        yield Warning("steady_unknown", NOTE, text, message("analysis.next_longer"))


def _unless_growing(evidence: Evidence, step: Message) -> Message:
    """Advice to run longer, unless the queue grows: there a longer stage only has longer waits."""
    return message("analysis.next_not_longer") if evidence.summary.window.grew else step


def first_wave(evidence: Evidence) -> Iterator[Warning]:
    """Requests of a closed loop that were all sent at once, and count."""
    window, account = evidence.summary.window, evidence.summary.account
    if window.first_wave and account.completed:
        wave = message("analysis.first_wave", wave=window.first_wave, sent=account.sent)
        text = sentences(wave, *window.reasons)
        yield Warning("first_wave", WARNING, text, message("analysis.next_more_requests"))


def few_samples(evidence: Evidence) -> Iterator[Warning]:
    """Percentiles that rest on too few requests; graver where an objective asks for one."""
    n = evidence.summary.metrics["e2e"].n
    limited = {float(o.statistic[1:]) for o in evidence.stage.objectives if o.statistic.startswith("p")}
    shown = set() if evidence.summary.window.method == WHOLE_CALL else {PERCENTILES[-1]}  # a batch is not about tails
    unsure = sorted(p for p in limited | shown if n < samples_needed(p))
    if n and unsure:
        needs = [message("analysis.percentile_needs", percent=p, needed=samples_needed(p)) for p in unsure]
        text = message("analysis.few_samples", count=n, needs=needs)
        severity = WARNING if limited & set(unsure) else NOTE
        yield Warning("few_samples", severity, text, _unless_growing(evidence, _how_long(evidence, unsure)))


def _how_long(evidence: Evidence, percentiles: Sequence[float]) -> Message:
    """Advice to run longer, with the longest time that an interval of the latencies which count would take."""
    summary = evidence.summary
    names = [f"p{percent:g}" for percent in percentiles]
    judged = [(o.metric, o.statistic) for o in evidence.stage.objectives if o.statistic in names]
    wanted = judged or [(metric, name) for metric in LATENCIES for name in names]
    needed = [summary.metrics[m].needed.get(name, 0.0) for m, name in wanted if m in summary.metrics]
    times = max(needed, default=0.0)
    if not times:
        return message("analysis.next_longer")
    return message("analysis.next_measure_for", needed_s=times * summary.window.length_s)


def short(evidence: Evidence) -> Iterator[Warning]:
    """A window that is too short for slow changes to show."""
    length_s = evidence.summary.window.length_s
    if evidence.summary.account.completed and length_s < SHORT_S:
        text = message("analysis.short", length_s=length_s)
        step = message("analysis.next_at_least", needed_s=SHORT_S)
        yield Warning("short", NOTE, text, _unless_growing(evidence, step))


def offered_rate(evidence: Evidence) -> Iterator[Warning]:
    """Fewer requests a second were sent than were due."""
    r, start_ns = evidence.stage.requests, evidence.summary.span.start_ns
    sent = (r.phase == MEASURED) & (r.sent_ns != MISSING)
    if not evidence.summary.is_open or int(sent.sum()) < 2:
        return
    due_s, sent_s = ((times[sent].max() - start_ns) / NS_PER_S for times in (r.due_ns, r.sent_ns))
    if due_s > 0 and due_s / sent_s < OFFERED_LEAST:
        n = int(sent.sum())
        text = message("analysis.offered_rate", offered=float(n / due_s), sent=float(n / sent_s))
        yield Warning("offered_rate", WARNING, text, message("analysis.next_offered_rate"))


def unmeasured_slo(evidence: Evidence) -> Iterator[Warning]:
    """Objectives that no answer shows; a stage without answers has other warnings, and its answers could show them."""
    keys = [outcome.objective.key for outcome in evidence.summary.outcomes if outcome.value_s is None]
    if keys and evidence.summary.account.completed:
        text = message("analysis.slo_unmeasured", keys=keys)
        yield Warning("slo_unmeasured", WARNING, text, message("analysis.next_stream_more"))


def resent(evidence: Evidence) -> Iterator[Warning]:
    """Requests sent again because the server had closed an idle connection."""
    r = evidence.stage.requests
    count = int(np.count_nonzero((r.phase == MEASURED) & (r.resends > 0)))
    if count > RESENT_NOTE * max(1, evidence.summary.account.scheduled):
        yield Warning("resent", NOTE, message("analysis.resent", count=count), message("analysis.next_keep_alive"))


def still_filling(evidence: Evidence) -> Iterator[Warning]:
    """Tokens of an open loop that came faster than answers ended: what goes in is still more than what comes out."""
    summary = evidence.summary
    came, ended, counted = summary.rates.arrived or 0.0, summary.rates.output_token or 0.0, summary.counted
    more = (came - ended) * summary.window.rates_s * counted.requests / max(1, counted.output_tokens)  # answers
    by_chance = FILLING_SURE * math.sqrt(summary.concurrency_mean or 0.0)
    filling = (more > by_chance or summary.window.filling) and came > FILLING_WARNING * ended
    if summary.is_open and counted.requests >= FILLING_FEWEST and filling:
        text = message("analysis.still_filling", arrived=came, ended=ended)
        step = message("analysis.next_as_many_end")
        yield Warning("still_filling", WARNING, text, _unless_growing(evidence, step))


def warm_up_left(evidence: Evidence) -> Iterator[Warning]:
    """Answers of the warm-up that went on where rates count: they take the place of answers that would count."""
    window = evidence.summary.window
    if window.warmup_left and evidence.summary.account.completed:
        text = message("analysis.warmup_left", count=window.warmup_left)
        yield Warning("warmup_left", WARNING, text, message("analysis.next_less_warmup"))


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
