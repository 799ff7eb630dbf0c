"""The numbers that other tools would have printed for these responses, under their own names.

Recomputed from this run's own events, over all measured requests that completed, from sending to
the end (no window), as those tools do. Where one of them decides by what only its own client
knows (its tokenizer, its queue), this run's own counts and stamps stand in, so that what differs
between rows is the definition alone. Times in seconds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.token_gaps import Mask, gap_batches
from harness.messages import localized
from harness.results.request_table import COMPLETED, MEASURED, Events
from harness.results.stage_names import stage_name
from harness.statistics.intervals import Floats, percentile_of
from harness.units import NS_PER_S, format_duration, format_rate
from reports.data import Data
from reports.rows import rows_of
from reports.tables import Cell
from reports.texts import elsewhere

MOST_GAPS = 4_000_000  # pooled gaps that are sorted; beyond, p99 comes from every k-th request


@dataclass(frozen=True, slots=True)
class Answers:
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


@dataclass(frozen=True, slots=True)
class Word:
    """A tool's name of a latency: its values, their weights, how a percentile is read, and the code of its formula."""

    tool: str
    name: str
    values: Callable[[Answers], tuple[Floats, Floats | None]]
    formula: str
    percentile: Callable[[Floats, Floats | None, float], float]


def answers(data: Data, place: int) -> Answers | None:
    """The completed answers of a stage and repeat; None where there are none, or they came whole."""
    rows, own = data.result.requests, data.latencies
    chosen = ((own["place"] == place) & (own["phase"] == MEASURED) & (own["status"] == COMPLETED)).to_numpy()
    chosen = chosen & np.isfinite(own["ttft"].to_numpy(dtype=np.float64))
    if data.events is None or not data.streams or not chosen.any():
        return None
    done, times = rows[chosen], own[chosen]
    step = max(1, -(-int(np.diff(data.events.offsets)[chosen].sum()) // MOST_GAPS))
    gap, carried = _gaps(data.events, chosen, step)
    span = data.places.iloc[place]
    return Answers(
        ttft=times["ttft"].to_numpy(),
        e2e=times["e2e"].to_numpy(),
        tail=np.maximum(0, (done["done_ns"] - done["last_ns"]).to_numpy()) / NS_PER_S,
        tokens=done["output_tokens"].to_numpy(dtype=np.float64),
        first_tokens=done["first_tokens"].to_numpy(dtype=np.float64),
        gap=gap,
        carried=carried,
        whole_s=float(times["done_s"].max() - times["sent_s"].min()),
        stage_s=float(span["end_s"] - span["start_s"]),
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
    return percentile_of(np.sort(values), percent)


def by_index(values: Floats, _weights: Floats | None, percent: float) -> float:
    """The value at index n p / 100 of the sorted ones, rounded down."""
    return float(np.sort(values)[min(len(values) - 1, int(len(values) * percent / 100))])


def stepwise(values: Floats, weights: Floats | None, percent: float) -> float:
    """The least value at which the cumulative weight reaches the percentile."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    return float(values[order][min(len(values) - 1, int(np.searchsorted(reached, reached[-1] * percent / 100)))])


def _ttft(a: Answers) -> tuple[Floats, None]:
    return a.ttft, None


def _chunk_gaps(a: Answers) -> tuple[Floats, None]:
    return a.gap, None


def _chunk_gaps_and_tail(a: Answers) -> tuple[Floats, None]:
    return np.concatenate([a.gap, a.tail]), None


def _gaps_with_zeros(a: Answers) -> tuple[Floats, Floats]:
    zeros = np.maximum(0, a.carried - 1).sum() + np.maximum(0, a.first_tokens[:: a.step] - 1).sum()
    return np.append(a.gap, 0.0), np.append(np.ones(len(a.gap)), zeros)


def _decode_gap(a: Answers) -> tuple[Floats, None]:
    several = a.tokens > 1
    return a.decode[several] / (a.tokens[several] - 1), None


def _decode_gap_by_tokens(a: Answers) -> tuple[Floats, Floats]:
    return _decode_gap(a)[0], a.tokens[a.tokens > 1] - 1


def _decode_gap_with_tail(a: Answers) -> tuple[Floats, None]:
    return np.where(a.tokens > 1, (a.decode + a.tail) / np.maximum(1, a.tokens - 1), 0.0), None


def _per_token(a: Answers) -> tuple[Floats, None]:
    known = a.tokens > 0
    return a.e2e[known] / a.tokens[known], None


def _per_token_by_tokens(a: Answers) -> tuple[Floats, Floats]:
    return _per_token(a)[0], a.tokens[a.tokens > 0]


def weighted(values: Floats, weights: Floats | None, percent: float) -> float:
    """Linear between ranks, a value of weight k standing k times."""
    whole = np.ones(len(values)) if weights is None else weights
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(whole[order])
    at = (reached[-1] - 1) * percent / 100
    ranks = [int(at), min(int(at) + 1, int(reached[-1]) - 1)]
    low, high = values[order][np.searchsorted(reached, ranks, side="right")]
    return float(low + (high - low) * (at - int(at)))


_SENT = "page.tools.from_sent"
_TPOT = "page.tools.tpot"
_NTPOT = "page.tools.ntpot"
_ENDING = "page.tools.to_stream_end"
_POOLED = "page.tools.event_gaps"
_POOLED_END = "page.tools.event_gaps_and_end"
WORDS: Sequence[Word] = (
    Word("vllm bench serve", "TTFT", _ttft, _SENT, linear),
    Word("vllm bench serve", "ITL", _chunk_gaps, _POOLED, linear),
    Word("vllm bench serve", "TPOT", _decode_gap, _TPOT, linear),
    Word("guidellm", "TTFT", _ttft, "page.tools.from_headers", stepwise),
    Word("guidellm", "ITL", _decode_gap_by_tokens, "page.tools.tpot_weighted", stepwise),
    Word("guidellm", "TPOT", _per_token_by_tokens, "page.tools.ntpot_weighted", stepwise),
    Word("aiperf", "TTFT", _ttft, _SENT, linear),
    Word("aiperf", "ITL", _decode_gap, _TPOT, linear),
    Word("aiperf", "ICL", _chunk_gaps, _POOLED, linear),
    Word("inference-perf", "TTFT", _ttft, _SENT, linear),
    Word(
        "inference-perf",
        "ITL",
        _gaps_with_zeros,
        "page.tools.token_gaps",
        weighted,
    ),
    Word("inference-perf", "TPOT", _decode_gap, _TPOT, linear),
    Word("inference-perf", "NTPOT", _per_token, _NTPOT, linear),
    Word("evalscope", "TTFT", _ttft, _SENT, by_index),
    Word("evalscope", "ITL", _chunk_gaps_and_tail, _POOLED_END, by_index),
    Word("evalscope", "TPOT", _decode_gap_with_tail, _ENDING, by_index),
    Word("AISBench", "TTFT", _ttft, _SENT, linear),
    Word("AISBench", "ITL", _chunk_gaps_and_tail, _POOLED_END, linear),
    Word("AISBench", "TPOT", _decode_gap_with_tail, _ENDING, linear),
)
_RATES = {
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


def heads() -> list[str]:
    """The columns of `rows`."""
    return [
        localized("page.tools.tool"),
        localized("page.tools.name"),
        localized("page.tools.mean"),
        "p99",
        localized("page.tools.definition"),
    ]


def rows(found: Answers) -> list[list[Cell]]:
    """A row for every tool and word: mean, p99 and formula; then its output throughput."""
    return [row for tool in _RATES for row in _tool_rows(tool, found)]


def _tool_rows(tool: str, found: Answers) -> Iterator[list[Cell]]:
    for word in WORDS:
        if word.tool != tool:
            continue
        values, weights = word.values(found)
        shown = ["–", "–"]
        if len(values) and (weights is None or weights.sum() > 0):
            shown = [format_duration(mean_of(values, weights)), format_duration(word.percentile(values, weights, 99.0))]
        yield [Cell(tool), Cell(word.name), *map(Cell, shown), Cell(localized(word.formula))]
    yield [
        Cell(tool),
        Cell(localized("page.tools.output_throughput")),
        Cell(format_rate(throughput(tool, found), "tokens/s")),
        Cell(""),
        Cell(localized(_RATES[tool])),
    ]


def throughput(tool: str, found: Answers) -> float:
    """Output tokens a second, by the tool's own length of time."""
    length_s = found.stage_s if tool == "inference-perf" else found.whole_s
    return float(found.tokens.sum() / length_s) if length_s > 0 else float("nan")


def tables(data: Data) -> list[tuple[str, list[list[Cell]]]]:
    """For each stage its name and rows; a repeated stage by its first repeat."""
    first = data.places[~data.places["stage"].duplicated()] if len(data.places) else pd.DataFrame()
    places = rows_of(first, "place", "stage", "label") if len(first) else ()
    found = [(elsewhere(stage_name(stage, label)), answers(data, place)) for place, stage, label in places]
    return [(label, rows(known)) for label, known in found if known is not None]
