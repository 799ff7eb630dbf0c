"""The simulator as a predictor: what it says of candidates, its calibration by trials, and how well both agree.

It answers in virtual time with coefficients that are not this device's, so only its order counts: Kendall's τ between
prediction and measurement is followed as the study goes on. Calibration fits every coefficient of its step time, each
with a prior near where it began: least squares of logarithms by Gauss and Newton; the slopes are taken once and
corrected by what each step shows (Broyden, Mathematics of Computation 19, 1965).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.messages import Message, message
from harness.scenario.stages import Stage
from harness.scenario.study import whole_of
from harness.seeds import stream
from harness.simulator.engine_config import Settings, settings_from_flags
from harness.simulator.step_cost import TERMS, Terms
from harness.statistics.intervals import CONFIDENCE
from harness.tuning.candidates import Candidate
from harness.tuning.capacity import LAST_RATE, find_capacity, search_around
from harness.tuning.posterior import Observation
from harness.tuning.study_plan import StudyPlan, Task, TrialScores, score, slo_constraints, stage_for
from harness.tuning.topology import Layout, cards_of, layout_of
from harness.tuning.trial_series import LATENCIES, run_to_run_noise
from harness.tuning.types import Measurement
from harness.tuning.virtual_evaluation import VirtualLoad

FEWEST_PAIRS = 5  # below them the interval of τ spans nearly everything
LEAST_TAU = 0.1  # an order that is right in 55 of 100 pairs is worth nothing
_HALVINGS = 40
RECOVERY = 0.25  # so far above it the simulator has to come to be trusted again


@dataclass(frozen=True, slots=True)
class SimulatorAgreement:
    """Kendall's τ-b of `pairs` trials with its 95 % interval (None where there are too few), and whether to trust."""

    pairs: int
    tau: float | None = None
    low: float | None = None
    high: float | None = None
    trusted: bool = True

    @property
    def message(self) -> Message:
        """The agreement in one line."""
        if self.tau is None or self.low is None or self.high is None:
            return message("tuning.agreement_unknown", pairs=self.pairs, count=self.pairs)
        code = "tuning.agreement" if self.trusted else "tuning.agreement_dropped"
        return message(code, tau=self.tau, low=self.low, high=self.high, pairs=self.pairs)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's τ-b of two orders, ties allowed; None where one of them is all ties."""
    from scipy.stats import kendalltau  # noqa: PLC0415 - takes a second to load, which commands without a study save

    tau = float(kendalltau(first, second).statistic)
    return None if math.isnan(tau) else tau


def agreement(pairs: Sequence[tuple[float, float]], least_tau: float = LEAST_TAU) -> SimulatorAgreement:
    """How predicted and measured values of the trials so far agree, in the order in which they came.

    The interval holds for any number of trials and any distribution: of n trials, n // 2 pairs are independent, and
    the share of pairs in the same order is bounded as if these were all (Hoeffding, JASA 58, 1963, section 5a, with
    the binomial's own exponent). It is wide: five trials in the same order show τ above -0.68, not above 0.9.
    Whether the simulator is trusted depends on the way there: dropped at `least_tau` or below, it has to come back to
    0.25 more.
    """
    trusted = True
    current = SimulatorAgreement(len(pairs))
    for count in range(FEWEST_PAIRS, len(pairs) + 1):
        current = _interval(pairs[:count])
        if current.tau is not None:
            trusted = current.tau > (least_tau if trusted else min(least_tau + RECOVERY, 0.9))
    return SimulatorAgreement(current.pairs, current.tau, current.low, current.high, trusted)


def observed_agreement(plan: StudyPlan, observations: Sequence[Observation]) -> SimulatorAgreement:
    """How the simulator and the trials agree on a study's first objective."""
    first = plan.objectives[0]
    pairs = [
        (first.cost(observation.predicted[first.name]), first.cost(observation.values[first.name]))
        for observation in observations
        if first.name in observation.predicted
        and first.name in observation.values
        and not observation.stopped  # their values are extrapolated
    ]
    return agreement(pairs, plan.study.screening.least_tau)


def _interval(pairs: Sequence[tuple[float, float]]) -> SimulatorAgreement:
    tau = kendall_tau([predicted for predicted, _ in pairs], [measured for _, measured in pairs])
    if tau is None:
        return SimulatorAgreement(len(pairs), tau)
    low, high = tau_interval(tau, len(pairs))
    return SimulatorAgreement(len(pairs), tau, low, high)


def tau_interval(tau: float, count: int) -> tuple[float, float]:
    """The ends of an interval that holds the true τ of `count` trials at least 95 times of 100."""
    share = min(1.0, max(0.0, (1 + tau) / 2))  # of pairs in the same order
    most = math.log(2 / (1 - CONFIDENCE)) / max(1, count // 2)
    return 2 * _farthest(share, 0.0, most) - 1, 2 * _farthest(share, 1.0, most) - 1


def _farthest(share: float, end: float, most: float) -> float:
    """The probability nearest to `end` (0 or 1) from which a share diverges by no more than `most`."""
    inside, outside = share, end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if _divergence(share, middle) <= most else (inside, middle)
    return inside


def _divergence(share: float, probability: float) -> float:
    """Kullback and Leibler's divergence of two binomials, in nats."""
    terms = ((share, probability), (1 - share, 1 - probability))
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in terms if a > 0)


