"""Search for the highest rate at which an engine keeps its SLO, within one start.

Pure: from the probes so far comes the next rate to try, or the answer. Rates are doubled or halved
until one keeps the SLO and one breaks it, then parted in the middle (of their logarithms). A probe whose noise
reaches over the limit decides nothing: it is repeated, and where repeats do not help the search
goes on to both sides of it and says "unresolved" with the bracket that is left.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.messages import Message, message
from harness.statistics.intervals import batch_error, batch_starts
from harness.statistics.time_series import autocorrelation_factor
from harness.tuning.types import Constraint, Measurement

CONFIDENCE = 0.9  # that the bracket of a search holds the capacity
_LOOKS = 6  # about two rates of a search lie near the capacity, and each is looked at up to three times

CAPACITY, UNRESOLVED, ABOVE, BELOW = "capacity", "unresolved", "above", "below"
_KINDS = (CAPACITY, UNRESOLVED, ABOVE, BELOW)
_ANSWER = "capacity_answer"
_MESSAGES = {
    CAPACITY: "tuning.capacity",
    UNRESOLVED: "tuning.capacity_unresolved",
    ABOVE: "tuning.capacity_above",
    BELOW: "tuning.capacity_below",
}
LAST_RATE = "capacity_rate"
"""The metric that tells the rate at which the others were measured."""


@dataclass(frozen=True, slots=True)
class RateProbe:
    """One load at one rate (requests/s): by how much the SLO was missed (0 or less: kept), and its standard error."""

    rate: float
    excess: float
    error: float


@dataclass(frozen=True, slots=True)
class CapacitySearch:
    """Where to look: the first rate, the least and the most that may be tried, requests/s.

    `precision` is how far apart the ends of the bracket may lie, as a share; `repeats` how often
    one rate is tried before it counts as not decidable; `probes` the most loads of the search. `certain`
    takes each load at its word: for an engine without noise, which is only to be compared with itself.
    """

    start: float
    least: float
    most: float
    precision: float = 0.05
    repeats: int = 3
    probes: int = 16
    certain: bool = False


@dataclass(frozen=True, slots=True)
class CapacityAnswer:
    """The end of a search: `low` keeps the SLO (None: no rate does), `high` breaks it (None: no rate does).

    `kind` is CAPACITY where both are as close as asked, ABOVE where even the most that may be tried
    keeps the SLO, BELOW where not even the least does, else UNRESOLVED.
    """

    kind: str
    low: float | None
    high: float | None
    probes: int

    @property
    def value(self) -> float:
        """The capacity that was shown, requests/s: the lower end, 0 where nothing was."""
        return self.low or 0.0

    @property
    def message(self) -> Message:
        """The answer in one line."""
        return message(_MESSAGES[self.kind], low=self.low, high=self.high)


REACH = 16.0
"""Times the stage's own rate, up and down, is a capacity looked for."""
MeasureAtRate = Callable[[float, int], Measurement]
"""A load at a rate (requests/s), the how-maniest of its search."""


def search_around(rate: float) -> CapacitySearch:
    """The search that begins at a stage's own rate."""
    return CapacitySearch(rate, rate / REACH, rate * REACH)


def find_capacity(measure: MeasureAtRate, search: CapacitySearch, limits: Sequence[Constraint]) -> Measurement:
    """The capacity under limits as a measurement: the last load's, with the answer; the time is that of all loads."""
    probes: list[RateProbe] = []
    loads: list[Measurement] = []
    while not isinstance(step := next_step(search, probes), CapacityAnswer):
        measured = measure(step, len(probes))
        probe = rate_probe(measured, step, limits)
        probes.append(replace(probe, error=0.0) if search.certain else probe)
        loads.append(measured)
    answer = {
        CAPACITY: step.value,
        "capacity_high": math.inf if step.high is None else step.high,
        _ANSWER: float(_KINDS.index(step.kind)),
        LAST_RATE: probes[-1].rate,
    }
    metrics = {**loads[-1].metrics, **answer}
    return replace(loads[-1], metrics=metrics, series={}, load_s=sum(load.load_s for load in loads))


def answer_from_metrics(metrics: Mapping[str, float]) -> Message | None:
    """What a search answered, from the metrics of its measurement; None where none was made."""
    if _ANSWER not in metrics:
        return None
    high = metrics["capacity_high"]
    kind = _KINDS[int(metrics[_ANSWER])]
    return CapacityAnswer(kind, metrics[CAPACITY] or None, high if math.isfinite(high) else None, 0).message


def keeps_slo(probes: Sequence[RateProbe]) -> bool | None:
    """Whether one rate keeps the SLO, by all its probes; None where their noise does not tell."""
    if any(math.isinf(probe.excess) for probe in probes):
        return False
    mean = sum(probe.excess for probe in probes) / len(probes)
    error = math.sqrt(sum(probe.error**2 for probe in probes)) / len(probes)
    reach = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / _LOOKS) * error
    return True if mean + reach <= 0 else False if mean - reach > 0 else None


