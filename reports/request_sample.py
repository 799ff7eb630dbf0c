"""The requests that a page holds: all where they are few, else a sample by a rule that the page states."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.results.request_table import FAILED, PRIMING

MOST = 4000  # requests: some 180 bytes each in the page
SLOW_SHARE = 0.01

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RequestSample:
    """Row numbers of the chosen requests in the order of due times; `slow` is a mask over all requests."""

    rows: NDArray[np.int64]
    slow: Mask
    total: int

    @property
    def is_whole(self) -> bool:
        """Whether no request is left out."""
        return len(self.rows) == self.total


def sample_requests(latencies: pd.DataFrame, metric: str, most: int = MOST) -> RequestSample:
    """At most `most` requests: the failed, the slowest of each stage, and of the others every k-th by due time.

    `latencies` is a `frames.latency_frame`. Failures take half of the places at most, evenly chosen where they are
    more, so that a run in which everything failed still shows what was answered.
    """
    failed = (latencies["status"] == FAILED).to_numpy(dtype=bool)
    slow = slowest(latencies, metric)
    order = np.argsort(latencies["due_s"].fillna(latencies["sent_s"]).to_numpy(), kind="stable")
    order = order[(latencies["phase"] != PRIMING).to_numpy()[order]]
    if len(order) <= most:
        return RequestSample(order, slow, len(order))
    first = _evenly(order[failed[order]], most // 2)
    second = _evenly(order[slow[order]], most // 4)
    rest = _evenly(order[~np.isin(order, np.concatenate([first, second]))], most - len(first) - len(second))
    chosen = np.isin(order, np.concatenate([first, second, rest]))
    return RequestSample(order[chosen], slow, len(order))


def slowest(latencies: pd.DataFrame, metric: str, share: float = SLOW_SHARE) -> Mask:
    """Which of the counted requests are the slowest by this latency: a share of those of each stage, at least one."""
    values = latencies[metric].where(latencies["in_window"])
    place = latencies["place"]
    rank = values.groupby(place).rank(method="first", ascending=False)
    many = np.ceil(values.groupby(place).transform("count") * share)
    return np.asarray((rank <= many).to_numpy(dtype=bool))


def slower_than(latencies: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """The share of its stage's counted requests that had less of this latency, for each counted one; else NaN."""
    values = latencies[metric].where(latencies["in_window"])
    place = latencies["place"]
    below = values.groupby(place).rank(method="min") - 1
    return np.asarray((below / values.groupby(place).transform("count")).to_numpy(dtype=np.float64))


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the rows, evenly spread over them."""
    if len(rows) <= most:
        return rows
    places = np.linspace(0, len(rows) - 1, max(most, 1)).round().astype(np.int64)
    return np.asarray(rows[places])
