"""The numbers that other tools would have printed for these responses, under their own names.

Recomputed from this run's own events, over all measured requests that completed, from sending to
the end (no window), as those tools do. Where one of them decides by what only its own client
knows (its tokenizer, its queue), this run's own counts and stamps stand in, so that what differs
between rows is the definition alone. Times in seconds.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.metrics import StageInput, latencies
from harness.analysis.steady_state import Span
from harness.analysis.token_gaps import Mask, gap_batches
from harness.messages import Message
from harness.results.request_table import COMPLETED, MEASURED, Events
from harness.statistics.intervals import Floats
from harness.units import NS_PER_S

MOST_GAPS = 4_000_000  # pooled gaps that are sorted; beyond, p99 comes from every k-th request


@dataclass(frozen=True, slots=True)
class Responses:
    """Completed answers as columns (s), one row each, and the gaps between their events.

    `gap` and `carried` are every gap and the tokens of the event that ended it, of every `step`-th
    answer; `tail` is from the last token to the end of the stream. `whole_s` is from the first sent
    to the last end, `stage_s` the length of the stage.
    """

    ttft: Floats
    e2e: Floats
    tail: Floats
    tokens: Floats
    first_tokens: Floats
    gap: Floats
    carried: Floats
    whole_s: float
    stage_s: float
    step: int = 1

    @property
    def decode(self) -> Floats:
        """From the first to the last token."""
        return self.e2e - self.ttft


Values = Callable[[Responses], tuple[Floats, Floats | None]]
"""The values of a definition, and their weights where they have any."""
Percentile = Callable[[Floats, Floats | None, float], float]


@dataclass(frozen=True, slots=True)
class PeerMetric:
    """A tool's name of a latency: its values, their weights, how a percentile is read, and the code of its formula."""

    tool: str
    name: str
    values: Values
    formula: str
    percentile: Percentile


