"""A stage by what the server says of itself: its own split of each request's time, and the hits of its prefix caches.

The split is vLLM's, of each request (`--enable-per-request-metrics`): from the arrival in the engine to the first step
(queue), and from there to the first token (prefill). What is left of the client's time to first token is outside of the
engine: the network, the API server with its tokenizer, and the client. Hits are deltas of the engines' counters.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, StageSummary, request_masks
from harness.results.request_table import COMPLETED, MISSING, PRIMING, Requests, Samples
from harness.scenario.deployment import PREFILL
from harness.statistics.distributions import Distribution, distribution
from harness.telemetry.server_metrics import HITS, QUERIES, SERVER
from harness.units import NS_PER_S

TOLERANCE = 0.02  # of a hit rate: what the last, partly filled block of each prompt and a sample's edge may cost

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ServerSplit:
    """The server's own times of a stage's answered requests (s), and what is left of ours; of `n` requests."""

    n: int
    queue: Distribution
    prefill: Distribution
    outside: Distribution


def server_split(stage: StageInput, summary: StageSummary) -> ServerSplit | None:
    """The split of the requests whose latencies the stage counts; None where the server told none."""
    requests = stage.requests
    answered = request_masks(requests, summary.window, summary.span).answered
    known = answered & (requests.server_queue_ns != MISSING) & (requests.server_prefill_ns != MISSING)
    if not known.any():
        return None
    queue_s = requests.server_queue_ns[known] / NS_PER_S
    prefill_s = requests.server_prefill_ns[known] / NS_PER_S
    outside_ns = requests.first_ns - requests.sent_ns - requests.server_queue_ns - requests.server_prefill_ns
    parts = (queue_s, prefill_s, outside_ns[known & (requests.first_ns != MISSING)] / NS_PER_S)
    return ServerSplit(int(known.sum()), *(distribution(np.asarray(part)) for part in parts))


@dataclass(frozen=True, slots=True)
class PrefixHits:
    """How much of a stage's prompts prefix caches found: as shares of the tokens that were looked up.

    `theoretical` is what one unbounded cache would have found of the same requests in the order of sending, None where
    the tokens of a prompt are not known; `measured` what the engines counted, and `engines` what each of several did.
    `target` is what the scenario asked for, `primed` how many requests filled the caches for it before the stage, and
    `unprimed` how many of these failed.
    """

    theoretical: float | None
    measured: float | None
    engines: Mapping[str, float]
    block_size: int | None
    target: float | None
    primed: int = 0
    unprimed: int = 0

    @property
    def held(self) -> bool | None:
        """Whether the target was met; None without one, or where nothing was measured."""
        if self.target is None or self.measured is None:
            return None
        return abs(self.measured - self.target) <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it."""
        known = {
            "theoretical_hit_rate": self.theoretical,
            "measured_hit_rate": self.measured,
            "block_size": self.block_size,
        }
        target: dict[str, Any] = {}
        if self.target is not None:
            target = {"target": self.target, "held": self.held, "primed": self.primed, "unprimed": self.unprimed}
        return known | target | ({"engines": dict(self.engines)} if self.engines else {})


def prefix_hits(
    requests: Requests, samples: Samples, summary: StageSummary, run: Mapping[str, Any]
) -> PrefixHits | None:
    """The hits between the samples that are nearest to a stage's ends, of the requests that were sent between them.

    None where neither is known.

    Args:
        requests: all of the run: what is sent beside the stage is counted by the server, too.
        samples: of the whole run.
        summary: of the stage.
        run: run.json, whose `prefix` says of what size blocks are.
    """
    facts = run.get("prefix") or {}
    span = (summary.span.start_ns, summary.span.end_ns)
    sources = sorted(set(samples.source[samples.name == QUERIES].tolist()))
    counted = {source: counts for source in sources if (counts := _deltas(samples, source, span)) is not None}
    between = next((counts.between for counts in counted.values()), span)
    own = {name.removeprefix(f"{SERVER}/"): counts for name, counts in counted.items() if name != SERVER}
    chosen = _of_prefill(own, run) or [counts for name, counts in counted.items() if name == SERVER]
    measured = _rate(sum(counts.hits for counts in chosen), sum(counts.queries for counts in chosen))
    theoretical = _theoretical(requests, between)
    if measured is None and theoretical is None:
        return None
    primes = (requests.phase == PRIMING) & (requests.stage == summary.span.stage)
    outcomes = requests.status[primes & (requests.repeat == summary.span.repeat)]
    failed = int((outcomes != COMPLETED).sum())
    engines = {name: rate for name, counts in own.items() if (rate := _rate(*counts[:2])) is not None}
    known = theoretical, measured, engines, facts.get("block_size"), facts.get("target")
    return PrefixHits(*known, primed=len(outcomes) - failed, unprimed=failed)


class _Counts(NamedTuple):
    """Tokens found and looked up by one source between two samples, and when these were."""

    hits: float
    queries: float
    between: Span


def _of_prefill(own: Mapping[str, _Counts], run: Mapping[str, Any]) -> list[_Counts]:
    """What the engines that prefill counted, where others decode: what those find saves no prompt's work."""
    processes = (run.get("engine") or {}).get("processes") or ()
    prefills = {process["name"] for process in processes if process.get("role") == PREFILL}
    return [counts for name, counts in own.items() if name.partition("/")[0] in prefills]


def _rate(hits: float, queries: float) -> float | None:
    return hits / queries if queries else None


def _deltas(samples: Samples, source: str, span: Span) -> _Counts | None:
    """What one source counted between the samples around a span; None without two, or of another process."""
    queries, hits = (_series(samples, source, name) for name in (QUERIES, HITS))
    at_ns = queries[0]
    if len(at_ns) < 2 or len(hits[0]) != len(at_ns):
        return None
    first = max(0, int(np.searchsorted(at_ns, span[0], side="right")) - 1)
    last = min(len(at_ns) - 1, int(np.searchsorted(at_ns, span[1], side="left")))
    looked_up, hit_tokens = (float(values[last] - values[first]) for _, values in (queries, hits))
    if looked_up < 0 or hit_tokens < 0:  # the server was restarted
        return None
    return _Counts(hit_tokens, looked_up, (int(at_ns[first]), int(at_ns[last])))


def _series(samples: Samples, source: str, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    own = (samples.source == source) & (samples.name == name)
    order = np.argsort(samples.at_ns[own], kind="stable")
    return samples.at_ns[own][order], samples.value[own][order]


def _theoretical(requests: Requests, between: Span) -> float | None:
    """What an unbounded cache would have found; None where it is not known of a request that was answered."""
    sent = (requests.sent_ns != MISSING) & (requests.sent_ns >= between[0]) & (requests.sent_ns < between[1])
    own = sent & ((requests.status == COMPLETED) | (requests.first_ns != MISSING))
    tokens = np.where(requests.input_tokens != MISSING, requests.input_tokens, requests.input_asked)[own]
    reusable = requests.reusable_tokens[own]
    if not len(tokens) or (reusable == MISSING).any() or (tokens == MISSING).any():
        return None
    return float(reusable.sum() / tokens.sum())
