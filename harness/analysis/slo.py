"""Objectives: whether a stage kept its limits, and which of its requests did.

An objective such as `ttft_p99: 5s` is held to a percentile in which every failed request is
infinitely late. In an open loop `ttft` and `e2e` are held to the user's view, from the due time:
waiting for a slot is not the user's wish. A failed request lacks as many gaps as tokens that
never came, and each is infinite.

For goodput a single request is good where its own value keeps every limit, whatever statistic
the objective names; of its gaps (`itl`, `chunk_gap`) the share that the statistic names must
keep it. A value that is not defined for a completed request (no second token, no gap) breaks
no limit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.analysis.token_gaps import Mask, Streams, over_limit
from harness.messages import message
from harness.results.request_table import FAILED, Events, Requests
from harness.scenario.metrics import GAPS, USER_VIEW
from harness.statistics.intervals import Floats, percentile_with_failures

BY_CLIENT = "client"  # the client may have added more than a tenth of the value
CUT = "cut"  # an interruption ended the stage
CLOSE = "close"  # a value decides, but its 95 % interval spans the limit
TAILS = ("p90", "p95", "p99")
FEW = "few"  # likewise, but its answers are too few for an interval
VERDICTS = {  # whether a limit is met, and what of CLOSE and FEW holds of it
    (True, ""): message("analysis.met"),
    (True, CLOSE): message("analysis.met_close"),
    (True, FEW): message("analysis.met_few"),
    (False, ""): message("analysis.missed"),
    (False, CLOSE): message("analysis.missed_close"),
    (False, FEW): message("analysis.missed_few"),
}


@dataclass(frozen=True, slots=True)
class Objective:
    """One limit: its key in the scenario, the metric and statistic it holds, and the limit in seconds."""

    key: str
    metric: str
    statistic: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an objective: the value (s; infinite by failures, None where unknown), and whether it was met.

    `failed` is how many failed requests the value counts as infinite. `unsure` says why a value that there is does not
    decide: BY_CLIENT or CUT, and `unproven` why one that does is no proof: CLOSE or FEW.
    """

    objective: Objective
    value_s: float | None
    failed: int = 0
    unsure: str = ""
    unproven: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value keeps the limit; None where there is no value, or it does not decide."""
        return None if self.value_s is None or self.unsure else self.value_s <= self.objective.limit_s

    def judged_with(self, client_bound_s: float | None) -> "Outcome":
        """The outcome where the client may have added so much to a value that is not valid for that."""
        value_s, limit_s = self.value_s, self.objective.limit_s
        if client_bound_s is None or value_s is None or value_s - client_bound_s > limit_s:
            return self
        return replace(self, unsure=BY_CLIENT)

    def judged_until_cut(self) -> "Outcome":
        """The outcome of a stage that an interruption cut: a limit kept so far is not judged, a missed one is."""
        return replace(self, unsure=CUT) if self.met else self


def spans(interval: Sequence[float] | None, limit_s: float) -> bool:
    """Whether a 95 % interval holds values on both sides of a limit; one that is withheld does not."""
    return interval is not None and interval[0] <= limit_s < interval[1]


def weakness(statistic: str, interval: Sequence[float] | None, limit_s: float, median_s: float | None = None) -> str:
    """Why a finite value is no proof of being on its side of a limit: CLOSE or FEW, empty where it is one.

    Without an interval a tail is over its limit for sure where the median is, too: of five answers three exceed their
    p90 once in a hundred times. The maximum of some answers is that of these answers, and has no interval.
    """
    if interval is None:
        most_over = median_s is not None and median_s > limit_s and statistic in TAILS
        return "" if statistic == "max" or most_over else FEW
    return CLOSE if spans(interval, limit_s) else ""


def unproven_limits(stage: Mapping[str, Any]) -> dict[str, str]:
    """Of a stage of summary.json the limits that its values decide about without a proof, each with CLOSE or FEW."""
    decided = {
        key: held
        for key, held in (stage.get("slo") or {}).items()
        if held.get("met") is not None and held.get("value") is not None
    }
    reasons = {key: _weakness_of(stage, key, held) for key, held in decided.items()}
    return {key: why for key, why in reasons.items() if why}


def _weakness_of(stage: Mapping[str, Any], key: str, held: Mapping[str, Any]) -> str:
    statistic = key.rpartition("_")[2]
    values = stage.get(str(held.get("metric"))) or {}
    return weakness(statistic, (values.get("ci95") or {}).get(statistic), held["limit"], values.get("p50"))


def unproven(stage: Mapping[str, Any]) -> str:
    """Why a stage of summary.json may as well be on the other side: CLOSE or FEW, empty where it is sure.

    Of a stage that met its limits one of them is unproven, of one that missed some all these are.
    """
    weak = unproven_limits(stage)
    missed = [key for key, held in (stage.get("slo") or {}).items() if held.get("met") is False]
    if not all(key in weak for key in missed):
        return ""
    kinds = {weak[key] for key in missed} if missed else set(weak.values())
    return CLOSE if CLOSE in kinds else FEW if kinds else ""


def is_cut(summary: Mapping[str, Any], stage: Mapping[str, Any]) -> bool:
    """Whether an interruption cut a stage of this summary.json: its `cut`.

    Results of earlier versions have no such key: there it is a stage that left requests without their turn or their
    end, or a limit that was not judged for it.
    """
    if (cut := stage.get("cut")) is not None:
        return bool(cut)
    if not (summary.get("verdict") or {}).get("interrupted"):
        return False
    counts = stage.get("requests") or {}
    lost = any(counts.get(name) for name in ("cancelled", "never_sent"))
    return lost or any(held.get("unsure") == CUT for held in (stage.get("slo") or {}).values())


def objectives(slo: Mapping[str, float], *, open_loop: bool) -> tuple[Objective, ...]:
    """The objectives of a scenario's `slo`, in the view that the kind of load calls for."""
    parts = ((key, *key.rpartition("_")[::2], limit) for key, limit in slo.items())
    return tuple(
        Objective(key, USER_VIEW.get(metric, metric) if open_loop else metric, statistic, limit)
        for key, metric, statistic, limit in parts
    )


