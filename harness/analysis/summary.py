"""The content of summary.json (format 2), computed from the columns of a whole run.

Times are in seconds, rates per second, null where there is no number. A sentence stands there as a message (its code
and parameters, in `message`, `next`, `answer_message`, `label_message`) and in English beside it (`text`, `next_text`,
`answer`, `label`), so that it reads in another language without being computed again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from harness.analysis.answer import Further, answer, knee, requested_load
from harness.analysis.breakdowns import breakdowns, judge_by_length
from harness.analysis.classes import adapter_costs, adapters_sentence, classes_sentences, kind_figures, tells
from harness.analysis.decision import decide, stage_options
from harness.analysis.efficiency import energy_of, held_npus, with_efficiency
from harness.analysis.engine_balance import balance_of, balance_sentence
from harness.analysis.engines import engine_activities, series_by_source
from harness.analysis.levels import level_name
from harness.analysis.metrics import StageInput, StageSummary, formed_classes, request_masks, summarize_stage
from harness.analysis.peers import peers
from harness.analysis.server_side import prefix_hits, server_split
from harness.analysis.slo import Outcome
from harness.analysis.speculation import SpeculationCounters, find_speculation, speculation_sentence, stage_speculation
from harness.analysis.stalls import stall_blocks
from harness.analysis.steady_state import Span
from harness.analysis.token_gaps import rows_of
from harness.analysis.warnings import INVALID, Evidence, Warning, is_invalid
from harness.analysis.warnings.load import find_warnings
from harness.analysis.warnings.records import littles_law
from harness.errors import ResultError
from harness.messages import Message, message, sentences
from harness.results.request_table import (
    CANCELLED,
    COMPLETED,
    COUNTS,
    FAILED,
    FROM_EVENTS,
    MEASURED,
    MISSING,
    NEVER_SENT,
    Events,
    Requests,
    Samples,
    samples_from,
)
from harness.results.store import FORMAT, SUMMARY_FORMAT, in_virtual_time
from harness.scenario.metrics import TIMES
from harness.statistics.distributions import Distribution
from harness.units import NS_PER_S

_RATES = {"request": "request_rate", "output_token": "output_token_rate", "good": "goodput"}
_SPAN = tuple(field.name for field in fields(Span))


def summarize(
    requests: Requests,
    events: Events,
    samples: Samples,
    timeline: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    *,
    details: bool = True,
) -> dict[str, Any]:
    """The content of summary.json.

    `events` has the rows of `requests`; `timeline` is the content of timeline.json, and a stage
    without an entry (a killed run) gets it from its records; `run` is the content of run.json. Without `details`
    the blocks that only a reader looks at (`peers`, `stalls`, `breakdowns`) are left out.

    Raises:
        ResultError: where the parts do not belong together or have an unknown format.
    """
    _refuse_strange(requests, events, run)
    spans = _spans(requests, [Span(**{name: int(row[name]) for name in _SPAN}) for row in timeline])
    if spans and spans[-1].stage >= len(run["stages"]):
        known = len(run["stages"])
        raise ResultError(message("analysis.stage_unknown", number=spans[-1].stage + 1, known=known))
    interrupted = bool(run.get("interrupted")) or _ended_early(requests)
    own_run = {**run, "interrupted": interrupted}
    evidence = with_balance([_evidence(requests, events, samples, span, own_run) for span in spans], run)
    summaries = [stage.summary for stage in evidence]
    warnings = find_warnings(evidence, requests, run)
    engine = run.get("engine") or {}
    simulated = bool(engine.get("simulated"))
    speculation = find_speculation(samples)
    stages = [
        stage_as_dict(own.summary)
        | _further(own, speculation, simulated=simulated)
        | _from_server(own)
        | kind_figures(own.stage, own.summary, run)
        for own in evidence
    ]
    if details:
        stages = [
            row | {"peers": peers(own.stage, own.summary.span)} for row, own in zip(stages, evidence, strict=True)
        ]
    lengths = judge_by_length([(own.stage, own.summary) for own in evidence]) if details else None
    costs = adapter_costs(stages)
    valid = [row for row in stages if not is_invalid(warnings, row["index"], row["repeat"])]
    further = Further(
        lengths,
        _engines_sentence(evidence, warnings),
        speculation_sentence(valid),
        adapters_sentence(costs),
        list(classes_sentences(sorted(valid, key=lambda row: (requested_load(row), -row["repeat"])))),
    )
    sentence = answer(summaries, warnings, further, simulated=simulated, virtual=in_virtual_time(run))
    npus = held_npus(run, _in_windows(samples, evidence))
    stages = with_efficiency(stages, npus, run)
    verdict = _verdict(warnings, interrupted=interrupted)
    cut = {row["index"] for row in stages if row["cut"]}
    return {
        "format": SUMMARY_FORMAT,
        "name": run["name"],
        "question": run["question"],
        "answer": str(sentence),
        "answer_message": sentence.as_dict(),
        "simulated": simulated,
        "engine": {key: engine.get(key) for key in ("kind", "simulated", "model", "effective")}
        | {key: engine[key] for key in ("changed", "clock") if engine.get(key)},
        "repeats": run.get("repeats", 1),
        "verdict": verdict,
        "tokens": token_audit(requests, run),
        "knee": knee(valid, {stage.summary.span.stage for stage in evidence if stage.summary.window.grew}),
        "npus": npus.as_dict(),
        "decision": decide(stage_options(stages, warnings, npus.count, cut=cut)).as_dict(),
        "stages": stages,
        **({"adapters": costs} if costs else {}),
        **({"by_length": lengths.as_dict()} if lengths is not None else {}),
        **(_details(evidence, requests, events, run) if details else {}),
    }


def _verdict(warnings: Sequence[Warning], *, interrupted: bool) -> dict[str, Any]:
    """What the result is worth, with its warnings."""
    return {
        "valid": not any(warning.severity == INVALID for warning in warnings),
        "interrupted": interrupted,
        "warnings": [warning.as_dict() for warning in warnings],
    }


def _in_windows(samples: Samples, evidence: Sequence[Evidence]) -> Samples:
    """What was watched while the stages were measured, not while the engine started."""
    if not evidence:
        return samples_from([])
    windows = [stage.summary.window for stage in evidence]
    first_ns, last_ns = min(w.start_ns for w in windows), max(w.end_ns for w in windows)
    return samples.take((samples.at_ns >= first_ns) & (samples.at_ns <= last_ns))


def _details(
    evidence: Sequence[Evidence], requests: Requests, events: Events, run: Mapping[str, Any]
) -> dict[str, Any]:
    """The pauses of each stage, and its latencies by prompt length and turn."""
    stream = bool(run.get("stream", True))
    counted, medians = np.zeros(len(requests), dtype=bool), {}
    for own in evidence:
        span, median_s = own.summary.span, own.summary.metrics["chunk_gap"].p50
        place = (requests.stage == span.stage) & (requests.repeat == span.repeat)
        counted[place] = request_masks(own.stage.requests, own.summary.window, span).answered
        if stream and median_s is not None:
            medians[span.stage] = median_s
    samples = evidence[0].samples if evidence else samples_from([])
    open_loop = any(own.summary.is_open for own in evidence)
    return {
        "stalls": stall_blocks(requests, events, samples, medians),
        "breakdowns": breakdowns(requests, counted, stream=stream, open_loop=open_loop),
    }


def _further(evidence: Evidence, speculation: SpeculationCounters | None, *, simulated: bool) -> dict[str, Any]:
    """Little's law, the engines, the energy of real devices, and the acceptance of engines that speculate."""
    law = littles_law(evidence.stage, evidence.summary)
    stage, summary = evidence.stage, evidence.summary
    answered = stage.requests.take(request_masks(stage.requests, summary.window, summary.span).answered)
    acceptance = stage_speculation(speculation, summary.window, answered)
    return {
        "little": None if law is None else law.as_dict(),
        **evidence.balance.as_dict(),
        **({} if simulated else _energy(evidence)),
        **({} if acceptance is None else {"speculation": acceptance}),
    }


