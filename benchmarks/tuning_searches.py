"""The tuner, and the searches that it is compared with.

All get a budget of 20 trials, the default among them. Then each does what a study does: the best two are measured
again in turns with the default, which stays where no gain is shown.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna

from benchmarks.tuning_landscapes import MeasuredDevice, Served
from harness.errors import HarnessError
from harness.seeds import stream
from harness.simulator.engine_config import effective, settings_from_flags
from harness.simulator.step_cost import TERMS
from harness.tuning.candidates import CandidateResolver, canonical_json, engine_of, flag_resolver
from harness.tuning.evaluation import StartFailed
from harness.tuning.feasibility import Feasibility
from harness.tuning.gains import choose_winner, gains_over_default
from harness.tuning.parameters import find_inert_parameters, without_inert
from harness.tuning.proposing import Proposer
from harness.tuning.sampler import suggest_point
from harness.tuning.simulator_screening import SimulatorScreener, perturb_terms
from harness.tuning.space import active_point, value_at
from harness.tuning.study import StudyContext, run_study
from harness.tuning.study_plan import StudyPlan, Task
from harness.tuning.turns import confirmation_turns
from harness.tuning.types import COMPLETE, Measurement, Point, Trial, TunableParameter, best_trial

TRIALS = 20
SETTLING = 5  # trials whose failures do not count
SCREENED_POINTS = 30


@dataclass(slots=True)
class Shelf:
    """Trials in memory: what a study's book does, without a database."""

    done: list[Trial] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)

    def engine_keys(self) -> dict[int, str]:
        return dict(self.keys)

    def trials(self) -> list[Trial]:
        return list(self.done)

    def running(self) -> dict[int, tuple[str, str]]:
        return {}

    def begin(self, point: Point, engine_key: str, origin: str) -> tuple[int, None]:  # noqa: ARG002
        self.keys[len(self.done)] = engine_key
        return len(self.done), None

    def end(self, handle: None, trial: Trial) -> None:  # noqa: ARG002
        self.done.append(trial)


@dataclass(slots=True)
class Alone:
    """A desk with one worker."""

    worker: str = "alone"
    claimed: set[str] = field(default_factory=set)

    def alive(self) -> set[str]:
        return {self.worker}

    def release_dead(self, alive: set[str], kept: Sequence[str]) -> None:
        """There is nobody else."""

    def release(self, digest: str) -> None:
        self.claimed.discard(digest)

    def claim(self, digest: str) -> bool:
        fresh = digest not in self.claimed
        self.claimed.add(digest)
        return fresh


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """One search: the truth of who led after its trials and of who won the confirmation, its trials, what was saved."""

    truth: float
    confirmed: float
    failed_late: int
    late: int
    repeated: int
    saved: float = 0.0
    same_winner: bool = True


def tuned(problem: StudyPlan, served: Served, seed: int, *, screened: bool) -> SearchOutcome:
    """The tuner itself, under a seed."""
    screening = problem.study.screening.model_copy(update={"points": SCREENED_POINTS if screened else 0})
    asked = replace(problem, study=problem.study.model_copy(update={"seed": seed, "screening": screening}))
    ground = CandidateResolver(asked, flag_resolver(asked))
    asked, _ = without_inert(asked, find_inert_parameters(asked, ground))
    ground = CandidateResolver(asked, flag_resolver(asked))
    twin = SimulatorScreener(asked, perturb_terms(TERMS["A2"], seed)) if screened else None
    proposer = Proposer(asked, ground, Feasibility(), twin)
    proposer.open()
    device = MeasuredDevice(served, seed)
    shelf = Shelf()
    run_study(StudyContext(asked, device, shelf, Alone(), ground, proposer, Path()))  # type: ignore[arg-type]
    return _outcome(asked, served, shelf.done, device, proposer)


def _outcome(
    problem: StudyPlan, served: Served, trials: Sequence[Trial], device: MeasuredDevice, proposer: Proposer
) -> SearchOutcome:
    load_s, whole_s = device.load_s, device.whole_s  # of the trials: the confirmation runs in full
    wholes = iter(device.wholes)
    unstopped = [_in_full(one, next(wholes)) if one.measurement is not None else one for one in trials]
    leading, whole = (best_trial(runs, problem.objectives[0]) for runs in (trials, unstopped))
    keys = [canonical_json(trial.effective) for trial in trials]
    late = trials[SETTLING:]
    contenders = [one.point for one in proposer.contenders(trials) if one.origin != "default"]
    winner = confirmed(problem, device, contenders)
    return SearchOutcome(
        truth=0.0 if leading is None else truth_of(problem, served, leading.point),
        confirmed=truth_of(problem, served, winner),
        failed_late=sum(trial.failure is not None for trial in late),
        late=len(late),
        repeated=len(keys) - len(set(keys)),
        saved=1 - load_s / whole_s if whole_s else 0.0,
        same_winner=leading is None or whole is None or whole.number == leading.number,
    )


