"""Early stopping: whether a trial can still win, by its load so far beside the incumbent's.

Both answered the same requests: the same prompts at the same arrivals, so they are compared in
pairs. Latencies are compared request by request, as long as none is missing. Rates are compared by time:
tokens and requests finished at the same time into the load, so that one slow request does not hold back the
count of the others, and requests still in flight are missing on both sides alike. The tests use differences
between blocks (of requests or of time), because neighbouring values are correlated. Two rules stop a trial. The first
gets a fifth of the allowed error; the second, which decides earlier, gets the rest:

1. It is worse. The test may be looked at whenever one likes: its evidence is a bet against "the trial is at least
   as good", and the chance that such a bet ever multiplies by 1 / error is at most the error (Ville's inequality).
   The bet is the mixture of normal likelihood ratios with unknown variance (Lai 1976; Wang and Ramdas,
   "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance", 2023).
2. It is predicted to lose. The rest of the benchmark is predicted from the blocks so far (Student's
   prediction interval); a trial is stopped when the chance that it ends ahead has fallen to the error (stochastic
   curtailment; Lan, Simon and Halperin 1982). That chance, looked at again and again, is a martingale: of the trials
   that are stopped at the error, no more than that share would have ended ahead, however often one looked (Doob's
   optional stopping). A trial that is no worse but unlucky may end behind, and be stopped: it would not have been
   taken anyway.

Correlation that is left between neighbouring blocks weakens the evidence and widens the prediction.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.statistics.intervals import percentile_of, student_t
from harness.statistics.time_series import autocorrelation_factor
from harness.tuning.types import Constraint, Measurement, StudyObjective

Floats = NDArray[np.float64]

ALPHA = 0.05
BEATEN, PREDICTED_TO_LOSE, BREACH = "beaten", "predicted_to_lose", "constraint_breach"
"""The rules that stop a trial."""
BLOCKS = 20  # in a whole benchmark
SMALLEST_BLOCK = 5
FEWEST_BLOCKS = 4  # three differences that happen to be alike are no rare event
_BEATEN_SHARE = 0.2  # of the error is for being worse in truth, the rest for ending behind
_PREDICTED_FROM = 6  # blocks: from fewer, how far they scatter is told too badly for an error to be kept
_ROUNDING = 1e-18  # variance, as a share of the mean square, that the computer's arithmetic alone makes
SPREAD = 4.0  # variance of the effects that the bet expects, in variances of a block's difference


@dataclass(frozen=True, slots=True)
class StopDecision:
    """Whether to stop a trial, by which rule (empty: none), and the evidence against it (1 / alpha stops)."""

    stop: bool
    rule: str = ""
    evidence: float = 1.0


def evidence_against(differences: Floats) -> float:
    """How many times the bet that these values have a mean above 0 has multiplied; 1 where they do not look so.

    The values come one after another; `SPREAD` is 1/c² of the cited theorem. Evidence is taken to
    the power of (1 - r) / (1 + r) where neighbours resemble each other with correlation r: of a bet
    that stays fair, a root grows no faster.
    """
    n, total, square = len(differences), float(differences.sum()), float(differences @ differences)
    if total <= 0 or square == 0:
        return 1.0
    room = n + 1 / SPREAD
    explained = min(total**2 / (room * square), 1 - 1e-12)
    exponent = -n / 2 * math.log1p(-explained) - math.log(room * SPREAD) / 2
    factor = autocorrelation_factor(differences) if float(differences.var()) > _ROUNDING * square / n else 1.0
    return math.exp(min(exponent / factor, 700.0))


def predicted_to_lose(differences: Floats, planned: int, error: float) -> bool:
    """Whether the sum over all `planned` blocks will be above 0, the rest foretold from the differences so far.

    It is told so when the chance that it ends at or below 0 is no more than `error`, as far as it can be told from
    the blocks so far.
    """
    n, remaining = len(differences), planned - len(differences)
    total = float(differences.sum())
    if n < _PREDICTED_FROM or total <= 0:
        return False
    if remaining <= 0:
        return True
    spread = float(differences.std(ddof=1)) * math.sqrt(_resemblance(differences))
    ahead = total + remaining * total / n
    return ahead > student_t(1 - error, n - 1) * spread * math.sqrt(remaining + remaining**2 / n)


def _resemblance(differences: Floats) -> float:
    """How much resembling neighbours add to the variance of a sum, or opposed ones take from it.

    What one block of time lacks because an answer came a moment late, the next one has too much. A correlation is
    estimated about 1 / n too low from n values (Marriott and Pope, Biometrika 41, 1954), and followed from -0.5 to 0.7.
    """
    residuals = differences - differences.mean()
    square = float(residuals @ residuals)
    if square <= _ROUNDING * float(differences @ differences):
        return 1.0
    correlation = min(max(float(residuals[:-1] @ residuals[1:]) / square + 1 / len(residuals), -0.5), 0.7)
    return (1 + correlation) / (1 - correlation)


def block_means(values: Floats, size: int) -> Floats:
    """Means of whole blocks of consecutive values; NaN values are left out, a block of nothing else is NaN."""
    whole = values[: len(values) // size * size].reshape(-1, size)
    counts = np.maximum((~np.isnan(whole)).sum(axis=1), 0)
    sums = np.nansum(whole, axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(whole), math.nan), where=counts > 0))


def block_size(requests: int) -> int:
    """Requests a block, for a benchmark of so many."""
    return max(SMALLEST_BLOCK, -(-requests // BLOCKS))


_NEVER_S = 1e9  # for what failed, and has no end

PairedComparison = Callable[[Measurement, Measurement, int, int], Floats]
"""Trial, incumbent, requests that both have, block size: by how much the trial is worse, block by block."""


def answered_prefix(measurement: Measurement) -> int:
    """How many requests from the first on are answered or failed: up to there nothing is missing."""
    missing = np.flatnonzero(np.isnan(np.asarray(measurement.series.get("done", ()), dtype=np.float64)))
    return int(missing[0]) if len(missing) else len(measurement.series.get("done", ()))


def _first(measurement: Measurement, name: str, count: int) -> Floats:
    return np.asarray(measurement.series[name][:count], dtype=np.float64)


_COUNTED = {"throughput": "tokens", "goodput": "good", "request_rate": None}
"""Objectives that are rates, and the series that says what an answered request counts (None: one)."""


def _ends(measurement: Measurement) -> Floats:
    """When each request ended; those that failed or did not end are far away."""
    done = np.asarray(measurement.series["done"], dtype=np.float64)
    return np.nan_to_num(done, nan=_NEVER_S, posinf=_NEVER_S)


def _brought(measurement: Measurement, series: str | None, edges: Floats) -> Floats:
    """What was answered between each two times."""
    ends = _ends(measurement)
    counts = np.ones(len(ends)) if series is None else np.nan_to_num(np.asarray(measurement.series[series]))
    return np.histogram(ends, edges, weights=counts)[0]


def _last_s(measurement: Measurement) -> float:
    """When the last request ended that did."""
    ends = _ends(measurement)
    return float(ends[ends < _NEVER_S].max(initial=0.0))


def _blocks_so_far(trial: Measurement, whole_s: float) -> int:
    """Whole twentieths of another's load that have passed; no more than twice as many."""
    return int(min(trial.load_s / whole_s, 2.0) * BLOCKS + 1e-9) if whole_s else 0


