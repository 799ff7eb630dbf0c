"""The error of a client: its records of one closed loop beside what the reference server really sent.

Both sides are compared in aggregate: the client's records on one side, the server's log on the
other. What differs is the client's own doing (and the loopback's).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.request_table import COMPLETED, MISSING, Events, Requests, Samples
from harness.selfcheck.reference_server.ground_truth import GroundTruth
from harness.units import NS_PER_S

TTFT_LIMIT_S = 0.001
TTFT_LIMIT_SHARE = 0.02
HELD_LIMIT_SHARE = 0.97
BEHIND_SHARE = 0.1  # of a TTFT: what a client adds beyond is its own queue, and no longer its floor


@dataclass(frozen=True, slots=True)
class Exactness:
    """A closed loop of `streams` streams as the client saw it, beside the truth; times in seconds.

    `ttft_s` is a mean, `gap_p99_s` the 99th percentile of the distances between events of one
    answer. `token_rate` is what arrived per second from the moment all streams were under way to
    the last request; `ceiling_rate` is what would have, had every stream gone on to its next
    request at once: streams · tokens / mean true duration of an answer. `cpu_s_per_token` is the
    client's CPU time, NaN where it was not sampled. `late_p50_s` is how late the server was.
    """

    streams: int
    requests: int
    completed: int
    ttft_s: float
    ttft_true_s: float
    gap_p99_s: float
    gap_p99_true_s: float
    token_rate: float
    ceiling_rate: float
    cpu_s_per_token: float
    late_p50_s: float

    @property
    def ttft_error_s(self) -> float:
        """Mean TTFT seen - mean TTFT sent."""
        return self.ttft_s - self.ttft_true_s

    @property
    def gap_error_s(self) -> float:
        """Chunk gap p99 seen - sent."""
        return self.gap_p99_s - self.gap_p99_true_s

    @property
    def held_share(self) -> float:
        """Share of the ceiling that the client held."""
        return self.token_rate / self.ceiling_rate

    @property
    def keeps_up(self) -> bool:
        """Whether the server was measured, and not the client: TTFT within 10 %, 97 % of the ceiling held."""
        limit_s = max(TTFT_LIMIT_S, BEHIND_SHARE * self.ttft_true_s)
        complete = self.completed == self.requests
        return complete and abs(self.ttft_error_s) <= limit_s and self.held_share >= HELD_LIMIT_SHARE


def exactness(streams: int, requests: Requests, events: Events, samples: Samples, sent: GroundTruth) -> Exactness:
    """Records of a closed loop beside the log of the reference server that answered it."""
    answered = (requests.sent_ns != MISSING) & (requests.first_ns != MISSING)
    return Exactness(
        streams=streams,
        requests=len(requests),
        completed=int((requests.status == COMPLETED).sum()),
        ttft_s=float((requests.first_ns - requests.sent_ns)[answered].mean()) / NS_PER_S,
        ttft_true_s=float(sent.ttft_ns.mean()) / NS_PER_S,
        gap_p99_s=_p99(event_gaps_ns(events)),
        gap_p99_true_s=_p99(sent.gap_ns),
        token_rate=_token_rate(streams, requests, events),
        ceiling_rate=_ceiling_rate(streams, sent),
        cpu_s_per_token=_cpu_s_per_token(samples, events),
        late_p50_s=float(np.median(sent.late_ns)) / NS_PER_S,
    )


def event_gaps_ns(events: Events) -> NDArray[np.int64]:
    """Distances between the events of one answer, pooled over all answers."""
    gaps = np.diff(events.at_ns)
    borders = events.offsets[1:-1] - 1
    return np.delete(gaps, borders[(borders >= 0) & (borders < len(gaps))])


def _p99(times_ns: NDArray[np.int64]) -> float:
    return float(np.percentile(times_ns, 99)) / NS_PER_S if len(times_ns) else float("nan")


def _token_rate(streams: int, requests: Requests, events: Events) -> float:
    """Tokens per second between two moments of one phase: the last of the first requests, and of all requests."""
    sent_ns = np.sort(requests.sent_ns[requests.sent_ns != MISSING])
    return _arrived(events, sent_ns[min(streams, len(sent_ns)) - 1], sent_ns[-1])[1]


def _ceiling_rate(streams: int, sent: GroundTruth) -> float:
    """The same, had every stream gone on at once; of the answers that arrived in that span: all but the last."""
    order = np.argsort(sent.read_ns, kind="stable")
    order = order[sent.ended[order] == 1]
    chosen = order[: len(order) - streams] if len(order) > streams else order
    durations_ns = sent.sent_ns[sent.offsets[1:] - 1] - sent.read_ns
    return float(streams * sent.tokens[chosen].mean() / (durations_ns[chosen].mean() / NS_PER_S))


def _arrived(events: Events, begin_ns: np.int64, end_ns: np.int64) -> tuple[int, float]:
    """Tokens that arrived in a span, and their rate per second."""
    within = (events.at_ns > begin_ns) & (events.at_ns <= end_ns)
    span_s = float(end_ns - begin_ns) / NS_PER_S
    count = int(events.tokens[within].sum())
    return count, count / span_s if span_s > 0 else float("nan")


def _cpu_s_per_token(samples: Samples, events: Events) -> float:
    """CPU time of all client processes from their first sample to their last, by the tokens that arrived meanwhile."""
    of_clients = (samples.name == "cpu_s") & np.array(
        [name.startswith("client-") for name in samples.source], dtype=bool
    )
    cpu_s, at_ns = 0.0, samples.at_ns[of_clients]
    for source in set(samples.source[of_clients]):
        used = samples.value[of_clients & (samples.source == source)]
        cpu_s += float(used[-1] - used[0])
    count = _arrived(events, at_ns.min(), at_ns.max())[0] if len(at_ns) else 0
    return cpu_s / count if count else float("nan")
