"""How does a stage of load become a measurement: metrics by name, and series that can be compared in pairs?

One definition for runs in virtual and in real time: both go through `harness.metrics`.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.metrics import StageInput, StageSummary, latencies
from harness.records import COMPLETED, MEASURED
from harness.slo import good
from harness.stats import percentile_with_failures
from harness.tune.words import Measurement
from harness.units import NS_PER_S

LATENCIES = ("ttft", "tpot", "e2e")
_USER = {"ttft": "ttft_user", "e2e": "e2e_user"}
_STATISTICS = ("p50", "p90", "p95", "p99")


def measurement_of(
    stage: StageInput, summary: StageSummary, seed: int, *, simulated: bool, preemptions: float = 0.0
) -> Measurement:
    """What a stage showed, from its rows and their summary; latencies in the user's view where the loop is open."""
    requests = stage.requests
    rows = requests.phase == MEASURED
    measured = requests.take(rows)
    found = latencies(measured, stream=stage.stream)
    failed = measured.status != COMPLETED
    views = {name: found[_USER.get(name, name) if summary.is_open else name] for name in LATENCIES}
    series = {name: tuple(np.where(failed, math.inf, values).tolist()) for name, values in views.items()}
    kept = good(stage.objectives, requests, stage.events, latencies(requests, stream=stage.stream))[rows]
    start_ns = summary.span.start_ns
    done_s = np.where(failed, math.inf, (measured.last_ns - start_ns) / NS_PER_S)
    series |= {
        "good": tuple(np.where(failed, 0.0, kept).tolist()),
        "done": tuple(done_s.tolist()),
        "tokens": tuple(measured.output_tokens.astype(float).tolist()),
    }
    metrics = _rates(summary) | _statistics(views, failed) | _outcomes(summary)
    metrics |= {"preemptions": preemptions, "failed": float(failed.mean()) if len(failed) else 1.0}
    load_s = (summary.span.end_ns - summary.span.start_ns) / NS_PER_S
    return Measurement(metrics, series, load_s, seed, simulated=simulated)


def _rates(summary: StageSummary) -> dict[str, float]:
    rates = summary.rates
    told = {
        "throughput": rates.output_token,
        "total_throughput": rates.total_token,
        "request_rate": rates.request,
        "goodput": rates.good,
    }
    return {name: float(rate) for name, rate in told.items() if rate is not None}


def _statistics(views: Mapping[str, NDArray[np.float64]], failed: NDArray[np.bool_]) -> dict[str, float]:
    """Mean, maximum and percentiles of each latency; a failed request is infinitely late."""
    told: dict[str, float] = {}
    for name, values in views.items():
        known = values[~failed & ~np.isnan(values)]
        lost = int(failed.sum())
        whole = len(known) > 0 and not lost
        told[f"{name}_mean"] = float(known.mean()) if whole else math.inf
        told[f"{name}_max"] = float(known.max()) if whole else math.inf
        for statistic in _STATISTICS:
            value = percentile_with_failures(known, lost, float(statistic[1:]))
            told[f"{name}_{statistic}"] = math.inf if value is None else float(value)
    return told


def _outcomes(summary: StageSummary) -> dict[str, float]:
    """The values that the SLO is held to, by its keys: these go before the same statistic without a window."""
    return {
        outcome.objective.key: float(outcome.value_s) for outcome in summary.outcomes if outcome.value_s is not None
    }


LOOKS = 20


def times_to_look(whole: Measurement) -> tuple[float, ...]:
    """When to look at a load that is under way (seconds from its begin): not at its end, nothing can be saved there."""
    last = max((time for time in whole.series.get("done", ()) if math.isfinite(time)), default=0.0)
    return tuple(last * look / LOOKS for look in range(1, LOOKS))


def partial_of(whole: Measurement, time_s: float) -> Measurement:
    """What a load had shown at a time: requests without their last token by then are NaN in every series."""
    there = [not time > time_s for time in whole.series["done"]]
    series = {
        name: tuple(value if kept else math.nan for value, kept in zip(values, there, strict=True))
        for name, values in whole.series.items()
    }
    return Measurement(
        metrics=_so_far(series, time_s),
        series=series,
        load_s=time_s,
        seed=whole.seed,
        stopped=True,
        simulated=whole.simulated,
        folder=whole.folder,
    )


def _so_far(series: Mapping[str, tuple[float, ...]], time_s: float) -> dict[str, float]:
    """Metrics of the requests that have ended: rates over the time so far, latencies as they stand."""
    done = np.asarray(series["done"])
    ended = np.isfinite(done)
    told = {
        "throughput": float(np.asarray(series["tokens"])[ended].sum()) / time_s,
        "request_rate": float(ended.sum()) / time_s,
        "goodput": float(np.nan_to_num(np.asarray(series["good"]))[ended].sum()) / time_s,
    }
    views = {name: np.asarray(series[name])[ended] for name in LATENCIES}
    return told | _statistics(views, np.zeros(int(ended.sum()), dtype=bool))


def estimated(part: Measurement, other: Measurement, name: str) -> float:
    """A metric of a load that was ended early: that of another, full load, times how both did up to that moment.

    Where the other load had ended by then, its own end is that moment: a rate does not fall by waiting.
    """
    then = partial_of(other, min(part.load_s, other.load_s))
    own, theirs = part.metrics.get(name, math.nan), then.metrics.get(name, math.nan)
    whole = other.metrics.get(name, math.nan)
    if not (math.isfinite(own) and math.isfinite(theirs) and math.isfinite(whole)) or theirs <= 0:
        return own
    return whole * own / theirs
