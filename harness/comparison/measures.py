"""What of a stage can be held beside another run's, and which way is better?

A measure is named as in a gate: a metric and its statistic (`ttft_p99`), a rate
(`output_token_rate`), `failed_share`, or `kernel_time`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.analysis.slo import USER_VIEW
from harness.analysis.steady_state import is_open
from harness.errors import suggestion

METRICS = ("ttft", "ttft_user", "tpot", "itl", "chunk_gap", "e2e", "e2e_user")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
RATES = ("request_rate", "output_token_rate", "total_token_rate", "goodput")
FAILED_SHARE = "failed_share"
KERNEL_TIME = "kernel_time"  # of a case of kernels, in place of a stage; always its median
PATTERN = rf"({'|'.join(METRICS)})_({'|'.join(STATISTICS)})|{'|'.join(RATES)}|{FAILED_SHARE}|{KERNEL_TIME}"
_KEY = re.compile(PATTERN)


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: its name in a gate, the metric that holds it, and its statistic (`mean` of a rate or share)."""

    key: str
    metric: str
    statistic: str = "mean"

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.metric in RATES

    @property
    def is_latency(self) -> bool:
        """Whether it is a time: of single requests, of gaps, or of a kernel's launch."""
        return self.metric in METRICS or self.metric == KERNEL_TIME

    @property
    def ratio(self) -> bool:
        """Whether a difference is told as a ratio: a share of nothing has none."""
        return self.metric != FAILED_SHARE


def measure_of(key: str) -> Measure:
    """The measure of a key such as `ttft_p99`.

    Raises:
        ValueError: where there is none, with the nearest.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        known = [*(f"{metric}_{statistic}" for metric in METRICS for statistic in ("p99", "p50", "mean")), *RATES]
        raise ValueError(f"unknown measure; {suggestion(key, [*known, FAILED_SHARE, KERNEL_TIME])}")
    if key == KERNEL_TIME:
        return Measure(key, key, "p50")
    return Measure(key, found[1], found[2]) if found[1] else Measure(key, key)


def in_view(measure: Measure, load: Mapping[str, Any]) -> Measure:
    """The measure as the kind of load calls for: in an open loop times count from the due time, as in an slo."""
    metric = USER_VIEW.get(measure.metric, measure.metric) if is_open(str(load.get("kind"))) else measure.metric
    return Measure(measure.key, metric, measure.statistic)


def value_of(measure: Measure, stage: Mapping[str, Any]) -> float | None:
    """Its value in a stage of summary.json; None where the stage has none. `measure` is in view."""
    if measure.metric == FAILED_SHARE:
        counts = stage.get("requests") or {}
        over = (counts.get("completed") or 0) + (counts.get("failed") or 0)
        return (counts.get("failed") or 0) / over if over else None
    if measure.is_latency:
        found = (stage.get(measure.metric) or {}).get(measure.statistic)
    else:
        found = stage.get(measure.metric)
    return None if found is None else float(found)


def count_of(measure: Measure, stage: Mapping[str, Any]) -> int:
    """How many values stand behind it: requests, or gaps, or the answers that a rate counts."""
    counts = stage.get("requests") or {}
    if measure.is_latency:
        return int((stage.get(measure.metric) or {}).get("n") or 0)
    return int(counts.get("completed") or 0) + int(counts.get("failed") or 0)
