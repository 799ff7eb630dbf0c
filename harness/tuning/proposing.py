"""Proposals: the next point worth an engine start.

From a pool of candidates that differ in their effective configuration. First the default, then the
twin's favourites; from then on the point from which a model of what was measured (a Gaussian
process around the twin's word) expects the greatest gain, weighed by how likely it serves at
all and keeps the limits. Now and then Optuna's TPE is asked as well.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.seeds import stream
from harness.tuning import space as spaces
from harness.tuning.candidates import Candidate, CandidateResolver, restart_rank
from harness.tuning.feasibility import Feasibility
from harness.tuning.posterior import (
    ModelInputs,
    Observation,
    engine_point,
    expected_improvement,
    failure_probability,
    inflate_uncertainty,
    normal_cdf,
    observations_of,
    posterior_costs,
    posterior_of,
)
from harness.tuning.sampler import PointCheck, suggest_with_tpe
from harness.tuning.simulator_screening import SimulatorAgreement, SimulatorScreener, agreement
from harness.tuning.study_plan import StudyPlan, TrialScores
from harness.tuning.types import COMPLETE, Point, Trial, best_trial

Floats = NDArray[np.float64]
FAVOURITES = 4  # of the twin, tried before a model is asked
UNSCREENED = 5  # points spread over the space, where there is no twin
AROUND = 10  # neighbours of the best that join the pool each time
TPE_EVERY = 6
CALIBRATED_AT = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # trials measured in full
_FITTED = 10  # of them: each costs the twin a dozen loads
_NEARLY = 0.9  # of the greatest gain: among those, the cheapest start
_PLAIN_POOL = 120
CLIMBED_EVERY = 2  # trials: then only what was measured counts, lest a cliff that the twin sees is never looked behind
_NEAR = 0.25  # of the best, in the unit cube, is where it climbs
EXPLORE_EVERY = 4
_CLOSING = 0.6  # of the trials: from then on they go to what is believed to be best, and no more to find out
_CLOSING_DOUBT = 0.3  # of a belief's deviation is left to it then
SETTLED_AT = 5  # trials: from then on what is likely to fail is left alone
_SURE = 0.9  # to serve, asked of candidates from then on
_STEP_SHARE = 0.1  # of the memory: a start that asks for a hundredth more than all before fails once in ten
_FRESH = 30  # points from all over the space that join the pool each time, where a model alone is asked
_APART = 0.04  # so near each other, in the unit cube, two engines differ by less than runs of one do
_FAR = 0.25  # apart, in the unit cube, are two favourites


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate to try, who proposed it, and what the twin said of it."""

    candidate: Candidate
    origin: str
    predicted: TrialScores | None


