"""The numbers of a result beside the truth about the same requests, as the reference server's log has them.

One process sends all requests of these runs, so that the k-th that left is the k-th that arrived: client and
server stamp the same packets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, StageSummary, request_masks, summarize_stage
from harness.analysis.steady_state import Span
from harness.analysis.token_gaps import rows_of
from harness.results.request_table import MISSING, Events, Requests
from harness.selfcheck.reference_server.ground_truth import GroundTruth
from harness.statistics.intervals import PERCENTILES, Floats, percentile_name
from harness.units import NS_PER_S

_PERCENT = {percentile_name(percent): percent for percent in PERCENTILES}


@dataclass(frozen=True, slots=True)
class CheckedNumber:
    """A statistic of a latency as the result says it, what it was in truth, and the error it states (s)."""

    metric: str
    statistic: str
    value_s: float
    true_s: float
    bound_s: float

    @property
    def error_s(self) -> float:
        """Said - true."""
        return self.value_s - self.true_s

    def __str__(self) -> str:
        value, true, bound = (f"{1e3 * seconds:.3f}" for seconds in (self.value_s, self.true_s, self.bound_s))
        return f"{self.metric} {self.statistic} {value} for {true} ms ± {bound}"


@dataclass(frozen=True, slots=True)
class CheckedStage:
    """A stage as its result says it, and the true latencies (s) of the requests that it counts, by metric."""

    summary: StageSummary
    true: Mapping[str, Floats]

    def number(self, metric: str, statistic: str) -> CheckedNumber:
        """One number of the result beside the truth."""
        values, said = self.true[metric], getattr(self.summary.metrics[metric], statistic)
        true = values.mean() if statistic == "mean" else np.percentile(values, _PERCENT[statistic])
        bound_s = self.summary.client.of(metric, statistic)
        return CheckedNumber(metric, statistic, float(said), float(true), bound_s or 0.0)

    def numbers(self) -> Iterator[CheckedNumber]:
        """Every statistic of every latency."""
        for metric, values in self.true.items():
            if len(values):
                yield from (self.number(metric, statistic) for statistic in ("mean", *_PERCENT))


def checked_stages(
    tables: tuple[Requests, Events], timeline: Sequence[Mapping[str, int]], run: Mapping[str, Any], sent: GroundTruth
) -> list[CheckedStage]:
    """Each stage of a run beside the log of the reference server that answered it alone.

    Raises:
        ValueError: where the two do not have the same requests.
    """
    requests, events = tables
    places = _places(requests, sent)
    stages = []
    for row in timeline:
        span = Span(**row)
        rows = (requests.stage == span.stage) & (requests.repeat == span.repeat)
        own = StageInput(requests.take(rows), rows_of(events, rows), span, run["stages"][span.stage], {})
        summary = summarize_stage(own)
        answered = request_masks(own.requests, summary.window, span).answered
        stages.append(CheckedStage(summary, _latencies(sent.take(places[rows][answered]))))
    return stages


def _places(requests: Requests, sent: GroundTruth) -> NDArray[np.int64]:
    """The row of the log for each request; MISSING for one that was never sent."""
    left = np.flatnonzero(requests.sent_ns != MISSING)
    if len(left) != len(sent.read_ns):
        raise ValueError(f"{len(left)} requests left, and {len(sent.read_ns)} arrived")
    places = np.full(len(requests), MISSING, dtype=np.int64)
    order = np.argsort(requests.sent_ns[left], kind="stable")
    places[left[order]] = np.argsort(sent.read_ns, kind="stable")
    return places


def _latencies(sent: GroundTruth) -> dict[str, Floats]:
    first, last = sent.sent_ns[sent.offsets[:-1]], sent.sent_ns[sent.offsets[1:] - 1]
    steps = np.maximum(1, np.diff(sent.offsets) - 1)
    times = {
        "ttft": first - sent.read_ns,
        "e2e": last - sent.read_ns,
        "tpot": (last - first) / steps,
        "chunk_gap": sent.gap_ns,
    }
    return {name: np.asarray(values / NS_PER_S) for name, values in times.items()}