Floats = NDArray[np.float64]
COMPARED: Mapping[str, float] = {"tpot_mean": 1.0, "tpot_p90": 1.0, "ttft_mean": 0.3, "throughput": 0.5}
"""Metrics that say how fast an engine is, and how much each counts: queues make times to the first token wander."""
_PRIOR = 0.3  # how far the logarithm of a coefficient may lie from 0 unseen
_NOISE = 0.02  # and that of a metric from the truth: a run's own noise, and what the simulator's rules leave out
_STEP = 0.1
_MOST = 2.0  # of a residual: a queue that one of them has and the other has not says "slower", not by how much
_ROUNDS = 8
_WORTH = 0.02  # of what is off: less to be gained ends the search
_NAMES = Terms.__slots__

PredictMetrics = Callable[[Terms], Sequence[Mapping[str, float]]]
"""The simulator's metrics, with some coefficients, of every trial that is compared."""


def scale_terms(terms: Terms, logs: Sequence[float]) -> Terms:
    """Coefficients with which all that each of them stands for takes e^log times as long; shares of a peak divide."""
    times = {name: math.exp(log if name.endswith("_s") else -log) for name, log in zip(_NAMES, logs, strict=True)}
    return replace(terms, **{name: getattr(terms, name) * factor for name, factor in times.items()})


def calibrate_terms(terms: Terms, measured: Sequence[Mapping[str, float]], predict: PredictMetrics) -> Terms:
    """The coefficients under which the simulator is nearest to what was measured; as they are where nothing is."""
    if not measured:
        return terms

    def off(logs: Floats) -> Floats:
        return _residuals(measured, predict(scale_terms(terms, logs.tolist())), logs)

    logs = np.zeros(len(_NAMES))
    residuals = off(logs)
    slopes = np.stack([(off(_STEP * unit) - residuals) / _STEP for unit in np.eye(len(_NAMES))], axis=1)
    for _ in range(_ROUNDS):
        step = np.clip(np.linalg.lstsq(slopes, -residuals, rcond=None)[0], -1.0, 1.0)
        improved = _along(off, logs, residuals, step)
        if improved is None:
            break
        moved, moved_residuals = improved
        change = moved - logs
        slopes += np.outer(moved_residuals - residuals - slopes @ change, change) / (change @ change)
        settled = moved_residuals @ moved_residuals > (1 - _WORTH) * (residuals @ residuals)
        logs, residuals = moved, moved_residuals
        if settled:
            break
    return scale_terms(terms, logs.tolist())


def _along(
    off: Callable[[Floats], Floats], logs: Floats, residuals: Floats, step: Floats
) -> tuple[Floats, Floats] | None:
    """As far along a step as it helps, and what is off there: all of it, a half, a quarter, or none."""
    for share in (1.0, 0.5, 0.25):
        moved = logs + share * step
        moved_residuals = off(moved)
        if moved_residuals @ moved_residuals < residuals @ residuals:
            return moved, moved_residuals
    return None


def _residuals(
    measured: Sequence[Mapping[str, float]], predicted: Sequence[Mapping[str, float]], logs: Floats
) -> Floats:
    """Logarithms of predicted over measured metrics, weighed; then the prior of the factors."""
    rows = [
        weight * _ratio(prediction.get(name), metrics.get(name))
        for metrics, prediction in zip(measured, predicted, strict=True)
        for name, weight in COMPARED.items()
    ]
    return np.asarray([*rows, *(_NOISE * logs / _PRIOR)])


def _ratio(predicted: float | None, measured: float | None) -> float:
    if not predicted or not measured or not math.isfinite(measured):
        return 0.0
    return min(max(math.log(predicted / measured), -_MOST), _MOST) if math.isfinite(predicted) else _MOST


OFF = 0.4
"""By how much each coefficient of a screening simulator is off, at most, where it stands for another device."""
_COARSE = 0.1  # of a capacity that only ranks candidates
StepSignature = tuple[float, ...]
"""How a load goes, in numbers that are the same where every step is."""


def _course(measured: Measurement) -> StepSignature:
    return (measured.load_s, *(measured.metrics.get(f"{name}_mean", 0.0) for name in LATENCIES))


def perturb_terms(terms: Terms, seed: int, spread: float = OFF) -> Terms:
    """Coefficients each of which is wrong by a factor between 1 - off and 1 + off, drawn by seed."""
    rng = stream(seed, "twin's errors")  # the name seeds the draws of earlier versions, too
    names = Terms.__slots__
    factors = 1 + rng.uniform(-spread, spread, len(names))
    changes = {name: getattr(terms, name) * float(factor) for name, factor in zip(names, factors, strict=True)}
    return replace(
        terms, **{name: min(value, 1.0) if not name.endswith("_s") else value for name, value in changes.items()}
    )


