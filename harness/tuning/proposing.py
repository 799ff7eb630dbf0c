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
    twin: TrialScores | None


@dataclass(slots=True)
class Proposer:
    """Keeps the pool; everything else it is told each time."""

    problem: StudyPlan
    resolver: CandidateResolver
    feasibility: Feasibility
    twin: SimulatorScreener | None = None
    pool: dict[str, Candidate] = field(default_factory=dict)
    same: int = 0
    refused: int = 0
    calibrated: int = 0

    def open(self) -> None:
        """Fill the pool: points spread over the space and around the default; equal engines stand in it once."""
        study = self.problem.study
        rng = stream(study.seed, "pool")
        count = study.screening.points if self.twin is not None else _PLAIN_POOL
        engine_space = self._space()
        points = spaces.latin_hypercube(engine_space, count, rng)
        base = self.default()
        points += spaces.neighbours(engine_space, base.point, max(AROUND, count // 5), rng)
        self._join(points)

    def default(self) -> Candidate:
        """The base configuration as a candidate: its point says what the engine has by itself."""
        found = self.resolver.one({})
        assert found is not None
        told = found.resolved.effective
        space = self._space()
        named = {one.name: spaces.default_value(one, told.get(one.key)) for one in space.parameters}
        values = {name: value for name, value in named.items() if value is not None}
        return Candidate(
            spaces.active_point(space, values), found.engine, found.load, found.resolved, found.key, found.engine_key
        )

    def _space(self) -> spaces.Space:
        return spaces.Space(self.problem.space.engine, self.problem.space.fixed, self.problem.space.derived)

    def _join(self, points: Sequence[Point]) -> None:
        for found in self.resolver.candidates(points):
            if found.resolved.fault is not None:
                self.refused += 1
            elif found.engine_key in self.pool:
                self.same += 1
            else:
                self.pool[found.engine_key] = found

    def propose(self, trials: Sequence[Trial], taken: Collection[str], number: int) -> Proposal | None:
        """The next candidate, of those whose engine key is not among `taken`; None where none is left.

        `number` is that of the trial to come. Trial 0 is the default.
        """
        default = self.default()
        if default.engine_key not in taken and number == 0:
            return Proposal(default, "default", self._says(default))
        self._calibrate(trials)
        seen = self._seen(trials)
        early = self._early(seen, taken)
        if early is not None:
            return early
        alone = self.twin is None or not self._trusted(seen).trusted
        by_tpe = self._by_tpe(trials, taken, number) if alone and number % TPE_EVERY == TPE_EVERY - 1 else None
        if by_tpe is not None:
            return by_tpe
        self._extend(seen, number)
        return self._by_model(seen, taken, number)

    def _calibrate(self, trials: Sequence[Trial]) -> None:
        """Let the twin learn the device's speed from the default, and again as trials come in that differ from it."""
        if self.twin is None or len(self.problem.tasks) > 1:
            return
        known = [one for one in trials if one.status == COMPLETE and one.measurement is not None]
        due = sum(count <= len(known) for count in CALIBRATED_AT)
        if due <= self.calibrated:
            return
        self.calibrated = due
        rows = spaces.encode(self._space(), [engine_point(one.point) for one in known])
        least = min(range(len(known)), key=lambda place: self._cost_of(known[place]))
        chosen = [known[place] for place in spaces.farthest_points(rows, (0, least), _FITTED)]
        pairs = [(found, one.measurement) for one in chosen if (found := self._exact(one)) is not None]
        self.twin.calibrate([(found, measured) for found, measured in pairs if measured is not None])

    def _cost_of(self, trial: Trial) -> float:
        first = self.problem.objectives[0]
        return first.cost(trial.values.get(first.name, math.nan))

    def _exact(self, trial: Trial) -> Candidate | None:
        """The candidate of a trial: of the default the base configuration itself, which its point only rounds."""
        return self.resolver.one({} if trial.origin == "default" else trial.point)

    def _seen(self, trials: Sequence[Trial]) -> list[Observation]:
        """The engines seen, with what the twin says of them now."""
        found = observations_of(self.problem, trials)
        if self.twin is None:
            return found
        default = next((engine_point(one.point) for one in trials if one.origin == "default"), None)
        made = [self.resolver.one({} if one.point == default else one.point) for one in found]
        return [one if engine is None else self._told(one, engine) for one, engine in zip(found, made, strict=True)]

    def _told(self, one: Observation, engine: Candidate) -> Observation:
        """An engine that was seen, with the twin's word; as it is where the twin has none."""
        told = self._says(engine)
        if told is None or self.twin is None:
            return one
        course = self.twin.step_signature(engine)
        return replace(one, twin=told.values, predicted_violations=told.violations, step_signature=course)

    def _says(self, candidate: Candidate) -> TrialScores | None:
        return None if self.twin is None else self.twin.predict(candidate)

    def _open_ones(self, taken: Collection[str]) -> list[Candidate]:
        """Candidates that were not tried and that nothing speaks against."""
        return [
            one
            for key, one in self.pool.items()
            if key not in taken and self.feasibility.predicted_failure(one) is None
        ]

    def _early(self, seen: Sequence[Observation], taken: Collection[str]) -> Proposal | None:
        """The twin's favourites, far from each other; without it, points spread over the space."""
        wanted = FAVOURITES if self._trusted(seen).trusted and self.twin is not None else UNSCREENED
        if len(taken) > wanted:
            return None
        left = self._open_ones(taken)
        ranked = self._ranked(self._unlike(left, seen) or left) if self.twin is not None else left
        rows = spaces.encode(self._space(), [one.point for one in ranked])
        known = spaces.encode(self._space(), [one.point for one in seen])
        for candidate, gap in zip(ranked, spaces.distances(rows, known).min(axis=1, initial=math.inf), strict=True):
            if gap >= _FAR:
                return Proposal(candidate, "screened" if self.twin is not None else "spread", self._says(candidate))
        return Proposal(ranked[0], "screened", self._says(ranked[0])) if ranked else None

    def _ranked(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """By the twin's word, the best first; those it would not start are last."""

        def worth(candidate: Candidate) -> tuple[float, float]:
            said = self._says(candidate)
            if said is None:
                return math.inf, math.inf
            broken = sum(max(0.0, value) for value in said.violations.values())
            return broken, sum(one.cost(said.values[one.name]) for one in self.problem.objectives[:1])

        return sorted(candidates, key=worth)

    def contenders(self, trials: Sequence[Trial]) -> list[Trial]:
        """The feasible trials that were measured in full: the best by its own run, then by what is believed of them."""
        self._calibrate(trials)
        seen = self._seen(trials)
        if not self._trusted(seen).trusted:
            seen = [replace(one, twin={}, predicted_violations={}) for one in seen]
        costs = posterior_costs(self.problem, self._space(), seen)
        place = {spaces.point_key(one.point): cost for one, cost in zip(seen, costs.tolist(), strict=True)}
        leading = best_trial(trials, self.problem.objectives[0])
        known = [one for one in trials if one.status == COMPLETE and one.feasible]
        return sorted(
            known,
            key=lambda one: (one is not leading, place[spaces.point_key(engine_point(one.point))], self._cost_of(one)),
        )

    def agreement(self, trials: Sequence[Trial]) -> SimulatorAgreement:
        """How the twin's order and that of the trials agree."""
        return self._trusted(self._seen(trials))

    def _trusted(self, seen: Sequence[Observation]) -> SimulatorAgreement:
        first = self.problem.objectives[0]
        pairs = [
            (first.cost(one.twin[first.name]), first.cost(one.values[first.name]))
            for one in seen
            if first.name in one.twin and first.name in one.values and not one.stopped  # their values are extrapolated
        ]
        return agreement(pairs, self.problem.study.screening.least_tau)

    def _by_tpe(self, trials: Sequence[Trial], taken: Collection[str], number: int) -> Proposal | None:
        """What Optuna's TPE asks for, the first that is new and not refused; known ones are answered from memory."""
        known = {found.engine_key: one for one in trials if (found := self.resolver.one(engine_point(one.point)))}

        def judge(point: Point) -> PointCheck:
            found = self._near(point)
            if found is None or found.engine_key in taken:
                return False, None if found is None else known.get(found.engine_key)
            return self.feasibility.predicted_failure(found) is None and self._sure([found], number)[0], None

        point = suggest_with_tpe(self.problem, self._space(), trials, judge, number)
        found = None if point is None else self._near(point)
        return None if found is None else Proposal(found, "sampler", self._says(found))

    def _near(self, point: Point) -> Candidate | None:
        """The candidate of a point: its own where resolving is cheap, else the nearest of the pool."""
        if self.problem.kind == "simulator" or not self.pool:
            return self.resolver.one(point)
        places = list(self.pool.values())
        rows = spaces.encode(self._space(), [point, *(one.point for one in places)])
        return places[int(spaces.distances(rows[:1], rows[1:]).argmin())]

    def _extend(self, seen: Sequence[Observation], number: int) -> None:
        """Neighbours of the best join the pool, and others where no twin has to judge them; if resolving is cheap."""
        if self.problem.kind != "simulator":
            return
        rng = stream(self.problem.study.seed, "neighbours", number)
        alone = self.twin is None or not self._trusted(seen).trusted
        ranked = sorted((one for one in seen if one.values), key=lambda one: (one.broken, one.cost))
        for one in ranked[:1]:
            self._join(spaces.axis_steps(self._space(), one.point))
        for one in ranked[:2]:
            self._join(spaces.neighbours(self._space(), one.point, AROUND if alone else AROUND // 2, rng))
        if alone:
            self._join(spaces.latin_hypercube(self._space(), _FRESH, rng))

    def _by_model(self, seen: Sequence[Observation], taken: Collection[str], number: int) -> Proposal | None:
        left = self._open_ones(taken)
        if not left:
            return None
        sure = self._sure(left, number)
        left = [one for one, kept in zip(left, sure, strict=True) if kept] or left
        left = self._unlike(left, seen) or left
        if self._climbs(number):
            left = self._near_best(left, seen) or left
        gains = self._gains(left, seen, number)
        near = [place for place in range(len(left)) if gains[place] >= _NEARLY * gains.max()]
        last = seen[-1].effective if seen else None
        place = min(near, key=lambda i: (restart_rank(last, left[i].resolved.effective), -gains[i]))
        return Proposal(left[place], "model", self._says(left[place]))

    def _climbs(self, number: int) -> bool:
        """Whether a trial goes by what was measured alone, near the best."""
        return number % CLIMBED_EVERY == 0 and not self._closes(number)

    def _closes(self, number: int) -> bool:
        """Whether a trial is among the last of a budget that is known."""
        trials = self.problem.study.budget.trials
        return trials is not None and number >= _CLOSING * trials

    def _unlike(self, left: Sequence[Candidate], seen: Sequence[Observation]) -> list[Candidate]:
        """Candidates that would teach something: neither next to one that was measured, nor by the twin the same."""
        rows = spaces.encode(self._space(), [one.point for one in left])
        tried = spaces.encode(self._space(), [one.point for one in seen])
        gaps = spaces.distances(rows, tried).min(axis=1, initial=math.inf)
        apart = [one for one, gap in zip(left, gaps, strict=True) if gap >= _APART]
        if self.twin is None:
            return apart
        known = {one.step_signature for one in seen if one.step_signature}
        return [one for one in apart if self.twin.step_signature(one) not in known]

    def _near_best(self, left: Sequence[Candidate], seen: Sequence[Observation]) -> list[Candidate]:
        """Candidates a step or two away from the best that was measured in full."""
        whole = [one for one in seen if not one.stopped]
        if not whole:
            return []
        least = min(whole, key=lambda one: (one.broken, one.cost))
        rows = spaces.encode(self._space(), [least.point, *(one.point for one in left)])
        gaps = spaces.distances(rows[1:], rows[:1])[:, 0]
        return [one for one, gap in zip(left, gaps, strict=True) if gap <= _NEAR]

    def _gains(self, left: Sequence[Candidate], seen: Sequence[Observation], number: int) -> Floats:
        """What is expected of each candidate: gain times the chances to serve and to keep every limit."""
        said = None if self._climbs(number) else self._cheap(left, seen)
        told = ModelInputs(self.problem, self._space(), seen, said, number)
        rows = spaces.encode(self._space(), [one.point for one in left])
        belief = posterior_of(told, rows)
        if self._closes(number):
            belief = replace(belief, deviation=_CLOSING_DOUBT * belief.deviation)
        elif number % EXPLORE_EVERY == EXPLORE_EVERY - 1 and seen:
            belief = inflate_uncertainty(belief, rows, spaces.encode(self._space(), [one.point for one in seen]))
        chance = self._serving(left)
        for mean, deviation in belief.limits:
            chance *= normal_cdf(-mean / deviation)
        if belief.best is None:
            return np.asarray(chance + 1e-12)
        return np.asarray(expected_improvement(belief.mean, belief.deviation, belief.best) * chance + 1e-300)

    def _serving(self, candidates: Sequence[Candidate]) -> Floats:
        """How likely each candidate comes up: by failures near it, and by how far it reaches beyond what served."""
        taught = self.feasibility.starts_seen
        rows = spaces.encode(self._space(), [one.point for one in candidates])
        known = spaces.encode(self._space(), [one.candidate.point for one in taught])
        doubt = failure_probability(
            rows, known, np.asarray([one.failure is not None for one in taught], dtype=np.bool_)
        )
        further = np.asarray([self.feasibility.memory_excess(one) for one in candidates])
        return np.asarray((1 - doubt) * np.exp(-further / _STEP_SHARE))

    def _sure(self, candidates: Sequence[Candidate], number: int) -> list[bool]:
        """Which candidates may be tried: all at first, later those that are likely to come up."""
        return [number < SETTLED_AT or bool(chance >= _SURE) for chance in self._serving(candidates)]

    def _cheap(self, left: Sequence[Candidate], seen: Sequence[Observation]) -> list[TrialScores | None] | None:
        """What the twin says of the candidates, where it is there and still trusted."""
        if self.twin is None or not self._trusted(seen).trusted:
            return None
        return [self.twin.predict(one) for one in left]