def next_step(search: CapacitySearch, probes: Sequence[RateProbe]) -> float | CapacityAnswer:
    """The next rate to try, or the answer."""
    if not probes:
        return min(max(search.start, search.least), search.most)
    low, high = bracket(probes)
    kept, broken, spent = low or None, high if high < math.inf else None, len(probes)
    if low >= search.most:
        return CapacityAnswer(ABOVE, kept, None, spent)
    if high <= search.least:
        return CapacityAnswer(BELOW, None, broken, spent)
    if low > 0 and high <= low * (1 + search.precision):
        return CapacityAnswer(CAPACITY, kept, broken, spent)
    rate = _wanted(search, probes, low, high) if spent < search.probes else None
    return CapacityAnswer(UNRESOLVED, kept, broken, spent) if rate is None else rate


def bracket(probes: Sequence[RateProbe]) -> tuple[float, float]:
    """The highest rate with every rate up to it keeping the SLO, and the lowest with every rate from it on breaking it.

    0 and infinity where there is none. Rates that decide nothing, or contradict others, lie between.
    """
    judged = [(rate, keeps_slo(probes)) for rate, probes in _by_rate(probes)]
    low, high = 0.0, math.inf
    worst_broken = min((rate for rate, met in judged if met is False), default=math.inf)
    best_kept = max((rate for rate, met in judged if met), default=0.0)
    for rate, met in judged:
        if met and rate < worst_broken:
            low = max(low, rate)
        if met is False and rate > best_kept:
            high = min(high, rate)
    return low, high


def _by_rate(probes: Sequence[RateProbe]) -> list[tuple[float, list[RateProbe]]]:
    rates = sorted({probe.rate for probe in probes})
    return [(rate, [probe for probe in probes if probe.rate == rate]) for rate in rates]


def _wanted(search: CapacitySearch, probes: Sequence[RateProbe], low: float, high: float) -> float | None:
    """Of the rates strictly inside the bracket: one to repeat, else a new one, else None."""
    inside = [(rate, len(probes)) for rate, probes in _by_rate(probes) if low < rate < high]
    tired = [rate for rate, count in inside if count >= search.repeats]
    fresh = [rate for rate, count in inside if count < search.repeats]
    if fresh:
        return fresh[0]
    if not tired and low > 0 and high < math.inf:
        return math.sqrt(low * high)
    if high == math.inf and low >= max(tired, default=0.0):
        return min(low * 2, search.most)
    if low == 0 and high <= min(tired, default=math.inf):
        return max(high / 2, search.least)
    return _beside(search, [max(low, search.least / 2), *tired, min(high, search.most * 2)])


def _beside(search: CapacitySearch, rates: Sequence[float]) -> float | None:
    """The middle of the wider outermost gap around rates that decide nothing; None where both are narrow."""
    gaps = [(upper / lower, lower, upper) for lower, upper in (rates[:2], rates[-2:])]
    ratio, lower, upper = max(gaps)
    if ratio <= 1 + search.precision or len(list(pairwise(rates))) < 2:
        return None
    middle = min(max(math.sqrt(lower * upper), search.least), search.most)
    return middle if lower < middle < upper and middle not in rates else None


def rate_probe(measurement: Measurement, rate: float, limits: Sequence[Constraint]) -> RateProbe:
    """One load as a probe: of all limits the one that is missed the most surely.

    Of a percentile counts the share of requests above the limit, beyond what the percentile leaves;
    of anything else its value over the limit, with the error of the mean of its series.
    """
    if not limits:
        raise ValueError("a capacity is looked for under limits; there are none")
    probes = [_against(measurement, rate, limit) for limit in limits]
    return max(
        probes, key=lambda probe: probe.excess / probe.error if probe.error else math.copysign(1e9, probe.excess)
    )


def _against(measurement: Measurement, rate: float, limit: Constraint) -> RateProbe:
    metric, _, statistic = limit.name.rpartition("_")
    values = np.asarray(measurement.series.get(metric, ()), dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) and statistic[1:].replace(".", "", 1).isdigit() and limit.most < math.inf:
        above = (values > limit.most).astype(np.float64)
        # One request more on each side (Agresti and Coull 1998): none above of few is no proof.
        share = (above.sum() + 1) / (len(values) + 2)
        error = math.sqrt(share * (1 - share) / len(values) * autocorrelation_factor(above))
        return RateProbe(rate, float(share - (1 - float(statistic[1:]) / 100)), error)
    excess = limit.violation(measurement.metrics[limit.name])
    return RateProbe(rate, excess, _mean_error(values, limit) if statistic == "mean" else 0.0)


def _mean_error(values: NDArray[np.float64], limit: Constraint) -> float:
    starts = batch_starts(len(values)) if len(values) else np.zeros(0, dtype=np.int64)
    if len(starts) < 2 or not np.isfinite(values).all():
        return 0.0
    counts = np.diff(np.append(starts, len(values))).astype(np.float64)
    return batch_error(np.add.reduceat(values, starts), counts) / limit.most
