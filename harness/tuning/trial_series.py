"""Measurements of loads: metrics by name, series to compare in pairs, parts of a load, and noise between runs.

One definition for runs in virtual and in real time: both go through `harness.analysis.metrics`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.metrics import StageInput, StageSummary, latencies
from harness.analysis.slo import good_requests
from harness.analysis.steady_state import is_open
from harness.results.request_table import CANCELLED, FAILED, MEASURED, MISSING, NEVER_SENT
from harness.scenario.metrics import USER_VIEW
from harness.statistics.intervals import percentile_with_failures
from harness.tuning.study_plan import StudyPlan, Task
from harness.tuning.types import Measurement
from harness.units import NS_PER_S

Floats = NDArray[np.float64]
LATENCIES = ("ttft", "tpot", "e2e")
_ROUNDING = 1e-9  # of a quotient of times
_STATISTICS = ("p50", "p90", "p95", "p99")


def measurement_of(
    stage: StageInput, summary: StageSummary, seed: int, *, simulated: bool, preemptions: float = 0.0
) -> Measurement:
    """What a stage that ran to its end showed, from its rows and their summary."""
    series = series_of(stage, summary.span.start_ns)
    views = {name: np.asarray(series[name]) for name in LATENCIES}
    failed = np.isinf(series["done"])
    metrics = _rates(summary) | _statistics(views, failed) | _outcomes(summary)
    metrics |= {"preemptions": preemptions, "failed": float(failed.mean()) if len(failed) else 1.0}
    load_s = (summary.span.end_ns - summary.span.start_ns) / NS_PER_S
    plain = {name: tuple(values.tolist()) for name, values in series.items()}
    return Measurement(metrics, plain, load_s, seed, simulated=simulated)


def measurement_so_far(stage: StageInput, time_s: float, seed: int, *, simulated: bool) -> Measurement:
    """What a stage that is under way had shown `time_s` after its measuring began; see `partial_of`."""
    series = {name: tuple(values.tolist()) for name, values in series_of(stage, stage.span.start_ns).items()}
    return partial_measurement(Measurement({}, series, time_s, seed, simulated=simulated), time_s)


def series_of(stage: StageInput, start_ns: int) -> dict[str, Floats]:
    """The series of `Measurement`, in the order of the sessions: that in which they are sent, whoever sends them.

    Latencies are in the user's view where the loop is open. What was not answered (yet), and did not fail, is NaN.
    """
    requests = stage.requests
    rows = np.flatnonzero(requests.phase == MEASURED)
    rows = rows[np.lexsort((requests.turn[rows], requests.session[rows]))]
    by_name = latencies(requests, stream=stage.stream)
    ended_ns = np.where(requests.last_ns != MISSING, requests.last_ns, requests.done_ns)  # of a vector: no last token
    done_s = (ended_ns - start_ns) / NS_PER_S
    views = USER_VIEW if is_open(str(stage.load["kind"])) else {}
    failed, waiting = requests.status == FAILED, np.isin(requests.status, (CANCELLED, NEVER_SENT))
    late = {name: by_name[views.get(name, name)] for name in LATENCIES} | {"done": done_s}
    series = {name: np.where(failed, math.inf, values) for name, values in late.items()}
    series["good"] = np.where(failed, 0.0, good_requests(stage.objectives, requests, stage.events, by_name))
    series["tokens"] = requests.output_tokens.astype(np.float64)
    return {name: np.where(waiting, math.nan, values)[rows] for name, values in series.items()}


def _rates(summary: StageSummary) -> dict[str, float]:
    rates = summary.rates
    rates_by_name = {
        "throughput": rates.output_token,
        "total_throughput": rates.total_token,
        "request_rate": rates.request,
        "goodput": rates.good,
    }
    return {name: float(rate) for name, rate in rates_by_name.items() if rate is not None}


def _statistics(views: Mapping[str, NDArray[np.float64]], failed: NDArray[np.bool_]) -> dict[str, float]:
    """Mean, maximum and percentiles of each latency; a failed request is infinitely late."""
    statistics: dict[str, float] = {}
    for name, values in views.items():
        finite = values[~failed & ~np.isnan(values)]
        failures = int(failed.sum())
        whole = len(finite) > 0 and not failures
        statistics[f"{name}_mean"] = float(finite.mean()) if whole else math.inf
        statistics[f"{name}_max"] = float(finite.max()) if whole else math.inf
        for statistic in _STATISTICS:
            value = percentile_with_failures(finite, failures, float(statistic[1:]))
            statistics[f"{name}_{statistic}"] = math.inf if value is None else float(value)
    return statistics


def _outcomes(summary: StageSummary) -> dict[str, float]:
    """The values that the SLO is held to, by its keys: these go before the same statistic without a window."""
    return {
        outcome.objective.key: float(outcome.value_s) for outcome in summary.outcomes if outcome.value_s is not None
    }


LOOKS = 20


def look_interval_s(others: Sequence[Measurement]) -> float:
    """How often to look at a load that races against others: twenty times in the shortest of them; 0: never."""
    return min((_last_s(measurement) for measurement in others), default=0.0) / LOOKS


def look_times(whole: Measurement, every_s: float | None = None) -> tuple[float, ...]:
    """When to look at a load (seconds from its begin): not at its end, nothing can be saved there.

    Every `every_s`; twenty times in the load itself where that is not told.
    """
    last = _last_s(whole)
    every_s = last / LOOKS if every_s is None else every_s
    looks = math.ceil(last / every_s - _ROUNDING) if every_s > 0 else 0
    return tuple(every_s * look for look in range(1, looks))


def _last_s(whole: Measurement) -> float:
    """When the last request ended that did."""
    return max((time for time in whole.series.get("done", ()) if math.isfinite(time)), default=0.0)


def partial_measurement(whole: Measurement, time_s: float) -> Measurement:
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
    metrics = {
        "throughput": float(np.asarray(series["tokens"])[ended].sum()) / time_s,
        "request_rate": float(ended.sum()) / time_s,
        "goodput": float(np.nan_to_num(np.asarray(series["good"]))[ended].sum()) / time_s,
    }
    views = {name: np.asarray(series[name])[ended] for name in LATENCIES}
    return metrics | _statistics(views, np.zeros(int(ended.sum()), dtype=bool))


def extrapolated(part: Measurement, whole: Measurement, name: str) -> float:
    """A metric of a load that was ended early: that of another, full load, times how both did so far.

    So far is until each had answered as many requests: both have their beginning in it, and neither more of its end.
    """
    ended = [time for time in part.series.get("done", ()) if math.isfinite(time)]
    whole_ends = sorted(time for time in whole.series.get("done", ()) if math.isfinite(time))
    if not ended or not whole_ends:
        return part.metrics.get(name, math.nan)
    then = partial_measurement(whole, whole_ends[min(len(ended), len(whole_ends)) - 1])
    part_value, whole_value = (
        partial_measurement(part, max(ended)).metrics.get(name, math.nan),
        then.metrics.get(name, math.nan),
    )
    total = whole.metrics.get(name, math.nan)
    if not (math.isfinite(part_value) and math.isfinite(whole_value) and math.isfinite(total)) or whole_value <= 0:
        return part_value
    return total * part_value / whole_value


PACE_DEVIATION = 0.015
"""Relative standard deviation of the pace of runs of one configuration, as devices at rest show it."""
_PLACES = np.asarray((-1.5, -0.75, 0.0, 0.75, 1.5))
_WEIGHTS = np.exp(-(_PLACES**2) / 2) / np.exp(-(_PLACES**2) / 2).sum()


@dataclass(frozen=True, slots=True)
class RunToRunNoise:
    """What runs at other paces come to: the mean value, and the relative standard deviation around it."""

    mean: float
    deviation: float


def run_to_run_noise(plan: StudyPlan, measured: Measurement, name: str) -> RunToRunNoise | None:
    """Of an objective, from one measurement; None where it has no such value."""
    value = measured.metrics.get(name, math.nan)
    if not math.isfinite(value):
        return None
    task = plan.tasks[0]
    limits = _paced_limits(task)
    comparable = limits.keys() <= {*LATENCIES} & measured.series.keys()
    if name != "goodput" or len(plan.tasks) > 1 or not limits or not comparable:
        return RunToRunNoise(value, PACE_DEVIATION)
    values = _paced_goodput(measured, limits, value, fixed_rate=is_open(task.stage.kind))
    mean = float(values @ _WEIGHTS)
    deviation = math.sqrt(float((values - mean) ** 2 @ _WEIGHTS))
    return RunToRunNoise(mean, max(deviation / mean, PACE_DEVIATION) if mean > 0 else 1.0)


def _paced_limits(task: Task) -> dict[str, float]:
    """Limits by the latencies that series have; in the user's view where a load is open, as the series are."""
    return {name.rpartition("_")[0].removesuffix("_user"): limit for name, limit in task.scenario.slo.items()}


def _paced_goodput(
    measured: Measurement, limits: Mapping[str, float], goodput: float, *, fixed_rate: bool
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The goodput at each pace: good requests of all, beside how many are good at the run's own pace."""
    factors = np.exp(PACE_DEVIATION * _PLACES)
    latencies_ = {name: np.asarray(measured.series[name], dtype=np.float64) for name in limits}
    late = [
        ~(latencies_[name] * factors[:, None] <= limit) & ~np.isnan(latencies_[name]) for name, limit in limits.items()
    ]
    ended = np.isfinite(np.asarray(measured.series["done"], dtype=np.float64))
    good_requests = (ended & ~np.logical_or.reduce(late)).sum(axis=1)
    unpaced = float(good_requests[len(_PLACES) // 2])
    rates = goodput * good_requests / unpaced if unpaced else np.zeros(len(_PLACES))
    return np.asarray(rates if fixed_rate else rates / factors)