@dataclass(slots=True)
class Proposer:
    """Keeps the pool; everything else it is told each time."""

    plan: StudyPlan
    resolver: CandidateResolver
    feasibility: Feasibility
    screener: SimulatorScreener | None = None
    pool: dict[str, Candidate] = field(default_factory=dict)
    same: int = 0
    refused: int = 0
    calibrated: int = 0

    def open(self) -> None:
        """Fill the pool: points spread over the space and around the default; equal engines stand in it once."""
        study = self.plan.study
        rng = stream(study.seed, "pool")
        count = study.screening.points if self.screener is not None else _PLAIN_POOL
        engine_space = self._space()
        points = spaces.latin_hypercube(engine_space, count, rng)
        base = self.default()
        points += spaces.neighbours(engine_space, base.point, max(AROUND, count // 5), rng)
        self._join(points)

    def default(self) -> Candidate:
        """The base configuration as a candidate: its point says what the engine has by itself."""
        candidate = self.resolver.candidate({})
        assert candidate is not None
        effective = candidate.resolved.effective
        space = self._space()
        named = {
            parameter.name: spaces.default_value(parameter, effective.get(parameter.key))
            for parameter in space.parameters
        }
        values = {name: value for name, value in named.items() if value is not None}
        return Candidate(
            spaces.active_point(space, values),
            candidate.engine,
            candidate.load,
            candidate.resolved,
            candidate.key,
            candidate.engine_key,
        )

    def _space(self) -> spaces.Space:
        return spaces.Space(self.plan.space.engine, self.plan.space.fixed, self.plan.space.derived)

    def _join(self, points: Sequence[Point]) -> None:
        for candidate in self.resolver.candidates(points):
            if candidate.resolved.fault is not None:
                self.refused += 1
            elif candidate.engine_key in self.pool:
                self.same += 1
            else:
                self.pool[candidate.engine_key] = candidate

    def propose(self, trials: Sequence[Trial], taken: Collection[str], number: int) -> Proposal | None:
        """The next candidate, of those whose engine key is not among `taken`; None where none is left.

        `number` is that of the trial to come. Trial 0 is the default.
        """
        default = self.default()
        if default.engine_key not in taken and number == 0:
            return Proposal(default, "default", self._says(default))
        self._calibrate(trials)
        observations = self._seen(trials)
        early = self._early(observations, taken)
        if early is not None:
            return early
        alone = self.screener is None or not self._trusted(observations).trusted
        by_tpe = self._by_tpe(trials, taken, number) if alone and number % TPE_EVERY == TPE_EVERY - 1 else None
        if by_tpe is not None:
            return by_tpe
        self._extend(observations, number)
        return self._by_model(observations, taken, number)

    def _calibrate(self, trials: Sequence[Trial]) -> None:
        """Let the twin learn the device's speed from the default, and again as trials come in that differ from it."""
        if self.screener is None or len(self.plan.tasks) > 1:
            return
        complete = [trial for trial in trials if trial.status == COMPLETE and trial.measurement is not None]
        due = sum(count <= len(complete) for count in CALIBRATED_AT)
        if due <= self.calibrated:
            return
        self.calibrated = due
        rows = spaces.encode(self._space(), [engine_point(trial.point) for trial in complete])
        least = min(range(len(complete)), key=lambda place: self._cost_of(complete[place]))
        chosen = [complete[place] for place in spaces.farthest_points(rows, (0, least), _FITTED)]
        pairs = [(candidate, trial.measurement) for trial in chosen if (candidate := self._exact(trial)) is not None]
        self.screener.calibrate([(candidate, measured) for candidate, measured in pairs if measured is not None])

    def _cost_of(self, trial: Trial) -> float:
        first = self.plan.objectives[0]
        return first.cost(trial.values.get(first.name, math.nan))

    def _exact(self, trial: Trial) -> Candidate | None:
        """The candidate of a trial: of the default the base configuration itself, which its point only rounds."""
        return self.resolver.candidate({} if trial.origin == "default" else trial.point)

    def _seen(self, trials: Sequence[Trial]) -> list[Observation]:
        """The engines seen, with what the twin says of them now."""
        observations = observations_of(self.plan, trials)
        if self.screener is None:
            return observations
        default = next((engine_point(trial.point) for trial in trials if trial.origin == "default"), None)
        candidates = [
            self.resolver.candidate({} if observation.point == default else observation.point)
            for observation in observations
        ]
        return [
            observation if engine is None else self._told(observation, engine)
            for observation, engine in zip(observations, candidates, strict=True)
        ]

    def _told(self, observation: Observation, engine: Candidate) -> Observation:
        """An engine that was seen, with the twin's word; as it is where the twin has none."""
        prediction = self._says(engine)
        if prediction is None or self.screener is None:
            return observation
        course = self.screener.step_signature(engine)
        return replace(
            observation, predicted=prediction.values, predicted_violations=prediction.violations, step_signature=course
        )

    def _says(self, candidate: Candidate) -> TrialScores | None:
        return None if self.screener is None else self.screener.predict(candidate)

    def _open_ones(self, taken: Collection[str]) -> list[Candidate]:
        """Candidates that were not tried and that nothing speaks against."""
        return [
            candidate
            for key, candidate in self.pool.items()
            if key not in taken and self.feasibility.predicted_failure(candidate) is None
        ]

    def _early(self, observations: Sequence[Observation], taken: Collection[str]) -> Proposal | None:
        """The twin's favourites, far from each other; without it, points spread over the space."""
        initial = FAVOURITES if self._trusted(observations).trusted and self.screener is not None else UNSCREENED
        if len(taken) > initial:
            return None
        untried = self._open_ones(taken)
        ranked = self._ranked(self._unlike(untried, observations) or untried) if self.screener is not None else untried
        rows = spaces.encode(self._space(), [candidate.point for candidate in ranked])
        observed = spaces.encode(self._space(), [observation.point for observation in observations])
        for candidate, gap in zip(ranked, spaces.distances(rows, observed).min(axis=1, initial=math.inf), strict=True):
            if gap >= _FAR:
                return Proposal(candidate, "screened" if self.screener is not None else "spread", self._says(candidate))
        return Proposal(ranked[0], "screened", self._says(ranked[0])) if ranked else None

    def _ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """By the twin's word, the best first; those it would not start are last."""

        def worth(candidate: Candidate) -> tuple[float, float]:
            prediction = self._says(candidate)
            if prediction is None:
                return math.inf, math.inf
            broken = sum(max(0.0, value) for value in prediction.violations.values())
            return broken, sum(
                objective.cost(prediction.values[objective.name]) for objective in self.plan.objectives[:1]
            )

        return sorted(candidates, key=worth)

    def contenders(self, trials: Sequence[Trial]) -> list[Trial]:
        """The feasible trials that were measured in full: the best by its own run, then by what is believed of them."""
        self._calibrate(trials)
        observations = self._seen(trials)
        if not self._trusted(observations).trusted:
            observations = [replace(observation, predicted={}, predicted_violations={}) for observation in observations]
        costs = posterior_costs(self.plan, self._space(), observations)
        place = {
            spaces.point_key(observation.point): cost
            for observation, cost in zip(observations, costs.tolist(), strict=True)
        }
        leading = best_trial(trials, self.plan.objectives[0])
        complete = [trial for trial in trials if trial.status == COMPLETE and trial.feasible]
        return sorted(
            complete,
            key=lambda one: (one is not leading, place[spaces.point_key(engine_point(one.point))], self._cost_of(one)),
        )

    def agreement(self, trials: Sequence[Trial]) -> SimulatorAgreement:
        """How the twin's order and that of the trials agree."""
        return self._trusted(self._seen(trials))

    def _trusted(self, observations: Sequence[Observation]) -> SimulatorAgreement:
        first = self.plan.objectives[0]
        pairs = [
            (first.cost(observation.predicted[first.name]), first.cost(observation.values[first.name]))
            for observation in observations
            if first.name in observation.predicted
            and first.name in observation.values
            and not observation.stopped  # their values are extrapolated
        ]
        return agreement(pairs, self.plan.study.screening.least_tau)

    def _by_tpe(self, trials: Sequence[Trial], taken: Collection[str], number: int) -> Proposal | None:
        """What Optuna's TPE asks for, the first that is new and not refused; known ones are answered from memory."""
        by_engine = {
            candidate.engine_key: trial
            for trial in trials
            if (candidate := self.resolver.candidate(engine_point(trial.point)))
        }

        def judge(point: Point) -> PointCheck:
            candidate = self._near(point)
            if candidate is None or candidate.engine_key in taken:
                return False, None if candidate is None else by_engine.get(candidate.engine_key)
            return self.feasibility.predicted_failure(candidate) is None and self._sure([candidate], number)[0], None

        point = suggest_with_tpe(self.plan, self._space(), trials, judge, number)
        candidate = None if point is None else self._near(point)
        return None if candidate is None else Proposal(candidate, "sampler", self._says(candidate))

    def _near(self, point: Point) -> Candidate | None:
        """The candidate of a point: its own where resolving is cheap, else the nearest of the pool."""
        if self.plan.kind == "simulator" or not self.pool:
            return self.resolver.candidate(point)
        members = list(self.pool.values())
        rows = spaces.encode(self._space(), [point, *(candidate.point for candidate in members)])
        return members[int(spaces.distances(rows[:1], rows[1:]).argmin())]

    def _extend(self, observations: Sequence[Observation], number: int) -> None:
        """Neighbours of the best join the pool, and others where no twin has to judge them; if resolving is cheap."""
        if self.plan.kind != "simulator":
            return
        rng = stream(self.plan.study.seed, "neighbours", number)
        alone = self.screener is None or not self._trusted(observations).trusted
        ranked = sorted(
            (observation for observation in observations if observation.values),
            key=lambda one: (one.total_violation, one.cost),
        )
        for observation in ranked[:1]:
            self._join(spaces.axis_steps(self._space(), observation.point))
        for observation in ranked[:2]:
            self._join(spaces.neighbours(self._space(), observation.point, AROUND if alone else AROUND // 2, rng))
        if alone:
            self._join(spaces.latin_hypercube(self._space(), _FRESH, rng))

    def _by_model(self, observations: Sequence[Observation], taken: Collection[str], number: int) -> Proposal | None:
        untried = self._open_ones(taken)
        if not untried:
            return None
        likely_to_serve = self._sure(untried, number)
        untried = [candidate for candidate, kept in zip(untried, likely_to_serve, strict=True) if kept] or untried
        untried = self._unlike(untried, observations) or untried
        if self._climbs(number):
            untried = self._near_best(untried, observations) or untried
        gains = self._gains(untried, observations, number)
        near = [place for place in range(len(untried)) if gains[place] >= _NEARLY * gains.max()]
        last = observations[-1].effective if observations else None
        place = min(near, key=lambda i: (restart_rank(last, untried[i].resolved.effective), -gains[i]))
        return Proposal(untried[place], "model", self._says(untried[place]))

    def _climbs(self, number: int) -> bool:
        """Whether a trial goes by what was measured alone, near the best."""
        return number % CLIMBED_EVERY == 0 and not self._closes(number)

    def _closes(self, number: int) -> bool:
        """Whether a trial is among the last of a budget that is known."""
        trials = self.plan.study.budget.trials
        return trials is not None and number >= _CLOSING * trials

    def _unlike(self, candidates: Sequence[Candidate], observations: Sequence[Observation]) -> list[Candidate]:
        """Candidates that would teach something: neither next to one that was measured, nor by the twin the same."""
        rows = spaces.encode(self._space(), [candidate.point for candidate in candidates])
        observed = spaces.encode(self._space(), [observation.point for observation in observations])
        gaps = spaces.distances(rows, observed).min(axis=1, initial=math.inf)
        apart = [candidate for candidate, gap in zip(candidates, gaps, strict=True) if gap >= _APART]
        if self.screener is None:
            return apart
        signatures = {observation.step_signature for observation in observations if observation.step_signature}
        return [candidate for candidate in apart if self.screener.step_signature(candidate) not in signatures]

    def _near_best(self, candidates: Sequence[Candidate], observations: Sequence[Observation]) -> list[Candidate]:
        """Candidates a step or two away from the best that was measured in full."""
        whole = [observation for observation in observations if not observation.stopped]
        if not whole:
            return []
        best = min(whole, key=lambda one: (one.total_violation, one.cost))
        rows = spaces.encode(self._space(), [best.point, *(candidate.point for candidate in candidates)])
        gaps = spaces.distances(rows[1:], rows[:1])[:, 0]
        return [candidate for candidate, gap in zip(candidates, gaps, strict=True) if gap <= _NEAR]

    def _gains(self, candidates: Sequence[Candidate], observations: Sequence[Observation], number: int) -> Floats:
        """What is expected of each candidate: gain times the chances to serve and to keep every limit."""
        predictions = None if self._climbs(number) else self._cheap(candidates, observations)
        inputs = ModelInputs(self.plan, self._space(), observations, predictions, number)
        rows = spaces.encode(self._space(), [candidate.point for candidate in candidates])
        posterior = posterior_of(inputs, rows)
        if self._closes(number):
            posterior = replace(posterior, deviation=_CLOSING_DOUBT * posterior.deviation)
        elif number % EXPLORE_EVERY == EXPLORE_EVERY - 1 and observations:
            posterior = inflate_uncertainty(
                posterior, rows, spaces.encode(self._space(), [observation.point for observation in observations])
            )
        chance = self._serving(candidates)
        for mean, deviation in posterior.limits:
            chance *= normal_cdf(-mean / deviation)
        if posterior.best is None:
            return np.asarray(chance + 1e-12)
        return np.asarray(expected_improvement(posterior.mean, posterior.deviation, posterior.best) * chance + 1e-300)

    def _serving(self, candidates: Sequence[Candidate]) -> Floats:
        """How likely each candidate comes up: by failures near it, and by how far it reaches beyond what served."""
        starts = self.feasibility.starts
        rows = spaces.encode(self._space(), [candidate.point for candidate in candidates])
        observed = spaces.encode(self._space(), [record.candidate.point for record in starts])
        failing = failure_probability(
            rows, observed, np.asarray([record.failure is not None for record in starts], dtype=np.bool_)
        )
        further = np.asarray([self.feasibility.memory_excess(candidate) for candidate in candidates])
        return np.asarray((1 - failing) * np.exp(-further / _STEP_SHARE))

    def _sure(self, candidates: Sequence[Candidate], number: int) -> list[bool]:
        """Which candidates may be tried: all at first, later those that are likely to come up."""
        return [number < SETTLED_AT or bool(chance >= _SURE) for chance in self._serving(candidates)]

    def _cheap(
        self, candidates: Sequence[Candidate], observations: Sequence[Observation]
    ) -> list[TrialScores | None] | None:
        """What the twin says of the candidates, where it is there and still trusted."""
        if self.screener is None or not self._trusted(observations).trusted:
            return None
        return [self.screener.predict(candidate) for candidate in candidates]