def _behind(trial: Measurement, incumbent: Measurement, objective: str, margin: float) -> Floats:
    """How much less the trial brought in each block of time, in the incumbent's mean blocks; empty where it is early.

    The times are twentieths of the incumbent's load. Where the trial goes on for longer, the incumbent goes on at
    its mean rate, so that over all of a load the sum is above 0 where the trial's rate is the lower one. Blocks before
    the first answer of either say nothing, and are left out.
    """
    series, whole_s = _COUNTED[objective], _last_s(incumbent)
    count = _blocks_so_far(trial, whole_s)
    if count < FEWEST_BLOCKS:
        return np.zeros(0)
    edges = np.arange(count + 1) * whole_s / BLOCKS
    edges[-1] += 1e-9 * whole_s  # a request that ends with the load belongs to it
    trial_blocks, incumbent_blocks = (_brought(measurement, series, edges) for measurement in (trial, incumbent))
    mean = float(_brought(incumbent, series, np.asarray([0.0, 2 * whole_s]))[0]) / BLOCKS
    incumbent_blocks[BLOCKS:] = mean
    started = _brought(trial, None, edges) + _brought(incumbent, None, edges)
    first = int(np.flatnonzero(started)[0]) if started.any() else count
    return np.asarray((incumbent_blocks / (1 + margin) - trial_blocks)[first:] / mean) if mean else np.zeros(0)


def _bounded(values: Floats) -> Floats:
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=10.0, neginf=-10.0), -10.0, 10.0)


def _later(metric: str, statistic: str) -> PairedComparison:
    """Of a latency's mean its log ratio; of a percentile the share of requests above the incumbent's."""

    def mean(trial: Measurement, incumbent: Measurement, count: int, size: int) -> Floats:
        own, other = (block_means(_first(measurement, metric, count), size) for measurement in (trial, incumbent))
        return _bounded(np.log(own / other))

    def percentile(trial: Measurement, incumbent: Measurement, count: int, size: int) -> Floats:
        own, other = (_first(measurement, metric, count) for measurement in (trial, incumbent))
        known = np.asarray(incumbent.series[metric], dtype=np.float64)
        line = percentile_of(np.sort(known[~np.isnan(known)]), float(statistic[1:]))
        return _bounded(block_means((own > line).astype(np.float64) - (other > line), size))

    return mean if statistic == "mean" else percentile


