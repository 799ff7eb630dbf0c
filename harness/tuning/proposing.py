"""Proposals: the next point worth an engine start.

From a pool of candidates that differ in their effective configuration. First the default, then the
simulator's favourites; from then on the point with the greatest expected improvement by a model of what was measured (a
Gaussian process around the simulator's prediction), weighed by how likely it serves at all and keeps the limits. Where
there is no simulator, every few trials Optuna's TPE proposes.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.seeds import stream
from harness.tuning import space as spaces
from harness.tuning.candidates import Candidate, CandidateResolver, Proposal, restart_rank
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
from harness.tuning.simulator_screening import SimulatorAgreement, SimulatorScreener, observed_agreement
from harness.tuning.study_plan import StudyPlan, TrialScores
from harness.tuning.topology_search import ORIGIN, LayoutChoice, LayoutSearch, LayoutStanding
from harness.tuning.types import COMPLETE, Point, Trial, best_trial

Floats = NDArray[np.float64]
FAVOURITES = 4  # of the simulator, tried before the model proposes
UNSCREENED = 5  # points spread over the space, where there is no simulator
AROUND = 10  # neighbours of the best that join the pool each time
TPE_EVERY = 6
CALIBRATED_AT = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # trials measured in full
CALIBRATED_IN_LAYOUTS = (1, 3, 6, 10)  # where a load is of several engines, and takes as many times as long
_FITTED = 10  # of them: each costs a dozen simulated loads
_NEARLY = 0.9  # of the greatest gain: among those, the cheapest start
_PLAIN_POOL = 120
LOCAL_EVERY = 2  # trials: then only what was measured counts, lest a cliff that only the simulator sees is not crossed
_NEAR = 0.25  # of the best, in the unit cube, is where it climbs
EXPLORE_EVERY = 4
_CLOSING = 0.6  # of the trials: from then on they go to what is believed to be best, and no more to find out
_CLOSING_UNCERTAINTY = 0.3  # of the posterior's deviation is kept then
SETTLED_AT = 5  # trials: from then on what is likely to fail is left alone
_SURE = 0.9  # to serve, asked of candidates from then on
_STEP_SHARE = 0.1  # of the memory: a start that asks for a hundredth more than all before fails once in ten
_FRESH = 30  # points from all over the space that join the pool each time, where a model alone is asked
_APART = 0.04  # so near each other, in the unit cube, two engines differ by less than runs of one do
_FAR = 0.25  # apart, in the unit cube, are two favourites


@dataclass(slots=True)
class Proposer:
    """The pool of candidates of a study, and the choice of the next one by the trials so far."""

    plan: StudyPlan
    resolver: CandidateResolver
    feasibility: Feasibility
    screener: SimulatorScreener | None = None
    pool: dict[str, Candidate] = field(default_factory=dict)
    same: int = 0  # points whose effective configuration another had
    refused: int = 0  # by the engine's own code
    calibrated: int = 0
    layouts: LayoutChoice = field(init=False)

    def __post_init__(self) -> None:
        self.layouts = LayoutChoice(self.plan, self.resolver)

    def open(self) -> None:
        """Fill the pool; of a study with several topologies once one of them is chosen."""
        if self.layouts.is_settled:
            self._fill()

    def _fill(self) -> None:
        """Points spread over the space and around the default; equal engines stand in the pool once."""
        study = self.plan.study
        rng = stream(study.seed, "pool")
        count = study.screening.points if self.screener is not None else _PLAIN_POOL
        engine_space = self.plan.space.of_engines
        points = spaces.latin_hypercube(engine_space, count, rng)
        base = self.default()
        points += spaces.neighbours(engine_space, base.point, max(AROUND, count // 5), rng)
        self._join(points)

    def default(self) -> Candidate:
        """The base configuration as a candidate: its point says what the engine has by itself."""
        return self.resolver.default()

    def _rows(self, items: Sequence[Candidate | Observation]) -> Floats:
        """Their points as encoded rows."""
        return spaces.encode(self.plan.space.of_engines, [item.point for item in items])

    def _join(self, points: Sequence[Point]) -> None:
        for candidate in self.resolver.candidates([self.layouts.pinned(point) for point in points]):
            if candidate.resolved.refusal is not None:
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
            return Proposal(default, "default", self._predict(default))
        self._calibrate(trials)
        laid_out = self._by_layout(trials, taken)
        if laid_out is not None:
            return laid_out
        observations = self._observations(trials)
        early = self._early(observations, taken)
        if early is not None:
            return early
        alone = self.screener is None or not observed_agreement(self.plan, observations).trusted
        by_tpe = self._by_tpe(trials, taken, number) if alone and number % TPE_EVERY == TPE_EVERY - 1 else None
        if by_tpe is not None:
            return by_tpe
        self._extend(observations, number)
        return self._by_model(observations, taken, number)

    def _layout_search(self, trials: Sequence[Trial]) -> LayoutSearch:
        return self.layouts.search(trials, None if self.screener is None else self.screener.predict)

    def standings(self, trials: Sequence[Trial]) -> list[LayoutStanding]:
        """What became of the study's topologies, the best first; none where it has none."""
        return list(self._layout_search(trials).standings()) if self.plan.layouts else []

    def _by_layout(self, trials: Sequence[Trial], taken: Collection[str]) -> Proposal | None:
        """The next topology with the base configuration's flags; None once one of them is chosen."""
        if self.layouts.is_settled:
            return None
        candidate = self.layouts.settle(self._layout_search(trials), taken)
        if candidate is None:
            self._fill()
            return None
        return Proposal(candidate, ORIGIN, self._predict(candidate))

    def _calibrate(self, trials: Sequence[Trial]) -> None:
        """Calibrate the simulator by the default, and again as trials come in that differ from it."""
        if self.screener is None or len(self.plan.tasks) > 1:
            return
        complete = [trial for trial in trials if trial.status == COMPLETE and trial.measurement is not None]
        times = CALIBRATED_IN_LAYOUTS if self.plan.layouts else CALIBRATED_AT
        due = sum(count <= len(complete) for count in times)
        if due <= self.calibrated:
            return
        self.calibrated = due
        rows = spaces.encode(self.plan.space.of_engines, [engine_point(trial.point) for trial in complete])
        least = min(range(len(complete)), key=lambda place: self._cost_of(complete[place]))
        chosen = [complete[place] for place in spaces.farthest_points(rows, (0, least), _FITTED)]
        pairs = [(candidate, trial.measurement) for trial in chosen if (candidate := self._exact(trial)) is not None]
        self.screener.calibrate([(candidate, measured) for candidate, measured in pairs if measured is not None])

    def _cost_of(self, trial: Trial) -> float:
        first = self.plan.objectives[0]
        return first.cost(trial.values.get(first.name, math.nan))

    def _exact(self, trial: Trial) -> Candidate | None:
        """The candidate of a trial: of the default the base configuration itself, whatever its point names."""
        return self.resolver.candidate({} if trial.origin == "default" else trial.point)

    def _observations(self, trials: Sequence[Trial]) -> list[Observation]:
        """The observed engines, with the simulator's predictions as they are now."""
        observations = observations_of(self.plan, trials)
        if self.screener is None:
            return observations
        default = next((engine_point(trial.point) for trial in trials if trial.origin == "default"), None)
        return [self._with_prediction(item, {} if item.point == default else item.point) for item in observations]

    def _with_prediction(self, observation: Observation, point: Point) -> Observation:
        """An observation with the simulator's prediction of a point; as it is where there is none."""
        engine = self.resolver.candidate(point)
        scores = None if engine is None else self._predict(engine)
        if engine is None or scores is None or self.screener is None:
            return observation
        known = replace(observation, predicted=scores.values, predicted_violations=scores.violations)
        return replace(known, step_signature=self.screener.step_signature(engine))

    def _predict(self, candidate: Candidate) -> TrialScores | None:
        return None if self.screener is None else self.screener.predict(candidate)

    def _untried(self, taken: Collection[str]) -> list[Candidate]:
        """Candidates that were not tried and that nothing speaks against."""
        return [
            candidate
            for key, candidate in self.pool.items()
            if key not in taken and self.feasibility.predicted_failure(candidate) is None
        ]

    def _early(self, observations: Sequence[Observation], taken: Collection[str]) -> Proposal | None:
        """The simulator's favourites, far from each other; without it, points spread over the space."""
        initial = (
            FAVOURITES
            if observed_agreement(self.plan, observations).trusted and self.screener is not None
            else UNSCREENED
        )
        if len(taken) - self.layouts.tried > initial:
            return None
        untried = self._untried(taken)
        ranked = untried if self.screener is None else self._ranked(self._informative(untried, observations) or untried)
        rows = self._rows(ranked)
        observed = self._rows(observations)
        for candidate, gap in zip(ranked, spaces.distances(rows, observed).min(axis=1, initial=math.inf), strict=True):
            if gap >= _FAR:
                return Proposal(
                    candidate, "screened" if self.screener is not None else "spread", self._predict(candidate)
                )
        return Proposal(ranked[0], "screened", self._predict(ranked[0])) if ranked else None

    def _ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """By the simulator's prediction, the best first; those that would not start last."""
        first = self.plan.objectives[0]

        def worth(candidate: Candidate) -> tuple[float, float]:
            scores = self._predict(candidate)
            if scores is None:
                return math.inf, math.inf
            return sum(max(0.0, value) for value in scores.violations.values()), first.cost(scores.values[first.name])

        return sorted(candidates, key=worth)

    def contenders(self, trials: Sequence[Trial]) -> list[Trial]:
        """The feasible trials that were measured in full: the best by its own run, then by their posterior cost."""
        self._calibrate(trials)
        observations = self._observations(trials)
        if not observed_agreement(self.plan, observations).trusted:
            observations = [replace(item, predicted={}, predicted_violations={}) for item in observations]
        costs = posterior_costs(self.plan, self.plan.space.of_engines, observations).tolist()
        by_point = {spaces.point_key(item.point): cost for item, cost in zip(observations, costs, strict=True)}
        leading = best_trial(trials, self.plan.objectives[0])

        def order(trial: Trial) -> tuple[bool, float, float]:
            cost = by_point[spaces.point_key(engine_point(trial.point))]
            return trial is not leading, cost, self._cost_of(trial)

        return sorted((trial for trial in trials if trial.status == COMPLETE and trial.feasible), key=order)

    def expected_costs(self, trials: Sequence[Trial], engines: Sequence[tuple[Point, Candidate]]) -> Floats:
        """The logarithm of the cost of engines, as all that is known predicts it; less is better.

        Each comes with a point that names every parameter, also those that its candidate leaves to the engine.
        """
        self._calibrate(trials)
        observations = self._observations(trials)
        predictions = self._predictions([candidate for _, candidate in engines], observations)
        inputs = ModelInputs(self.plan, self.plan.space.of_engines, observations, predictions, len(trials))
        rows = spaces.encode(self.plan.space.of_engines, [point for point, _ in engines])
        return posterior_of(inputs, rows).mean

    def agreement(self, trials: Sequence[Trial]) -> SimulatorAgreement:
        """How the simulator's ranking and that of the trials agree."""
        return observed_agreement(self.plan, self._observations(trials))

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

        point = suggest_with_tpe(self.plan, self.plan.space.of_engines, trials, judge, number)
        candidate = None if point is None else self._near(point)
        return None if candidate is None else Proposal(candidate, "sampler", self._predict(candidate))

    def _near(self, point: Point) -> Candidate | None:
        """The candidate of a point: its own where resolving is cheap, else the nearest of the pool."""
        if self.plan.kind == "simulator" or not self.pool:
            return self.resolver.candidate(self.layouts.pinned(point))
        members = list(self.pool.values())
        rows = spaces.encode(self.plan.space.of_engines, [point, *(candidate.point for candidate in members)])
        return members[int(spaces.distances(rows[:1], rows[1:]).argmin())]

    def _extend(self, observations: Sequence[Observation], number: int) -> None:
        """Neighbours of the best join the pool, and others where none is simulated; if resolving is cheap."""
        if self.plan.kind != "simulator":
            return
        rng = stream(self.plan.study.seed, "neighbours", number)
        alone = self.screener is None or not observed_agreement(self.plan, observations).trusted
        ranked = sorted(
            (observation for observation in observations if observation.values),
            key=_badness,
        )
        for observation in ranked[:1]:
            self._join(spaces.axis_steps(self.plan.space.of_engines, observation.point))
        for observation in ranked[:2]:
            self._join(
                spaces.neighbours(self.plan.space.of_engines, observation.point, AROUND if alone else AROUND // 2, rng)
            )
        if alone:
            self._join(spaces.latin_hypercube(self.plan.space.of_engines, _FRESH, rng))

    def _by_model(self, observations: Sequence[Observation], taken: Collection[str], number: int) -> Proposal | None:
        untried = self._untried(taken)
        if not untried:
            return None
        likely_to_serve = self._sure(untried, number)
        untried = [candidate for candidate, kept in zip(untried, likely_to_serve, strict=True) if kept] or untried
        untried = self._informative(untried, observations) or untried
        if self._searches_locally(number):
            untried = self._near_best(untried, observations) or untried
        gains = self._gains(untried, observations, number)
        near = [place for place in range(len(untried)) if gains[place] >= _NEARLY * gains.max()]
        last = observations[-1].effective if observations else None
        place = min(near, key=lambda i: (restart_rank(last, untried[i].resolved.effective), -gains[i]))
        return Proposal(untried[place], "model", self._predict(untried[place]))

    def _searches_locally(self, number: int) -> bool:
        """Whether a trial goes by what was measured alone, near the best."""
        return number % LOCAL_EVERY == 0 and not self._is_closing(number)

    def _is_closing(self, number: int) -> bool:
        """Whether a trial is among the last of a budget that is known."""
        trials = self.plan.study.budget.trials
        return trials is not None and number >= _CLOSING * trials

    def _informative(self, candidates: Sequence[Candidate], observations: Sequence[Observation]) -> list[Candidate]:
        """Candidates that differ: neither next to one that was measured, nor the same to the simulator."""
        rows = self._rows(candidates)
        observed = self._rows(observations)
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
        best = min(whole, key=_badness)
        rows = spaces.encode(self.plan.space.of_engines, [best.point, *(candidate.point for candidate in candidates)])
        gaps = spaces.distances(rows[1:], rows[:1])[:, 0]
        return [candidate for candidate, gap in zip(candidates, gaps, strict=True) if gap <= _NEAR]

    def _gains(self, candidates: Sequence[Candidate], observations: Sequence[Observation], number: int) -> Floats:
        """What is expected of each candidate: gain times the chances to serve and to keep every limit."""
        predictions = None if self._searches_locally(number) else self._predictions(candidates, observations)
        inputs = ModelInputs(self.plan, self.plan.space.of_engines, observations, predictions, number)
        rows = self._rows(candidates)
        posterior = posterior_of(inputs, rows)
        if self._is_closing(number):
            posterior = replace(posterior, deviation=_CLOSING_UNCERTAINTY * posterior.deviation)
        elif number % EXPLORE_EVERY == EXPLORE_EVERY - 1 and observations:
            posterior = inflate_uncertainty(posterior, rows, self._rows(observations))
        chance = self._serving(candidates)
        for mean, deviation in posterior.limits:
            chance *= normal_cdf(-mean / deviation)
        if posterior.best is None:
            return np.asarray(chance + 1e-12)
        return np.asarray(expected_improvement(posterior.mean, posterior.deviation, posterior.best) * chance + 1e-300)

    def _serving(self, candidates: Sequence[Candidate]) -> Floats:
        """How likely each candidate comes up: by failures near it, and by how far it reaches beyond what served."""
        starts = self.feasibility.starts
        rows = self._rows(candidates)
        observed = spaces.encode(self.plan.space.of_engines, [record.candidate.point for record in starts])
        failing = failure_probability(
            rows, observed, np.asarray([record.failure is not None for record in starts], dtype=np.bool_)
        )
        further = np.asarray([self.feasibility.memory_excess(candidate) for candidate in candidates])
        return np.asarray((1 - failing) * np.exp(-further / _STEP_SHARE))

    def _sure(self, candidates: Sequence[Candidate], number: int) -> list[bool]:
        """Which candidates may be tried: all at first, later those that are likely to come up."""
        return [number < SETTLED_AT or bool(chance >= _SURE) for chance in self._serving(candidates)]

    def _predictions(
        self, candidates: Sequence[Candidate], observations: Sequence[Observation]
    ) -> list[TrialScores | None] | None:
        """The simulator's predictions of the candidates, where it is there and still trusted."""
        if self.screener is None or not observed_agreement(self.plan, observations).trusted:
            return None
        return [self.screener.predict(candidate) for candidate in candidates]


def _badness(observation: Observation) -> tuple[float, float]:
    return observation.total_violation, observation.cost