def _from_server(evidence: Evidence) -> dict[str, Any]:
    """The stage's `server_split` and `prefix`, where the server tells of them."""
    blocks: dict[str, Any] = {}
    summary = evidence.summary
    if (split := server_split(evidence.stage, summary)) is not None:
        length_s = summary.window.length_s
        parts = {name: getattr(split, name) for name in ("queue", "prefill", "outside")}
        blocks["server_split"] = {"n": split.n} | {k: _distribution_as_dict(v, length_s) for k, v in parts.items()}
    if evidence.prefix is not None:
        blocks["prefix"] = evidence.prefix.as_dict()
    return blocks


def _energy(evidence: Evidence) -> dict[str, Any]:
    """The stage's `energy`; nothing where the power of the devices is not known."""
    window = evidence.summary.window
    counted = replace(window, start_ns=window.rates_ns, later_ns=0)
    energy = energy_of(evidence.samples, counted, evidence.summary.counted.output_tokens)
    return {} if energy is None else {"energy": energy.as_dict()}


def with_balance(evidence: Sequence[Evidence], run: Mapping[str, Any]) -> list[Evidence]:
    """The stages of a run with what its engines showed of themselves meanwhile."""
    if not evidence:
        return []
    series = series_by_source(evidence[0].samples)
    balanced = []
    for stage in evidence:
        window, request_s = stage.summary.window, stage.summary.metrics["e2e"].mean
        span = window.rates_ns, window.end_ns
        balance = balance_of(engine_activities(series, run, span), series, span, request_s)
        balanced.append(replace(stage, balance=balance))
    return balanced