def latency_comparison(objective: str) -> PairedComparison | None:
    """How latencies are compared request by request; None where pairs of requests say nothing of an objective."""
    metric, _, statistic = objective.rpartition("_")
    if metric in ("ttft", "tpot", "e2e") and (statistic == "mean" or statistic[1:].replace(".", "", 1).isdigit()):
        return _later(metric, statistic)
    return None


def block_differences(trial: Measurement, incumbent: Measurement, objective: str, margin: float = 0.0) -> Floats:
    """By how much the trial is worse than the incumbent in each block so far; empty where nothing can be compared.

    `margin` is by which share it may be worse: of rates and mean latencies as a ratio, of requests above a percentile
    as a share of requests.
    """
    if objective in _COUNTED:
        return _behind(trial, incumbent, objective, margin) if trial.seed == incumbent.seed else np.zeros(0)
    compared = latency_comparison(objective)
    planned = len(incumbent.series.get("done", ()))
    count, size = min(answered_prefix(trial), answered_prefix(incumbent)), block_size(planned)
    if compared is None or trial.seed != incumbent.seed or count < FEWEST_BLOCKS * size:
        return np.zeros(0)
    allowed = math.log1p(margin) if objective.endswith("_mean") else margin
    return np.nan_to_num(compared(trial, incumbent, count, size)) - allowed


def _planned(trial: Measurement, incumbent: Measurement, objective: str, blocks: int) -> int:
    """How many blocks there will be at the end: of time more, by as much as the trial is slower."""
    total = len(incumbent.series["done"])
    if objective not in _COUNTED:
        return total // block_size(total)
    answered, incumbent_answered = (
        int((_ends(measurement) <= trial.load_s).sum()) for measurement in (trial, incumbent)
    )
    skipped = _blocks_so_far(trial, _last_s(incumbent)) - blocks
    return max(blocks, math.ceil(BLOCKS * min(max(incumbent_answered / max(answered, 1), 1.0), 2.0)) - skipped)


def compare_with_incumbents(
    trial: Measurement,
    incumbents: Sequence[Measurement],
    objectives: Sequence[StudyObjective],
    alpha: float = ALPHA,
    margin: float = 0.0,
) -> StopDecision:
    """Whether the trial cannot win: one incumbent beats it in every objective, or would in the end.

    However often one looks, a trial that is as good as every incumbent in some objective is stopped by the first
    rule with a probability of at most `alpha` / 5, and one that would end ahead of them by the second with the rest:
    each of m incumbents has an equal part, and against one of them all objectives have to agree
    (intersection-union test, Berger 1982).
    """
    share = alpha / max(1, len(incumbents))
    most = 1.0
    for incumbent in incumbents:
        worse = [block_differences(trial, incumbent, objective.name, margin) for objective in objectives]
        if not all(len(differences) for differences in worse):
            continue
        least = min(evidence_against(differences) for differences in worse)
        most = max(most, least)
        if least * _BEATEN_SHARE * share >= 1:
            return StopDecision(True, BEATEN, least)
        if all(
            predicted_to_lose(
                differences, _planned(trial, incumbent, objective.name, len(differences)), (1 - _BEATEN_SHARE) * share
            )
            for differences, objective in zip(worse, objectives, strict=True)
        ):
            return StopDecision(True, PREDICTED_TO_LOSE, least)
    return StopDecision(stop=False, evidence=most)


def constraint_breach(trial: Measurement, limits: Sequence[Constraint], planned: int) -> StopDecision:
    """Whether a limit on a percentile is broken whatever the rest of the `planned` requests will show.

    No statistics: once more requests lie above the limit than the percentile leaves, it is decided.
    """
    count = answered_prefix(trial)
    for limit in limits:
        metric, _, statistic = limit.name.rpartition("_")
        if metric not in trial.series or not statistic[1:].replace(".", "", 1).isdigit() or limit.most == math.inf:
            continue
        above = int((_first(trial, metric, count) > limit.most).sum())
        if above > math.ceil(planned * (1 - float(statistic[1:]) / 100)):
            return StopDecision(stop=True, rule=BREACH, evidence=math.inf)
    return StopDecision(stop=False)


def stopping_rule(
    incumbents: Sequence[Measurement],
    objectives: Sequence[StudyObjective],
    limits: Sequence[Constraint] = (),
    alpha: float = ALPHA,
    margin: float = 0.0,
) -> Callable[[Measurement], StopDecision]:
    """A function from what a load has shown so far to whether to stop it."""

    def ruling(trial: Measurement) -> StopDecision:
        planned = max((len(incumbent.series.get("done", ())) for incumbent in incumbents), default=0)
        broken = constraint_breach(trial, limits, planned) if planned else StopDecision(stop=False)
        return broken if broken.stop else compare_with_incumbents(trial, incumbents, objectives, alpha, margin)

    return ruling
