"""The values of measures: those in the stages of summary.json, and those of single requests that stand behind them.

A measure of a stage is a mean, a percentile or a rate. The sample behind it is what its requests or token gaps show one
by one; behind a rate it is what ended in each of many equal pieces of the window.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, latencies, request_masks
from harness.analysis.slo import good_requests
from harness.analysis.steady_state import Span, Window, ended_ns, find_window, is_open, whole_span
from harness.analysis.token_gaps import rows_of
from harness.comparison.repeats import Repeat, RunRecords
from harness.results.request_table import COMPLETED, FAILED, MEASURED, MISSING
from harness.scenario.metrics import ACCEPTANCE, COUNTED, FAILED_SHARE, PREFIX_HIT_RATE, USER_VIEW, Measure
from harness.statistics.difference import RunValues
from harness.units import NS_PER_S

PIECES = 900  # of a window, so that thirty blocks have thirty each


def in_view(measure: Measure, load: Mapping[str, Any]) -> Measure:
    """The measure as the kind of load calls for: in an open loop times count from the due time, as in an slo."""
    metric = USER_VIEW.get(measure.metric, measure.metric) if is_open(str(load.get("kind"))) else measure.metric
    return Measure(measure.key, metric, measure.statistic)


def value_of(measure: Measure, stage: Mapping[str, Any]) -> float | None:
    """Its value in a stage of summary.json; None where the stage has none. `measure` is in view."""
    if measure.metric in ACCEPTANCE:
        accepted = (stage.get("speculation") or {}).get(measure.metric)
        return None if accepted is None else float(accepted)
    if measure.metric == PREFIX_HIT_RATE:
        return _prefix_hit_rate(stage.get("prefix") or {})
    if measure.metric == FAILED_SHARE:
        counts = stage.get("requests") or {}
        over = (counts.get("completed") or 0) + (counts.get("failed") or 0)
        return (counts.get("failed") or 0) / over if over else None
    if measure.is_latency:
        value = (stage.get(measure.metric) or {}).get(measure.statistic)
    else:
        value = stage.get(measure.metric)
    return None if value is None else float(value)


def _prefix_hit_rate(hits: Mapping[str, Any]) -> float | None:
    """The share that the engines counted; None where prompts share nothing, so that there is nothing to find."""
    rate, theory = hits.get("measured_hit_rate"), hits.get("theoretical_hit_rate")
    return None if rate is None or (rate == 0 and not theory) else float(rate)


def is_spoiled(measure: Measure, stage: Mapping[str, Any]) -> bool:
    """Whether the client may have added more than a tenth to what a measure, in view, reads of a stage."""
    return measure.is_latency and measure.statistic in ((stage.get(measure.metric) or {}).get("invalid") or ())


def count_of(measure: Measure, stage: Mapping[str, Any]) -> int:
    """How many values stand behind it: requests, or gaps, or the answers that a rate counts, or drafts."""
    counts = stage.get("requests") or {}
    if measure.metric in ACCEPTANCE:
        return int((stage.get("speculation") or {}).get("drafts") or 0)
    if measure.is_latency:
        return int((stage.get(measure.metric) or {}).get("n") or 0)
    return int(counts.get("completed") or 0) + int(counts.get("failed") or 0)


@dataclass(frozen=True, slots=True)
class StageRows:
    """One stage of one repeat: its records, its window, and which rows count for latencies and which for rates."""

    stage: StageInput
    span: Span
    window: Window
    counted: NDArray[np.bool_]
    ended: NDArray[np.bool_]


def stage_rows(repeat: Repeat, number: int) -> StageRows | None:
    """The rows of a stage; None where records are not known or nothing lies in its window."""
    records = repeat.records()
    if records is None:
        return None
    requests, run = records.requests, repeat.run
    chosen = (requests.stage == number) & (requests.repeat == repeat.number)
    stage = StageInput(
        requests.take(chosen), rows_of(records.events, chosen), _span(records, number, repeat.number),
        run["stages"][number], run.get("slo") or {}, stream=run.get("stream", True),
    )  # fmt: skip
    span = whole_span(stage.requests, stage.span)
    window = find_window(stage.requests, stage.events, span, str(stage.load["kind"]))
    masks = request_masks(stage.requests, window, span)
    if window.rates_s <= 0 or not masks.sent.any():
        return None
    return StageRows(stage, span, window, masks.answered, masks.ended)


def _span(records: RunRecords, stage: int, repeat: int) -> Span:
    own = [row for row in records.timeline if (row["stage"], row["repeat"]) == (stage, repeat)]
    times = (own[0]["start_ns"], own[0]["stop_ns"], own[0]["end_ns"]) if own else (MISSING,) * 3
    return Span(stage, repeat, *times)


def sample_of(measure: Measure, rows: StageRows) -> RunValues | None:
    """The values behind a measure in the order of their requests or of time; None where there are none."""
    sample: RunValues | None
    if measure.metric in COUNTED:
        return None
    if measure.metric == FAILED_SHARE:
        sample = _failures(rows)
    elif measure.metric in _PIECES:
        sample = _piece_rates(measure.metric, rows)
    elif measure.metric in ("itl", "chunk_gap"):
        sample = _gaps(rows, per_token=measure.metric == "itl")
    else:
        values = latencies(rows.stage.requests, stream=rows.stage.stream)[measure.metric]
        known = rows.counted & ~np.isnan(values)
        sample = RunValues(values[known], rows.stage.requests.session[known])
    return sample if sample is not None and len(sample.values) else None


def _failures(rows: StageRows) -> RunValues:
    requests = rows.stage.requests
    over = (requests.phase == MEASURED) & np.isin(requests.status, (COMPLETED, FAILED))
    return RunValues((requests.status[over] == FAILED).astype(np.float64), requests.session[over])


def _gaps(rows: StageRows, *, per_token: bool) -> RunValues:
    events = rows.stage.events.take(rows.counted)
    session = np.repeat(rows.stage.requests.session[rows.counted], np.diff(events.offsets))
    first = np.zeros(len(events.at_ns), dtype=bool)
    first[events.offsets[:-1][np.diff(events.offsets) > 0]] = True
    later = ~first & (events.tokens > 0)
    gaps = np.diff(events.at_ns, prepend=0)[later] / NS_PER_S
    tokens = events.tokens[later]
    if not per_token or not len(tokens) or int(tokens.max()) == 1:
        return RunValues(gaps, session[later])
    return RunValues(np.repeat(gaps / tokens, tokens), np.repeat(session[later], tokens))


def _piece_rates(metric: str, rows: StageRows) -> RunValues | None:
    rates = _PIECES[metric](rows)
    return None if rates is None else RunValues(rates, np.arange(PIECES, dtype=np.int64))


def _token_pieces(rows: StageRows) -> NDArray[np.float64]:
    return _pieces(rows, rows.ended, rows.stage.requests.output_tokens)


def _all_token_pieces(rows: StageRows) -> NDArray[np.float64]:
    requests = rows.stage.requests
    known = np.where(requests.input_tokens != MISSING, requests.input_tokens, np.maximum(0, requests.input_asked))
    return _pieces(rows, rows.ended, requests.output_tokens + known)


def _input_pieces(rows: StageRows) -> NDArray[np.float64]:
    return _all_token_pieces(rows) - _token_pieces(rows)


def _document_pieces(rows: StageRows) -> NDArray[np.float64] | None:
    documents = rows.stage.requests.documents
    return _pieces(rows, rows.ended, np.maximum(0, documents)) if (documents > 0).any() else None


def _ended_pieces(rows: StageRows) -> NDArray[np.float64]:
    return _pieces(rows, rows.ended, np.ones(len(rows.ended)))


def _good_pieces(rows: StageRows) -> NDArray[np.float64] | None:
    objectives, requests = rows.stage.objectives, rows.stage.requests
    if not objectives or not all(rows.stage.shows(objective.metric) for objective in objectives):
        return None
    kept = good_requests(objectives, requests, rows.stage.events, latencies(requests, stream=rows.stage.stream))
    return _pieces(rows, rows.ended & kept, np.ones(len(kept)))


def _pieces(rows: StageRows, ended: NDArray[np.bool_], weights: NDArray[Any]) -> NDArray[np.float64]:
    """What answers came to by when they ended, per second of each of `PIECES` equal pieces of the part for rates."""
    window = rows.window
    at_ns = ended_ns(rows.stage.requests, rows.span.end_ns)[ended]
    number = (at_ns - window.rates_ns - 1) * PIECES // (window.end_ns - window.rates_ns)
    counted = np.bincount(number, weights=weights[ended].astype(np.float64), minlength=PIECES)
    return counted * PIECES / window.rates_s


_PIECES = {
    "request_rate": _ended_pieces,
    "output_token_rate": _token_pieces,
    "total_token_rate": _all_token_pieces,
    "input_token_rate": _input_pieces,
    "document_rate": _document_pieces,
    "goodput": _good_pieces,
}