def _engines_sentence(evidence: Sequence[Evidence], warnings: Sequence[Warning]) -> Message | None:
    """How the load lay on several engines, in the stages whose numbers are valid."""
    stages = [own for own in evidence if not is_invalid(warnings, own.summary.span.stage, own.summary.span.repeat)]
    several = [own for own in stages if len(own.balance.loads) > 1]
    several.sort(key=lambda own: requested_load({"load": own.summary.load, "index": own.summary.span.stage}))
    return balance_sentence([(level_name(own.summary), own.balance) for own in several])


def _ended_early(requests: Requests) -> bool:
    """Whether an end from outside left requests without their turn, as of a run that was killed.

    Where requests failed, those never sent may be later turns of their sessions: that is no end.
    """
    statuses = requests.status[requests.phase == MEASURED]
    failed, never_sent = (bool((statuses == status).any()) for status in (FAILED, NEVER_SENT))
    return bool((statuses == CANCELLED).any()) or (never_sent and not failed)


def _refuse_strange(requests: Requests, events: Events, run: Mapping[str, Any]) -> None:
    if run.get("format", FORMAT) != FORMAT:
        raise ResultError(message("analysis.format_unknown", format=str(run["format"]), known=FORMAT))
    if len(events.offsets) != len(requests) + 1:
        rows = len(events.offsets) - 1
        raise ResultError(message("analysis.events_rows", rows=rows, requests=len(requests)))


def _spans(requests: Requests, spans: Sequence[Span]) -> list[Span]:
    """A span for each stage and repeat that has one, or has records, in order."""
    most = int(requests.repeat.max(initial=0)) + 1
    places = (divmod(int(place), most) for place in np.unique(requests.stage * most + requests.repeat))
    by_place = {(stage, repeat): Span(stage, repeat, MISSING, MISSING, MISSING) for stage, repeat in places}
    by_place |= {(span.stage, span.repeat): span for span in spans}
    return [by_place[key] for key in sorted(by_place)]


def _evidence(requests: Requests, events: Events, samples: Samples, span: Span, run: Mapping[str, Any]) -> Evidence:
    rows = (requests.stage == span.stage) & (requests.repeat == span.repeat)
    stage = StageInput(
        requests.take(rows),
        rows_of(events, rows),
        span,
        run["stages"][span.stage],
        run.get("slo") or {},
        stream=run.get("stream", True),
        virtual=in_virtual_time(run),
        interrupted=bool(run.get("interrupted")),
        formed=formed_classes(run),
    )
    selfcheck = (run.get("client") or {}).get("selfcheck")
    summary = summarize_stage(stage)
    prefix = prefix_hits(requests, samples, summary, run)
    return Evidence(stage, summary, samples, selfcheck, str(run.get("endpoint") or ""), prefix=prefix)