@dataclass(slots=True)
class SimulatorScreener:
    """The simulated engine as a cheap source; what it has said is kept until it is calibrated anew."""

    plan: StudyPlan
    terms: Terms
    _predictions: dict[str, TrialScores | None] = field(default_factory=dict)
    _courses: dict[str, StepSignature] = field(default_factory=dict)
    _loads: list[VirtualLoad] = field(default_factory=list)

    def predict(self, candidate: Candidate) -> TrialScores | None:
        """Values and violations by name; None where it would not start, or cannot serve this."""
        if candidate.key not in self._predictions:
            measured = self._measured(candidate, self.terms)
            cards = cards_of(candidate.resolved.effective, self.plan.study.cards)
            self._predictions[candidate.key] = None if measured is None else self._verdict(measured, cards)
            if measured is not None:
                self._courses[candidate.key] = tuple(
                    value for measurement in measured for value in _course(measurement)
                )
        return self._predictions[candidate.key]

    def _verdict(self, measured: Sequence[Measurement], cards: int) -> TrialScores:
        """What is measured in the mean over the paces that runs have, as the one of a trial is not known."""
        scores = score(self.plan, measured, cards)
        if len(measured) > 1:
            return scores
        noise = {name: run_to_run_noise(self.plan, measured[0], whole_of(name)) for name in scores.values}
        means = {
            name: paced.mean / (1 if name == whole_of(name) else cards)
            for name, paced in noise.items()
            if paced is not None
        }
        return TrialScores({**scores.values, **means}, scores.violations)

    def step_signature(self, candidate: Candidate) -> StepSignature | None:
        """How its load goes, as a value that is the same for two candidates where every step of theirs is.

        A cache that holds more than is ever asked of it is such a case: whatever the coefficients are, it changes
        nothing. None where the simulator would not start.
        """
        self.predict(candidate)
        return self._courses.get(candidate.key)

    def calibrate(self, measurements: Sequence[tuple[Candidate, Measurement]]) -> None:
        """Fit its speed, from where it is, to trials of one task measured in full; what it said before is forgotten."""
        complete = [(candidate, measurement) for candidate, measurement in measurements if not measurement.stopped]

        def predict(terms: Terms) -> list[Mapping[str, float]]:
            predicted = [self._measured(candidate, terms, measurement) for candidate, measurement in complete]
            return [{} if measurements_ is None else measurements_[0].metrics for measurements_ in predicted]

        self.terms = calibrate_terms(self.terms, [measurement.metrics for _, measurement in complete], predict)
        self._predictions.clear()
        self._courses.clear()

    def _measured(
        self, candidate: Candidate, terms: Terms, like: Measurement | None = None
    ) -> list[Measurement] | None:
        """What its loads show; of a capacity the search, or with `like` one load at that one's last rate."""
        plan, args = self.plan, candidate.engine.args
        model = {} if candidate.engine.model is None else {"model": candidate.engine.model}
        try:
            if not self._loads:
                most = plan.study.screening.requests
                self._loads += [VirtualLoad(t.scenario, t.path.parent, most_requests=most) for t in plan.tasks]
            settings = settings_from_flags({**args, **model})
            layout = layout_of(candidate.engine) if plan.layouts else None
            cards = cards_of(candidate.resolved.effective, plan.study.cards)
            speed = _Speed(settings, terms, layout)
            return [
                self._shown(load, task, stage_for(plan, task, candidate.load, cards), speed, like)
                for load, task in zip(self._loads, plan.tasks, strict=True)
            ]
        except HarnessError:
            return None

    def _shown(
        self, load: VirtualLoad, task: Task, stage: Stage, speed: "_Speed", like: Measurement | None
    ) -> Measurement:
        seed = self.plan.study.seed

        def at(rate: float | None, _number: int = 0) -> Measurement:
            return load.measure(speed.settings, replace(stage, rate=rate), seed, terms=speed.terms, layout=speed.layout)

        if not self.plan.study.seeks_capacity:
            return at(stage.rate)
        if like is not None:
            return at(like.metrics[LAST_RATE])
        return find_capacity(
            at, replace(search_around(stage.rate or 1.0), precision=_COARSE, certain=True), slo_constraints(task)
        )


@dataclass(frozen=True, slots=True)
class _Speed:
    """Engines in virtual time: their settings, the coefficients of their step time, and how they lie."""

    settings: Settings
    terms: Terms
    layout: Layout | None


def screener_for(plan: StudyPlan) -> SimulatorScreener | None:
    """The simulator that screens a study, None where it is turned off or does not know the model.

    A study on the simulated engine is screened by a simulator whose coefficients are off, as a device's would be.
    """
    if plan.study.screening.points == 0:
        return None
    model = {} if plan.engine.model is None else {"model": plan.engine.model}
    try:
        family = settings_from_flags({**plan.engine.args, **model}).device.family
        VirtualLoad(plan.tasks[0].scenario, plan.tasks[0].path.parent)
    except HarnessError:
        return None
    terms = TERMS[family]
    return SimulatorScreener(plan, perturb_terms(terms, plan.study.seed) if plan.kind == "simulator" else terms)
