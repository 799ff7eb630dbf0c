"""The words of the script that a reader touches a run's page by; `{places}` are filled by the script."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.messages import localized
from reports.request_sample import MOST, RequestSample

_PLACES = {
    "filter": ("metric",),
    "range": ("from", "to", "shown", "held"),
    "range_sampled": ("from", "to", "shown", "held"),
    "lanes_all": ("count",),
    "lanes_some": ("every", "count"),
    "gap_until": ("gap", "end"),
    "rank": ("metric", "share"),
    "pause": ("length", "begin", "causes"),
    "not_held": ("index",),
    "request": ("index",),
    "listed": ("shown", "count"),
}
_WORDS = {
    "chart": "page_view.chart",
    "keys": "page_view.keys",
    "keys_requests": "page_view.keys_requests",
    "figure": "page_view.figure",
    "keys_curve": "page_view.keys_curve",
    "keys_dots": "page_view.keys_dots",
    "view": "page_view.view",
    "stages": "page_view.stages",
    "only": "page_view.only",
    "requests": "page_view.requests",
    "filter": "page_view.filter",
    "zoom": "page_view.zoom",
    "zoom_in": "page_view.zoom_in",
    "zoom_out": "page_view.zoom_out",
    "earlier": "page_view.earlier",
    "later": "page_view.later",
    "whole": "page_view.whole",
    "copy_link": "page_view.copy_link",
    "copied": "page_view.copied",
    "link": "page_view.link",
    "range": "page_view.range",
    "range_sampled": "page_view.range_sampled",
    "lanes_all": "page_view.lanes_all",
    "lanes_some": "page_view.lanes_some",
    "request": "page_view.request",
    "no_requests": "page_view.no_requests",
    "list": "page_view.list",
    "listed": "page_view.listed",
    "more": "page_view.more",
    "number": "page_view.number",
    "stage": "page_view.stage",
    "outcome": "page_view.outcome",
    "counts": "page_view.counts",
    "session": "page_view.session",
    "counted_by": "page_view.counted_by",
    "resends": "page_view.resends",
    "times": "page_view.times",
    "at": "page_view.at",
    "since_due": "page_view.since_due",
    "latencies": "page_view.latencies",
    "no_latency": "page_view.no_latency",
    "tokens_title": "page_view.tokens_title",
    "server_title": "page_view.server_title",
    "error": "page_view.error",
    "state": "page_view.state",
    "state_unknown": "page_view.state_unknown",
    "sampled": "page_view.sampled",
    "rank": "page_view.rank",
    "pauses": "page_view.pauses",
    "pause": "page_view.pause",
    "not_held": "page_view.not_held",
    "longest_gap": "page_view.longest_gap",
    "gap_until": "page_view.gap_until",
    "show_then": "page_view.show_then",
    "previous": "page_view.previous",
    "next": "page_view.next",
    "close": "page_view.close",
}
_GROUPS = {
    "filters": {
        "all": "page_view.filters.all",
        "failed": "page_view.filters.failed",
        "slow": "page_view.filters.slow",
    },
    "status": {
        "completed": "page_view.status.completed",
        "failed": "page_view.status.failed",
        "cancelled": "page_view.status.cancelled",
        "never_sent": "page_view.status.never_sent",
    },
    "counting": {
        "counted": "page_view.counting.counted",
        "left_out": "page_view.counting.left_out",
        "warmup": "page_view.counting.warmup",
    },
    "stamps": {
        "due_ns": "page_view.stamps.due_ns",
        "ready_ns": "page_view.stamps.ready_ns",
        "sent_ns": "page_view.stamps.sent_ns",
        "first_ns": "page_view.stamps.first_ns",
        "last_ns": "page_view.stamps.last_ns",
        "done_ns": "page_view.stamps.done_ns",
    },
    "tokens": {
        "input_asked": "page_view.tokens.input_asked",
        "input_tokens": "page_view.tokens.input_tokens",
        "cached_tokens": "page_view.tokens.cached_tokens",
        "reusable_tokens": "page_view.tokens.reusable_tokens",
        "output_asked": "page_view.tokens.output_asked",
        "output_tokens": "page_view.tokens.output_tokens",
        "events": "page_view.tokens.events",
    },
    "server": {
        "server_queue_ns": "page_view.server.queue",
        "server_prefill_ns": "page_view.server.prefill",
        "server_decode_ns": "page_view.server.decode",
    },
    "drafts": {
        "draft_steps": "page_view.drafts.steps",
        "draft_tokens": "page_view.drafts.drafted",
        "accepted_tokens": "page_view.drafts.accepted",
    },
    "gauges": {
        "running": "page_view.gauges.running",
        "waiting": "page_view.gauges.waiting",
        "kv": "page_view.gauges.kv",
    },
}


def live_words(sample: RequestSample, phases: Sequence[str]) -> Mapping[str, Any]:
    """All of them in the current language, the names of these phases, and how many requests the page holds."""
    plain = {
        name: localized(code, **{place: f"{{{place}}}" for place in _PLACES.get(name, ())})
        for name, code in _WORDS.items()
    }
    groups = {group: {name: localized(code) for name, code in words.items()} for group, words in _GROUPS.items()}
    return {**plain, **groups, "phases": [localized(code) for code in phases], "held": _held(sample)}


def _held(sample: RequestSample) -> str:
    if sample.is_whole:
        return localized("page_view.held.all")
    return localized("page_view.held.some", held=len(sample.rows), total=sample.total, most=MOST)