def responses(stage: StageInput, span: Span) -> Responses | None:
    """The completed responses of a stage; None where there are none, or they came whole."""
    times, rows = latencies(stage.requests, stream=stage.stream), stage.requests
    chosen = (rows.phase == MEASURED) & (rows.status == COMPLETED) & np.isfinite(times["ttft"])
    if not stage.stream or not chosen.any():
        return None
    done = rows.take(chosen)
    step = max(1, -(-int(np.diff(stage.events.offsets)[chosen].sum()) // MOST_GAPS))
    gap, carried = _gaps(stage.events, chosen, step)
    return Responses(
        ttft=times["ttft"][chosen],
        e2e=times["e2e"][chosen],
        tail=np.maximum(0, done.done_ns - done.last_ns) / NS_PER_S,
        tokens=done.output_tokens.astype(np.float64),
        first_tokens=done.first_tokens.astype(np.float64),
        gap=gap,
        carried=carried,
        whole_s=int(done.done_ns.max() - done.sent_ns.min()) / NS_PER_S,
        stage_s=(span.end_ns - span.start_ns) / NS_PER_S,
        step=step,
    )


def _gaps(events: Events, chosen: Mask, step: int) -> tuple[Floats, Floats]:
    """Gaps between events (s) of every k-th chosen row, and the tokens that ended each."""
    shown = events.take(np.flatnonzero(chosen)[::step])
    batches = gap_batches(shown, np.ones(len(shown.offsets) - 1, dtype=bool))
    none = np.zeros(0)
    parts = [(batch.gaps / NS_PER_S, batch.tokens.astype(np.float64)) for batch in batches]
    gap, carried = (np.concatenate(column) for column in zip((none, none), *parts, strict=True))
    return gap, carried


def linear(values: Floats, _weights: Floats | None, percent: float) -> float:
    """Linear between ranks: numpy's default."""
    return float(np.percentile(values, percent))


def by_index(values: Floats, _weights: Floats | None, percent: float) -> float:
    """The value at index n p / 100 of the sorted ones, rounded down."""
    return _at_rank(values, min(len(values) - 1, int(len(values) * percent / 100)))


def _at_rank(values: Floats, rank: int) -> float:
    """The value that stands there when they are sorted; they are not, which would take ten times as long."""
    return float(np.partition(values, rank)[rank])


def stepwise(values: Floats, weights: Floats | None, percent: float) -> float:
    """The least value at which the cumulative weight reaches the percentile."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    return float(values[order][min(len(values) - 1, int(np.searchsorted(reached, reached[-1] * percent / 100)))])


def _ttft(a: Responses) -> tuple[Floats, None]:
    return a.ttft, None


def _chunk_gaps(a: Responses) -> tuple[Floats, None]:
    return a.gap, None


def _chunk_gaps_and_tail(a: Responses) -> tuple[Floats, None]:
    return np.concatenate([a.gap, a.tail]), None


def _gaps_with_zeros(a: Responses) -> tuple[Floats, Floats]:
    zeros = np.maximum(0, a.carried - 1).sum() + np.maximum(0, a.first_tokens[:: a.step] - 1).sum()
    return np.append(a.gap, 0.0), np.append(np.ones(len(a.gap)), zeros)


def _decode_gap(a: Responses) -> tuple[Floats, None]:
    several = a.tokens > 1
    return a.decode[several] / (a.tokens[several] - 1), None


def _decode_gap_by_tokens(a: Responses) -> tuple[Floats, Floats]:
    return _decode_gap(a)[0], a.tokens[a.tokens > 1] - 1


def _decode_gap_with_tail(a: Responses) -> tuple[Floats, None]:
    return np.where(a.tokens > 1, (a.decode + a.tail) / np.maximum(1, a.tokens - 1), 0.0), None


def _per_token(a: Responses) -> tuple[Floats, None]:
    known = a.tokens > 0
    return a.e2e[known] / a.tokens[known], None


def _per_token_by_tokens(a: Responses) -> tuple[Floats, Floats]:
    return _per_token(a)[0], a.tokens[a.tokens > 0]


def above_zeros(values: Floats, weights: Floats | None, percent: float) -> float:
    """Linear between ranks, of values nowhere negative; the last is a zero that stands for as many as its weight."""
    assert weights is not None
    gaps, zeros = values[:-1], int(weights[-1])
    at = (len(gaps) + zeros - 1) * percent / 100
    low, high = (
        0.0 if rank < zeros else _at_rank(gaps, rank - zeros)
        for rank in (int(at), min(int(at) + 1, len(gaps) + zeros - 1))
    )
    return float(low + (high - low) * (at - int(at)))


_SENT = "page.tools.from_sent"
_TPOT = "page.tools.tpot"
_NTPOT = "page.tools.ntpot"
_ENDING = "page.tools.to_stream_end"
_POOLED = "page.tools.event_gaps"
_POOLED_END = "page.tools.event_gaps_and_end"
METRICS: Sequence[PeerMetric] = (
    PeerMetric("vllm bench serve", "TTFT", _ttft, _SENT, linear),
    PeerMetric("vllm bench serve", "ITL", _chunk_gaps, _POOLED, linear),
    PeerMetric("vllm bench serve", "TPOT", _decode_gap, _TPOT, linear),
    PeerMetric("guidellm", "TTFT", _ttft, "page.tools.from_headers", stepwise),
    PeerMetric("guidellm", "ITL", _decode_gap_by_tokens, "page.tools.tpot_weighted", stepwise),
    PeerMetric("guidellm", "TPOT", _per_token_by_tokens, "page.tools.ntpot_weighted", stepwise),
    PeerMetric("aiperf", "TTFT", _ttft, _SENT, linear),
    PeerMetric("aiperf", "ITL", _decode_gap, _TPOT, linear),
    PeerMetric("aiperf", "ICL", _chunk_gaps, _POOLED, linear),
    PeerMetric("inference-perf", "TTFT", _ttft, _SENT, linear),
    PeerMetric(
        "inference-perf",
        "ITL",
        _gaps_with_zeros,
        "page.tools.token_gaps",
        above_zeros,
    ),
    PeerMetric("inference-perf", "TPOT", _decode_gap, _TPOT, linear),
    PeerMetric("inference-perf", "NTPOT", _per_token, _NTPOT, linear),
    PeerMetric("evalscope", "TTFT", _ttft, _SENT, by_index),
    PeerMetric("evalscope", "ITL", _chunk_gaps_and_tail, _POOLED_END, by_index),
    PeerMetric("evalscope", "TPOT", _decode_gap_with_tail, _ENDING, by_index),
    PeerMetric("AISBench", "TTFT", _ttft, _SENT, linear),
    PeerMetric("AISBench", "ITL", _chunk_gaps_and_tail, _POOLED_END, linear),
    PeerMetric("AISBench", "TPOT", _decode_gap_with_tail, _ENDING, linear),
)
RATES = {
    "vllm bench serve": "page.tools.rate",
    "guidellm": "page.tools.rate_uncut",
    "aiperf": "page.tools.rate",
    "inference-perf": "page.tools.rate_of_stage",
    "evalscope": "page.tools.rate",
    "AISBench": "page.tools.rate",
}


def mean_of(values: Floats, weights: Floats | None) -> float:
    """The mean, weighted where there are weights."""
    return float(np.average(values, weights=weights))


def peers(stage: StageInput, span: Span) -> list[dict[str, Any]]:
    """For summary.json: what each tool would have printed of a stage, its latencies (s) and then its throughput.

    `definition` is the code of the message that has the formula, `definition_text` the formula in English. Empty where
    the responses came whole.
    """
    columns = responses(stage, span)
    if columns is None:
        return []
    latencies_of = functools.cache(functools.partial(_mean_and_p99, columns))
    return [row for tool in RATES for row in _of_tool(tool, columns, latencies_of)]


def _of_tool(
    tool: str, columns: Responses, latencies_of: Callable[[Values, Percentile], tuple[float | None, float | None]]
) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        if metric.tool == tool:
            mean, p99 = latencies_of(metric.values, metric.percentile)
            yield {"tool": tool, "name": metric.name, "mean": mean, "p99": p99, **_definition(metric.formula)}
    yield {"tool": tool, "output_token_rate": throughput(tool, columns), **_definition(RATES[tool])}


def _mean_and_p99(columns: Responses, values_of: Values, percentile: Percentile) -> tuple[float | None, float | None]:
    """What several tools print of one definition, computed once; None where there are no values."""
    values, weights = values_of(columns)
    if not len(values) or (weights is not None and weights.sum() <= 0):
        return None, None
    return mean_of(values, weights), percentile(values, weights, 99.0)


def _definition(code: str) -> dict[str, str]:
    return {"definition": code, "definition_text": str(Message(code))}


def throughput(tool: str, columns: Responses) -> float | None:
    """Output tokens a second, by the tool's own length of time."""
    length_s = columns.stage_s if tool == "inference-perf" else columns.whole_s
    return float(columns.tokens.sum() / length_s) if length_s > 0 else None