def token_audit(requests: Requests, run: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Tokens asked for and counted, over all completed requests of the run, warm-up included, as the server sees them.

    A side is mismatched where the server's count is known and is not what was asked for: events that
    were counted for want of one are not, and answers with a form end where that does.
    """
    done = requests.status == COMPLETED
    pairs = {
        "input": (requests.input_asked[done], requests.input_tokens[done]),
        "output": (requests.output_asked[done], requests.output_tokens[done]),
    }
    counted_by = requests.counted_by[done]
    free = ~np.isin(requests.request_class[done], formed_classes(run))
    by_server = {"input": np.ones(len(counted_by), bool), "output": (counted_by != FROM_EVENTS) & free}
    totals: dict[str, Any] = {}
    for side, (requested, counted) in pairs.items():
        known = (requested != MISSING) & (counted != MISSING)
        totals[f"{side}_asked"] = int(requested[requested != MISSING].sum())
        totals[f"{side}_counted"] = int(counted[counted != MISSING].sum())
        totals[f"{side}_mismatched"] = int((known & by_server[side] & (requested != counted)).sum())
    ways = {way: int((counted_by == way).sum()) for way in COUNTS}
    return totals | {"counted_by": {way: count for way, count in ways.items() if count}}


def stage_as_dict(stage: StageSummary) -> dict[str, Any]:
    """One stage as summary.json shows it; its window in seconds since the stage's own start."""
    window, start_ns = stage.window, stage.span.start_ns
    rates_reason = sentences(*filter(None, (window.rates_reason,)))
    return {
        "index": stage.span.stage,
        "repeat": stage.span.repeat,
        "label": str(stage.label),
        "label_message": stage.label.as_dict(),
        "load": dict(stage.load),
        "window_s": window.length_s,
        "window": {
            "start_s": (window.start_ns - start_ns) / NS_PER_S,
            "end_s": (window.end_ns - start_ns) / NS_PER_S,
            "method": window.method,
            "steady": window.steady,
            "text": str(window.text),
            "message": window.text.as_dict(),
        },
        "rates_window": {
            "start_ns": window.rates_ns,
            "end_ns": window.end_ns,
            "window_s": window.rates_s,
            "text": str(rates_reason),
            "message": rates_reason.as_dict(),
            **{name: value for name, value in asdict(stage.counted).items() if value or name != "documents"},
        },
        "cut": stage.cut,
        "requests": asdict(stage.account),
        "errors": dict(stage.errors),
        "input_tokens": stage.input_tokens,
        "output_tokens": stage.output_tokens,
        "offered_rate": stage.rates.offered,
        "request_rate": stage.rates.request,
        "output_token_rate": stage.rates.output_token,
        "arrived_token_rate": stage.rates.arrived,
        "total_token_rate": stage.rates.total_token,
        "event_rate": stage.rates.event,
        "goodput": stage.rates.good,
        "rates_ci95": {_RATES[name]: list(ends) for name, ends in stage.rates.ci95.items()},
        "slo_met": stage.slo_met,
        "slo": {outcome.objective.key: _outcome_as_dict(outcome) for outcome in stage.outcomes},
        "concurrency": {"mean": stage.concurrency_mean, "max": stage.concurrency_max},
        "merged_share": stage.merged_share,
        "client_error": stage.client.as_dict(),
        **{name: _metric_as_dict(stage, name) for name in TIMES if tells(stage, name)},
    }


def _outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    """An infinite value (by the `failed_counted` requests) is null and not met; an unknown one null with `met` null."""
    value = outcome.value_s
    return {
        "metric": outcome.objective.metric,
        "limit": outcome.objective.limit_s,
        "value": None if value is None or math.isinf(value) else value,
        "met": outcome.met,
        "failed_counted": outcome.failed,
    } | ({"unsure": outcome.unsure} if outcome.unsure else {})


def _metric_as_dict(stage: StageSummary, metric: str) -> dict[str, Any]:
    """A metric in short; `invalid` names the statistics of which the client may have added more than a tenth."""
    spoiled = stage.client.spoiled(metric, stage.metrics[metric])
    values = _distribution_as_dict(stage.metrics[metric], stage.window.length_s)
    return values | ({"invalid": spoiled} if spoiled else {})


def _distribution_as_dict(values: Distribution, window_s: float) -> dict[str, Any]:
    """`needed_s` says how long the window would have to be for an interval that is withheld."""
    columns = asdict(values)
    needed = columns.pop("needed")
    return columns | {
        "ci95": {name: list(ends) for name, ends in values.ci95.items()},
        "needed_s": {name: times * window_s for name, times in needed.items()},
    }
