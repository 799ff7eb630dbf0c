"""How far a stage's latencies may be from what a client that is never late would have seen.

From the bounds of single requests: a request left at most `sent_bound_ns` later than its stamp, its first token
arrived at most `first_bound_ns` earlier than the stamp, and `blurred` of its token events have the stamp of a later
one. Of each metric the statistic is computed as recorded and at the other end of those bounds; the distance is the
error. Of gaps, a percentile is at most as many ranks away as events are blurred.

Without the kernel's stamps nothing of this is known. In virtual time no client stands between: there is no error.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from harness.analysis.token_gaps import Gaps, Mask, Streams
from harness.clock import VIRTUAL_TIME
from harness.results.request_table import COMPLETED, MISSING, Requests
from harness.statistics.distributions import Distribution
from harness.statistics.intervals import PERCENTILES, Floats, percentile_name, percentile_of
from harness.units import NS_PER_S

KERNEL, READER, VIRTUAL = "kernel", "reader", VIRTUAL_TIME
MOST_ERROR = 0.1  # of a value that the client may have added: no difference below a tenth would be the server's
MEAN = "mean"


@dataclass(frozen=True, slots=True)
class ClientError:
    """What the client may have added to a stage's latencies, in seconds by metric and statistic.

    `clock` is whose stamps they are: the kernel's; the reader's own, of which nothing else is known; or virtual time,
    which is exact. `first_exact` is the share of first tokens whose arrival is exact, `blurred_share` that of token
    events whose arrival is that of a later one, `late_p50_s` and `late_p99_s` how late the last read of an answer.
    """

    clock: str
    bounds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    first_exact: float | None = None
    blurred_share: float | None = None
    late_p50_s: float | None = None
    late_p99_s: float | None = None

    def of(self, metric: str, statistic: str) -> float | None:
        """The bound (s) of a statistic of a metric; None where it is not known."""
        return self.bounds.get(metric, {}).get(statistic)

    def spoils(self, metric: str, statistic: str, value_s: float | None) -> bool:
        """Whether a statistic is not valid itself: the client may have added more than a tenth of it."""
        bound_s = self.of(metric, statistic)
        return bool(bound_s and value_s is not None and bound_s > MOST_ERROR * value_s)

    def spoiled(self, metric: str, values: Distribution) -> list[str]:
        """The statistics of a metric that are not valid themselves."""
        return [name for name in self.bounds.get(metric, {}) if self.spoils(metric, name, getattr(values, name))]

    def as_dict(self) -> dict[str, Any]:
        """As summary.json shows it."""
        return asdict(self)


def client_error(requests: Requests, answered: Mask, latencies: Mapping[str, Floats], gaps: Streams) -> ClientError:
    """The error of a stage's latencies over its answered requests.

    Args:
        requests: all rows of the stage.
        answered: the rows that its latencies are of.
        latencies: each metric of every row, in seconds, NaN where undefined.
        gaps: the gaps between the tokens of those rows.
    """
    rows = requests.take(answered)
    stamped = (rows if len(rows) else requests.take(requests.status == COMPLETED)).late_ns != MISSING
    if not len(stamped) or not stamped.all():
        return ClientError(READER)
    if not len(rows):  # the window holds no answer: nothing is off
        return ClientError(KERNEL)
    sent_s, first_s = (np.maximum(0, bound) / NS_PER_S for bound in (rows.sent_bound_ns, rows.first_bound_ns))
    divisor = np.maximum(1, rows.output_tokens - rows.first_tokens)
    earlier = {"ttft": -sent_s - first_s, "ttft_user": -first_s, "tpot": first_s / divisor, "e2e": -sent_s}
    bounds = {name: _bounds(latencies[name][answered], shift) for name, shift in earlier.items()}
    events, blurred = int(rows.events.sum()), int(rows.blurred.sum())
    share = blurred / events if events else 0.0
    late = np.sort(rows.late_ns) / NS_PER_S
    return ClientError(
        KERNEL,
        {**bounds, **_gap_bounds(gaps, blurred, first_s)},
        first_exact=float((rows.first_bound_ns == 0).mean()),
        blurred_share=share,
        late_p50_s=percentile_of(late, 50),
        late_p99_s=percentile_of(late, 99),
    )


def _bounds(values: Floats, shift: Floats) -> dict[str, float]:
    """How far each statistic of `values` is from that of the values shifted."""
    defined = ~np.isnan(values)
    if not defined.any():
        return {}
    recorded, other = np.sort(values[defined]), np.sort((values + shift)[defined])
    distances = {MEAN: abs(float(recorded.mean() - other.mean()))}
    for percent in PERCENTILES:
        distances[percentile_name(percent)] = abs(percentile_of(recorded, percent) - percentile_of(other, percent))
    return distances


def _gap_bounds(gaps: Streams, blurred: int, first_s: Floats) -> dict[str, dict[str, float]]:
    """How far statistics of gaps may be off by events that have the stamp of a later one.

    Only first tokens change the sum of all gaps. A read of k events left one gap L and k - 1 of zero, where truly
    there were k gaps that add up to L: of those, at most k - 1 more than recorded are longer than any given time, and
    at most one fewer. So sorted gaps are off by no more places than there are blurred events. Of ITL that holds where
    events hold about as many tokens each.
    """
    by_metric = {}
    ranks = 100 * blurred / max(1, gaps.chunk_gap.short.n - 1)
    for name, kind in (("itl", gaps.itl), ("chunk_gap", gaps.chunk_gap)):
        if kind.short.n:
            most_s = max(kind.short.max or 0.0, float(first_s.max()))  # gaps of a first read are within its bound
            by_metric[name] = {MEAN: float(first_s.sum()) / kind.short.n} | {
                percentile_name(percent): _rank_bound(kind, percent, ranks, most_s) for percent in PERCENTILES
            }
    return by_metric


def _rank_bound(kind: Gaps, percent: float, ranks: float, most_s: float) -> float:
    """How far a percentile can be from the gaps that are so many per cent of all ranks away; the longest is known."""
    if ranks == 0:
        return 0.0
    middle, low, high = (
        kind.percentile(min(100.0, max(0.0, at))) or 0.0 for at in (percent, percent - ranks, percent + ranks)
    )
    beyond = percent + ranks >= 100 or not np.isfinite(high)
    low = 0.0 if percent <= ranks else low
    return float(max(middle - low, (most_s if beyond else high) - middle))