def _in_full(trial: Trial, whole: Measurement) -> Trial:
    """A trial as it would have been, had nothing ended it early."""
    return replace(trial, status=COMPLETE, measurement=whole, values={"goodput": whole.metrics["goodput"]})


def confirmed(problem: StudyPlan, device: MeasuredDevice, ranked: Sequence[Point]) -> Point:
    """Who wins when the best of a ranking are measured again beside the default, as a study confirms them."""
    task, rule = problem.tasks[0], problem.study.confirm
    points = [{}, *ranked[: rule.best]]
    values: dict[int, list[float | None]] = {who: [] for who in range(len(points))}
    for turn in confirmation_turns(range(len(points)), rule.repeats, problem.study.seed):
        values[turn.who].append(_measured(problem, device, task, points[turn.who]))
    return points[choose_winner(gains_over_default(values, problem.objectives[0]))]


def _measured(problem: StudyPlan, device: MeasuredDevice, task: Task, point: Point) -> float | None:
    """The goodput that a run with noise shows; None where the engine does not start."""
    try:
        with device.open(engine_of(problem, point), Path()) as session:
            return session.measure(task, task.stage, 0).metrics["goodput"]
    except StartFailed:
        return None


def truth_of(problem: StudyPlan, served: Served, point: Point) -> float:
    """The goodput that a configuration has in the mean over runs; 0 where the engine would not start."""
    task = problem.tasks[0]
    try:
        return served.expected(task, task.stage, _settings(problem, point))
    except HarnessError:
        return 0.0


def _settings(problem: StudyPlan, point: Point) -> Any:
    engine = engine_of(problem, point)
    return settings_from_flags({**engine.args, "model": engine.model})


@dataclass(slots=True)
class Tries:
    """What the other searches do with a point: start, measure with noise, note."""

    plan: StudyPlan
    served: Served
    device: MeasuredDevice
    values: list[float | None] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def measure(self, point: Point) -> float | None:
        """The goodput that a run showed; None where the engine did not start."""
        self.points.append(point)
        self.values.append(_measured(self.plan, self.device, self.plan.tasks[0], point))
        return self.values[-1]

    def outcome(self) -> SearchOutcome:
        """The winner among the best that were seen, by its truth."""
        known = [(-value, place) for place, value in enumerate(self.values) if value is not None]
        ranked = [self.points[place] for _, place in sorted(known)]
        keys = [self._key(point) for point in self.points]
        late = self.values[SETTLING:]
        truth = truth_of(self.plan, self.served, ranked[0]) if ranked else 0.0
        winner = truth_of(
            self.plan,
            self.served,
            confirmed(self.plan, self.device, [point for point in ranked if point]),
        )
        return SearchOutcome(truth, winner, sum(value is None for value in late), len(late), len(keys) - len(set(keys)))

    def _key(self, point: Point) -> str:
        try:
            return str(sorted(effective(_settings(self.plan, point)).items(), key=str))
        except HarnessError:
            return str(point)


def searched(
    problem: StudyPlan, served: Served, seed: int, search: Callable[[StudyPlan, int, Tries], None]
) -> SearchOutcome:
    """One of the other searches: the default first, as for the tuner."""
    tries = Tries(problem, served, MeasuredDevice(served, seed))
    tries.measure({})
    search(problem, seed, tries)
    return tries.outcome()


def at_random(problem: StudyPlan, seed: int, tries: Tries) -> None:
    """Points drawn evenly."""
    rng = stream(seed, "random search")
    for _ in range(TRIALS - 1):
        shares = {one.name: value_at(one, float(rng.random())) for one in problem.space.parameters}
        tries.measure(active_point(problem.space, shares))


def by_tpe(problem: StudyPlan, seed: int, tries: Tries) -> None:
    """Optuna's TPE as it comes; failures are failed trials."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(TRIALS - 1):
        trial = study.ask()
        value = tries.measure(suggest_point(trial, problem.space))
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)


def by_grid(problem: StudyPlan, seed: int, tries: Tries) -> None:  # noqa: ARG001
    """As vLLM's auto_tune: from 0.98 down to the first share that starts, then requests by tokens a step."""
    space = {one.name: one for one in problem.space.parameters}
    most = {"max_num_seqs": 256, "max_num_batched_tokens": 8192}
    share = 0.98
    while len(tries.values) < 6 and tries.measure({**most, "gpu_memory_utilization": share}) is None:
        share = round(share - 0.01, 2)
    axes = [evenly(space[name], 4) for name in ("max_num_seqs", "max_num_batched_tokens")]
    for requests, tokens in product(*axes):
        if len(tries.values) < TRIALS:
            point = {"max_num_seqs": requests, "max_num_batched_tokens": tokens, "gpu_memory_utilization": share}
            tries.measure(point)


def evenly(parameter: TunableParameter, count: int) -> list[Any]:
    """So many values of a range, its ends among them."""
    return [value_at(parameter, place / (count - 1)) for place in range(count)]