def outcome(objective: Objective, values: Mapping[str, Floats], gaps: Streams, failed: Requests) -> Outcome:
    """The statistic of a stage's completed requests and its failed ones, which are infinite.

    `values` holds a request's metrics by name (without those that are undefined).
    """
    if objective.metric in GAPS:
        return Outcome(objective, _gap_statistic(objective, gaps, failed), len(failed))
    return Outcome(objective, _statistic(objective.statistic, values[objective.metric], len(failed)), len(failed))


def _statistic(statistic: str, values: Floats, failures: int) -> float | None:
    if statistic.startswith("p"):
        return percentile_with_failures(values, failures, float(statistic[1:]))
    if failures:
        return math.inf
    if len(values) == 0:
        return None
    return float(values.mean() if statistic == "mean" else values.max())


def _gap_statistic(objective: Objective, gaps: Streams, failed: Requests) -> float | None:
    of_kind = gaps.itl if objective.metric == "itl" else gaps.chunk_gap
    missing = int(np.maximum(1, failed.output_asked - failed.output_tokens).sum())
    if objective.statistic.startswith("p"):
        return of_kind.percentile(float(objective.statistic[1:]), missing)
    if missing:
        return math.inf
    return of_kind.short.mean if objective.statistic == "mean" else of_kind.short.max


def good_requests(
    limits: tuple[Objective, ...], requests: Requests, events: Events, latencies: Mapping[str, Floats]
) -> Mask:
    """Which requests keep every limit; a failed one keeps none. `latencies` are NaN where undefined."""
    kept = requests.status != FAILED
    for objective in limits:
        if objective.metric in GAPS and objective.statistic != "mean":
            kept &= _few_late(objective, events)
        else:
            kept &= ~(_own_value(objective, requests, latencies) > objective.limit_s)
    return np.asarray(kept, dtype=bool)


def _few_late(objective: Objective, events: Events) -> Mask:
    allowed = 0.0 if objective.statistic == "max" else 1 - float(objective.statistic[1:]) / 100
    late = over_limit(events, objective.limit_s, per_token=objective.metric == "itl")
    return np.asarray(late <= allowed + 1e-12)


def _own_value(objective: Objective, requests: Requests, latencies: Mapping[str, Floats]) -> Floats:
    """A request's value of a metric; the mean gap between tokens is its tpot, that between events likewise."""
    if objective.metric == "itl":
        return latencies["tpot"]
    if objective.metric == "chunk_gap":
        whole = latencies["tpot"] * (requests.output_tokens - requests.first_tokens)
        return np.asarray(whole / np.maximum(1, requests.events - 1))
    return latencies[objective.metric]
