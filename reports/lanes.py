"""The requests of the swim lanes, and the lane of each."""

import heapq
import math

import numpy as np
import pandas as pd

from harness.results.request_table import COMPLETED, FAILED

MOST = 320  # requests: more would be thinner than a hair


def lane_frame(latencies: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """Requests that were sent, each in the lowest lane that is free when it is due; at most `most` of them.

    `latencies` is a `frames.latency_frame`. Where there are more, every k-th in the order of due
    times is taken, k the same throughout: each request has the same chance, and busy times keep
    their weight. Columns: lane, due_s, sent_s, scheduled_s, first_s, done_s (s), failed, place.
    """
    sent = latencies[latencies["sent_s"].notna()]
    due = sent["due_s"].fillna(sent["sent_s"])
    step = stride(len(sent), most)
    order = np.argsort(due.to_numpy(), kind="stable")[step // 2 :: step]
    requests = sent.iloc[order].assign(due_s=due.iloc[order].to_numpy())
    ends = requests["done_s"].fillna(requests["sent_s"])
    lanes = lanes_of(requests["due_s"].tolist(), ends.tolist())
    columns = ["due_s", "sent_s", "scheduled_s", "first_s", "done_s", "place"]
    failed = (requests["status"] == FAILED).to_numpy()
    kept: pd.DataFrame = requests[columns].assign(lane=lanes, failed=failed)
    numbered: pd.DataFrame = kept.reset_index(drop=True)
    return numbered


def stride(count: int, most: int = MOST) -> int:
    """Every how manieth request is shown."""
    return max(1, math.ceil(count / most))


def lanes_of(begins: list[float], ends: list[float]) -> list[int]:
    """The lowest free lane for each, in the order of their beginnings."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    lanes = []
    for begin, end in zip(begins, ends, strict=True):
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        lanes.append(lane)
    return lanes


def counted(latencies: pd.DataFrame) -> tuple[int, int]:
    """The numbers of requests sent and completed."""
    sent = latencies["sent_s"].notna()
    return int(sent.sum()), int((sent & (latencies["status"] == COMPLETED)).sum())
