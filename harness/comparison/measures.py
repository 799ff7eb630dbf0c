"""The values of measures in the stages of summary.json."""

from collections.abc import Mapping
from typing import Any

from harness.analysis.steady_state import is_open
from harness.scenario.metrics import FAILED_SHARE, USER_VIEW, Measure


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
